"""Looking at a run that another command has: page and figures are made elsewhere, and the run stays as it is."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from glacierhpc.config import Config, config_hash, run_config
from glacierhpc.errors import GlacierError, InputError
from glacierhpc.report import page, write_report
from glacierhpc.rundir import RunDirectory, read_json, read_table
from glacierhpc.workflows import run_step, run_steps
from tests.test_rundir import contents
from tests.workflows.cubes import given_config, given_cube, store


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A run up to its evaluation."""
    folder = tmp_path_factory.mktemp("looks")
    config = given_config(folder / "run", store(given_cube(), folder / "mine.zarr"))
    run_steps(config, to_step="evaluate")
    return config


def test_a_run_in_use_is_told_beside_it_and_evaluated_elsewhere(evaluated: Config, tmp_path: Path) -> None:
    run, mine = RunDirectory(evaluated.run_path), RunDirectory(tmp_path / "mine")
    with RunDirectory.open(run.path, run_config(evaluated)):
        before = contents(run.path)
        with pytest.raises(InputError, match="in use"):
            run_step("evaluate", evaluated)
        run_step("evaluate", evaluated, output=mine.path)
        beside = Path(run_step("report", evaluated)["report"])
        run_step("report", evaluated, output=tmp_path / "page.html")
        assert contents(run.path) == before
    assert beside == run.path.with_name("run-report.html") and beside.read_text().endswith("</html>")
    assert (tmp_path / "page.html").read_text().count("<h2") == beside.read_text().count("<h2") > 3
    assert read_json(mine.metrics) == read_json(run.metrics)
    assert read_table(mine.scores).equals(read_table(run.scores))
    run_step("report", evaluated)
    assert run.done("report") and run.report.is_file()


JOB = """
import sys
from glacierhpc.rundir import RunConfig, RunDirectory, write_json

with RunDirectory.open(sys.argv[1], RunConfig(open(sys.argv[1] + "/config.yaml").read(), sys.argv[2])) as run:
    write_json(run.path / "new.json", "by the job")
"""


def test_a_job_that_starts_while_a_report_is_made_has_the_run_and_the_page_goes_beside_it(
    evaluated: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDirectory(Path(shutil.copytree(evaluated.run_path, tmp_path / "run")))
    run.report.unlink(missing_ok=True)  # of another test
    config = evaluated.model_copy(update={"run_dir": run.path})
    real, jobs = page._page, []

    def while_a_job_starts(*given: Any) -> Any:
        command = [sys.executable, "-c", JOB, str(run.path), config_hash(config)]
        jobs.append(subprocess.run(command, capture_output=True, text=True, check=False, timeout=300))
        return real(*given)

    monkeypatch.setattr(page, "_page", while_a_job_starts)
    told = Path(run_step("report", config)["report"])
    assert [job.returncode for job in jobs] == [0, 0], jobs
    assert read_json(run.path / "new.json") == "by the job"
    assert told == tmp_path / "run-report.html" and told.read_text().endswith("</html>")
    assert not run.report.exists() and not list(run.path.rglob(".tmp-*"))
    monkeypatch.undo()
    run_step("report", config)
    assert run.report.is_file() and run.done("report")


def test_nothing_is_written_into_a_run_without_having_it(evaluated: Config, tmp_path: Path) -> None:
    shutil.copytree(evaluated.run_path, tmp_path / "other")
    for place in (evaluated.run_path, evaluated.run_path / "mine", tmp_path / "other" / "report.html"):
        with pytest.raises(InputError, match="is in the run directory"):
            run_step("report", evaluated, output=place)
    otherwise = evaluated.model_copy(update={"train": evaluated.train.model_copy(update={"seed": 5})})
    with pytest.raises(InputError, match=r"another configuration \(train.seed was 0, is 5\)"):
        run_step("evaluate", otherwise, output=tmp_path / "mine")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other"]


def test_a_page_of_a_run_whose_cube_is_replaced_meanwhile_is_made_again(
    evaluated: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a step does between two looks at the cube is done here by hand, and as often as a look is had."""
    run = RunDirectory(Path(shutil.copytree(evaluated.run_path, tmp_path / "run")))
    replacements, made = [1], []

    def while_a_step_is_at_work(*given: object) -> tuple[str, list[str]]:
        if replacements:
            replacements.pop()
            shutil.copytree(run.composite, tmp_path / "new")
            run.composite.rename(tmp_path / f"old-{len(made)}")
            (tmp_path / "new").rename(run.composite)
        made.append(f"page {len(made)}")
        return made[-1], []

    monkeypatch.setattr(page, "_page", while_a_step_is_at_work)
    write_report(run.path, tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text() == "page 1"
    replacements += [1] * page.READINGS
    with pytest.raises(GlacierError, match="rewritten 3 times"):
        write_report(run.path, tmp_path / "none.html")
    assert not (tmp_path / "none.html").exists()
