"""The image as an ordinary user builds and runs it: no root, no internet, on a base made of Debian's packages.

Takes minutes: a base image, the wheels of constraints.txt, the image, a job in it. The first two are kept in the test
cluster's cache.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import glacierhpc
from glacierhpc.rundir import RunDirectory, read_json
from tests.cluster.jobs import log_of, prepared, submit, told, trained_alone, waited_for, weights
from tests.conftest import ROOT

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

QUICKLY = ("--mksquashfs-args", "-comp zstd -Xcompression-level 1")
NOWHERE = "http://127.0.0.1:9"
"""A proxy that is none: what asks for the internet fails."""


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that makes a thing once for given inputs, and keeps it where the test cluster has a cache."""
    folder = Path(os.environ.get("GLACIERHPC_TESTCLUSTER_CACHE") or tmp_path_factory.mktemp("kept"))

    def keep(name: str, make: Callable[[Path], object], *inputs: Path) -> Path:
        digest = hashlib.sha256(b"".join(path.read_bytes() for path in inputs)).hexdigest()[:16]
        path = folder / f"{digest}-{name}"
        if not path.exists():
            for old in folder.glob(f"*-{name}"):
                shutil.rmtree(old) if old.is_dir() else old.unlink()
            unfinished = folder / f"unfinished-{name}"
            shutil.rmtree(unfinished, ignore_errors=True)
            make(unfinished)
            unfinished.rename(path)
        return path

    return keep


@pytest.fixture(scope="module")
def image(kept: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build deeplearning.def."""
    if not shutil.which("apptainer"):
        pytest.skip("Apptainer is not installed here; as root on Debian 12: make test-cluster")
    base_definition = ROOT / "containers" / "testcluster" / "base.def"
    base = kept("base.sif", lambda path: make_base(base_definition, path), base_definition)
    wheels = kept("wheelhouse", collect_wheels, ROOT / "constraints.txt", ROOT / "pyproject.toml")
    house = ROOT / "build" / "wheelhouse"
    shutil.rmtree(house, ignore_errors=True)
    shutil.copytree(wheels, house)
    path = tmp_path_factory.mktemp("image") / "glacierhpc.sif"
    on_it = ("--build-arg", "BOOTSTRAP=localimage", "--build-arg", f"FROM={base}")
    built = subprocess.run(
        [ROOT / "containers" / "build.sh", *QUICKLY, *on_it],
        env={**os.environ, "GLACIERHPC_IMAGE": str(path), "http_proxy": NOWHERE, "https_proxy": NOWHERE},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr[-5000:]
    return path


def make_base(definition: Path, path: Path) -> None:
    mirrors = told(
        "apt-get", "indextargets", "--format", "$(CODENAME) $(LABEL) $(REPO_URI)", "Created-By: Packages"
    )
    mirror = next(line.split()[2] for line in mirrors.splitlines() if line.startswith("bookworm Debian "))
    told(
        "apptainer", "build", "--force", "--fakeroot", *QUICKLY, "--build-arg", f"MIRROR={mirror}", path, definition
    )  # fmt: skip


def collect_wheels(folder: Path) -> None:
    """Collect what the image is made of, as containers/README.md says."""
    everything = (f"{ROOT}[imagery,learning,mapping,track]", "hatchling")
    told(
        sys.executable, "-m", "pip", "wheel", "--quiet", "-c", ROOT / "constraints.txt", "-w", folder, *everything
    )  # fmt: skip
    for own in folder.glob("glacierhpc-*.whl"):  # the image takes the source
        own.unlink()


def test_the_image_is_built_by_an_ordinary_user_without_internet(image: Path) -> None:
    assert os.getuid() != 0
    assert told("apptainer", "run", image, "--version").split()[-1] == glacierhpc.__version__
    about = told("apptainer", "inspect", "--labels", image)
    assert "org.opencontainers.image.title: glacierhpc" in about
    assert len(told("apptainer", "exec", image, "cat", "/opt/glacierhpc/image-id").strip()) == 64


def test_a_job_in_the_image_trains_the_weights_of_one_without(image: Path, tmp_path: Path) -> None:
    config, path = prepared(tmp_path, epochs=2)
    job = submit("training", path, GLACIERHPC_IMAGE=str(image))
    assert waited_for(job) == ("COMPLETED", 0), log_of(job)
    run = RunDirectory(config.run_path)
    known = read_json(run.provenance_file)
    inside = told("apptainer", "exec", image, "cat", "/opt/glacierhpc/image-id").strip()
    assert known["container_digest"] == inside and known["job_id"] == str(job)
    alone = trained_alone(config, tmp_path / "alone")
    assert all(torch.allclose(alone[name], value, atol=1e-5) for name, value in weights(run.path).items())
