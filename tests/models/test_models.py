"""Models are chosen by name or by a dotted path."""

import pytest

from glacierhpc.errors import InputError
from glacierhpc.models import MODELS, build_model


def test_every_model_can_be_built():
    for name in MODELS:
        build_model(name)


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
