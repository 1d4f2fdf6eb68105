"""The benchmarks as commands; they are scripts of the source repository."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import typer

from glacierhpc.errors import InputError

BENCHMARKS = {
    "acquire": "Measure how fast scenes are read.",
    "align": "Measure how fast and how exact pairs are aligned.",
    "forecast": "Measure how good the forecasts of every model are.",
    "gaps": "Measure how fast gaps are filled.",
    "patch": "Measure how fast training sequences are cut.",
    "train": "Measure how fast models are trained and forecast.",
    "memory": "Measure the memory that the imagery steps take.",
    "scaling": "Measure how the steps scale over workers and ranks.",
}
"""The benchmarks with their help lines; each is a script of the same name in ``benchmarks/``."""

app = typer.Typer(help="Benchmarks.", no_args_is_help=True)


def _bench_command(name: str) -> Callable[..., None]:
    def command(context: typer.Context) -> None:
        _benchmark(name, context.args)

    return command


for _name, _help in BENCHMARKS.items():
    app.command(
        _name,
        help=f"{_help} Options go to benchmarks/{_name}.py.",
        add_help_option=False,  # --help is that of the benchmark
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )(_bench_command(_name))


def _benchmark(name: str, arguments: list[str]) -> None:
    # beside the package, or in the clone that an image's glacierhpc is called in
    places = [
        folder / "benchmarks" / f"{name}.py" for folder in (Path(__file__).resolve().parents[2], Path.cwd())
    ]
    script = next((place for place in places if place.is_file()), None)
    if script is None:
        raise InputError(
            f"neither {str(places[0])!r} nor {str(places[1])!r} exists; benchmarks come with the source repository: "
            "call them in a clone of it"
        )
    sys.stdout.flush()
    # in the place of this process: a signal is the benchmark's, which ends its workers, and so is the exit code
    os.execv(sys.executable, [sys.executable, str(script), *arguments])
