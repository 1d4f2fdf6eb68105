"""Containers: the argument lists, what is understood of two programs, and the way to root."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from pathlib import Path

import pytest

from glacierhpc.errors import GlacierError, InputError
from glacierhpc.hpc.apptainer import (
    FIXES,
    Runtime,
    architecture,
    build_command,
    check_architecture,
    exec_command,
    fakeroot_rung,
    find_runtime,
    inside_environment,
    inspect,
    origin_arguments,
    packages,
    sign,
    sign_command,
    verify,
    verify_command,
    version_of,
)
from tests.conftest import ROOT
from tests.hpc.scripts import program

GOLDEN = ROOT / "tests" / "golden"

APPTAINER = Runtime("/usr/bin/apptainer", "apptainer", (1, 3, 4))
SINGULARITY = Runtime("/usr/bin/singularity", "singularity", (4, 1, 0))


@pytest.mark.parametrize(
    ("name", "said", "expected"),
    [
        ("apptainer", "apptainer version 1.3.4-1.el9", ("apptainer", (1, 3, 4), True)),
        ("singularity", "singularity-ce version 3.11.4", ("singularity", (3, 11, 4), False)),
        ("singularity", "apptainer version 1.0.2", ("apptainer", (1, 0, 2), False)),
    ],
)
def test_either_program_is_found_by_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str, expected: tuple[object, ...]
) -> None:
    program(tmp_path, name, f"echo '{said}'")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    found = find_runtime(name)
    assert (found.name, found.version, found.unprivileged) == expected


def test_none_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InputError, match="no apptainer or singularity on the path"):
        find_runtime()
    with pytest.raises(GlacierError, match="no version is in 'hello'"):
        version_of("hello\n")


def command_lines(runtime: Runtime) -> str:
    """Every command line, a word per line."""
    lists = {
        "build": build_command(
            runtime, "my image.sif", "deeplearning.def",
            arguments=origin_arguments({"BOOTSTRAP": "docker", "FROM": "debian@sha256:12ab"}, commit="0123abcd-dirty"),
        ),
        "build, as root": build_command(runtime, "i.sif", "other.def", fakeroot=False),
        "exec": exec_command(runtime, "i.sif", ["glacierhpc", "train", "a b; id"]),
        "exec with a GPU and folders": exec_command(
            runtime, "i.sif", ["glacierhpc", "train", "$(id).yaml"], binds=["/scratch/x y", "/data"], gpu=True,
            devices=Path("/none"),
        ),
        "sign": sign_command(runtime, "i.sif", key="private key.pem"),
        "sign by the keyring": sign_command(runtime, "i.sif"),
        "verify": verify_command(runtime, "i.sif", key="public.pem"),
        "verify by the keyring": verify_command(runtime, "i.sif"),
    }  # fmt: skip
    return "".join(f"# {name}\n" + "".join(f"{word}\n" for word in words) for name, words in lists.items())


@pytest.mark.parametrize("runtime", [APPTAINER, SINGULARITY], ids=["apptainer", "singularity"])
def test_command_lines(runtime: Runtime) -> None:
    golden = GOLDEN / f"container-{runtime.name}.txt"
    assert command_lines(runtime) == golden.read_text(), f"if this is meant, write it to {golden}"


def test_both_programs_are_called_alike() -> None:
    lines = [command_lines(runtime).replace(runtime.path, "PROGRAM") for runtime in (APPTAINER, SINGULARITY)]
    assert lines[0] == lines[1]


@pytest.mark.parametrize("folder", ["/a:/etc", "/a,/etc"])
def test_a_folder_that_would_be_two_is_refused(folder: str) -> None:
    with pytest.raises(InputError, match="commas and colons"):
        exec_command(APPTAINER, "i.sif", ["x"], binds=[folder])


@pytest.mark.parametrize(
    ("name", "version", "builds", "takes_pem"),
    [
        ("apptainer", (1, 1, 9), False, False),
        ("apptainer", (1, 2), True, True),
        ("singularity", (3, 10, 4), False, False),
        ("singularity", (3, 11), False, True),
        ("singularity", (4, 0), True, True),
    ],
)
def test_an_old_program_is_told_apart_before_it_fails(
    name: str, version: tuple[int, ...], builds: bool, takes_pem: bool
) -> None:
    runtime = Runtime(f"/bin/{name}", name, version)
    assert (runtime.builds, runtime.takes_pem) == (builds, takes_pem)
    if not builds:
        with pytest.raises(InputError, match=rf"{name} {version[0]}\.{version[1]}.*knows no build arguments"):
            build_command(runtime, "i.sif", "deeplearning.def", arguments={"FROM": "x"})
    if not takes_pem:
        with pytest.raises(InputError, match="takes no keys in PEM"):
            verify_command(runtime, "i.sif", key="k.pem")


def test_the_origin_of_an_image(tmp_path: Path) -> None:
    base = tmp_path / "base.sif"
    base.write_bytes(b"a base")
    assert origin_arguments({"FROM": str(base)}, commit="abc") == {
        "COMMIT": "abc",
        "BASE_DIGEST": f"sha256:{hashlib.sha256(b'a base').hexdigest()}",
        "FROM": str(base),
    }
    assert origin_arguments({}, commit=None) == {"COMMIT": "unknown", "BASE_DIGEST": "unknown"}
    assert origin_arguments({"COMMIT": "mine"}, commit="abc")["COMMIT"] == "mine"


def test_only_what_is_named_gets_inside() -> None:
    given = {
        "SLURM_PROCID": "3",
        "PYTHONPATH": "/evil",
        "HOME": "/h",
        "https_proxy": "p",
        "NCCL_DEBUG": "a,b",
        "GDAL_CACHEMAX": "64",
        "GDAL_DATA": "/host/gdal",
        "GDAL_DRIVER_PATH": "/host/drivers",
    }
    handed = {
        name.removeprefix("APPTAINERENV_"): text
        for name, text in inside_environment(given).items()
        if name.startswith("APPTAINERENV_")
    }
    assert handed == {
        "SLURM_PROCID": "3",
        "https_proxy": "p",
        "NCCL_DEBUG": "a,b",
        "GDAL_CACHEMAX": "64",
        "PYTHONNOUSERSITE": "1",
    }


def header(machine: bytes) -> bytes:
    """The beginning of an image file, as Apptainer writes it."""
    return (
        b"#!/usr/bin/env run-singularity\n".ljust(32, b"\0")
        + b"SIF_MAGIC\x0001\x00"
        + machine
        + b"\0"
        + bytes(80)
    )


@pytest.mark.parametrize(("machine", "name"), [(b"02", "amd64"), (b"04", "arm64"), (b"99", "unknown")])
def test_the_machine_an_image_is_for(tmp_path: Path, machine: bytes, name: str) -> None:
    image = tmp_path / "i.sif"
    image.write_bytes(header(machine))
    assert architecture(image) == name
    if name != {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine()):
        with pytest.raises(InputError, match=f"is made for {name} machines"):
            check_architecture(image)


def test_what_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.sif' cannot be read: No such file"):
        architecture(tmp_path / "none.sif")
    (tmp_path / "text.sif").write_text("hello")
    with pytest.raises(InputError, match=r"text\.sif' is no image file \(SIF\)"):
        architecture(tmp_path / "text.sif")


def test_labels_packages_and_signatures(tmp_path: Path) -> None:
    """Stands in for the program, which says all this of real images in tests/cluster/test_image.py."""
    program(
        tmp_path, "apptainer",
        'case "$*" in "inspect --json --labels i.sif") echo \'{"data":{"attributes":{"labels":{"commit":"abc"}}}}\';;\n'
        'exec*sbom.json) echo \'{"installed":[{"metadata":{"name":"zarr","version":"3"}},'
        '{"metadata":{"name":"Dask","version":"2"}}]}\';;\n'
        '"verify --key k.pem i.sif" | "sign --key "*) echo fine;; "inspect"*) echo "no JSON";;\n'
        '*) echo "FATAL: integrity error" >&2; exit 255;; esac',
    )  # fmt: skip
    runtime = Runtime(str(tmp_path / "bin/apptainer"), "apptainer", (1, 3))
    assert inspect(runtime, "i.sif") == {"commit": "abc"}
    assert packages(runtime, "i.sif") == {"Dask": "2", "zarr": "3"}
    assert verify(runtime, "i.sif", key="k.pem") == "fine\n"
    with pytest.raises(GlacierError, match=r"(?s)verify --local i\.sif ended with 255.*integrity error"):
        verify(runtime, "i.sif")
    with pytest.raises(GlacierError, match="of other.sif is not understood: 'no JSON"):
        inspect(runtime, "other.sif")


def test_a_private_key_is_private(tmp_path: Path) -> None:
    program(tmp_path, "apptainer", "echo fine")
    runtime = Runtime(str(tmp_path / "bin/apptainer"), "apptainer", (1, 3))
    key = tmp_path / "mine.pem"
    with pytest.raises(InputError, match="cannot be read: No such file"):
        sign(runtime, "i.sif", key=key)
    key.touch(0o640)
    with pytest.raises(InputError, match="can be read by others; close it with: chmod 600"):
        sign(runtime, "i.sif", key=key)
    key.chmod(0o600)
    assert sign(runtime, "i.sif", key=key) == "fine\n"


RESTRICTED = {"proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1\n"}


@pytest.mark.parametrize(
    ("files", "rung"),
    [
        ({"etc/subuid": "me:100000:65536\n", "etc/subgid": "me:100000:65536\n"}, "subuid"),
        ({"etc/subuid": "me:100000:65536\n", "etc/subgid": "you:1:2\n"}, "user namespace"),
        ({"etc/subuid": "home:1:65536\n", "etc/subgid": "home:1:65536\n"}, "user namespace"),
        ({"proc/sys/user/max_user_namespaces": "0\n"}, "none"),
        ({"proc/sys/kernel/unprivileged_userns_clone": "0\n"}, "none"),
        (RESTRICTED, "none"),
        (RESTRICTED | {"etc/apparmor.d/firefox": "x"}, "none"),
        (RESTRICTED | {"etc/apparmor.d/apptainer": "x"}, "user namespace"),
        (
            {"proc/sys/user/max_user_namespaces": "0\n", "usr/libexec/apptainer/bin/starter-suid": "x"},
            "setuid",
        ),
        (RESTRICTED | {"usr/local/libexec/singularity/bin/starter-suid": "x"}, "setuid"),
    ],
)
def test_the_way_to_root(tmp_path: Path, files: dict[str, str], rung: str) -> None:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        if name.endswith("-suid"):
            path.chmod(0o4755)
    assert fakeroot_rung("me", root=tmp_path) == rung
    assert bool(FIXES[fakeroot_rung("me", root=tmp_path)]) == (rung != "subuid")


def test_what_this_machine_says_is_understood() -> None:
    try:
        runtime = find_runtime()
    except InputError:
        pytest.skip(
            "neither apptainer nor singularity is installed here; as root on Debian 12: make test-cluster"
        )
    assert subprocess.run([runtime.path, "--version"], capture_output=True, check=True)
    assert runtime.version > (1, 0)
