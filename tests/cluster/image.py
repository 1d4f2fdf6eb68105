"""The image that tests run jobs in: deeplearning.def, built by an ordinary user without internet on Debian's packages.

Takes minutes: a base image, the wheels of constraints.txt, Horovod's wheel, the image. Each is kept in the cache of the
test cluster under a hash of what it is made of, one of each, and made anew only where that has changed. Where there is
such a cache it is made by a process of its own, `python -m tests.cluster.image`, beside the tests that need none.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from pathlib import Path

import pytest

from tests.conftest import ROOT

QUICKLY = ("--mksquashfs-args", "-comp zstd -Xcompression-level 1")
KEPT = "GLACIERHPC_TESTCLUSTER_CACHE"
"""Names the folder of the cache."""
NOWHERE = "http://127.0.0.1:9"
"""A proxy that is none: what asks for the internet fails."""
BUILD_LOG = "build.log"
"""What the build of the image said, beside it."""
COMMIT = "0123456789abcdef0123456789abcdef01234567-dirty"
"""What the image is told: the test cluster's copy of the project is no checkout."""
DEFINITION, BASE = ROOT / "deeplearning.def", ROOT / "containers" / "testcluster" / "base.def"
LOCK, PROJECT = ROOT / "constraints.txt", ROOT / "pyproject.toml"
BUILD, WHEEL_SCRIPT = ROOT / "containers" / "build.sh", ROOT / "containers" / "horovod" / "build_wheel.sh"
COPIED = ("glacierhpc", "configs", "jobs", "containers/image")
"""What the definition copies, besides; the README and the license change nothing in how an image works."""
PYTHON = (3, 11)
"""That of the base; wheels are collected for the Python that runs the tests."""


class Cache:
    """Things that are made once for given inputs, where the test cluster keeps them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, name: str, make: Callable[[Path], object], key: str) -> Path:
        """Return a thing's path, made anew if there is none of this key or a part of it is gone; others are removed."""
        path = self.folder / f"{key}-{name}"
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # a second session waits, and finds it
            if not _whole(path):
                for old in [*self.folder.glob(f"*-{name}"), *self.folder.glob(f"*-{name}.parts")]:
                    shutil.rmtree(old) if old.is_dir() else old.unlink()
                make(path)
                _parts_file(path).write_text(json.dumps(_parts(path)))
        return path


def _whole(path: Path) -> bool:
    """Return whether a thing was made to its end, and is still what it was."""
    listed = _parts_file(path)
    return path.exists() and listed.exists() and listed.read_text() == json.dumps(_parts(path))


def _parts_file(path: Path) -> Path:
    """Return where the parts of a thing are listed; written last."""
    return path.with_name(f"{path.name}.parts")


def _parts(path: Path) -> dict[str, int]:
    return {str(each.relative_to(path)): each.stat().st_size for each in _files(path)}


def _key(*inputs: object) -> str:
    """Return a hash of values and of the contents of the project's files."""
    digest = hashlib.sha256()
    for each in inputs:
        known = (str(each.relative_to(ROOT)), each.read_bytes()) if isinstance(each, Path) else each
        digest.update(repr(known).encode())
    return digest.hexdigest()[:16]


@pytest.fixture(autouse=True, scope="session")
def image_begun(slurm: None, request: pytest.FixtureRequest) -> Iterator[None]:
    """Begin with the image at once, if a test needs it: the fixture waits for the cache's lock."""
    if KEPT not in os.environ or not any(map(needs_image, request.session.items)):
        yield
        return
    # what goes wrong is said where the fixture tries it again
    made = [sys.executable, "-m", "tests.cluster.image"]
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(made, cwd=ROOT, start_new_session=True, **quiet) as making:
        yield
        if making.poll() is None:
            os.killpg(making.pid, signal.SIGKILL)


def needs_image(item: pytest.Item) -> bool:
    """Return whether a test is one of this folder, and runs something in the image."""
    return item.path.parent == Path(__file__).parent and "image" in getattr(item, "fixturenames", ())


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the image, signed by nobody; what its starts leave on this machine is removed at the end."""
    if not shutil.which("apptainer"):
        pytest.skip("Apptainer is not installed here; as root on Debian 12: make test-cluster")
    cache = Cache(Path(os.environ.get(KEPT) or tmp_path_factory.mktemp("kept")))
    path = _image(cache)
    yield path
    inside = ["apptainer", "exec", path, "cut", "-c", "1-12", "/opt/glacierhpc/image-id"]
    short = subprocess.run(inside, capture_output=True, text=True, check=False).stdout.strip()
    shutil.rmtree(f"/tmp/glacierhpc-numba-{os.getuid()}-{short}", ignore_errors=True)


def _image(cache: Cache) -> Path:
    torch = metadata.version("torch")
    project = tomllib.loads(PROJECT.read_text())
    wanted = [
        project["build-system"],
        *(project["project"][f"{kind}dependencies"] for kind in ("", "optional-")),
    ]
    base = cache.get("base.sif", _make_base, _key(BASE))
    wheels = cache.get("wheelhouse", _collect_wheels, _key(LOCK, wanted, torch, sys.version_info[:2]))
    horovod = cache.get("horovod", _build_horovod, _key(WHEEL_SCRIPT, torch, sys.version_info[:2]))
    files = [DEFINITION, BUILD, LOCK, PROJECT, *(file for name in COPIED for file in _files(ROOT / name))]
    return cache.get(
        "deeplearning.sif",
        lambda path: _build(path, base, (wheels, horovod)),
        _key(*files, base.name, wheels.name, horovod.name),
    )


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(each for each in path.rglob("*") if each.is_file() and "__pycache__" not in each.parts)


def _made(*command: object, **environment: str) -> str:
    """Run what makes a part, however long that takes, and return what it said."""
    done = subprocess.run(
        list(map(str, command)), cwd=ROOT, env={**os.environ, **environment}, text=True, check=False,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout[-5000:]}"
    return done.stdout


def _make_base(path: Path) -> None:
    asked = ("--format", "$(CODENAME) $(LABEL) $(REPO_URI)", "Created-By: Packages")
    mirrors = _made("apt-get", "indextargets", *asked).splitlines()
    mirror = next(line.split()[2] for line in mirrors if line.startswith("bookworm Debian "))
    given = ("--build-arg", f"MIRROR={mirror}")
    _made("apptainer", "build", "--force", "--fakeroot", *QUICKLY, *given, path, BASE)


def _collect_wheels(folder: Path) -> None:
    """Collect what the image is made of, as containers/README.md says."""
    if sys.version_info[:2] != PYTHON:
        pytest.skip(f"the base has Python {PYTHON}, for which {sys.version_info[:2]} collects no wheels")
    # the torch that Horovod is built against: that of a machine without GPUs may have the same number
    torch = f"torch=={metadata.version('torch')}"
    everything = (f"{ROOT}[imagery,learning,mapping,track]", "hatchling", torch)
    _made(sys.executable, "-m", "pip", "wheel", "--quiet", "-c", LOCK, "-w", folder, *everything)
    for own in folder.glob("glacierhpc-*.whl"):  # the image takes the source
        own.unlink()


def _build_horovod(folder: Path) -> None:
    if not all(map(shutil.which, ("g++", "make", "cmake", "mpicxx"))):
        pytest.skip("Horovod's wheel needs compilers: apt-get install g++ make cmake libopenmpi-dev")
    _made(WHEEL_SCRIPT, sys.executable, folder, XDG_CACHE_HOME=str(folder.parent))


def _build(path: Path, base: Path, wheels: Iterable[Path]) -> None:
    house = ROOT / "build" / "wheelhouse"
    shutil.rmtree(house, ignore_errors=True)
    house.mkdir(parents=True)
    for wheel in (each for folder in wheels for each in _files(folder)):
        (house / wheel.name).symlink_to(wheel)
    arguments = ("BOOTSTRAP=localimage", f"FROM={base}", f"COMMIT={COMMIT}")
    given = [word for each in arguments for word in ("--build-arg", each)]
    elsewhere = {"GLACIERHPC_IMAGE": str(path), "http_proxy": NOWHERE, "https_proxy": NOWHERE}
    try:
        said = _made(BUILD, "--force", *QUICKLY, *given, **elsewhere)
    finally:
        shutil.rmtree(house)
    path.with_name(BUILD_LOG).write_text(said)


if __name__ == "__main__":
    _image(Cache(Path(os.environ[KEPT])))
