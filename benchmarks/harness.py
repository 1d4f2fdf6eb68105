"""What every benchmark needs: the machine described, runs repeated, medians, and one form of result.

What is measured is each benchmark's own. Speed is a ratio to a named peer that did the same work in the same run.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from glacierhpc.atomic import write_text

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def run_single_threaded() -> None:
    """Start this script again with one thread in every library, unless it was started so.

    Threads of a library that wait for more work would be counted to whoever is timed next.
    """
    if any(os.environ.get(name) != value for name, value in ONE_THREAD.items()):
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ONE_THREAD})


@dataclass(frozen=True)
class Row:
    """One measurement beside that of a peer."""

    what: str
    ours: float
    peer: str
    """Name of the peer."""
    peer_value: float
    unit: str
    more_is_better: bool = False
    in_readme: bool = False

    @property
    def ratio(self) -> float:
        """How many times better ours is, that is faster or more exact; under 1 the peer is."""
        pair = (self.ours, self.peer_value) if self.more_is_better else (self.peer_value, self.ours)
        return pair[0] / pair[1]


@dataclass(frozen=True)
class Result:
    """What a benchmark found."""

    benchmark: str
    conditions: str
    """Sizes, threads, repeats: what a reader needs to judge the figures."""
    rows: list[Row]
    details: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON takes it, with the machine, the date and the command."""
        return {
            "benchmark": self.benchmark,
            "conditions": self.conditions,
            "machine": machine(),
            "date": datetime.date.today().isoformat(),
            "command": f"glacierhpc bench {self.benchmark}",
            "rows": [{**asdict(row), "ratio": row.ratio} for row in self.rows],
            "details": self.details,
        }


def machine() -> dict[str, Any]:
    """Return the processor, the cores this process may use, and the versions that matter."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def _processor() -> str:
    """Return the processor's name, with family and model where a virtual machine hides the name."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    told = dict(part.split(":", 1) for part in text.split("\n\n")[0].splitlines() if ":" in part)
    facts = {key.strip(): value.strip() for key, value in told.items()}
    name = facts.get("model name") or platform.processor() or platform.machine()
    numbers = [
        f"{key} {facts[full]}"
        for key, full in (("family", "cpu family"), ("model", "model"))
        if full in facts
    ]
    return f"{name} ({', '.join(numbers)})" if numbers else name


def medians(
    runs: dict[str, Callable[[], Any]], *, repeats: int, warm_up: bool = True, calls: int = 1
) -> dict[str, float]:
    """Return the median duration of each of some runs, seconds.

    They take turns, so that a machine that slows down slows down all of them. Short runs are called several times
    per turn, or else each pays for the state of caches and heap that the one before it left.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + warm_up):
        for name, run in runs.items():
            started = time.perf_counter()
            for _ in range(calls):
                run()
            if turn >= warm_up:
                seconds[name].append((time.perf_counter() - started) / calls)
    return {name: statistics.median(values) for name, values in seconds.items()}


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with what all benchmarks understand."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write the JSON object to a file")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs, not how fast")
    parser.add_argument("--repeats", type=int, default=5, help="the median counts")
    return parser


def report(result: Result, asked: argparse.Namespace) -> None:
    """Print a table, or one JSON object; write it where asked."""
    told = json.dumps(result.to_dict())
    if asked.output:
        asked.output.parent.mkdir(parents=True, exist_ok=True)
        write_text(asked.output, told + "\n")
    if asked.json:
        print(told)
        return
    table = Table("what", "ours", "peer", "its figure", "unit", "ratio", title=result.conditions)
    for row in result.rows:
        table.add_row(row.what, short(row.ours), row.peer, short(row.peer_value), row.unit, short(row.ratio))
    Console().print(table)


def short(value: float) -> str:
    """Return a number with three digits that count."""
    if value >= 1e6:
        return f"{value / 1e6:.3g} M"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
