"""What the scaling benchmark is asked for: its options, checked, and how much work they mean; measures nothing."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import arguments
from scaling_launch import LAUNCHERS, in_job, launcher_for, nodes_for
from scaling_points import MODES
from scaling_train import LEAST, Training
from scaling_work import WORKS

from glacierhpc.errors import InputError, unknown_name
from glacierhpc.hpc.cluster import WorkerJobs
from glacierhpc.hpc.sites import load_site

ABOUT = "How acquiring, aligning, cutting and training scale over workers and ranks."
STEPS = (*WORKS, "train")


@dataclass(frozen=True)
class Plan:
    """What is to be measured."""

    steps: tuple[str, ...]
    modes: tuple[str, ...]
    counts: tuple[int, ...]
    repeats: int | None
    """Of every point; None is as many as the time allows."""
    minutes: float
    """For all of it, where something is left to be chosen."""
    cluster: str
    backend: str
    launcher: str
    """Of the ranks; empty where none are asked for."""
    jobs: WorkerJobs
    scratch: Path | None
    size_px: int
    delay_s: float
    batch: int
    patch_px: int
    pieces: Mapping[str, int]
    """By step: for each worker in weak scaling; as many times the most workers in strong scaling. Of training the
    steps of an epoch. What is not named is still to be chosen."""
    point_s: float | None = None
    """Time for the repeats of one point, warm-up included; None is to be chosen, or not needed."""

    @property
    def settled(self) -> bool:
        """Whether nothing is left to be chosen."""
        return set(self.steps) <= set(self.pieces) and (self.repeats or self.point_s) is not None

    @property
    def spread(self) -> tuple[str, ...]:
        """The steps that workers do; ranks train."""
        return tuple(step for step in self.steps if step in WORKS)

    def points(self) -> list[tuple[str, str, int]]:
        """Return step, mode and number of workers of all that is to be measured."""
        return [(step, mode, n) for step in self.steps for mode in self.modes for n in self.counts]

    def shares(self, mode: str, workers: int) -> int:
        """Return how many times the work of one worker some workers do together."""
        return workers if mode == "weak" else max(self.counts)

    def work(self, step: str, mode: str, workers: int) -> int:
        """Return how many pieces a number of workers does, or how many samples as many ranks."""
        return self.pieces[step] * self.shares(mode, workers) * (self.batch if step == "train" else 1)

    def works(self, step: str) -> list[int]:
        """Return all amounts of work of a step."""
        return sorted({self.work(step, mode, n) for mode in self.modes for n in self.counts})

    def training(self, mode: str, ranks: int) -> Training:
        """Return what a number of ranks trains."""
        batch = self.batch * self.shares(mode, ranks)
        return Training(batch, self.pieces["train"], self.patch_px, self.repeats, self.point_s or 0.0)


def asked_for() -> argparse.Namespace:
    """Return the arguments."""
    parser = arguments(ABOUT)
    parser.set_defaults(repeats=None)
    _work_options(parser)
    parser.add_argument("--what", default=",".join(STEPS), help="steps, with commas")
    parser.add_argument("--mode", default=",".join(MODES), help="strong, weak, or both")
    parser.add_argument(
        "--workers", help="with commas; powers of two up to the tasks of the job, or twice the cores"
    )
    parser.add_argument(
        "--plots", type=Path, metavar="FOLDER", help="write figures, a page and a CSV file there"
    )
    parser.add_argument("--against", type=Path, metavar="OLD.json", help="compare with an earlier --output")
    parser.add_argument(
        "--cluster", choices=("local", "allocation", "jobqueue"), help="allocation inside a job"
    )
    parser.add_argument("--site", help="profile whose partition and account worker jobs use")
    parser.add_argument("--image", help="image that worker jobs run in")
    parser.add_argument("--backend", choices=("ddp", "horovod"), default="ddp", help="that joins the ranks")
    parser.add_argument(
        "--launcher",
        choices=tuple(LAUNCHERS),
        help="that starts them: in a job srun, else torchrun or horovodrun",
    )
    parser.add_argument("--scratch", type=Path, help="folder to work in; all workers must see it")
    parser.add_argument(
        "--assume",
        action="append",
        default=[],
        metavar="NAME=NUMBER",
        help="for the projection, such as queue_s=600; may be given again; its results list all names",
    )
    return parser.parse_args()


def _work_options(parser: argparse.ArgumentParser) -> None:
    """Let be said how much work there is."""
    parser.add_argument(
        "--minutes",
        type=float,
        default=5.0,
        help="for all of it; sizes and repeats not given are chosen by it",
    )
    parser.add_argument("--scenes", type=int, help="scenes, or pieces, for each worker")
    parser.add_argument("--size-px", type=int, default=512, help="edge of a scene")
    parser.add_argument("--delay-s", type=float, default=0.02, help="of the archive before each answer")
    parser.add_argument("--batch", type=int, default=8, help="samples for each rank and step")
    parser.add_argument("--steps", type=int, help="of an epoch; each epoch is a repeat")
    parser.add_argument("--patch-px", type=int, default=50, help="edge of a training sample")


def plan_of(asked: argparse.Namespace) -> Plan:
    """Return what is to be measured, checked.

    Raises
    ------
    InputError
        If a name is not known or a number cannot be.
    """
    cluster = asked.cluster or ("allocation" if in_job() else "local")
    steps, counts = _names("--what", asked.what, STEPS), _counts(asked.workers, quick=asked.quick)
    if asked.repeats is not None and asked.repeats < LEAST and not asked.quick:
        raise InputError(
            f"--repeats {asked.repeats} tells nothing of the spread: give {LEAST} or more, for comparisons 7"
        )
    if not 0 < asked.minutes < math.inf:
        raise InputError(f"--minutes {asked.minutes:g}: give a number above 0")
    if not 0 <= asked.delay_s < math.inf:
        raise InputError(f"--delay-s {asked.delay_s}: give 0 or more seconds")
    if asked.image and (cluster == "local" or "train" in steps):
        raise InputError(
            f"--image {asked.image!r} is for workers that are jobs or steps of one: give --cluster jobqueue or "
            "allocation, and --what without train, whose ranks run where the benchmark itself does"
        )
    site = load_site(asked.site).site if asked.site else None
    scratch = asked.scratch or (None if cluster == "local" else Path.cwd())
    return Plan(
        steps=steps,
        modes=_names("--mode", asked.mode, tuple(MODES)),
        counts=counts,
        repeats=2 if asked.quick else asked.repeats,
        minutes=asked.minutes,
        cluster=cluster,
        backend=asked.backend,
        launcher=_launcher(asked, counts) if "train" in steps else "",
        jobs=WorkerJobs(**({"site": site} if site else {}), image=asked.image, folder=scratch),
        scratch=scratch,
        delay_s=asked.delay_s,
        **_sizes(asked),
    )


def _sizes(asked: argparse.Namespace) -> dict[str, Any]:
    """Return how large and how many the pieces of work are, by the names of the plan."""
    quick = {"scenes": 3, "size_px": 128, "steps": 3, "patch_px": 16, "batch": 2} if asked.quick else {}
    own = {
        name: quick.get(name, getattr(asked, name))
        for name in ("scenes", "size_px", "steps", "patch_px", "batch")
    }
    for name, value in own.items():
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} {value}: give 1 or more")
    scenes, steps = own.pop("scenes"), own.pop("steps")
    if steps == 1:
        raise InputError("--steps 1: the first step of an epoch has no beginning, give 2 or more")
    pieces = {**dict.fromkeys(WORKS, scenes), "train": steps}
    return {**own, "pieces": {step: count for step, count in pieces.items() if count is not None}}


def _launcher(asked: argparse.Namespace, counts: tuple[int, ...]) -> str:
    """Return what starts the ranks, which can start as many as are asked for."""
    launcher = launcher_for(asked.backend, asked.launcher)
    if in_job() and launcher not in ("torchrun", "horovodrun"):
        for count in counts:
            nodes_for(count, asked.backend)
    return launcher


def _names(option: str, given: str, valid: tuple[str, ...]) -> tuple[str, ...]:
    names = [name.strip() for name in given.split(",") if name.strip()]
    for name in names:
        if name not in valid:
            raise unknown_name(option, name, valid)
    if not names:
        raise InputError(f"{option} names nothing: give some of {', '.join(valid)}")
    return tuple(name for name in valid if name in names)


def _counts(given: str | None, *, quick: bool) -> tuple[int, ...]:
    if given is None:
        most = int(os.environ.get("SLURM_NTASKS", 0)) or 2 * len(os.sched_getaffinity(0))
        powers = [2**k for k in range(14) if 2**k <= most]
        return tuple(powers[:2] if quick else powers)
    try:
        counts = sorted({int(word) for word in given.split(",")})
    except ValueError:
        raise InputError(f"--workers {given!r} is no list of numbers: write --workers 1,2,4") from None
    if counts[0] < 1:
        raise InputError(f"--workers {given!r}: give 1 or more")
    return tuple(counts)
