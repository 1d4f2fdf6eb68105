"""What a page is made of: pictures, tables, notes and tiles, and how numbers are worded.

How they look is the template's business; nothing here reads a run or draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

MAX_ROWS = 400  # a thousand-scene archive must not make the page heavy
OPEN_ROWS = 12  # longer tables start folded


@dataclass(frozen=True)
class Picture:
    """An image inside the page."""

    source: str
    """A ``data:`` address."""
    alt: str
    """What the picture shows, for those who cannot see it."""
    caption: str
    still: str = ""
    """For an animation: the picture for readers who asked for reduced motion."""
    layout: str = "wide"
    """``wide`` scrolls on narrow screens, ``half`` stands beside another such, ``map`` shrinks with the screen."""
    kind: str = "picture"


@dataclass(frozen=True)
class Table:
    """A table of words and numbers, already formatted."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    more: str = ""
    """Says what was left out, and where it is."""
    folded: bool = False
    groups: tuple[tuple[str, int], ...] = ()
    """Headings over several columns each, with how many; with them the table is set close and its numbers right."""
    kind: str = "table"

    @property
    def numeric(self) -> tuple[bool, ...]:
        """Whether each column holds numbers and dashes alone."""
        return tuple(all(_is_number(cell) for cell in column) for column in zip(*self.rows, strict=True))


@dataclass(frozen=True)
class Note:
    """A sentence that stands apart: `tone` is ``plain``, ``good``, ``bad``, ``missing`` or ``damaged``."""

    text: str
    tone: str = "plain"
    kind: str = "note"


@dataclass(frozen=True)
class Listing:
    """Text with its line breaks: a configuration, a citation."""

    caption: str
    text: str
    folded: bool = True
    kind: str = "listing"


@dataclass(frozen=True)
class Terms:
    """Words and what they mean."""

    caption: str
    pairs: tuple[tuple[str, str], ...]
    kind: str = "terms"


@dataclass(frozen=True)
class Flicker:
    """One column of a blink comparison; images are ``data:`` addresses of one size."""

    title: str
    detail: str
    reference: str
    before: str
    after: str
    alt: str


@dataclass(frozen=True)
class Blink:
    """Scenes that take turns with their reference, before and after alignment; the reader may hold either."""

    columns: tuple[Flicker, ...]
    caption: str
    kind: str = "blink"


@dataclass(frozen=True)
class Tile:
    """One verdict of the first screen."""

    label: str
    value: str
    detail: str = ""
    tone: str = "plain"


Block = Picture | Table | Note | Listing | Terms | Blink


def table(
    caption: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    source: str = "",
    folded: bool | None = None,
) -> Table:
    """Return a table whose cells are words, cut at `MAX_ROWS` with a sentence that says so.

    Parameters
    ----------
    source : str
        The file that holds all rows.
    folded : bool, optional
        Default: folded when longer than `OPEN_ROWS`.
    """
    shown = tuple(tuple(words(cell) for cell in row) for row in rows[:MAX_ROWS])
    left_out = len(rows) - len(shown)
    more = f"{left_out} more rows are in {source}." if left_out > 0 else ""
    fold = len(rows) > OPEN_ROWS if folded is None else folded
    return Table(caption, tuple(columns), shown, more, fold)


def words(value: object) -> str:
    """Return one cell's text: missing values as a dash, numbers with three significant digits."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value}"
    if isinstance(value, float):
        return number(value)
    return str(value)


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with `digits` significant digits, a real minus sign, and a dash for no value."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:.{places}f}" if places <= 6 else f"{value:.{digits - 1}e}"
    return text.replace("-", "\N{MINUS SIGN}")


def _is_number(cell: str) -> bool:
    return cell.replace("\N{MINUS SIGN}", "").replace("+", "").replace(".", "").isdecimal() or cell == "–"


def signed(value: float | None, places: int = 2) -> str:
    """Return a number that always shows its sign."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:+.{places}f}".replace("-", "\N{MINUS SIGN}")


def interval(bounds: Sequence[float | None] | None, places: int = 2) -> str:
    """Return ``[low, high]``, or nothing where there is none."""
    if not bounds or any(bound is None or not math.isfinite(bound) for bound in bounds):
        return ""
    return f"[{signed(bounds[0], places)}, {signed(bounds[1], places)}]"


def percent(share: float | None) -> str:
    """Return a share in [0, 1] as a percentage."""
    return "–" if share is None or not math.isfinite(share) else f"{100 * share:.0f}\N{NO-BREAK SPACE}%"


def plural(count: int, noun: str) -> str:
    """Return ``1 scene``, ``2 scenes``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
