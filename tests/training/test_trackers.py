"""The history on disk follows the run, also over an interruption."""

import csv

import pytest

from glacierhpc.errors import InputError
from glacierhpc.training import trackers as trackers_module
from glacierhpc.training.trackers import CSVTracker, check_trackers, open_trackers


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_csv_forgets_what_came_after_the_checkpoint(tmp_path):
    path = tmp_path / "history.csv"
    first = CSVTracker(path)
    first.start([], {})
    for epoch in range(3):
        first.log({"epoch": epoch, "train_loss": 1 / (epoch + 1)})
    again = CSVTracker(path)
    again.start([{"epoch": 0, "train_loss": 1.0}], {})
    assert [row["epoch"] for row in rows_of(path)] == ["0"]
    again.log({"epoch": 1, "train_loss": 0.25})
    assert [(row["epoch"], row["train_loss"]) for row in rows_of(path)] == [("0", "1.0"), ("1", "0.25")]
    assert [file.name for file in tmp_path.iterdir()] == ["history.csv"]


def test_tensorboard_gets_scalars(tmp_path):
    pytest.importorskip("tensorboard")
    trackers = open_trackers(["csv", "tensorboard"], tmp_path)
    for tracker in trackers:
        tracker.start([], {})
        tracker.log({"epoch": 0, "train_loss": 0.5})
        tracker.close()
    events = list((tmp_path / "logs" / "tensorboard").iterdir())
    assert len(events) == 1 and b"train_loss" in events[0].read_bytes()
    assert (tmp_path / "history.csv").is_file()


def test_unknown_tracker_is_refused(tmp_path):
    with pytest.raises(InputError, match="did you mean 'csv'"):
        open_trackers(["cvs"], tmp_path)


def test_a_missing_package_is_named_with_its_extra_before_any_work(monkeypatch):
    monkeypatch.setattr(trackers_module, "find_spec", lambda name: None)
    check_trackers(["csv"])
    with pytest.raises(InputError, match=r"'tensorboard' is not installed.*glacierhpc\[track\]"):
        check_trackers(["csv", "tensorboard"])
