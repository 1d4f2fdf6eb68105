"""Add up numbers over Horovod's processes, and say how: run by %test of deeplearning.def with two of them."""

from __future__ import annotations

import sys

import horovod.torch as hvd
import torch

if __name__ == "__main__":
    expected = int(sys.argv[1])
    hvd.init()
    if hvd.size() != expected:
        raise SystemExit(f"{expected} processes were started, and this one knows of {hvd.size()}")
    total = hvd.allreduce(torch.arange(4.0) + hvd.rank(), op=hvd.Sum)
    right = torch.arange(4.0) * expected + expected * (expected - 1) / 2
    if not torch.equal(total, right):
        raise SystemExit(f"rank {hvd.rank()}: the sum is {total.tolist()}, and should be {right.tolist()}")
    if hvd.rank() == 0:
        sys.stdout.write(f"{expected} processes add up by {'MPI' if hvd.mpi_enabled() else 'Gloo'}\n")
    hvd.shutdown()
