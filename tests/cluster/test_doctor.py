"""`glacierhpc doctor` on a real Slurm, as an ordinary user: here, on a node, and with what is broken on purpose."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.jobs import fields, quick, reached
from tests.conftest import ROOT

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

FITTING = [
    option
    for job in ("imagery", "train", "results")
    for option in ("--set", f"jobs.{job}.cpus=1", "--set", f"jobs.{job}.memory_gb=1")
]
"""Jobs that fit into the small nodes of a test cluster."""
LOOK = """
from pathlib import Path
from glacierhpc.hpc.doctor import Machine, {module}
m = Machine(user=__import__('getpass').getuser(), scheduler_needed=True, patience={patience}, {more})
found = {module}.{check}(m)
print(found.status, found.told, found.fix)
"""


def typed(*arguments: str, **environment: str) -> tuple[int, dict[str, Any]]:
    """Type the command, and return its exit code and its JSON."""
    answer = subprocess.run(
        [sys.executable, "-m", "glacierhpc", "doctor", "--json", "--patience", "4", *arguments], cwd=ROOT,
        env=quick(**environment), capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip
    assert answer.stdout, answer.stderr
    return answer.returncode, json.loads(answer.stdout.splitlines()[-1])


def looked(
    module: str, check: str, *before: str, more: str = "", patience: float = 4, **environment: str
) -> str:
    """What one check finds, in a process of its own."""
    code = LOOK.format(module=module, check=check, more=more, patience=patience)
    answer = subprocess.run(
        [*before, sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **environment}, capture_output=True,
        text=True, check=False, timeout=300,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def site(**values: object) -> str:
    """A site, as an argument of `looked`."""
    return f"site=__import__('glacierhpc.hpc.site').hpc.site.Site.model_validate({values!r})"


def by_name(findings: list[dict[str, str]]) -> dict[str, dict[str, str]]:
    return {each["name"]: each for each in findings}


def test_this_host_and_a_node_are_well() -> None:
    assert os.getuid() != 0
    began = time.time()
    code, told = typed("--compute", *FITTING)
    host, node = by_name(told["findings"]), by_name(told["compute"]["findings"])
    bad = [each for each in (*host.values(), *node.values()) if each["status"] in ("fail", "unknown")]
    assert (code, bad) == (0, [])
    for name in (
        "slurm",
        "controller",
        "credentials",
        "partitions",
        "limits",
        "trial",
        "memory option",
        "torch",
    ):
        assert host[name]["status"] == "ok", host[name]
    assert told["compute"]["host"] != told["host"] and told["compute"]["host"] in node["job"]["told"]
    for name in (
        "job",
        "node to login",
        "login to node",
        "clock of the node",
        "locks between nodes",
        "two processes",
    ):
        assert node[name]["status"] == "ok", node[name]
    assert node["requeue"]["told"] == "by scontrol" and node["credentials"]["status"] == "ok"
    # nothing is left behind, not even in the queue
    left = [path for path in ROOT.glob(".glacierhpc-doctor-*") if path.stat().st_mtime >= began]
    assert left == []


def test_accounting_is_told_as_it_is() -> None:
    with_it = subprocess.run(["sacct", "--noheader"], capture_output=True, check=False).returncode == 0
    said = looked("scheduler", "accounting")
    assert said.startswith("ok on") if with_it else said.startswith("ok off: how jobs ended")


def test_what_the_controller_would_refuse_is_found() -> None:
    jobs = {name: {"cpus": 1, "memory_gb": 1} for name in ("imagery", "train")} | {
        "results": {"memory_gb": 100_000}
    }
    said = looked("scheduler", "limits", more=site(jobs=jobs))
    assert said.startswith("fail ") and "job 'results' asks for 100000 GiB" in said, said
    assert "not available" in looked("scheduler", "trial", more=site(jobs=jobs))


def test_an_mpi_that_srun_does_not_speak() -> None:
    said = looked("devices", "mpi", more=site(horovod="mpi", mpi="pmi9"))
    assert said.startswith("skip Horovod without MPI") or "--set mpi=pmix" in said, said


def test_a_partition_that_is_not_there() -> None:
    said = looked("scheduler", "partitions", more=site(use={"cpu": "small"}))
    assert said.startswith("fail ") and "has no partition small; it has normal, preemptible" in said


def test_a_configuration_that_is_not_there_and_a_controller_that_is_not_there(tmp_path: Path) -> None:
    # scontrol complains at once, and tries for a minute
    gone = looked("scheduler", "controller", patience=1, SLURM_CONF=str(tmp_path / "none.conf"))
    assert gone.startswith("fail ") and "SLURM_CONF names a file that is not there" in gone
    real = Path(os.environ["SLURM_CONF"]).read_text() if "SLURM_CONF" in os.environ else ""
    if not real:
        pytest.skip("SLURM_CONF is not set here")
    lines = ["SlurmctldPort=9" if line.startswith("SlurmctldPort=") else line for line in real.splitlines()]
    (tmp_path / "slurm.conf").write_text(
        "\n".join(["MessageTimeout=2", *(x for x in lines if "MessageTimeout" not in x)])
    )
    away = looked("scheduler", "controller", SLURM_CONF=str(tmp_path / "slurm.conf"))
    assert away.startswith("fail ") and "DOWN" in away, away
    assert looked("scheduler", "credentials", SLURM_CONF=str(tmp_path / "slurm.conf")).startswith("unknown ")


def test_the_rung_of_this_user_and_what_is_switched_off() -> None:
    if not shutil.which("apptainer"):
        pytest.skip("Apptainer is not installed here; as root on Debian 12: make test-cluster")
    assert looked("containers", "runtime").startswith("ok apptainer version")
    assert looked("containers", "fakeroot").startswith("ok by subordinate ids")
    off = ("unshare", "--user", "--map-root-user", "bash", "-c",
           'echo 0 >/proc/sys/user/max_user_namespaces && exec "$@"', "bash")  # fmt: skip
    assert looked("containers", "fakeroot", *off).startswith("warn no way: user.max_user_namespaces = 0")
    needed = looked("containers", "fakeroot", *off, more="image='/x.sif'")
    assert needed.startswith("fail ") and "ask the site for user namespaces" in needed


def test_an_image_is_looked_into(tmp_path: Path) -> None:
    """With a small image made here of this machine's own shell, not the project's, which has a test of its own."""
    if not shutil.which("apptainer"):
        pytest.skip("Apptainer is not installed here; as root on Debian 12: make test-cluster")
    image, definition = tmp_path / "small.sif", tmp_path / "small.def"
    definition.write_text("Bootstrap: scratch\n%files\n    /etc/hostname /hostname\n")
    made = subprocess.run(
        ["apptainer", "build", image, definition], capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr
    given = f"image={str(image)!r}"
    assert looked("containers", "image", more=given).startswith("ok ")
    assert looked("containers", "signature", more=given).startswith("warn the image is not signed")
    private, public = signing_keys(tmp_path)
    signed = subprocess.run(
        ["apptainer", "sign", "--key", private, image], capture_output=True, text=True, check=False
    )
    assert signed.returncode == 0, signed.stderr
    assert looked("containers", "signature", more=given).startswith(
        "warn signed by a key in a file, which is not named"
    )
    by_key = f"{given}, key={str(public)!r}"
    assert looked("containers", "signature", more=by_key).startswith("ok signed, by the key")
    changed = bytearray(image.read_bytes())
    changed[changed.index(b"hsqs") + 200] ^= 1  # in the packed files
    (tmp_path / "changed.sif").write_bytes(changed)
    other = f"image={str(tmp_path / 'changed.sif')!r}, key={str(public)!r}"
    assert looked("containers", "signature", more=other).startswith("fail the signature is wrong")
    # one without Python is told as such
    assert looked("software", "python", more=given).startswith("fail does not start in the image")
    torn = tmp_path / "torn.sif"
    torn.write_bytes(image.read_bytes()[:-100].replace(b"SIF_MAGIC", b"SIF_LOSTX"))
    assert "is no image" in looked("containers", "image", more=f"image={str(torn)!r}")


def signing_keys(folder: Path) -> tuple[Path, Path]:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem, kind = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    private, public = folder / "private.pem", folder / "public.pem"
    private.touch(mode=0o600)
    private.write_bytes(key.private_bytes(pem, kind, serialization.NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    return private, public


def test_packages_of_the_home_folder_and_of_pythonpath(tmp_path: Path) -> None:
    (tmp_path / "evil" / "torch").mkdir(parents=True)
    (tmp_path / "evil" / "torch" / "__init__.py").write_text("raise SystemExit('not this one')")
    code, told = typed("--here", PYTHONPATH=str(tmp_path / "evil"))
    found = by_name(told["findings"])
    assert code == 1 and f"torch is {tmp_path}/evil/torch" in found["foreign packages"]["told"]


def test_a_folder_for_temporary_files_that_runs_no_programs(tmp_path: Path) -> None:
    mounted = ("unshare", "--user", "--map-root-user", "--mount", "bash", "-c",
               f"mount -t tmpfs -o noexec,size=20g none '{tmp_path}' && exec \"$@\"", "bash")  # fmt: skip
    said = looked("storage", "temporary", *mounted, TMPDIR=str(tmp_path))
    assert said.startswith("warn ") and "mounted noexec" in said


def test_a_job_that_finds_no_place_is_cancelled() -> None:
    fill = subprocess.run(
        ["sbatch", "--parsable", "--nodes=3", "--exclusive", "--time=5", "--output=/dev/null", "--wrap=sleep 300"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    code = (
        "from glacierhpc.hpc.doctor import Machine, node\n"
        "print(node.examine_node(Machine(), [], wait_s=5).findings[0])"
    )
    try:
        reached(lambda: fields(int(fill))["JobState"] == "RUNNING")  # else the other fits in before it
        said = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
    finally:
        subprocess.run(["scancel", fill], check=True)
    assert "status='unknown'" in said and "it is cancelled" in said, said
    queue = subprocess.run(
        ["squeue", "--me", "--noheader", "--format=%j"], capture_output=True, text=True, check=True
    ).stdout
    assert "glacierhpc-doctor" not in queue
