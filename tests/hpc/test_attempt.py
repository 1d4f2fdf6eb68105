"""Which job a process is of, and which start of it: what a run's lease tells an orphan by."""

from __future__ import annotations

import pytest

from glacierhpc.hpc.surroundings import job_attempt


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, (None, 0)),
        ({"SLURM_RESTART_COUNT": "3"}, (None, 3)),
        ({"SLURM_JOB_ID": "17"}, ("17", 0)),
        ({"SLURM_JOB_ID": "17", "SLURM_CLUSTER_NAME": "ice", "SLURM_RESTART_COUNT": "2"}, ("17@ice", 2)),
        ({"SLURM_JOB_ID": "17", "SLURM_CLUSTER_NAME": "ice", "SLURM_RESTART_COUNT": ""}, ("17@ice", 0)),
    ],
)
def test_a_job_has_a_name_no_other_has_and_a_number_of_starts(
    environ: dict[str, str], expected: tuple[str | None, int]
) -> None:
    assert job_attempt(environ) == expected
