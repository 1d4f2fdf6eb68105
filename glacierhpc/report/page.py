"""The page: which sections there are, in which order, and how they become one HTML file.

What a section shows is in the module named after its subject; how it looks is in ``page.html.j2`` and ``page.css``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import jinja2

import glacierhpc
from glacierhpc.errors import GlacierError
from glacierhpc.files import atomic_path
from glacierhpc.report import (
    alignment,
    alignment_plots,
    alignment_table,
    blink,
    closure,
    composites,
    flow,
    forecast,
    losses,
    maps,
    overview,
    record,
    skill,
    skill_groups,
    skill_plots,
    skill_table,
    skill_trust,
    sweep,
    timeline,
    training,
    turns,
    vectors,
)
from glacierhpc.report.blocks import Block, Note
from glacierhpc.report.run_files import Damaged, NotMade, RunFiles, setting, shows
from glacierhpc.rundir import RunDirectory

log = logging.getLogger(__name__)
Part = Callable[[RunFiles], list[Block]]

READINGS = 3


@dataclass(frozen=True)
class Section:
    """A heading of the page and the parts under it; each part stands or falls alone."""

    key: str
    title: str
    intro: str | Callable[[RunFiles], str]
    parts: tuple[Part, ...]


SECTIONS = (
    Section("area", "Area", "", (maps.area_map, maps.footprints)),
    Section("scenes", "Scenes", "", (timeline.scenes, losses.losses, timeline.quality)),
    Section(
        "alignment",
        "Alignment",
        alignment.intro,
        (
            alignment.verdicts,
            alignment_table.first_looks,
            alignment.meaning,
            blink.blink,
            alignment_plots.shifts,
            alignment_plots.residuals,
            vectors.vectors,
            closure.closure,
            closure.links,
            alignment_table.every_scene,
        ),  # fmt: skip
    ),
    Section("composites", "Composites", "", (composites.thumbnails, composites.looks)),
    Section(
        "skill",
        "Skill",
        "The forecast counts only where it beats the simple ones: the last image again (persistence), "
        "the image of the same season last year, the mean of the season (climatology), and a weighted sum of the "
        "older images (blend).",
        (
            skill.sentences,
            skill_trust.audit,
            skill_trust.control,
            skill_plots.charts,
            skill_table.all_metrics,
            skill_table.every_lead,
            skill_groups.seasons,
            skill_groups.glaciers,
            skill_trust.paired,
            skill_trust.widths,
        ),  # fmt: skip
    ),
    Section(
        "forecast",
        "Forecast",
        lambda run: f"What is shown: {shows(run)}.",
        (forecast.film, turns.turns, forecast.maps),
    ),
    Section("flow", "Apparent motion", f"What is shown: {flow.SHOWS}.", (flow.control, flow.fields)),
    Section("training", "Training and split", "", (training.history, sweep.trials, training.split)),
    Section("record", "Record", "", (record.steps, record.configuration, record.provenance)),
    Section("citation", "How to cite", "", (record.citation,)),
)


def write_report(run_path: Path, output: Path | None = None, *, title: str | None = None) -> Path:
    """Write the page of a run: one file that needs nothing else, whatever steps have been run.

    Parameters
    ----------
    run_path : path
        A run directory. Files that are not there yet give a sentence in their place; what a job replaces meanwhile
        is read again.
    output : path, optional
        The page; by default ``run_path / "report.html"``.
    title : str, optional
        Default: the name in the configuration, else that of the directory.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    InputError
        If `run_path` is no run directory.
    GlacierError
        If a file of the run is damaged; the page is written all the same, and names the file in its place.
    """
    run = RunFiles(Path(run_path))
    page, damaged = _page_of_one_state(run, title)
    target = output or run.path / "report.html"
    with atomic_path(target) as temporary:
        temporary.write_text(page, encoding="utf-8")
    log.info("wrote %s (%.1f MB)", target, len(page) / 1e6)
    if damaged:
        raise GlacierError(f"{' '.join(damaged)} The report without it: {str(target)!r}")
    return target


def _page_of_one_state(run: RunFiles, title: str | None) -> tuple[str, list[str]]:
    """Return the page and what is damaged; made again if a step has replaced a cube that was being read.

    The pieces that are read after that are not those of the cube that was opened, or are missing, and look empty.
    """
    for _ in range(READINGS):
        cubes = RunDirectory(run.path).cubes()
        told = _page(run, title)
        if RunDirectory(run.path).cubes() == cubes:
            return told
    raise GlacierError(
        f"{str(run.path)!r} was rewritten {READINGS} times while it was read; look again later"
    )


def _page(run: RunFiles, title: str | None) -> tuple[str, list[str]]:
    damaged: list[str] = []
    sections = [(_worded(section, run), _blocks(run, section, damaged)) for section in _sections(run)]
    settings = {} if any("config.yaml" in text for text in damaged) else run.settings()
    page = template().render(
        title=title or str(setting(settings, "name", run.path.resolve().name)),
        facts=overview.facts(run, settings),
        tiles=overview.tiles(run),
        sections=sections,
        version=glacierhpc.__version__,
    )
    return page, damaged


def _sections(run: RunFiles) -> list[Section]:
    """Return the sections of a run: one whose images were made elsewhere has no scenes that could be aligned."""
    try:
        given = setting(run.settings(), "input.cube")
    except Damaged:
        given = None  # the part that shows the configuration tells so
    return [section for section in SECTIONS if not (given and section.key in ("scenes", "alignment"))]


def _worded(section: Section, run: RunFiles) -> Section:
    return section if isinstance(section.intro, str) else replace(section, intro=section.intro(run))


def _blocks(run: RunFiles, section: Section, damaged: list[str]) -> list[Block]:
    """Return what a section shows; a part whose file is missing or damaged is a note in its place."""
    blocks: list[Block] = []
    for part in section.parts:
        try:
            blocks += part(run)
        except NotMade as err:
            note = Note(str(err), "missing")
        except Damaged as err:
            log.error("%s", err)
            note = Note(str(err), "damaged")
            if str(err) not in damaged:
                damaged.append(str(err))
        else:
            continue
        if note not in blocks:
            blocks.append(note)
    return blocks


def template() -> jinja2.Template:
    """Return the template of a page; it takes title, facts, tiles, sections with their blocks, and version."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2")
