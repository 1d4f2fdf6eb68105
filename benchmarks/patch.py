"""How fast training sequences are cut out of a cube: against a memory copy, and against one file per sequence.

Run it on an idle machine::

    python benchmarks/patch.py

The plan is that of the published experiment, 35 dates of 800 x 800 px in boxes of 8 dates and 50 x 50 px every 10 px:
161,728 sequences, of which random batches are read. Files are read back from the page cache, which flatters them.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from harness import Result, Row, arguments, medians, report

from glacierhpc.datasets.sequences import SequencePlan
from glacierhpc.kernels.patches import GatherPlan, gather


def measure(*, shape: tuple[int, int, int], batch: int, repeats: int) -> Result:
    """Measure one batch of random sequences."""
    rng = np.random.default_rng(0)
    times = np.datetime64("2013-02-15", "ns") + np.arange(shape[0]) * np.timedelta64(91, "D")
    plan = SequencePlan.build(shape, times, size=50, stride=10, steps_in=4, steps_out=4)
    chosen = rng.choice(len(plan), min(batch, len(plan)), replace=False)
    boxes = GatherPlan(plan.starts[chosen], plan.steps, plan.size)
    cube = rng.random((shape[0], 1, *shape[1:]), np.float32)
    valid = rng.random(shape) >= 0.1
    pixels, seen = gather(cube, boxes, valid=valid)
    with tempfile.TemporaryDirectory() as folder:
        names = _write(Path(folder), pixels, seen)
        runs = {
            # both give new arrays, as each batch of a training needs them
            "ours": lambda: gather(cube, boxes, valid=valid),
            "NumPy copy of the same bytes": lambda: (pixels.copy(), seen.copy()),
            "a file per sequence, torch.load": lambda: _read_torch(names["pt"]),
            "a file per sequence, np.load": lambda: _read_numpy(names["npy"]),
        }
        seconds = medians(runs, repeats=repeats, calls=5)
    size = pixels.nbytes + seen.nbytes
    rate = {name: len(chosen) / value for name, value in seconds.items()}
    ours = rate.pop("ours")
    return Result(
        "patch",
        f"{len(chosen)} of {len(plan)} sequences of {plan.steps} x 50 x 50 px out of {'x'.join(map(str, shape))}, "
        f"one thread, {repeats} repeats",
        [
            Row("cut sequences", ours, peer, value, "sequences/s", more_is_better=True, in_readme=True)
            for peer, value in rate.items()
        ],
        {"gb_per_s": {name: size / value / 1e9 for name, value in seconds.items()}},
    )


def _write(folder: Path, pixels: np.ndarray, seen: np.ndarray) -> dict[str, list[Path]]:
    """Write every sequence with its validity, once with torch and once with NumPy."""
    names: dict[str, list[Path]] = {"pt": [], "npy": []}
    for number, (patch, valid) in enumerate(zip(pixels, seen)):
        names["pt"].append(folder / f"{number}.pt")
        torch.save((torch.from_numpy(patch), torch.from_numpy(valid)), names["pt"][-1])
        names["npy"].append(folder / f"{number}.npy")
        with names["npy"][-1].open("wb") as file:
            np.save(file, patch, allow_pickle=False)
            np.save(file, valid, allow_pickle=False)
    return names


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
