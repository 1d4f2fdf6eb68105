"""The image that tests run jobs in: deeplearning.def, built by an ordinary user without internet on Debian's packages.

Takes minutes: a base image, the wheels of constraints.txt, Horovod's wheel, the image. Each is kept in the cache of the
test cluster under a hash of what it is made of, and made anew only where that has changed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from tests.cluster.jobs import told
from tests.conftest import ROOT

QUICKLY = ("--mksquashfs-args", "-comp zstd -Xcompression-level 1")
NOWHERE = "http://127.0.0.1:9"
"""A proxy that is none: what asks for the internet fails."""
COMMIT = "0123456789abcdef0123456789abcdef01234567-dirty"
"""What the image is told: the test cluster's copy of the project is no checkout."""
DEFINITION, BASE = ROOT / "deeplearning.def", ROOT / "containers" / "testcluster" / "base.def"
WHEEL_SCRIPT = ROOT / "containers" / "horovod" / "build_wheel.sh"
LOCK = (ROOT / "constraints.txt", ROOT / "pyproject.toml")
COPIED = ("glacierhpc", "configs", "jobs", "containers/image", "README.md", "LICENSE")
"""What the definition copies, besides."""


class Cache:
    """Things that are made once for given inputs, where the test cluster keeps them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, name: str, make: Callable[[Path], object], inputs: Iterable[Path]) -> Path:
        """Return a thing's path, made from its inputs if there is none yet; older ones are removed."""
        path = self.folder / f"{_digest(inputs)}-{name}"
        if not path.exists():
            for old in self.folder.glob(f"*-{name}"):
                shutil.rmtree(old) if old.is_dir() else old.unlink()
            unfinished = self.folder / f"unfinished-{name}"
            if unfinished.is_dir():
                shutil.rmtree(unfinished)
            make(unfinished)
            unfinished.rename(path)
        return path


def _digest(inputs: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in inputs:
        # what lies in the cache has its inputs' hash in its name
        own = path.is_relative_to(ROOT)
        digest.update(str(path.relative_to(ROOT) if own else path.name).encode())
        digest.update(path.read_bytes() if own else b"")
    return digest.hexdigest()[:16]


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the image, signed by nobody; what it leaves on this machine is removed at the end."""
    if not shutil.which("apptainer"):
        pytest.skip("Apptainer is not installed here; as root on Debian 12: make test-cluster")
    cache = Cache(Path(os.environ.get("GLACIERHPC_TESTCLUSTER_CACHE") or tmp_path_factory.mktemp("kept")))
    base = cache.get("base.sif", _make_base, [BASE])
    wheels = cache.get("wheelhouse", _collect_wheels, LOCK)
    horovod = cache.get("horovod", _build_horovod, [WHEEL_SCRIPT, ROOT / "constraints.txt"])
    sources = [DEFINITION, WHEEL_SCRIPT, *LOCK, *(file for name in COPIED for file in _files(ROOT / name))]
    return cache.get(
        "deeplearning.sif",
        lambda path: _build(path, base, (wheels, horovod)),
        [*sources, base, wheels, horovod],
    )


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(each for each in path.rglob("*") if each.is_file() and "__pycache__" not in each.parts)


def _make_base(path: Path) -> None:
    mirrors = told(
        "apt-get", "indextargets", "--format", "$(CODENAME) $(LABEL) $(REPO_URI)", "Created-By: Packages"
    )
    mirror = next(line.split()[2] for line in mirrors.splitlines() if line.startswith("bookworm Debian "))
    told(
        "apptainer", "build", "--force", "--fakeroot", *QUICKLY, "--build-arg", f"MIRROR={mirror}", path, BASE
    )


def _collect_wheels(folder: Path) -> None:
    """Collect what the image is made of, as containers/README.md says."""
    everything = (f"{ROOT}[imagery,learning,mapping,track]", "hatchling")
    told(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "-c",
        ROOT / "constraints.txt",
        "-w",
        folder,
        *everything,
    )
    for own in folder.glob("glacierhpc-*.whl"):  # the image takes the source
        own.unlink()


def _build_horovod(folder: Path) -> None:
    if not all(map(shutil.which, ("g++", "make", "cmake", "mpicxx"))):
        pytest.skip("Horovod's wheel needs compilers: apt-get install g++ make cmake libopenmpi-dev")
    told("env", f"XDG_CACHE_HOME={folder.parent}", WHEEL_SCRIPT, sys.executable, folder)


def _build(path: Path, base: Path, wheels: Iterable[Path]) -> None:
    house = ROOT / "build" / "wheelhouse"
    shutil.rmtree(house, ignore_errors=True)
    for folder in wheels:
        shutil.copytree(folder, house, dirs_exist_ok=True)
    arguments = ("BOOTSTRAP=localimage", f"FROM={base}", f"COMMIT={COMMIT}")
    given = [word for each in arguments for word in ("--build-arg", each)]
    built = subprocess.run(
        [ROOT / "containers" / "build.sh", "--force", *QUICKLY, *given],
        env={**os.environ, "GLACIERHPC_IMAGE": str(path), "http_proxy": NOWHERE, "https_proxy": NOWHERE},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    shutil.rmtree(house)
    path.with_name("build.log").write_text(built.stdout + built.stderr)
    assert built.returncode == 0, (built.stdout + built.stderr)[-5000:]
