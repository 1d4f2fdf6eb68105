"""What is known before a forecast, against plain loops over pixels with gaps in images and climatology."""

import numpy as np
import pytest
import torch

from glacierhpc.errors import InputError
from glacierhpc.models.anchored import Anchor, Head, anchored, regional_anomaly
from tests.models.zoo import inputs

IN, OUT, SIZE = 4, 2, 5


@pytest.fixture(scope="module")
def given():
    return inputs("lstm", steps=IN, steps_out=OUT, bands=2, height=SIZE, seed=8)


@pytest.fixture(scope="module")
def anchor():
    return Anchor(bands=2, steps_out=OUT, means=[0.1, -0.2], deviations=[0.5, 2.0], value_range=(-1, 1))


@pytest.fixture(scope="module")
def outlook(anchor, given):
    spoilt = torch.where(given["images_valid"].unsqueeze(2), given["images"], float("nan"))
    given = given | {"images": spoilt}
    return anchor(given.pop("images"), given.pop("images_valid"), **given)


def pixels(given):
    """Every pixel's scaled inputs and climatology, each a list with None where there is none."""
    mean, deviation = np.array([0.1, -0.2]), np.array([0.5, 2.0])
    for b, row, col in np.ndindex(2, SIZE, SIZE):

        def series(values, valid, b=b, row=row, col=col):
            steps = zip(values[b, :, :, row, col].numpy(), valid[b, :, row, col])
            return [(value - mean) / deviation if there else None for value, there in steps]

        yield (
            (b, row, col),
            series(given["images"], given["images_valid"]),
            series(given["climatology"], given["climatology_valid"]),
        )


def check(tensor, place, wanted):
    b, row, col = place
    found = tensor[b, :, row, col].numpy()
    np.testing.assert_allclose(found, np.zeros(2) if wanted is None else wanted, atol=1e-5)


def test_expected_anomaly_and_departures(outlook, given):
    for place, seen, usual in pixels(given):
        there = [step for step in range(IN) if seen[step] is not None]
        last = seen[there[-1]] if there else np.zeros(2)
        compared = there and usual[there[-1]] is not None
        check(outlook.last, place, last)
        check(outlook.anomaly, place, last - usual[there[-1]] if compared else None)
        for step in (IN, IN + 1):
            check(outlook.expected(step), place, last if usual[step] is None else usual[step])
            for earlier in range(IN):
                wanted = None
                if seen[earlier] is not None and usual[step] is None:
                    wanted = seen[earlier] - last
                elif seen[earlier] is not None and usual[earlier] is not None:
                    wanted = seen[earlier] - usual[earlier]
                check(outlook.departures(step)[:, earlier], place, wanted)


def test_the_anomaly_of_the_region_is_a_mean_over_pixels_and_inputs(monkeypatch):
    monkeypatch.setattr("glacierhpc.models.anchored.REGION_PX", 3)
    generator = torch.Generator().manual_seed(1)
    anomalies = torch.randn(2, IN, 2, SIZE, SIZE, generator=generator)
    valid = torch.rand(2, IN, 1, SIZE, SIZE, generator=generator) < 0.5
    valid[1] = False
    spoilt = torch.where(valid, anomalies, float("nan"))
    found = regional_anomaly(spoilt, valid)
    for b, row, col in np.ndindex(2, SIZE, SIZE):
        place = (slice(max(row - 1, 0), row + 2), slice(max(col - 1, 0), col + 2))
        weights = np.array([0.8**age for age in range(IN - 1, -1, -1)])[:, None, None, None]
        there = valid[b, :, :, *place].numpy()
        total = (weights * np.where(there, anomalies[b, :, :, *place].numpy(), 0)).sum(0).mean((1, 2))
        check(found, (b, row, col), 4 * total / ((weights * there).sum(0).mean() + 0.5))
    assert not found[1].any()


def test_the_forecast_is_the_sum_of_its_parts(outlook, anchor):
    generator = torch.Generator().manual_seed(0)
    gains = torch.rand(2, 2 + IN, SIZE, SIZE, generator=generator)
    change = torch.randn(2, 2, SIZE, SIZE, generator=generator)
    wanted = outlook.expected(IN) + gains[:, :1] * outlook.anomaly + gains[:, 1:2] * outlook.regional + change
    torch.testing.assert_close(anchored(outlook, IN, gains[:, :2], change), wanted)
    for step in range(IN):
        wanted = wanted + gains[:, 2 + step : 3 + step] * outlook.departures(IN)[:, step]
    torch.testing.assert_close(anchored(outlook, IN, gains, change), wanted)


def test_channels_are_as_they_are_told(outlook):
    frame, ahead = outlook.dated(1), outlook.ahead(IN)
    assert frame.shape == (2, 9, SIZE, SIZE) and ahead.shape == (2, 6, SIZE, SIZE)
    assert torch.equal(frame[:, 4:5].bool(), outlook.valid[:, 1])
    assert torch.equal(frame[:, 5:6].bool(), outlook.valid[:, 1] & outlook.known[:, 1])
    torch.testing.assert_close(frame[:, -1, 0, 0], torch.full((2,), -0.5))
    torch.testing.assert_close(ahead[:, -1, 0, 0], torch.full((2,), 0.25))
    assert outlook.fine(IN).shape == (2, 7, SIZE, SIZE)


def test_other_numbers_of_steps(outlook):
    fewer, more = outlook.of_steps(2), outlook.of_steps(6)
    assert (fewer.steps_in, more.steps_in) == (2, 6)
    for step in range(2 + OUT):
        torch.testing.assert_close(fewer.usual[:, step], outlook.usual[:, step + 2])
    assert torch.equal(more.dated(3), outlook.dated(1)) and not more.valid[:, :2].any()
    assert not more.known[:, :2].any() and torch.equal(more.ahead(6), outlook.ahead(4))
    assert outlook.of_steps(IN) is outlook


def test_forecasts_return_to_their_unit(anchor, outlook):
    expected = torch.where(outlook.valid, outlook.scaled, 0.0)
    values = expected * torch.tensor([0.5, 2.0]).view(2, 1, 1) + torch.tensor([0.1, -0.2]).view(2, 1, 1)
    back = anchor.train().undo(outlook.scaled.unbind(dim=1))
    torch.testing.assert_close(back, values)
    torch.testing.assert_close(anchor.eval().undo(outlook.scaled.unbind(dim=1)), values.clamp(-1, 1))


def test_a_head_starts_at_nothing():
    gains, change = Head(3, bands=2, gains=4, width=5)(torch.randn(2, 3, 6, 7))
    assert gains.shape == (2, 4, 6, 7) and change.shape == (2, 2, 6, 7)
    assert not gains.any() and not change.any()


def test_nothing_cannot_be_read(anchor):
    with pytest.raises(InputError, match="no step to forecast from"):
        anchor(torch.zeros(1, 0, 2, 4, 4), None, dates=None, climatology=None, climatology_valid=None)
    with pytest.raises(InputError, match="a mask of shape"):
        anchor(
            torch.zeros(1, 2, 2, 4, 4),
            torch.ones(1, 2, 2, 4, 4, dtype=torch.bool),
            dates=None,
            climatology=None,
            climatology_valid=None,
        )
