"""The history on disk follows the run, also over an interruption."""

import csv
import logging
from pathlib import Path

import pytest

from glacierhpc.errors import InputError
from glacierhpc.training import trackers as trackers_module
from glacierhpc.training.distributed import wandb_mode
from glacierhpc.training.trackers import CSVTracker, WandbTracker, check_trackers, open_trackers


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
        tracker.start([], {"learning_rate": 0.1})
        tracker.log({"epoch": 0, "train_loss": 0.5})
        tracker.close()
    events = list((tmp_path / "logs" / "tensorboard").iterdir())
    assert len(events) == 1
    assert all(text in events[0].read_bytes() for text in (b"train_loss", b"learning_rate"))
    assert (tmp_path / "history.csv").is_file()


def test_wandb_keeps_a_run_offline_and_says_how_to_send_it(tmp_path, caplog, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="needs the extra track: pip install 'glacierhpc[track]'")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    caplog.set_level(logging.INFO, logger="glacierhpc")
    (tracker,) = open_trackers(["wandb"], tmp_path / "my-run")
    tracker.start([{"epoch": 0, "train_loss": 0.75}], {"learning_rate": 0.0123, "loss": "mse"})
    tracker.log({"epoch": 1, "train_loss": 0.625})
    tracker.close()
    wandb.teardown()  # its own process writes the file, and is only now waited for
    folder = Path(caplog.messages[-1].rpartition("wandb sync ")[2])
    (kept,) = folder.glob("*.wandb")
    assert folder.is_relative_to(tmp_path / "my-run" / "logs")
    told = kept.read_bytes()
    for piece in (b"0.75", b"0.625", b"0.0123", b"my-run"):
        assert piece in told


def test_wandb_that_died_does_not_end_the_training(tmp_path, caplog, monkeypatch):
    pytest.importorskip("wandb", reason="needs the extra track: pip install 'glacierhpc[track]'")
    tracker = WandbTracker(tmp_path / "run", mode="disabled")
    tracker.start([], {})

    def lost(*_, **__):
        raise ConnectionResetError("Connection lost")

    monkeypatch.setattr(tracker._run, "log", lost)
    tracker.log({"epoch": 0, "train_loss": 0.5})
    tracker.log({"epoch": 1, "train_loss": 0.5})
    tracker.close()
    assert caplog.text.count("takes no more rows (ConnectionResetError: Connection lost)") == 1


def test_the_users_own_mode_of_wandb_counts(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    assert wandb_mode() == "offline"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert open_trackers(["wandb"], tmp_path, wandb_mode=wandb_mode())[0]._mode == "disabled"
    monkeypatch.setenv("WANDB_MODE", "onlin")
    with pytest.raises(InputError, match="WANDB_MODE cannot be 'onlin'"):
        open_trackers(["wandb"], tmp_path, wandb_mode=wandb_mode())


def test_unknown_tracker_is_refused(tmp_path):
    with pytest.raises(InputError, match="did you mean 'csv'"):
        open_trackers(["cvs"], tmp_path)


def test_a_missing_package_is_named_with_its_extra_before_any_work(monkeypatch):
    monkeypatch.setattr(trackers_module, "find_spec", lambda name: None)
    check_trackers(["csv"])
    with pytest.raises(InputError, match=r"'tensorboard' is not installed.*glacierhpc\[track\]"):
        check_trackers(["csv", "tensorboard"])
