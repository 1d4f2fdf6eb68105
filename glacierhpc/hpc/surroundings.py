"""Where this process runs: in which job, in which container."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

IMAGE_ID = Path("/opt/glacierhpc/image-id")
"""Written by deeplearning.def: a hash of the source and versions the image was built from."""


def job_surroundings(environ: Mapping[str, str] = os.environ) -> dict[str, str | None]:
    """Return the ids of the job and the container this process runs in, None where it runs in neither.

    Keys are those of `rundir.RunDirectory.provenance`.
    """
    inside = environ.get("APPTAINER_CONTAINER") or environ.get("SINGULARITY_CONTAINER")
    digest = IMAGE_ID.read_text(encoding="utf-8").strip() if inside and IMAGE_ID.is_file() else None
    return {"job_id": environ.get("SLURM_JOB_ID"), "container_digest": digest}


def job_attempt(environ: Mapping[str, str] = os.environ) -> tuple[str | None, int]:
    """Return the job this process runs in, by a name no other job has, and how often it was started again.

    Numbers of jobs are counted by each cluster, and two clusters may share a file system. As for `lease.take`.
    """
    number, cluster = environ.get("SLURM_JOB_ID"), environ.get("SLURM_CLUSTER_NAME")
    job = f"{number}@{cluster}" if number and cluster else number
    return job, int(environ.get("SLURM_RESTART_COUNT") or 0)


def access_token(environ: Mapping[str, str] = os.environ) -> str:
    """Return the token by which the user is known to an archive; empty where none is set."""
    return environ.get("EARTHDATA_TOKEN", "").strip()
