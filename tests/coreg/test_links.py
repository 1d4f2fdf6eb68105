"""Adjustment of link graphs and closure of triangles, on graphs whose truth is known."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glacierhpc.coreg.adjustment import FLOOR_PX, GENERATORS
from glacierhpc.coreg.links import Link, closure, closure_of, corner_offsets
from glacierhpc.coreg.network import adjust
from glacierhpc.errors import InputError

SHAPE = (300, 400)
MAIN = "reference:all"
SCENES = [f"scene-{i:02d}" for i in range(12)]


def motion_matrix(motion, rng, size_px):
    """Return a random matrix of a motion that moves the corners by about `size_px`."""
    p = rng.normal(0, size_px, 8)
    turn, zoom = p[2] / 250, 1 + p[3] / 250
    matrix = np.array([[1, 0, p[0]], [0, 1, p[1]], [0, 0, 1.0]])
    if motion != "translation":
        linear = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        matrix[:2, :2] = linear if motion == "euclidean" else zoom * linear
    if motion in ("affine", "homography"):
        matrix[:2, :2] += p[4:8].reshape(2, 2) / 250
    if motion == "homography":
        matrix[2, :2] = rng.normal(0, size_px / 250**2, 2)
    return matrix


def make_truth(motion="translation", *, seed=0, size_px=3.0):
    rng = np.random.default_rng(seed)
    return {MAIN: np.eye(3)} | {name: motion_matrix(motion, rng, size_px) for name in SCENES}


def make_links(truth, *, noise_px=0.0, seed=1, neighbours=2, error_px=None):
    """Link every scene to the main node and to the next ones, with noise of a given RMS length (translation)."""
    rng = np.random.default_rng(seed)
    pairs = [(MAIN, scene, "reference") for scene in SCENES]
    for step in range(1, neighbours + 1):
        pairs += [(a, b, "neighbour") for a, b in zip(SCENES, SCENES[step:])]
    links = []
    for first, second, kind in pairs:
        matrix = truth[second] @ np.linalg.inv(truth[first])
        noisy = matrix / matrix[2, 2]
        noisy[:2, 2] += rng.normal(0, noise_px / np.sqrt(2), 2)
        links.append(Link(first, second, noisy, noise_px if error_px is None else error_px, kind, 0.9))
    return links


def worst_px(network, truth):
    return max(corner_offsets(network.matrices[name], truth[name], SHAPE).max() for name in network.matrices)


@pytest.mark.parametrize("motion", GENERATORS)
def test_links_without_error_are_recovered_exactly(motion):
    truth = make_truth(motion)
    links = make_links(truth)
    network = adjust(truth, links, shape=SHAPE, motion=motion, main=MAIN)
    assert worst_px(network, truth) < 1e-9
    assert network.used.all() and not network.reasons and np.nanmax(network.misfit_px) < 1e-9
    assert closure(links, SHAPE).rms_px.max() < 1e-9


@pytest.mark.parametrize("motion", GENERATORS)
def test_matrices_stay_what_the_motion_allows(motion):
    truth = make_truth(motion)
    network = adjust(truth, make_links(truth, noise_px=0.3), shape=SHAPE, motion=motion, main=MAIN)
    for name in SCENES:
        linear = network.matrices[name][:2, :2]
        if motion == "translation":
            np.testing.assert_array_equal(linear, np.eye(2))
        if motion in ("euclidean", "similarity"):
            square = linear @ linear.T
            np.testing.assert_allclose(square, np.eye(2) * square[0, 0], atol=1e-12)
        if motion == "euclidean":
            assert np.linalg.det(linear) == pytest.approx(1, abs=1e-12)
        if motion != "homography":
            np.testing.assert_allclose(network.matrices[name][2], [0, 0, 1], atol=1e-15)


def test_translations_are_the_weighted_least_squares_answer():
    """Against the normal equations of the textbook; small errors, so that no weight is lowered much."""
    truth = make_truth()
    rng = np.random.default_rng(5)
    links = [
        Link(link.first, link.second, link.matrix, float(rng.uniform(0.5, 2)), link.kind)
        for link in make_links(truth, noise_px=0.002)
    ]
    network = adjust(truth, links, shape=SHAPE, motion="translation", main=MAIN)
    design = np.zeros((len(links), len(SCENES)))
    for row, link in enumerate(links):
        if link.first != MAIN:
            design[row, SCENES.index(link.first)] = -1
        design[row, SCENES.index(link.second)] = 1
    weights = 1 / np.sqrt(np.array([link.error_px for link in links]) ** 2 + FLOOR_PX**2)
    measured = np.array([link.matrix[:2, 2] for link in links])
    expected = np.linalg.lstsq(design * weights[:, None], measured * weights[:, None], rcond=None)[0]
    found = np.array([network.matrices[name][:2, 2] for name in SCENES])
    np.testing.assert_allclose(found, expected, atol=1e-7)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), motion=st.sampled_from(["translation", "euclidean", "affine"]))
def test_the_order_of_nodes_and_links_does_not_matter(seed, motion):
    truth = make_truth(motion, seed=seed)
    links = make_links(truth, noise_px=0.2, seed=seed)
    rng = np.random.default_rng(seed)
    shuffled = [links[i] for i in rng.permutation(len(links))]
    names = [list(truth)[i] for i in rng.permutation(len(truth))]
    options = {"shape": SHAPE, "motion": motion, "main": MAIN, "level": SCENES}
    first, second = adjust(truth, links, **options), adjust(names, shuffled, **options)
    for name in truth:
        np.testing.assert_array_equal(first.matrices[name], second.matrices[name])
    by_link = dict(zip([id(link) for link in links], first.misfit_px))
    np.testing.assert_array_equal([by_link[id(link)] for link in shuffled], second.misfit_px)
    assert closure(links, SHAPE).equals(closure(shuffled, SHAPE))


@pytest.mark.parametrize("motion", ["translation", "euclidean", "homography"])
def test_wrong_links_are_refused_and_do_no_harm(motion):
    truth = make_truth(motion)
    links = make_links(truth, noise_px=0.05)
    wrong = [3, 17, 30]  # of a scene to the main node, to the next scene, to the one after
    for k, (x, y) in zip(wrong, [(9.0, -4.0), (-3.0, 0.0), (0.0, 40.0)]):
        off = np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]])
        links[k] = Link(links[k].first, links[k].second, off @ links[k].matrix, 0.02, links[k].kind)
    network = adjust(truth, links, shape=SHAPE, motion=motion, main=MAIN)
    assert np.flatnonzero(~network.used).tolist() == wrong
    assert network.misfit_px[wrong] == pytest.approx([9.8, 3.0, 40.0], rel=0.1)
    assert network.link_reasons[30].startswith("it is 40.") and network.link_reasons[0] == ""
    assert set(network.matrices) == set(truth)
    limit_px = 0.15 if motion != "homography" else 0.4
    assert worst_px(network, truth) < limit_px


def test_of_two_links_that_contradict_each_other_the_surer_one_stays():
    links = [
        Link(MAIN, "a", np.eye(3), 0.05, "reference"),
        Link(MAIN, "b", np.eye(3), 0.3, "reference"),
        Link("a", "b", np.array([[1, 0, 8.0], [0, 1, 0], [0, 0, 1]]), 0.05, "neighbour"),
    ]
    network = adjust([MAIN, "a", "b"], links, shape=SHAPE, motion="translation", main=MAIN)
    assert network.used.tolist() == [True, False, True]
    assert network.matrices["b"][0, 2] == pytest.approx(8.0, abs=1e-6)


def test_what_no_path_reaches_has_a_reason():
    truth = make_truth()
    links = make_links(truth)
    apart = {"scene-00", "scene-01"}
    kept = [link for link in links if len({link.first, link.second} & apart) != 1]
    nan = np.full((3, 3), np.nan)
    refused = Link(MAIN, "alone", nan, np.nan, "reference", reason="correlation 0.1 is below 0.2")
    network = adjust(
        [*truth, "alone"], [*kept, refused], shape=SHAPE, motion="translation", main=MAIN, level=SCENES
    )
    assert set(network.reasons) == {*apart, "alone"} and not set(network.matrices) & {*apart, "alone"}
    assert network.reasons["alone"] == "no link to it was found"
    assert "no path" in network.reasons["scene-00"]
    assert network.link_reasons[-1] == "correlation 0.1 is below 0.2"
    between = kept.index(next(link for link in kept if {link.first, link.second} == apart))
    assert not network.used[between] and "no path" in network.link_reasons[between]


def test_a_lone_main_node_is_where_it_is():
    network = adjust([MAIN], [], shape=SHAPE, motion="affine", main=MAIN)
    np.testing.assert_array_equal(network.matrices[MAIN], np.eye(3))
    assert closure([], SHAPE).empty


def test_noise_averages_out_as_predicted():
    """Over many draws: the error is that of the normal equations, under that of a single link."""
    truth, noise_px = make_truth(), 0.1
    errors, predicted = [], []
    for seed in range(60):
        links = make_links(truth, noise_px=noise_px, seed=seed, neighbours=4)
        network = adjust(truth, links, shape=SHAPE, motion="translation", main=MAIN)
        errors += [np.linalg.norm(network.matrices[name][:2, 2] - truth[name][:2, 2]) for name in SCENES]
        predicted += [network.error_px[name] for name in SCENES]
    rms_px = np.sqrt(np.mean(np.square(errors)))
    # one link alone has the error 0.1; four neighbours on each side, themselves held by the main node, halve it
    assert rms_px < 0.6 * noise_px
    assert np.sqrt(np.mean(np.square(predicted))) == pytest.approx(rms_px, rel=0.15)


def test_errors_that_are_too_small_are_found_out():
    truth = make_truth()
    honest = adjust(truth, make_links(truth, noise_px=0.3), shape=SHAPE, motion="translation", main=MAIN)
    boastful = adjust(
        truth, make_links(truth, noise_px=0.3, error_px=0.03), shape=SHAPE, motion="translation", main=MAIN
    )
    ratio = np.mean(list(boastful.error_px.values())) / np.mean(list(honest.error_px.values()))
    assert 0.6 < ratio < 1.4


@pytest.mark.parametrize("motion", ["translation", "euclidean"])
def test_the_frame_lies_at_the_median_of_the_scenes_whatever_the_main_node(motion):
    truth = make_truth(motion, size_px=2.0)
    links = make_links(truth)
    network = adjust(truth, links, shape=SHAPE, motion=motion, main=MAIN, level=SCENES)
    shifts = np.array([network.matrices[name][:2, 2] for name in SCENES])
    if motion == "translation":
        np.testing.assert_allclose(np.median(shifts, axis=0), 0, atol=1e-12)
        moved = adjust(truth, links, shape=SHAPE, motion=motion, main="scene-03", level=SCENES)
        assert worst_px(moved, network.matrices) < 1e-9
        # one scene that is far off moves the frame by less than the scatter of the others
        far = {**truth, "scene-05": truth["scene-05"] + np.array([[0, 0, 100.0], [0, 0, 0], [0, 0, 0]])}
        pulled = adjust(far, make_links(far), shape=SHAPE, motion=motion, main=MAIN, level=SCENES)
        assert corner_offsets(pulled.matrices["scene-00"], network.matrices["scene-00"], SHAPE).max() < 1
    centre = np.array([(SHAPE[1] - 1) / 2, (SHAPE[0] - 1) / 2, 1])
    at_centre = [(network.matrices[name] @ centre - centre)[:2] for name in SCENES]
    np.testing.assert_allclose(np.median(at_centre, axis=0), 0, atol=1e-9)


def test_closure_shows_the_error_of_a_triangle_once():
    def shift(x):
        return np.array([[1, 0, x], [0, 1, 0], [0, 0, 1.0]])

    links = [
        Link("a", "b", shift(1.0), 0.1, "neighbour"),
        Link("c", "b", shift(-2.0), 0.1, "neighbour"),  # against the order of the names
        Link("a", "c", shift(3.25), 0.1, "reference"),
        Link("a", "c", shift(9.0), 0.5, "rescue"),  # a poorer one does not count
        Link("c", "d", shift(0.0), 0.1, "neighbour"),
        Link("a", "d", np.full((3, 3), np.nan), np.nan, "neighbour", reason="no overlap"),
    ]
    table = closure(links, SHAPE)
    assert table[["first", "second", "third"]].to_numpy().tolist() == [["a", "b", "c"]]
    assert table.median_px[0] == pytest.approx(0.25) and table.rms_px[0] == pytest.approx(0.25)
    per_node = closure_of(["a", "d"], table)
    assert per_node["a"] == pytest.approx(0.25) and np.isnan(per_node["d"])


def test_closure_counts_every_triangle():
    truth = make_truth()
    links = make_links(truth, neighbours=1)
    table = closure(links, SHAPE)
    assert (
        len(table) == len(list(pairwise(SCENES))) == len(table.drop_duplicates(["first", "second", "third"]))
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"motion": "rigid"}, "'rigid' is not known"),
        ({"main": "x"}, "main node 'x'"),
        ({"nodes": [MAIN]}, "end at"),
    ],
)
def test_wrong_arguments_raise(change, message):
    truth = make_truth()
    given = {"nodes": list(truth), "motion": "translation", "main": MAIN, **change}
    with pytest.raises(InputError, match=message):
        adjust(given["nodes"], make_links(truth), shape=SHAPE, motion=given["motion"], main=given["main"])
