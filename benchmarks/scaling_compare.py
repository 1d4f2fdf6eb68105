"""Two runs of the scaling benchmark side by side: what became slower, what faster, and what cannot be told.

A difference counts as told only beyond doubt: two runs that differ in nothing are told apart, at any of their points,
in no more than 5 of 100 comparisons. The repeats of a run share the state its machine was in, which no repeat shows;
what is known of it stands among the differences.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scaling_points import ratio_interval

from glacierhpc.errors import InputError

DOUBT = 0.05
"""Chance of a false alarm in a whole comparison, shared out to its points (Bonferroni)."""
OTHER_LOAD = 0.3
"""Difference of the load per core before two runs from which it is named."""
SLOWER, FASTER, UNDECIDED = "slower beyond doubt", "faster beyond doubt", "not told apart"


def read_details(path: Path) -> dict[str, Any]:
    """Return a run that was written by ``--output``.

    Raises
    ------
    InputError
        If the file is none.
    """
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        if told["benchmark"] != "scaling":
            raise KeyError("benchmark")
        for point in told["details"]["points"]:
            _key(point)
            if not min(point["seconds"]) > 0:
                raise ValueError(f"seconds of {point['step']}")
        _ = told["machine"].items(), told["conditions"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
        raise InputError(
            f"{str(path)!r} is no result of this benchmark ({type(err).__name__}: {err}): give a file that "
            "`glacierhpc bench scaling --output FILE` wrote"
        ) from err
    return dict(told)


def compare(new: Mapping[str, Any], old: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ratio new to old of every point that both runs measured, with its interval and a verdict.

    Parameters
    ----------
    new, old : mapping
        Whole results, as written by ``--output``.
    """
    before = {_key(point): point for point in old["details"]["points"]}
    both = [point for point in new["details"]["points"] if _key(point) in before]
    rows = [
        {
            **dict(zip(_KEY, _key(point))),
            **judged(point["seconds"], before[_key(point)]["seconds"], points=len(both)),
        }
        for point in both
    ]
    differing = differences(new, old)
    words = (
        "the same machine and versions" if not differing else "not of the code alone: " + "; ".join(differing)
    )
    return {
        "against": {"date": old.get("date"), "commit": _environment(old).get("commit")},
        "rows": rows,
        "differences": differing,
        "words": f"{len(rows)} points of both runs, {words}",
    }


def judged(new: Sequence[float], old: Sequence[float], *, points: int = 1) -> dict[str, Any]:
    """Return ratio, interval and verdict of the repeats of one of some points in two runs."""
    wanted = 1 - DOUBT / points
    ratio = ratio_interval(new, old, wanted=wanted)
    sure = ratio.coverage >= wanted
    verdict = SLOWER if sure and ratio.low > 1 else FASTER if sure and ratio.high < 1 else UNDECIDED
    return {
        "ratio": ratio.value,
        "low": ratio.low,
        "high": ratio.high,
        "coverage": ratio.coverage,
        "verdict": verdict,
        "reason": ""
        if sure
        else f"{len(new)} and {len(old)} repeats cannot tell; measure {_enough(points)} or more in both",
    }


def _enough(points: int) -> int:
    """Return how many repeats in each run can tell some points apart without a false alarm."""
    return next(n for n in range(1, 100) if 2 / math.comb(2 * n, n) <= DOUBT / points)


_KEY = ("step", "mode", "workers", "work", "unit")


def _key(point: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(point[name] for name in _KEY)


def _environment(run: Mapping[str, Any]) -> Mapping[str, Any]:
    return run["details"].get("environment", {})


def differences(new: Mapping[str, Any], old: Mapping[str, Any], *, also: Sequence[str] = ()) -> list[str]:
    """Return what else differs between two runs, in words; of the environment also what is named."""
    pairs: dict[str, tuple[Any, Any]] = {
        name: (new["machine"].get(name), old["machine"].get(name)) for name in new["machine"]
    }
    pairs["conditions"] = (new["conditions"], old["conditions"])
    ours, theirs = _environment(new), _environment(old)
    pairs["image"] = (ours.get("container_digest"), theirs.get("container_digest"))
    pairs |= {name: (ours.get(name), theirs.get(name)) for name in also}
    versions, known = ours.get("versions", {}), theirs.get("versions", {})
    pairs |= {f"version of {name}": (versions.get(name), known.get(name)) for name in versions}
    told = [
        f"{name} {after!r}, before {before!r}" for name, (after, before) in pairs.items() if after != before
    ]
    loads = [_load_per_core(run) for run in (new, old)]
    if None not in loads and abs(loads[0] - loads[1]) > OTHER_LOAD:
        told.append(f"load average {loads[0]:.1f} per core, before {loads[1]:.1f}")
    return told


def _load_per_core(run: Mapping[str, Any]) -> float | None:
    load = run["details"].get("load_average", {})
    return load["before"] / load["cores"] if load.get("cores") else None
