"""The image as an ordinary user builds, checks and runs it: no root, no internet, on a base made of Debian's packages.

The image is that of `tests.cluster.image`, made once and kept. Signatures and what breaks them are tried on an image of
one file, which is copied a dozen times; what checks them is the same.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import glacierhpc
from glacierhpc.config import Config, config_to_yaml
from glacierhpc.errors import InputError
from glacierhpc.hpc import apptainer
from glacierhpc.rundir import RunDirectory, read_json
from tests.cluster.image import BUILD_LOG, COMMIT
from tests.cluster.jobs import (
    alike,
    log_of,
    prepared,
    quick,
    submit,
    told,
    trained_alone,
    waited_for,
    weights,
)
from tests.conftest import ROOT
from tests.workflows.cubes import given_config, given_cube, store

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

CHECK = ("python", "/opt/glacierhpc/image/check.py", "kernels")


def tried(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command that may fail."""
    return subprocess.run(
        command, cwd=ROOT, env=quick(**environment), capture_output=True, text=True, check=False, timeout=600
    )


def command(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run glacierhpc outside the image."""
    return tried(sys.executable, "-m", "glacierhpc", *words)


# ---------------------------------------------------------------------------------------------------------------------
# what it is made of


def test_the_image_is_built_by_an_ordinary_user_without_internet(image: Path) -> None:
    assert os.getuid() != 0
    assert told("apptainer", "run", image, "--version").split()[-1] == glacierhpc.__version__
    assert "/opt/glacierhpc: sbom.json" in told("apptainer", "run-help", image)


def test_its_own_test_passes(image: Path) -> None:
    """With it every build ends; one that fails leaves no image."""
    said = image.with_name(BUILD_LOG).read_text()
    assert "a kernel is right to" in said
    assert "[X] MPI" in said and "[X] Gloo" in said and "[X] PyTorch" in said
    assert "2 processes add up by Gloo" in said and "2 processes add up by MPI" in said


def test_it_says_what_it_was_made_of(image: Path) -> None:
    answer = command("container", "inspect", image, "--packages", "--json")
    assert answer.returncode == 0, answer.stderr
    about = json.loads(answer.stdout.splitlines()[-1])
    labels, packages = about["labels"], about["packages"]
    inside = command("container", "exec", image, "cat", "/opt/glacierhpc/image-id").stdout.strip()
    assert about["image_id"] == inside == labels["glacierhpc.image-id"] and len(inside) == 64
    assert about["architecture"] == "amd64"
    assert labels["org.opencontainers.image.title"] == "glacierhpc"
    assert labels["org.opencontainers.image.revision"] == COMMIT
    assert labels["glacierhpc.lock"].startswith("sha256:")
    assert labels["org.opencontainers.image.base.digest"].startswith("sha256:")
    assert (
        labels["glacierhpc.torch"].split("+")[0]
        == packages["torch"].split("+")[0]
        == torch.__version__.split("+")[0]
    )
    assert labels["glacierhpc.horovod"] == packages["horovod"] == "0.28.1"
    assert labels["glacierhpc.openmpi"].startswith("4.") and labels["glacierhpc.python"].startswith("3.11.")
    assert int(labels["glacierhpc.packages.python"]) == len(packages) > 100
    system = told("apptainer", "exec", image, "cat", "/opt/glacierhpc/packages.txt").splitlines()
    assert int(labels["glacierhpc.packages.system"]) == len(system)
    assert any(line.startswith("openmpi-bin\t") for line in system)


# ---------------------------------------------------------------------------------------------------------------------
# nothing of the user's gets in the way (row 22)


@pytest.fixture
def poisoned(tmp_path: Path) -> dict[str, str]:
    """Return an environment and a home folder in which everything that could shadow the image's packages does."""
    evil = "import sys; sys.exit('shadowed by ' + __file__)\n"
    home, folder = tmp_path / "home", tmp_path / "evil"
    for place in (folder, home / ".local/lib/python3.11/site-packages"):
        for name in ("numpy", "torch", "glacierhpc", "zarr"):
            (place / name).mkdir(parents=True)
            (place / name / "__init__.py").write_text(evil)
        (place / "sitecustomize.py").write_text(evil)
        (place / "usercustomize.py").write_text(evil)
    (folder / "libmpi.so.40").write_text("no library")
    (folder / "start.py").write_text(evil)
    return {
        "HOME": str(home), "PYTHONPATH": str(folder), "PYTHONHOME": str(folder), "PYTHONSTARTUP": f"{folder}/start.py",
        "PYTHONUSERBASE": str(home / ".local"), "LD_LIBRARY_PATH": str(folder), "LD_PRELOAD": f"{folder}/libmpi.so.40",
        "GDAL_DATA": str(folder), "GDAL_DRIVER_PATH": str(folder), "PROJ_DATA": str(folder), "PROJ_LIB": str(folder),
        "VIRTUAL_ENV": str(folder), "NUMBA_CACHE_DIR": str(folder),
    }  # fmt: skip


PROBE = (
    "import sys, torch, numpy, glacierhpc, rasterio, horovod.torch;"
    "print(torch.__file__, numpy.__file__, glacierhpc.__file__)"
)


@pytest.mark.parametrize("typed", ["by hand", "by the command"])
def test_the_packages_of_the_image_win(
    image: Path, poisoned: dict[str, str], tmp_path: Path, typed: str
) -> None:
    """Typed by hand, without --cleanenv and --no-home, as users do; and as glacierhpc and the job scripts call it."""
    folder = poisoned["PYTHONPATH"]
    if typed == "by hand":
        binds = f"{folder},{tmp_path},{poisoned['HOME']}"
        start = [
            "apptainer", "exec", "--nv", "--home", poisoned["HOME"], "--bind", binds, "--pwd", folder, image,
        ]  # fmt: skip
    else:
        runtime = apptainer.find_runtime()
        start = apptainer.exec_command(runtime, image, (), binds=[folder, poisoned["HOME"]])
        poisoned = {**poisoned, **apptainer.inside_environment(poisoned)}
    answer = tried(*start, "python3", "-c", PROBE, **poisoned)
    assert answer.returncode == 0, answer.stderr
    assert all(path.startswith("/opt/venv/") for path in answer.stdout.split()[-3:]), answer.stdout
    module = tried(*start, "sh", "-c", f"cd '{folder}' && python -m glacierhpc --version", **poisoned)
    assert module.returncode == 0 and module.stdout.split()[-1] == glacierhpc.__version__, module.stderr
    checked = tried(*start, "glacierhpc", "config", "check", "/opt/glacierhpc/configs/demo.yaml", **poisoned)
    assert checked.returncode == 0, checked.stderr
    projected = "from pyproj import Transformer as T; print(T.from_crs(4326, 32643).transform(32, 77))"
    assert "inf" not in tried(*start, "python", "-c", projected, **poisoned).stdout


def test_what_is_named_gets_in(image: Path, tmp_path: Path) -> None:
    (tmp_path / "own_model.py").write_text("WORD = 'mine'\n")
    command = ("apptainer", "exec", "--bind", tmp_path, "--env", f"PYTHONPATH={tmp_path}", image)
    assert told(*command, "python", "-c", "import own_model; print(own_model.WORD)").strip() == "mine"


@pytest.mark.parametrize(
    ("name", "said"), [("PYTHONPATH", "shadowed by"), ("LD_LIBRARY_PATH", "libmpi.so.40")]
)
def test_what_is_named_may_do_harm(image: Path, poisoned: dict[str, str], name: str, said: str) -> None:
    """The poison is one: by the way that is left open it does break the image."""
    folder = poisoned[name]
    answer = tried(
        "apptainer", "exec", "--bind", folder, "--env", f"{name}={folder}", image, "python3", "-c", PROBE
    )
    assert answer.returncode and said in answer.stderr


# ---------------------------------------------------------------------------------------------------------------------
# kernels


def on_a_new_node(folder: Path, *words: str | Path) -> tuple[str | Path, ...]:
    """The start of a command line whose /tmp is a folder, where the image's kernels have not been yet."""
    return ("apptainer", "exec", "--bind", f"{folder}:/tmp", *words)


def test_its_kernels_are_compiled_already(image: Path, tmp_path: Path) -> None:
    start = on_a_new_node(tmp_path, image)
    for _ in range(2):  # the first start makes the node's copy, the second finds it
        answer = tried(*start, *CHECK, NUMBA_DEBUG_CACHE="1")
        assert answer.returncode == 0, answer.stdout + answer.stderr
        assert "data loaded from" in answer.stdout and "data saved to" not in answer.stdout
    (copy,) = tmp_path.glob("glacierhpc-numba-*")
    assert copy.stat().st_mode & 0o077 == 0
    shutil.rmtree(copy)
    copy.mkdir()  # without the copy it must compile, and the check must see it
    answer = tried(*start, *CHECK)
    assert answer.returncode == 1 and "had to be compiled" in answer.stderr


def test_many_starts_at_once_share_one_copy(image: Path, tmp_path: Path) -> None:
    counted = ("sh", "-c", 'find "$NUMBA_CACHE_DIR" | wc -l')
    start = on_a_new_node(tmp_path, image, *counted)
    running = [subprocess.Popen(start, env=quick(), stdout=subprocess.PIPE, text=True) for _ in range(6)]
    counts = {each.communicate(timeout=300)[0].strip() for each in running}
    assert len(counts) == 1 and int(counts.pop()) > 50
    assert len(list(tmp_path.glob("glacierhpc-numba-*"))) == 1


def test_half_a_copy_is_not_kept(image: Path, tmp_path: Path) -> None:
    """A limit on the sizes of files stands in for a full disk: all later starts would read what is cut off."""
    start = on_a_new_node(tmp_path, image)
    limited = ("bash", "-c", 'ulimit -f 8; trap "" XFSZ; exec "$@"', "bash")
    answer = tried(*limited, *start, "echo", "started")
    assert answer.stdout == "started\n", answer.stderr
    assert not list(tmp_path.glob("glacierhpc-numba-*"))
    told(*start, *CHECK)
    assert len(list(tmp_path.glob("glacierhpc-numba-*"))) == 1


def test_kernels_that_somebody_else_laid_ready_are_not_run(image: Path, tmp_path: Path) -> None:
    """The folder's name can be guessed, and /tmp is for all: one that is another user's is left alone."""
    start = on_a_new_node(tmp_path)
    asked = (image, "sh", "-c", 'echo "$NUMBA_CACHE_DIR"')
    usual = told(*start, *asked).strip()
    assert usual.startswith("/tmp/glacierhpc-numba-")
    told(*start, "--fakeroot", image, "chown", "1:1", usual)  # one of the ids that this user hands out
    assert (tmp_path / Path(usual).name).stat().st_uid != os.getuid()
    found = told(*start, *asked).strip()
    told(*start, "--fakeroot", image, "chown", "0:0", usual)
    assert found not in ("", usual) and found.startswith("/tmp/")


# ---------------------------------------------------------------------------------------------------------------------
# signatures (row 21)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return two pairs of keys, made as the help of the command says."""
    folder = tmp_path_factory.mktemp("keys")
    found = {}
    for name in ("mine", "other"):
        private, public = folder / f"{name}.pem", folder / f"{name}-public.pem"
        told("openssl", "genpkey", "-algorithm", "ed25519", "-out", private)
        private.chmod(0o600)
        told("openssl", "pkey", "-in", private, "-pubout", "-out", public)
        found |= {name: private, f"{name} public": public}
    return found


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build an image of one file by the command."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "file").write_text("content\n" * 5000)
    definition = folder / "small.def"
    definition.write_text(
        f"Bootstrap: scratch\n%files\n    {folder / 'file'} /file\n%labels\n    name small\n"
    )
    answer = command("container", "build", folder / "small.sif", "--definition", definition)
    assert answer.returncode == 0, answer.stderr
    return folder / "small.sif"


@pytest.fixture(scope="module")
def signed(small: Path, keys: dict[str, Path]) -> Path:
    """Sign it by the command."""
    path = small.with_name("signed.sif")
    shutil.copy(small, path)
    answer = command("container", "sign", path, "--key", keys["mine"])
    assert answer.returncode == 0, answer.stderr
    return path


def test_a_signature_is_verified(signed: Path, keys: dict[str, Path]) -> None:
    answer = command("container", "verify", signed, "--key", keys["mine public"], "--json")
    assert answer.returncode == 0 and json.loads(answer.stdout.splitlines()[-1])["ok"]


def test_verification_fails_closed(small: Path, signed: Path, keys: dict[str, Path], tmp_path: Path) -> None:
    mine = keys["mine public"]
    assert command("container", "verify", small, "--key", mine).returncode == 1  # unsigned
    assert command("container", "verify", signed, "--key", keys["other public"]).returncode == 1
    assert command("container", "verify", signed).returncode == 1  # an empty keyring
    missing = command("container", "verify", tmp_path / "none.sif", "--key", mine)
    assert missing.returncode == 2 and "does not exist" in missing.stderr
    assert command("container", "verify", signed, "--key", tmp_path / "none.pem").returncode != 0
    cut = tmp_path / "cut.sif"
    cut.write_bytes(signed.read_bytes()[:-4096])
    assert command("container", "verify", cut, "--key", mine).returncode == 1
    # what signed_by of a site asks before an image is used
    apptainer.check_signed(str(signed), ["keyring", str(keys["other public"]), str(mine)])
    for image, key in ((small, mine), (signed, keys["other public"]), (cut, mine)):
        with pytest.raises(InputError, match="is not signed by any of signed_by"):
            apptainer.check_signed(str(image), [str(key)])


def parts_of(path: Path) -> dict[str, int]:
    """Return where in an image file its parts begin: what is in them is signed."""
    found = {}
    for line in told("apptainer", "sif", "list", path).splitlines():
        place = re.search(r"\|(\d+)-\d+ *\|(\S.*)", line)
        if place:
            found[place[2].strip()] = int(place[1])
    return found


def test_a_flipped_byte_is_found_wherever_it_is(signed: Path, keys: dict[str, Path], tmp_path: Path) -> None:
    parts = parts_of(signed)
    assert any(name.startswith("FS") for name in parts), parts
    content = signed.read_bytes()
    for name, start in parts.items():
        for place in (start, start + 40):
            changed = tmp_path / "changed.sif"
            flipped = bytearray(content)
            flipped[place] ^= 1
            changed.write_bytes(flipped)
            answer = command("container", "verify", changed, "--key", keys["mine public"])
            assert answer.returncode == 1, f"a byte of {name} was changed, and it verifies"


def test_an_image_for_another_machine(signed: Path, keys: dict[str, Path], tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.sif"
    content = bytearray(signed.read_bytes())
    content[45:47] = b"04"
    foreign.write_bytes(content)
    assert apptainer.architecture(signed) == "amd64" and apptainer.architecture(foreign) == "arm64"
    answer = command("container", "exec", foreign, "true")
    assert answer.returncode == 2 and "arm64" in answer.stderr


# ---------------------------------------------------------------------------------------------------------------------
# runs


def begun(image: Path, folder: Path) -> tuple[Config, Path]:
    """Begin a run in the image, up to its sequences."""
    config = given_config(
        folder / "run",
        store(given_cube(), folder / "mine.zarr"),
        train={"epochs": 2, "patience": None},
    )
    path = folder / "own.yaml"
    path.write_text(config_to_yaml(config))
    told("apptainer", "exec", "--bind", folder, image, "glacierhpc", "run", path, "--to", "sequences")
    return config, path


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Train the same outside the image, in one process, and return the weights."""
    folder = tmp_path_factory.mktemp("alone")
    config, _ = prepared(folder, epochs=2)
    return trained_alone(config, folder / "run")


def test_two_nodes_train_in_the_image_by_mpi_the_weights_of_one_process_without(
    image: Path, alone: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    """By Gloo they do in test_chain.py."""
    config, path = begun(image, tmp_path)
    number = submit(
        "train-horovod-mpi", path, options=("--nodes=2", "--ntasks-per-node=1"), GLACIERHPC_IMAGE=str(image)
    )
    assert waited_for(number) == ("COMPLETED", 0), log_of(number)
    known = read_json(RunDirectory(config.run_path).provenance_file)
    inside = told("apptainer", "exec", image, "cat", "/opt/glacierhpc/image-id").strip()
    assert known["container_digest"] == inside and known["job_id"] == str(number)
    assert alike(weights(config.run_path), alone, atol=1e-5)


def test_a_line_typed_by_hand_trains_and_is_not_mixed_with_others(
    image: Path, alone: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    """``singularity exec --nv --bind <folder>,$PWD deeplearning.sif glacierhpc train CONFIG``, then a step outside."""
    config, path = begun(image, tmp_path)
    told("apptainer", "exec", "--nv", "--bind", f"{tmp_path},{ROOT}", image, "glacierhpc", "train", path)
    assert alike(weights(config.run_path), alone, atol=1e-5)
    outside = command("evaluate", path)
    assert outside.returncode == 2 and "this is outside any image" in outside.stderr, outside.stderr
    allowed = command("evaluate", path, "allow_another_image=true")
    assert allowed.returncode == 0, allowed.stderr
