"""What the projection assumes and no run on one machine can measure; the command line may change each figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace

from glacierhpc.errors import InputError, unknown_name


@dataclass(frozen=True)
class Assumed:
    """What no run on one machine can measure; each may be set by ``--assume name=value``."""

    campaign: float = 5000
    """Pieces of work of the strong projection: scenes, pieces."""
    campaign_each: float = 20
    """Pieces of work of each worker of the weak projection."""
    campaign_batch: float = 16_384
    """Samples of a global batch of the strong projection of training."""
    queue_s: float = 60.0
    """Mean wait in the queue of a job that replaces a lost one."""
    straggler_share: float = 0.01
    straggler_factor: float = 3.0
    losses_per_hour: float = 0.01
    """Of a worker or a rank."""
    walltime_h: float = 4.0
    endpoint_connections: float = 500
    """That the archive takes from us at the same time."""
    endpoint_gbit: float = 10.0
    """Bandwidth of the archive for all connections together."""
    ranks_per_node: float = 4
    network_latency_us: float = 10.0
    """Between nodes, per message."""
    network_gbit: float = 25.0
    """Between nodes."""
    checkpoint_s: float = 5.0
    checkpoint_every: float = 200
    """Steps between two checkpoints."""
    steps: float = 1000
    """Of the training projected."""

    @classmethod
    def given(cls, settings: Sequence[str]) -> Assumed:
        """Return the assumptions with some of them set by words such as ``queue_s=300``.

        Raises
        ------
        InputError
            If a name is not known or a value is no number that the name can have.
        """
        names = [field.name for field in fields(cls)]
        values: dict[str, float] = {}
        for setting in settings:
            name, _, text = setting.partition("=")
            if name not in names:
                raise unknown_name("--assume", name, names)
            try:
                values[name] = float(text)
            except ValueError:
                raise InputError(
                    f"--assume {setting!r}: {text!r} is no number; write {name}=NUMBER"
                ) from None
            if not values[name] >= 0 or (name not in _MAY_BE_ZERO and values[name] == 0):
                raise InputError(f"--assume {setting!r}: give a number above 0")
            if math.isinf(values[name]) and name not in _MAY_BE_ENDLESS:
                raise InputError(f"--assume {setting!r}: give a number that has an end")
            if name in _WHOLE and math.isfinite(values[name]) and values[name] % 1:
                raise InputError(f"--assume {setting!r}: give a whole number")
            if name == "straggler_share" and values[name] > 1:
                raise InputError(f"--assume {setting!r}: give a share, from 0 to 1")
        return replace(cls(), **values)

    def without_losses(self) -> Assumed:
        """Return the same for workers that live for ever."""
        return replace(self, losses_per_hour=0.0, walltime_h=math.inf)

    def told(self) -> list[str]:
        """Return the assumed figures in words."""
        return [f"{name} = {value:.12g} (assumed, not measured)" for name, value in asdict(self).items()]


_MAY_BE_ZERO = ("queue_s", "straggler_share", "losses_per_hour", "checkpoint_s", "network_latency_us")
_MAY_BE_ENDLESS = ("walltime_h", "endpoint_connections", "endpoint_gbit", "network_gbit")
_WHOLE = ("campaign", "campaign_each", "campaign_batch", "endpoint_connections", "ranks_per_node", "checkpoint_every",
          "steps")  # fmt: skip
