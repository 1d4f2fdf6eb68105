"""The command line: what a user types, what comes back, and that bad input ends in one clear line."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from glacierhpc import cli, workflows
from glacierhpc.errors import GlacierError
from glacierhpc.workflows.tasks import TASKS
from tests.scenes.rasters import numbers, write_raster

ROOT = Path(__file__).resolve().parents[1]
BBOX = [77.6375, 32.1, 77.6625, 32.12]


@dataclass(frozen=True)
class Answer:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The last line, as JSON."""
        return json.loads(self.out.splitlines()[-1])


@pytest.fixture
def glacier(capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Return a function that runs a command in this process."""
    before = signal.getsignal(signal.SIGTERM)

    def run(*arguments: object) -> Answer:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main([str(argument) for argument in arguments])
        signal.signal(signal.SIGTERM, before)
        told = capsys.readouterr()
        assert "Traceback" not in told.out + told.err
        return Answer(int(end.value.code or 0), told.out, told.err)

    return run


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small synthetic archive made by the command line."""
    folder = tmp_path_factory.mktemp("cli") / "scenes"
    command = [
        sys.executable,
        "-m",
        "glacierhpc",
        "archive",
        "create",
        folder,
        "--scenes",
        "8",
        "--size-px",
        "96",
    ]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    return folder


@pytest.fixture
def config(tmp_path: Path, scenes: Path) -> Path:
    values = {
        "name": "tiny",
        "run_dir": str(tmp_path / "run"),
        "area": {"bbox_lonlat": BBOX},
        "period": {"start": "2015-01-01", "end": "2015-12-31"},
        "archive": {
            "catalogue": str(scenes),
            "collections": ["landsat-c2-l2"],
            "max_cloud_cover_percent": None,
        },
        "acquire": {"max_attempts": 1},
        "composite": {"window_months": 1},
        "sequences": {"size_px": 16, "stride_px": 8, "steps_in": 1, "steps_out": 1},
        "cluster": {"kind": "serial"},
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


# --- what it looks like


def test_help_is_quick_because_nothing_heavy_is_imported() -> None:
    heavy = ("numpy", "pydantic", "torch", "xarray")
    program = f"import sys, glacierhpc.cli; print([name for name in {heavy} if name in sys.modules])"
    answer = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"


def test_every_command_has_help(glacier: Callable[..., Answer]) -> None:
    told = glacier("--help").out
    for command in ("run", "demo", "config", "archive", "bench", *cli.STEPS):
        assert f" {command} " in told
    for command in (["run"], ["acquire"], ["config", "check"], ["archive", "serve"], ["archive", "index"]):
        assert glacier(*command, "--help").code == 0


def test_the_commands_are_the_steps_of_the_task() -> None:
    assert list(cli.STEPS) == list(TASKS["forecast"])


def test_own_files_become_a_catalogue(glacier: Callable[..., Answer], tmp_path: Path) -> None:
    for day in ("20150711", "20150727"):
        for name, values in (
            ("img", np.stack([numbers(0), numbers(1)])),
            ("clm", np.zeros((40, 50), np.uint8)),
        ):
            write_raster(tmp_path / "in" / f"site7_{name}_{day}.tif", values)
    told = glacier(
        "archive", "index", tmp_path / "in", "--collection", "own", "--scale", "1e-4", "--json",
        "--pattern", r"(?P<scene>site7)(?:_img|_(?P<band>clm))_(?P<date>\d{8})",
        "--bands", "green, swir16", "--quality", "clm=cloud_mask", "--quality", "qa=flags",
    )  # fmt: skip
    assert told.code == 0, told.err
    items = sorted((Path(told.json["catalogue"]).parent / "items").glob("*.json"))
    assert [path.stem for path in items] == ["site7_20150711", "site7_20150727"]
    item = json.loads(items[0].read_text())
    assert item["collection"] == "own" and set(item["assets"]) == {"cloud_mask", "image"}
    assert [band["name"] for band in item["assets"]["image"]["bands"]] == ["green", "swir16"]


def test_version_template_and_check(glacier: Callable[..., Answer], tmp_path: Path, config: Path) -> None:
    assert glacier("--version").out.startswith("glacierhpc 0.")
    (tmp_path / "template.yaml").write_text(glacier("config", "template").out)
    assert glacier("config", "check", tmp_path / "template.yaml").code == 0
    checked = glacier("config", "check", config, "align.motion=affine", "--json")
    assert checked.code == 0 and checked.json["ok"] and checked.json["run"] == str(tmp_path / "run")


def test_steps_run_restart_and_answer_in_json(
    glacier: Callable[..., Answer], config: Path, tmp_path: Path
) -> None:
    plan = glacier("acquire", config, "--dry-run", "--json")
    assert plan.code == 0 and plan.json["ok"] and not (tmp_path / "run").exists()
    assert glacier("run", config, "--dry-run", "--json").json.items() <= plan.json.items()
    done = glacier("run", config, "--to", "acquire", "--json")
    assert done.code == 0 and set(done.json["steps"]) == {"search", "acquire"}
    again = glacier("run", config, "--to", "acquire")
    assert again.code == 0 and "nothing to do" in again.out
    by_folder = glacier("search", tmp_path / "run", "--json")
    assert by_folder.code == 0 and by_folder.json["step"] == "search"
    assert (tmp_path / "run" / "logs" / "search.log").stat().st_size > 0


def test_a_copied_run_is_worked_on_where_it_is(tmp_path: Path, config: Path) -> None:
    from glacierhpc.cli.arguments import load
    from glacierhpc.config import load_config
    from glacierhpc.rundir import RunDirectory

    with workflows.runner.claimed(load_config(config)) as run:
        shutil.copytree(run.path, tmp_path / "copy")
    copied = tmp_path / "copy" / "config.yaml"
    assert load(copied, None).run_path == load(copied.parent, None).run_path == tmp_path / "copy"
    assert load(copied, [f"run_dir={tmp_path / 'other'}"]).run_path == tmp_path / "other"
    with workflows.runner.claimed(load(copied, None)) as again:
        assert again.path == tmp_path / "copy"
    (tmp_path / "mine").mkdir()
    own = shutil.copy(config, tmp_path / "mine" / "config.yaml")  # not of a run, though it has that name
    assert load(Path(own), None).run_path == RunDirectory(tmp_path / "run").path


# --- bad input


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["area.bbox_lonlat=[78, 31, 77, 32]"], "west must be less than east"),
        (["acquire.bands=[green, swir61]"], "did you mean 'swir16'?"),
        (["align.moton=affine"], "did you mean align.motion?"),
        (["area.crs=EPSG:4326"], "is not projected"),
        (["model.name=convltsm"], "did you mean 'convlstm'?"),
        (["motion"], "is not section.key=value"),
    ],
)
@pytest.mark.parametrize("command", [["run"], ["config", "check"]])
def test_wrong_configurations(
    glacier: Callable[..., Answer],
    config: Path,
    tmp_path: Path,
    command: list[str],
    overrides: list[str],
    words: str,
) -> None:
    answer = glacier(*command, config, *overrides, "--json")
    assert answer.code == 2 and words in answer.err and words in answer.json["error"]
    assert not answer.json["ok"] and answer.json["exit_code"] == 2
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["frobnicate"], "No such command 'frobnicate'"),
        (["run"], "Missing argument 'CONFIG'"),
        (["run", "none.yaml"], "does not exist"),
        (["run", "."], "no config.yaml"),
        (["archive", "create", "x", "--scenes", "0"], "--scenes"),
        (["archive", "index", "none"], "none"),
        (["archive", "index", ".", "--quality", "clm"], "--quality 'clm' is not NAME=KIND"),
        (["archive", "index", ".", "--quality", "clm=clouds"], "did you mean 'cloud_mask'"),
        (["archive", "serve", "none"], "none"),
        (["demo", "thesis"], "thesis"),
    ],
)
def test_wrong_arguments(
    glacier: Callable[..., Answer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    words: str,
) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").touch()
    monkeypatch.chdir(tmp_path)
    answer = glacier(*arguments)
    assert answer.code == 2 and words in answer.err and len(answer.err.strip().splitlines()) == 1
    assert (tmp_path / "thesis" / "chapter1.tex").exists()


def test_an_unreachable_catalogue(glacier: Callable[..., Answer], config: Path) -> None:
    answer = glacier("search", config, "archive.catalogue=http://127.0.0.1:9/stac", "archive.timeout_s=2")
    assert answer.code in (1, 2) and "http://127.0.0.1:9/stac" in answer.err.splitlines()[-1]
    answer = glacier("search", config, "archive.catalogue=nowhere")
    assert answer.code == 2 and "nowhere" in answer.err.splitlines()[-1]


def test_an_empty_search_and_an_unknown_step(glacier: Callable[..., Answer], config: Path) -> None:
    answer = glacier("search", config, "period.start=1990-01-01", "period.end=1991-12-31")
    assert answer.code == 2 and "1990-01-01" in answer.err
    answer = glacier("run", config, "--to", "acqire")
    assert answer.code == 2 and "did you mean 'acquire'" in answer.err


def test_a_step_whose_input_is_missing(glacier: Callable[..., Answer], config: Path) -> None:
    answer = glacier("acquire", config)
    assert answer.code == 2 and "items.json does not exist; run the step that writes it first" in answer.err


def test_a_run_directory_of_another_configuration(glacier: Callable[..., Answer], config: Path) -> None:
    assert glacier("search", config).code == 0
    answer = glacier("search", config, "align.motion=affine")
    assert answer.code == 2 and "align.motion was 'translation', is 'affine'" in answer.err
    assert glacier("search", config, "cluster.workers=3").code == 0


def test_broken_files_are_listed_and_the_others_kept(
    glacier: Callable[..., Answer], config: Path, scenes: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(scenes, copy)
    corrupt, html = sorted(copy.rglob("*SR_B5*.TIF") or copy.rglob("*nir08*.tif"))[:2]
    corrupt.write_bytes(corrupt.read_bytes()[:3000])
    html.write_text("<html><body>Sign in</body></html>")
    answer = glacier(
        "run", config, f"archive.catalogue={copy}", "--to", "acquire", "acquire.min_valid_share=0"
    )
    assert answer.code == 1 and answer.err.count(" could not be read") >= 1
    assert len([line for line in answer.err.splitlines() if line.startswith("  ")]) == 2
    tolerated = glacier(
        "run", config, f"archive.catalogue={copy}", "--to", "acquire", "acquire.min_valid_share=0",
        "acquire.tolerate_failed_scenes=2", "--json",
    )  # fmt: skip
    assert tolerated.code == 0 and len(tolerated.json["steps"]["acquire"]["failed"]) == 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 8 MB, which only root may do."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a full disk needs the right to mount a small one: run the tests as root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_loses_nothing(glacier: Callable[..., Answer], config: Path, small_disk: Path) -> None:
    run = f"run_dir={small_disk / 'run'}"
    assert glacier("search", config, run).code == 0
    ballast = small_disk / "ballast"
    with pytest.raises(OSError, match="No space left"):
        ballast.write_bytes(bytes(16 * 1024**2))
    full = glacier("acquire", config, run)
    assert full.code == 1 and "full" in full.err.strip().splitlines()[-1], full.err
    assert not (small_disk / "run" / "cube.zarr").exists()
    ballast.unlink()
    assert glacier("acquire", config, run).code == 0


# --- what ends a command


@pytest.mark.parametrize(
    ("raised", "code", "words"),
    [
        (GlacierError("three scenes failed"), 1, "three scenes failed"),
        (KeyboardInterrupt(), 1, "the same command goes on where it stopped"),
        (ZeroDivisionError("division"), 1, "unexpected ZeroDivisionError: division (details in "),
    ],
)
def test_no_traceback_reaches_a_user(
    glacier: Callable[..., Answer],
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    raised: BaseException,
    code: int,
    words: str,
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise raised

    monkeypatch.setattr(workflows, "run_step", fail)
    (tmp_path / "run" / "logs").mkdir(parents=True)
    answer = glacier("clean", config, "--json")
    assert answer.code == code and words in answer.err and words in answer.json["error"]
    log = tmp_path / "run" / "logs" / "unexpected.log"
    assert log.exists() == isinstance(raised, ZeroDivisionError)
    assert not log.exists() or "Traceback" in log.read_text()


@pytest.mark.parametrize("logs", ["run/logs", "elsewhere"])
def test_tokens_reach_neither_the_user_nor_a_file(
    glacier: Callable[..., Answer], config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logs: str
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise ValueError("cannot read https://a.b/c.tif?se=2026-01-01&sig=SECRET")

    monkeypatch.setattr(workflows, "run_step", fail)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / logs).mkdir(parents=True)
    answer = glacier("clean", config, "--json")
    written = [path.read_text() for path in tmp_path.rglob("*.log")]
    assert len(written) == 1 and "https://a.b/c.tif?..." in written[0]
    assert "SECRET" not in answer.out + answer.err + written[0]


def test_sigterm_is_recorded_as_an_interruption(config: Path, tmp_path: Path) -> None:
    program = f"""
import glacierhpc.cli, glacierhpc.workflows, os, signal
from glacierhpc.rundir import RunConfig, RunDirectory
def wait(name, config, **options):
    with RunDirectory.open(config.run_path, RunConfig("name: tiny", "hash")) as run, run.step(name):
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
glacierhpc.workflows.run_step = wait
glacierhpc.cli.main(["search", {str(config)!r}])
"""
    answer = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert answer.returncode == 1 and "stopped" in answer.stderr and "Traceback" not in answer.stderr
    assert json.loads((tmp_path / "run" / "steps" / "search.json").read_text())["state"] == "interrupted"


def test_a_served_archive_ends_quietly(scenes: Path) -> None:
    command = [sys.executable, "-m", "glacierhpc", "archive", "serve", str(scenes), "--json"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout and process.stderr
        addresses = json.loads(process.stdout.readline())
        assert addresses["catalogue"].startswith("http://127.0.0.1:")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0
        assert "Traceback" not in process.stderr.read()


def test_a_crs_of_another_place_is_refused_by_the_check(glacier: Callable[..., Answer]) -> None:
    answer = glacier("config", "check", ROOT / "configs" / "forecast.yaml", "area.crs=EPSG:32718")
    assert answer.code == 2 and "scale of 1.086" in answer.err
