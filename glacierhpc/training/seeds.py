"""Random numbers of a training run: seeds per rank, the state to save and restore, and the deterministic mode."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_MULTIPLIER = 1_000_003
"""A prime: neighbouring seeds and neighbouring epochs do not meet."""


def mixed(seed: int, *parts: int) -> int:
    """Return one seed made of several numbers, for a generator of its own."""
    for part in parts:
        seed = (seed * _MULTIPLIER + part) % 2**63
    return seed


@contextmanager
def own_random_state(device: torch.device) -> Iterator[None]:
    """Leave the global random state of this process and of its device as it was."""
    devices = [_index(device)] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield


def seed_rank(seed: int, rank: int, *position: int) -> None:
    """Seed what the model draws: a stream of its own for every seed, rank and position.

    Not by ``seed + rank``: repeats of a run with the seeds 0, 1, 2 would share the streams of their ranks.
    """
    torch.manual_seed(mixed(seed, rank, 1, *position) if rank or position else seed)


def random_state(device: torch.device) -> Tensor:
    """Return the state of this process's generators, that of the CPU and that of its device, as (n,) uint8."""
    state = torch.get_rng_state()
    if device.type == "cuda":
        state = torch.cat([state, torch.cuda.get_rng_state(device)])
    return state


def restore_random_state(state: Tensor, device: torch.device) -> None:
    """Put back what `random_state` gave; on another kind of device the part that is there."""
    length = len(torch.get_rng_state())
    torch.set_rng_state(state[:length].clone())
    if device.type == "cuda" and len(state) > length:
        torch.cuda.set_rng_state(state[length:].clone(), device)


@contextmanager
def deterministic_mode(wanted: bool) -> Iterator[None]:
    """Let only operations run that give the same bits every time, if wanted, and restore the mode afterwards.

    An operation that cannot raises an error that names it.
    """
    if not wanted:
        yield
        return
    cudnn = torch.backends.cudnn
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    before_cudnn = cudnn.deterministic, cudnn.benchmark
    # what cuBLAS asks for, read when its first handle is made: docs.nvidia.com/cuda/cublas, "results reproducibility"
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        cudnn.deterministic, cudnn.benchmark = before_cudnn


def _index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index
