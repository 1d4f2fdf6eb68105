"""Models are chosen by name or by a dotted path."""

import pytest
import torch

from glacierhpc.errors import InputError
from glacierhpc.models import MODELS, accepted, build_model


@pytest.mark.parametrize("name", MODELS)
def test_every_model_can_be_built_as_it_is(name):
    with torch.device("meta"):
        build_model(name)


@pytest.mark.parametrize("name", MODELS)
def test_a_workflow_can_ask_what_a_model_takes(name):
    given = {
        "bands": 2,
        "steps_in": 3,
        "steps_out": 2,
        "size": 20,
        "means": [0.0, 1.0],
        "deviations": [1.0, 2.0],
    }
    given["value_range"] = [-1, 1]
    with torch.device("meta"):
        build_model(name, **{key: value for key, value in given.items() if key in accepted(name)})
    assert {"bands", "steps_out", "value_range"} <= accepted(name)


def test_what_an_unknown_model_takes_is_not_known():
    with pytest.raises(InputError, match="did you mean 'simvp'"):
        accepted("simpv")
    assert accepted("glacierhpc.models.convlstm.ConvLSTMCell") == {"channels", "hidden", "kernel"}


def test_a_dotted_path_names_ones_own():
    assert type(
        build_model("glacierhpc.models.convlstm.ConvLSTMCell", channels=1, hidden=2, kernel=3)
    ).__name__ == ("ConvLSTMCell")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("convltsm", "did you mean 'convlstm'"),
        ("no.such.Model", "cannot be imported"),
        ("torch.nn.Nix", "cannot be"),
        ("os.system", "is no model"),
        ("torch.nn.functional.relu", "is no model"),
        ("pathlib.Path", "is no model"),
    ],
)
def test_unknown_names_are_refused(name, says):
    with pytest.raises(InputError, match=says):
        build_model(name)
