"""The scaling benchmark on one page that needs nothing else, with its figures as SVG and its tables as CSV beside it.

Made again from an earlier run's JSON by::

    python benchmarks/scaling_page.py scaling.json figures
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scaling_laws import LAWS
from scaling_plots import PART_WORDS, draw_all, svg_of
from scaling_points import MODES, PARTS
from scaling_project import trust

import glacierhpc
from glacierhpc.files import atomic_path
from glacierhpc.report.blocks import Block, Listing, Note, Picture, Table, Tile, number, percent, table
from glacierhpc.report.page import Section, template

Run = Mapping[str, Any]
CAPTIONS = {
    "scaling": "Speed-up over the fewest workers, log scales. Strong: the same work for all; weak: as much for each. "
    "Laws end where the measurements end.",
    "split": "Where the time of the workers went, means over the repeats.",
    "model": "The discrete-event model beside the measurements. It is calibrated on the points with the fewest workers "
    "and, for training, on the exchange between ranks; all others are new to it.",
    "projection": "PROJECTION by the model, not a measurement. The assumptions are listed below.",
    "comparison": "This run over the earlier one, with the interval of the ratio.",
}


def write_all(run: Run, folder: Path) -> list[Path]:
    """Write ``scaling.html``, a CSV file of the points, one of the projection, and the figures; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    details = run["details"]
    figures = draw_all(details)
    written = [_write(folder / f"scaling_{name}.svg", svg_of(figure)) for name, figure in figures.items()]
    written.append(_write_table(folder / "scaling.csv", _point_rows(details)))
    written.append(_write_table(folder / "scaling_projection.csv", details["projection"]["rows"]))
    written.append(_write(folder / "scaling.html", page(run, figures).encode("utf-8")))
    return written


def _write(path: Path, content: bytes) -> Path:
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    return path


def _write_table(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    rows = list(rows)
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else ["projection"])
        writer.writeheader()
        writer.writerows(rows)
    return path


def _point_rows(details: Run) -> list[dict[str, Any]]:
    rows = []
    for point in details["points"]:
        row = {name: point[name] for name in ("step", "mode", "workers", "work", "unit", "oversubscribed")}
        row |= {"projection": False, "repeats": len(point["seconds"])}
        for name in ("median_s", "speed_up", "efficiency"):
            told = point[name]
            row |= {name: told["value"], f"{name}_low": told["low"], f"{name}_high": told["high"]}
        row |= {"coverage": point["median_s"]["coverage"], "start_s": point["start_s"]}
        rows.append(row | {f"share_{part}": point["split"].get(part) for part in PARTS})
    return rows


def page(run: Run, figures: Mapping[str, str]) -> str:
    """Return the page."""
    details = run["details"]
    makers = (
        ("measured", "Measured", lambda: _measured(details, figures)),
        ("laws", "Laws", lambda: _laws(details)),
        ("split", "Where the time goes", lambda: _split(details, figures)),
        ("comparison", "Against an earlier run", lambda: _comparison(details, figures)),
        ("model", "The model beside the measurements", lambda: _model(details, figures)),
        ("projection", "Projection", lambda: _projection(details, figures)),
        ("record", "Record", lambda: _record(run)),
    )
    return template().render(
        title="Scaling of the steps",
        facts=_facts(run),
        tiles=_tiles(details),
        sections=[(Section(key, title, "", ()), make()) for key, title, make in makers],
        version=glacierhpc.__version__,
    )


def _facts(run: Run) -> list[tuple[str, str]]:
    details, machine = run["details"], run["machine"]
    load, told = details["load_average"], details["environment"]
    pairs = [
        ("machine", f"{machine['processor']}, {details['cores']} cores on {len(details['hosts'])} host(s)"),
        ("conditions", run["conditions"]),
        ("workers", _started(details)),
        (
            "load average",
            f"{load['before']:.2f} before, {load['after']:.2f} after"
            + (f", on {load['cores']:g} cores" if "cores" in load else ""),
        ),
        ("date", run["date"]),
        ("commit", str(told.get("commit") or "unknown")),
        ("image", str(told.get("container_digest") or "none: not run in an image")),
        ("job", str(told.get("job_id") or "")),
    ]
    return [(name, value) for name, value in pairs if value]


def _started(details: Run) -> str:
    ranks = f", {details['backend']} ranks by {details['launcher']}" if details["launcher"] else ""
    return f"{details['cluster']} workers{ranks}"


def _tiles(details: Run) -> list[Tile]:
    tiles = []
    for step in dict.fromkeys(point["step"] for point in details["points"]):
        for mode in MODES:
            own = [
                p
                for p in details["points"]
                if (p["step"], p["mode"], p["oversubscribed"]) == (step, mode, False)
            ]
            if len(own) > 1:
                last = max(own, key=lambda p: p["workers"])
                low, high = (percent(last["efficiency"][end]) for end in ("low", "high"))
                detail = f"with {last['workers']}, {low} to {high}"
                tiles.append(
                    Tile(f"{step}: efficiency, {mode}", percent(last["efficiency"]["value"]), detail)
                )
    return tiles


def _picture(figures: Mapping[str, str], name: str) -> list[Block]:
    return [Picture(figures[name], CAPTIONS[name], CAPTIONS[name])] if name in figures else []


def _interval(told: Mapping[str, float]) -> str:
    return f"{number(told['value'])} ({number(told['low'])} to {number(told['high'])})"


def _measured(details: Run, figures: Mapping[str, str]) -> list[Block]:
    rows = [
        (
            p["step"],
            p["mode"],
            f"{p['workers']} *" if p["oversubscribed"] else p["workers"],
            f"{p['work']:g} {p['unit']}",
            _interval(p["median_s"]),
            _interval(p["speed_up"]),
            _interval(p["efficiency"]),
        )
        for p in details["points"]
    ]
    columns = ("step", "mode", "workers", "work", "seconds", "speed-up", "efficiency")
    few, ratios = (
        min((p[name]["coverage"] for p in details["points"]), default=0.0)
        for name in ("median_s", "speed_up")
    )
    caption = (
        f"Medians of the repeats with their intervals, by {details['intervals']}; those of the medians cover "
        f"{percent(few)} or more, those of speed-up and efficiency {percent(ratios)} or more. Speed-up of weak scaling "
        "is that of the work done. * more workers than cores."
    )
    notes: list[Block] = [Note(words, "bad") for words in details["words"]]
    return [*notes, *_picture(figures, "scaling"), table(caption, columns, rows, folded=False)]


def _laws(details: Run) -> list[Block]:
    rows = [
        (fit["law"], fit["step"], fit["mode"], _meaning(fit["law"], name), _interval(told), fit["words"])
        for fit in details["fits"]
        for name, told in fit["parameters"].items()
    ]
    left = [(one["law"], one["step"], one["mode"], one["reason"]) for one in details["not_fitted"]]
    blocks: list[Block] = []
    if rows:
        columns = ("law", "step", "mode", "parameter", "value, 95 % interval", "what must be known")
        blocks.append(table("Fitted to all repeats within the cores.", columns, rows, folded=False))
    if left:
        columns = ("law", "step", "mode", "reason")
        blocks.append(table("Laws that were not fitted.", columns, left, folded=bool(rows)))
    return blocks


def _meaning(law: str, parameter: str) -> str:
    return next(f"{parameter}: {one.parameters[parameter]}" for one in LAWS if one.name == law)


def _split(details: Run, figures: Mapping[str, str]) -> list[Block]:
    words = (
        "Workers: processor time in tasks; handing out as many empty tasks as measured; the rest of the tasks; nothing "
        "to do. Ranks: training by themselves at the same time on as much; what exchange adds; waiting for data; for "
        "the slowest rank."
    )
    rows = [
        (
            p["step"],
            p["mode"],
            p["workers"],
            *(percent(p["split"].get(part)) for part in PARTS),
            number(p["start_s"]),
        )
        for p in details["points"]
    ]
    columns = ("step", "mode", "workers", *(PART_WORDS[part] for part in PARTS), "seconds to come up")
    return [
        Note(words),
        *_picture(figures, "split"),
        table("The same in figures.", columns, rows, folded=True),
    ]


def _comparison(details: Run, figures: Mapping[str, str]) -> list[Block]:
    told = details["comparison"]
    if not told:
        return []
    rows = [
        (r["step"], r["mode"], r["workers"], _interval({**r, "value": r["ratio"]}), r["verdict"], r["reason"])
        for r in told["rows"]
    ]
    columns = ("step", "mode", "workers", "time over that of the earlier run", "verdict", "")
    caption = (
        "A difference is told where the interval leaves 1 out; all rows err in at most 5 of 100 comparisons, as far as "
        "the repeats show how times vary: what changed between the runs for all repeats alike counts as a difference."
    )
    return [
        Note(told["words"], "bad" if told["differences"] else "plain"),
        *_picture(figures, "comparison"),
        table(caption, columns, rows, folded=False),
    ]


def _model(details: Run, figures: Mapping[str, str]) -> list[Block]:
    rows = details["validation"]
    if not rows:
        return []
    new = [r for r in rows if not r["calibrated_on"] and not r["oversubscribed"]]
    met = sum(r["agrees"] for r in new)
    words = (
        f"Of {len(new)} points within the cores that were new to it the model meets {met} within the intervals."
        if new
        else "No point within the cores was new to the model: it is not tested."
    )
    cells = [
        (
            r["step"],
            r["mode"],
            r["workers"],
            f"{number(r['measured_s'])} ({number(r['measured_low_s'])} to {number(r['measured_high_s'])})",
            f"{number(r['model_s'])} ({number(r['model_low_s'])} to {number(r['model_high_s'])})",
            r["agrees"],
            "calibrated here" if r["calibrated_on"] else "",
        )
        for r in rows
    ]
    columns = ("step", "mode", "workers", "measured, s", "model, s", "meet", "")
    return [
        Note(words, "good" if new and met == len(new) else "bad"),
        *_picture(figures, "model"),
        table("Both in seconds, with their intervals.", columns, cells, folded=True),
    ]


def _projection(details: Run, figures: Mapping[str, str]) -> list[Block]:
    told = details["projection"]
    rows = [
        (
            r["step"],
            r["mode"],
            r["workers"],
            f"{r['work']:g}",
            f"{number(r['seconds'])} ({number(r['low_s'])} to {number(r['high_s'])})",
            number(r["speed_up"]),
            percent(r["efficiency"]),
            r["lost"],
        )
        for r in told["rows"]
    ]
    columns = ("step", "mode", "workers", "work", "seconds", "speed-up", "efficiency", "lost")
    note = (
        "Nothing in this section was measured: it is a projection by a model, worth what its assumptions are worth. "
        f"Beside the measurements – {'; '.join(trust(details['validation'])) or 'there are none'}."
    )
    left: list[Block] = [Note(text, "missing") for text in told["left_out"]]
    shown: list[Table] = [table("Projection.", columns, rows, folded=True)] if rows else []
    listed = Listing("Assumptions of the projection", _lines(told["assumptions"]), folded=False)
    return [Note(note, "bad"), *left, *_picture(figures, "projection"), listed, *shown]


def _lines(texts: Sequence[str]) -> str:
    return "\n".join(f"- {text}" for text in texts)


def _record(run: Run) -> list[Block]:
    told = run["details"]["environment"]
    rows = [(name, str(value)) for name, value in told.items() if name != "versions" and value is not None]
    rows += [(f"version of {name}", value) for name, value in told.get("versions", {}).items()]
    return [
        table("Where these figures come from.", ("what", "value"), rows, folded=True),
        Listing("The whole result as JSON", json.dumps(run, indent=1)),
    ]


if __name__ == "__main__":
    for made in write_all(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2])):
        print(made)
