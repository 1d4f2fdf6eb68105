"""Kill a run with SIGKILL at random moments, again and again, and look each time at what it left.

    python -m tests.kills --kills 100            the whole chain on a tiny synthetic archive, offline
    python -m tests.kills --kills 100 --fresh    every start is a new `python -m glacierhpc run`: slower, as in use

After every kill each file with a final name must open and equal that of a run nobody disturbed, but for times; at
the end nothing is missing and nothing is there twice. Without --fresh a start is a fork of this process, which has
loaded everything: so that kills fall into work, and not into imports.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml

from glacierhpc import cli
from glacierhpc.cli.steps import STEPS
from glacierhpc.fence import epochs
from glacierhpc.rundir import RunDirectory, read_json, read_table
from glacierhpc.scenes import archive
from glacierhpc.scenes.parts import checksum
from glacierhpc.workflows import forecast, imagery, judging, learning, results

LOADED = (forecast, imagery, judging, learning, results)
"""Modules of the steps, loaded once for all forks."""

ROOT = Path(__file__).resolve().parents[1]
TOLD = {"seconds", "attempts", "started", "read_s", "seconds_per_epoch"}
"""Columns and keys that tell how long something took: never the same twice."""
DEADLINE_S = 900


def make_archive(folder: Path) -> Path:
    """Twenty clear scenes in five years, 72 x 72 px."""
    archive.create(folder, seed=3, scenes=20, size_px=72, every_days=90, cloud_share=0.0, nodata_wedges=False)
    return folder


def write_config(path: Path, scenes: Path, run: Path) -> Path:
    """A forecast with every step, as small as it can be."""
    values: dict[str, Any] = {
        "name": "kills",
        "run_dir": str(run),
        "area": {"bbox_lonlat": [77.6421, 32.1033, 77.6579, 32.1167]},
        "period": {"start": "2015-01-01", "end": "2019-12-31"},
        "archive": {
            "catalogue": str(scenes),
            "collections": ["landsat-c2-l2"],
            "max_cloud_cover_percent": None,
            "signing": "none",
        },
        "acquire": {"bands": ["green", "nir08", "swir16"], "min_valid_share": 0, "read_threads": 2},
        "composite": {"window_months": 3},
        "sequences": {"size_px": 16, "stride_px": 8, "steps_in": 1, "steps_out": 1, "min_valid_share": 0.05},
        "model": {"parameters": {"hidden": [2], "head": 2, "attention": 2}},
        "train": {"epochs": 3, "batch_size": 16, "patience": None, "checkpoint_steps": 2},
        "evaluate": {"bootstrap_samples": 10, "control": False},
        "cluster": {"kind": "serial"},
    }
    path.write_text(yaml.safe_dump(values))
    return path


def start(config: Path, log: Path, *, fresh: bool) -> int:
    """Start a run in a process group of its own and return its number."""
    if fresh:
        with log.open("ab") as out:
            return subprocess.Popen(
                [sys.executable, "-m", "glacierhpc", "run", str(config)],
                cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=out, stderr=out, start_new_session=True,
            ).pid  # fmt: skip
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    os.setsid()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    try:
        cli.main(["run", str(config)])
    except SystemExit as end:
        sys.stdout.flush()
        os._exit(int(end.code or 0))
    os._exit(99)


def ended(pid: int) -> int | None:
    """Return the exit code of a process that has ended."""
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def kill(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:  # a fork that has not come as far as to its own group
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def waited(pid: int, until: Callable[[], bool]) -> int | None:
    """Wait for a moment; return the exit code of a process that ended before it."""
    end = time.monotonic() + DEADLINE_S
    while not until():
        if (code := ended(pid)) is not None:
            return code
        assert time.monotonic() < end, "the run hangs"
        time.sleep(0.002)
    return None


def under_way(run: Path) -> list[str]:
    """Return the names of what was being written: what is still temporary, or moved aside."""
    # os.walk bears that what it has listed is gone when it comes to look: the run is at work
    names = (name for _, folders, files in os.walk(run) for name in (*folders, *files))
    return [name for name in names if of_a_killed_writer(name)]


def products(run: Path) -> dict[str, Any]:
    """Return what the steps of a run have made so far, each in a form in which two runs can be compared.

    Opens everything that has a final name; what is damaged raises.
    """
    found: dict[str, Any] = {}
    for path in sorted(run.iterdir()):
        if path.name.startswith(".") or path.name in (
            "logs",
            "steps",
            "checkpoints",
            "config.yaml",
            "provenance.json",
        ):
            continue
        found |= content(path)
    return found


def of_a_killed_writer(name: str) -> bool:
    """Say whether a name is of what a killed command had begun beside the file that it was to become."""
    return name.startswith((".tmp-", ".old-"))


def made(folder: Path, pattern: str) -> list[Path]:
    """Return the files of a folder that have their final names; a pattern matches the others, too."""
    return [path for path in folder.glob(pattern) if not of_a_killed_writer(path.name)]


def content(path: Path) -> dict[str, Any]:
    """Return a file, or every file of a folder, by its name."""
    if path.is_dir():
        # nothing temporary may be inside of a store, which is written as a whole; the files of a model are not
        files = [
            file for file in sorted(path.rglob("*")) if file.is_file() and not of_a_killed_writer(file.name)
        ]
        return {f"{path.name}/{file.relative_to(path)}": file.read_bytes() for file in files}
    if path.suffix == ".json":
        return {path.name: untimed(read_json(path))}
    if path.suffix == ".parquet":
        table = read_table(path)
        return {path.name: table.drop(columns=list(TOLD & set(table.columns))).to_dict("list").__repr__()}
    if path.suffix == ".csv":
        table = pd.read_csv(path)
        kept = [column for column in table.columns if column.endswith("loss") or column == "epoch"]
        return {path.name: table[kept].to_numpy().tolist()}
    if path.suffix == ".html":
        assert path.read_text().rstrip().endswith("</html>"), path
        return {path.name: "whole"}
    return {path.name: path.read_bytes()}


def untimed(value: Any) -> Any:
    """Return JSON without what tells times."""
    if isinstance(value, dict):
        return {key: untimed(each) for key, each in value.items() if key not in TOLD}
    return [untimed(each) for each in value] if isinstance(value, list) else value


def check(run: Path, reference: Reference) -> None:
    """Compare all that is there with the run nobody disturbed; what is in the making must open.

    Raises
    ------
    AssertionError
        If something is damaged, or is not what it should be.
    """
    for name, value in products(run).items():
        if name == "history.csv":  # grows
            assert value == reference.products[name][: len(value)], name
        else:
            assert value == reference.products.get(name), f"{name} is not what it should be"
    for path in [*made(run / "steps", "*.json"), run / "provenance.json"]:
        assert not path.exists() or isinstance(read_json(path), dict), path
    assert not (run / "config.yaml").exists() or yaml.safe_load((run / "config.yaml").read_text())["name"]
    for path in made(run / "checkpoints", "*.pt"):
        assert torch.load(path, weights_only=True)["model"], path
    for piece in (run / ".parts").glob("*/*"):
        if (expected := reference.checksums.get((piece.parent.name, piece.name))) is not None:
            assert checksum(piece)[0] == expected, piece


def piece_checksums(run: RunDirectory) -> dict[tuple[str, str], str]:
    """Return the checksum of every piece of an acquisition, by the names of its folders."""
    keys = dict(read_table(run.scenes)[["scene", "key"]].to_numpy().tolist())
    return {(keys[row.scene], row.asset): row.checksum for row in read_table(run.manifest).itertuples()}


def finished(run: RunDirectory, reference: Reference, starts: int) -> None:
    """Check a run that has come to its end in spite of all: nothing lost, nothing twice."""
    found = products(run.path)
    assert found == reference.products, found.keys() ^ reference.products.keys()
    manifest = read_table(run.manifest)
    assert not manifest.duplicated(["scene", "asset"]).any() and (manifest.state == "done").all()
    assert all(run.done(step) for step in STEPS)
    (last,) = epochs(run.path)  # those before are gone, and known to be
    assert 1 <= last <= starts, (last, starts)
    assert not under_way(run.path) and not (run.path / ".parts").exists(), under_way(run.path)


@dataclass
class Seen:
    """What a row of kills has shown."""

    kills: int = 0
    in_a_write: int = 0
    """Kills that left something half-written, or moved aside."""
    starts: int = 0
    runs: int = 0
    """Runs that came to their end."""
    steps: dict[str, int] = field(default_factory=dict)
    """Kills in each step."""


@dataclass
class Moment:
    """When to kill: some time after the start, and then perhaps not before something is being written."""

    run: Path
    time_s: float
    in_a_write: bool

    def is_now(self) -> bool:
        if time.monotonic() < self.time_s:
            return False
        return not self.in_a_write or (self.run.is_dir() and bool(under_way(self.run)))


def never() -> bool:
    return False


@dataclass
class Reference:
    """What a run that nobody disturbed has made."""

    products: dict[str, Any]
    checksums: dict[tuple[str, str], str]
    took_s: float


def undisturbed(config: Path, run: RunDirectory, *, fresh: bool) -> Reference:
    """Let a run come to its end, remember what it made, and remove it."""
    began = time.monotonic()
    code = waited(start(config, config.with_suffix(".log"), fresh=fresh), never)
    assert code == 0, config.with_suffix(".log").read_text()[-3000:]
    found = Reference(products(run.path), piece_checksums(run), time.monotonic() - began)
    shutil.rmtree(run.path)
    return found


def disturbed(
    config: Path,
    run: RunDirectory,
    reference: Reference,
    draw: random.Random,
    seen: Seen,
    *,
    kills: int,
    fresh: bool,
) -> None:
    """Start a run and kill it until it comes to its end, and remove it; the last start is left alone."""
    log, starts = config.with_suffix(".log"), 0
    log.unlink(missing_ok=True)
    code = None
    while code is None:
        moment = Moment(
            run.path, time.monotonic() + draw.random() ** 2 * reference.took_s / 2, draw.random() < 0.5
        )
        pid, starts = start(config, log, fresh=fresh), starts + 1
        code = waited(pid, moment.is_now if seen.kills < kills else never)
        if code is None:
            kill(pid)
            seen.kills += 1
            seen.in_a_write += run.path.is_dir() and bool(under_way(run.path))
            seen.steps[running(run)] = seen.steps.get(running(run), 0) + 1
            (config.parent / "seen.json").write_text(json.dumps(asdict(seen)))
        if run.path.is_dir():
            check(run.path, reference)
    assert code == 0, log.read_text()[-3000:]
    finished(run, reference, starts)
    seen.starts += starts
    seen.runs += 1
    shutil.rmtree(run.path)


def harness(folder: Path, *, kills: int, seed: int, fresh: bool) -> dict[str, Any]:
    """Kill as often as is asked for, and return what was seen.

    Kills fall up to half an undisturbed run after a start, the sooner the more; half of them wait from then on
    until something is being written.
    """
    began, draw, seen = time.monotonic(), random.Random(seed), Seen()
    run = RunDirectory(folder / "run")
    config = write_config(folder / "kills.yaml", make_archive(folder / "archive"), run.path)
    undisturbed(
        config, run, fresh=fresh
    )  # the process that compiles a kernel may differ from others in the last bit
    reference = undisturbed(config, run, fresh=fresh)
    while seen.kills < kills:
        disturbed(config, run, reference, draw, seen, kills=kills, fresh=fresh)
    took = {"undisturbed_s": round(reference.took_s, 1), "seconds": round(time.monotonic() - began, 1)}
    return {**asdict(seen), **took}


def running(run: RunDirectory) -> str:
    """Return the step that was running."""
    records = [json.loads(path.read_text()) for path in made(run.steps, "*.json")]
    latest = max(records, key=lambda record: record["started"], default={"state": "", "step": ""})
    return str(latest["step"]) if latest["state"] == "running" else "between steps"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fresh", action="store_true", help="a new Python for every start")
    parser.add_argument("--folder", type=Path, help="kept for a look; by default a temporary one")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        sys.stdout.write(
            json.dumps(harness(folder, kills=given.kills, seed=given.seed, fresh=given.fresh)) + "\n"
        )


if __name__ == "__main__":
    main()
