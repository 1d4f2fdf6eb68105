"""What a command shows: log lines or a progress bar, the closing table, the JSON line, the one line of an error.

Which commands there are is said in `cli`.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from glacierhpc.errors import redact

LINE = "%(asctime)s %(levelname)-7s %(message)s"


class ProgressLine(logging.Handler):
    """Shows the latest message on one line of the terminal; warnings stay above it.

    A record with ``extra={"done": n, "total": m}`` moves a bar; with ``"bar_only": True`` it is for a terminal alone.
    """

    def __init__(self, progress: Any) -> None:
        super().__init__(logging.INFO)
        self._progress = progress
        self._task = progress.add_task("starting", total=None)

    def emit(self, record: logging.LogRecord) -> None:
        """Update the line."""
        message = record.getMessage()
        if record.levelno >= logging.WARNING:
            self._progress.console.print(
                f"{record.levelname.lower()}: {message}", markup=False, highlight=False
            )
            return
        done, total = getattr(record, "done", None), getattr(record, "total", None)
        self._progress.update(self._task, description=message, completed=done or 0, total=total)


@contextmanager
def logging_shown() -> Iterator[None]:
    """Show the package's log on standard error while the block runs."""
    package = logging.getLogger("glacierhpc")
    before = package.level
    package.setLevel(logging.INFO)
    with _terminal_handler() as handler:
        package.addHandler(handler)
        try:
            yield
        finally:
            package.removeHandler(handler)
            package.setLevel(before)


@contextmanager
def _terminal_handler() -> Iterator[logging.Handler]:
    if not sys.stderr.isatty():
        plain = logging.StreamHandler(sys.stderr)
        plain.addFilter(lambda record: not getattr(record, "bar_only", False))
        plain.setFormatter(logging.Formatter(LINE))
        yield plain
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        BarColumn(20),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield ProgressLine(progress)


def show(summary: dict[str, Any], *, as_json: bool) -> None:
    """Print a summary: its ``table`` rows for people, or the rest as one JSON line.

    Parameters
    ----------
    summary : dict
        ``table`` is a list of ``[label, value]`` rows; ``title`` a heading; everything else is data.
    as_json : bool
        Print one JSON object instead.
    """
    if as_json:
        data = {key: value for key, value in summary.items() if key not in ("table", "title")}
        print(_json({"ok": True, **data}))  # noqa: T201
        return
    rows: Sequence[Sequence[Any]] = summary.get("table") or []
    _print_table(str(summary.get("title") or ""), rows)


def _json(data: dict[str, Any]) -> str:
    try:
        return json.dumps(data, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError):  # numbers of numpy, paths: only who has them waits for the import
        from glacierhpc.files import plain

        return json.dumps(plain(data), ensure_ascii=False, allow_nan=False)


def _print_table(title: str, rows: Sequence[Sequence[Any]]) -> None:
    """Print rows, on a terminal folded to its width, elsewhere one line each so that paths stay in one piece."""
    told = [(str(label), "  ".join(str(value) for value in values)) for label, *values in rows]
    if not sys.stdout.isatty():
        width = max((len(label) for label, _ in told), default=0)
        lines = [title] if title else []
        print("\n".join([*lines, *(f"{label:<{width}}  {value}" for label, value in told)]))  # noqa: T201
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for label, value in told:
        table.add_row(Text(label), Text(value))
    Console().print(table)


def show_error(message: str, *, exit_code: int, as_json: bool) -> None:
    """Print an error without tokens: its line to standard error, and the JSON object where one was asked for."""
    message = redact(message)
    print(f"glacierhpc: {message}", file=sys.stderr)  # noqa: T201
    if as_json:
        answer = {"ok": False, "exit_code": exit_code, "error": message}
        print(json.dumps(answer, ensure_ascii=False))  # noqa: T201


def keep_traceback(log: Path | None) -> Path | str:
    """Write the traceback of the exception being handled to the run's log, else to a temporary file.

    Without tokens: the texts of other packages name the signed URL they could not read.
    """
    text = redact(traceback.format_exc())
    try:
        if log is not None and log.parent.is_dir():
            with log.open("a", encoding="utf-8") as file:
                file.write(text)
            return log
        descriptor, name = tempfile.mkstemp(prefix="glacierhpc-", suffix=".log", text=True)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        return Path(name)
    except OSError as err:
        return f"no file: {err}"
