"""The page as a whole: self-contained, complete, and honest about what is missing or broken."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from glacierhpc.errors import GlacierError, InputError
from glacierhpc.report import write_report
from glacierhpc.report.page import SECTIONS
from glacierhpc.report.run_files import STEP_OF

READ_IF_THERE = {"manifest.parquet", "clean.parquet", "sequences.parquet"}


class Page(HTMLParser):
    """What a browser would load, and the words it would show."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.notes: list[str] = []
        self.open: list[str] = []
        self.unclosed: list[str] = []
        self.html = path.read_text(encoding="utf-8")
        self.feed(self.html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.addresses += [str(given[name]) for name in ("src", "href", "srcset", "data") if name in given]
        if tag == "img":
            self.images.append(given)
        if tag not in ("meta", "img", "source", "link", "br", "input"):
            self.open.append(tag)
        if tag == "p" and "note" in (given.get("class") or ""):
            self.notes.append(str(given["class"]))

    def handle_endtag(self, tag: str) -> None:
        if self.open.pop() != tag:
            self.unclosed.append(tag)


@pytest.fixture(scope="module")
def page(finished_run: Path) -> Page:
    return Page(write_report(finished_run))


def test_loads_nothing_from_elsewhere(page: Page) -> None:
    assert page.addresses
    assert all(address.startswith(("data:image/", "#")) for address in page.addresses)
    assert not re.search(r"url\(\s*['\"]?(?!data:)|@import|<script|<link", page.html)


def test_finished_run_has_every_section_and_no_missing_part(page: Page) -> None:
    for section in SECTIONS:
        assert f'<section id="{section.key}">' in page.html
        assert f'href="#{section.key}"' in page.html
    assert not [note for note in page.notes if "missing" in note or "damaged" in note]
    assert len(page.html) < 15e6


def test_markup_is_well_formed_and_every_image_has_words(page: Page) -> None:
    assert page.open == []
    assert page.unclosed == []
    assert len(page.images) >= 15
    assert all(image["alt"] for image in page.images)
    kinds = {str(image["src"])[:20] for image in page.images}
    assert {"data:image/svg+xml;b", "data:image/gif;base6"} <= kinds


def test_says_what_the_figures_show(page: Page) -> None:
    assert "snow and ice cover (index values), not ice motion" in page.html
    assert "apparent motion of the index image, not ice velocity" in page.html


def test_same_run_gives_the_same_page(finished_run: Path, page: Page) -> None:
    assert write_report(finished_run).read_text(encoding="utf-8") == page.html


@pytest.mark.usefixtures("unpainted")
def test_text_of_a_run_cannot_become_markup(copied_run: Path) -> None:
    config = copied_run / "config.yaml"
    config.write_text(config.read_text().replace("parvati-small", "'<script>alert(1)</script>'"))
    html = write_report(copied_run).read_text()
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)" in html


@pytest.mark.usefixtures("unpainted")
def test_title_comes_from_the_caller_the_configuration_or_the_folder(
    partial_run: Callable[..., Path], finished_run: Path
) -> None:
    folder = partial_run("scenes.parquet")
    assert "<h1>partial</h1>" in write_report(folder).read_text()
    assert "<h1>Chosen</h1>" in write_report(folder, title="Chosen").read_text()
    assert "<h1>parvati-small</h1>" in write_report(finished_run).read_text()


@pytest.mark.usefixtures("unpainted")
def test_run_that_has_only_begun_names_the_step_that_makes_each_missing_file(
    partial_run: Callable[..., Path],
) -> None:
    page = Page(write_report(partial_run("config.yaml", "items.json")))
    assert not [note for note in page.notes if "damaged" in note]
    for name in (
        "scenes.parquet",
        "alignment.parquet",
        "composite.zarr",
        "metrics.json",
        "prediction.zarr",
        "flow.json",
    ):
        assert f"{name} is not there yet: the step “{STEP_OF[name]}” makes it." in page.html


@pytest.mark.usefixtures("unpainted")
@pytest.mark.parametrize("name", sorted(set(STEP_OF) - {"cube.zarr"}))
def test_each_file_may_be_missing(copied_run: Path, name: str) -> None:
    if (copied_run / name).exists():
        (copied_run / name).rename(copied_run / f"away-{name}")
    page = Page(write_report(copied_run))
    assert not [note for note in page.notes if "damaged" in note]
    assert f"{name} is not there yet" in page.html or name in READ_IF_THERE


@pytest.mark.usefixtures("unpainted")
@pytest.mark.parametrize(
    "name",
    ["config.yaml", "items.json", "scenes.parquet", "manifest.parquet", "alignment.parquet",
     "alignment_links.parquet", "alignment_vectors.parquet", "sequences.parquet",
     "split.json", "history.csv", "metrics.json", "flow.json", "provenance.json"],
)  # fmt: skip
def test_damaged_file_is_named_and_the_rest_still_written(copied_run: Path, name: str) -> None:
    (copied_run / name).write_bytes(b'{"cut off": [')
    with pytest.raises(GlacierError, match=re.escape(name)) as raised:
        write_report(copied_run)
    assert raised.value.exit_code == 1
    page = Page(copied_run / "report.html")
    assert any("damaged" in note for note in page.notes)
    assert 'id="composites"' in page.html
    assert len(page.images) > 5


@pytest.mark.usefixtures("unpainted")
@pytest.mark.parametrize("name", ["aligned.zarr", "composite.zarr", "prediction.zarr", "flow.zarr"])
def test_damaged_pixels_are_named(copied_run: Path, name: str) -> None:
    chunks = [path for path in (copied_run / name).rglob("c/*") if path.is_file()]
    for path in [*chunks, *(path for path in (copied_run / name).rglob("c/**/*") if path.is_file())]:
        path.write_bytes(b"not a chunk")
    with pytest.raises(GlacierError, match=re.escape(name)):
        write_report(copied_run)
    assert (copied_run / "report.html").is_file()


@pytest.mark.usefixtures("unpainted")
def test_table_of_another_layout_says_which_columns_are_missing(copied_run: Path) -> None:
    (copied_run / "history.csv").write_text("step,value\n1,2\n")
    with pytest.raises(GlacierError, match="history.csv.*columns missing: epoch"):
        write_report(copied_run)


def test_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none of a run's files"):
        write_report(tmp_path)
    with pytest.raises(InputError, match="no run directory"):
        write_report(tmp_path / "absent")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("unpainted")
def test_leaves_no_temporary_file_and_touches_nothing_else(copied_run: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in copied_run.rglob("*") if path.is_file()}
    write_report(copied_run)
    after = {path: path.stat().st_mtime_ns for path in copied_run.rglob("*") if path.is_file()}
    after.pop(copied_run / "report.html")
    before.pop(copied_run / "report.html", None)
    assert after == before


def test_needs_no_torch() -> None:
    code = "import glacierhpc.report, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
