"""The doctor's checks of GPU, torch, Horovod and MPI; what this machine has not is answered by made-up programs."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from glacierhpc.hpc.doctor import devices
from tests.hpc.machines import complains, made, says, shim

A100 = says("\n".join(["NVIDIA A100-SXM4-40GB, 535.104.05, 40960 MiB, Disabled"] * 2))
SLICE = says("NVIDIA H200, 570.1, 143771 MiB, Enabled")
HANGS = "exec /bin/sleep 600"
BROKEN = complains("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", 9)
DRIVER = says("535.104.05")

CUDA = {"version": "2.13.0+cu128", "cuda": "12.8", "hip": None, "available": True, "count": 2}
CPU = {"version": "2.13.0+cpu", "cuda": None, "hip": None, "available": False, "count": 0}
HOROVOD = "Horovod v0.28.1:\n\nAvailable Frameworks:\n    [{0}] PyTorch\n\nControllers:\n    [{1}] MPI\n    [X] Gloo"
OPENMPI = says("\tlibmpi.so.40 => /lib/libmpi.so.40 (0x00007f)")
MPICH = says("\tlibmpi.so.12 => /opt/mpich/libmpi.so.12 (0x00007f)")
GONE = says("\tlibmpi.so.40 => not found")
PLUGINS = says(
    "MPI plugin types are...\n\tpmix\n\tnone\n\tpmi2\nspecific pmix plugin versions available: pmix_v4"
)


@pytest.mark.parametrize(
    ("machine", "status", "words"),
    [
        ({"commands": {"nvidia-smi": A100}}, "ok", "2 x NVIDIA A100-SXM4-40GB, driver 535.104.05"),
        ({"commands": {"nvidia-smi": SLICE}}, "ok", "MIG"),
        ({"commands": {"nvidia-smi": BROKEN}}, "warn", "does not answer"),
        ({"commands": {"nvidia-smi": BROKEN}, "role": "compute"}, "warn", "naming the node"),
        ({"commands": {"nvidia-smi": BROKEN}, "gpu": True}, "fail", "naming the node"),
        (
            {"commands": {"nvidia-smi": HANGS}, "gpu": True, "patience": 0.05},
            "unknown",
            "did not answer in time",
        ),
        ({}, "skip", "none here"),
        ({"gpu": True}, "fail", "jobs.train.gpus=1"),
        ({"files": {"dev/kfd": ""}, "gpu": True}, "ok", "AMD"),
    ],
)
def test_the_driver_is_asked(machine: dict[str, Any], status: str, words: str, tmp_path: Path) -> None:
    found = devices.gpu(made(tmp_path, **machine))
    assert found.status == status and words in f"{found.told} {found.fix}", found


@pytest.mark.parametrize(
    ("told", "driver", "more", "status", "words"),
    [
        (CUDA, "535.1", {}, "ok", "sees 2 GPUs"),
        (CPU, None, {}, "ok", "CPU only"),
        (CPU, None, {"gpu": True}, "fail", "sees no GPU"),
        (CPU, None, {"gpu": True, "files": {"dev/kfd": ""}}, "fail", "ROCm build"),
        (CPU, "535.1", {}, "warn", "install the CUDA build"),
        (CPU, "535.1", {"gpu": True}, "fail", "install the CUDA build"),
        (CUDA | {"available": False}, "470.1", {}, "warn", "needs driver 525 or newer, here is 470.1"),
        (
            CUDA | {"available": False},
            "535.1",
            {"environ": {"CUDA_VISIBLE_DEVICES": ""}},
            "warn",
            "hides all",
        ),
        (CUDA | {"available": False}, "535.1", {"image": "i.sif"}, "warn", "--nv"),
        (CUDA | {"available": False}, "535.1", {"gpu": True}, "fail", "naming the node"),
    ],
)
def test_what_torch_sees(
    told: dict[str, Any], driver: str | None, more: dict[str, Any], status: str, words: str, tmp_path: Path
) -> None:
    found = devices.seen(told, driver, made(tmp_path, **more))
    assert found.status == status and words in f"{found.told} {found.fix}", found


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (says(f"a banner\n{json.dumps(CUDA)}"), "ok"),
        (complains("ModuleNotFoundError: No module named 'torch'"), "warn"),
        (complains("ImportError: libcudart.so.12: cannot open shared object file"), "fail"),
    ],
)
def test_torch_is_asked_in_a_process_of_its_own(answer: str, status: str, tmp_path: Path) -> None:
    m = made(tmp_path, python=shim(tmp_path / "python", answer), commands={"nvidia-smi": DRIVER})
    assert devices.torch(m).status == status


@pytest.mark.parametrize(
    ("answer", "more", "status", "words"),
    [
        (says(HOROVOD.format("X", "X")), {}, "ok", "0.28.1 with Gloo, MPI"),
        (says(HOROVOD.format("X", " ")), {"site": {"horovod": "mpi"}}, "fail", "horovod=gloo"),
        (says(HOROVOD.format(" ", "X")), {}, "fail", "without PyTorch"),
        (says(HOROVOD.format("X", "X")), {"gpu": True}, "warn", "NCCL"),
        (complains("ModuleNotFoundError: No module named 'horovod'"), {}, "skip", "ddp"),
        (complains("undefined symbol: _ZN3c10"), {}, "fail", "make horovod"),
    ],
)
def test_what_horovod_was_built_with(
    answer: str, more: dict[str, Any], status: str, words: str, tmp_path: Path
) -> None:
    found = devices.horovod(made(tmp_path, python=shim(tmp_path / "python", answer), **more))
    assert found.status == status and words in f"{found.told} {found.fix}", found


@pytest.mark.parametrize(
    ("linked", "site", "srun", "status", "words"),
    [
        (OPENMPI, {}, PLUGINS, "ok", "Open MPI"),
        (OPENMPI, {"horovod": "mpi"}, PLUGINS, "ok", "--mpi=pmix"),
        (OPENMPI, {"horovod": "mpi", "mpi": "pmi2"}, PLUGINS, "fail", "--set mpi=pmix"),
        (MPICH, {"horovod": "mpi", "mpi": "pmi2"}, PLUGINS, "ok", "MPICH"),
        (MPICH, {"horovod": "mpi", "mpi": "cray_shasta"}, PLUGINS, "fail", "no --mpi=cray_shasta"),
        (OPENMPI, {"horovod": "mpi"}, "exit 1", "unknown", "srun --mpi=list"),
        (GONE, {}, PLUGINS, "fail", "libmpi.so.40, which is not here"),
        ("exit 1", {}, PLUGINS, "skip", "without MPI"),
    ],
)
def test_mpi_and_srun_must_speak_the_same(
    linked: str, site: dict[str, Any], srun: str, status: str, words: str, tmp_path: Path
) -> None:
    m = made(tmp_path, python=shim(tmp_path / "python", linked), commands={"srun": srun}, site=site)
    found = devices.mpi(m)
    assert found.status == status and words in f"{found.told} {found.fix}", found


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
def test_two_processes_really_add(tmp_path: Path) -> None:
    assert devices.added(made(tmp_path, site={"interface": "lo"})).status == "ok"


@pytest.mark.parametrize("check", [devices.torch, devices.horovod, devices.mpi, devices.added])
def test_what_is_slow_is_not_broken(check: Any, tmp_path: Path) -> None:
    """On a busy file system the large packages take minutes to be read."""
    found = check(made(tmp_path, python=shim(tmp_path / "python", HANGS), patience=0.01))
    assert found.status == "unknown" and "--patience" in found.fix, found


def test_processes_that_do_not_meet(tmp_path: Path) -> None:
    def found(answer: str) -> Any:
        return devices.added(made(tmp_path, python=shim(tmp_path / "python", answer)))

    broken = found(complains("RuntimeError: Unable to find address for: nope0"))
    assert broken.status == "fail" and "--set interface=NAME" in broken.fix
    assert found(says("2.0")).status == "fail"
    assert found(complains("ModuleNotFoundError: No module named 'torch'")).status == "skip"


def test_the_way_of_nccl(tmp_path: Path) -> None:
    assert devices.transport(made(tmp_path)).status == "skip"
    gpu = {"nvidia-smi": A100}
    assert devices.transport(made(tmp_path, commands=gpu)).status == "skip"
    sockets = devices.transport(made(tmp_path, commands=gpu, gpu=True))
    assert sockets.status == "warn" and "NCCL_DEBUG=INFO" in sockets.fix
    m = made(tmp_path, commands=gpu, gpu=True, files={"sys/class/infiniband/mlx5_0": ""})
    assert devices.transport(m).status == "ok"
