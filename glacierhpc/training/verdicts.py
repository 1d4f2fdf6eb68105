"""What a hang or an error of a training means, in words: which rank is waited for, which resource was short."""

from __future__ import annotations

import time

import torch

from glacierhpc.training.pulse import Word

HUNG = 70
"""Exit code of a run in which nothing moved any more: EX_SOFTWARE of ``sysexits.h``. It is not queued again by itself:
what hangs once mostly hangs again, and each time costs the limit. Started again it goes on from its last checkpoint."""


def told_hung(words: dict[int, Word], size: int, limit_s: float, beat_s: float) -> str:
    """Return where each rank stands and which of them the others wait for.

    Parameters
    ----------
    words : dict
        The latest of each rank that was heard.
    size : int
        Number of ranks.
    limit_s, beat_s : float
        Time without a mark that counts as hung, time between two words.
    """
    mute = {rank for rank in range(size) if silent(words.get(rank), beat_s)}
    spoken = {rank: word for rank, word in words.items() if rank not in mute}
    first = min((word.position for word in spoken.values()), default=None)
    behind = {rank for rank, word in spoken.items() if word.position == first} if not mute else set()
    if len(behind) == size:
        behind = set()
    lines = [f"nothing has moved for {limit_s:g} s (train.watchdog_s); the run ends with code {HUNG}"]
    for rank in range(size):
        word = words.get(rank)
        if word is None:
            lines.append(f"  rank {rank} was never heard of")
            continue
        told = f"  {word.name}: {word.place}"
        told += (
            f", for {word.idle_s:.0f} s" if rank not in mute else " < silent: stopped, or its host is gone"
        )
        lines.append(told + (" < the others wait for it" if rank in behind else ""))
    if size > 1 and not mute and not behind:
        lines.append("  all stand at the same place: the network between them, or the file system")
    return "\n".join(lines)


def out_of_memory(error: BaseException | None) -> bool:
    """Return whether an error says that there was no memory to be had."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    signs = ("can't allocate memory", "not enough memory", "bad_alloc", "Cannot allocate memory")
    return isinstance(error, (RuntimeError, OSError)) and any(sign in str(error) for sign in signs)


def of_exchange(error: Exception) -> bool:
    """Return whether an error is of the exchange between ranks, which another rank's end breaks."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    signs = ("gloo", "nccl", "horovod", "connection", "peer", "socket")
    text = str(error).lower()
    return bool(kinds & {"DistError", "HorovodInternalError", "ConnectionError"}) or (
        isinstance(error, RuntimeError) and any(sign in text for sign in signs)
    )


def silent(word: Word | None, beat_s: float) -> bool:
    """Return whether a rank has missed two of its words."""
    return word is None or time.monotonic() - word.heard > 2.5 * beat_s


def first_line(error: BaseException | None) -> str:
    """Return what an error says first; those of C++ go on with a stack."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
