"""Where a rank is in its work, marked by the engine and read by the watch; a mark is a few assignments."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

PHASES = ("start", "data", "agreement", "forward", "backward", "exchange", "update", "checkpoint", "end")
"""In the order of a step. Ranks wait for each other in ``agreement`` (is there anything to learn, is anyone asked to
stop), in ``backward`` (where DDP exchanges), in ``exchange`` (Horovod's, and that of losses) and in ``checkpoint``."""
PARTS = ("training", "validation")


@dataclass
class Pulse:
    """Marks of one rank; written by its main thread, read by another one, which may see two of them mixed."""

    phase: str = "start"
    part: str = "training"
    epoch: int = 0
    step: int = 0
    count: int = 0
    """Marks so far: while it stands, nothing happens."""

    def at(self, phase: str) -> None:
        """Mark the beginning of a phase."""
        self.phase = phase
        self.count += 1

    def in_step(self, epoch: int, step: int, *, part: str = "training") -> None:
        """Mark a step of an epoch."""
        self.part, self.epoch, self.step = part, epoch, step


@dataclass(frozen=True)
class Word:
    """What a rank says of itself to the others."""

    rank: int
    host: str
    pid: int
    phase: str
    part: str
    epoch: int
    step: int
    idle_s: float
    """Since its last mark."""
    kind: str = "beat"
    """beat, hung, bye, or failed."""
    text: str = ""
    """How it failed."""
    heard: float = field(default_factory=time.monotonic, compare=False)
    """When, by the clock of who heard it."""

    @classmethod
    def of(cls, rank: int, pulse: Pulse, *, idle_s: float, kind: str = "beat", text: str = "") -> Word:
        """Return what this process says."""
        place = (pulse.phase, pulse.part, pulse.epoch, pulse.step)
        return cls(rank, socket.gethostname(), os.getpid(), *place, round(idle_s, 1), kind, text)

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> Word:
        """Return what another process said.

        Raises
        ------
        TypeError, ValueError
            If it is no such word.
        """
        kept = dict(told)
        for name in ("rank", "pid", "epoch", "step"):
            kept[name] = int(kept.get(name, 0))
        for name in ("host", "phase", "part", "kind", "text"):
            kept[name] = str(kept.get(name, ""))[:2000]
        return cls(**{**kept, "idle_s": float(kept.get("idle_s", 0))})

    def told(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {name: value for name, value in asdict(self).items() if name != "heard"}

    @property
    def position(self) -> tuple[int, int, int, int]:
        """How far the rank has come, to be compared with the others'."""
        part = PARTS.index(self.part) if self.part in PARTS else 0
        phase = PHASES.index(self.phase) if self.phase in PHASES else 0
        return self.epoch, part, self.step, phase

    @property
    def name(self) -> str:
        """The rank and its process."""
        return f"rank {self.rank} on {self.host} (process {self.pid})"

    @property
    def place(self) -> str:
        """Where it is."""
        return f"{self.part} epoch {self.epoch}, step {self.step}, {self.phase}"
