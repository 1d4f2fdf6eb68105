"""An LSTM whose outputs attend to each other and to dates; the form of its forecast is that of `anchored`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from glacierhpc.errors import InputError
from glacierhpc.models.anchored import Anchor, Outlook, ahead_channels, dated_channels
from glacierhpc.models.inputs import DATE_CHANNELS
from glacierhpc.models.tokens import PatchEmbedding, TokenHead

_FREQUENCIES = 4
"""Of the code of a step's number: periods of 4, 8, 16 and 32 steps."""


class AttentionLSTM(nn.Module):
    """Forecast the next composites from the last ones with an LSTM and multi-head self-attention over its outputs.

    Every patch of an image, seen with its neighbours, is a token. An LSTM reads the tokens of a place; its outputs and
    one token per target, all with an encoding of their dates, attend to each other, and each target is decoded from
    its own. All targets are forecast at once: no forecast feeds on another, and any date can be asked for. Forecasts
    have the form of `anchored.anchored`: an untrained model is climatology, or persistence without one. Any image size
    and number of input steps.

    Parameters
    ----------
    bands : int
    steps_out : int
        T', composites to forecast.
    width : int
        Of a token and of the LSTM's state; a multiple of `heads`.
    layers : int
        Of the LSTM.
    heads : int
        Of the attention.
    patch : int
        Edge length of a patch, pixels.
    dropout : float
        Between the LSTM's layers, in the attention and before the forecast, in training.
    head : int
        Channels, at full resolution, between the state and the forecast.
    means, deviations : sequence of float, optional
        Band statistics of the training data; 0 and 1 by default.
    value_range : (float, float), optional
        Forecasts are clipped to it outside of training.

    References
    ----------
    Vaswani et al. (2017), Attention is all you need, NeurIPS 30, arXiv:1706.03762
    """

    def __init__(
        self,
        *,
        bands: int = 1,
        steps_out: int = 4,
        width: int = 64,
        layers: int = 1,
        heads: int = 4,
        patch: int = 4,
        dropout: float = 0.0,
        head: int = 16,
        means: Sequence[float] | None = None,
        deviations: Sequence[float] | None = None,
        value_range: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if (
            min(bands, steps_out, width, layers, heads, patch, head) < 1
            or width % heads
            or not 0 <= dropout < 1
        ):
            raise InputError(
                f"an attention LSTM cannot have bands={bands!r}, steps_out={steps_out!r}, width={width!r}, "
                f"layers={layers!r}, heads={heads!r}, patch={patch!r}, head={head!r}, dropout={dropout!r}: give "
                "positive numbers, a width that is a multiple of heads, and 0 <= dropout < 1"
            )
        self.steps_out = steps_out
        self.anchor = Anchor(
            bands=bands, steps_out=steps_out, means=means, deviations=deviations, value_range=value_range
        )
        self.embed = PatchEmbedding(dated_channels(bands), width, patch)
        self.embed_ahead = PatchEmbedding(ahead_channels(bands), width, patch)
        self.encoder = nn.LSTM(width, width, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
        self.embed_date = nn.Linear(DATE_CHANNELS + 2 * _FREQUENCIES, width)
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.mix = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))
        self.head = TokenHead(width, bands=bands, patch=patch, head=head, dropout=dropout)

    def forward(self, images: Tensor, images_valid: Tensor | None = None, **known: Tensor | None) -> Tensor:
        """Return the forecast (B, T', C, H, W) of images (B, T, C, H, W) and what `Anchor.forward` takes."""
        outlook = self.anchor(images, images_valid, **known)
        tokens = self._attended(outlook)
        inputs, targets = tokens[:, : outlook.steps_in], tokens[:, outlook.steps_in :]
        leads = range(self.steps_out)
        return self.anchor.undo(
            [self.head(outlook, outlook.steps_in + lead, targets[:, lead], inputs) for lead in leads]
        )

    def _attended(self, outlook: Outlook) -> Tensor:
        """Return the tokens of inputs and targets (B h w, T + T', width) after they have attended to each other."""
        steps = range(outlook.steps_in)
        seen = [functional.silu(self.embed(outlook.dated(step))) for step in steps]
        read, _ = self.encoder(torch.stack(seen, dim=1))
        leads = range(outlook.steps_in, outlook.steps_in + self.steps_out)
        asked = [read[:, -1] + functional.silu(self.embed_ahead(outlook.ahead(step))) for step in leads]
        tokens = torch.cat([read, torch.stack(asked, dim=1)], dim=1)
        dates = self.embed_date(torch.cat([outlook.when, _numbered(outlook)], dim=-1))
        tokens = tokens + dates.repeat_interleave(len(tokens) // len(dates), dim=0)
        among = self.before(tokens)
        tokens = tokens + self.attention(among, among, among, need_weights=False)[0]
        return tokens + self.mix(self.between(tokens))


def _numbered(outlook: Outlook) -> Tensor:
    """Return a code of each step's number, counted from the last input, (B, T + T', 8): tells steps apart undated."""
    when = outlook.when
    number = torch.arange(when.shape[1], dtype=when.dtype, device=when.device) - (outlook.steps_in - 1)
    phase = number[:, None] * torch.pi / 2.0 ** torch.arange(1, _FREQUENCIES + 1, device=when.device)
    return torch.cat([torch.sin(phase), torch.cos(phase)], dim=-1).to(when.dtype).expand(len(when), -1, -1)
