"""A run that is killed or asked to stop, anywhere, and started again is bit for bit the run that was not."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from glacierhpc.errors import GlacierError, InputError
from glacierhpc.training.checkpoint import BEST, LAST, Checkpoints
from glacierhpc.training.distributed import Single
from glacierhpc.training.loop import fit
from glacierhpc.training.stopping import STOP_SIGNALS, Interrupted, StopRequest, ignore_stop_signals
from tests.training import lines
from tests.training.lines import OPTIONS, KillAt, Line, LineData, losses, validation, weights

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def uninterrupted():
    return lines.uninterrupted()


def test_checkpoints_are_for_their_owners_eyes(tmp_path):
    before = os.umask(0o022)
    try:
        fit(Line(), LineData(), checkpoints=Checkpoints(tmp_path / "own"), **{**OPTIONS, "epochs": 1})
    finally:
        os.umask(before)
    assert (tmp_path / "own").stat().st_mode & 0o777 == 0o700


def test_sigkill_at_random_moments_and_stop_signals_lose_nothing(tmp_path):
    seed = random.randrange(10**6)
    for name in ("killed", "SIGUSR1", "SIGUSR2", "SIGTERM"):
        (tmp_path / name).mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.killed", str(tmp_path), str(seed)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["kills"] >= 2 and told["same"], f"seed {seed}"
    for name in ("SIGUSR1", "SIGUSR2", "SIGTERM"):
        assert told[name] == [75, True], name


class Signalled(LineData):
    """Data whose reading brings a signal at the n-th batch."""

    def __init__(self, batch, *args, **more):
        super().__init__(*args, **more)
        self.left = batch

    def __getitems__(self, items):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGUSR1)
        return super().__getitems__(items)


class SignalledAt(KillAt):
    """A tracker that brings a signal with the row of an epoch."""

    def log(self, row):
        if row["epoch"] == self.row:
            os.kill(os.getpid(), signal.SIGUSR1)


@pytest.mark.parametrize(
    ("batch", "part", "place"),
    [
        (1, "train", "epoch 0, step 0"),
        (3, "train", "epoch 0, step 2"),
        (6, "train", "epoch 0, step 5"),
        (7, "train", "epoch 1, step 0"),
        (1, "valid", "epoch 0, step 6"),
        (3, "valid", "epoch 0, step 6"),
        (4, "valid", "epoch 1, step 6"),
        (0, "row", "epoch 1, step 0"),
        (3, "row", "epoch 4, step 0"),  # nothing is left to train, but what follows must not begin
    ],
)
def test_asked_to_stop_at_any_batch_and_started_again(tmp_path, uninterrupted, batch, part, place):
    train, valid = LineData(), validation()
    if part == "train":
        train = Signalled(batch)
    if part == "valid":
        valid = Signalled(batch, 20, seed=1)
    trackers = [SignalledAt(batch)] if part == "row" else []
    with pytest.raises(Interrupted, match=f"SIGUSR1 stopped the training at {place}; .*goes on") as caught:
        fit(Line(), train, valid, checkpoints=Checkpoints(tmp_path), trackers=trackers, **OPTIONS)
    assert caught.value.exit_code == 75
    model = Line()
    history = fit(model, LineData(), validation(), checkpoints=Checkpoints(tmp_path), **OPTIONS)
    assert torch.equal(weights(model), uninterrupted[0])
    assert losses(history) == uninterrupted[1]


def test_without_checkpoints_the_user_is_told_that_the_work_is_lost():
    with pytest.raises(Interrupted, match="no checkpoint is kept"):
        fit(Line(), Signalled(2), **OPTIONS)


def test_handlers_are_put_back_and_other_threads_have_none():
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    with StopRequest() as stop:
        assert not stop
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop and stop.signal == "SIGTERM"
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before

    def elsewhere():
        with StopRequest():
            found.extend(signal.getsignal(number) for number in STOP_SIGNALS)

    found = []
    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert found == before


def test_reading_processes_leave_stopping_to_the_main_one(tmp_path, uninterrupted):
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    try:
        ignore_stop_signals()
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    with pytest.raises(Interrupted):
        fit(Line(), SignalsItsReaders(8), workers=2, checkpoints=Checkpoints(tmp_path), **OPTIONS)
    model = Line()
    fit(model, LineData(), validation(), checkpoints=Checkpoints(tmp_path / "b"), workers=1, **OPTIONS)
    assert torch.equal(weights(model), uninterrupted[0])


class SignalsItsReaders(LineData):
    """Sends SIGTERM from a reading process to itself and to the main one, as a scheduler does."""

    def __init__(self, batch):
        super().__init__()
        self.left, self.main = batch, os.getpid()

    def __getitems__(self, items):
        self.left -= 1
        if self.left == 0:
            for process in (os.getpid(), self.main):
                os.kill(process, signal.SIGTERM)
        return super().__getitems__(items)


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_a_damaged_checkpoint_is_told(tmp_path, keep):
    fit(Line(), LineData(), checkpoints=Checkpoints(tmp_path), **{**OPTIONS, "epochs": 1})
    path = tmp_path / LAST
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if keep < 1 else keep])
    with pytest.raises(InputError, match=r"last.pt cannot be read as a checkpoint .*: delete it to train"):
        fit(Line(), LineData(), checkpoints=Checkpoints(tmp_path), **OPTIONS)


def test_a_file_that_is_no_checkpoint_is_told(tmp_path):
    torch.save({"anything": torch.ones(2)}, tmp_path / LAST)
    with pytest.raises(InputError, match="no weights in it"):
        fit(Line(), LineData(), checkpoints=Checkpoints(tmp_path), **OPTIONS)


def test_a_checkpoint_of_another_layout_is_told(tmp_path):
    fit(Line(), LineData(), checkpoints=Checkpoints(tmp_path), **OPTIONS)
    state = torch.load(tmp_path / LAST, weights_only=True)
    state["model"]["older"] = state["model"].pop("layer.weight")
    torch.save(state, tmp_path / LAST)
    with pytest.raises(InputError, match="last.pt holds another model .*layer.weight.*: delete it to train"):
        fit(Line(), LineData(), checkpoints=Checkpoints(tmp_path), **OPTIONS)


def test_a_checkpoint_whose_best_weights_are_gone_is_told_before_any_training(tmp_path):
    fit(Line(), LineData(), checkpoints=Checkpoints(tmp_path), **{**OPTIONS, "epochs": 2})
    (tmp_path / BEST).unlink()
    data = LineData()
    data.__getitems__ = None  # type: ignore[assignment]
    with pytest.raises(InputError, match="best.pt, the weights of the best epoch so far .*is missing"):
        fit(Line(), data, checkpoints=Checkpoints(tmp_path), **OPTIONS)


def test_best_weights_of_another_epoch_are_told(tmp_path):
    """Such as those that a process of a lost node writes after the others have gone on."""
    fit(Line(), LineData(), checkpoints=Checkpoints(tmp_path), **OPTIONS)
    state = torch.load(tmp_path / BEST, weights_only=True)
    state["epoch"] -= 1
    torch.save(state, tmp_path / BEST)
    with pytest.raises(GlacierError, match=r"best.pt is of epoch \d, and the best one is \d: delete"):
        fit(Line(), LineData(), checkpoints=Checkpoints(tmp_path), **OPTIONS)


class Apart(Single):
    """Rank 0 of two; the other one says that it has read something else."""

    size = 2

    def __init__(self, *change):
        super().__init__("cpu")
        self.change = torch.tensor(change, dtype=torch.float64)

    def gather(self, value):
        return [value, value + self.change if value.dtype == torch.float64 else value]


@pytest.mark.parametrize("change", [(-1, 3, 0, 0), (0, 0, 0.5, 0), (0, 0, 0, 1e-9)])
def test_ranks_that_read_different_checkpoints_are_told(tmp_path, change):
    options = {**OPTIONS, "epochs": 2}
    fit(Line(), LineData(), checkpoints=Checkpoints(tmp_path), **options)
    says = (
        rf"different checkpoints in {tmp_path} \(rank 0 at epoch 2, step 0, rank 1 at epoch .*all nodes share"
    )
    with pytest.raises(InputError, match=says):
        fit(Line(), LineData(), checkpoints=Checkpoints(tmp_path), **options | {"backend": Apart(*change)})
