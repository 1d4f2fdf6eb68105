"""The permuted-time control: an honest model loses its skill, one that does not look at its time is caught."""

import json

import numpy as np
import pytest

from glacierhpc.errors import InputError
from glacierhpc.evaluation.bootstrap import Resampling, sequence_blocks
from glacierhpc.evaluation.control import PermutedTime, partners, permuted_control


def control(world, forecasters, **options):
    blocks = sequence_blocks(world.starts, block_steps=world.steps_in + world.steps_out)
    return permuted_control(
        forecasters,
        world,
        world.starts,
        Resampling(blocks, samples=200),
        model="net",
        steps_in=world.steps_in,
        steps_out=world.steps_out,
        **options,
    )


def test_a_model_that_uses_its_time_passes_and_loses_its_skill(world, forecasters):
    told = control(world, forecasters)
    assert told["verdict"] == "passes"
    # against persistence, which is poor where seasons change, a forecast for another season may keep some skill
    assert told["destroyed"]["climatology"] is True
    assert told["permuted_skill"]["persistence"]["all"] < 0.5 * told["skill"]["persistence"]["all"]
    assert told["skill"]["climatology"]["interval"][0] > 0
    assert told["permuted_skill"]["climatology"]["interval"][1] < 0
    assert told["difference"]["climatology"]["interval"][0] > 0
    assert len(told["difference"]["climatology"]["by_lead"]) == world.steps_out
    assert json.loads(json.dumps(told, allow_nan=False)) == told


def test_a_place_learnt_by_heart_is_caught(world, forecasters):
    """A mean over all times, targets included, beats persistence and knows nothing of time."""
    by_heart = world.data.mean(axis=0)

    def cheat(batch):
        row, col = (world.starts[batch.numbers, axis, None] + np.arange(world.size) for axis in (1, 2))
        frame = by_heart[row[:, :, None], col[:, None, :]]
        frames = np.broadcast_to(frame[:, None, None], batch.targets.shape)
        return frames, np.ones(batch.targets_valid.shape, dtype=bool)

    told = control(world, {**forecasters, "net": cheat})
    assert told["skill"]["persistence"]["interval"][0] > 0
    assert told["verdict"] == "fails"
    assert told["destroyed"]["persistence"] is False
    assert told["difference"]["persistence"]["all"] == pytest.approx(0)


def test_a_model_that_reads_the_answer_is_caught(world, forecasters):
    told = control(
        world, {**forecasters, "net": lambda batch: (batch.targets * 0.9, np.ones_like(batch.targets_valid))}
    )
    assert told["verdict"] == "fails" and told["skill"]["climatology"]["all"] > 0


def test_partners_are_of_the_same_place_and_never_show_the_answer(world):
    partner = partners(world.starts, steps_in=2, steps_out=2)
    own, shown = world.starts, world.starts[partner]
    assert (partner >= 0).all() and (own[:, 1:] == shown[:, 1:]).all()
    assert (np.abs(own[:, 0] - shown[:, 0]) >= 4).all()
    assert len(np.unique(shown[:, 0])) > 20
    np.testing.assert_array_equal(partner, partners(world.starts, steps_in=2, steps_out=2))
    assert (partner != partners(world.starts, steps_in=2, steps_out=2, seed=1)).any()


def test_in_a_short_period_only_the_past_may_be_shown():
    starts = np.array([[0, 0, 0], [1, 0, 0], [2, 0, 0], [9, 5, 5]])
    partner = partners(starts, steps_in=2, steps_out=2)
    assert partner.tolist() == [-1, 0, 0, -1]
    reaching = np.array([[0, 0, 0], [1, 0, 0], [4, 0, 0]])
    assert partners(reaching, steps_in=2, steps_out=2).tolist() == [2, 0, 0]


def test_a_batch_of_another_time_keeps_only_its_targets(world):
    partner = partners(world.starts, steps_in=2, steps_out=2)
    permuted = PermutedTime(world, partner)
    items = [0, 7, 30]
    own, shown, given = (part.__getitems__(items) for part in (world, world, permuted))
    shown = world.__getitems__([int(partner[item]) for item in items])
    for name in ("images", "dates", "climatology", "numbers"):
        np.testing.assert_array_equal(getattr(given, name), getattr(shown, name))
    for name in ("targets", "targets_valid"):
        np.testing.assert_array_equal(getattr(given, name), getattr(own, name))


def test_what_cannot_be_controlled_is_said(world, forecasters):
    class Short:
        starts, steps_in, steps_out, size = world.starts[:9], 2, 2, world.size

        def __len__(self):
            return 9

        __getitems__ = staticmethod(world.__getitems__)

    assert len(np.unique(Short.starts[:, 0])) == 1
    with pytest.raises(InputError, match="at least 5 composites"):
        control(Short(), forecasters)
    with pytest.raises(InputError, match="partners do not belong"):
        PermutedTime(world, np.array([-1] * len(world)))
    with pytest.raises(InputError, match="'net' is not known"):
        control(world, {"persistence": forecasters["persistence"]})


def test_a_part_of_many_sequences_is_enough(world, forecasters):
    told = control(world, forecasters, most=60)
    assert told["sequences"] == 60 and told["alone"] == 0 and told["sharing"] == 0
    assert told["verdict"] == "passes"
