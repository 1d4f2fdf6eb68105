"""The end of the forecast task: the apparent motion in the forecast, and the report.

Reads what `forecast` wrote and needs no torch, so that a page can be made where no model can run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from glacierhpc.config import Config
from glacierhpc.cube import open_cube
from glacierhpc.report import write_report
from glacierhpc.rundir import RunDirectory, write_json
from glacierhpc.velocity import dense_flow
from glacierhpc.workflows import products
from glacierhpc.workflows.index_facts import image_facts
from glacierhpc.workflows.tasks import Summary, need


def flow(config: Config, run: RunDirectory) -> Summary:
    """Compare the apparent motion of targets and forecasts with the control that nothing moves.

    Motion is found in whole images: it needs about 30 times the memory of one (float32), measured, whatever the number
    of leads. That is 12 GB for 10,000 x 10,000 px.
    """
    prediction = products.open_prediction(need(run.prediction, "predict"))
    first = _latest(prediction.inputs)
    value_range = image_facts(config, open_cube(need(run.composite, "composite"))).value_range
    rows = []
    with products.flow_writer(run.flow, prediction) as writer:
        for lead in range(prediction.sizes["lead"]):
            found = {
                name: dense_flow(
                    first,
                    prediction[name][lead, 0].values,
                    window_px=config.flow.window_px,
                    value_range=value_range,
                )
                for name in ("target", "prediction")
            }
            writer.write(lead, **found)
            rows.append(products.flow_row(lead + 1, **found))
    write_json(run.flow_summary, {"shows": products.FLOW_SHOWS, "leads": rows})
    return {"table": [[f"lead {row['lead']}", _told(row)] for row in rows]}


def _told(row: dict[str, Any]) -> str:
    if not row["valid_share"]:
        return "nothing was measured that the forecast could be compared with"
    return f"end-point error {row['epe_px']:.2f} px; nothing moves {row['epe_zero_flow_px']:.2f} px"


def report(config: Config, run: RunDirectory, *, output: Path | None = None) -> Summary:
    """Write the self-contained HTML page; to `output`, if given, and the run is only read."""
    path = write_report(run.path, output)
    return {"table": [["report", str(path)]], "report": str(path)}


def _latest(inputs: xr.DataArray) -> np.ndarray:
    """Return the latest number of each pixel in the first band, (y, x): the last window may be empty under cloud."""
    latest = inputs[0, 0].values
    for step in range(1, inputs.sizes["step_in"]):
        image = inputs[step, 0].values
        latest = np.where(np.isfinite(image), image, latest)
    return latest
