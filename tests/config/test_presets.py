"""The configurations that come with the package are found by name."""

from __future__ import annotations

import pytest

from glacierhpc.config import load_config
from glacierhpc.config.presets import preset_path
from glacierhpc.errors import InputError


def test_presets_are_found_and_a_misspelt_one_is_guessed() -> None:
    assert preset_path("demo").name == "demo.yaml"
    with pytest.raises(InputError, match="did you mean 'forecast'"):
        preset_path("forcast")


@pytest.mark.parametrize("name", ["demo", "forecast"])
def test_presets_need_no_package_beyond_those_of_make_demo(name: str) -> None:
    assert load_config(preset_path(name), []).train.trackers == ("csv",)
