"""Splits never leak, and the audit sees it when one does."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glacierhpc.datasets.sequences import SequencePlan
from glacierhpc.datasets.splits import (
    SPLITS,
    audit_split,
    sample_pixels,
    sample_steps,
    split_by_block,
    split_by_time,
    target_steps,
)
from glacierhpc.errors import InputError


def plan_of(count=30, rows=64, cols=64, size=16, stride=8, steps_in=4, steps_out=4):
    times = np.datetime64("2015-02-15", "ns") + np.arange(count) * np.timedelta64(91, "D")
    return SequencePlan.build(
        (count, rows, cols), times, size=size, stride=stride, steps_in=steps_in, steps_out=steps_out
    )


def pixel_times(plan, indices, steps):
    """The plain twin of the audit: every pixel-time as a tuple."""
    found = set()
    for first, row, col in plan.starts[indices]:
        for step in steps:
            for r in range(row, row + plan.size):
                found |= {(first + step, r, c) for c in range(col, col + plan.size)}
    return found


def leaks(plan, labels):
    """The rule itself, by sets."""
    targets = range(plan.steps_in, plan.steps)
    samples = {name: pixel_times(plan, np.flatnonzero(labels == name), range(plan.steps)) for name in SPLITS}
    evaluated = {name: pixel_times(plan, np.flatnonzero(labels == name), targets) for name in SPLITS}
    pairs = (("validation", "train"), ("test", "train"), ("test", "validation"))
    return sum(len(evaluated[later] & samples[earlier]) for later, earlier in pairs)


@settings(max_examples=25, deadline=None)
@given(
    count=st.integers(16, 40),
    steps=st.tuples(st.integers(1, 4), st.integers(1, 3)),
    shares=st.tuples(st.floats(0, 0.3), st.floats(0, 0.3)),
    gap=st.integers(0, 3),
)
def test_split_by_time_never_leaks(count, steps, shares, gap):
    plan = plan_of(count, 4, 4, size=4, stride=4, steps_in=steps[0], steps_out=steps[1])
    try:
        split = split_by_time(plan, validation_share=shares[0], test_share=shares[1], gap_steps=gap)
    except InputError:
        return
    assert leaks(plan, split.labels) == 0
    assert audit_split(plan, split.labels, gap_steps=gap)["ok"]
    train = sample_steps(plan, split.indices("train"))
    for name in ("validation", "test"):
        if len(split.indices(name)):
            assert target_steps(plan, split.indices(name)).min() - train.max() > gap


def test_split_by_time_uses_all_that_it_may():
    plan = plan_of()
    split = split_by_time(plan, validation_share=0.15, test_share=0.2, gap_steps=1)
    assert list(target_steps(plan, split.indices("test"))) == list(range(24, 30))
    assert list(target_steps(plan, split.indices("validation"))) == list(range(19, 23))
    assert list(sample_steps(plan, split.indices("train"))) == list(range(18))


def test_split_by_block_never_leaks_and_keeps_its_distance():
    plan = plan_of(6, 48, 48, size=8, stride=4, steps_in=1, steps_out=1)
    split = split_by_block(plan, block_px=16, validation_share=0.2, test_share=0.2, gap_px=3, seed=4)
    assert all(len(split.indices(name)) for name in SPLITS)
    assert leaks(plan, split.labels) == 0
    assert audit_split(plan, split.labels, gap_px=3)["ok"]
    places = {name: plan.starts[split.indices(name), 1:] for name in SPLITS}
    for row, col in places["test"]:
        apart = np.abs(places["train"] - [row, col]).max(axis=1)
        assert apart.min() >= plan.size + 3
    again = split_by_block(plan, block_px=16, validation_share=0.2, test_share=0.2, gap_px=3, seed=4)
    np.testing.assert_array_equal(again.labels, split.labels)


def test_the_pixels_of_a_part_are_those_of_its_samples():
    plan = plan_of(6, 48, 48, size=8, stride=4, steps_in=1, steps_out=1)
    indices = split_by_block(plan, block_px=16, validation_share=0.2, test_share=0.2).indices("test")
    expected = np.zeros(plan.shape, dtype=bool)
    for step, row, col in plan.starts[indices]:
        expected[step : step + 2, row : row + 8, col : col + 8] = True
    np.testing.assert_array_equal(sample_pixels(plan, indices), expected)
    assert expected.any() and not expected.all()


def test_audit_finds_the_published_leak():
    """The first 80 per cent of overlapping sequences for training, the rest for testing."""
    plan = plan_of(12, 24, 24)
    labels = np.where(np.arange(len(plan)) < 0.8 * len(plan), "train", "test")
    audit = audit_split(plan, labels)
    assert not audit["ok"]
    assert audit["leaked"] == leaks(plan, labels) > 0
    assert audit["leaks"][0]["found_in"] == "train"


def test_audit_finds_a_single_leaking_sequence():
    plan = plan_of()
    labels = split_by_time(plan).labels.copy()
    assert audit_split(plan, labels)["ok"]
    straddling = np.flatnonzero(
        (plan.starts[:, 0] == 17) & (plan.starts[:, 1] == 48) & (plan.starts[:, 2] == 8)
    )
    labels[straddling] = "train"
    audit = audit_split(plan, labels)
    assert not audit["ok"]
    assert audit["leaked"] == leaks(plan, labels)
    assert {leak["evaluated"] for leak in audit["leaks"]} == {"validation", "test"}
    assert (audit["leaks"][0]["row"], audit["leaks"][0]["col"]) == (48, 8)


def test_audit_finds_test_targets_among_validation_samples():
    plan = plan_of(12, 8, 8, size=8, stride=8)
    labels = np.full(len(plan), "unused", dtype="<U10")
    labels[plan.starts[:, 0] == 0], labels[plan.starts[:, 0] == 1] = "validation", "test"
    audit = audit_split(plan, labels)
    assert audit["leaked"] == leaks(plan, labels) == 3 * 64
    assert audit["leaks"][0]["found_in"] == "validation"


def test_audit_minds_the_gap():
    plan = plan_of()
    split = split_by_time(plan, gap_steps=1)
    assert audit_split(plan, split.labels, gap_steps=1)["ok"]
    assert not audit_split(plan, split.labels, gap_steps=2)["ok"]


def test_description_is_json_and_its_hash_moves_with_every_label():
    plan = plan_of()
    split = split_by_time(plan)
    told = json.loads(json.dumps(split.describe(plan)))
    assert told["audit"]["ok"] and told["gap_steps"] == 1 and told["method"] == "time"
    assert told["test"]["count"] == len(split.indices("test"))
    assert len(told["test"]["target_times"]) == 6
    changed = split.without(np.arange(len(plan)) == split.indices("train")[0])
    assert changed.digest(plan) != split.digest(plan)
    assert len(changed.indices("train")) == len(split.indices("train")) - 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"test_share": 0.9, "validation_share": 0.2}, "leave nothing to train"),
        ({"gap_steps": -1}, "gap of -1"),
        ({"gap_steps": 9}, "leave 2 for training"),
    ],
)
def test_impossible_splits_by_time_are_refused(options, says):
    with pytest.raises(InputError, match=says):
        split_by_time(plan_of(), **options)


def test_impossible_splits_by_block_are_refused():
    with pytest.raises(InputError, match="hold no patch"):
        split_by_block(plan_of(), block_px=8)
    with pytest.raises(InputError, match="cannot be shared"):
        split_by_block(plan_of(), block_px=64)
    with pytest.raises(InputError, match="lies wholly in training blocks"):
        split_by_block(plan_of(), block_px=16, gap_px=60)
