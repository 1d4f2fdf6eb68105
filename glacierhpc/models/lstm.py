"""An encoder-decoder LSTM on patch embeddings; the form of its forecast is that of `anchored`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from glacierhpc.errors import InputError
from glacierhpc.models.anchored import Anchor, ahead_channels, dated_channels
from glacierhpc.models.teaching import Teacher, previous_frame
from glacierhpc.models.tokens import PatchEmbedding, TokenHead


class LSTM(nn.Module):
    """Forecast the next composites from the last ones with one LSTM that reads and one that writes.

    Every patch of an image, seen with its neighbours, is a token; all places share the weights, so that images of any
    size do. The writer is shown, step by step, the frame before (its own forecast, or the true one by teacher forcing)
    and what is known of the target. Forecasts have the form of `anchored.anchored`: an untrained model is climatology,
    or persistence without one. Any number of input steps.

    Parameters
    ----------
    bands : int
    steps_out : int
        T', composites to forecast.
    width : int
        Of a token and of the LSTMs' states.
    layers : int
        Of either LSTM.
    patch : int
        Edge length of a patch, pixels.
    dropout : float
        Between the layers and before the forecast, in training.
    head : int
        Channels, at full resolution, between the state and the forecast.
    means, deviations : sequence of float, optional
        Band statistics of the training data; 0 and 1 by default.
    value_range : (float, float), optional
        Forecasts are clipped to it outside of training.

    References
    ----------
    Srivastava et al. (2015), Unsupervised learning of video representations using LSTMs, ICML, arXiv:1502.04681
    """

    taught = True

    def __init__(
        self,
        *,
        bands: int = 1,
        steps_out: int = 4,
        width: int = 32,
        layers: int = 1,
        patch: int = 4,
        dropout: float = 0.0,
        head: int = 16,
        means: Sequence[float] | None = None,
        deviations: Sequence[float] | None = None,
        value_range: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if min(bands, steps_out, width, layers, patch, head) < 1 or not 0 <= dropout < 1:
            raise InputError(
                f"an LSTM cannot have bands={bands!r}, steps_out={steps_out!r}, width={width!r}, layers={layers!r}, "
                f"patch={patch!r}, head={head!r}, dropout={dropout!r}: give positive numbers and 0 <= dropout < 1"
            )
        self.steps_out = steps_out
        self.anchor = Anchor(
            bands=bands, steps_out=steps_out, means=means, deviations=deviations, value_range=value_range
        )
        self.embed = PatchEmbedding(dated_channels(bands), width, patch)
        self.embed_ahead = PatchEmbedding(ahead_channels(bands), width, patch)
        between = dropout if layers > 1 else 0.0
        self.encoder = nn.LSTM(width, width, layers, batch_first=True, dropout=between)
        self.decoder = nn.LSTM(width, width, layers, batch_first=True, dropout=between)
        self.head = TokenHead(width, bands=bands, patch=patch, head=head, dropout=dropout)

    def forward(
        self,
        images: Tensor,
        images_valid: Tensor | None = None,
        *,
        teacher: Teacher | None = None,
        **known: Tensor | None,
    ) -> Tensor:
        """Return the forecast (B, T', C, H, W) of images (B, T, C, H, W) and what `Anchor.forward` takes.

        Parameters
        ----------
        teacher : Teacher, optional
            True frames to follow instead of the model's own, see `teaching.previous_frame`.
        """
        outlook = self.anchor(images, images_valid, **known)
        frames = [outlook.dated(step) for step in range(outlook.steps_in)]
        tokens = [functional.silu(self.embed(frame)) for frame in frames]
        read, state = self.encoder(torch.stack(tokens, dim=1))
        frame = frames[-1]
        forecasts: list[Tensor] = []
        for lead in range(self.steps_out):
            step = outlook.steps_in + lead
            if lead:
                before = previous_frame(forecasts[-1], lead, teacher, self.anchor.scaling)
                frame = outlook.dated_frame(before, step - 1, torch.ones_like(outlook.valid[:, 0]))
            token = functional.silu(self.embed(frame) + self.embed_ahead(outlook.ahead(step)))
            written, state = self.decoder(token.unsqueeze(1), state)
            forecasts.append(self.head(outlook, step, written[:, 0], read))
        return self.anchor.undo(forecasts)
