"""What works here and what to do about the rest: on the host where jobs are submitted, and on a compute node.

Needs no container and imports nothing heavy: what torch, Horovod or an image have to tell is asked of processes of
their own, each with a time limit.
"""

from glacierhpc.hpc.doctor.checks import CHECKS, examine
from glacierhpc.hpc.doctor.finding import Finding
from glacierhpc.hpc.doctor.machine import Machine

__all__ = ["CHECKS", "Finding", "Machine", "examine"]
