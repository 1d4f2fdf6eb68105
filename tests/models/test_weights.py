"""Weights come back with the forecasts they gave, and are refused for other data."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from glacierhpc.errors import InputError
from glacierhpc.models import build_model
from glacierhpc.models.weights import ModelDescription, freeze, load_model, load_weights, save_model

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


def written_by_another_version(folder, model, description, **changes):
    """Save weights whose tensors had other names, as those of an older layout have."""
    older = nn.Module()
    older.state_dict = lambda: {  # type: ignore[method-assign]
        name.removeprefix("anchor."): tensor for name, tensor in model.state_dict().items()
    }
    save_model(folder, older, replace(description, **changes))


def test_weights_of_another_version_are_refused_with_what_to_do(saved, tmp_path):
    _, model, description = saved
    written_by_another_version(tmp_path / "older", model, description)
    says = "first 'anchor.scaling.deviation' of shape None there.*Another version wrote them.*: train again"
    with pytest.raises(InputError, match=says):
        load_model(tmp_path / "older", **FITTING)
    with pytest.raises(InputError, match=says):
        load_weights(build_model("convlstm", **PARAMETERS), tmp_path / "older", **BANDS)
    other = PARAMETERS | {"peepholes": True}
    written_by_another_version(tmp_path / "oldest", model, description, parameters=other)
    with pytest.raises(InputError, match=r"\['peepholes'\].* does not take: train again"):
        load_model(tmp_path / "oldest", **FITTING)
    with pytest.raises(InputError, match="Another version wrote them"):
        load_weights(build_model("convlstm", **PARAMETERS), tmp_path / "oldest", **BANDS)


BANDS = {"bands": ["ndsi", "ndwi"], "units": "1"}


def test_training_starts_from_the_weights_and_scaling_of_another_run(saved):
    folder, model, description = saved
    fresh = build_model("convlstm", seed=9, **(PARAMETERS | {"means": [0.5, 0.5], "deviations": [3.0, 3.0]}))
    images = torch.randn(1, 4, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    assert load_weights(fresh, folder, **BANDS) == description
    assert torch.equal(fresh(images), model(images))
    torch.testing.assert_close(fresh.anchor.scaling.mean.flatten(), torch.tensor([0.1, 0.2]))


def test_another_number_of_leads_may_start_from_the_same_weights(saved):
    folder, model, _ = saved
    longer = build_model("convlstm", **(PARAMETERS | {"steps_out": 5}))
    load_weights(longer, folder, **BANDS)
    images = torch.randn(1, 4, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(longer(images)[:, :2], model(images))


@pytest.mark.parametrize(
    ("name", "parameters", "data", "says"),
    [
        ("convlstm", {}, {"bands": ["ndwi", "ndsi"]}, "same order of bands"),
        ("convlstm", {}, {"units": "m/yr"}, "in 'm/yr'"),
        ("convlstm", {"hidden": [5]}, {}, r"'hidden': \[4\]"),
        ("convlstm", {"hidden": [4, 4]}, {}, "tensors differ"),
        ("unet", None, {}, "set model.name to 'convlstm'"),
    ],
)
def test_weights_of_something_else_are_refused(saved, name, parameters, data, says):
    own = {"bands": 2} if parameters is None else PARAMETERS | parameters
    model = build_model(name, **own)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(InputError, match=says):
        load_weights(model, saved[0], **(BANDS | data))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_ones_own_models_start_from_weights_too(saved, tmp_path):
    class_name = "glacierhpc.models.convlstm.ConvLSTM"
    folder, model, description = saved
    save_model(tmp_path / "own", model, replace(description, architecture=class_name))
    load_weights(build_model(class_name, **PARAMETERS), tmp_path / "own", **BANDS)


def test_frozen_parameters_do_not_change_in_training():
    model = build_model("convlstm", **PARAMETERS)
    frozen = freeze(model, ["encoder.*", "embed.weight"])
    assert frozen == ["embed.weight", "encoder.0.gates.weight", "encoder.0.gates.bias"]
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(1, 4, 2, 8, 8)).square().sum().backward()
        optimizer.step()
    changed = {
        name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])
    }
    assert not changed & set(frozen)
    assert {"embed.bias", "head.decode.weight"} <= changed


@pytest.mark.parametrize(
    ("patterns", "says"),
    [
        (["encodr.*"], "'encodr.\\*' matches no parameter"),
        (["encoder.*", "nothing"], "'nothing' matches no parameter"),
        (["*"], "leaves nothing to train"),
    ],
)
def test_freezing_nothing_or_everything_is_refused(patterns, says):
    model = build_model("convlstm", **PARAMETERS)
    with pytest.raises(InputError, match=says):
        freeze(model, patterns)
    assert all(parameter.requires_grad for parameter in model.parameters())
