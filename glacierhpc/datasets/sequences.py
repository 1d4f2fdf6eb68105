"""The index table of sequences: which window of time and which patch each one is; pixels are read in `samples`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import pandas as pd

from glacierhpc.errors import InputError

_PARAMETERS = ("size", "stride", "steps_in", "steps_out")


@dataclass(frozen=True, eq=False)
class SequencePlan:
    """All sequences of a cube: ``steps_in`` composites and the ``steps_out`` that follow, over one patch."""

    shape: tuple[int, int, int]
    """(times, rows, cols) of the cube."""
    times: np.ndarray
    """(times,) datetime64[ns], middle of each composite, UTC."""
    size: int
    """Edge length of a patch, pixels."""
    stride: int
    """Distance between neighbouring patches, pixels."""
    steps_in: int
    """Composites a forecast sees."""
    steps_out: int
    """Composites a forecast gives."""
    starts: np.ndarray
    """(n, 3) int64: first time step, first row, first col; ordered by time, then row, then col."""

    @classmethod
    def build(
        cls,
        shape: tuple[int, int, int],
        times: np.ndarray,
        *,
        size: int,
        stride: int,
        steps_in: int,
        steps_out: int,
    ) -> SequencePlan:
        """Return the plan of every whole sequence in a cube.

        Patches start at multiples of the stride; what is left at the lower and right rim is not sampled
        (full scenes are predicted with tiles that cover it). 35 composites of 800 x 800 pixels, size 50,
        stride 10, 4 to 4 steps give 28 * 76 * 76 = 161,728 sequences.

        Raises
        ------
        InputError
            If a size is not positive, the times do not fit, or no whole sequence fits into the cube.
        """
        count, rows, cols = (int(length) for length in shape)
        times = np.asarray(times, dtype="datetime64[ns]")
        _check_sizes({"size": size, "stride": stride, "steps_in": steps_in, "steps_out": steps_out})
        _check_times(times, count)
        if count < steps_in + steps_out or size > min(rows, cols):
            raise InputError(
                f"a cube of {count} composites of {rows} x {cols} px holds no sequence of {steps_in} + "
                f"{steps_out} composites and {size} px: give a longer period, fewer steps or a smaller size"
            )
        axes = (
            np.arange(count - steps_in - steps_out + 1),
            np.arange(0, rows - size + 1, stride),
            np.arange(0, cols - size + 1, stride),
        )
        starts = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3).astype(np.int64)
        return cls((count, rows, cols), times, size, stride, steps_in, steps_out, starts)

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def steps(self) -> int:
        """Composites a sequence covers, inputs and targets together."""
        return self.steps_in + self.steps_out

    def digest(self) -> str:
        """Return the SHA-256 of every sequence's place, steps and dates: what belongs to a plan names it."""
        text = hashlib.sha256(f"{self.shape} {self.size} {self.steps_in} {self.steps_out}".encode())
        text.update(self.times.tobytes() + self.starts.tobytes())
        return text.hexdigest()

    def years(self, indices: np.ndarray) -> np.ndarray:
        """Return the dates of sequences as (n, steps) float32 years since 2000-01-01 (of 365.2425 days)."""
        days = (self.times - np.datetime64("2000-01-01")) / np.timedelta64(1, "D")
        steps = self.starts[indices, 0][:, None] + np.arange(self.steps)
        return (days / 365.2425).astype(np.float32)[steps]

    def valid_share(self, valid: np.ndarray) -> np.ndarray:
        """Return each sequence's share of valid pixel-times, the smaller of its inputs' and its targets'.

        Parameters
        ----------
        valid : (times, rows, cols) bool

        Returns
        -------
        (n,) float32 in [0, 1]
        """
        if valid.shape != self.shape:
            raise InputError(f"a mask of shape {valid.shape!r} does not belong to a plan for {self.shape!r}")
        per_step = np.zeros((self.shape[0], *self._patch_grid()), dtype=np.float32)
        rows, cols = (np.unique(self.starts[:, axis]) for axis in (1, 2))
        for step in range(self.shape[0]):
            per_step[step] = box_sums(valid[step], rows, cols, self.size) / self.size**2
        time, row, col = self.starts[:, 0], *(self.starts[:, axis] // self.stride for axis in (1, 2))
        shares = [per_step[time + step, row, col] for step in range(self.steps)]
        inputs, targets = np.mean(shares[: self.steps_in], axis=0), np.mean(shares[self.steps_in :], axis=0)
        return np.minimum(inputs, targets)

    def _patch_grid(self) -> tuple[int, int]:
        return tuple((length - self.size) // self.stride + 1 for length in self.shape[1:])  # type: ignore[return-value]

    def to_table(
        self, *, split: np.ndarray | None = None, valid_share: np.ndarray | None = None
    ) -> pd.DataFrame:
        """Return the plan as a table, a row per sequence; what rows cannot hold is in ``table.attrs``.

        `attrs` travel with pandas' own Parquet writer. Columns: sequence, time_index, row, col, split, first and last
        input and target date, valid_share.
        """
        first = self.starts[:, 0]
        dates = {
            "first_input": first,
            "last_input": first + self.steps_in - 1,
            "first_target": first + self.steps_in,
            "last_target": first + self.steps - 1,
        }
        table = pd.DataFrame(
            {
                "sequence": np.arange(len(self)),
                "time_index": first,
                "row": self.starts[:, 1],
                "col": self.starts[:, 2],
                "split": pd.Series(
                    split if split is not None else "unused", index=range(len(self)), dtype="str"
                ),
                **{name: self.times[steps] for name, steps in dates.items()},
                "valid_share": np.float32(1) if valid_share is None else valid_share.astype(np.float32),
            }
        )
        table.attrs["plan"] = {name: int(getattr(self, name)) for name in _PARAMETERS} | {
            "shape": list(self.shape),
            "times_ns": self.times.astype(np.int64).tolist(),
        }
        return table

    @classmethod
    def from_table(cls, table: pd.DataFrame) -> SequencePlan:
        """Return the plan that `to_table` wrote, after a trip through Parquet or not.

        Raises
        ------
        InputError
            If the table does not carry the plan's parameters.
        """
        if "plan" not in table.attrs:
            raise InputError(
                "this sequence table carries no plan in its attributes: "
                "write it with pandas' to_parquet, or build the sequences again"
            )
        stored = table.attrs["plan"]
        return cls(
            shape=tuple(stored["shape"]),
            times=np.array(stored["times_ns"], dtype=np.int64).view("datetime64[ns]"),
            **{name: stored[name] for name in _PARAMETERS},
            starts=table[["time_index", "row", "col"]].to_numpy(np.int64),
        )


def box_sums(image: np.ndarray, rows: np.ndarray, cols: np.ndarray, size: int) -> np.ndarray:
    """Return the sums of an image over squares, (len(rows), len(cols)), by one summed-area table."""
    table = np.zeros((image.shape[0] + 1, image.shape[1] + 1), dtype=np.int64)
    table[1:, 1:] = image.cumsum(axis=0, dtype=np.int64).cumsum(axis=1)
    low, high = np.ix_(rows, cols), np.ix_(rows + size, cols + size)
    return table[high] - table[np.ix_(rows, cols + size)] - table[np.ix_(rows + size, cols)] + table[low]


def _check_sizes(sizes: dict[str, int]) -> None:
    for name, value in sizes.items():
        if value < 1:
            raise InputError(f"sequences cannot have {name} = {value!r}: give 1 or more")


def _check_times(times: np.ndarray, count: int) -> None:
    if times.shape != (count,):
        raise InputError(f"{len(times)} times given for a cube of {count} composites: give one per composite")
    if np.any(np.diff(times) <= np.timedelta64(0)):
        raise InputError("the times of a cube must rise strictly: sort the composites and drop duplicates")
