"""A whole stack in memory: known shifts, the order of scenes, seasons, rescue, moving ice, hopeless scenes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import gaussian_filter

from glacierhpc.coreg import align_stack
from glacierhpc.coreg.georeference import KIND
from glacierhpc.coreg.stack import COLUMNS, LINK_COLUMNS, VECTOR_COLUMNS
from glacierhpc.coreg.stack_tasks import link_scenes
from glacierhpc.errors import InputError
from tests.pairs import corner_rms, make_pair, rotation

SHAPE = (200, 220)
SCENES = 14


def shift(x, y):
    return np.array([[1, 0, x], [0, 1, y]], float)


def clouds(shape, share, *, seed=0, size_px=12):
    field = gaussian_filter(np.random.default_rng(seed).normal(size=shape), size_px)
    return field > np.quantile(field, 1 - share)


def scene_of(matrix, index, *, seed=9, noise=0.02):
    """Return a look at the one landscape through a matrix, with noise of its own."""
    _, image = make_pair(SHAPE, matrix, seed=seed, noise=0.0)
    return image + np.random.default_rng(100 + index).normal(scale=noise, size=SHAPE).astype(np.float32)


@pytest.fixture(scope="module")
def stack():
    """Two years of shifted, cloudy scenes in two seasons; the last two scenes are flat and noise."""
    rng = np.random.default_rng(3)
    truth = rng.normal(0, 1.5, (SCENES, 2))
    images = [scene_of(shift(*truth[i]), i) for i in range(SCENES)]
    images[-2] = np.full(SHAPE, 0.25, np.float32)
    images[-1] = rng.normal(size=SHAPE).astype(np.float32)
    valid = np.stack([~clouds(SHAPE, 0.15, seed=i) for i in range(SCENES)])
    months = [
        "2020-02",
        "2020-01",
        "2020-07",
        "2020-08",
        "2020-06",
        "2020-12",
        "2021-01",
        "2021-02",
        "2021-07",
    ]
    months += ["2021-08", "2021-06", "2021-12", "2021-11", "2021-07"]
    times = np.array([f"{month}-10" for month in months], "datetime64[ns]")
    return images, valid, times, truth


def run(stack, order=None, **options):
    images, valid, times, _ = stack
    order = list(range(len(images)) if order is None else order)
    return align_stack(
        [images[i] for i in order], valid[order], times[order], ids=[f"s{i:02d}" for i in order], **options
    )


@pytest.fixture(scope="module")
def placed(stack):
    return run(stack, resolution_m=30.0)


def test_every_scene_is_a_row_in_the_order_given_and_the_shifts_are_right(placed, stack):
    table, truth = placed.table, stack[3]
    assert list(table.columns) == COLUMNS
    assert list(table.scene) == [f"s{i:02d}" for i in range(SCENES)]
    assert list(table.ok) == [True] * (SCENES - 2) + [False] * 2
    found = table[["shift_col_px", "shift_row_px"]].to_numpy()[:-2]
    error = found - truth[:-2]
    assert np.abs(error - np.median(error, axis=0)).max() < 0.05
    np.testing.assert_allclose(np.median(found, axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(table.shift_m[:-2], 30 * table.shift_px[:-2])
    np.testing.assert_allclose(table.m02[:-2], table.shift_col_px[:-2])


def test_refused_scenes_have_a_reason_and_nothing_else(placed):
    refused = placed.table[-2:]
    assert "no contrast" in refused.reason.iloc[0] and refused.reason.iloc[1]
    assert refused[["m00", "m12", "error_px", "residual_px"]].isna().all(axis=None)
    links = placed.links
    touching = links[(links["first"] == "s13") | (links["second"] == "s13")]
    assert len(touching) > 2 and not touching.used.any() and (touching.reason != "").all()


def test_links_are_told_with_what_became_of_them(placed):
    links = placed.links
    assert list(links.columns) == LINK_COLUMNS
    assert set(links.kind) == {"reference", "neighbour", "rescue", KIND}
    used = links[links.used]
    assert (used.reason == "").all() and used.misfit_px[used.kind != KIND].max() < 0.15
    to_winter = used[(used["first"] == "reference:DJF+SON") & used["second"].str.startswith("s")]
    assert set(to_winter["second"]) == {"s00", "s01", "s05", "s06", "s07", "s11"}
    assert (
        placed.table.season[:-2] == ["DJF+SON" if i in (0, 1, 5, 6, 7, 11) else "JJA" for i in range(12)]
    ).all()


def test_predicted_errors_and_closure_are_of_the_size_of_the_errors(placed, stack):
    good = placed.table[:-2]
    error = good[["shift_col_px", "shift_row_px"]].to_numpy() - stack[3][:-2]
    rms_px = np.sqrt(((error - np.median(error, axis=0)) ** 2).sum(axis=1).mean())
    assert 0.3 * rms_px < good.error_px.median() < 4 * rms_px
    assert good.closure_px.notna().sum() > 8 and good.closure_px.median() < 0.05
    assert len(placed.closure) and (placed.closure.rms_px >= 0).all()
    assert set(good.links) >= {2, 3}


def test_offsets_left_are_told_in_blocks_of_the_frame(placed):
    vectors = placed.vectors
    assert list(vectors.columns) == VECTOR_COLUMNS and set(vectors.scene) == set(placed.table.scene[:-2])
    trusted = vectors[vectors.weight > 0.5].dropna()
    assert trusted.x.between(-3, SHAPE[1] + 3).all() and trusted.y.between(-3, SHAPE[0] + 3).all()
    assert trusted[["dx_px", "dy_px"]].abs().median().max() < 0.1


@pytest.mark.parametrize("seed", [0, 1])
def test_the_order_of_the_scenes_does_not_matter(placed, stack, seed):
    order = np.random.default_rng(seed).permutation(SCENES)
    again = run(stack, order, resolution_m=30.0).table
    assert list(again.scene) == [f"s{i:02d}" for i in order]
    expected = placed.table.set_index("scene").loc[again.scene].reset_index()
    pd.testing.assert_frame_equal(again.drop(columns="seconds"), expected.drop(columns="seconds"))


def test_threads_give_the_same_and_progress_comes_to_its_end(placed, stack):
    seen = []
    with ThreadPoolExecutor(2) as executor:
        again = run(stack, resolution_m=30.0, executor=executor, progress=lambda *done: seen.append(done))
    pd.testing.assert_frame_equal(again.table.drop(columns="seconds"), placed.table.drop(columns="seconds"))
    pd.testing.assert_frame_equal(again.links, placed.links)
    assert seen[-1][0] == seen[-1][1] and len({total for _, total in seen}) == 1


def test_what_masked_arrays_mask_is_not_looked_at(stack):
    images, valid, times, _ = (part[:4] for part in stack)
    dazzling = [np.where(seen, image, 50).astype(np.float32) for image, seen in zip(images, valid)]
    masked = [np.ma.MaskedArray(image, ~seen) for image, seen in zip(dazzling, valid)]
    tables = align_stack(dazzling, valid, times).table, align_stack(masked, None, times).table
    known, found = (table.drop(columns="seconds") for table in tables)
    assert known.ok.all()
    pd.testing.assert_frame_equal(found, known)


def test_turns_are_found_at_the_corners():
    rng = np.random.default_rng(5)
    truth = [rotation(rng.normal(0, 0.3), rng.normal(0, 1.5, 2), SHAPE) for _ in range(6)]
    images = [scene_of(matrix, i) for i, matrix in enumerate(truth)]
    times = np.datetime64("2020-07-01", "ns") + np.arange(6) * np.timedelta64(5, "D")
    table = align_stack(images, None, times, motion="euclidean").table
    assert table.ok.all() and (table.season == "all").all()
    matrices = table[[f"m{i}{j}" for i in range(3) for j in range(3)]].to_numpy().reshape(-1, 3, 3)
    # the common frame lies and is turned as it likes: compare scenes with each other
    known = [np.vstack([matrix, [0, 0, 1]]) for matrix in truth]
    for found, matrix in zip(matrices[1:], known[1:]):
        between = found @ np.linalg.inv(matrices[0])
        assert corner_rms(between, matrix @ np.linalg.inv(known[0]), SHAPE) < 0.08


def test_auto_turns_all_scenes_where_one_is_turned():
    """And none where none is; the motion told is that of the matrices."""
    rng = np.random.default_rng(6)
    times = np.datetime64("2020-07-01", "ns") + np.arange(6) * np.timedelta64(5, "D")
    shifts = rng.normal(0, 1.5, (6, 2))
    straight = [scene_of(shift(*shifts[i]), i) for i in range(6)]
    table = align_stack(straight, None, times, motion="auto").table
    assert table.ok.all() and (table.motion == "translation").all() and (table.m01 == 0).all()
    turned = [*straight[:5], scene_of(rotation(1.5, shifts[5], SHAPE), 5)]
    table = align_stack(turned, None, times, motion="auto").table
    assert table.ok.all() and table.motion.nunique() == 1 and table.motion[0] in ("euclidean", "similarity")
    assert np.degrees(np.arctan2(table.m10, table.m00))[5] == pytest.approx(1.5, abs=0.03)
    assert np.degrees(np.arctan2(table.m10, table.m00))[:5].abs().max() < 0.03


def test_large_images_are_first_seen_at_half_the_resolution_and_are_as_exact():
    truth = np.random.default_rng(8).normal(0, 2.0, (4, 2))
    images = [make_pair((420, 440), shift(*truth[i]), seed=9, noise=0.02)[1] for i in range(4)]
    times = np.datetime64("2020-07-01", "ns") + np.arange(4) * np.timedelta64(5, "D")
    result = align_stack(images, None, times)
    error = result.table[["shift_col_px", "shift_row_px"]].to_numpy() - truth
    assert np.abs(error - np.median(error, axis=0)).max() < 0.02
    neighbours = result.links[result.links.kind == "neighbour"]
    assert neighbours.used.all()
    found = neighbours[["m02", "m12"]].to_numpy()
    np.testing.assert_allclose(found, np.diff(truth, axis=0), atol=0.05)
    assert neighbours.error_px.min() > 0 and neighbours.error_px.max() < 0.1


@pytest.fixture
def hidden(monkeypatch):
    """Hide the scene at position 5 from its references and neighbours, as snow does."""
    nan = np.full((3, 3), np.nan)

    def blind(*arguments):
        return [
            replace(pair, result=replace(pair.result, ok=False, reason="snow", matrix=nan))
            if 5 in ends
            else pair
            for pair in link_scenes(*arguments)
            for ends in [(pair.first, pair.second)]
        ]

    monkeypatch.setattr("glacierhpc.coreg.placing.link_scenes", blind)


@pytest.mark.usefixtures("hidden")
def test_scenes_that_no_reference_takes_are_rescued_by_others(stack):
    """As where a season's snow hides what its reference shows: pairs of scenes still agree."""
    result = run(stack)
    order = np.argsort(stack[2], kind="stable")
    rescued = result.table.iloc[order[5]]
    links = result.links[(result.links["second"] == rescued.scene) & (result.links.kind == "rescue")]
    assert len(links) == 4 and links.used.all() and rescued.ok and rescued.links == 4
    error = result.table[["shift_col_px", "shift_row_px"]].to_numpy() - stack[3]
    assert np.abs(error[order[5]] - np.nanmedian(error, axis=0)).max() < 0.08


@pytest.mark.usefixtures("hidden")
def test_one_rescue_link_alone_is_not_trusted(stack, monkeypatch):
    def one(times, scene, others):
        return list(others)[:1]

    monkeypatch.setattr("glacierhpc.coreg.placing.nearest", one)
    result = run(stack)
    refused = result.table.iloc[np.argsort(stack[2], kind="stable")[5]]
    assert not refused.ok and refused.reason == "snow" and np.isnan(refused.m02)


def test_stable_ground_keeps_moving_ice_from_pulling():
    truth = np.random.default_rng(2).normal(0, 1.0, (8, 2))
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    glacier = np.abs(x - y - 10) < 60
    images = [
        np.where(
            glacier, scene_of(shift(truth[i, 0] + 0.6 * i, truth[i, 1]), i), scene_of(shift(*truth[i]), i)
        )
        for i in range(8)
    ]
    times = np.datetime64("2020-07-01", "ns") + np.arange(8) * np.timedelta64(5, "D")

    def drift(**options):
        table = align_stack(images, None, times, **options).table
        assert table.ok.all()
        return np.polyfit(range(8), table.shift_col_px.to_numpy() - truth[:, 0], 1)[0]

    assert abs(drift(stable=~glacier)) < 0.01


def test_a_stack_of_one_is_where_it_is():
    table = align_stack([scene_of(shift(0, 0), 0)], None, np.array(["2020-01-01"], "datetime64[ns]")).table
    assert table.ok[0] and table.shift_px[0] < 1e-3 and table.links[0] == 1 and np.isnan(table.closure_px[0])


@pytest.mark.parametrize("count", [3, 8])
def test_noise_does_not_fit_a_reference_for_being_part_of_it(count):
    noise = np.random.default_rng(0).normal(size=(count, *SHAPE)).astype(np.float32)
    result = align_stack(noise, None, np.arange(count).astype("datetime64[D]"))
    assert not result.table.ok.any() and result.table.reason.str.contains("no other scene agrees").any()
    assert (result.table.reason != "").all() and result.closure.empty and result.vectors.empty


def test_a_stack_without_any_alignment_has_reasons_only():
    result = align_stack(np.ones((3, *SHAPE), np.float32), None, np.arange(3).astype("datetime64[D]"))
    assert not result.table.ok.any() and result.table.reason.str.contains("no contrast").all()
    assert not result.links.used.any() and result.table.residual_px.isna().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"motion": "rigid"}, "'rigid' is not known"),
        ({"stable": np.ones((3, 3), bool)}, "rasterise it"),
        ({"stable": np.zeros((50, 60), bool)}, "False everywhere"),
        ({"valid": np.ones((1, 50, 60), bool)}, "1 masks"),
        ({"times": np.array(["2020-01-01"], "datetime64[ns]")}, "1 times"),
        ({"images": [np.zeros((50, 60)), np.zeros((50, 61))]}, "of one grid"),
        ({"images": []}, "at least one"),
        ({"ids": ["a"]}, "1 ids"),
    ],
)
def test_wrong_arguments_raise(options, message):
    given = {"images": np.zeros((2, 50, 60), np.float32), "valid": None}
    given |= {"times": np.array(["2020-01-01", "2020-02-01"], "datetime64[ns]")} | options
    with pytest.raises(InputError, match=message):
        align_stack(given.pop("images"), given.pop("valid"), given.pop("times"), **given)
