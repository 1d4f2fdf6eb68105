"""Number formats of the arithmetic: mixed precision with its gradient scaler, memory formats, compilation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from glacierhpc.errors import GlacierError, InputError, unknown_name

PRECISIONS: dict[str, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
"""Formats of the models' arithmetic by name; weights, losses and optimisers stay in float32.

Micikevicius et al. (2018), Mixed precision training, ICLR, arXiv:1710.03740
"""


class Precision:
    """One format on one device: where it applies, and the scaler that fp16 needs.

    Raises
    ------
    InputError
        If the format is not known, or the device cannot compute in it.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        if name not in PRECISIONS:
            raise unknown_name("train.precision", name, PRECISIONS)
        if name == "fp16" and device.type != "cuda":
            raise InputError(
                f"train.precision 'fp16' needs a CUDA device, and this training runs on {device.type!r}: give 'bf16', "
                "which has the range of fp32 and runs here too, or 'fp32'"
            )
        if name == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(False):
            raise InputError(
                f"train.precision 'bf16' is not known to {torch.cuda.get_device_name(device)} (compute capability 8.0 "
                "or higher is needed): give 'fp16' or 'fp32'"
            )
        self.name, self._device = name, device
        self.scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16")

    @property
    def scales(self) -> bool:
        """Whether losses are scaled, and steps with overflowing gradients skipped."""
        return self.name == "fp16"

    def autocast(self) -> AbstractContextManager[Any]:
        """Return a context in which a model computes in this format."""
        if self.name == "fp32":
            return nullcontext()
        return torch.autocast(self._device.type, dtype=PRECISIONS[self.name])


def use_channels_last(model: nn.Module) -> None:
    """Lay the weights of a model's 2-D convolutions out with the channels last; its values stay what they are.

    Only they have four axes: ``model.to(memory_format=...)`` refuses models that have weights of five. Convolutions
    then give their results in this format, whatever that of their input.
    """
    for parameter in model.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


@contextmanager
def compiled(model: nn.Module, wanted: bool) -> Iterator[None]:
    """Let a model run compiled while the block runs, if wanted; the names of its weights stay.

    The first batches of each shape take the time of the compilation.

    Raises
    ------
    GlacierError
        If it cannot be compiled here.
    """
    if not wanted:
        yield
        return
    model.compile()
    try:
        yield
    except Exception as err:
        if not type(err).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        raise GlacierError(
            f"{type(model).__name__} cannot be compiled here ({str(err).splitlines()[0]}): set train.compile to false, "
            "or install what torch.compile needs, a C++ compiler on a CPU and Triton on a GPU"
        ) from err
    finally:
        model._compiled_call_impl = None  # the public way back does not exist
