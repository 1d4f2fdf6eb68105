"""Real series as stacks: Greenland, put on one grid by others."""

from __future__ import annotations

import cv2
import numpy as np
import pandas as pd
import pytest

from glacierhpc.coreg import align_stack


@pytest.mark.parametrize(
    ("glacier", "options", "limits", "moved"),
    [
        # the dates of path 008 are turned and magnified: see tests/workflows/test_real_series.py
        (
            "Jakobshavn",
            {"motion": "affine", "min_correlation": 0.3, "max_shift_px": 32},
            (30, 0.2, 0.15),
            (2, 11, 29),
        ),
        ("Sverdrup", {}, (67, 0.35, 0.15), (11, 29, 65)),
    ],
)
def test_real_series_lie_on_one_grid(real_data, glacier, options, limits, moved):
    """All dates were put on one grid by others: every shift that is found is error, of any season."""
    folder = real_data("greenland-fronts-landsat")
    index = pd.read_csv(folder / "index.csv")
    index = index[index.glacier == glacier].reset_index(drop=True)
    images = [cv2.imread(str(folder / name), cv2.IMREAD_GRAYSCALE).astype(np.float32) for name in index.image]

    def run_on(images):
        times = index.date.to_numpy("datetime64[ns]")
        return align_stack(
            images, [image > 0 for image in images], times, ids=list(index.image), **options
        ).table

    table = run_on(images)
    aligned, rms_px, season_px = limits
    assert table.ok.sum() >= aligned
    straight = table[table.ok & ~table.scene.str.contains("_008011_")]
    assert (straight.shift_px < 4 * straight.error_px + 0.2).mean() > 0.9
    # a date under thin cloud says itself that it is poorly known
    straight = straight[straight.error_px < 0.3]
    assert len(straight) > 0.6 * len(table)
    shifts = straight[["shift_col_px", "shift_row_px"]]
    assert np.sqrt((shifts**2).sum(axis=1).mean()) < rms_px
    # snow and low sun shift the look of a spring as a whole: its own links say 0.6 px on Sverdrup
    assert shifts.groupby(straight.season).median().abs().max(axis=None) < season_px
    errors = []
    for k in moved:
        changed = list(images)
        changed[k] = np.zeros_like(images[k])
        changed[k][6:, :-9] = images[k][:-6, 9:]
        again = run_on(changed)
        assert again.ok[k]
        x, y = (again[f"shift_{axis}_px"][k] - table[f"shift_{axis}_px"][k] for axis in ("col", "row"))
        errors.append(np.hypot(x + 9, y - 6))
    # snowy dates of spring are known to a tenth of a pixel, and say so
    assert np.median(errors) < 0.05 and (np.array(errors) < 2 * table.error_px[list(moved)]).all()
