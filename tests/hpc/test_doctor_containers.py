"""The doctor on what runs images: versions, rungs, the image file; real user namespaces where there are any."""

from __future__ import annotations

import os
import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from glacierhpc.hpc.doctor import containers
from glacierhpc.hpc.doctor.machine import Machine
from glacierhpc.hpc.site import Site
from tests.hpc.machines import complains, in_namespace, made, says

APPARMOR = {"proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1\n"}
ON = {"proc/sys/user/max_user_namespaces": "1000\n"}
OFF = {"proc/sys/user/max_user_namespaces": "0\n"}
NAMED = {"etc/subuid": "gh:100000:65536\n", "etc/subgid": "gh:100000:65536\n"}
NEW = says("apptainer version 1.3.4")
MAPS = {"newuidmap": "exit 0", "newgidmap": "exit 0", "unshare": "exit 0"}
HANGS = "exec /bin/sleep 600"
AMD64, ARM64 = b"02", b"04"


def sif(path: Path, architecture: bytes) -> str:
    """The head of an image file; what follows is of no interest here."""
    path.write_bytes(
        b"#!/usr/bin/env run-singularity\n\0" + b"SIF_MAGIC\0" + b"01\0" + architecture + b"\0" + bytes(80)
    )
    return str(path)


@pytest.mark.parametrize(
    ("version", "status", "words"),
    [
        ("apptainer version 1.3.4-1.el9", "ok", "1.3.4"),
        ("apptainer version 1.1.9", "warn", "--build-arg"),
        ("apptainer version 1.0.3", "warn", "is old"),
        ("singularity-ce version 4.1.0", "ok", "4.1.0"),
        ("singularity-ce version 3.11.4", "warn", "is old"),
        ("singularity version 3.8.7-1.el8", "warn", "is old"),
        ("a script of the site", "warn", "does not tell its version"),
    ],
)
def test_the_version_is_judged(version: str, status: str, words: str, tmp_path: Path) -> None:
    found = containers.runtime(made(tmp_path, commands={version.split("-")[0].split()[0]: says(version)} if words != (
        "does not tell its version") else {"apptainer": says(version)}))  # fmt: skip
    assert found.status == status and words in found.told, found


@pytest.mark.parametrize(
    ("machine", "status"),
    [
        ({}, "skip"),
        ({"image": "/x.sif"}, "fail"),
        ({"image": "/x.sif", "site": {"container": "singularity"}, "commands": {"apptainer": NEW}}, "fail"),
        ({"site": {"container": "none"}, "commands": {"apptainer": NEW}}, "skip"),
        ({"environ": {"APPTAINER_CONTAINER": "/x.sif"}, "image": "/x.sif"}, "skip"),
    ],
)
def test_a_runtime_is_needed_where_there_is_an_image(
    machine: dict[str, Any], status: str, tmp_path: Path
) -> None:
    assert containers.runtime(made(tmp_path, **machine)).status == status


@pytest.mark.parametrize(
    ("machine", "status", "words"),
    [
        ({"files": ON | NAMED, "commands": MAPS}, "ok", "by subordinate ids"),
        ({"files": ON | NAMED, "commands": {"unshare": "exit 0"}}, "warn", "newuidmap and newgidmap not"),
        ({"files": ON, "commands": MAPS}, "warn", "/etc/subuid"),
        ({"files": ON, "commands": MAPS | {"fakeroot": "exit 0"}}, "warn", "with the fakeroot command"),
        ({"files": ON | NAMED, "commands": MAPS | {"unshare": complains("unshare failed: EPERM")}}, "fail", "EPERM"),
        ({"files": ON | NAMED, "commands": MAPS | {"unshare": HANGS}, "patience": 0.05}, "unknown", "in time"),
        ({"files": OFF, "commands": MAPS}, "warn", "user.max_user_namespaces = 0"),
        ({"files": OFF, "commands": MAPS, "image": "/x.sif"}, "fail", "user.max_user_namespaces = 0"),
        ({"files": ON | APPARMOR, "commands": MAPS}, "warn", "kernel.apparmor_restrict_unprivileged_userns = 1"),
        (
            {"files": ON | NAMED | APPARMOR | {"etc/apparmor.d/singularity-ce": ""},
             "commands": MAPS | {"unshare": complains("unshare failed: EPERM")}},
            "ok", "by subordinate ids",
        ),
    ],
)  # fmt: skip
def test_the_rung_is_told_with_what_to_do(
    machine: dict[str, Any], status: str, words: str, tmp_path: Path
) -> None:
    machine["commands"] = {**machine["commands"], "apptainer": NEW}
    found = containers.fakeroot(made(tmp_path, **machine))
    assert found.status == status and words in f"{found.told} {found.fix}", found


def test_the_setuid_rung_runs_but_does_not_build(tmp_path: Path) -> None:
    m = made(
        tmp_path, files=OFF | {"usr/libexec/apptainer/bin/starter-suid": ""}, commands={"apptainer": NEW}
    )
    (tmp_path / "root/usr/libexec/apptainer/bin/starter-suid").chmod(0o4755)
    found = containers.fakeroot(m)
    assert found.status == "warn" and "build where you are root" in found.fix
    assert containers.fuse(m).status == "skip"


def test_namespaces_that_the_kernel_refuses_are_found_by_trying(tmp_path: Path) -> None:
    """For real: the settings of this machine say yes, and inside a namespace whose limit is none the kernel says no."""
    made(tmp_path, files=ON | NAMED, commands={"apptainer": NEW})
    code = f"""
from pathlib import Path
from glacierhpc.hpc.doctor import containers, Machine
m = Machine(environ={{'PATH': '{tmp_path}/bin:/usr/bin:/bin'}}, root=Path('{tmp_path}/root'), user='gh')
print(containers.fakeroot(m).status)
"""
    assert in_namespace("true", code) in ("ok\n", "warn\n")
    assert in_namespace("echo 0 >/proc/sys/user/max_user_namespaces", code) == "fail\n"


def test_fuse(tmp_path: Path) -> None:
    m = made(tmp_path, files=ON | {"dev/fuse": ""}, commands={"apptainer": NEW})
    assert containers.fuse(m).status == "ok"
    (tmp_path / "root/dev/fuse").unlink()
    found = containers.fuse(m)
    assert found.status == "warn" and "unpacks" in found.told
    assert containers.fuse(made(tmp_path / "bin")).status == "skip"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the images of this test are for x86_64")
def test_the_image_is_looked_at(tmp_path: Path) -> None:
    def found(image: str, **more: Any) -> Any:
        return containers.image(made(tmp_path, image=image, **more))

    assert containers.image(made(tmp_path)).status == "skip"
    assert found(sif(tmp_path / "good.sif", AMD64)).status == "ok"
    assert found("$P/good.sif", environ={"P": str(tmp_path)}).status == "ok"
    other = found(sif(tmp_path / "other.sif", ARM64))
    assert other.status == "fail" and "for arm64, this machine is amd64" in other.told
    (tmp_path / "torn.sif").write_bytes(b"half")
    assert "is no image" in found(str(tmp_path / "torn.sif")).told
    absent = found(str(tmp_path / "none.sif"), role="compute")
    assert absent.status == "fail" and "that all nodes share" in absent.told
    assert found(str(tmp_path)).status == "warn"  # a sandbox


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_an_image_that_may_not_be_read(tmp_path: Path) -> None:
    path = Path(sif(tmp_path / "closed.sif", AMD64))
    path.chmod(0)
    assert "chmod" in containers.image(made(tmp_path, image=str(path))).fix


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ("exit 0", "ok"),
        (
            complains(
                "FATAL: Failed to verify container: integrity: signature not found for object group 1", 255
            ),
            "warn",
        ),
        (
            complains(
                "integrity: signature object 3 not valid: openpgp: signature made by unknown entity", 255
            ),
            "warn",
        ),
        (complains("integrity: key material not provided for DSSE envelope signature", 255), "warn"),
        (complains("integrity: data object integrity compromised: 3", 255), "fail"),
    ],
)
def test_the_signature(answer: str, status: str, tmp_path: Path) -> None:
    m = made(tmp_path, image=sif(tmp_path / "i.sif", AMD64), commands={"apptainer": answer})
    assert containers.signature(m).status == status
    assert containers.signature(made(tmp_path)).status == "skip"
    demanded = containers.signature(replace(m, site=Site(signed_by=("keyring", "k.pem"))))
    assert demanded.status == ("ok" if status == "ok" else "fail"), demanded


@pytest.mark.parametrize(("label", "status"), [("aa11", "ok"), ("bb22", "fail"), ("", "unknown")])
def test_a_run_is_of_one_image(label: str, status: str, tmp_path: Path) -> None:
    told = says(f'{{"labels": {{"glacierhpc.image-id": "{label}"}}}}')
    m = made(tmp_path, image=sif(tmp_path / "i.sif", AMD64), commands={"apptainer": told})
    assert containers.same_image(m).status == "skip"
    (tmp_path / "provenance.json").write_text('{"container_digest": "aa11"}')
    assert containers.same_image(m).status == status
    assert containers.same_image(made(tmp_path)).status == "fail"  # begun in an image, and none now


def test_the_libraries_of_image_and_machine_are_compared(tmp_path: Path) -> None:
    assert containers.compared("2.36", "2.36").status == "ok"
    assert containers.compared("2.41", "2.36").status == "ok"
    assert containers.compared("2.17", "2.36").status == "warn"
    assert containers.compared("", "2.36").status == "unknown"
    gpu = {"nvidia-smi": "exit 0"}
    image = sif(tmp_path / "i.sif", AMD64)
    assert (
        containers.libraries(made(tmp_path, image=image)).status == "skip"
    )  # without a driver nothing is shown in
    m = made(tmp_path, image=image, commands=gpu | {"apptainer": says("2.5")})
    assert containers.libraries(m).status == "warn"


def test_room_for_builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    m = made(tmp_path, commands={"apptainer": NEW}, environ={"APPTAINER_TMPDIR": str(tmp_path)})
    monkeypatch.setattr(containers, "BUILD_GB", 0)
    assert containers.space_for_builds(m).status == "ok"
    monkeypatch.setattr(containers, "BUILD_GB", 10**9)
    assert containers.space_for_builds(m).status == "warn"
    gone = made(tmp_path, environ={"APPTAINER_TMPDIR": str(tmp_path / "none")})
    assert containers.space_for_builds(gone).status == "warn"


def test_the_image_is_run_apart_from_home_and_environment(tmp_path: Path) -> None:
    told = f'echo "$*" >{tmp_path}/words; env >{tmp_path}/env; echo 3 11 2 /usr/bin/python3'
    m: Machine = made(
        tmp_path, image=sif(tmp_path / "i.sif", AMD64), commands={"apptainer": f"PATH=/usr/bin:/bin; {told}"},
        environ={"PYTHONPATH": "/evil", "HOROVOD_X": "1"},
    )  # fmt: skip
    assert m.ask_python("print()").ok
    words = (tmp_path / "words").read_text()
    assert "--cleanenv --no-home" in words and f"--bind {tmp_path}" in words and "python3 -c print()" in words
    env = (tmp_path / "env").read_text()
    assert "APPTAINERENV_HOROVOD_X=1" in env and "APPTAINERENV_PYTHONPATH" not in env
