"""Where the truth is shown falls over the epochs, and is drawn the same on any number of ranks."""

import pytest
import torch
from torch import nn

from glacierhpc.errors import InputError
from glacierhpc.training.checkpoint import Checkpoints
from glacierhpc.training.loop import fit
from glacierhpc.training.teacher import draw, teacher_share
from tests.training.lines import OPTIONS, DiesAfter, Killed, Line, LineData, weights


def test_shares_fall_from_the_first_to_nothing():
    def shares(decay, start=0.8):
        return [teacher_share(start, decay, gone=gone, epochs=10) for gone in (0, 2.5, 5, 7.5, 10)]

    assert shares("none") == [0.8] * 5
    assert shares("linear") == pytest.approx([0.8, 0.6, 0.4, 0.2, 0])
    sigmoid = shares("sigmoid")
    assert sigmoid == sorted(sigmoid, reverse=True) and sigmoid[2] == pytest.approx(0.4)
    assert sigmoid[0] > 0.79 and sigmoid[-1] < 0.01
    with pytest.raises(InputError, match="did you mean 'linear'"):
        shares("liner")


def test_draws_depend_on_their_place_only_and_have_the_share():
    place = {"samples": 4000, "steps": 3, "seed": 1, "epoch": 2, "step": 5}
    first = draw(0.3, **place)
    assert torch.equal(first, draw(0.3, **place)) and first.float().mean() == pytest.approx(0.3, abs=0.02)
    for other in ("seed", "epoch", "step"):
        assert not torch.equal(first, draw(0.3, **{**place, other: 9}))
    assert draw(1.0, **place).all() and not draw(0.0, **place).any()


class Taught(Line):
    """Keeps what it is taught with."""

    taught = True

    def __init__(self):
        super().__init__()
        self.given = []

    def forward(self, x, teacher=None):
        self.given.append(teacher)
        return super().forward(x)


TEACHING = {**OPTIONS, "epochs": 2, "teacher_forcing": 0.5}


def test_a_taught_model_gets_targets_masks_and_draws_of_its_micro_batches():
    data, parts = LineData(20), {}
    for accumulate in (1, 3):
        model = Taught()
        history = fit(model, data, accumulate=accumulate, **{**TEACHING, "epochs": 1})
        steps = [given for given in model.given if given is not None]
        assert history.rows[0]["teacher_share"] == 0.5
        parts[accumulate] = [torch.cat(each) for each in zip(*steps)]
    whole = parts[1]
    for one, several in zip(whole, parts[3]):
        assert torch.equal(one, several)
    frames, valid, use = whole
    assert frames.shape == (20, 1, 1, 4, 4) and valid.dtype == use.dtype == torch.bool
    expected = [draw(0.5, samples=n, steps=1, seed=3, epoch=0, step=s) for s, n in enumerate((8, 8, 4))]
    assert torch.equal(use, torch.cat(expected))


def test_it_is_not_taught_in_validation_or_without_a_share():
    model = Taught()
    history = fit(model, LineData(8), LineData(8), **{**TEACHING, "teacher_forcing": 0.0})
    assert all(given is None for given in model.given) and "teacher_share" not in history.rows[0]
    model = Taught()
    fit(model, LineData(8), LineData(8), **{**TEACHING, "epochs": 1, "teacher_forcing": 1.0})
    assert [given is None for given in model.given] == [False, True]


def test_a_model_that_feeds_nothing_back_is_told_of(caplog):
    fit(Line(), LineData(8), **TEACHING)
    assert "teacher_forcing=0.5 has no effect: Line" in caplog.text


def test_draws_go_on_after_a_resume(tmp_path):
    class Shown(nn.Module):
        taught = True

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x, teacher=None):
            shown = 0 if teacher is None else teacher[2].float().mean()
            return x * self.weight * (1 + shown)

    options = {**TEACHING, "teacher_decay": "linear"}
    whole = Shown()
    fit(whole, LineData(), **options)
    with pytest.raises(Killed):
        fit(Shown(), DiesAfter(9), checkpoints=Checkpoints(tmp_path, every_steps=1), **options)
    again = Shown()
    fit(again, LineData(), checkpoints=Checkpoints(tmp_path), **options)
    assert torch.equal(weights(again), weights(whole))
