"""Job scripts of workers: every word reaches the worker as it was written, whatever is in it, on five batch systems."""

from __future__ import annotations

import asyncio
import shutil
import stat
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from distributed import Security
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glacierhpc.errors import InputError
from glacierhpc.hpc.cluster import WorkerJobs, worker_script
from glacierhpc.hpc.cluster.queues import HTCondorJob, LSFJob, PBSJob, SGEJob, SLURMJob
from glacierhpc.hpc.cluster.script import step_script
from glacierhpc.hpc.cluster.wish import SCHEDULERS, Worker
from glacierhpc.hpc.site import Site
from tests.conftest import ROOT

GOLDEN = ROOT / "tests" / "golden"
HOSTILE = st.text(
    st.sampled_from(list("ab/.:;|&$()`'\"\\*?[]{}<>#%!~= -é")) | st.characters(codec="utf-8", min_codepoint=33),
    min_size=1,
).filter(lambda text: not any(ord(letter) < 32 or letter in "\x7f\x85\u2028\u2029" for letter in text))  # fmt: skip
JOBS = WorkerJobs(
    site=Site(account="project_1", interface="ib0"), cpus=2, hours=2, folder=Path("/scratch/run")
)


@pytest.fixture(scope="module")
def printer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that says which words it was called with, in the place of Python; nothing else can show them."""
    path = tmp_path_factory.mktemp("p") / "py thon;$(touch X)"
    path.write_text("#!/bin/sh\nprintf '%s\\0' \"$@\"\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def called_with(script: str, folder: Path) -> list[str]:
    checked = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False)
    assert checked.returncode == 0, checked.stderr
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
        env={"TMPDIR": "/t m p"},
    )
    return done.stdout.split("\0")[:-1]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=HOSTILE, other=HOSTILE)
@pytest.mark.parametrize("job_class", [SLURMJob, PBSJob, LSFJob, SGEJob])
def test_no_word_of_a_worker_is_the_shell_s(
    job_class: type, text: str, other: str, printer: Path, tmp_path: Path
) -> None:
    options = {"lsf_units": "mb", "use_stdin": True} if job_class is LSFJob else {}
    security = Security(tls_ca_file=f"/{text}/ca", tls_worker_cert=f"/{other}/cert", tls_worker_key=text)
    job = job_class(
        f"tls://{other}", name=other.replace("$", ""), cores=1, memory="1GiB", processes=1, python=str(printer),
        interface=text, security=security, worker_extra_args=["--preload", text, other], local_directory="$TMPDIR",
        **options,
    )  # fmt: skip
    words = called_with(job.job_script(), tmp_path)
    assert words[:5] == [
        "-m",
        "distributed.cli.dask_worker",
        f"tls://{other}",
        "--name",
        other.replace("$", ""),
    ]
    at = words.index("--preload")
    assert words[at : at + 5] == ["--preload", text, other, "--interface", text]
    assert words[at + 5 :] == [
        "--tls-ca-file",
        f"/{text}/ca",
        "--tls-cert",
        f"/{other}/cert",
        "--tls-key",
        text,
    ]
    assert words[words.index("--local-directory") + 1] == "/t m p"
    assert list(tmp_path.iterdir()) == []


def condor_words(script: str) -> list[str]:
    """Read the arguments of a submit file by the rules of its manual: macros, doubled quotes, quoted blanks."""
    (line,) = (each for each in script.splitlines() if each.startswith("Arguments = "))
    text = line.partition(" = ")[2][1:-1].replace("$(DOLLAR)", "$").replace('""', '"')
    words, quoted, at = [""], False, 0
    while at < len(text):
        if text[at] == "'" and quoted and text[at + 1 : at + 2] == "'":
            words[-1] += "'"
            at += 1
        elif text[at] == "'":
            quoted = not quoted
        elif text[at] == " " and not quoted:
            words.append("")
        else:
            words[-1] += text[at]
        at += 1
    return words


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=HOSTILE, other=HOSTILE)
def test_nor_is_it_on_htcondor(text: str, other: str, printer: Path, tmp_path: Path) -> None:
    job = HTCondorJob(
        "tls://x", name="w", cores=1, memory="1GiB", processes=1, disk="1GiB", python=str(printer),
        worker_extra_args=["--preload", text, other], local_directory="$TMPDIR",
    )  # fmt: skip
    flag, script = condor_words(job.job_script())
    assert flag == "-c" and job.executable == "/bin/sh"
    words = called_with(script, tmp_path)
    assert words[words.index("--preload") :][:3] == ["--preload", text, other]
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=HOSTILE, other=HOSTILE)
def test_no_value_of_a_site_is_the_shell_s(text: str, other: str, printer: Path, tmp_path: Path) -> None:
    jobs = replace(
        JOBS, site=Site(account=text, interface=other, environment={"A_B": text}), options={"comment": other}
    )
    script = worker_script(jobs=replace(jobs, folder=tmp_path / text.strip("/.\0").replace("\\", "")))
    program = next(line for line in script.splitlines() if "dask_worker" in line).partition(" -m ")[0]
    words = called_with(script.replace(program, f"'{printer}'"), tmp_path)
    assert words[words.index("--interface") + 1] == other
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", ["account", "queue", "job_name", "walltime", "job_extra_directives"])
@pytest.mark.parametrize("line_break", ["\n", "\r", "\u2028"])
def test_a_line_break_in_a_header_is_refused(key: str, line_break: str) -> None:
    value = f"a{line_break}rm -rf ~"
    with pytest.raises(InputError, match="line break"):
        SLURMJob("tls://x", cores=1, memory="1GB", **{key: [value] if key.endswith("s") else value})


@pytest.mark.parametrize("scheduler", ["pbs", "lsf", "sge"])
def test_batch_systems_without_quotes_take_plain_words_only(scheduler: str) -> None:
    with pytest.raises(InputError, match="knows no quotes"):
        worker_script(jobs=replace(JOBS, scheduler=scheduler, site=Site(account="a; rm -rf ~")))


def test_an_unknown_batch_system_names_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'slurm'"):
        worker_script(jobs=replace(JOBS, scheduler="slrum"))


@pytest.fixture
def golden_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The same program, folder and units wherever the test runs."""
    monkeypatch.setattr("sys.executable", "/opt/python/bin/python")
    monkeypatch.chdir("/")
    monkeypatch.setenv("LSF_ENVDIR", str(tmp_path))


@pytest.mark.usefixtures("golden_python")
@pytest.mark.parametrize("image", [False, True])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_the_script_of_a_worker_is_the_stored_one(scheduler: str, image: bool) -> None:
    """After a change on purpose: write the new ones with `UPDATE = True`."""
    site = Site(account="project_1", interface="ib0", use={"cpu": "long"}, modules=("tools",), scratch="/local/$USER",
                binds=("/scratch/$PROJECT",), image="/images/deep learning.sif" if image else None)  # fmt: skip
    jobs = replace(JOBS, site=site, scheduler=scheduler)
    text = worker_script(cores=8, memory_gb=2.5, jobs=jobs)
    path = GOLDEN / f"worker-{scheduler}{'-image' if image else ''}.txt"
    if UPDATE:
        path.write_text(text)
    assert text == path.read_text()


UPDATE = False


@pytest.mark.usefixtures("golden_python")
@pytest.mark.parametrize("image", [None, "/a b;c.sif"])
def test_scripts_please_shellcheck(image: str | None, tmp_path: Path) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed here")
    site = replace_site(image=image, modules=("a b",), environment={"X": "$(x)"})
    jobs = replace(JOBS, site=site, folder=Path("/a b/$(x)'\"é"))
    scripts = [
        worker_script(jobs=jobs),
        "#!/bin/bash\n" + step_script(Worker(1, 512, jobs), "tls://x", "w", None, ["/a b"]),
    ]
    for number, script in enumerate(scripts):
        path = tmp_path / f"{number}.sh"
        path.write_text(script)
        done = subprocess.run(
            ["shellcheck", "-e", "SC2016", str(path)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout


def replace_site(**values: object) -> Site:
    return Site.model_validate({"account": "p", "interface": "ib0", **values})


@pytest.mark.parametrize(
    ("memory", "line"),
    [("mem", "#SBATCH --mem=2560M"), ("mem-per-cpu", "#SBATCH --mem-per-cpu=1280M"), ("none", None)],
)
def test_memory_is_asked_for_as_the_site_wants_it(memory: str, line: str | None) -> None:
    script = worker_script(memory_gb=2.5, jobs=replace(JOBS, site=replace_site(memory=memory)))
    found = [each for each in script.splitlines() if "--mem" in each and each.startswith("#SBATCH")]
    assert found == ([line] if line else [])
    assert "#SBATCH --ntasks=1" in script and "--memory-limit 2560MiB" in script


def test_a_worker_ends_before_its_job_does() -> None:
    for hours in (0.02, 0.1, 1, 48):
        lifetime_s, stagger_s = Worker(1, 512, replace(JOBS, hours=hours)).lifetime_s
        assert 0 < lifetime_s + stagger_s < hours * 3600


def test_nodes_without_a_disk_spill_nothing() -> None:
    assert "MEMORY__SPILL" not in worker_script(jobs=JOBS)
    script = worker_script(jobs=replace(JOBS, site=replace_site(diskless=True)))
    assert "export DASK_DISTRIBUTED__WORKER__MEMORY__SPILL=False" in script


def test_no_page_of_a_worker_is_for_the_network() -> None:
    assert "--dashboard-address 127.0.0.1:0 --no-dashboard" in worker_script(jobs=JOBS)


def test_a_banner_is_not_taken_for_the_number_of_a_job() -> None:
    job = SLURMJob("tls://x", cores=1, memory="1GB")
    assert job._job_id_from_submit_output("Welcome to node 12\n4711;cluster\n2 messages\n") == "4711"


def test_commands_of_the_scheduler_do_not_see_the_surrounding_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("SBATCH_ACCOUNT", "x")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    said = asyncio.run(PBSJob._call(["env"]))
    assert [line for line in said.splitlines() if line.startswith("S") and "BATCH" in line or "SLURM_" in line] == [
        "SLURM_CONF=/etc/slurm.conf", "SLURM_TIME_FORMAT=standard",
    ]  # fmt: skip


def test_the_log_of_a_worker_is_where_it_is_looked_for_whatever_the_folder_is_called() -> None:
    script = worker_script(jobs=replace(JOBS, folder=Path("/a b/100%;$(x)")))
    assert "#SBATCH --output='/a b/100%%;$(x)/logs/worker-%j.log'" in script.splitlines()
    with pytest.raises(InputError, match="backslash"):
        worker_script(jobs=replace(JOBS, folder=Path("/a\\b")))


@pytest.mark.parametrize("scheduler", ["pbs", "lsf", "sge"])
def test_a_folder_of_logs_that_cannot_stand_in_a_script_is_refused_by_a_dry_run_too(scheduler: str) -> None:
    with pytest.raises(InputError, match="log_directory '/a b/logs' cannot stand"):
        worker_script(jobs=replace(JOBS, scheduler=scheduler, folder=Path("/a b")))


def test_a_dry_run_leaves_nothing_behind(tmp_path: Path) -> None:
    worker_script(jobs=replace(JOBS, folder=tmp_path / "run"))
    assert list(tmp_path.iterdir()) == []
