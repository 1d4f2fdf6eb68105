"""Checks of what trains: the GPU and its driver, torch, Horovod, MPI, and two processes that add numbers."""

from __future__ import annotations

import json
import re

from glacierhpc.hpc.doctor.finding import Finding, fail, ok, skip, unheard, unknown, warn
from glacierhpc.hpc.doctor.machine import Machine, listed, words_of
from glacierhpc.hpc.doctor.software import INSTALL, unasked, where

DRIVERS = {11: 450, 12: 525, 13: 580}
"""The oldest NVIDIA driver for each release of CUDA (CUDA Toolkit release notes, minor version compatibility)."""

TORCH = """
import json, torch
print(json.dumps({'version': torch.__version__, 'cuda': torch.version.cuda, 'hip': torch.version.hip,
                  'available': torch.cuda.is_available(), 'count': torch.cuda.device_count()}))
"""

HOROVOD = "from horovod.runner.launch import run_commandline; run_commandline()"

LINKED = """
import glob, importlib.util, os, subprocess
folder = os.path.dirname(importlib.util.find_spec('horovod').origin)
for path in glob.glob(folder + '/torch/mpi_lib*.so'):
    print(subprocess.run(['ldd', path], capture_output=True, text=True).stdout)
"""

ADDED = """
import os, shutil, sys, tempfile
folder, interface, wait_s = tempfile.mkdtemp(), sys.argv[1], float(sys.argv[2])
if interface:
    os.environ['GLOO_SOCKET_IFNAME'] = interface
second = os.fork()
try:
    import datetime, torch, torch.distributed as dist
    dist.init_process_group('gloo', init_method=f'file://{folder}/meet', rank=int(not second), world_size=2,
                            timeout=datetime.timedelta(seconds=wait_s))
    value = torch.tensor([1.0 + int(not second)])
    dist.all_reduce(value)
    dist.barrier()
    dist.destroy_process_group()
    if not second:
        os._exit(0)
    print(value.item() if os.waitpid(second, 0)[1] == 0 else 'failed')
finally:
    if second:
        shutil.rmtree(folder, ignore_errors=True)
"""
MEET_S = 30.0
"""Longest wait of the two for each other, seconds: both have read torch by then, which takes as long again at most."""

FAMILIES = {"40": "Open MPI", "80": "Open MPI", "12": "MPICH"}
"""By the number of the library libmpi.so: what its makers call themselves."""
SPEAKS = {"Open MPI": ("pmix",), "MPICH": ("pmi2", "cray_shasta", "pspmi", "pmix")}
"""The MPI plugins of srun that each family understands."""


def gpu(m: Machine) -> Finding:
    """Ask the driver for the GPUs."""
    needed = "ask for one: --set jobs.train.gpus=1, and the right partition: --set use.gpu=NAME"
    if m.which("nvidia-smi") is None:
        if m.path("dev/kfd").exists():
            return ok("AMD (ROCm); torch tells the rest")
        return fail("no nvidia-smi on a node that is to have a GPU", needed) if m.gpu else skip("none here")
    fields = "name,driver_version,memory.total,mig.mode.current"
    answer = m.ask("nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader", timeout_s=9)
    rows = [[text.strip() for text in line.split(",")] for line in answer.out.splitlines() if "," in line]
    if not answer.ok or not rows:
        told = f"the driver does not answer: {words_of(answer)}"
        if m.gpu:
            return unheard(answer) or fail(told, "tell the site, naming the node")
        return warn(
            told, "where there is no GPU this is as it should be; else tell the site, naming the node"
        )
    names = sorted({row[0] for row in rows})
    mig = " (MIG: a job may see a slice)" if any(row[-1] == "Enabled" for row in rows) else ""
    return ok(f"{len(rows)} x {listed(names)}, driver {rows[0][1]}{mig}")


def torch(m: Machine) -> Finding:
    """Ask torch, in a process of its own, what it sees; compare with what the driver shows."""
    answer = m.ask_python(TORCH, timeout_s=55)
    try:
        told = json.loads(answer.out.strip().splitlines()[-1])
    except (ValueError, IndexError):
        if "No module named" in answer.err:
            return warn(f"not {where(m)}: no training", INSTALL[where(m)])
        told_here = f"does not start {where(m)}: {words_of(answer)}"
        return unasked(m, answer) or fail(told_here, "start it by hand: python -c 'import torch'")
    driver = None
    if m.which("nvidia-smi"):
        said = m.ask("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", timeout_s=9)
        driver = said.out.split()[0] if said.ok and said.out.split() else None
    return seen(told, driver, m)


def seen(told: dict[str, object], driver: str | None, m: Machine) -> Finding:
    """Judge what torch tells, given the version of the NVIDIA driver, None where there is none."""
    build = f"CUDA {told['cuda']}" if told["cuda"] else f"ROCm {told['hip']}" if told["hip"] else "CPU only"
    version = f"{told['version']} ({build})"
    if told["available"]:
        return ok(f"{version}, sees {told['count']} GPU{'' if told['count'] == 1 else 's'}")
    if driver is None and not m.gpu:
        return ok(version)
    # without a GPU it trains, only slower: broken is that where one was asked for
    judged = fail if m.gpu else warn
    return judged(*_blind(version, str(told["cuda"] or ""), driver, m))


def _blind(version: str, cuda: str, driver: str | None, m: Machine) -> tuple[str, str]:
    """Return why torch sees no GPU, and what to do about it."""
    if driver is None and m.path("dev/kfd").exists():
        return (
            f"{version} sees no GPU, and there is one of AMD",
            "torch must be its ROCm build, in an image on a base with ROCm, and /dev/kfd open for you (group render)",
        )
    if driver is None:
        return f"{version} sees no GPU", "look at the finding about the GPU first"
    if not cuda:
        return (
            f"{version} on a machine with an NVIDIA GPU",
            "install the CUDA build (pip's usual index), or build the image with it",
        )
    oldest = DRIVERS.get(int(cuda.split(".")[0]), 0)
    if int(driver.split(".")[0]) < oldest:
        return (
            f"{version} needs driver {oldest} or newer, here is {driver}",
            "ask the site for a newer driver, or install a torch for an older CUDA",
        )
    if m.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        hidden = f"{version} sees no GPU: CUDA_VISIBLE_DEVICES hides all"
        return hidden, "write: unset CUDA_VISIBLE_DEVICES"
    fix = (
        "run the image with --nv (container exec --gpu): jobs do when they have a GPU"
        if m.image
        else "tell the site, naming the node"
    )
    return f"{version} sees no GPU, though the driver does", fix


def horovod(m: Machine) -> Finding:
    """Ask Horovod, in a process of its own, what it was built with."""
    answer = m.ask_python(HOROVOD, "--check-build", timeout_s=55)
    if finding := unasked(m, answer):
        return finding
    if "No module named" in answer.err:
        return skip(f"not {where(m)}; train.backend=ddp does without")
    built = set(re.findall(r"^\s*\[X\]\s*(\w+)", answer.out, re.M))
    release = re.search(r"Horovod v([\d.]+\d)", answer.out)
    if not answer.ok or release is None:
        return fail(
            f"does not start {where(m)}: {words_of(answer)}",
            "build it for the torch that is there: make horovod",
        )
    told = f"{release[1]} with {listed(sorted(built - {'PyTorch'}))}"
    if "PyTorch" not in built:
        return fail(f"{told}, without PyTorch", "build it again: make horovod")
    wanted = {"gloo": "Gloo", "mpi": "MPI"}[m.site.horovod]
    if wanted not in built:
        other = "mpi" if m.site.horovod == "gloo" else "gloo"
        return fail(
            f"{told}; the site wants {wanted}",
            f"write --set horovod={other}, or build it again: make horovod",
        )
    if m.gpu and "NCCL" not in built:
        return warn(
            f"{told}; without NCCL, on a GPU", "build it where CUDA is: make horovod; or train.backend=ddp"
        )
    return ok(told)


def mpi(m: Machine) -> Finding:
    """Look whether the MPI that Horovod was built with is here, and speaks with srun."""
    answer = m.ask_python(LINKED, timeout_s=30)
    found = re.search(r"libmpi(?:_\w+)?\.so\.(\d+) => (\S+)(.*)", answer.out)
    if finding := unasked(m, answer):
        return finding
    if not answer.ok or found is None:
        program = m.which("mpirun") or m.which("mpiexec")
        return skip(f"Horovod without MPI; {program or 'no mpirun'} {'is here' if program else 'here'}")
    if found[2] == "not":
        told = f"Horovod wants libmpi.so.{found[1]}, which is not {where(m)}"
        return fail(told, "load the module of the MPI it was built with, or build it again: make horovod")
    family = FAMILIES.get(found[1], "unknown")
    told = f"{family} (libmpi.so.{found[1]}) {where(m)}"
    if m.which("srun") is None or m.inside:
        return ok(told)
    there = plugins(m)
    if m.site.horovod != "mpi":
        return ok(f"{told}; srun has {listed(there)}" if there else told)
    return _spoken(told, family, there, m.site.mpi)


def _spoken(told: str, family: str, there: list[str], chosen: str) -> Finding:
    """Judge whether an MPI and srun speak the same: otherwise every process takes itself for the only one."""
    if not there:
        return unknown(f"{told}; srun does not tell its plugins", "try it by hand: srun --mpi=list")
    fitting = [name for name in there if name.split("_v")[0] in SPEAKS.get(family, there)]
    if chosen not in there:
        return fail(
            f"srun has no --mpi={chosen}, but {listed(there)}", f"write --set mpi={(fitting or ['none'])[0]}"
        )
    if fitting and chosen not in fitting:
        return fail(
            f"{told} does not speak --mpi={chosen}: every process would be number 0 of 1",
            f"write --set mpi={fitting[0]}",
        )
    return ok(f"{told}, --mpi={chosen}")


def plugins(m: Machine) -> list[str]:
    """Return the MPI plugins of srun."""
    answer = m.ask("srun", "--mpi=list")
    text = re.sub(
        r"srun:|MPI (plugin )?types are\.*|specific \w+ plugin versions available:|,",
        " ",
        answer.out + answer.err,
    )
    return [word for word in text.split() if word != "none"] if answer.ok else []


def added(m: Machine) -> Finding:
    """Let two processes of this machine add their numbers, as training adds gradients."""
    answer = m.ask_python(ADDED, m.site.interface or "", f"{MEET_S * m.patience:g}", timeout_s=58)
    if finding := unasked(m, answer):
        return finding
    if "No module named" in answer.err:
        return skip(f"torch is not {where(m)}")
    if answer.ok and answer.out.strip() == "3.0":
        return ok(
            f"two processes found each other{' by ' + m.site.interface if m.site.interface else ''}: 1 + 2 = 3"
        )
    return fail(
        f"two processes do not find each other: {words_of(answer)}",
        "name the interface between nodes: --set interface=NAME (ip -brief address); a firewall may be in between",
    )


def transport(m: Machine) -> Finding:
    """Look by what NCCL would send between nodes: by plain sockets it is several times slower."""
    if m.which("nvidia-smi") is None:
        return skip("no NVIDIA GPU here")
    bands = sorted(path.name for path in m.path("sys/class/infiniband").glob("*"))
    if bands:
        return ok(f"InfiniBand or RoCE: {listed(bands)}")
    if m.site.interface is None and not m.gpu:
        return skip("one node does without a network")
    return warn(
        "no InfiniBand is seen: NCCL would use plain sockets between nodes",
        "with Slingshot load the site's module aws-ofi-nccl; look for NET/Socket in the log with NCCL_DEBUG=INFO",
    )
