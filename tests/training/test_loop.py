"""Training learns, stops in time, and a killed run resumed is bit for bit the run that was not killed."""

import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from glacierhpc.errors import GlacierError, InputError
from glacierhpc.training.checkpoint import Checkpoints
from glacierhpc.training.distributed import Single, open_backend
from glacierhpc.training.loop import fit
from glacierhpc.training.trackers import CSVTracker


@dataclass
class Lines:
    """Batches of noisy lines: the target is twice the last input."""

    inputs: dict
    targets: torch.Tensor
    targets_valid: torch.Tensor

    def to(self, device):
        return self


class LineData:
    def __init__(self, count=44, seed=0, valid_share=0.8):
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(count, 1, 1, 4, 4, generator=generator)
        self.y = 2 * self.x + 0.1 * torch.randn(self.x.shape, generator=generator)
        self.valid = torch.rand(count, 1, 4, 4, generator=generator) < valid_share

    def __len__(self):
        return len(self.x)

    def __getitems__(self, items):
        return Lines({"x": self.x[items]}, self.y[items], self.valid[items])


class Line(nn.Module):
    """With dropout, so that the random state matters on resume."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.drop = nn.Dropout(0.2)
        with torch.no_grad():
            self.layer.weight.copy_(torch.linspace(-0.3, 0.3, 16).view(4, 4))
            self.layer.bias.zero_()  # type: ignore[union-attr]

    def forward(self, x):
        return self.drop(self.layer(x))


class Killed(Exception):
    pass


class KillAt:
    """Stands for the machine going down at the n-th checkpoint write or row."""

    def __init__(self, row):
        self.row = row

    def start(self, rows, configuration):
        pass

    def log(self, row):
        if row["epoch"] == self.row:
            raise Killed

    def close(self):
        pass


class DiesAfter(LineData):
    """Data whose reading fails after so many batches."""

    def __init__(self, batches):
        super().__init__()
        self.left = batches

    def __getitems__(self, items):
        self.left -= 1
        if self.left < 0:
            raise Killed
        return super().__getitems__(items)


OPTIONS = {
    "epochs": 4,
    "batch_size": 8,
    "learning_rate": 0.1,
    "seed": 3,
    "patience": None,
    "backend": Single("cpu"),
}


def weights(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def losses(history):
    return [(row["epoch"], row["train_loss"], row["valid_loss"]) for row in history.rows]


@pytest.fixture(scope="module")
def uninterrupted():
    model = Line()
    history = fit(model, LineData(), LineData(20, seed=1), **OPTIONS)
    return weights(model), losses(history)


def test_it_learns(uninterrupted):
    rows = uninterrupted[1]
    assert rows[-1][2] < 0.6 * rows[0][2]
    assert len(rows) == 4


def test_same_seed_same_weights_and_the_global_state_is_left_alone(uninterrupted):
    model = Line()
    before = torch.get_rng_state()
    fit(model, LineData(), LineData(20, seed=1), **OPTIONS)
    assert torch.equal(weights(model), uninterrupted[0])
    assert torch.equal(torch.get_rng_state(), before)
    other = Line()
    fit(other, LineData(), LineData(20, seed=1), **{**OPTIONS, "seed": 4})
    assert not torch.equal(weights(other), uninterrupted[0])


@pytest.mark.parametrize("every_steps", [None, 1, 4])
@pytest.mark.parametrize("batches", [0, 1, 5, 6, 10, 17, 23])
def test_killed_at_any_step_and_resumed_equals_uninterrupted(tmp_path, uninterrupted, batches, every_steps):
    valid = LineData(20, seed=1)
    with pytest.raises(Killed):
        checkpoints = Checkpoints(tmp_path, every_steps=every_steps)
        fit(Line(), DiesAfter(batches), valid, checkpoints=checkpoints, **OPTIONS)
    model = Line()
    torch.rand(7)  # whatever happened in between
    history = fit(
        model, LineData(), valid, checkpoints=Checkpoints(tmp_path, every_steps=every_steps), **OPTIONS
    )
    assert torch.equal(weights(model), uninterrupted[0])
    assert losses(history) == uninterrupted[1]


def test_checkpoints_of_other_data_are_refused_or_forgotten(tmp_path, uninterrupted):
    options, checkpoints = {**OPTIONS, "epochs": 2}, Checkpoints(tmp_path)
    fit(Line(), LineData(seed=5), checkpoints=checkpoints, identity={"data": "a"}, **options)
    with pytest.raises(InputError, match="another training .*'data': 'a'.*'data': 'b'"):
        fit(Line(), LineData(), checkpoints=checkpoints, identity={"data": "b"}, **OPTIONS)
    checkpoints.forget_others({"data": "a"})
    assert len(list(tmp_path.iterdir())) == 2
    checkpoints.forget_others({"data": "b"})
    assert not list(tmp_path.iterdir())
    model = Line()
    valid = LineData(20, seed=1)
    fit(model, LineData(), valid, checkpoints=checkpoints, identity={"data": "b"}, **OPTIONS)
    assert torch.equal(weights(model), uninterrupted[0])


def test_killed_between_checkpoint_and_row_keeps_the_csv_whole(tmp_path, uninterrupted):
    valid, path = LineData(20, seed=1), tmp_path / "history.csv"
    with pytest.raises(Killed):
        trackers = [KillAt(1), CSVTracker(path)]
        fit(Line(), LineData(), valid, checkpoints=Checkpoints(tmp_path), trackers=trackers, **OPTIONS)
    fit(Line(), LineData(), valid, checkpoints=Checkpoints(tmp_path), trackers=[CSVTracker(path)], **OPTIONS)
    lines = path.read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["epoch", "0", "1", "2", "3"]


def test_sigkill_of_the_process_loses_nothing(tmp_path, uninterrupted):
    script = f"""
        import os, signal, sys, importlib.util, torch
        torch.set_num_threads(1)
        spec = importlib.util.spec_from_file_location("test_loop", {__file__!r})
        t = importlib.util.module_from_spec(spec); sys.modules["test_loop"] = t; spec.loader.exec_module(t)
        class Murderous(t.LineData):
            left = 15
            def __getitems__(self, items):
                self.left -= 1
                if not self.left:
                    os.kill(os.getpid(), signal.SIGKILL)
                return super().__getitems__(items)
        checkpoints = t.Checkpoints(__import__("pathlib").Path({str(tmp_path)!r}), every_steps=2)
        t.fit(t.Line(), Murderous(), t.LineData(20, seed=1), checkpoints=checkpoints, **t.OPTIONS)
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert ended.returncode == -signal.SIGKILL
    model = Line()
    history = fit(model, LineData(), LineData(20, seed=1), checkpoints=Checkpoints(tmp_path), **OPTIONS)
    assert torch.equal(weights(model), uninterrupted[0])
    assert losses(history) == uninterrupted[1]


def test_a_finished_run_is_not_trained_again(tmp_path, uninterrupted):
    for _ in range(2):
        model = Line()
        data = DiesAfter(24)  # 4 epochs of 6 batches, and not one more
        history = fit(model, data, LineData(20, seed=1), checkpoints=Checkpoints(tmp_path), **OPTIONS)
    assert data.left == 24
    assert torch.equal(weights(model), uninterrupted[0]) and losses(history) == uninterrupted[1]


def test_checkpoints_of_another_run_are_refused(tmp_path):
    fit(Line(), LineData(), checkpoints=Checkpoints(tmp_path), **OPTIONS)
    with pytest.raises(InputError, match="'learning_rate': 0.1.*now.*'learning_rate': 0.5"):
        fit(Line(), LineData(), checkpoints=Checkpoints(tmp_path), **{**OPTIONS, "learning_rate": 0.5})
    (tmp_path / "last.pt").write_bytes(b"half a file")
    with pytest.raises(InputError, match="delete it to train from the start"):
        fit(Line(), LineData(), checkpoints=Checkpoints(tmp_path), **OPTIONS)


def test_the_best_weights_are_kept_and_training_stops_early(tmp_path):
    class Worse(LineData):
        """Validation on which every step of learning is a step back."""

        def __init__(self):
            super().__init__(20, seed=1)
            self.y = -2 * self.x

    for checkpoints in (None, Checkpoints(tmp_path)):
        model = Line()
        history = fit(
            model, LineData(), Worse(), checkpoints=checkpoints, **{**OPTIONS, "epochs": 30, "patience": 2}
        )
        assert history.best_epoch == 0 and len(history.rows) == 3
        once = Line()
        fit(once, LineData(), Worse(), **{**OPTIONS, "epochs": 1})
        assert torch.equal(weights(model), weights(once))


def test_masked_targets_teach_nothing(uninterrupted):
    spoilt = LineData()
    spoilt.y = torch.where(spoilt.valid.unsqueeze(2), spoilt.y, float("nan"))
    model = Line()
    fit(model, spoilt, LineData(20, seed=1), **OPTIONS)
    assert torch.equal(weights(model), uninterrupted[0])


def test_reading_ahead_changes_nothing(uninterrupted):
    model = Line()
    fit(model, LineData(), LineData(20, seed=1), workers=1, **{**OPTIONS, "epochs": 4})
    assert torch.equal(weights(model), uninterrupted[0])


def test_a_batch_without_valid_values_takes_no_step():
    data = LineData(16)
    data.valid[:] = False
    data.valid[5] = True
    model = Line()
    fit(model, data, **{**OPTIONS, "epochs": 1, "batch_size": 1})
    assert torch.isfinite(weights(model)).all()


@pytest.mark.parametrize(
    ("data", "options", "error", "says"),
    [
        (LineData(0), {}, InputError, "no training sequences"),
        (LineData(valid_share=0), {}, InputError, "no training target holds a valid pixel"),
        (LineData(), {"epochs": 0}, InputError, "epochs=0"),
        (LineData(), {"patience": 0}, InputError, "patience=0"),
        (LineData(), {"loss": "mes"}, InputError, "did you mean"),
        (LineData(), {"optimizer": "adamv"}, InputError, "Valid: adam, adamw, sgd"),
        (LineData(), {"learning_rate": 1e30}, GlacierError, "lower train.learning_rate"),
    ],
)
def test_what_cannot_be_trained_is_refused(data, options, error, says):
    with pytest.raises(error, match=says):
        fit(Line(), data, **{**OPTIONS, **options})


def test_validation_without_a_valid_pixel_is_refused():
    with pytest.raises(InputError, match="no validation target"):
        fit(Line(), LineData(), LineData(8, valid_share=0), **OPTIONS)


def test_backends_are_chosen_by_name():
    assert open_backend("single", device="cpu").size == 1
    with pytest.raises(InputError, match="did you mean 'single'"):
        open_backend("singel")
