"""The record of a run: its steps, its configuration, where it came from, and how to cite it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import glacierhpc
from glacierhpc.report.blocks import Block, Listing, number, table, words
from glacierhpc.report.run_files import RunFiles, setting

# What the archives ask to be said, by the beginning of the collection's name.
DATA_CREDITS = {
    "landsat": "Landsat Collection 2 imagery courtesy of the U.S. Geological Survey.",
    "sentinel-2": "Contains modified Copernicus Sentinel data.",
    "hls": "Harmonized Landsat Sentinel-2 data courtesy of NASA LP DAAC.",
}
METHODS = (
    ("Forecast", "Shi et al. (2015), NeurIPS 28, ConvLSTM", "10.48550/arXiv.1506.04214"),
    ("Alignment", "Evangelidis & Psarakis (2008), IEEE TPAMI 30(10)", "10.1109/TPAMI.2008.113"),
    ("Dense flow", "Farnebäck (2003), SCIA, LNCS 2749", "10.1007/3-540-45103-X_50"),
    ("SSIM", "Wang et al. (2004), IEEE TIP 13(4)", "10.1109/TIP.2003.819861"),
)


def steps(run: RunFiles) -> list[Block]:
    """List the steps of the run with their state and duration."""
    with run.understanding("steps"):
        names = sorted(path.name for path in (run.path / "steps").glob("*.json"))
    found = [(name.removesuffix(".json"), run.step(name)) for name in names]
    found.sort(key=lambda pair: str(pair[1].get("started", "")))
    cells = [
        (name, words(step.get("state")), _seconds(step.get("seconds")), _told(step)) for name, step in found
    ]
    caption = "The steps of this run, in the order of their start."
    return [table(caption, ("step", "state", "seconds", "result"), cells, folded=False)]


def _told(step: dict[str, Any]) -> str:
    """Return a step's error, or the table it ended with on one line."""
    if step.get("error"):
        return str(step["error"])
    rows = step.get("table") or []
    return (
        "; ".join(f"{row[0]} {words(row[1])}" for row in rows if isinstance(row, list) and len(row) == 2)
        or "–"
    )


def configuration(run: RunFiles) -> list[Block]:
    """Show the configuration as it was written."""
    return [Listing("config.yaml, as this run used it", run.text("config.yaml"))]


def provenance(run: RunFiles) -> list[Block]:
    """List versions, commit, host, seeds and inputs."""
    rows = list(_flat(run.json("provenance.json")))
    return [table("Where these results come from.", ("what", "value"), rows, source="provenance.json")]


def citation(run: RunFiles) -> list[Block]:
    """Say how to cite the software, the data and the methods."""
    collections = [str(name) for name in setting(run.settings(), "archive.collections", [])]
    credits = {
        text for name in collections for start, text in DATA_CREDITS.items() if name.lower().startswith(start)
    }
    if _synthetic(run):
        credits = {"Imagery: synthetic scenes that glacierhpc made; they show no real place."}
    commit = _commit(run)
    software = (
        f"glacierhpc, version {glacierhpc.__version__}{f', commit {commit}' if commit else ''}, Apache-2.0."
    )
    lines = [software, *sorted(credits)]
    if collections and not credits:
        lines.append(f"Imagery: collections {', '.join(collections)}; cite them as their archive asks.")
    lines += [f"{what}: {paper}, doi:{doi}" for what, paper, doi in METHODS]
    return [Listing("To be named in a publication", "\n".join(lines), folded=False)]


def _synthetic(run: RunFiles) -> bool:
    if not run.has("items.json"):
        return False
    items = run.json("items.json", keys=("features",))["features"]
    return bool(items) and all(item.get("properties", {}).get("glacierhpc:synthetic") for item in items)


def _commit(run: RunFiles) -> str:
    if not run.has("provenance.json"):
        return ""
    found = dict(_flat(run.json("provenance.json")))
    return next(
        (value for key, value in found.items() if key.split(".")[-1] in ("commit", "git_commit")), ""
    )[:12]


def _seconds(value: object) -> str:
    return number(float(value)) if isinstance(value, int | float) else "–"


def _flat(value: object, name: str = "") -> Iterator[tuple[str, str]]:
    """Give nested mappings as dotted names, and lists as one line."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        texts = [words(inner) for inner in value]
        shown = ", ".join(texts[:40])
        yield name, f"{shown}, … ({len(texts)} in all)" if len(texts) > 40 else shown or "none"
    else:
        yield name, words(value)
