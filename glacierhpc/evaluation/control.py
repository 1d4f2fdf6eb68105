"""The permuted-time control: does the skill come from the time that a model is shown? Scores are made by `score`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from glacierhpc.errors import InputError, unknown_name
from glacierhpc.evaluation.bootstrap import Resampling
from glacierhpc.evaluation.entries import Entry, lead_entry
from glacierhpc.evaluation.metrics import skill_of
from glacierhpc.evaluation.score import Forecaster, Sequences, score

PERMUTED = "permuted"
"""Name of the model when it is shown another time."""


def partners(starts: np.ndarray, *, steps_in: int, steps_out: int, seed: int = 0) -> np.ndarray:
    """Return, for each sequence, another one of the same place and another time, (n,) int64; -1 if there is none.

    Never one whose inputs hold composites of the sequence's targets: that would show the answer. Among the others
    one that shares no composite at all is drawn, if there is one, else the one farthest away in time.

    Parameters
    ----------
    starts : (n, 3) int
        First time step, row and col.
    steps_in, steps_out : int
        Composites of inputs and of targets.
    seed : int
        Of the draws.
    """
    if steps_in < 1 or steps_out < 1:
        raise InputError(f"sequences of {steps_in!r} + {steps_out!r} steps cannot be: give 1 or more each")
    random = np.random.default_rng(seed)
    _, places = np.unique(starts[:, 1:], axis=0, return_inverse=True)
    order = np.argsort(places.reshape(-1), kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(places.reshape(-1)[order])) + 1)
    found = np.full(len(starts), -1, dtype=np.int64)
    for group in groups:
        later = starts[group, 0][None, :] - starts[group, 0][:, None]  # (own, other)
        allowed = (later < 0) | (later >= steps_in + steps_out)
        apart = np.abs(later) >= steps_in + steps_out
        # among those that share nothing chance decides, before them all others by their distance
        worth = np.where(apart, steps_in + steps_out + random.random(later.shape), np.abs(later))
        best = np.where(allowed, worth, -1.0).argmax(axis=1)
        known = allowed.any(axis=1)
        found[group[known]] = group[best[known]]
    return found


class PermutedTime:
    """Sequences whose inputs, masks, dates and climatology are those of a partner, and whose targets stay.

    The batches are those of `data`, so that any forecaster can be run on them.

    Parameters
    ----------
    data : Sequences
        Batches are named tuples with ``targets`` and ``targets_valid``.
    partner : (n,) int
        For each sequence of `data` the one it is shown, see `partners`.
    """

    def __init__(self, data: Sequences, partner: np.ndarray) -> None:
        if len(partner) != len(data) or (
            len(partner) and not 0 <= partner.min() <= partner.max() < len(data)
        ):
            raise InputError(
                f"{len(partner)} partners do not belong to {len(data)} sequences: give the number of one of them for "
                "each, and leave out sequences without a partner"
            )
        self._data, self._partner = data, partner

    def __len__(self) -> int:
        return len(self._partner)

    def __getitems__(self, items: Sequence[int]) -> Any:
        own = self._data.__getitems__(items)
        shown = self._data.__getitems__([int(self._partner[item]) for item in items])
        return shown._replace(targets=own.targets, targets_valid=own.targets_valid)


class _Both(NamedTuple):
    """A batch as it is, and as the control shows it."""

    own: Any
    permuted: Any

    @property
    def targets(self) -> Any:
        return self.own.targets

    @property
    def targets_valid(self) -> Any:
        return self.own.targets_valid


class _SideBySide:
    """Some sequences, each with its permuted twin."""

    def __init__(self, data: Sequences, permuted: PermutedTime, chosen: np.ndarray) -> None:
        self._data, self._permuted, self._chosen = data, permuted, chosen

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitems__(self, items: Sequence[int]) -> _Both:
        numbers = [int(self._chosen[item]) for item in items]
        return _Both(self._data.__getitems__(numbers), self._permuted.__getitems__(numbers))


def permuted_control(
    forecasters: Mapping[str, Forecaster],
    data: Sequences,
    starts: np.ndarray,
    resampling: Resampling,
    *,
    model: str,
    steps_in: int,
    steps_out: int,
    data_range: float = 2.0,
    threshold: float = 0.4,
    batch_size: int = 64,
    most: int = 4000,
) -> dict[str, Any]:
    """Return the content of ``control``: the model's skill on its own time and on another, and the verdict.

    The model is given everything of another time at the same place, while targets and baselines stay. A forecast
    made from what it is shown of its time must then lose its skill. ``passes`` says that it lost some beyond doubt:
    the interval of the difference of the skills lies above zero. It proves that the skill depends on the time shown,
    and so does not come from what is the same at all times: a map of the place that was learnt by heart, a target
    that is reached by another way than the inputs, or an error in the bookkeeping of the targets. It does *not*
    prove that the *state* of the inputs is used, as the dates and the climatology move along with them: for that
    the skill against climatology is the witness. Nor does it prove that no target was seen in training; that is
    the audit's business.

    ``destroyed`` says, against each baseline, that what is left is not above zero beyond doubt. What is left against
    a weak baseline need not alarm: persistence is beaten by any picture of the right season. What is left against
    the best baseline is skill that the time shown has no part in, such as a better map of the usual than a
    climatology of few years.

    Parameters
    ----------
    forecasters : mapping
        Name -> function of a batch; the model and the baselines to be compared with.
    data : Sequences
        See `PermutedTime`.
    starts : (n, 3) int
        Of the sequences of `data`.
    resampling : Resampling
        Of all sequences of `data`.
    model : str
        Whose skill is tried.
    steps_in, steps_out : int
    data_range, threshold, batch_size
        As for `score`.
    most : int
        Sequences at most, evenly spread over those that have a partner: the control needs three passes.

    Returns
    -------
    dict
        ``verdict`` (``passes``, ``fails``, or ``undecided`` without an interval), ``sequences``, ``alone`` (left
        out because no other time can be shown), ``sharing`` (share of the sequences whose partner shares composites
        with them: those lose less), ``skill`` and ``permuted_skill`` and ``difference``: baseline -> entry,
        ``destroyed``: baseline -> bool.

    Raises
    ------
    InputError
        If no sequence has a partner.
    """
    if model not in forecasters:
        raise unknown_name("forecaster", model, forecasters)
    partner = partners(starts, steps_in=steps_in, steps_out=steps_out, seed=resampling.seed)
    paired = np.flatnonzero(partner >= 0)
    if len(paired) == 0:
        raise InputError(
            "no sequence can be shown another time without showing it its own targets: the control needs a longer "
            f"test period, at least {steps_in + steps_out + 1} composites"
        )
    chosen = paired[np.unique(np.linspace(0, len(paired) - 1, min(len(paired), most)).round().astype(int))]
    permuted = PermutedTime(data, np.where(partner < 0, 0, partner))
    scores = score(
        _on_both(forecasters, model),
        _SideBySide(data, permuted, chosen),
        data_range=data_range,
        threshold=threshold,
        batch_size=batch_size,
    )
    later = np.abs(starts[chosen, 0] - starts[partner[chosen], 0])
    return {
        **_judged(scores.sums, resampling.of(chosen), model),
        "sequences": len(chosen),
        "alone": int(len(partner) - len(paired)),
        "sharing": float(np.mean(later < steps_in + steps_out)),
    }


def _on_both(forecasters: Mapping[str, Forecaster], model: str) -> dict[str, Forecaster]:
    """Return all forecasters on the true batch, and the model on the permuted one too."""

    def on_own(forecast: Forecaster) -> Forecaster:
        return lambda both: forecast(both.own)

    own = {name: on_own(forecast) for name, forecast in forecasters.items()}
    return {**own, PERMUTED: lambda both: forecasters[model](both.permuted)}


def _judged(sums: Mapping[str, np.ndarray], resampling: Resampling, model: str) -> dict[str, Any]:
    own, permuted = sums[model], sums[PERMUTED]
    bases = {name: part for name, part in sums.items() if name not in (model, PERMUTED)}
    lost = {name: lead_entry(_skill_lost, resampling, own, permuted, part) for name, part in bases.items()}
    left = {name: lead_entry(skill_of, resampling, permuted, part) for name, part in bases.items()}
    return {
        "verdict": _verdict(lost),
        "skill": {name: lead_entry(skill_of, resampling, own, part) for name, part in bases.items()},
        "permuted_skill": left,
        "difference": lost,
        "destroyed": {name: _gone(entry) for name, entry in left.items()},
    }


def _skill_lost(own: np.ndarray, permuted: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return the skill less the permuted one, of sums over the same pixels."""
    return skill_of(own, reference) - skill_of(permuted, reference)


def _verdict(lost: Mapping[str, Entry]) -> str:
    lows = [entry["interval"][0] for entry in lost.values()]
    if not lows or any(low is None for low in lows):
        return "undecided"
    return "passes" if min(lows) > 0 else "fails"


def _gone(left: Entry) -> bool | None:
    low = left["interval"][0]
    return None if low is None else low <= 0
