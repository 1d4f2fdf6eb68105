"""The notebook runs from top to bottom, and a drawn box comes back as YAML."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

NOTEBOOK = Path(__file__).resolve().parents[1] / "notebooks" / "pick_area.ipynb"

DRAW = """
ring = [[77.5, 32.0], [77.5, 32.2], [77.8, 32.2], [77.8, 32.0], [77.5, 32.0]]
drawn = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
draw._handle_leaflet_event(draw, {"event": "draw:created", "geo_json": drawn}, [])
print(section.value)
draw._handle_leaflet_event(draw, {"event": "draw:deleted", "geo_json": drawn}, [])
assert section.value == "" and not chosen
"""


# jupyter_client and its event loop give notices of their own deprecations
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_drawn_box_comes_back_as_the_area_section() -> None:
    nbformat = pytest.importorskip("nbformat", reason="install the extra dev")
    nbclient = pytest.importorskip("nbclient", reason="install the extra dev")
    pytest.importorskip("ipyleaflet", reason="install the extra dev")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(DRAW))
    nbclient.NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    (output,) = notebook.cells[-1].outputs
    assert yaml.safe_load(output.text) == {
        "area": {"bbox_lonlat": [77.5, 32.0, 77.8, 32.2], "resolution_m": 30}
    }


def test_the_stored_notebook_has_no_outputs() -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert all(not cell.get("outputs") and not cell.get("execution_count") for cell in cells)
