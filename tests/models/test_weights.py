"""Weights come back with the forecasts they gave, and are refused for other data."""

import json

import pytest
import torch

from glacierhpc.errors import InputError
from glacierhpc.models import build_model
from glacierhpc.models.weights import ModelDescription, load_model, save_model

PARAMETERS = {"bands": 2, "steps_out": 2, "hidden": [4], "means": [0.1, 0.2], "deviations": [1.0, 2.0]}
FITTING = {"architecture": "convlstm", "bands": ["ndsi", "ndwi"], "units": "1"}


@pytest.fixture
def saved(tmp_path):
    model = build_model("convlstm", seed=3, **PARAMETERS)
    description = ModelDescription(
        architecture="convlstm",
        parameters=PARAMETERS,
        bands=("ndsi", "ndwi"),
        units="1",
        scaling={"ndsi": {"mean": 0.1, "deviation": 1.0}, "ndwi": {"mean": 0.2, "deviation": 2.0}},
        resolution_m=30.0,
        steps_in=4,
        steps_out=2,
        split_hash="abc",
    )
    save_model(tmp_path / "model", model, description)
    return tmp_path / "model", model, description


def test_a_model_comes_back(saved):
    folder, model, description = saved
    again, told = load_model(folder, **FITTING, resolution_m=30.0)
    assert told == description
    images = torch.randn(1, 4, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again(images), model.eval()(images))
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "model.safetensors"]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"bands": ["ndwi", "ndsi"], "units": "1"}, "same order of bands"),
        ({"bands": ["ndsi"], "units": "1"}, "expect bands"),
        ({"bands": ["ndsi", "ndwi"], "units": "m/yr"}, "in 'm/yr'"),
        ({**FITTING, "resolution_m": 10.0}, "area.resolution_m"),
    ],
)
def test_other_data_are_refused(saved, data, says):
    with pytest.raises(InputError, match=says):
        load_model(saved[0], **{**FITTING, **data})


def test_a_description_cannot_run_code(saved, tmp_path):
    folder, ran = saved[0], tmp_path / "ran"
    told = json.loads((folder / "model.json").read_text())
    told |= {"architecture": "os.system", "parameters": {"command": f"touch {ran}"}}
    (folder / "model.json").write_text(json.dumps(told))
    with pytest.raises(InputError, match="holds a 'os.system'"):
        load_model(folder, **FITTING)
    with pytest.raises(InputError, match="'os.system' is no model"):
        load_model(folder, **{**FITTING, "architecture": "os.system"})
    assert not ran.exists()


def test_damaged_or_exchanged_files_are_refused(saved, tmp_path):
    folder = saved[0]
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-5])
    with pytest.raises(InputError, match="is not the file that model.json describes"):
        load_model(folder, **FITTING)
    told = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({name: told[name] for name in told if name != "units"}))
    with pytest.raises(InputError, match="does not describe a model"):
        load_model(folder, **FITTING)
    with pytest.raises(InputError, match="does not describe a model"):
        load_model(tmp_path / "nothing", **FITTING)
