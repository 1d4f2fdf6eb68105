"""Small forecasts run on one thread; a small world whose truth is known."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch

SIZE, STEPS_IN, STEPS_OUT = 8, 2, 2


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Batch(NamedTuple):
    """What the evaluation reads of a batch of sequences."""

    images: np.ndarray
    targets: np.ndarray
    targets_valid: np.ndarray
    dates: np.ndarray
    climatology: np.ndarray
    numbers: np.ndarray


class World:
    """A cube of four seasons a year, each with its own level, and a state that decays from step to step."""

    size, steps_in, steps_out = SIZE, STEPS_IN, STEPS_OUT

    def __init__(self, *, times: int = 48, side: int = 16, memory: float = 0.9):
        random = np.random.default_rng(0)
        self.season = 0.5 * np.cos(np.arange(times) * np.pi / 2)
        state = np.zeros((times, side, side))
        for step in range(1, times):
            state[step] = memory * state[step - 1] + 0.1 * random.normal(size=(1, 1))
        self.data = self.season[:, None, None] + state + 0.02 * random.normal(size=state.shape)
        self.valid = random.random(state.shape) < 0.9
        self.times = np.datetime64("2010-01-15") + (np.arange(times) * 365.2425 / 4).astype("timedelta64[D]")
        first, row, col = np.meshgrid(
            np.arange(times - STEPS_IN - STEPS_OUT + 1),
            np.arange(0, side - SIZE + 1, 4),
            np.arange(0, side - SIZE + 1, 4),
            indexing="ij",
        )
        self.starts = np.stack([first, row, col], axis=-1).reshape(-1, 3)

    @property
    def target_times(self):
        return self.times[self.starts[:, :1] + STEPS_IN + np.arange(STEPS_OUT)]

    def __len__(self):
        return len(self.starts)

    def __getitems__(self, items):
        numbers = np.asarray(items)
        steps = self.starts[numbers, 0][:, None] + np.arange(STEPS_IN + STEPS_OUT)
        rows, cols = (self.starts[numbers, axis][:, None] + np.arange(SIZE) for axis in (1, 2))
        place = (steps[:, :, None, None], rows[:, None, :, None], cols[:, None, None, :])
        pixels, valid = self.data[place][:, :, None], self.valid[place]
        usual = np.broadcast_to(self.season[steps][:, :, None, None, None], pixels.shape)
        return Batch(
            pixels[:, :STEPS_IN], pixels[:, STEPS_IN:], valid[:, STEPS_IN:], steps / 4 + 10, usual, numbers
        )


def everywhere(values):
    """Return a forecast (B, T', C, H, W) that is valid everywhere."""
    return values, np.ones(values[:, :, 0].shape, dtype=bool)


def climatology(batch):
    return everywhere(np.array(batch.climatology[:, STEPS_IN:]))


def persistence(batch):
    return everywhere(np.repeat(batch.images[:, -1:], STEPS_OUT, axis=1))


def informed(batch):
    """Forecast what is usual, and the last deviation from it, fading."""
    deviation = (batch.images - batch.climatology[:, :STEPS_IN])[:, -1:].mean(axis=(-2, -1), keepdims=True)
    fade = 0.9 ** np.arange(1, STEPS_OUT + 1)[None, :, None, None, None]
    return everywhere(batch.climatology[:, STEPS_IN:] + fade * deviation)


@pytest.fixture(scope="session")
def world():
    return World()


@pytest.fixture(scope="session")
def forecasters():
    """A model that knows its world, and two baselines."""
    return {"net": informed, "persistence": persistence, "climatology": climatology}
