"""Streams of random numbers that are to be apart are apart."""

from itertools import product

import torch

from glacierhpc.training.seeds import seed_rank


def test_repeats_of_a_run_share_no_stream_whatever_its_ranks():
    drawn = {}
    with torch.random.fork_rng(devices=[]):
        for seed, rank, position in product(range(4), range(4), ((), (0, 0), (0, 1), (1, 0))):
            seed_rank(seed, rank, *position)
            drawn[seed, rank, position] = float(torch.rand((), dtype=torch.float64))
    assert len(set(drawn.values())) == len(drawn)
