"""Whose folders the demo removes: its own."""

import pytest

from glacierhpc import cli, workflows
from glacierhpc.errors import InputError
from glacierhpc.rundir import RunConfig, RunDirectory
from glacierhpc.workflows.demonstration import _clear


def test_an_earlier_demo_is_removed_and_a_run_can_take_its_place(tmp_path):
    folder = tmp_path / "runs" / "demo"
    for _ in range(2):
        _clear(folder)
        assert [path.name for path in folder.iterdir()] == [".demo"]
        RunDirectory.open(folder, RunConfig("name: demo\n", "a")).close()
    assert (folder / "config.yaml").is_file()


def test_a_run_of_ones_own_stays_even_with_the_demos_configuration(tmp_path):
    RunDirectory.open(tmp_path / "mine", RunConfig("name: demo\n", "a")).close()
    (tmp_path / "file").touch()
    for name in ("mine", "file"):
        with pytest.raises(InputError, match=f"{name}' is not that of an earlier demo"):
            _clear(tmp_path / name)
    assert (tmp_path / "mine" / "config.yaml").is_file()


def test_an_interrupted_demo_promises_only_what_holds(tmp_path, monkeypatch, capsys):
    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(workflows, "demo", stop)
    monkeypatch.setattr(cli.signal, "signal", stop_nothing)
    with pytest.raises(SystemExit):
        cli.main(["demo", str(tmp_path / "demo")])
    assert capsys.readouterr().err.strip() == "glacierhpc: stopped; the same command starts again"


def stop_nothing(*arguments):
    """Leave the test's own signals alone."""
