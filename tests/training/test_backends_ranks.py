"""Two processes that train together get what one gets, by torch.distributed and by Horovod, and end together.

Each launcher is started once for all its scenarios (see ranks.py); in the last one a rank fails, which must end all.
"""

import functools
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from glacierhpc.training.distributed import Single
from tests.training import ranks

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = Path(sys.executable).parent
TIMEOUT_S = 600
"""For a launch on a busy machine; many times what one takes on an idle one."""

TRAINED = ("plain", "sgd", "clipped", "accumulated")
SHARED = ("exchange", *TRAINED, "channels_last", "stopped", "resumed", "resumed_from_one")
PLACES = {
    "torchrun": ("ddp", (*SHARED, "normalised")),
    "horovodrun": (
        "horovod",
        (*SHARED, "normalised", "passes", "more_passes", "compressed", "overflowed", "adasum"),
    ),
    "mpirun": ("horovod", ("exchange", "ddp_too", "plain", "clipped", "adasum", "adasum_accumulated")),
}
LOADED = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"}


@functools.cache
def horovod_is_there(mpi: bool) -> str:
    """Return why Horovod cannot be tested, or nothing."""
    if importlib.util.find_spec("horovod") is None:
        return "Horovod is not installed; build it with: make horovod"
    if mpi:
        with warnings.catch_warnings(action="ignore"):
            import horovod.torch as hvd
        if not hvd.mpi_built() or shutil.which("mpirun") is None:
            return "Horovod is built without MPI; install OpenMPI (openmpi-bin, libopenmpi-dev), then: make horovod"
    return ""


def command(launcher: str, backend: str, folder: Path, scenarios: tuple[str, ...]) -> list[str]:
    script = [str(ROOT / "tests/training/ranks.py"), backend, str(folder), *scenarios]
    if launcher == "torchrun":
        return [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "2",
            *script,
        ]
    if launcher == "horovodrun":
        return [
            str(PROGRAMS / "horovodrun"),
            "--gloo",
            "--start-timeout",
            str(TIMEOUT_S),
            "-np",
            "2",
            sys.executable,
            *script,
        ]
    # root: in containers; the rest: two ranks on any machine, without a network
    options = [
        "--oversubscribe",
        "--bind-to",
        "none",
        *(["--allow-run-as-root"] if os.geteuid() == 0 else []),
    ]
    return ["mpirun", *options, "-np", "2", sys.executable, *script]


def launch(launcher: str, folder: Path, scenarios: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """Run the scenarios on two ranks, and leave no process behind."""
    if reason := launcher != "torchrun" and horovod_is_there(launcher == "mpirun"):
        pytest.skip(reason)
    environment = {name: value for name, value in os.environ.items() if name not in LOADED}
    environment |= {"OMP_NUM_THREADS": "1", "OMPI_MCA_btl_vader_single_copy_mechanism": "none"}
    environment["HOROVOD_GLOO_TIMEOUT_SECONDS"] = str(TIMEOUT_S)
    environment["OMPI_MCA_mpi_yield_when_idle"] = "1"  # more ranks than idle cores
    line = command(launcher, PLACES[launcher][0], folder, scenarios)
    process = subprocess.Popen(
        line,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        out, _ = process.communicate(timeout=TIMEOUT_S)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return subprocess.CompletedProcess(line, process.returncode, out)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """One process: the results of the scenarios, and the folder with the checkpoints."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("one")
    with torch.random.fork_rng():
        results = {name: ranks.run(Single("cpu"), name, folder) for name in (*TRAINED, "stopped")}
    torch.set_num_threads(threads)
    return results, folder


@pytest.fixture(scope="module")
def together(alone, tmp_path_factory):
    """Return what both ranks got under a launcher, by scenario; each launcher runs once."""

    @functools.cache
    def started(launcher):
        folder = tmp_path_factory.mktemp(launcher)
        shutil.copytree(alone[1] / "checkpoints-stopped", folder / "checkpoints-one")
        scenarios = PLACES[launcher][1]
        answer = launch(launcher, folder, (*scenarios, "failed"))
        files = {name: [folder / f"{name}.{rank}.pt" for rank in (0, 1)] for name in scenarios}
        assert all(path.is_file() for pair in files.values() for path in pair), answer.stdout[-4000:]
        results = {
            name: [torch.load(path, weights_only=True) for path in pair] for name, pair in files.items()
        }
        return folder, results, answer

    return started


CASES = [
    (launcher, scenario)
    for launcher, (_, scenarios) in PLACES.items()
    for scenario in scenarios
    if scenario in TRAINED
]


def distance(result, expected):
    return float((result["weights"] - expected["weights"]).abs().max())


@pytest.mark.parametrize(("launcher", "scenario"), CASES)
def test_two_ranks_learn_what_one_learns(alone, together, launcher, scenario):
    expected, results = alone[0][scenario], together(launcher)[1][scenario]
    assert torch.equal(results[0]["weights"], results[1]["weights"])
    for result in results:
        torch.testing.assert_close(result["losses"], expected["losses"], rtol=0, atol=1e-5)
    # Adam divides by the gradient's own size: where that is rounding, a step is not, and can be of learning_rate
    assert distance(results[0], expected) < (
        1e-6 if scenario != "plain" else 0.05 * ranks.COMMON["learning_rate"]
    )


def test_options_make_a_difference(alone):
    # else the equalities above would say little
    assert distance(alone[0]["clipped"], alone[0]["sgd"]) > 1e-3
    assert alone[0]["plain"]["losses"][1][0] < 0.9 * alone[0]["plain"]["losses"][0][0]


@pytest.mark.parametrize(
    ("launcher", "scenario"),
    [*((launcher, "exchange") for launcher in PLACES), ("mpirun", "ddp_too")],
)
def test_what_crosses_between_ranks(together, launcher, scenario):
    for rank, got in enumerate(together(launcher)[1][scenario]):
        assert got == {
            "gathered": [[0, 1], [10, 11, 12]],
            "sum": [[3.0] * 3] * 2,
            "scalar": 5.0,
            "any": [False, True, True],
            "place": [rank, 2],
            "momentum": [3.0, 3.0],
        }


@pytest.mark.parametrize("launcher", ["torchrun", "horovodrun"])
def test_a_signal_to_one_rank_stops_both_at_one_step(alone, together, launcher):
    results = together(launcher)[1]["stopped"]
    places = [result["error"].split(" at ")[1].split(";")[0] for result in results]
    assert places == ["epoch 1, step 1"] * 2
    assert "SIGUSR1" in results[1]["error"] and "another rank" in results[0]["error"]
    assert distance(results[0], alone[0]["stopped"]) < 1e-6


@pytest.mark.parametrize("scenario", ["resumed", "resumed_from_one"])
@pytest.mark.parametrize("launcher", ["torchrun", "horovodrun"])
def test_two_ranks_go_on_from_two_or_one(alone, together, launcher, scenario):
    results = together(launcher)[1][scenario]
    assert any("resumed from" in line for line in results[0]["told"])
    assert torch.equal(results[0]["weights"], results[1]["weights"])
    assert distance(results[0], alone[0]["sgd"]) < 1e-6
    torch.testing.assert_close(results[0]["losses"], alone[0]["sgd"]["losses"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("launcher", ["torchrun", "horovodrun"])
def test_one_rank_goes_on_from_two(alone, together, launcher):
    folder = together(launcher)[0]
    shutil.rmtree(folder / "checkpoints-resumed")
    with torch.random.fork_rng():
        result = ranks.run(Single("cpu"), "resumed", folder)
    assert any("resumed from" in line for line in result["told"])
    assert distance(result, alone[0]["sgd"]) < 1e-6


@pytest.mark.parametrize("launcher", ["torchrun", "horovodrun"])
def test_running_statistics_are_alike_on_the_ranks(together, launcher):
    first, second = together(launcher)[1]["normalised"]
    assert torch.equal(first["weights"], second["weights"])
    assert sum("batch normalisation" in line for line in first["told"]) == 1


def test_memory_formats_cross_between_ranks_or_are_refused(alone, together):
    results = together("torchrun")[1]["channels_last"]
    assert not results[0]["error"] and distance(results[0], alone[0]["sgd"]) < 1e-6
    for result in together("horovodrun")[1]["channels_last"]:
        assert "train.channels_last lays weights out" in result["error"]


@pytest.mark.parametrize("scenario", ["passes", "more_passes"])
def test_horovod_counts_backward_passes(alone, together, scenario):
    results = together("horovodrun")[1][scenario]
    assert distance(results[0], alone[0]["sgd"]) < 1e-6
    assert torch.equal(results[0]["weights"], results[1]["weights"])


def test_gradients_cross_in_half_precision(alone, together):
    results = together("horovodrun")[1]["compressed"]
    assert 1e-7 < distance(results[0], alone[0]["sgd"]) < 1e-3
    assert torch.equal(results[0]["weights"], results[1]["weights"])
    torch.testing.assert_close(results[0]["losses"], alone[0]["sgd"]["losses"], rtol=0, atol=1e-3)


def test_half_precision_that_overflows_is_said(together):
    first, second = together("horovodrun")[1]["overflowed"]
    assert any("gradients overflowed" in line and "compression to none" in line for line in first["told"])
    assert not any("gradients overflowed" in line for line in second["told"])
    for result in (first, second):
        assert "the training norm of the gradient is" in result["error"]


def test_adasum_needs_mpi(together):
    for result in together("horovodrun")[1]["adasum"]:
        assert "train.adasum needs ranks that MPI joined" in result["error"]


def test_adasum_learns_the_same_on_both_ranks(alone, together):
    results = together("mpirun")[1]
    for scenario in ("adasum", "adasum_accumulated"):
        first, second = results[scenario]
        assert torch.equal(first["weights"], second["weights"])
        assert distance(first, alone[0]["sgd"]) > 1e-4
    losses = [loss for loss, _ in results["adasum"][0]["losses"]]
    assert losses[1] < losses[0] < 1


@pytest.mark.parametrize("launcher", list(PLACES))
def test_an_error_on_one_rank_ends_all(together, launcher):
    folder, _, answer = together(launcher)
    assert answer.returncode != 0
    assert "the disk of the last rank is gone" in answer.stdout
    # the launcher ends the other one, unless it is quick enough to say what it heard
    for path in folder.glob("failed.*"):
        assert "rank 1 on" in torch.load(path, weights_only=True)["error"]
