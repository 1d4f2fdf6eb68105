"""How ranks exchange gradients, where a backend leaves the choice: the options that only Horovod has a use for."""

from __future__ import annotations

from dataclasses import dataclass

from glacierhpc.errors import InputError, unknown_name

COMPRESSIONS = ("none", "fp16")


@dataclass(frozen=True)
class Exchange:
    """Options of the exchange of gradients, checked."""

    compression: str = "none"
    """What crosses between ranks: ``"none"`` the gradients as they are, ``"fp16"`` half as many bytes."""
    backward_passes_per_step: int = 1
    """Micro-batches of a step whose gradients add up on each rank before they cross."""
    adasum: bool = False
    """Combine the ranks' steps by Adasum in place of averaging gradients."""

    def __post_init__(self) -> None:
        if self.compression not in COMPRESSIONS:
            raise unknown_name("train.compression", self.compression, COMPRESSIONS)
        if self.backward_passes_per_step < 1:
            raise InputError(
                f"train.backward_passes_per_step cannot be {self.backward_passes_per_step!r}: give 1 or more"
            )

    def refuse_for(self, backend: str) -> None:
        """Raise if an option is set; for a backend that has no use for any.

        Raises
        ------
        InputError
            Naming the options that were given.
        """
        plain = Exchange()
        given = {name: value for name, value in vars(self).items() if value != getattr(plain, name)}
        if given:
            options = ", ".join(f"train.{name}={value!r}" for name, value in given.items())
            raise InputError(
                f"{options} means something to train.backend='horovod' only, not to {backend!r}: leave it out"
                + (" (train.accumulate adds up micro-batches)" if "backward_passes_per_step" in given else "")
            )
