"""Batches are a pure function of seed, epoch and rank."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glacierhpc.training.batches import epoch_batches, load


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(1, 9), st.integers(0, 5), st.integers(0, 9), st.integers(1, 3))
def test_ranks_share_every_global_batch(count, batch_size, seed, epoch, size):
    whole = epoch_batches(count, batch_size=batch_size, seed=seed, epoch=epoch)
    assert sorted(sum(whole, [])) == list(range(count))
    parts = [
        epoch_batches(count, batch_size=batch_size, seed=seed, epoch=epoch, rank=rank, size=size)
        for rank in range(size)
    ]
    for number, batch in enumerate(whole):
        assert sorted(batch) == sorted(sum((part[number] for part in parts), []))


def test_order_moves_with_seed_and_epoch_only():
    def order(**changes):
        options = {"batch_size": 4, "seed": 0, "epoch": 0} | changes
        return sum(epoch_batches(40, **options), [])

    assert order() == order(batch_size=7)
    assert order() != order(epoch=1)
    assert order(seed=1) != order(epoch=1)
    assert order(shuffle=False) == list(range(40))


class Squares:
    def __len__(self):
        return 10

    def __getitems__(self, items):
        return torch.tensor(items) ** 2


def test_load_reads_whole_batches_and_draws_nothing_from_the_global_state():
    before = torch.get_rng_state()
    assert [batch.tolist() for batch in load(Squares(), [[3, 1], [2]])] == [[9, 1], [4]]
    assert torch.equal(torch.get_rng_state(), before)
