"""What would hang or train something else is refused before the first step, on every rank and with the rank named.

One machine has no second host, fabric or NCCL: what NCCL writes stands here as its documentation and source give it.
"""

import json

import pytest
import torch

from glacierhpc.errors import InputError
from glacierhpc.training.backends.launch import Launch, read_launch
from glacierhpc.training.distributed import Single, open_backend
from glacierhpc.training.loop import fit
from glacierhpc.training.preflight import check_interfaces, check_nccl, check_pmi, check_ranks, nccl_networks
from tests.training.lines import OPTIONS, Line, LineData

ON_SOCKETS = """\
r1:101:140 [0] NCCL INFO NET/Socket : Using [0]eth0:10.0.0.1<0>
r1:101:140 [0] NCCL INFO Using network Socket
r1:101:140 [0] NCCL INFO Channel 00/0 : 1[0] -> 0[0] [receive] via NET/Socket/0
"""
ON_INFINIBAND = """\
r1:101:140 [0] NCCL INFO NET/IB : Using [0]mlx5_0:1/IB [RO]; OOB ib0:10.1.0.1<0>
r1:101:140 [0] NCCL INFO Using network IB
r1:101:140 [0] NCCL INFO Channel 00/0 : 1[0] -> 0[0] [receive] via NET/IB/0/GDRDMA
"""
BY_PLUGIN = "r1:1:2 [0] NCCL INFO Using network AWS Libfabric\n"


class Others(Single):
    """Rank 0 as it sees the others; stands for ranks that a machine would need several GPUs or hosts for."""

    def __init__(self, *others, device="cpu"):
        super().__init__("cpu")
        self.others, self.size = others, len(others) + 1
        self.device = torch.device(device)

    def gather(self, value):
        own = json.loads(bytes(value.tolist()))
        told = [own]
        for other in self.others:
            told.append(own | other | {"facts": own["facts"] | other.get("facts", {})})
        return [torch.tensor(list(json.dumps(each).encode()), dtype=torch.uint8) for each in told]


def test_ranks_that_do_alike_pass_and_tell_their_hosts():
    assert check_ranks(Others({"host": "r2"}), {"the data": "a"})[1] == "r2"
    assert len(check_ranks(Single("cpu"), {})) == 1


def test_a_rank_that_would_train_something_else_is_named():
    says = "not train the same: the data of rank 2 on r3 is not that of rank 0 on .*: start all"
    with pytest.raises(InputError, match=says):
        check_ranks(
            Others({"host": "r2"}, {"host": "r3", "facts": {"the data": "x"}}), {"the data": "a", "b": 1}
        )


def test_fit_looks_before_it_trains():
    class Refusing(Others):
        def gather(self, value):
            own = json.loads(bytes(value.tolist()))
            assert set(own["facts"]) > {"the model", "the number of training sequences"}
            raise InputError("looked")

    with pytest.raises(InputError, match="looked"):
        fit(Line(), LineData(), **OPTIONS | {"backend": Refusing({})})


def test_ranks_on_one_gpu_are_refused_where_there_are_more(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    with pytest.raises(InputError, match="2 ranks of .* would train on cuda:0, and 4 GPUs are seen there"):
        check_ranks(Others({}, device="cuda:0"), {})
    check_ranks(Others({"device": "cuda:1"}, device="cuda:0"), {})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)  # each sees its own as number 0
    check_ranks(Others({}, device="cuda:0"), {})


@pytest.mark.parametrize("variable", ["GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "HOROVOD_GLOO_IFACE"])
def test_an_interface_that_is_not_there_is_refused_with_those_that_are(variable, monkeypatch):
    with pytest.raises(
        InputError, match=f"{variable}='dummy7' names no network interface of .*: there are .*lo"
    ):
        check_interfaces({variable: "dummy7"})
    check_interfaces({variable: "lo"})
    check_interfaces({variable: ""})
    monkeypatch.setenv(variable, "dummy7")
    with pytest.raises(InputError, match="names no network interface"):
        open_backend("ddp", device="cpu")


def test_nccl_takes_beginnings_and_exceptions():
    check_interfaces({"NCCL_SOCKET_IFNAME": "nothing,l"})
    check_interfaces({"NCCL_SOCKET_IFNAME": "^docker"})
    for given in ("=l", "eth9999,x9"):
        with pytest.raises(InputError, match="names no network interface"):
            check_interfaces({"NCCL_SOCKET_IFNAME": given})


def test_tasks_that_mpi_cannot_join_are_refused():
    tasks = {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "1"}
    with pytest.raises(
        InputError, match=r"size 1 is not the 4 tasks. Write srun --mpi=pmix.*train-horovod.sbatch"
    ):
        check_pmi(read_launch(tasks), tasks)
    check_pmi(read_launch(tasks), {**tasks, "PMIX_RANK": "3"})
    check_pmi(Launch("horovodrun", 3, 4), tasks)
    check_pmi(Launch("srun", 0, 1), tasks)


def test_what_nccl_says_of_its_network():
    assert nccl_networks(ON_SOCKETS) == {"Socket"}
    assert nccl_networks(ON_INFINIBAND) == {"IB"}
    assert nccl_networks(BY_PLUGIN) == {"AWS Libfabric"}
    assert nccl_networks("NCCL version 2.21.5+cuda12.4\n") == set()


def test_plain_sockets_are_refused_only_beside_something_faster(caplog):
    with pytest.raises(InputError, match="plain sockets although this host has mlx5_0: .*NCCL_NET=Socket"):
        check_nccl(ON_SOCKETS, {}, adapters=["mlx5_0"], hosts=2)
    check_nccl(ON_SOCKETS, {"NCCL_NET": "Socket"}, adapters=["mlx5_0"], hosts=2)
    check_nccl(ON_SOCKETS, {}, adapters=["mlx5_0"], hosts=1)
    check_nccl(ON_INFINIBAND, {}, adapters=["mlx5_0"], hosts=2)
    assert not caplog.text
    check_nccl(ON_SOCKETS, {}, adapters=[], hosts=2)
    assert "no faster network adapter was found" in caplog.text
