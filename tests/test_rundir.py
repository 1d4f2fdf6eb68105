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

from glacierhpc.errors import InputError
from glacierhpc.rundir import RunDirectory, atomic_path, plain, read_json, read_table, write_json, write_table

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


def test_same_configuration_goes_on_another_is_refused(tmp_path: Path) -> None:
    with RunDirectory.open(tmp_path / "run", CONFIG, "hash-1") as run:
        assert run.config_file.read_text() == CONFIG
    with RunDirectory.open(tmp_path / "run", CONFIG + "cluster: {workers: 8}\n", "hash-1"):
        pass
    before = contents(tmp_path / "run")
    with pytest.raises(InputError, match=r"align.motion was 'translation', is 'affine'.*run_dir="):
        RunDirectory.open(tmp_path / "run", "name: a\nalign: {motion: affine}\n", "hash-2")
    assert contents(tmp_path / "run") == before
    RunDirectory.open(tmp_path / "run", CONFIG, "hash-1").close()


def test_a_folder_without_its_provenance_is_known_by_its_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(f"{CONFIG}run_dir: /before/it/moved\nday: 2015-01-01\n")
    with pytest.raises(InputError, match=r"align.motion was 'translation', is 'affine'"):
        RunDirectory.open(tmp_path, "name: a\nalign: {motion: affine}\n", "hash-2")
    new_text = f"{CONFIG}run_dir: {tmp_path}\nday: '2015-01-01'\nflow: {{window_px: 15}}\n"
    RunDirectory.open(tmp_path, new_text, "hash-1").close()
    assert (tmp_path / "config.yaml").read_text() == new_text


def test_a_folder_of_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.doc").write_text("")
    with pytest.raises(InputError, match="thesis.doc"):
        RunDirectory.open(tmp_path, CONFIG, "hash")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        RunDirectory.open(tmp_path / "file" / "run", CONFIG, "hash")


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    program = f"""
from glacierhpc.rundir import RunDirectory
try:
    RunDirectory.open({str(tmp_path / "run")!r}, {CONFIG!r}, "hash")
except Exception as err:
    print(type(err).__name__, err)
"""
    with RunDirectory.open(tmp_path / "run", CONFIG, "hash"):
        answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert answer.stdout.startswith("InputError") and f"process {os.getpid()} on" in answer.stdout
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout == ""


def test_what_a_killed_command_left_is_cleared_and_what_it_moved_aside_comes_back(tmp_path: Path) -> None:
    RunDirectory.open(tmp_path, CONFIG, "1").close()
    copies = {".tmp-0123abcd-clean.zarr": "half", ".tmp-0123abce-scratch": "half"}
    copies |= {".old-0123abcd-aligned.zarr": "only copy", ".old-0123abcd-composite.zarr": "old"}
    copies |= {"composite.zarr": "new", ".parts": "resumable", ".tmp-notes": "not ours"}
    for name, content in copies.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "zarr.json").write_text(content)
    (tmp_path / "steps" / ".tmp-0123abcd-clean.json").write_text("half")
    RunDirectory.open(tmp_path, CONFIG, "1").close()
    left = {path.parent.name: path.read_text() for path in tmp_path.glob("*/zarr.json")}
    assert left == {
        "aligned.zarr": "only copy", "composite.zarr": "new", ".parts": "resumable", ".tmp-notes": "not ours",
    }  # fmt: skip
    assert not list((tmp_path / "steps").iterdir())


def test_a_folder_in_use_keeps_what_is_being_written(tmp_path: Path) -> None:
    with RunDirectory.open(tmp_path, CONFIG, "1") as run, atomic_path(run.clean) as temporary:
        temporary.mkdir()
        with pytest.raises(InputError, match="in use"):
            RunDirectory.open(tmp_path, CONFIG, "1")
        assert temporary.is_dir()


def test_steps_are_on_record(tmp_path: Path) -> None:
    with RunDirectory.open(tmp_path / "run", CONFIG, "hash") as run:
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
    with RunDirectory.open(tmp_path / "run", CONFIG, "hash") as run:
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


def test_a_copied_run_whose_hash_an_older_version_made_is_gone_on_with(tmp_path: Path) -> None:
    RunDirectory.open(tmp_path, CONFIG + "run_dir: /old\n", "of an older version").close()
    RunDirectory.open(tmp_path, CONFIG + "run_dir: /copy\n", "of this version").close()
    with pytest.raises(InputError, match=r"of another configuration \(align.motion was"):
        RunDirectory.open(tmp_path, "name: a\nalign: {motion: affine}\nrun_dir: /copy\n", "other")
