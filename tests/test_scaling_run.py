"""The scaling benchmark runs from end to end, on real workers and ranks of this machine, and refuses what cannot be."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "benchmarks" / "scaling.py"


def run(*options):
    """Run the benchmark outside of any job."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, options)],
        capture_output=True,
        text=True,
        check=False,
        env={**outside, "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    names = {
        "main": "scaling",
        "launch": "scaling_launch",
        "result": "scaling_result",
        "schema": "scaling_schema",
        "train": "scaling_train",
        "watch": "scaling_watch",
    }
    return SimpleNamespace(**{name: importlib.import_module(full) for name, full in names.items()})


def checked(bench, done):
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    details = bench.schema.Details.model_validate(told["details"])
    assert told["benchmark"] == "scaling" and told["machine"]["cores"] >= 1
    assert told["rows"] and (details.cores == 1 or any(row["in_readme"] for row in told["rows"]))
    assert all(p.oversubscribed == (p.workers > p.details["cores"]) for p in details.points)
    assert all(sum(p.split.values()) == pytest.approx(1) for p in details.points)
    assert details.projection.projection and details.load_average["before"] >= 0
    return told, details


@pytest.mark.slow
def test_every_step_is_measured_drawn_and_compared_with_an_earlier_run(bench, tmp_path):
    places = ("--output", tmp_path / "x.json", "--plots", tmp_path / "plots")
    told, details = checked(bench, run("--quick", "--json", *places))
    assert json.loads((tmp_path / "x.json").read_text()) == told
    assert len(details.points) == 4 * 2 * 2
    found = [p for p in details.points if (p.step, p.mode) == ("acquire", "strong")]
    assert [(p.workers, p.work) for p in found] == [(1, 6), (2, 6)]
    (stage,) = found[0].details["stages"]
    assert stage["tasks"] == 6 * 4 and stage["bytes"] > 1000  # three bands and the end of each scene
    assert details.words[0] == bench.result.QUICK in (tmp_path / "plots" / "scaling.html").read_text()
    assert {(v.step, v.workers) for v in details.validation if v.calibrated_on} == {
        (step, 1) for step in bench.main.STEPS
    }
    assert {row.step for row in details.projection.rows} <= set(bench.main.STEPS)
    again = run("--quick", "--json", "--what", "sequences", "--against", tmp_path / "x.json")
    told, details = checked(bench, again)
    assert len(details.comparison.rows) == 4
    assert {row.verdict for row in details.comparison.rows} == {"not told apart"}  # of two repeats
    assert told["conditions"] in " ".join(details.comparison.differences)


ENDED = """
import sys, time
sys.path.insert(0, sys.argv[1])
import scaling, scaling_measure
scaling.environment = lambda folder: {}  # who works on the code may commit between two runs
if sys.argv[2] == "hangs":
    hangs = lambda workers, *_: workers.submit(time.sleep, 3600).result()
    scaling_measure.WORKS["align"] = scaling_measure.WORKS["align"].__class__("scenes", hangs)
sys.argv = ["scaling.py", *sys.argv[3:]]
scaling.main()
"""


@pytest.mark.slow
def test_a_run_that_is_ended_leaves_its_points_and_nothing_else_and_is_gone_on_with(bench, tmp_path):
    """Ended as by `timeout`, all its processes at once, while the second step runs on two workers for ever."""
    file, scratch = tmp_path / "x.json", tmp_path / "scratch"
    asked = ("--quick", "--mode", "strong", "--what", "acquire,align", "--output", file, "--scratch", scratch)
    script = [sys.executable, "-c", ENDED, str(ROOT / "benchmarks")]
    words = [*script, "hangs", *map(str, asked)]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        while not file.exists():
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        started = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGTERM)
        said = process.communicate(timeout=300)[1]
    assert process.returncode == 143 and len(started) > 2
    assert (
        said.splitlines()[-1].startswith("ended by SIGTERM before all was measured")
        and "Traceback" not in said
    )
    psutil.wait_procs(started, timeout=300)
    assert not list(scratch.iterdir())
    kept = bench.schema.Details.model_validate(json.loads(file.read_text())["details"])
    assert [(p.step, p.workers) for p in kept.points] == [("acquire", 1), ("acquire", 2)]
    assert kept.missing == ["align, strong, 1 workers", "align, strong, 2 workers"]
    words = [*script, "ends", "--json", *map(str, asked)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert "2 of 4 points are measured" in done.stderr
    _, whole = checked(bench, done)
    assert [p.step for p in whole.points] == ["acquire"] * 2 + ["align"] * 2 and not whole.missing
    assert [p.seconds for p in whole.points[:2]] == [p.seconds for p in kept.points]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["ddp", "horovod"])
def test_ranks_tell_what_they_did_alone_and_together(bench, tmp_path, backend, monkeypatch):
    if backend == "horovod" and importlib.util.find_spec("horovod") is None:
        pytest.skip("Horovod is not installed; build it with: make horovod")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    launcher = {"ddp": "torchrun", "horovod": "horovodrun"}[backend]
    work = bench.train.Training(batch=4, steps=3, size_px=16, repeats=2)
    works = [work, bench.train.Training(batch=4, steps=3, size_px=16, budget_s=1e-3)]
    told = bench.train.train(2, works, tmp_path, backend=backend, launcher=launcher)
    trained, timed = told.trained
    assert told.ranks == 2 and len(trained.seconds) == 2 and len(trained.alone_s) == 2
    assert len(timed.seconds) == bench.train.LEAST == len(timed.alone_s[1])  # no time is left for more
    assert len(trained.step_s) == 2 * 2  # the first step of each epoch has no beginning
    assert all(seconds > 0 for _, seconds in told.exchanges)
    assert told.gradient_bytes in {size for size, _ in told.exchanges}
    assert sum(trained.split().values()) == pytest.approx(1)


def test_ranks_that_fail_or_hang_are_told_with_their_words(bench, tmp_path, monkeypatch):
    ends = [sys.executable, "-c", "raise SystemExit('no seat')"]
    monkeypatch.setattr(bench.launch, "words_of", lambda *_: ends)
    work = bench.train.Training(batch=4, steps=3, size_px=16, repeats=2)
    with pytest.raises(bench.main.GlacierError, match="(?s)2 ranks ended with code 1.*no seat"):
        bench.train.train(2, [work], tmp_path, backend="ddp", launcher="torchrun")

    def hangs(command, log, environment, limit_s):
        log.write("waits for nodes")
        raise subprocess.TimeoutExpired(command, limit_s)

    monkeypatch.setattr(bench.launch, "run", hangs)
    with pytest.raises(bench.main.GlacierError, match="(?s)did not end in 3600 s.*waits for nodes"):
        bench.train.train(2, [work], tmp_path, backend="ddp", launcher="torchrun")


def test_horovods_ranks_may_come_late_and_by_srun_meet_at_a_server(bench, monkeypatch):
    limit = "HOROVOD_GLOO_TIMEOUT_SECONDS"
    for name in (limit, "HOROVOD_GLOO_IFACE", "SLURMD_NODENAME"):
        monkeypatch.delenv(name, raising=False)
    for launcher, backend, expected in (("srun", "ddp", {}), ("pmix", "horovod", {limit: "300"})):
        with bench.launch.meeting(launcher, backend) as told:
            assert told == expected
    monkeypatch.setenv(limit, "400")
    with bench.launch.meeting("srun", "horovod") as told:
        host = told["HOROVOD_GLOO_RENDEZVOUS_ADDR"].partition(":")[0]
        place = (host, int(told["HOROVOD_GLOO_RENDEZVOUS_PORT"]))
        socket.create_connection(place, timeout=60).close()
        assert told["HOROVOD_CONTROLLER"] == "gloo" and told[limit] == "400"


def test_neither_launcher_nor_ranks_outlive_an_end_by_signal(bench, tmp_path, monkeypatch):
    """A launcher of our own, which ends its rank when it is asked to, as torchrun does; killed, it could not."""
    rank = f"import os, time; open({str(tmp_path / 'rank')!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    launcher = (
        "import os, signal, subprocess, sys\n"
        "signal.signal(signal.SIGTERM, lambda *_: (rank.kill(), os.waitpid(rank.pid, 0), sys.exit(1)))\n"
        f"rank = subprocess.Popen([sys.executable, '-c', {rank!r}], start_new_session=True)\n"
        "while True: signal.pause()\n"
    )

    def asked_to_end(process, _):
        while not (tmp_path / "rank").exists() or not (tmp_path / "rank").read_text():
            assert process.poll() is None
            time.sleep(0.02)
        monkeypatch.undo()
        raise SystemExit(143)

    monkeypatch.setattr(subprocess.Popen, "wait", asked_to_end)
    with (tmp_path / "log").open("w") as log, pytest.raises(SystemExit):
        bench.launch.run([sys.executable, "-c", launcher], log, dict(os.environ), 600)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "rank").read_text()), 0)


def test_the_split_of_a_training_adds_up(bench):
    trained = bench.train.Trained((10.0, 10.0), ((6.0, 6.0), (8.0, 8.0)), 0.25, (0.1,))
    assert trained.split() == pytest.approx(
        {"compute": 0.7 * 0.75, "data_wait": 0.7 * 0.25, "idle": 0.1, "communication": 0.2}
    )
    noisy = bench.train.Trained((10.0,), ((11.0,),), 0.0, (0.1,))  # alone it was slower, on a busy machine
    assert noisy.split() == pytest.approx({"compute": 1, "data_wait": 0, "idle": 0, "communication": 0})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--what", "acqire"), "did you mean 'acquire'"),
        (("--mode", "strang"), "did you mean 'strong'"),
        (("--repeats", "2"), "give 3 or more"),
        (("--workers", "1,two"), "no list of numbers"),
        (("--workers", "0,2"), "give 1 or more"),
        (("--minutes", "nan"), "--minutes nan: give a number above 0"),
        (("--steps", "1"), "give 2 or more"),
        (("--scenes", "0"), "--scenes 0: give 1 or more"),
        (("--assume", "queue_s"), "no number"),
        (("--delay-s", "-1"), "give 0 or more seconds"),
        (("--output", "/dev/null/x.json"), "--output: nothing can be written to '/dev/null'"),
        (("--plots", "/dev/null"), "--plots: nothing can be written"),
        (("--scratch", "/dev/null"), "--scratch: nothing can be written"),
        (("--output", "/"), "'/' is a folder"),
        (("--against", "nowhere.json"), "no result of this benchmark"),
        (("--image", "x.sif", "--what", "align"), "give --cluster jobqueue or allocation"),
        (("--image", "x.sif", "--cluster", "jobqueue"), "--what without train"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_measured(bench, monkeypatch, capsys, options, said):
    monkeypatch.setattr(sys, "argv", ["scaling.py", *options])
    monkeypatch.setattr(bench.main, "measure", lambda _: pytest.fail("measured all the same"))
    with pytest.raises(SystemExit) as ended:
        bench.main.main()
    assert ended.value.code == 2 and said in capsys.readouterr().err


@pytest.fixture
def job(bench, monkeypatch):
    """A job of two nodes with three tasks each, as far as its variables go."""
    monkeypatch.setattr(bench.launch.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(bench.launch.importlib.util, "find_spec", lambda name: name)
    for name, value in (("SLURM_JOB_ID", 17), ("SLURM_JOB_NUM_NODES", 2), ("SLURM_NTASKS", 6)):
        monkeypatch.setenv(name, str(value))


def planned(bench, monkeypatch, *options):
    monkeypatch.setattr(sys, "argv", ["scaling.py", *options])
    return bench.main.plan_of(bench.main.asked_for())


def test_a_job_decides_on_workers_and_launcher(bench, monkeypatch, job):
    plan = planned(bench, monkeypatch)
    assert (plan.cluster, plan.counts, plan.scratch) == ("allocation", (1, 2, 4), Path.cwd())
    assert plan.launcher == "srun" == planned(bench, monkeypatch, "--backend", "horovod").launcher
    monkeypatch.delenv("SLURM_JOB_ID")
    monkeypatch.delenv("SLURM_NTASKS")
    plan = planned(bench, monkeypatch)
    assert (plan.cluster, plan.counts[0], plan.scratch, plan.launcher) == ("local", 1, None, "torchrun")
    assert planned(bench, monkeypatch, "--backend", "horovod").launcher == "horovodrun"
    assert planned(bench, monkeypatch, "--what", "align").launcher == ""


@pytest.mark.parametrize(
    ("launcher", "said"),
    [
        ("srun", ["srun", "--mpi=none", "--nodes=2", "--ntasks=4", "--ntasks-per-node=2"]),
        ("pmix", ["srun", "--mpi=pmix", "--nodes=2", "--ntasks=4", "--ntasks-per-node=2"]),
        ("mpirun", ["mpirun", "--bind-to", "none", "--map-by", "ppr:2:node:oversubscribe", "-np", "4"]),
    ],
)
def test_ranks_fill_one_node_after_the_other_as_many_on_each(bench, job, launcher, said):
    assert bench.launch.words_of(launcher, "horovod", 4)[: len(said)] == said
    assert [bench.launch.nodes_for(ranks, "horovod") for ranks in (1, 2, 3, 4, 6)] == [1, 1, 1, 2, 2]
    assert bench.launch.nodes_for(5, "ddp") == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--workers", "1,7"), "--workers 7: the job has 6 tasks"),
        (("--workers", "1,5", "--backend", "horovod"), "as many ranks on one node as on the other"),
        (("--launcher", "pmix"), "does not join ranks by ddp: give one of torchrun, srun"),
        (("--launcher", "mpirun", "--backend", "horovod"), "needs mpirun, which is not here"),
        (("--backend", "horovod"), "build it with `make horovod`"),
    ],
)
def test_ranks_that_cannot_be_started_are_refused_before_all_else(bench, monkeypatch, job, options, said):
    if "mpirun" in said:
        monkeypatch.setattr(bench.launch.shutil, "which", lambda name: name if name == "srun" else None)
    if "make horovod" in said:
        monkeypatch.setattr(bench.launch.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(bench.main.InputError, match=re.escape(said)):
        planned(bench, monkeypatch, *options)


def test_srun_needs_a_job(bench, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(bench.main.InputError, match="this is none: submit it, or give torchrun"):
        planned(bench, monkeypatch, "--launcher", "srun")
