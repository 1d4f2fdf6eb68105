"""Teacher forcing: which frame a model that feeds on its own forecasts is shown; who decides when is the training."""

from __future__ import annotations

import torch
from torch import Tensor

from glacierhpc.models.inputs import Scaling

Teacher = tuple[Tensor, Tensor, Tensor]
"""frames (B, T', C, H, W) in the unit of the images, valid (B, T', H, W) bool, use (B, T') bool."""


def previous_frame(own: Tensor, lead: int, teacher: Teacher | None, scaling: Scaling) -> Tensor:
    """Return the scaled frame that the forecast of a lead follows, (B, C, H, W).

    It is the true one where ``use[:, lead]`` says so and the pixel is valid, else the model's own. Models that take
    a teacher have the attribute ``taught``, true; their first step follows the inputs and is never taught.

    Parameters
    ----------
    own : (B, C, H, W)
        The model's forecast of the lead before, scaled.
    lead : int
        From 1 on.
    teacher : Teacher, optional
    scaling : Scaling
        Of the model.

    References
    ----------
    Bengio et al. (2015), Scheduled sampling for sequence prediction, NeurIPS 28, arXiv:1506.03099
    """
    if teacher is None:
        return own
    frames, valid, use = teacher
    valid_then = valid[:, lead - 1].unsqueeze(1)
    shown = scaling(frames[:, lead - 1], valid_then)
    return torch.where(valid_then & use[:, lead, None, None, None], shown, own)
