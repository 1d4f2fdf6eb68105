"""What the names of image files say: scene, date, band and platform; nothing is opened."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from glacierhpc.errors import InputError

# name patterns with the groups scene and band (optional), date, platform (optional)
_LANDSAT = re.compile(
    r"(?P<scene>L(?P<sensor>[CETMO])0?(?P<number>\d)_(?P<level>L\w{3})_\d{6}_(?P<date>\d{8})(?:_\d{8})?_\d\d_\w\d)"
    r"_(?P<band>(?:SR_|ST_)?B\d{1,2}|QA_PIXEL|QA_RADSAT)$",
    re.IGNORECASE,
)
_SENTINEL = re.compile(
    r"(?P<scene>T\d\d[A-Z]{3}_(?P<date>\d{8}T\d{6}))_(?P<band>B\d[\dA]|SCL)(?:_\d\dm)?$", re.IGNORECASE
)
_ANY_DATE = re.compile(r"(?<!\d)(?P<date>(?:19|20)\d\d[-_]?[01]\d[-_]?[0-3]\d(?:T\d{6})?)(?!\d)")


@dataclass
class SceneFiles:
    """The files of one scene, by the band they hold (empty: told by the bands inside)."""

    when: pd.Timestamp | None
    platform: str = ""
    files: dict[str, Path] = field(default_factory=dict)


def group(images: Sequence[Path], pattern: str | None) -> dict[str, SceneFiles]:
    """Sort files into scenes by their names.

    Raises
    ------
    InputError
        If a name does not fit the pattern, or two files hold the same band of a scene.
    """
    expression = _compile(pattern) if pattern else None
    scenes: dict[str, SceneFiles] = {}
    for path in images:
        name, when, band, platform = _parse(path, expression)
        scene = scenes.setdefault(name, SceneFiles(when, platform))
        if band in scene.files:
            raise InputError(
                f"{path.name!r} and {scene.files[band].name!r} both hold band {band or 'set'!r} of scene {name!r}; "
                "tell scenes apart with --pattern, or move one away"
            )
        scene.files[band] = path
    return scenes


def _compile(pattern: str) -> re.Pattern[str]:
    """Turn a template into a regular expression; one that is already an expression stays as it is."""
    if "(?P<" not in pattern:
        groups = {"date": r"\d{4}[-_]?\d\d[-_]?\d\d(?:T\d{6})?", "scene": ".+?", "band": "[A-Za-z0-9]+"}
        pieces = re.split(r"(\{\w+\}|\*)", pattern)
        pattern = "".join(
            f"(?P<{piece[1:-1]}>{groups[piece[1:-1]]})"
            if piece[1:-1] in groups and piece.startswith("{")
            else ".*?"
            if piece == "*"
            else re.escape(piece)
            for piece in pieces
        )
    try:
        expression = re.compile(pattern)
    except re.error as err:
        raise InputError(
            f"pattern {pattern!r} cannot be read ({err}); write e.g. '{{scene}}_{{date}}_{{band}}'"
        ) from err
    if not {"date", "scene"} & set(expression.groupindex):
        raise InputError(
            f"pattern {pattern!r} names neither {{date}} nor {{scene}}; write e.g. '*_{{date}}_{{band}}'"
        )
    return expression


def _parse(path: Path, expression: re.Pattern[str] | None) -> tuple[str, pd.Timestamp | None, str, str]:
    """Return scene, date, band and platform of a file by its name; empty where it does not say."""
    stem = path.stem
    if expression is not None:
        found = expression.fullmatch(stem)
        if found is None:
            raise InputError(
                f"{path.name!r} does not fit the pattern {expression.pattern!r}; move it away or widen it"
            )
        groups = {name: text for name, text in found.groupdict().items() if text}
        scene = groups.get("scene", "") if "date" not in groups else "_".join(
            filter(None, (groups.get("scene"), groups["date"]))
        )  # fmt: skip
        return scene, _date(groups.get("date")), groups.get("band", ""), ""
    found = _LANDSAT.match(stem)
    if found:
        return found["scene"], _date(found["date"]), found["band"], f"landsat-{found['number']}"
    found = _SENTINEL.match(stem)
    if found:
        return found["scene"], _date(found["date"]), found["band"], "sentinel-2"
    found = _ANY_DATE.search(stem)
    return stem, _date(found["date"]) if found else None, "", ""


def _date(text: str | None) -> pd.Timestamp | None:
    if text is None:
        return None
    try:
        return pd.Timestamp(text.replace("_", "").replace("-", ""))
    except ValueError:
        return None
