"""Splits of sequences into training, validation and test that cannot leak, and the audit that proves it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from glacierhpc.datasets.sequences import SequencePlan
from glacierhpc.errors import InputError

SPLITS = ("train", "validation", "test")
UNUSED = "unused"


@dataclass(frozen=True, eq=False)
class Split:
    """To which part each sequence of a plan belongs, and how that was decided."""

    method: str
    """``"time"`` or ``"block"``."""
    labels: np.ndarray
    """(n,) str: train, validation, test or unused."""
    gap_steps: int
    """Composites left out between training and what is evaluated (method ``"time"``)."""
    gap_px: int = 0
    """Pixels left out between them (method ``"block"``)."""
    parameters: dict[str, Any] = field(default_factory=dict)
    """Shares, seed and block size as they were given."""

    def indices(self, name: str) -> np.ndarray:
        """Return the sequence numbers of one part, ascending."""
        return np.flatnonzero(self.labels == name)

    def without(self, unwanted: np.ndarray) -> Split:
        """Return the same split with the marked sequences (n,) bool unused, for example half-empty ones."""
        labels = np.where(unwanted, UNUSED, self.labels)
        return Split(self.method, labels, self.gap_steps, self.gap_px, self.parameters)

    def digest(self, plan: SequencePlan) -> str:
        """Return the SHA-256 of every sequence's place and part."""
        initials = "".join(label[0] for label in self.labels.tolist())
        return hashlib.sha256(f"{plan.digest()} {initials}".encode()).hexdigest()

    def describe(self, plan: SequencePlan) -> dict[str, Any]:
        """Return the content of ``split.json``, audit included."""
        parts = {
            name: {"count": int(np.sum(self.labels == name)), "target_times": self._target_dates(plan, name)}
            for name in SPLITS
        }
        audit = audit_split(plan, self.labels, gap_steps=self.gap_steps, gap_px=self.gap_px)
        return {
            "method": self.method,
            **parts,
            "unused": int(np.sum(self.labels == UNUSED)),
            "gap_steps": self.gap_steps,
            "gap_px": self.gap_px,
            "parameters": self.parameters,
            "audit": audit,
            "hash": self.digest(plan),
        }

    def _target_dates(self, plan: SequencePlan, name: str) -> list[str]:
        steps = target_steps(plan, self.indices(name))
        return [str(np.datetime_as_string(time, unit="D")) for time in plan.times[steps]]


def target_steps(plan: SequencePlan, indices: np.ndarray) -> np.ndarray:
    """Return the distinct time steps that occur as targets of some sequences, ascending."""
    first = np.unique(plan.starts[indices, 0])
    return np.unique(first[:, None] + plan.steps_in + np.arange(plan.steps_out))


def sample_steps(plan: SequencePlan, indices: np.ndarray) -> np.ndarray:
    """Return the distinct time steps that occur in some sequences, as input or target, ascending."""
    return np.unique(np.unique(plan.starts[indices, 0])[:, None] + np.arange(plan.steps))


def sample_pixels(plan: SequencePlan, indices: np.ndarray) -> np.ndarray:
    """Return (times, rows, cols) bool: the pixel-times that occur in some sequences, as input or target."""
    chosen = np.zeros(len(plan), dtype=bool)
    chosen[indices] = True
    pixels = np.zeros(plan.shape, dtype=bool)
    for step, places in _starts_by_step(plan, chosen, range(plan.steps)).items():
        pixels[step] = _covered(plan, places, 0)
    return pixels


def split_by_time(
    plan: SequencePlan,
    *,
    validation_share: float = 0.15,
    test_share: float = 0.2,
    gap_steps: int | None = None,
) -> Split:
    """Split along time: training first, then validation, then test.

    The last share of the time steps is where test targets lie, the share before it validation targets. A
    sequence is training only if *all* its steps, inputs and targets, lie before the first validation target;
    its own inputs may reach back into what was trained on, since a forecaster knows the past. Sequences that
    straddle a border are unused.

    Parameters
    ----------
    validation_share, test_share : float
        Of the plan's time steps; each part gets at least ``steps_out`` of them. 0 leaves a part out.
    gap_steps : int, optional
        Time steps left unused between the last step of the earlier part and the first target of the later
        one. Default 1: neighbouring composites resemble each other.

    Raises
    ------
    InputError
        If the period is too short for the parts and gaps asked for.
    """
    gap = 1 if gap_steps is None else int(gap_steps)
    _check_shares(validation_share, test_share, gap)
    count = plan.shape[0]
    test_first = count - _part_steps(count, test_share, plan.steps_out)
    validation_end = test_first - (gap if test_share else 0)
    validation_first = validation_end - _part_steps(count, validation_share, plan.steps_out)
    train_end = validation_first - (gap if validation_share else 0)
    if train_end < plan.steps:
        raise InputError(
            f"{count} composites leave {max(train_end, 0)} for training, but a sequence needs {plan.steps}: "
            f"give a longer period, shorter composites, fewer steps, or smaller shares than "
            f"{validation_share!r} and {test_share!r}"
        )
    first, end = plan.starts[:, 0], plan.starts[:, 0] + plan.steps
    first_target = first + plan.steps_in
    labels = np.full(len(plan), UNUSED, dtype="<U10")
    labels[end <= train_end] = "train"
    if validation_share:
        labels[(first_target >= validation_first) & (end <= validation_end)] = "validation"
    if test_share:
        labels[first_target >= test_first] = "test"
    shares = {"validation_share": validation_share, "test_share": test_share}
    return Split("time", labels, gap, 0, shares)


def split_by_block(
    plan: SequencePlan,
    *,
    block_px: int,
    validation_share: float = 0.15,
    test_share: float = 0.2,
    gap_px: int = 0,
    seed: int = 0,
) -> Split:
    """Split the area into square blocks; a sequence belongs to a part if its whole patch lies in that part's blocks.

    Asks whether a model holds at other places in the same period, so it says nothing about the future.

    Parameters
    ----------
    block_px : int
        Edge length of a block, pixels; at least the patch size.
    validation_share, test_share : float
        Of the blocks; each part gets at least one block unless its share is 0.
    gap_px : int
        A training patch must keep this distance from blocks of the other parts.
    seed : int
        Of the draw of blocks.
    """
    _check_shares(validation_share, test_share, gap_px)
    if block_px < plan.size:
        raise InputError(
            f"blocks of {block_px!r} px hold no patch of {plan.size} px: give block_px >= {plan.size}"
        )
    owner = _draw_blocks(plan.shape[1:], block_px, validation_share, test_share, seed)
    labels = np.full(len(plan), UNUSED, dtype="<U10")
    for part, name in enumerate(SPLITS):
        margin = gap_px if name == "train" else 0
        labels[_patches_clear_of(owner != part, plan, margin)] = name
    if not np.any(labels == "train"):
        raise InputError(
            f"no patch of {plan.size} px lies wholly in training blocks of {block_px} px with {gap_px} px distance: "
            "give larger blocks, a smaller gap or smaller shares"
        )
    shares = {"validation_share": validation_share, "test_share": test_share}
    return Split("block", labels, 0, gap_px, {**shares, "block_px": block_px, "seed": seed})


def audit_split(
    plan: SequencePlan, labels: np.ndarray, *, gap_steps: int = 0, gap_px: int = 0
) -> dict[str, Any]:
    """Check every pixel-time of every evaluated target against every earlier part's samples.

    A validation target must not occur in a training sample, a test target in neither a training nor a
    validation sample (validation chooses the weights), as input or as target; nor within the gaps, in
    training samples. It knows nothing of how the split was made.

    Parameters
    ----------
    labels : (n,) str
        Part of each sequence.
    gap_steps, gap_px : int
        How far, in time steps and pixels, training must stay away.

    Returns
    -------
    dict
        ``ok``; ``checked``: number of target pixel-times looked at; ``leaks``: the first 20 of ``evaluated``,
        ``found_in``, ``time``, ``pixels`` and one ``row``, ``col``; ``leaked``: pixel-times in all.
    """
    pairs = [("validation", "train", gap_steps, gap_px), ("test", "train", gap_steps, gap_px)]
    pairs.append(("test", "validation", 0, 0))
    checked, leaked, leaks = 0, 0, []
    for evaluated, earlier, steps, margin in pairs:
        targets = _starts_by_step(plan, labels == evaluated, range(plan.steps_in, plan.steps))
        samples = _starts_by_step(plan, labels == earlier, range(-steps, plan.steps + steps))
        for step in sorted(targets):
            wanted = _covered(plan, targets[step], 0)
            checked += int(wanted.sum())
            if step not in samples:
                continue
            both = wanted & _covered(plan, samples[step], margin)
            if both.any():
                row, col = np.argwhere(both)[0]
                leaked += int(both.sum())
                leaks.append(
                    {
                        "evaluated": evaluated,
                        "found_in": earlier,
                        "time": str(np.datetime_as_string(plan.times[step], unit="D")),
                        "pixels": int(both.sum()),
                        "row": int(row),
                        "col": int(col),
                    }
                )
    return {"ok": not leaks, "checked": checked, "leaked": leaked, "leaks": leaks[:20]}


def _starts_by_step(plan: SequencePlan, chosen: np.ndarray, offsets: range) -> dict[int, np.ndarray]:
    """Return, for each time step, the distinct (row, col) of chosen sequences that have it at one of the offsets."""
    starts = plan.starts[chosen]
    patches = {int(first): starts[starts[:, 0] == first, 1:] for first in np.unique(starts[:, 0])}
    by_step: dict[int, list[np.ndarray]] = {}
    for first, places in patches.items():
        for offset in offsets:
            by_step.setdefault(first + offset, []).append(places)
    return {step: np.unique(np.concatenate(places), axis=0) for step, places in by_step.items()}


def _covered(plan: SequencePlan, places: np.ndarray, margin: int) -> np.ndarray:
    """Return (rows, cols) bool: which pixels the patches at these places cover, grown by a margin."""
    limits = np.array(plan.shape[1:])
    low = np.clip(places - margin, 0, limits)
    high = np.clip(places + plan.size + margin, 0, limits)
    corners = np.zeros(tuple(limits + 1), dtype=np.int32)
    np.add.at(corners, (low[:, 0], low[:, 1]), 1)
    np.add.at(corners, (high[:, 0], high[:, 1]), 1)
    np.add.at(corners, (low[:, 0], high[:, 1]), -1)
    np.add.at(corners, (high[:, 0], low[:, 1]), -1)
    return corners.cumsum(axis=0).cumsum(axis=1)[:-1, :-1] > 0


def _draw_blocks(
    shape: tuple[int, ...], block_px: int, validation_share: float, test_share: float, seed: int
) -> np.ndarray:
    """Return (rows, cols) int8: the part (position in SPLITS) that owns each pixel."""
    rows, cols = (-(-length // block_px) for length in shape)
    count = rows * cols
    validation, test = (max(1, round(count * s)) if s else 0 for s in (validation_share, test_share))
    if validation + test >= count:
        raise InputError(
            f"{count} blocks of {block_px} px cannot be shared into training, validation and test: "
            "give smaller blocks or a larger area"
        )
    parts = np.zeros(count, dtype=np.int8)
    order = np.random.default_rng(seed).permutation(count)
    parts[order[:validation]], parts[order[validation : validation + test]] = 1, 2
    whole = np.repeat(np.repeat(parts.reshape(rows, cols), block_px, axis=0), block_px, axis=1)
    return whole[: shape[0], : shape[1]]


def _patches_clear_of(forbidden: np.ndarray, plan: SequencePlan, margin: int) -> np.ndarray:
    """Return (n,) bool: sequences whose patch, grown by a margin, holds no forbidden pixel."""
    table = np.zeros((forbidden.shape[0] + 1, forbidden.shape[1] + 1), dtype=np.int64)
    table[1:, 1:] = forbidden.cumsum(axis=0, dtype=np.int64).cumsum(axis=1)
    low = np.maximum(plan.starts[:, 1:] - margin, 0)
    high = np.minimum(plan.starts[:, 1:] + plan.size + margin, forbidden.shape)
    (top, left), (bottom, right) = low.T, high.T
    return table[bottom, right] - table[top, right] - table[bottom, left] + table[top, left] == 0


def _part_steps(count: int, share: float, steps_out: int) -> int:
    return max(steps_out, round(count * share)) if share else 0


def _check_shares(validation_share: float, test_share: float, gap: int) -> None:
    if min(validation_share, test_share) < 0 or validation_share + test_share >= 1:
        raise InputError(
            f"shares of {validation_share!r} for validation and {test_share!r} for test leave nothing to train on: "
            "give two numbers >= 0 that add up to less than 1"
        )
    if gap < 0:
        raise InputError(f"a gap of {gap!r} between the parts cannot be: give 0 or more")
