"""Scenes read in groups, as by tasks of a job array, and gathered: the cube of one process, and nothing read twice."""

from __future__ import annotations

import errno
import fcntl
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from glacierhpc import holder, lease
from glacierhpc.atomic import write_text
from glacierhpc.config import Config, load_config
from glacierhpc.config.groups import group_path, group_paths
from glacierhpc.errors import GlacierError, InputError
from glacierhpc.fence import LeaseLost
from glacierhpc.rundir import RunDirectory, read_table
from glacierhpc.scenes import acquire
from glacierhpc.scenes.journal import JOURNAL, read_receipts
from glacierhpc.scenes.remote import shared
from glacierhpc.workflows import groups, run_step, run_steps
from glacierhpc.workflows.groups import gather_groups, read_group
from tests.workflows.test_archive_runs import cube_files, write_config

pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")

READING = {"bands": ["green", "nir08", "swir16"], "min_valid_share": 0, "max_attempts": 1, "read_threads": 2}
TOLD = ["seconds", "attempts"]
ASSETS = 4
"""Of a scene: three bands and its quality."""


@pytest.fixture(scope="module")
def whole(archive_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """The scenes of the archive, read by one process."""
    config = configured(tmp_path_factory.mktemp("whole"), archive_folder)
    run_step("acquire", config)
    return RunDirectory(config.run_path)


def configured(folder: Path, catalogue: object, **sections: Any) -> Config:
    """A run whose scenes are found."""
    path = write_config(folder, catalogue, acquire=READING, **sections)
    run_steps(load_config(path), to_step="search")
    return load_config(path)


@pytest.fixture
def config(archive_folder: Path, tmp_path: Path) -> Config:
    return configured(tmp_path, archive_folder)


def told(path: Path) -> pd.DataFrame:
    return read_table(path).drop(columns=TOLD, errors="ignore")


def assert_same(run: RunDirectory, whole: RunDirectory) -> None:
    """The cube to the last byte, the tables but for times; no piece is left."""
    assert cube_files(run) == cube_files(whole) and len(cube_files(run)) > 12
    pd.testing.assert_frame_equal(told(run.manifest), told(whole.manifest))
    pd.testing.assert_frame_equal(told(run.scenes), told(whole.scenes))
    assert not (run.path / ".parts").exists()


def test_groups_gathered_are_the_cube_of_one_process(config: Config, whole: RunDirectory) -> None:
    run = RunDirectory(config.run_path)
    read = [dict(read_group(config, number, 5)["table"])["assets read now"] for number in (3, 0, 4, 1, 2)]
    assert not run.cube.exists() and not run.scenes.exists() and not run.done("acquire")
    assert sum(read) == 12 * ASSETS
    # a task that is run twice does no harm, and reads nothing
    assert dict(read_group(config, 3, 5)["table"])["assets read now"] == 0
    assert dict(run_step("acquire", config)["table"])["assets read now"] == 0
    assert_same(run, whole)
    again = read_group(config, 3, 5)  # nothing is begun anew where the cube is whole
    assert dict(again["table"])["assets read now"] == 0


def test_what_a_group_is_missing_is_read_with_the_cube(config: Config, whole: RunDirectory) -> None:
    """Also where a piece was damaged since, or a task was killed between two lines of its journal."""
    run = RunDirectory(config.run_path)
    for number in (0, 1):
        read_group(config, number, 3)
    damaged, torn = (group_path(run.path, number, 3) for number in (0, 1))
    piece = next(path for path in sorted(damaged.glob("*/nir08/*")) if path.name.startswith("data"))
    piece.write_bytes(piece.read_bytes()[:-7])
    lines = (torn / JOURNAL).read_bytes().split(b"\n")
    (torn / JOURNAL).write_bytes(b"\n".join(lines[: len(lines) // 2]) + b'\n{"scene": "x", "ass')
    known = [len(read_receipts(group_path(run.path, n, 3) / JOURNAL)[1]) for n in (0, 1)]
    assert known[0] == 4 * (ASSETS + 1) > known[1] > 0
    assert 4 * ASSETS < dict(run_step("acquire", config)["table"])["assets read now"] < 12 * ASSETS
    assert_same(run, whole)


def test_in_another_number_of_groups_nothing_is_read_again(config: Config, whole: RunDirectory) -> None:
    for number in (0, 2):
        read_group(config, number, 3)
    read = [dict(read_group(config, number, 2)["table"])["assets read now"] for number in (0, 1)]
    assert sum(read) == 4 * ASSETS and len(group_paths(config.run_path)) == 4
    assert dict(run_step("acquire", config)["table"])["assets read now"] == 0
    assert_same(RunDirectory(config.run_path), whole)


def test_a_gathering_that_was_killed_goes_on(
    config: Config, whole: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the move of a piece and its line in the journal."""
    from glacierhpc.scenes import journal

    for number in (0, 1):
        read_group(config, number, 2)
    with monkeypatch.context() as patched:
        patched.setattr(journal.Journal, "add", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run_step("acquire", config)
    assert len(list((config.run_path / ".parts").glob("*/sealed"))) == 6
    # its tasks are not started again: they had done their work
    assert dict(run_step("acquire", config)["table"])["assets read now"] == 0
    assert_same(RunDirectory(config.run_path), whole)


def test_a_group_that_is_being_read_is_left_alone(config: Config) -> None:
    read_group(config, 0, 2)
    folder = group_path(config.run_path, 0, 2)
    held = lease.take(folder, job="7")
    try:
        with pytest.raises(InputError, match="is in use by process"):
            read_group(config, 0, 2)
        with pytest.raises(InputError, match="is in use by process"):
            run_step("acquire", config)
        assert (folder / JOURNAL).exists()
        assert (
            dict(read_group(config, 1, 2)["table"])["assets read now"] == 6 * ASSETS
        )  # its sibling is not kept off
    finally:
        held.release()


def test_a_task_that_lives_on_writes_nothing_once_its_group_is_gathered(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that was requeued with its node lost: the same number, a later start."""
    read_group(config, 0, 2)
    folder = group_path(config.run_path, 0, 2)
    orphan = lease.take(folder, job="7", restart=0)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    monkeypatch.delenv("SLURM_CLUSTER_NAME", raising=False)
    gather_groups(RunDirectory(config.run_path))
    with pytest.raises(LeaseLost):
        orphan.check()
    orphan.release()


def test_of_a_group_whose_machine_is_gone_the_scheduler_is_asked(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Signs of life would be waited for two minutes at each group, one after the other."""
    read_group(config, 0, 2)

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(holder, "_boot", lambda: "another machine")
        elsewhere.setattr(fcntl, "flock", no_locks)
        dead = lease.take(group_path(config.run_path, 0, 2), job="17@here")

    def waits(*_: object) -> str:
        raise AssertionError("signs of life are waited for")

    monkeypatch.setattr(lease, "_silent", waits)
    monkeypatch.setattr(groups, "has_ended", lambda job: job == "17@here")
    gather_groups(RunDirectory(config.run_path))
    with pytest.raises(LeaseLost):
        dead.check()
    dead.release()


def test_a_group_that_does_not_exist_or_has_no_scenes(config: Config, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="group 2 does not exist; there are 2, counted from 0"):
        read_group(config, 2, 2)
    assert dict(read_group(config, 30, 31)["table"])["scenes read"] == 0
    other = config.model_copy(update={"run_dir": tmp_path / "empty"})
    with pytest.raises(InputError, match="run the step that writes it first: glacierhpc search CONFIG"):
        read_group(other, 0, 2)
    assert not (tmp_path / "empty").exists()
    changed = config.model_copy(update={"clean": config.clean.model_copy(update={"fill_passes": 0})})
    with pytest.raises(InputError, match="is of another configuration"):
        read_group(changed, 0, 2)


def test_pieces_of_another_acquisition_never_get_into_the_cube(config: Config) -> None:
    read_group(config, 0, 2)
    journal = group_path(config.run_path, 0, 2) / JOURNAL
    first, *others = (json.loads(line) for line in journal.read_text().splitlines() if line)
    first["purpose"]["resampling"] = "cubic"
    write_text(journal, "\n".join(map(json.dumps, [first, *others])))
    with pytest.raises(InputError, match="another acquisition .other resampling"):
        run_step("acquire", config)


def test_a_group_with_scenes_that_cannot_be_read_fails_and_keeps_the_others(config: Config) -> None:
    items = json.loads((config.run_path / "items.json").read_text())
    items["features"][0]["assets"]["green"]["href"] = "/nowhere.tif"
    (config.run_path / "items.json").write_text(json.dumps(items))
    with pytest.raises(GlacierError, match="1 of 6 scenes could not be read; the others are kept"):
        read_group(config, 0, 2)
    assert RunDirectory(group_path(config.run_path, 0, 2)).step_record("acquire")["state"] == "failed"
    read_group(config, 1, 2)


def test_room_is_looked_for_for_all_that_no_group_has_read(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(acquire, "check_room", lambda *_, **needed: asked.append(needed))
    read_group(config, 0, 2)
    read_group(config, 1, 2)
    run_step("acquire", config)
    files = [needed["needed_files"] for needed in asked]
    assert files[0] > 1.9 * files[1] > 0 and files[2] == 0
    assert asked[0]["needed_bytes"] > asked[1]["needed_bytes"] > asked[2]["needed_bytes"]


def test_groups_share_what_they_know_of_servers(config: Config) -> None:
    """Limits of a host and tokens hold for all of them together; the folder goes with the pieces."""
    access = config.run_path / ".parts" / shared.FOLDER
    read_group(config, 0, 2)
    shared.write(access, "told", {"by": "a sibling"})
    read_group(config, 1, 2)
    assert shared.read(access, "told") == {"by": "a sibling"}
    run_step("acquire", config)
    assert not access.exists()


def test_a_user_s_own_token_goes_with_the_task(
    archive_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_config(tmp_path, archive_folder, acquire=READING)
    config = load_config(path, ["archive.signing=bearer:127.0.0.1"])
    run_steps(config, to_step="search")
    seen = []
    planned = acquire.plan_acquisition

    def plan(*given: Any, **asked: Any) -> Any:
        seen.append(asked["signer"].shared)
        return planned(*given, **asked)

    monkeypatch.setattr(acquire, "plan_acquisition", plan)
    monkeypatch.setattr(acquire, "hand_over", lambda hosts, token, folder: seen.append(folder))
    monkeypatch.setenv("EARTHDATA_TOKEN", "secret")
    read_group(config, 0, 2)
    own = group_path(config.run_path, 0, 2) / shared.FOLDER
    assert seen == [own, own] and not own.exists()
