"""Scenes read by a job array on a real Slurm: a task fails, one has to stop, and the cube is that of one process."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from glacierhpc.config import load_config
from glacierhpc.config.groups import group_path
from glacierhpc.rundir import RunDirectory, read_table
from glacierhpc.scenes import archive
from glacierhpc.scenes.journal import JOURNAL, read_receipts
from glacierhpc.workflows import run_steps
from tests.cluster.jobs import SMALL_JOBS, glacier, reached, restarted, told, verdicts
from tests.kills import make_archive, write_config
from tests.workflows.test_archive_runs import cube_files

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning"),
]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[archive.ServedArchive]:
    """Twenty small scenes."""
    with archive.serve(make_archive(tmp_path / "scenes")) as found:
        yield found


def test_tasks_that_fail_or_stop_are_repeated_alone_and_make_the_cube_of_one_process(
    served: archive.ServedArchive, tmp_path: Path
) -> None:
    run, alone = (RunDirectory(tmp_path / name) for name in ("run", "alone"))
    path = write_config(tmp_path / "own.yaml", tmp_path / "scenes", run.path)
    values = (f"archive.catalogue={served.stac_url}", "acquire.max_attempts=1")
    run_steps(load_config(path, [*values, f"run_dir={alone.path}"]), to_step="acquire")
    scenes = read_table(alone.scenes).scene
    fails = {f"*{scenes[1]}*": "503"}  # of the second group
    served.set_faults(always=fails, delay_s=3)  # a task has twenty such waits and more before it
    jobs = glacier("submit", path, *values, *SMALL_JOBS, "--set=jobs.acquire.tasks=3")["jobs"]
    assert list(jobs) == ["search", "acquire", "imagery", "train", "results"]
    array = jobs["acquire"]
    reached(lambda: bool(read_receipts(group_path(run.path, 0, 3) / JOURNAL)[1]))
    told("scancel", "--batch", "--signal=USR2", f"{array}_0")
    log = run.path / "jobs" / f"acquire-{array}_0.log"
    reached(lambda: "saved, queued again" in log.read_text())
    served.set_faults(always=fails)
    restarted(f"{array}_0")
    reached(lambda: verdicts(run.path)["imagery"] == "cancelled", 600)
    tasks = glacier("status", run.path)["jobs"]["acquire"]["tasks"]
    assert {task: known["state"] for task, known in tasks.items()} == {
        f"{array}_0": "done", f"{array}_1": "failed", f"{array}_2": "done"
    }  # fmt: skip
    assert "assets are there from an earlier run" in log.read_text()
    assert not run.cube.exists() and not run.done("acquire")
    served.set_faults()
    again = glacier("resume", run.path)["jobs"]
    assert "#SBATCH --array=1\n" in (run.path / "jobs/acquire.sbatch").read_text()
    reached(lambda: run.done("acquire"))
    glacier("cancel", run.path)
    assert cube_files(run) == cube_files(alone) and list(read_table(run.scenes).scene) == list(scenes)
    assert set(read_table(run.manifest).state) == {"done"} and not (run.path / ".parts").exists()
    read = (run.path / "jobs" / f"acquire-{again['acquire']}_1.log").read_text()
    assert re.search(r"assets from earlier runs +24\n", read), read  # of seven scenes all but the one
