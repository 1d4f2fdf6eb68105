"""The files around the package: every version pinned, targets and container definition in order."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TARGETS = ("help", "demo", "test", "check", "horovod", "bench", "jobs", "build-container", "test-cluster")


def plain_name(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.match(r"[A-Za-z0-9._-]+", requirement).group()).lower()  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def pins() -> dict[str, str]:
    lines = [line.strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {plain_name(name): version for name, version in pairs}


def test_every_requirement_is_pinned(pins: dict[str, str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert set(extras) == {"imagery", "learning", "mapping", "track", "notebook", "dev", "all"}
    assert set(extras["all"][0].split("[")[1].rstrip("]").split(",")) == set(extras) - {"all"}
    wanted = [
        *project["dependencies"],
        *(line for name, lines in extras.items() if name != "all" for line in lines),
    ]
    assert [line for line in wanted if plain_name(line) not in pins] == []
    assert pins["torch"] == "2.13.0"


def test_what_is_installed_needs_nothing_that_is_not_pinned(pins: dict[str, str]) -> None:
    installed = {plain_name(each.metadata["Name"]): each for each in metadata.distributions()}
    for name in pins.keys() & installed.keys():
        for line in installed[name].requires or []:
            if ";" not in line:  # without a marker: needed everywhere
                assert plain_name(line) in pins, f"{name} needs {line}"


def test_make_help_names_every_target() -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    answer = subprocess.run(
        ["make", "help"], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert [line.split()[1] for line in answer.stdout.splitlines()] == list(TARGETS)


def test_make_says_what_python_it_needs(tmp_path: Path) -> None:
    command = ["make", "demo", "PYTHON=", f"VENV={tmp_path / 'venv'}"]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.returncode != 0 and "needs Python 3.11 to 3.13" in answer.stderr


def definition_sections() -> dict[str, str]:
    text = (ROOT / "deeplearning.def").read_text()
    arguments = dict(
        re.findall(r"^\s+([A-Z_]+)=(.*)$", text.split("%arguments")[1].split("%files")[0], re.MULTILINE)
    )
    for name, value in arguments.items():
        text = text.replace("{{ " + name + " }}", value)
    assert "{{" not in text, "a build argument has no default"
    parts = re.split(r"^%([a-z]+)\n", text, flags=re.MULTILINE)
    return {"header": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def test_the_container_definition_is_whole() -> None:
    sections = definition_sections()
    assert set(sections) == {
        "header", "arguments", "files", "post", "environment", "test", "runscript", "labels", "help",
    }  # fmt: skip
    assert "Bootstrap: docker" in sections["header"]
    for name in ("post", "environment", "test", "runscript"):
        subprocess.run(["sh", "-n"], input=sections[name], text=True, check=True)
    sources = [line.split()[0] for line in sections["files"].splitlines() if line.strip()]
    assert [
        source for source in sources if source != "build/wheelhouse" and not (ROOT / source).exists()
    ] == []


def run_build(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run containers/build.sh of a copy, with only the programs of `folder`/bin and the system's basic ones."""
    environment = {"PATH": f"{folder / 'bin'}:/usr/bin:/bin"}
    script = folder / "containers" / "build.sh"
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text((ROOT / "containers" / "build.sh").read_text())
    command = ["bash", str(script), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_building_the_container_says_what_is_missing(tmp_path: Path) -> None:
    if Path("/usr/bin/apptainer").exists() or Path("/usr/bin/singularity").exists():
        pytest.skip(
            "Apptainer is installed system-wide, so nothing is missing; build with: make build-container"
        )
    answer = run_build(tmp_path)
    assert answer.returncode == 1 and "neither is installed" in answer.stderr


@pytest.mark.parametrize("builder", ["apptainer", "singularity"])
def test_the_command_that_builds_the_container(tmp_path: Path, builder: str) -> None:
    program = tmp_path / "bin" / builder
    program.parent.mkdir()
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    if builder == "singularity" and Path("/usr/bin/apptainer").exists():
        pytest.skip("Apptainer is installed system-wide and goes first")
    answer = run_build(tmp_path, "--build-arg", "FROM=/images/my base.sif")
    expected = [
        "build",
        "--fakeroot",
        "--build-arg",
        "FROM=/images/my base.sif",
        "glacierhpc.sif",
        "deeplearning.def",
    ]
    assert answer.stdout.splitlines() == expected
    assert (tmp_path / "build" / "wheelhouse").is_dir()
