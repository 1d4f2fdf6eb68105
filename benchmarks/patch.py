"""How fast training sequences are cut out of a cube: against a memory copy, and against one file per sequence.

Run it on an idle machine::

    python benchmarks/patch.py

The plan is that of the published experiment, 35 dates of 800 x 800 px in boxes of 8 dates and 50 x 50 px every 10 px:
161,728 sequences. Each call reads another random batch, into new arrays, out of a cube that marks a tenth of its pixels
as invalid. The first copy reads the same 10 MB again and again, which flatters it; the second reads other bytes each
time. The page cache flatters the files. What counts is the time of this process on a processor, in turns.
"""

from __future__ import annotations

import pickle
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import Result, Row, arguments, report

from glacierhpc.datasets.sequences import SequencePlan
from glacierhpc.kernels.patches import GatherPlan, gather

OURS, COPY = "ours", "NumPy copy of the same bytes"
BATCHES = 20
COLD = "NumPy copy of as many other bytes each time"
PICKLES = "a pickle per sequence"


def measure(*, shape: tuple[int, int, int], batch: int, repeats: int) -> Result:
    """Measure random batches of sequences."""
    rng = np.random.default_rng(0)
    times = np.datetime64("2013-02-15", "ns") + np.arange(shape[0]) * np.timedelta64(91, "D")
    plan = SequencePlan.build(shape, times, size=50, stride=10, steps_in=4, steps_out=4)
    count = min(batch, len(plan))
    draws = [plan.starts[rng.choice(len(plan), count, replace=False)] for _ in range(BATCHES)]
    batches = cycle([GatherPlan(starts, plan.steps, plan.size) for starts in draws])
    cube = rng.random((shape[0], 1, *shape[1:]), np.float32)
    cube[rng.random(cube.shape) < 0.1] = np.nan
    pixels, seen = gather(cube, next(batches))
    size = pixels.nbytes + seen.nbytes
    cold = _elsewhere(cube, size, rng)
    with tempfile.TemporaryDirectory() as folder:
        names = _write(Path(folder), pixels, seen)
        runs = {
            # both give new arrays, as each batch of a training needs them
            OURS: (lambda: gather(cube, next(batches)), BATCHES),
            COPY: (lambda: (pixels.copy(), seen.copy()), BATCHES),
            COLD: (lambda: next(cold).copy(), BATCHES),
            PICKLES: (lambda: _read_pickles(names["pkl"]), 1),
            "a file per sequence, torch.load": (lambda: _read_torch(names["pt"]), 1),
            "a file per sequence, np.load": (lambda: _read_numpy(names["npy"]), 1),
        }
        seconds = _processor_times(runs, repeats=repeats)
    typical = {name: statistics.median(turns) for name, turns in seconds.items()}
    shares = [copy / own for own, copy in zip(seconds[OURS], seconds[COPY])]
    return Result(
        "patch",
        f"{count} of {len(plan)} sequences of {plan.steps} x 50 x 50 px out of {'x'.join(map(str, shape))}, "
        f"one thread, {repeats} repeats, processor time",
        [
            Row(
                "cut sequences", count / typical[OURS], peer, count / value, "sequences/s",
                more_is_better=True, in_readme=peer != COLD,
            )
            for peer, value in typical.items()
            if peer != OURS
        ],
        {
            "gb_per_s": {name: size / value / 1e9 for name, value in typical.items()},
            "share_of_copy_by_turn": [min(shares), max(shares)],
        },
    )  # fmt: skip


def _elsewhere(cube: np.ndarray, size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield `size` neighbouring bytes of a cube, from another place each time; all of it where it is smaller."""
    content = cube.reshape(-1).view(np.uint8)
    while True:
        first = int(rng.integers(max(1, content.size - size)))
        yield content[first : first + size]


def _processor_times(
    runs: dict[str, tuple[Callable[[], Any], int]], *, repeats: int
) -> dict[str, list[float]]:
    """Return the processor time per call of each run in every turn, seconds; a first turn does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, (run, calls) in runs.items():
            run()  # what the one before left in caches and heap
            started = time.process_time()
            for _ in range(calls):
                run()
            if turn:
                seconds[name].append((time.process_time() - started) / calls)
    return seconds


def _write(folder: Path, pixels: np.ndarray, seen: np.ndarray) -> dict[str, list[Path]]:
    """Write every sequence with its validity in each of the ways that are compared."""
    names: dict[str, list[Path]] = {"pkl": [], "pt": [], "npy": []}
    for number, (patch, valid) in enumerate(zip(pixels, seen)):
        names["pkl"].append(folder / f"{number}.pkl")
        names["pkl"][-1].write_bytes(pickle.dumps((patch, valid), protocol=pickle.HIGHEST_PROTOCOL))
        names["pt"].append(folder / f"{number}.pt")
        torch.save((torch.from_numpy(patch), torch.from_numpy(valid)), names["pt"][-1])
        names["npy"].append(folder / f"{number}.npy")
        with names["npy"][-1].open("wb") as file:
            np.save(file, patch, allow_pickle=False)
            np.save(file, valid, allow_pickle=False)
    return names


def _read_pickles(names: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Read pickles that this benchmark has just written; nothing else in the project does."""
    parts = [pickle.loads(name.read_bytes()) for name in names]  # noqa: S301
    return np.stack([part[0] for part in parts]), np.stack([part[1] for part in parts])


def _read_torch(names: list[Path]) -> tuple[torch.Tensor, torch.Tensor]:
    parts = [torch.load(name, weights_only=True) for name in names]
    return torch.stack([part[0] for part in parts]), torch.stack([part[1] for part in parts])


def _read_numpy(names: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    parts = []
    for name in names:
        with name.open("rb") as file:
            parts.append((np.load(file, allow_pickle=False), np.load(file, allow_pickle=False)))
    return np.stack([part[0] for part in parts]), np.stack([part[1] for part in parts])


def main() -> None:
    """Measure and report."""
    parser = arguments(__doc__)
    parser.add_argument("--batch", type=int, default=100, help="sequences read at once")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.quick:
        report(measure(shape=(9, 60, 60), batch=4, repeats=1), asked)
    else:
        report(measure(shape=(35, 800, 800), batch=asked.batch, repeats=asked.repeats), asked)


if __name__ == "__main__":
    main()
