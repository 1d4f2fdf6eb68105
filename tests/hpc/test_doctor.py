"""`glacierhpc doctor` as it is typed; going through the checks; the table at two widths."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glacierhpc import cli
from glacierhpc.hpc.doctor import CHECKS, Finding, Machine, checks, examine, node
from glacierhpc.hpc.doctor.checks import Check
from glacierhpc.hpc.doctor.finding import fail, ok, read, skip, unknown, warn
from glacierhpc.hpc.doctor.machine import words_of
from glacierhpc.hpc.doctor.table import broken, table
from glacierhpc.hpc.slurm.client import Answer
from tests.conftest import ROOT
from tests.hpc.machines import complains, in_namespace, made, says, shim

GOLDEN = ROOT / "tests" / "golden"
HEAVY = {"numpy", "pandas", "pyarrow", "torch", "xarray", "dask", "distributed", "rasterio", "pyproj", "numba", "rich",
         "zarr", "horovod", "glacierhpc.rundir", "glacierhpc.files", "glacierhpc.workflows"}  # fmt: skip

Doctor = Callable[..., tuple[int, str, str]]


def named(name: str, finding: Finding) -> Finding:
    return Finding(finding.status, finding.told, finding.fix, name)


COLUMNS = {
    "login": [
        named("slurm", ok("Slurm 22.05.8")),
        named(
            "account",
            fail(
                "LUMI wants to know who is billed",
                "write --account PROJECT, or account: PROJECT into ~/.config/glacierhpc/site.yaml",
            ),
        ),  # noqa: E501
        named("gpu", skip("none here")),
        named("open files", warn("1024, may be 65536", "write into ~/.bashrc: ulimit -n 65536")),
        named("letters", ok("C.UTF-8")),
        named("file times", unknown("nothing can be written: Permission denied")),
    ],
    "compute": [
        named("job", ok("job 12 on n7, 31 s from submission to answer")),
        named("gpu", ok("4 x NVIDIA A100-SXM4-40GB, driver 535.104.05")),
        named("open files", warn("2048, may be 65536", "write into ~/.bashrc: ulimit -n 65536")),
        named("letters", ok("C.UTF-8")),
    ],
}


@pytest.mark.parametrize("width", [80, 120])
def test_the_table(width: int) -> None:
    path = GOLDEN / f"doctor-{width}.txt"
    told = table(COLUMNS, width=width) + "\n"
    assert max(len(line) for line in told.splitlines()) <= width
    assert told == path.read_text(), f"if this is meant: print the table into {path}"


def test_what_counts_as_broken() -> None:
    assert broken(COLUMNS) and not broken({"here": COLUMNS["compute"]})


def test_a_check_cannot_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "AT_ONCE", 2)
    free = threading.Event()

    def hangs(m: Machine) -> Finding:
        free.wait(60)
        return ok("too late")

    def fails(m: Machine) -> Finding:
        raise RuntimeError("https://host/x?sig=secret is away")

    # each limit is ten times as long with the patience of a machine that is made up
    listed = [Check("hangs", hangs, limit_s=0.2), Check("too", hangs, limit_s=0.3), Check("fails", fails)]
    found = examine(
        made(tmp_path), [*listed, Check("works", lambda m: ok("fine")), Check("there", fails, ("compute",))]
    )
    free.set()
    assert [finding.name for finding in found] == ["hangs", "too", "fails", "works"]  # in their order
    assert [finding.status for finding in found] == ["unknown", "unknown", "unknown", "ok"]
    assert "no answer within 2 s" in found[0].told and "RuntimeError" in found[2].told
    assert "secret" not in found[2].told


def test_a_command_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    m = made(
        tmp_path,
        commands={"waits": f"/bin/sleep 600 >/dev/null 2>&1 & echo $! >{tmp_path}/child; echo began; wait"},
    )
    for timeout_s in (0.1, 1, 10):  # the first in which it comes to start the other
        answer = m.ask("waits", timeout_s=timeout_s)
        if "began" in answer.out:
            break
    assert answer.code is None and not answer.missing and "began" in answer.out
    assert f"no answer within {timeout_s * m.patience:g} s" in answer.err
    child = int((tmp_path / "child").read_text())
    wait_until(lambda: gone(child))
    assert m.ask("none").missing


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_no_command_outlives_the_doctor(number: signal.Signals, tmp_path: Path) -> None:
    """For real: the doctor is stopped while the scheduler's commands hang."""
    for name in ("sbatch", "squeue", "scontrol", "scancel", "sacct", "sinfo"):
        shim(tmp_path / "bin" / name, f"echo $$ >>{tmp_path}/asked; exec /bin/sleep 600")
    environ = {"HOME": str(tmp_path), "PATH": f"{tmp_path}/bin:/usr/bin:/bin"}
    command = [sys.executable, "-m", "glacierhpc", "doctor", "--patience", "100"]
    with subprocess.Popen(command, cwd=tmp_path, env=environ, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: (tmp_path / "asked").exists() and "\n" in (tmp_path / "asked").read_text())
        process.send_signal(number)
        assert "stopped" in process.communicate(timeout=120)[1] and process.returncode == 1
    for child in (tmp_path / "asked").read_text().split():
        wait_until(lambda child=child: gone(int(child)))  # type: ignore[misc]


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.05)


def gone(process: int) -> bool:
    stat = Path(f"/proc/{process}/stat")
    try:
        return " Z " in stat.read_text()
    except OSError:
        return True


def test_what_a_command_says_is_told_without_secrets_and_colours() -> None:
    said = "\x1b[31mFATAL:\x1b[0m https://user:secret@host/x?sig=secret\x07 is away"
    told = words_of(Answer(("x",), 1, err=said))
    assert "secret" not in told and told.isprintable() and told.endswith("is away")


def test_there_are_checks_for_both_kinds_of_machines() -> None:
    names = [check.name for check in CHECKS]
    assert len(set(names)) == len(names) >= 30
    assert {role for check in CHECKS for role in check.where} == {"login", "compute"}


@pytest.mark.parametrize("values", [{}, {"status": "great"}, {"status": ["ok"], "told": None}])
def test_nothing_is_taken_for_granted_of_another_machine(values: dict[str, Any]) -> None:
    assert read(values).status == "unknown"


@pytest.fixture
def doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Doctor:
    """Return a function that types the command, in an empty folder, with a few quick checks."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("GLACIERHPC_IMAGE", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(tmp_path)
    quick = {"slurm", "letters", "locks", "image", "archive", "run folder", "account"}
    monkeypatch.setattr(
        "glacierhpc.hpc.doctor.examine", _with([each for each in CHECKS if each.name in quick])
    )
    for name in ("sbatch", "squeue", "scontrol", "scancel"):
        shim(tmp_path / "bin" / name, says("slurm 23.02.1"))

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main(["doctor", *map(str, arguments)])
        told = capsys.readouterr()
        return int(end.value.code or 0), told.out, told.err

    return run


def _with(listed: list[Check]) -> Callable[[Machine], list[Finding]]:
    return lambda m: examine(m, listed)


def test_the_command_ends_well_where_nothing_is_broken(doctor: Doctor) -> None:
    code, out, _ = doctor()
    assert code == 0 and "Slurm 23.02.1" in out and "BROKEN" not in out
    code, out, _ = doctor("--json")
    told = json.loads(out.splitlines()[-1])
    assert told["ok"] is True and told["role"] == "login"
    assert {"name": "slurm", "status": "ok", "told": "Slurm 23.02.1", "fix": ""} in told["findings"]


def test_the_command_ends_with_1_where_something_is_broken(doctor: Doctor, tmp_path: Path) -> None:
    code, out, _ = doctor("--image", "none.sif", "--json")
    told = json.loads(out.splitlines()[-1])
    assert code == 1 and told["ok"] is False
    assert [each["name"] for each in told["findings"] if each["status"] == "fail"] == ["image"]
    code, out, _ = doctor("--site", "lumi")
    assert code == 1 and "who is billed" in out
    assert doctor("--site", "lumi", "--account", "project_1")[0] == 0


def test_the_image_that_is_typed_goes_before_others(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    def image(*arguments: str) -> str:
        told = json.loads(doctor(*arguments, "--json")[1].splitlines()[-1])
        return next(str(each["told"]) for each in told["findings"] if each["name"] == "image")

    assert "/s.sif is not there" in image("--set", "image=/s.sif")
    monkeypatch.setenv("GLACIERHPC_IMAGE", "/e.sif")
    assert "/e.sif is not there" in image("--set", "image=/s.sif")
    assert "t.sif is not there" in image("--set", "image=/s.sif", "--image", "t.sif")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("--site", "moon"), "'moon' is not known"), (("--set", "x=1"), "'x'"), (("none.yaml",), "none.yaml"),
     (("--kind", "fpga"), "fpga"), (("--here", "--compute"), "write one of them"), (("--wait", "-1"), "'--wait'"),
     (("--key", "none.pem"), "none.pem"), (("--patience", "0"), "patience")],
)  # fmt: skip
def test_wrong_input_is_2(doctor: Doctor, arguments: tuple[str, ...], words: str) -> None:
    code, _, err = doctor(*arguments)
    assert code == 2 and words in err


def test_a_configuration_says_where_runs_are_and_what_they_read(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text((ROOT / "configs" / "demo.yaml").read_text())
    code, out, _ = doctor("a.yaml", "--json", "--here")
    told = json.loads(out.splitlines()[-1])
    assert code == 0 and told["role"] == "compute"
    assert str(tmp_path) in next(each["told"] for each in told["findings"] if each["name"] == "run folder")


def test_nothing_heavy_is_imported_and_nothing_slow(tmp_path: Path) -> None:
    """All checks are asked; a Python that they start for what is heavy is one that fails at once."""
    code = (
        "import sys; sys.executable = '/bin/false'\n"
        "from glacierhpc import cli\n"
        "import glacierhpc.hpc.doctor.node, glacierhpc.hpc.doctor.table\n"
        "try: cli.main(['doctor', '--json'])\n"
        "except SystemExit: pass\n"
        "print(*sys.modules, sep='\\n', file=sys.stderr)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    told = json.loads(answer.stdout.splitlines()[-1])
    found = {each["name"]: each["status"] for each in told["findings"]}
    assert set(found) == {check.name for check in CHECKS if "login" in check.where}
    assert HEAVY & set(answer.stderr.split()) == set()


# --compute: the scheduler is a few lines of shell here, which runs the job at once; tests/cluster has a real one

QUEUED = 'case "$*" in *--test-only*) exit 0;; esac\n'
RUNS = """
for script; do :; done
folder=$(dirname "$script")
SLURM_JOB_ID=7 SLURM_SUBMIT_DIR=$PWD bash "$script" >"$folder/doctor-7.log" 2>&1 &
echo 7
"""


@pytest.fixture
def submits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, doctor: Doctor
) -> Callable[..., tuple[int, dict[str, Any]]]:
    """Return a function that looks at a compute node, by an sbatch and a glacierhpc of these texts."""
    monkeypatch.setattr(node, "ASK_S", (0.3, 0.5))
    monkeypatch.setattr(node, "SETTLE_S", 1.0)
    monkeypatch.setattr(node, "LOOK_S", 0.1)

    def run(
        sbatch: str, glacierhpc: str = "exit 0", state: str = "RUNNING", *more: str
    ) -> tuple[int, dict[str, Any]]:
        shim(tmp_path / "bin" / "sbatch", QUEUED + sbatch)
        shim(tmp_path / "bin" / "glacierhpc", glacierhpc)
        shim(tmp_path / "bin" / "sacct", says(f"7|{state}|0:0") if state else "exit 1")
        shim(tmp_path / "bin" / "squeue", says(f"7|{state}|Resources") if state == "PENDING" else "exit 0")
        shim(tmp_path / "bin" / "scontrol", "exit 1")
        shim(tmp_path / "bin" / "scancel", f'echo "$*" >>{tmp_path}/cancelled')
        code, out, err = doctor("--compute", "--json", *more)
        assert "waiting for its start" in err or "could not be submitted" in out or "would write" in out
        return code, json.loads(out.splitlines()[-1])

    return run


def found_by(told: dict[str, Any], name: str) -> dict[str, str]:
    return next(each for each in told["compute"]["findings"] if each["name"] == name)


def test_a_node_is_looked_at_by_a_job(submits: Any, tmp_path: Path) -> None:
    quick = "import sys; sys.executable = '/bin/false'; from glacierhpc.cli import main; main()"
    real = (
        f'echo "a banner of the site"; echo "$*" >{tmp_path}/words\nexec {sys.executable} -c "{quick}" "$@"'
    )
    code, told = submits(RUNS, real, "RUNNING", "--set", "interface=lo")
    assert found_by(told, "job")["told"].startswith("job 7 on ")
    for name in ("node to login", "login to node", "clock of the node", "locks between nodes", "interface"):
        assert found_by(told, name)["status"] == "ok", found_by(told, name)
    assert found_by(told, "python")["status"] == "fail"  # of the node, though it is fine here
    words = (tmp_path / "words").read_text().split()
    assert words[:4] == ["doctor", "--here", "--json", "--meet"] and "interface=lo" in words
    assert not list(tmp_path.glob(".glacierhpc-doctor-*")) and not (tmp_path / "cancelled").exists()


def test_a_job_that_does_not_start_is_cancelled(submits: Any, tmp_path: Path) -> None:
    code, told = submits("echo 7", "exit 0", "PENDING", "--wait", "0.02")
    job = found_by(told, "job")
    assert job["status"] == "unknown" and "pending (Resources)" in job["told"] and "--wait" in job["fix"]
    assert (tmp_path / "cancelled").read_text() == "7\n" and not list(tmp_path.glob(".glacierhpc-doctor-*"))


def test_a_job_that_says_nothing_is_told_with_its_last_words(submits: Any, tmp_path: Path) -> None:
    broken = complains("glacierhpc: cannot open shared object", 127)
    ended = RUNS.replace(" &\n", "\n")  # before anybody looks
    code, told = submits(ended, broken, "FAILED", "--set", "image=/x.sif", "--kind", "gpu")
    job = found_by(told, "job")
    assert code == 1 and job["status"] == "fail" and "cannot open shared object" in job["told"]
    (kept,) = tmp_path.glob(".glacierhpc-doctor-*")
    assert str(kept) in job["fix"] and kept.stat().st_mode & 0o077 == 0
    script = (kept / "doctor.sbatch").read_text()
    # it looks at the image from outside, and is not asked to stop as soon as it starts
    assert 'default_image=""' in script and "#SBATCH --export=ALL,GLACIERHPC_IMAGE=\n" in script
    assert "#SBATCH --time=00:06:00" in script and "#SBATCH --signal=B:USR2@60" in script
    assert "--gres=gpu:1" in script and json.loads((kept / "host.json").read_text())["word"] not in script


def test_a_job_that_is_refused_is_told(submits: Any, tmp_path: Path) -> None:
    code, told = submits(complains("sbatch: error: Invalid account"), "exit 0", "")
    assert code == 1 and "Invalid account" in found_by(told, "job")["told"]
    assert not list(tmp_path.glob(".glacierhpc-doctor-*"))


def test_a_full_disk_is_a_finding(tmp_path: Path) -> None:
    """For real: the folder for the job can be made, and nothing written into it."""
    (tmp_path / "small").mkdir()
    code = f"""
from pathlib import Path
from glacierhpc.hpc.doctor import Machine, node
report = node.examine_node(Machine(host='localhost', folder=Path('{tmp_path}/small')), [])
print(report.findings[0].status, report.findings[0].told, *Path('{tmp_path}/small').iterdir())
"""
    full = f"mount -t tmpfs -o size=16k none '{tmp_path}/small' && head -c 16k /dev/zero >'{tmp_path}/small/fill'"
    said = in_namespace(full, code)
    assert said.startswith("fail ") and "full" in said and said.endswith(f"{tmp_path}/small/fill\n"), said


def test_what_was_found_here_is_shown_though_no_job_can_write(
    submits: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    def refused(**given: object) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tempfile.mkdtemp", refused)
    code, told = submits(RUNS)
    assert code == 1 and "No space left" in found_by(told, "job")["told"]
    assert {"letters": "ok"}.items() <= {each["name"]: each["status"] for each in told["findings"]}.items()


@pytest.mark.parametrize(
    ("ahead_s", "blur_s", "status"),
    [(0.3, 0, "ok"), (-20, 0, "warn"), (20, 0, "warn"), (300, 0, "fail"), (-20, 30, "ok")],
)
def test_clocks(ahead_s: float, blur_s: float, status: str) -> None:
    assert node.clock(ahead_s, blur_s).status == status
