"""Slurm: job scripts as text (`script`, `catalogue`), their limits, their submission, their states."""

from glacierhpc.hpc.slurm.catalogue import JOBS, write_jobs
from glacierhpc.hpc.slurm.job import JobSpec
from glacierhpc.hpc.slurm.script import render
from glacierhpc.hpc.surroundings import job_surroundings

__all__ = ["JOBS", "JobSpec", "job_surroundings", "render", "write_jobs"]
