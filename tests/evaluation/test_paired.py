"""Paired comparison: right where one is better by a little everywhere, undecided between equals."""

import numpy as np
import pytest
from scipy import stats

from glacierhpc.errors import InputError
from glacierhpc.evaluation.bootstrap import Resampling
from glacierhpc.evaluation.metrics import SUMS
from glacierhpc.evaluation.paired import block_differences, paired


def sums_of(squared):
    """Return sums (n, T', S) with these squared errors, 10 pixels each."""
    sums = np.zeros((*squared.shape, len(SUMS)))
    sums[..., SUMS.index("count")], sums[..., SUMS.index("squared")] = 10, squared
    return sums


@pytest.fixture
def errors():
    return np.random.default_rng(0).lognormal(0, 1, size=(60, 2))


def test_a_little_better_everywhere_is_better_beyond_doubt(errors):
    found = paired(
        {"net": sums_of(0.9 * errors), "old": sums_of(errors)}, Resampling(np.arange(60) // 5), model="net"
    )
    old = found["old"]
    assert old["mse_difference"]["all"] == pytest.approx(-0.1 * errors.mean() / 10)
    assert old["mse_difference"]["interval"][1] < 0 and len(old["mse_difference"]["by_lead"]) == 2
    assert old["windows"] == 12 and old["won"] == 1
    assert old["sign_p"] == pytest.approx(2 / 2**12) and old["wilcoxon_p"] == pytest.approx(2 / 2**12)


def test_p_values_are_those_of_the_windows(errors):
    other = errors * np.random.default_rng(1).lognormal(0.1, 0.5, size=errors.shape)
    blocks = np.arange(60) // 5
    found = paired({"net": sums_of(errors), "old": sums_of(other)}, Resampling(blocks), model="net")["old"]
    difference = np.array([(errors - other)[blocks == block].mean() for block in range(12)]) / 10
    np.testing.assert_allclose(block_differences(sums_of(errors), sums_of(other), blocks), difference)
    assert found["wilcoxon_p"] == pytest.approx(stats.wilcoxon(difference).pvalue)
    assert found["won"] == np.mean(difference < 0)


def test_between_equals_the_tests_are_right_as_often_as_they_say():
    random, refused = np.random.default_rng(2), []
    for _ in range(200):
        one, two = random.lognormal(size=(2, 40, 1))
        found = paired(
            {"net": sums_of(one), "old": sums_of(two)}, Resampling(np.arange(40) // 2, 2), model="net"
        )
        refused.append((found["old"]["sign_p"] < 0.05, found["old"]["wilcoxon_p"] < 0.05))
    assert (np.mean(refused, axis=0) < 0.1).all()
    assert np.mean(refused) > 0.005


def test_squares_of_ground_are_counted_apart(errors):
    ground = np.arange(60) % 3
    other = errors * np.where(ground == 0, 0.5, 2)[:, None]
    blocks = np.stack([np.arange(60) // 12, ground], axis=1)
    found = paired({"net": sums_of(errors), "old": sums_of(other)}, Resampling(blocks), model="net")["old"]
    assert found["grounds"] == 3 and found["won_grounds"] == pytest.approx(2 / 3)
    assert found["windows"] == 5


def test_what_decides_nothing(errors):
    same = paired({"net": sums_of(errors), "old": sums_of(errors)}, Resampling(np.arange(60)), model="net")[
        "old"
    ]
    assert same["sign_p"] == same["wilcoxon_p"] == 1 and same["won"] == 0.5
    one = paired({"net": sums_of(errors), "old": sums_of(errors)}, Resampling(np.zeros(60)), model="net")[
        "old"
    ]
    assert one["sign_p"] is None and one["mse_difference"]["interval"] == [None, None]
    with pytest.raises(InputError, match="'nett' is not known"):
        paired({"net": sums_of(errors)}, Resampling(np.arange(60)), model="nett")
