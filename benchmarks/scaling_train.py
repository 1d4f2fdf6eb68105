"""How training scales over ranks: started as ranks this file trains and notes; imported, it starts the ranks.

Each amount of work is trained twice: as it is, and by ranks that train by themselves at the same time on as much as
their share. What the first takes longer is the price of being several; one rank is alone anyway.
"""

from __future__ import annotations

import json
import math
import os
import socket
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import scaling_launch
import torch

from glacierhpc.errors import GlacierError, redact
from glacierhpc.hpc.surroundings import job_surroundings

MODEL = "convlstm"
LEAST, MOST = 3, 15
"""Repeats where their number is left to the time there is; from 6 on the interval of a median reaches 95 %."""
SIZES = (1 << 10, 1 << 14, 1 << 18, 1 << 20, 1 << 22)
"""Of the messages whose exchange is timed, bytes; beside them that of the gradients."""


@dataclass(frozen=True)
class Training:
    """One amount of work, the same for every number of ranks that does it."""

    batch: int
    """Samples of all ranks together in one step."""
    steps: int
    """Of an epoch; each epoch is one repeat."""
    size_px: int
    repeats: int | None = None
    """None is as many as `budget_s` allows."""
    budget_s: float = 0.0


@dataclass(frozen=True)
class Trained:
    """What some ranks told of one amount of work."""

    seconds: tuple[float, ...]
    """Of each epoch, the first left out."""
    alone_s: tuple[tuple[float, ...], ...]
    """By rank: of each epoch without any exchange."""
    alone_wait_share: float
    """Of the time without exchange: waiting for data, mean over the ranks."""
    step_s: tuple[float, ...]
    """Of each step of rank 0 without exchange."""

    def split(self) -> dict[str, float]:
        """Return where the time of the ranks went, as shares of the wall clock time.

        ``idle`` is waiting for the slowest rank; ``communication`` is what is left: gradients on their way.
        """
        whole = statistics.median(self.seconds)
        alone = [statistics.median(values) for values in self.alone_s]
        mean, slowest = min(statistics.mean(alone) / whole, 1.0), min(max(alone) / whole, 1.0)
        waiting = mean * self.alone_wait_share
        return {
            "compute": mean - waiting,
            "communication": 1.0 - slowest,
            "data_wait": waiting,
            "idle": slowest - mean,
        }


@dataclass(frozen=True)
class Told:
    """What one start of some ranks gave."""

    ranks: int
    trained: tuple[Trained, ...]
    """One for each amount of work that was asked for."""
    start_s: float
    """From the command to the ranks having found each other."""
    hosts: tuple[str, ...]
    images: tuple[str, ...]
    """Digests of the images that the ranks ran in."""
    cores: int
    """Of all hosts together, or GPUs where the ranks compute on these."""
    exchanges: tuple[tuple[float, float], ...]
    """Bytes of a message, and the median time of summing it over the ranks."""
    gradient_bytes: int


# ---- what each rank does ----


class Ticks:
    """Notes when each step ended."""

    def __init__(self) -> None:
        self.ends: list[tuple[int, float]] = []

    def update(self, step: int, steps: int, row: dict[str, float]) -> None:
        self.ends.append((int(row["epoch"]), time.perf_counter()))

    def step_s(self) -> list[float]:
        """Return the durations of all steps but the first of each epoch, and those of the first epoch."""
        pairs = zip(self.ends, self.ends[1:])
        return [later - earlier for (epoch, earlier), (same, later) in pairs if epoch == same and epoch > 0]


def run_rank(asked: dict[str, Any]) -> None:
    """Train every amount of work as one of several ranks, and write what this rank saw."""
    from train import Setting, model_of

    from glacierhpc.training.distributed import open_backend

    if asked["device"] != "cuda":
        torch.set_num_threads(1)  # a rank is a core
    backend = open_backend(asked["backend"], device=asked["device"])
    ready = time.time()
    try:
        works = [Training(**work) for work in asked["works"]]
        told = [_train_both(work, backend) for work in works]
        setting = _setting(works[0], backend.device, Setting)
        weights = sum(p.numel() * p.element_size() for p in model_of(MODEL, setting).parameters())
        found = {
            "trained": told,
            "ready": ready,
            "host": socket.gethostname(),
            "image": job_surroundings()["container_digest"],
            "processors": _processors(backend.device),
            "exchanges": _exchanges(backend, weights),
            "gradient_bytes": weights,
        }
        folder = Path(asked["folder"])
        (folder / f"rank-{backend.rank}.part").write_text(json.dumps(found), encoding="utf-8")
        (folder / f"rank-{backend.rank}.part").rename(folder / f"rank-{backend.rank}.json")
        backend.barrier()
    finally:
        backend.close()


def _processors(device: torch.device) -> list[str]:
    if device.type == "cuda":
        return [str(torch.cuda.get_device_properties(device).uuid)]
    return [str(core) for core in sorted(os.sched_getaffinity(0))]


def _setting(work: Training, device: torch.device, setting: Any) -> Any:
    how = {"precision": "fp32", "channels_last": False, "compile": False, "workers": 0}
    return setting(size=work.size_px, batch=work.batch, steps=work.steps, device=device, **how)


def _train_both(work: Training, backend: Any) -> dict[str, Any]:
    """Train with and without exchange; return the durations of the epochs, of the steps, and the waiting."""
    from train import Setting, model_of, sequences

    from glacierhpc.training.distributed import Single
    from glacierhpc.training.loop import fit

    setting, ticks = _setting(work, backend.device, Setting), Ticks()
    how = {"learning_rate": 1e-4, "patience": None}

    def trained(own: Any, by: Any, repeats: int, progress: Ticks | None = None) -> list[dict[str, float]]:
        data, model = sequences(own), model_of(MODEL, own)
        told = fit(
            model, data, backend=by, progress=progress, batch_size=own.batch, epochs=1 + repeats, **how
        )
        backend.barrier()
        return told.rows[1:]

    repeats = work.repeats
    if repeats is None:
        repeats = _as_many(work.budget_s, trained(setting, backend, 1)[0]["seconds"], backend)
    if backend.size == 1:  # it exchanges with nobody
        together = alone = trained(setting, backend, repeats, ticks)
    else:
        together = trained(setting, backend, repeats)
        share = replace(setting, batch=math.ceil(work.batch / backend.size))
        alone = trained(share, Single(backend.device.type), repeats, ticks)
    return {
        "seconds": [row["seconds"] for row in together],
        "alone_s": [row["seconds"] for row in alone],
        "alone_wait_share": statistics.median(row["data_wait_share"] for row in alone),
        "step_s": ticks.step_s(),
    }


def _as_many(budget_s: float, epoch_s: float, backend: Any) -> int:
    """Return how many repeats some time allows, the same for all ranks."""
    runs = 1 if backend.size == 1 else 2
    # two epochs have told how long one is; each run drops another
    own = (budget_s / epoch_s - 2) / runs - 1
    slowest = torch.zeros(backend.size, device=backend.device)
    slowest[backend.rank] = own
    return int(min(max(backend.sum(slowest).min().item(), LEAST), MOST))


def _exchanges(backend: Any, gradients: int) -> list[tuple[float, float]]:
    """Time the sum over the ranks of messages of several sizes, that of the gradients among them."""
    found = []
    for size in sorted({*SIZES, gradients}):
        message = torch.zeros(math.ceil(size / 4), dtype=torch.float32, device=backend.device)
        seconds = []
        for _ in range(12):
            backend.barrier()
            began = time.perf_counter()
            backend.sum(message)
            if backend.device.type == "cuda":
                torch.cuda.synchronize(backend.device)
            seconds.append(time.perf_counter() - began)
        found.append((float(4 * len(message)), statistics.median(seconds[2:])))
    return found


# ---- what starts them ----


def train(
    ranks: int,
    works: list[Training],
    folder: Path,
    *,
    backend: str,
    launcher: str,
    device: str = "cpu",
    limit_s: float = 3600.0,
) -> Told:
    """Start some ranks, let them train every amount of work, and return what they saw.

    Parameters
    ----------
    folder : path
        All ranks see it.
    backend : {"ddp", "horovod"}
    launcher : str
        A key of `scaling_launch.LAUNCHERS`.

    Raises
    ------
    GlacierError
        If they fail or do not end in time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    asked = {"backend": backend, "device": device, "folder": str(folder)}
    request = folder / "asked.json"
    request.write_text(json.dumps({**asked, "works": [asdict(work) for work in works]}), encoding="utf-8")
    started = scaling_launch.words_of(launcher, backend, ranks)
    command = [*started, str(Path(__file__).resolve()), str(request)]
    began, log = time.time(), folder / "log"
    try:
        with log.open("w", encoding="utf-8") as file, scaling_launch.meeting(launcher, backend) as variables:
            code = scaling_launch.run(command, file, {**os.environ, **variables}, limit_s)
        failed = f"ended with code {code}" if code else ""
    except subprocess.TimeoutExpired:
        failed = f"did not end in {limit_s:.0f} s"
    if failed:
        words = redact(log.read_text(encoding="utf-8", errors="replace").strip())
        raise GlacierError(f"{ranks} ranks {failed} ({command}):\n{words[:6000]}")
    return _gathered(folder, ranks, began)


def _gathered(folder: Path, ranks: int, began: float) -> Told:
    told = [json.loads((folder / f"rank-{rank}.json").read_text(encoding="utf-8")) for rank in range(ranks)]
    first = told[0]
    trained = tuple(
        Trained(
            seconds=tuple(first["trained"][k]["seconds"]),
            alone_s=tuple(tuple(one["trained"][k]["alone_s"]) for one in told),
            alone_wait_share=statistics.mean(one["trained"][k]["alone_wait_share"] for one in told),
            step_s=tuple(first["trained"][k]["step_s"]),
        )
        for k in range(len(first["trained"]))
    )
    processors = {(one["host"], core) for one in told for core in one["processors"]}
    return Told(
        ranks=ranks,
        trained=trained,
        start_s=max(first["ready"] - began, 0.0),
        hosts=tuple(sorted({one["host"] for one in told})),
        images=tuple(sorted({one["image"] for one in told} - {None})),
        cores=len(processors),
        exchanges=tuple((size, seconds) for size, seconds in first["exchanges"]),
        gradient_bytes=first["gradient_bytes"],
    )


if __name__ == "__main__":
    run_rank(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
