"""A small training that many tests share: noisy lines, and a layer with dropout to learn them."""

from dataclasses import dataclass

import torch
from torch import nn

from glacierhpc.training.distributed import Single
from glacierhpc.training.loop import fit


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


def uninterrupted():
    """Return the weights and losses of a run that nothing happened to."""
    model = Line()
    history = fit(model, LineData(), validation(), **OPTIONS)
    return weights(model), losses(history)


def validation():
    return LineData(20, seed=1)
