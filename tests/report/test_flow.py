"""Motion is drawn on one scale, told per step, and set beside the control that nothing moves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from matplotlib.colors import rgb_to_hsv

from glacierhpc.report import flow, turns
from glacierhpc.report.blocks import Note, Picture, Table
from glacierhpc.report.run_files import RunFiles


def test_colours_tell_direction_and_speed_and_nothing_where_nothing_is_known() -> None:
    u = np.array([0.0, 2.0, 0.0, -1.0, 50.0, np.nan])
    v = np.array([0.0, 0.0, -2.0, 0.0, 0.0, 1.0])  # v grows downwards: the third moves up
    painted = flow.colours(u, v, 2.0)
    hue, strength, _ = rgb_to_hsv(painted[:, :3]).T
    np.testing.assert_allclose(strength[:5], [0, 1, 1, 0.5, 1], atol=1e-6)
    np.testing.assert_allclose(hue[[1, 2, 3]], [0, 0.25, 0.5], atol=1e-6)
    assert list(painted[:, 3]) == [1, 1, 1, 1, 1, 0]


def test_both_fields_have_one_scale_in_px_per_step(finished_run: Path) -> None:
    motion = flow.read_motion(RunFiles(finished_run))
    assert motion is not None
    with xr.open_zarr(finished_run / "flow.zarr") as cube:
        for index, lead in enumerate(motion.leads):
            for part, name in zip((*motion.observed, *motion.predicted), flow.FIELDS, strict=True):
                np.testing.assert_allclose(part[index], cube[name][lead - 1] / lead, rtol=1e-5)
    lengths = np.hypot(*motion.observed), np.hypot(*motion.predicted)
    both = np.concatenate([length.ravel() for length in lengths])
    assert np.nanpercentile(both, 98) <= motion.top <= np.nanpercentile(both, 98) + 0.1


def test_every_picture_says_what_it_shows_and_its_unit(finished_run: Path) -> None:
    pictures = flow.fields(RunFiles(finished_run))
    assert len(pictures) == 3
    for picture in pictures:
        assert isinstance(picture, Picture)
        assert flow.SHOWS in picture.caption and "one scale" in picture.caption and "steps" in picture.caption


def test_the_end_point_error_is_zero_where_the_motion_is_foreseen() -> None:
    field = np.random.default_rng(0).normal(size=(2, 1, 5, 6)).astype(np.float32)
    same = flow.Motion(np.array([1]), (field[0], field[1]), (field[0], field[1]), 1.0)
    assert not same.error.any() and same.aspect == pytest.approx(5 / 6)
    still = flow.Motion(np.array([1]), (field[0], field[1]), (field[0] * 0, field[1] * 0), 1.0)
    np.testing.assert_allclose(still.error, np.hypot(*field))


def test_the_control_tells_mean_and_median_and_old_runs_have_a_dash(copied_run: Path) -> None:
    given = json.loads((copied_run / "flow.json").read_text())
    given["leads"][0] |= {"epe_median_px": 0.31, "epe_zero_flow_median_px": 0.42}
    (copied_run / "flow.json").write_text(json.dumps(given))
    note, table = flow.control(RunFiles(copied_run))
    assert isinstance(note, Note) and isinstance(table, Table)
    assert table.rows[0][3:7] == ("0.650", "0.310", "0.950", "0.420")
    assert table.rows[1][4] == table.rows[1][6] == "\N{EN DASH}"


def test_observed_and_predicted_take_turns_where_both_are_known(
    finished_run: Path, unpainted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    paint = turns._frame

    def kept(*given: Any) -> np.ndarray:
        drawn.append(given)
        return paint(*given)

    monkeypatch.setattr(turns, "_frame", kept)
    (picture,) = turns.turns(RunFiles(finished_run))
    assert isinstance(picture, Picture) and picture.still
    shown = drawn[0][0]
    assert len(drawn) == 2 * turns.TURNS * len(shown.targets)
    for first, second in zip(drawn[::2], drawn[1::2], strict=True):
        assert first[1].endswith("observed") and second[1].endswith("predicted")
        np.testing.assert_array_equal(np.isfinite(first[2]), np.isfinite(second[2]))
    known = np.isfinite(drawn[0][2])
    np.testing.assert_array_equal(drawn[1][2][known], shown.predictions[0][known])
