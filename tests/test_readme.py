"""Every command and every example of the README works."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from glacierhpc import cli
from glacierhpc.config import load_config
from glacierhpc.scenes import archive
from glacierhpc.workflows import run_steps
from tests.conftest import ROOT
from tests.workflows.cubes import given_cube, store

QUICK = """\
sequences: {size_px: 16, stride_px: 16, steps_in: 1, steps_out: 1, min_valid_share: 0.1}
train: {epochs: 1, batch_size: 16}
evaluate: {bootstrap_samples: 10}
"""
"""So that every training takes a second."""

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGE = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(first_word: str, text: str = README) -> list[list[str]]:
    lines = [line for block in blocks("bash", text) for line in block.splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))[:1] == [first_word]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, archive_folder: Path) -> Path:
    """A folder like a user's: my.yaml for the small archive, and the archive's scenes as files of one's own."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(archive_folder / "scenes", folder / "landsat")
    west, south, east, north = archive.read_truth(archive_folder).bbox_lonlat
    (folder / "my.yaml").write_text(
        f"name: mine\narea: {{bbox_lonlat: [{west}, {south}, {east}, {north}]}}\n"
        f"period: {{start: 2015-01-01, end: 2015-12-31}}\n"
        f"archive: {{catalogue: {archive_folder}, collections: [landsat-c2-l2], signing: none,\n"
        f"  max_cloud_cover_percent: null}}\nacquire: {{min_valid_share: 0}}\nclean: {{min_clear_share: 0.02}}\n"
        f"composite: {{window_months: 1}}\nsplit: {{method: block}}\ncluster: {{kind: serial}}\n{QUICK}"
    )
    cube = given_cube().assign_coords(band=np.array(["ndsi"], object))
    store(cube, folder / "other.zarr")
    (folder / "other.yaml").write_text(f"name: other\ninput: {{cube: other.zarr}}\n{QUICK}")
    return folder


def run(home: Path, words: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", *words]
    return subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=300)


def test_every_glacierhpc_command_does_what_it_says(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process: twenty starts of Python would take longer than their work."""
    monkeypatch.chdir(home)
    before = signal.getsignal(signal.SIGTERM)
    given = commands("glacierhpc")
    assert len(given) >= 6
    for words in given:
        words = [word.replace("/data/landsat", str(home / "landsat")) for word in words]
        if ">" in words:
            words = words[: words.index(">")]  # the template: printed, not kept, since my.yaml is made above
        if words[1] == "run":  # the own files are read only: what is learnt from is the same
            words += ["--to", "composite" if "name=own" in words else "evaluate"]
        with pytest.raises(SystemExit) as end:
            cli.main(words[1:])
        # what works is the machine's affair
        fine = (0, 1) if words[1] == "doctor" else (0,)
        assert end.value.code in fine, (words, capsys.readouterr().err[-2000:])
    signal.signal(signal.SIGTERM, before)


def test_every_command_of_the_cluster_page_is_one(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those that only show are run; of those that need a scheduler each option is in the help."""
    monkeypatch.chdir(home)
    given = commands("glacierhpc", PAGE)
    assert len(given) >= 10
    for words in given:
        shows = "--dry-run" in words or words[1:3] == ["config", "explain"]
        with pytest.raises(SystemExit) as end:
            cli.main(words[1:] if shows else [words[1], "--help"])
        said = capsys.readouterr()
        assert end.value.code == 0, (words, said.err[-2000:])
        if not shows and words[1] != "bench":  # whose help lists the benchmarks
            assert all(word in said.out for word in words if word.startswith("--")), words
    for words in commands("sbatch", PAGE):
        assert (ROOT / words[1]).is_file()


def test_every_launch_line_trains(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the commands above; the same run goes on, so that nothing is left to learn."""
    lines = [
        words for launcher in ("torchrun", "horovodrun", "mpirun", "srun") for words in commands(launcher)
    ]
    assert len(lines) == 4
    for words in lines:
        assert words[words.index("-m") :][:4] == ["-m", "glacierhpc", "train", "my.yaml"]
        load_config(home / "my.yaml", [words[-1]])
    monkeypatch.chdir(home)
    run_steps(load_config(home / "my.yaml", []), to_step="sequences")
    finished = run(home, ["torch.distributed.run", *lines[0][1:]])
    assert finished.returncode == 0, finished.stderr
    assert (home / "runs" / "mine" / "model" / "model.json").is_file()


def test_the_template_of_the_readme_is_a_configuration(home: Path) -> None:
    finished = run(home, ["glacierhpc", "config", "template"])
    (home / "template.yaml").write_text(finished.stdout)
    checked = run(home, ["glacierhpc", "config", "check", "template.yaml"])
    assert checked.returncode == 0, checked.stderr


def test_every_make_target_exists(home: Path) -> None:
    targets = [words[1] for words in commands("make")]
    assert {"demo", "test", "check"} <= set(targets)
    for target in targets:
        subprocess.run(["make", "-n", target], cwd=ROOT, check=True, capture_output=True)


def test_every_job_and_preset_exists() -> None:
    for words in commands("sbatch"):
        subprocess.run(["bash", "-n", ROOT / words[1]], check=True)
        load_config(ROOT / words[2])
    for name in re.findall(r"`(configs/\w+\.yaml)`", README):
        load_config(ROOT / name)
    for name in re.findall(r"`((?:tests|notebooks|jobs)/[\w./]+)`", README):
        assert (ROOT / name).exists(), name


def test_the_library_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = blocks("python")
    exec(compile(example, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert printed.startswith("True [[1.0, 0.0, 2.0]") and "100 pixels filled" in printed


def test_the_picture_is_there() -> None:
    for path in re.findall(r"!\[[^]]*\]\(([^)]+)\)", README):
        assert (ROOT / path).is_file(), path
