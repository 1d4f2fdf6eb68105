"""Training learns, stops in time, and a killed run resumed is bit for bit the run that was not killed."""

import pytest
import torch

from glacierhpc.errors import GlacierError, InputError
from glacierhpc.training.checkpoint import Checkpoints
from glacierhpc.training.distributed import open_backend
from glacierhpc.training.loop import fit
from glacierhpc.training.trackers import CSVTracker
from tests.training import lines
from tests.training.lines import OPTIONS, DiesAfter, KillAt, Killed, Line, LineData, losses, weights


@pytest.fixture(scope="module")
def uninterrupted():
    return lines.uninterrupted()


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
