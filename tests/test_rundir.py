"""The run directory: nothing half-written, one configuration, one user at a time, every step on record."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from glacierhpc.errors import InputError
from glacierhpc.rundir import (
    RunConfig,
    RunDirectory,
    atomic_path,
    plain,
    read_json,
    read_table,
    write_json,
    write_table,
)

CONFIG = "name: a\nalign: {motion: translation}\n"


def contents(run: Path) -> dict[str, bytes]:
    """All files of a run but those that say who has it."""
    files = [path for path in run.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path): path.read_bytes() for path in files if path.parent.name != ".lease"}


def test_json_is_strict_and_plain(tmp_path: Path) -> None:
    value = {
        1: np.float32(0.5),
        "nan": float("nan"),
        "array": np.array([1, 2]),
        "day": pd.Timestamp("2020-01-02"),
    }
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == {
        "1": 0.5, "nan": None, "array": [1, 2], "day": "2020-01-02T00:00:00",
    }  # fmt: skip
    assert plain((True, None, Path("a"))) == [True, None, "a"]


def test_reading_what_is_missing_or_broken_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{")
    for read, name in ((read_json, "none.json"), (read_json, "bad.json"), (read_table, "none.parquet")):
        with pytest.raises(InputError, match="run the step that writes it"):
            read(tmp_path / name)


def test_tables_round_trip(tmp_path: Path) -> None:
    table = pd.DataFrame({"scene": ["a", "b"], "share": [0.5, np.nan]})
    write_table(tmp_path / "t.parquet", table)
    pd.testing.assert_frame_equal(read_table(tmp_path / "t.parquet"), table)


def of(text: str, meaning: int = 1) -> RunConfig:
    """A configuration whose results are decided by how scenes are aligned; not at all is the default."""
    decides = yaml.safe_load(text).get("align", "not at all")
    return RunConfig(text, str(decides), lambda kept: None if "unknown" in kept else of(kept), meaning)


AFFINE = "name: a\nalign: {motion: affine}\n"


def test_same_configuration_goes_on_another_is_refused(tmp_path: Path) -> None:
    with RunDirectory.open(tmp_path / "run", of(CONFIG)) as run:
        assert run.config_file.read_text() == CONFIG
    more = CONFIG + "cluster: {workers: 8}\n"
    RunDirectory.open(tmp_path / "run", of(more)).close()
    assert run.config_file.read_text() == more
    before = contents(tmp_path / "run")
    with pytest.raises(InputError, match=r"align.motion was 'translation', is 'affine'.*run_dir="):
        RunDirectory.open(tmp_path / "run", of(AFFINE))
    assert contents(tmp_path / "run") == before
    RunDirectory.open(tmp_path / "run", of(CONFIG)).close()


def test_a_run_of_an_older_version_is_gone_on_with_where_new_keys_change_nothing(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("name: a\nrun_dir: /before/it/moved\nday: 2015-01-01\n")
    (tmp_path / "provenance.json").write_text(
        '{"config_hash": "made by that version", "seeds": {"train": 1}}'
    )
    with pytest.raises(InputError, match=r"align.motion was None, is 'affine'"):
        RunDirectory.open(tmp_path, of(AFFINE))
    new_text = "name: a\nalign: not at all\nflow: {window_px: 15}\n"
    with RunDirectory.open(tmp_path, of(new_text)) as run:
        assert run.config_file.read_text() == new_text
        assert read_json(run.provenance_file)["seeds"] == {"train": 1}
    (tmp_path / "config.yaml").unlink()  # a command was killed before it wrote this one
    RunDirectory.open(tmp_path, of(new_text)).close()
    with pytest.raises(InputError, match="another configuration"):
        (tmp_path / "config.yaml").unlink()
        RunDirectory.open(tmp_path, of(AFFINE))


def test_a_run_whose_keys_are_unknown_or_meant_something_else_is_refused(tmp_path: Path) -> None:
    RunDirectory.open(tmp_path / "other", of(CONFIG)).close()
    with pytest.raises(
        InputError, match="keys of the configuration meant something else.*go on with that version"
    ):
        RunDirectory.open(tmp_path / "other", of(CONFIG, meaning=2))
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / "config.yaml").write_text(CONFIG + "unknown: 1\n")
    with pytest.raises(InputError, match="unknown was 1, is None"):
        RunDirectory.open(tmp_path / "gone", of(CONFIG))


def test_a_configuration_changed_in_the_folder_does_not_pass_for_the_one_of_its_results(
    tmp_path: Path,
) -> None:
    RunDirectory.open(tmp_path, of(CONFIG)).close()
    (tmp_path / "config.yaml").write_text(CONFIG + "walltime: more\n")
    RunDirectory.open(tmp_path, of(CONFIG + "walltime: more\n")).close()
    (tmp_path / "config.yaml").write_text(AFFINE)
    with pytest.raises(InputError, match="changed after results had been made"):
        RunDirectory.open(tmp_path, of(AFFINE))


def test_a_folder_of_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.doc").write_text("")
    with pytest.raises(InputError, match="thesis.doc"):
        RunDirectory.open(tmp_path, RunConfig(CONFIG, "hash"))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        RunDirectory.open(tmp_path / "file" / "run", RunConfig(CONFIG, "hash"))


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    program = f"""
from glacierhpc.rundir import RunConfig, RunDirectory
try:
    RunDirectory.open({str(tmp_path / "run")!r}, RunConfig({CONFIG!r}, "hash"))
except Exception as err:
    print(type(err).__name__, err)
"""
    with RunDirectory.open(tmp_path / "run", RunConfig(CONFIG, "hash")):
        answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert answer.stdout.startswith("InUse") and f"process {os.getpid()} on" in answer.stdout
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout == ""


def test_what_a_killed_command_left_is_cleared_and_what_it_moved_aside_comes_back(tmp_path: Path) -> None:
    RunDirectory.open(tmp_path, RunConfig(CONFIG, "1")).close()
    copies = {".tmp-0123abcd-clean.zarr": "half", ".tmp-0123abce-scratch": "half"}
    copies |= {".old-0123abcd-aligned.zarr": "only copy", ".old-0123abcd-composite.zarr": "old"}
    copies |= {"composite.zarr": "new", ".parts": "resumable", ".tmp-notes": "not ours"}
    for name, content in copies.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "zarr.json").write_text(content)
    (tmp_path / "steps" / ".tmp-0123abcd-clean.json").write_text("half")
    RunDirectory.open(tmp_path, RunConfig(CONFIG, "1")).close()
    left = {path.parent.name: path.read_text() for path in tmp_path.glob("*/zarr.json")}
    assert left == {
        "aligned.zarr": "only copy", "composite.zarr": "new", ".parts": "resumable", ".tmp-notes": "not ours",
    }  # fmt: skip
    assert not list((tmp_path / "steps").iterdir())


def test_a_folder_in_use_keeps_what_is_being_written(tmp_path: Path) -> None:
    with RunDirectory.open(tmp_path, RunConfig(CONFIG, "1")) as run, atomic_path(run.clean) as temporary:
        temporary.mkdir()
        with pytest.raises(InputError, match="in use"):
            RunDirectory.open(tmp_path, RunConfig(CONFIG, "1"))
        assert temporary.is_dir()


def test_steps_are_on_record(tmp_path: Path) -> None:
    with RunDirectory.open(tmp_path / "run", RunConfig(CONFIG, "hash")) as run:
        assert run.step_record("clean") == {} and not run.done("clean")
        with run.step("clean") as record:
            assert run.step_record("clean")["state"] == "running"
            record["scenes"] = np.int64(3)
        assert run.done("clean") and run.step_record("clean")["scenes"] == 3
        with pytest.raises(ValueError), run.step("align"):
            raise ValueError("no ground")
        assert run.step_record("align")["error"] == "ValueError: no ground" and not run.done("align")
        with pytest.raises(KeyboardInterrupt), run.step("train"):
            raise KeyboardInterrupt
        assert run.step_record("train")["state"] == "interrupted"


def test_provenance_keeps_what_was_said_before(tmp_path: Path) -> None:
    with RunDirectory.open(tmp_path / "run", RunConfig(CONFIG, "hash")) as run:
        run.provenance(seeds={"train": 1}, input_ids=["scene-1"])
        record = run.provenance(job_id="17")
        assert record == json.loads(run.provenance_file.read_text())
    assert record["seeds"] == {"train": 1} and record["input_ids"] == ["scene-1"] and record["job_id"] == "17"
    assert record["config_hash"] == "hash" and record["versions"]["numpy"] == np.__version__


def test_a_damaged_table_names_itself(tmp_path: Path) -> None:
    path = tmp_path / "sequences.parquet"
    write_table(path, pd.DataFrame({"a": range(1000)}))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match="sequences.parquet is damaged"):
        read_table(path)
