"""Containers: the argument lists, what is understood of two programs, and the way to root."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from glacierhpc.errors import GlacierError, InputError
from glacierhpc.hpc.apptainer import (
    FIXES,
    Runtime,
    build_command,
    exec_command,
    fakeroot_rung,
    find_runtime,
    inside_environment,
    inspect,
    verify,
    version_of,
)
from tests.hpc.scripts import program

APPTAINER = Runtime("/usr/bin/apptainer", "apptainer", (1, 3, 4))


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


def test_command_lines() -> None:
    built = build_command(APPTAINER, "my image.sif", "deeplearning.def", arguments={"FROM": "/a b.sif"})
    assert built == [
        "/usr/bin/apptainer", "build", "--fakeroot", "--build-arg", "FROM=/a b.sif", "my image.sif", "deeplearning.def",
    ]  # fmt: skip
    run = exec_command(
        APPTAINER, "i.sif", ["glacierhpc", "train", "a b; id"], binds=["/scratch/x y"], gpu=True
    )
    assert run == [
        "/usr/bin/apptainer", "exec", "--cleanenv", "--no-home", "--bind", "/scratch/x y", "--nv", "i.sif",
        "glacierhpc", "train", "a b; id",
    ]  # fmt: skip
    with pytest.raises(InputError, match="commas and colons"):
        exec_command(APPTAINER, "i.sif", ["x"], binds=["/a:/etc"])


def test_only_what_is_named_gets_inside() -> None:
    given = {
        "SLURM_PROCID": "3",
        "PYTHONPATH": "/evil",
        "HOME": "/h",
        "https_proxy": "p",
        "NCCL_DEBUG": "a,b",
    }
    handed = {
        name.removeprefix("APPTAINERENV_"): text
        for name, text in inside_environment(given).items()
        if name.startswith("APPTAINERENV_")
    }
    assert handed == {"SLURM_PROCID": "3", "https_proxy": "p", "NCCL_DEBUG": "a,b", "PYTHONNOUSERSITE": "1"}


def test_labels_and_signatures(tmp_path: Path) -> None:
    program(
        tmp_path, "apptainer",
        'case "$*" in "inspect --json --labels i.sif") echo \'{"data":{"attributes":{"labels":{"commit":"abc"}}}}\';;\n'
        '"verify --key k.pem i.sif") echo fine;; *) echo "FATAL: integrity error" >&2; exit 255;; esac',
    )  # fmt: skip
    runtime = Runtime(str(tmp_path / "bin/apptainer"), "apptainer", (1, 3))
    assert inspect(runtime, "i.sif") == {"commit": "abc"}
    assert verify(runtime, "i.sif", key="k.pem") == "fine\n"
    with pytest.raises(GlacierError, match=r"(?s)verify i\.sif ended with 255.*integrity error"):
        verify(runtime, "i.sif")


@pytest.mark.parametrize(
    ("files", "rung"),
    [
        ({"etc/subuid": "me:100000:65536\n", "etc/subgid": "me:100000:65536\n"}, "subuid"),
        ({"etc/subuid": "me:100000:65536\n", "etc/subgid": "you:1:2\n"}, "user namespace"),
        ({"etc/subuid": "home:1:65536\n", "etc/subgid": "home:1:65536\n"}, "user namespace"),
        ({"proc/sys/user/max_user_namespaces": "0\n"}, "none"),
        ({"proc/sys/kernel/unprivileged_userns_clone": "0\n"}, "none"),
        ({"proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1\n"}, "none"),
        (
            {"proc/sys/user/max_user_namespaces": "0\n", "usr/libexec/apptainer/bin/starter-suid": "x"},
            "setuid",
        ),
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
