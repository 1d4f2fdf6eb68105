"""Why scenes were left out, told once for all of which it is true; the reasons themselves come from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterable

_ASSET = re.compile(r"^[\w-]+: ")
_SAID = re.compile(r" \[[^\]]*\]$")
_PLACE = re.compile(r"\w+://[^\s'\"]+|(?<![\w.])/[^\s'\":,;]+")
NAMED = 3


def plain_reason(reason: str, scene: str = "") -> str:
    """Return a reason without what differs from scene to scene: its asset, its name, addresses, GDAL's own words."""
    text = _SAID.sub("", _ASSET.sub("", reason))
    text = text.replace(scene, "...") if scene else text
    return _PLACE.sub("...", text)


def group_reasons(failed: Iterable[tuple[str, str]]) -> list[str]:
    """Return a line for each reason, the most frequent first, with the scenes it is true of.

    Parameters
    ----------
    failed : iterable of (scene, reason)
    """
    scenes: dict[str, list[str]] = {}
    examples: dict[str, str] = {}
    for scene, reason in failed:
        key = plain_reason(reason, scene)
        scenes.setdefault(key, []).append(scene)
        examples.setdefault(key, reason)
    return [
        _line(names, key, examples[key])
        for key, names in sorted(scenes.items(), key=lambda pair: (-len(pair[1]), pair[0]))
    ]


def _line(names: list[str], key: str, example: str) -> str:
    if len(names) == 1:
        return f"{names[0]}: {example}"
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{len(names)} scenes: {key} ({', '.join(names[:NAMED])}{more})"
