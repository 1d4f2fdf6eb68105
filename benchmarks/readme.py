"""Write the README's table of benchmarks from the JSON files of a run of all of them (``make bench``).

Only what lies between the two marks changes; nothing is measured here.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from harness import short

BEGIN, END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"
ROOT = Path(__file__).resolve().parents[1]


def block(results: list[dict[str, Any]]) -> str:
    """Return the table in Markdown, with the machine, the dates and the command."""
    machines = {json.dumps(result["machine"], sort_keys=True) for result in results}
    if len(machines) != 1:
        raise SystemExit(f"the results come from {len(machines)} machines; run `make bench` on one")
    machine = results[0]["machine"]
    dates = sorted({result["date"] for result in results})
    lines = [
        f"`glacierhpc bench NAME` (all: `make bench`) on {machine['processor']}, {machine['cores']} cores, "
        f"Python {machine['python']}, "
        f"{' to '.join(dict.fromkeys((dates[0], dates[-1])))}. Each peer does the same work in the same run, for "
        "as many repeats; medians. The ratio is how many times better ours is; under 1 the peer is better.",
        "",
        "| what | ours | peer | its figure | ratio |",
        "| --- | ---: | --- | ---: | ---: |",
    ]
    for result in results:
        lines += [_line(row) for row in result.get("rows", []) if row["in_readme"]]
    lines += ["", *(f"- {result['benchmark']}: {_conditions(result)}" for result in results)]
    return "\n".join(lines)


def _line(row: dict[str, Any]) -> str:
    scale, unit = (1e3, "ms") if row["unit"] == "s" and row["ours"] < 1 else (1.0, row["unit"])
    ours, theirs = (f"{short(scale * row[key])} {unit}" for key in ("ours", "peer_value"))
    return f"| {row['what']} | {ours} | {row['peer']} | {theirs} | {short(row['ratio'])} |"


def _conditions(result: dict[str, Any]) -> str:
    if result["benchmark"] == "scaling":
        return _scaling(result)
    if "peak_gb" not in result:
        return str(result["conditions"])
    return f"{result['conditions']}, from `acquire` to `composite`: {result['peak_gb']:.1f} GB in all at the peak"


def _scaling(result: dict[str, Any]) -> str:
    """Return what must be read with the ratios, which are speed-ups, and how far its model is to be trusted."""
    details = result["details"]
    new = [row for row in details["validation"] if not (row["calibrated_on"] or row["oversubscribed"])]
    told = [f"{result['conditions']}; the ratio is the speed-up", " ".join(details["words"]).rstrip(".")]
    if new:
        told.append(
            f"The model of events, calibrated on the fewest workers, meets {sum(row['agrees'] for row in new)} of the "
            f"{len(new)} points that were new to it within the intervals; efficiencies with their intervals, and what "
            "it projects, which is no measurement, are on the page that `--plots FOLDER` writes"
        )
    return ". ".join(told)


def rewrite(text: str, table: str) -> str:
    """Return a README with the table between its marks."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise SystemExit(f"the README needs one {BEGIN} and after it one {END}")
    return f"{text[: text.index(BEGIN)]}{BEGIN}\n{table}\n{text[text.index(END) :]}"


def main() -> None:
    """Rewrite the block."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "bench", help="folder of JSON files")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    asked = parser.parse_args()
    files = sorted(asked.results.glob("*.json"))
    if not files:
        raise SystemExit(f"no results in {str(asked.results)!r}; run `make bench`")
    results = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    text = asked.readme.read_text(encoding="utf-8")
    asked.readme.write_text(rewrite(text, block(results)), encoding="utf-8")


if __name__ == "__main__":
    main()
