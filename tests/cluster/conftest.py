"""Tests here run on a machine where Slurm answers, as a user who may submit; elsewhere they are skipped.

`make test-cluster` makes such a machine of Debian 12. On a cluster of one's own: pytest -m cluster tests/cluster.
"""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.cluster.image import image as image
from tests.cluster.image import image_begun as image_begun
from tests.cluster.image import needs_image


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests that need the image last: it is made beside the others."""
    items.sort(key=needs_image)


@pytest.fixture(autouse=True, scope="session")
def slurm() -> None:
    """Skip where no Slurm answers."""
    if not shutil.which("sbatch"):
        pytest.skip("sbatch is not installed here; as root on Debian 12: make test-cluster")
    answer = subprocess.run(["sinfo", "--noheader"], capture_output=True, text=True, check=False)
    if answer.returncode:
        pytest.skip(
            f"Slurm does not answer ({answer.stderr.strip()}); as root on Debian 12: make test-cluster"
        )
