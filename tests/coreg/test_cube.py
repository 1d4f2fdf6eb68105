"""Alignment of cubes on disk: rows and reasons, the aligned cube, workers, whole pixels."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from glacierhpc.coreg import align_cube, scene_transform
from glacierhpc.coreg.aligned import resample
from glacierhpc.coreg.stack_tasks import link_scenes
from glacierhpc.cube import Variable, create_cube, finish_cube, open_cube, write_time
from glacierhpc.errors import InputError
from glacierhpc.files import read_table
from glacierhpc.grid import Grid
from glacierhpc.kernels.warp import KERNELS
from tests.pairs import make_pair


def shift(x, y):
    return np.array([[1, 0, x], [0, 1, y]], float)


def clouds(shape, share, *, seed=0, size_px=20):
    field = gaussian_filter(np.random.default_rng(seed).normal(size=shape), size_px)
    return field > np.quantile(field, 1 - share)


GRID = Grid("EPSG:32643", (30.0, 0.0, 700005.0, 0.0, -30.0, 3500025.0), (200, 220))
SHIFTS = [(0.0, 0.0), (1.6, -0.7), (-2.2, 1.3), (0.4, 2.4), (-1.1, -1.9)]


@pytest.fixture(scope="module")
def cube(tmp_path_factory):
    """Five shifted scenes with clouds and filled gaps, then a flat one."""
    path = tmp_path_factory.mktemp("coreg") / "clean.zarr"
    days = np.datetime64("2020-01-01", "ns") + np.arange(6) * np.timedelta64(16, "D")
    flags = Variable(("time", "y", "x"), "bool", False)
    create_cube(
        path,
        GRID,
        times=days,
        bands=["green", "nir08"],
        variables={"data": Variable(("time", "band", "y", "x"), "float32"), "valid": flags, "filled": flags},
        coords={"scene": [f"scene-{i}" for i in range(6)], "cloud_cover": np.arange(6.0)},
        attrs={"glacierhpc_version": "0"},
    )
    for i, (x, y) in enumerate([*SHIFTS, (0, 0)]):
        _, image = make_pair(GRID.shape, shift(x, y), seed=9, noise=0.02)
        data = np.stack([image, 0.5 * image])
        covered = clouds(GRID.shape, 0.15, seed=20 + i, size_px=10)
        valid, filled = ~covered, covered.copy()
        filled[:, :100] = False
        data[:, covered & ~filled] = np.nan
        data[:, filled] = 0.9
        if i == 5:
            data[:] = 0.25
        write_time(path, i, {"data": data, "valid": valid, "filled": filled})
    finish_cube(path)
    return path


@pytest.fixture(scope="module")
def aligned(cube, tmp_path_factory):
    store = tmp_path_factory.mktemp("aligned") / "aligned.zarr"
    return align_cube(open_cube(cube), store), store


def test_every_scene_is_a_row_and_the_shifts_are_right(aligned):
    table, _ = aligned
    assert list(table["scene"]) == [f"scene-{i}" for i in range(6)]
    assert list(table["ok"]) == [True] * 5 + [False]
    assert "no contrast" in table["reason"].iloc[5] and np.isnan(table["m00"].iloc[5])
    found = table.loc[:4, ["m02", "m12"]].to_numpy()
    # the median of the scenes lies somewhere between them: only differences are known
    truth = np.array(SHIFTS)
    np.testing.assert_allclose(found - found.mean(axis=0), truth - truth.mean(axis=0), atol=0.06)
    assert (table["shift_m"][:5] == 30 * table["shift_px"][:5]).all()
    assert (table["residual_px"][:5] < 0.25).all()
    assert table["residual_before_px"][2] > 1.5 > 4 * table["residual_px"][2]


def test_aligned_cube_is_resampled_once_and_keeps_its_marks(aligned, cube):
    table, store = aligned
    result, before = open_cube(store), open_cube(cube)
    assert result.sizes["time"] == 5
    assert list(result["scene"].values) == [f"scene-{i}" for i in range(5)]
    np.testing.assert_array_equal(result["cloud_cover"].values, np.arange(5.0))
    assert Grid.from_dataset(result) == GRID
    assert result.attrs["stable_ground"] is False
    data, valid, filled = (result[name].values for name in ("data", "valid", "filled"))
    assert data.dtype == np.float32
    assert not (valid & filled).any()
    np.testing.assert_array_equal(np.isfinite(data).all(axis=1), valid | filled)
    assert 0.6 < valid.mean() < before["valid"].values[:5].mean()
    inner = valid[0] & valid[2]
    spread_after = np.abs(data[0, 1] - data[2, 1])[inner].mean()
    spread_before = np.abs(before["data"].values[0, 1] - before["data"].values[2, 1])[inner]
    assert spread_after < 0.4 * np.nanmean(spread_before)


def test_an_alignment_that_the_residual_contradicts_gives_way_to_the_windows(cube, tmp_path, monkeypatch):
    """As when an ice front is followed by all links of a scene: they agree, and the ground is not where they say."""
    off = np.array([[0, 0, 4.0], [0, 0, -5.0], [0, 0, 0]])

    def fooled(*arguments):
        pairs = link_scenes(*arguments)
        signs = [(pair.second == 2) - (pair.first == 2) for pair in pairs]
        return [
            replace(pair, result=replace(pair.result, matrix=pair.result.matrix + sign * off))
            for pair, sign in zip(pairs, signs)
        ]

    monkeypatch.setattr("glacierhpc.coreg.placing.link_scenes", fooled)
    table = align_cube(open_cube(cube), tmp_path / "aligned.zarr")
    assert list(table["ok"]) == [True] * 5 + [False]
    assert table["rho"][:5].isna().tolist() == [False, False, True, False, False]
    found, truth = table.loc[:4, ["m02", "m12"]].to_numpy(), np.array(SHIFTS)
    np.testing.assert_allclose(
        found - found[[0, 1, 3, 4]].mean(axis=0), truth - truth[[0, 1, 3, 4]].mean(axis=0), atol=0.25
    )
    assert (table["residual_px"][:5] < 0.35).all()
    # where the windows know no better, the scene is refused
    monkeypatch.setattr("glacierhpc.coreg.confirm._shifted", lambda result, x, y: result)
    table = align_cube(open_cube(cube), tmp_path / "none.zarr")
    assert list(table["ok"]) == [True, True, False, True, True, False] and np.isnan(table["m02"][2])
    assert table["reason"][2].startswith("the residual rose from ")


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 1000), x=st.floats(-3, 3), y=st.floats(-3, 3), kernel=st.sampled_from(sorted(KERNELS))
)
def test_what_is_called_observed_never_depends_on_what_was_invented(seed, x, y, kernel):
    shape = (60, 70)
    _, image = make_pair(shape, shift(0, 0), seed=seed)
    covered = clouds(shape, 0.2, seed=seed, size_px=3)
    outcomes = []
    for invented in (0.2, 1e6):
        data = np.where(covered, np.float32(invented), image)[None].astype(np.float32)
        outcomes.append(resample(data, ~covered, np.vstack([shift(x, y), [0, 0, 1]]), kernel))
    (first, valid), (second, same) = outcomes
    np.testing.assert_array_equal(valid, same)
    assert 0.2 < valid.mean() < 0.9
    np.testing.assert_array_equal(first[:, valid], second[:, valid])
    assert (first[:, ~valid] != second[:, ~valid]).any()


def test_links_and_offsets_left_are_written_on_request(cube, tmp_path):
    paths = {name: tmp_path / f"{name}.parquet" for name in ("links", "vectors")}
    table = align_cube(cube, tmp_path / "aligned.zarr", **paths)
    links, vectors = read_table(paths["links"]), read_table(paths["vectors"])
    assert set(links.kind) >= {"reference", "neighbour"} and links[links.used].misfit_px.max() < 0.2
    assert set(links["second"]) <= set(table.scene) and "reference:all" in set(links["first"])
    assert set(vectors.scene) == set(table.scene[:5])
    assert table.closure_px[:5].notna().all() and (table.links[:5] >= 2).all() and table.links[5] == 0


def test_without_resampling_whole_pixels_move_and_the_rest_is_told(cube, tmp_path):
    store = tmp_path / "aligned.zarr"
    table = align_cube(cube, store, kernel="none")[:5]
    result, before = open_cube(store), open_cube(cube)
    assert (
        list(result.coords["offset_x_m"].dims) == ["time"]
        and "whole pixels" in result.offset_x_m.attrs["long_name"]
    )
    for i in range(5):
        x, y = table.m02[i], table.m12[i]
        whole = np.rint([x, y]).astype(int)
        moved = before.data.values[i, 1].copy()
        moved = np.roll(moved, (-whole[1], -whole[0]), axis=(0, 1))[5:-5, 5:-5]
        np.testing.assert_array_equal(result.data.values[i, 1][5:-5, 5:-5], moved)
        # the rest of the shift: eastings grow with columns, northings fall with rows
        assert float(result.offset_x_m[i]) == pytest.approx(-30 * (x - whole[0]))
        assert float(result.offset_y_m[i]) == pytest.approx(30 * (y - whole[1]))
        transform = scene_transform(result, i)
        assert transform[2] == pytest.approx(GRID.transform[2] + float(result.offset_x_m[i]))
        assert transform[5] == pytest.approx(GRID.transform[5] + float(result.offset_y_m[i]))
    data, valid, filled = (result[name].values for name in ("data", "valid", "filled"))
    assert not (valid & filled).any()
    np.testing.assert_array_equal(np.isfinite(data).all(axis=1), valid | filled)
    # a point of the ground has the same coordinates in all dates, to a hundredth of a pixel
    truth = np.array(SHIFTS)
    ground = [
        np.array(scene_transform(result, i))[[2, 5]] / [30, -30] - np.rint([table.m02[i], table.m12[i]])
        for i in range(5)
    ]
    apart = np.array(ground) + truth
    assert np.abs(apart - apart.mean(axis=0)).max() < 0.06


def test_a_resampled_cube_has_the_transform_of_its_grid(aligned):
    assert scene_transform(open_cube(aligned[1]), 2) == tuple(GRID.transform)


def test_the_order_of_the_scenes_in_the_cube_does_not_matter(aligned, cube, tmp_path):
    before, order = open_cube(cube), [4, 1, 5, 0, 3, 2]
    flags = Variable(("time", "y", "x"), "bool", False)
    path = tmp_path / "shuffled.zarr"
    create_cube(
        path,
        GRID,
        times=before.time.values[order],
        bands=["green", "nir08"],
        variables={"data": Variable(("time", "band", "y", "x"), "float32"), "valid": flags, "filled": flags},
        coords={"scene": before.scene.values[order]},
    )
    for position, i in enumerate(order):
        write_time(path, position, {name: before[name].values[i] for name in ("data", "valid", "filled")})
    finish_cube(path)
    again = align_cube(path, tmp_path / "aligned.zarr").sort_values("scene").reset_index(drop=True)
    pd.testing.assert_frame_equal(again.drop(columns="seconds"), aligned[0].drop(columns="seconds"))


def test_progress_comes_to_its_end(cube, tmp_path):
    seen = []
    align_cube(cube, tmp_path / "aligned.zarr", progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] == len({total for _, total in seen}) * seen[0][1]
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_workers_give_the_same(aligned, cube, tmp_path):
    table, store = aligned
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        again = align_cube(cube, tmp_path / "again.zarr", executor=executor)
    # kernels compiled here and kernels taken from the cache may differ in the last bit
    pd.testing.assert_frame_equal(
        again.drop(columns="seconds"), table.drop(columns="seconds"), rtol=1e-3, atol=1e-5
    )
    np.testing.assert_allclose(
        open_cube(tmp_path / "again.zarr")["data"].values, open_cube(store)["data"].values, atol=1e-5
    )
    assert [path.name for path in tmp_path.iterdir()] == ["again.zarr"]


def test_a_cube_that_cannot_be_aligned_leaves_no_store(cube, tmp_path):
    table = align_cube(cube, tmp_path / "none.zarr", min_correlation=1.1)
    assert not table["ok"].any() and (table["reason"] != "").all()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"band": "nir"}, "did you mean 'nir08'"),
        ({"motion": "rigid"}, "'rigid' is not known"),
        ({"kernel": "sinc"}, "'sinc' is not known"),
        ({"kernel": "none", "motion": "euclidean"}, "does not allow"),
        ({"stable": np.ones((3, 3), bool)}, "rasterise it"),
        ({"stable": np.zeros((200, 220), bool)}, "False everywhere"),
    ],
)
def test_wrong_cube_arguments_raise(cube, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        align_cube(cube, tmp_path / "x.zarr", **options)
    with pytest.raises(InputError, match="open_cube"):
        align_cube(open_cube(cube).drop_encoding(), tmp_path / "x.zarr")
