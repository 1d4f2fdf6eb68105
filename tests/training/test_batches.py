"""Batches are a pure function of seed, epoch and rank."""

import os
from contextlib import closing
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glacierhpc.training.batches import Feed, epoch_batches, micro_batches


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


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 20), st.integers(1, 9))
def test_pieces_of_a_share_are_nearly_equal_and_there_is_always_one(length, parts):
    share = list(range(length))
    pieces = micro_batches(share, parts)
    assert sum(pieces, []) == share and len(pieces) == max(min(parts, length), 1)
    lengths = [len(piece) for piece in pieces]
    assert max(lengths) - min(lengths) <= 1


@dataclass
class Numbers:
    targets: torch.Tensor
    targets_valid: torch.Tensor
    seen_by: int
    inputs: dict

    def to(self, device):
        return self


class Squares:
    def __len__(self):
        return 10

    def __getitems__(self, items):
        valid = torch.ones(len(items), dtype=torch.bool)
        return Numbers(torch.tensor(items) ** 2, valid, os.getpid(), {})


@pytest.mark.parametrize("workers", [0, 1])
def test_feed_reads_whole_batches_and_draws_nothing_from_the_global_state(workers):
    before = torch.get_rng_state()
    with closing(Feed(Squares(), workers=workers)) as feed:
        read = [batch.targets.tolist() for batch in feed.read([[3, 1], [2]])]
        assert read == [[9, 1], [4]] and len(feed) == 10
        assert [batch.targets.tolist() for batch in feed.read([[5]])] == [[25]]
    assert torch.equal(torch.get_rng_state(), before)


def test_reading_processes_stay_over_epochs_and_end_with_the_feed():
    with closing(Feed(Squares(), workers=1)) as feed:
        first, second = ({batch.seen_by for batch in feed.read([[1], [2]])} for _ in range(2))
        assert first == second and os.getpid() not in first
        stopped_midway = feed.read([[1], [2], [3]])
        next(stopped_midway)
    with pytest.raises(ProcessLookupError):
        os.kill(first.pop(), 0)


def test_an_empty_share_is_read_as_a_batch_that_teaches_nothing():
    (blank,) = Feed(Squares()).read([[]])
    assert blank.targets.tolist() == [0] and not blank.to("cpu").targets_valid.any()
