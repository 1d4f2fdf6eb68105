"""A run goes on in the image it was begun in, or is told to."""

from __future__ import annotations

from pathlib import Path

import pytest

from glacierhpc.config import Config
from glacierhpc.errors import InputError
from glacierhpc.hpc import surroundings
from glacierhpc.rundir import RunDirectory, read_json
from glacierhpc.workflows import run_step
from tests.workflows.cubes import given_config, given_cube, store

FIRST, SECOND = "a" * 64, "b" * 64


def done_in(
    image: str | None, config: Config, monkeypatch: pytest.MonkeyPatch, step: str, folder: Path
) -> None:
    """Do a step as if in an image: what deeplearning.def writes into it lies in a folder."""
    if image:
        (folder / "image-id").write_text(f"{image}\n")
        monkeypatch.setenv("APPTAINER_CONTAINER", "/x.sif")
    else:
        monkeypatch.delenv("APPTAINER_CONTAINER", raising=False)
    monkeypatch.setattr(surroundings, "IMAGE_ID", folder / "image-id")
    run_step(step, config)


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (FIRST, SECOND, "in the image aaaaaaaaaaaa, and this is in the image bbbbbbbbbbbb"),
        (FIRST, None, "in the image aaaaaaaaaaaa, and this is outside any image"),
        (None, SECOND, "outside any image, and this is in the image bbbbbbbbbbbb"),
    ],
)
def test_another_image_is_refused_until_it_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str | None, second: str | None, said: str
) -> None:
    config = given_config(tmp_path / "run", store(given_cube(), tmp_path / "mine.zarr"))
    run = RunDirectory(config.run_path)
    done_in(first, config, monkeypatch, "composite", tmp_path)
    with pytest.raises(InputError, match=f"{said}.*allow_another_image=true"):
        done_in(second, config, monkeypatch, "sequences", tmp_path)
    assert read_json(run.provenance_file)["container_digest"] == first
    assert not run.step_record("sequences")
    allowed = config.model_copy(update={"allow_another_image": True})
    done_in(second, allowed, monkeypatch, "sequences", tmp_path)
    known = read_json(run.provenance_file)
    assert known["container_digest"] == second and known["earlier_containers"] == [first]
    done_in(second, config, monkeypatch, "sequences", tmp_path)  # allowed once, not for good
    assert "allow_another_image: false" in run.config_file.read_text()
    with pytest.raises(InputError, match="allow_another_image=true"):
        done_in(first, config, monkeypatch, "sequences", tmp_path)


def test_the_same_image_and_no_image_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cube = store(given_cube(), tmp_path / "mine.zarr")
    for image in (FIRST, None):
        config = given_config(tmp_path / f"run {image}", cube)
        for step in ("composite", "sequences", "sequences"):
            done_in(image, config, monkeypatch, step, tmp_path)
        assert read_json(RunDirectory(config.run_path).provenance_file)["container_digest"] == image


def test_a_run_without_steps_belongs_to_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = given_config(tmp_path / "run", store(given_cube(), tmp_path / "mine.zarr"))
    with pytest.raises(InputError):
        done_in(
            FIRST, config, monkeypatch, "train", tmp_path
        )  # its sequences are missing: claimed, nothing done
    for record in RunDirectory(config.run_path).steps.glob("*.json"):
        record.unlink()
    done_in(None, config, monkeypatch, "composite", tmp_path)
    assert read_json(RunDirectory(config.run_path).provenance_file)["container_digest"] is None
