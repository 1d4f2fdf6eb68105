"""The end of the forecast task: the apparent motion in the forecast, and the report.

Reads what `forecast` wrote and needs no torch, so that a page can be made where no model can run.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from glacierhpc.config import Config
from glacierhpc.cube import open_cube
from glacierhpc.report import write_report
from glacierhpc.rundir import RunDirectory, write_json
from glacierhpc.velocity import dense_flow
from glacierhpc.workflows import products
from glacierhpc.workflows.index_facts import image_facts
from glacierhpc.workflows.tasks import Summary, need


def flow(config: Config, run: RunDirectory) -> Summary:
    """Compare the apparent motion of targets and forecasts with the control that nothing moves."""
    prediction = products.open_prediction(need(run.prediction, "predict"))
    first = _latest(prediction.inputs[:, 0].values)
    low, high = image_facts(config, open_cube(need(run.composite, "composite"))).value_range
    fields, leads = {}, []
    for lead in range(prediction.sizes["lead"]):
        pair = {}
        for name in ("target", "prediction"):
            pair[name] = dense_flow(
                first,
                prediction[name][lead, 0].values,
                window_px=config.flow.window_px,
                value_range=(low, high),
            )
        fields[lead] = pair
        leads.append(products.flow_row(lead + 1, pair["target"], pair["prediction"]))
    products.write_flow(run.flow, prediction, fields)
    write_json(run.flow_summary, {"shows": products.FLOW_SHOWS, "leads": leads})
    return {"table": [[f"lead {row['lead']}", _told(row)] for row in leads]}


def _told(row: dict[str, Any]) -> str:
    if not row["valid_share"]:
        return "nothing was measured that the forecast could be compared with"
    return f"end-point error {row['epe_px']:.2f} px; nothing moves {row['epe_zero_flow_px']:.2f} px"


def report(config: Config, run: RunDirectory) -> Summary:
    """Write the self-contained HTML page."""
    path = write_report(run.path)
    return {"table": [["report", str(path)]], "report": str(path)}


def _latest(images: np.ndarray) -> np.ndarray:
    """Return each pixel's latest number of images (T, Y, X): the last window may be empty under cloud."""
    latest = images[0]
    for image in images[1:]:
        latest = np.where(np.isfinite(image), image, latest)
    return latest
