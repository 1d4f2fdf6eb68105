"""Learning rates are functions of the position and of the losses: nothing to lose on resume."""

import math

import pytest

from glacierhpc.errors import InputError
from glacierhpc.training.schedules import COSINE_FLOOR, PLATEAU_FACTOR, rate_share


@pytest.mark.parametrize("name", ["constant", "cosine", "plateau"])
def test_a_warm_up_rises_from_nothing_to_the_whole_rate(name):
    shares = [rate_share(name, gone=gone, epochs=10, warmup_epochs=2) for gone in (0, 0.5, 1, 1.999, 2)]
    assert shares == pytest.approx([0, 0.25, 0.5, 1, 1], abs=1e-3)


def test_the_cosine_falls_to_its_floor():
    shares = [rate_share("cosine", gone=gone, epochs=12, warmup_epochs=2) for gone in (2, 4.5, 7, 12, 20)]
    middle = COSINE_FLOOR + (1 - COSINE_FLOOR) * 0.5
    eighth = COSINE_FLOOR + (1 - COSINE_FLOOR) * 0.5 * (1 + math.cos(math.pi / 4))
    assert shares == pytest.approx([1, eighth, middle, COSINE_FLOOR, COSINE_FLOOR])


def test_a_plateau_lowers_the_rate_once_for_every_three_stale_epochs():
    losses = [3, 2, 2.5, 2.1, 2, 2.2, 2.2, 2.2, 1.9, 2, 2]
    shares = [rate_share("plateau", gone=n, epochs=30, losses=losses[:n]) for n in range(len(losses) + 1)]
    half, quarter = PLATEAU_FACTOR, PLATEAU_FACTOR**2
    assert shares == [1, 1, 1, 1, 1, half, half, half, quarter, quarter, quarter, quarter]


def test_an_unknown_schedule_is_refused():
    with pytest.raises(InputError, match="train.schedule 'cosin' is not known; did you mean 'cosine'"):
        rate_share("cosin", gone=0, epochs=1)
