"""Which processes belong together, what each backend accepts, and one process alone."""

import socket
import sys
from datetime import timedelta

import pytest
import torch

from glacierhpc.errors import GlacierError, InputError
from glacierhpc.training.backends import ddp
from glacierhpc.training.backends.ddp import meeting_place
from glacierhpc.training.backends.exchange import Exchange
from glacierhpc.training.backends.launch import PORTS, Launch, read_launch
from glacierhpc.training.backends.ranks import Statistics, rank_device, share_state
from glacierhpc.training.distributed import BACKENDS, Single, open_backend, surroundings
from tests.training.ranks import exchange

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
TORCHRUN |= {"MASTER_ADDR": "node1", "MASTER_PORT": "29501"}
HOROVODRUN = {"HOROVOD_RANK": "1", "HOROVOD_SIZE": "2", "HOROVOD_LOCAL_RANK": "1", "HOROVOD_LOCAL_SIZE": "2"}
MPIRUN = {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2", "PMIX_NAMESPACE": "1234567169"}
MPIRUN |= {"OMPI_COMM_WORLD_LOCAL_RANK": "0", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}
SRUN = {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "1", "SLURM_NODEID": "1"}
SRUN |= {
    "SLURM_STEP_NODELIST": "gpu[07-08,12]",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_JOB_ID": "77",
    "SLURM_STEP_ID": "0",
}
LAUNCHED = [name for given in (TORCHRUN, HOROVODRUN, MPIRUN, SRUN) for name in given]


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)


def set_all(monkeypatch, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Launch()),
        (TORCHRUN, Launch("torchrun", 3, 4, 1, 2, "node1", 29501)),
        (HOROVODRUN, Launch("horovodrun", 1, 2, 1, 2)),
        (MPIRUN, Launch("mpirun", 0, 2, 0, 2, "", PORTS[1234567169 % len(PORTS)], "1234567169")),
        ({"PMI_RANK": "1", "PMI_SIZE": "3"}, Launch("mpiexec", 1, 3, 1, 3)),
        (SRUN, Launch("srun", 3, 4, 1, 2, "gpu07", PORTS[770], "77.0")),
        # started by torchrun inside a step of one task
        (
            {**SRUN, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0", **TORCHRUN},
            Launch("torchrun", 3, 4, 1, 2, "node1", 29501),
        ),
        # a batch script outside srun is one process, however many tasks the job may have
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "77"}, Launch()),
    ],
)
def test_every_launcher_tells_the_place(environment, expected):
    assert read_launch(environment) == expected


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("n1", "n1"), ("n1,n2", "n1"), ("r[3-4]-ib,x9", "r3-ib"), ("a-[01,07]", "a-01")],
)
def test_the_first_node_of_a_slurm_list(nodes, first):
    assert read_launch({**SRUN, "SLURM_STEP_NODELIST": nodes}).address == first


def test_uneven_tasks_per_node():
    tasks = {"SLURM_STEP_TASKS_PER_NODE": "2(x2),1", "SLURM_STEP_NUM_TASKS": "5", "SLURM_NODEID": "2"}
    assert read_launch({**SRUN, **tasks}).local_size == 1


def test_places_that_cannot_be():
    with pytest.raises(InputError, match="WORLD_SIZE is 'two', not a number"):
        read_launch({**TORCHRUN, "WORLD_SIZE": "two"})
    with pytest.raises(InputError, match="rank 4 of 4"):
        read_launch({**TORCHRUN, "RANK": "4"})


def test_surroundings_open_nothing(monkeypatch):
    assert [surroundings(name) for name in BACKENDS] == [(0, 1)] * 3
    set_all(monkeypatch, TORCHRUN)
    assert surroundings("ddp") == (3, 4)
    assert not torch.distributed.is_initialized()
    with pytest.raises(InputError, match="torchrun started 4 processes.*set train.backend to ddp or horovod"):
        surroundings("single")
    with pytest.raises(InputError, match="torchrun starts processes that Horovod does not know"):
        surroundings("horovod")
    with pytest.raises(InputError, match="did you mean 'horovod'"):
        surroundings("horovodd")


def test_one_process_is_not_refused_under_a_launcher(monkeypatch):
    set_all(monkeypatch, {**TORCHRUN, "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"})
    assert surroundings("single") == (0, 1)
    assert open_backend("single", device="cpu").size == 1


@pytest.mark.parametrize("name", ["single", "ddp"])
def test_options_of_horovod_are_refused_elsewhere(name):
    with pytest.raises(InputError, match="train.compression='fp16', train.adasum=True means something to"):
        open_backend(name, device="cpu", compression="fp16", adasum=True)
    with pytest.raises(InputError, match="train.accumulate adds up"):
        open_backend(name, device="cpu", backward_passes_per_step=2)


def test_options_that_cannot_be():
    with pytest.raises(InputError, match="'fp61' is not known; did you mean 'fp16'"):
        Exchange(compression="fp61")
    with pytest.raises(InputError, match="backward_passes_per_step cannot be 0"):
        Exchange(backward_passes_per_step=0)


def test_without_horovod_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "horovod", None)
    with pytest.raises(InputError, match="make horovod.*train.backend='ddp' does without it"):
        open_backend("horovod", device="cpu")


def test_where_ranks_meet():
    here = Launch("mpirun", 0, 2, 0, 2)
    assert meeting_place(here)[0] == "127.0.0.1" and meeting_place(here)[1] in PORTS
    assert meeting_place(Launch("srun", 3, 4, 1, 2, "gpu07", 20770)) == ("gpu07", 20770)
    with pytest.raises(InputError, match="several machines.*MASTER_ADDR"):
        meeting_place(Launch("mpirun", 0, 4, 0, 2, "", 20001))


@pytest.mark.parametrize("name", ["single", "ddp"])
def test_one_rank_alone(name):
    backend = open_backend(name, device="cpu")
    try:
        got = exchange(backend)
    finally:
        backend.close()
    assert got == {
        "gathered": [[0, 1]],
        "sum": [[1.0] * 3] * 2,
        "scalar": 2.5,
        "any": [False, True, True],
        "place": [0, 1],
        "momentum": [3.0, 3.0],
    }


def test_ranks_that_are_not_all_started_are_missed(monkeypatch):
    monkeypatch.setattr(ddp, "JOIN_TIMEOUT", timedelta(seconds=1))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    set_all(monkeypatch, {**MPIRUN, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
    with pytest.raises(GlacierError, match="rank 0 of 2 did not find the others at 127.0.0.1:"):
        open_backend("ddp", device="cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(InputError, match="torch sees no GPU"):
        rank_device(Launch(), "cuda")


class Two(Single):
    """Two ranks as rank 0 would see them, the other one with a state of one more tensor, and twice the values."""

    size = 2

    def gather(self, value):
        return [value, value + 1]

    def sum(self, values):
        return 3 * values


def test_states_that_differ_are_refused():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])
    with pytest.raises(GlacierError, match=r"different optimiser states \(\[0, 1\] tensors\)"):
        share_state(optimizer, Two("cpu"))


def test_running_statistics_are_averaged():
    norm = torch.nn.BatchNorm2d(2)
    norm.running_mean.copy_(torch.tensor([1.0, 4.0]))
    Statistics(torch.nn.Sequential(norm), Two("cpu")).average()
    assert norm.running_mean.tolist() == [1.5, 6.0]
    assert norm.running_var.tolist() == [1.5, 1.5]
