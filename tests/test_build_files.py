"""The files around the package: every version pinned, targets and container definition in order."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from tests.cluster.image import Cache

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
    environment = {"PATH": f"{folder / 'bin'}:/usr/bin:/bin", "GIT_CONFIG_GLOBAL": os.devnull}
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


def builder_of(folder: Path, name: str = "apptainer") -> None:
    """Put a program in the place of a container builder, which only says what it was called with."""
    program = folder / "bin" / name
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && echo "{name} version 4.1.0" && exit\nprintf "%s\\n" "$@"\n'
    )
    program.chmod(0o755)


@pytest.mark.parametrize("builder", ["apptainer", "singularity"])
def test_the_command_that_builds_the_container(tmp_path: Path, builder: str) -> None:
    if builder == "singularity" and Path("/usr/bin/apptainer").exists():
        pytest.skip("Apptainer is installed system-wide and goes first")
    builder_of(tmp_path, builder)
    answer = run_build(tmp_path, "--build-arg", "FROM=/images/my base.sif")
    expected = [
        "build", "--fakeroot", "--build-arg", "COMMIT=unknown", "--build-arg", "BASE_DIGEST=unknown", "--build-arg",
        "FROM=/images/my base.sif", "deeplearning.sif", "deeplearning.def",
    ]  # fmt: skip
    assert answer.stdout.splitlines() == expected
    assert (tmp_path / "build" / "wheelhouse").is_dir()


def test_the_image_is_told_its_source_and_its_base(tmp_path: Path) -> None:
    builder_of(tmp_path)
    base = tmp_path / "base.sif"
    base.write_bytes(b"a base")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / ".gitignore").write_text("build\nbin\n*.sif\ncontainers\n")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        subprocess.run([*git, *words], check=True)
    commit = subprocess.run(
        [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    told = run_build(tmp_path, "--build-arg", f"FROM={base}").stdout.splitlines()
    assert f"COMMIT={commit}" in told
    assert f"BASE_DIGEST=sha256:{hashlib.sha256(b'a base').hexdigest()}" in told
    (tmp_path / ".gitignore").write_text("*\n")
    told = run_build(tmp_path, "--build-arg", "FROM=debian@sha256:12ab").stdout.splitlines()
    assert f"COMMIT={commit}-dirty" in told and "BASE_DIGEST=sha256:12ab" in told


@pytest.mark.parametrize("base", ["/images/none.sif", "debian@sha256:12ab", "base.sif", None])
def test_the_script_and_the_command_build_alike(tmp_path: Path, base: str | None) -> None:
    builder_of(tmp_path)
    (tmp_path / "base.sif").write_bytes(b"a base")
    (tmp_path / "deeplearning.def").write_text((ROOT / "deeplearning.def").read_text())
    words = ["--build-arg", f"FROM={base}"] if base else []
    by_script = run_build(tmp_path, *words)
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "glacierhpc", "container", "build", *words]
    by_command = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    # the command may be called anywhere, and names its files in full; the script goes to the clone
    assert by_command.stdout.replace(f"{tmp_path}/", "") == by_script.stdout


def test_what_the_image_is_made_of_is_kept_whole_and_once(tmp_path: Path) -> None:
    """The cache of tests/cluster: what was cut off or has lost a part is made anew, what is of another key goes."""
    cache, made = Cache(tmp_path), []

    def make(path: Path) -> None:
        made.append(path.name)
        path.mkdir()
        for part in "ab":
            (path / part).write_text("whole")

    path = cache.get("wheels", make, "1")
    assert cache.get("wheels", make, "1") == path and len(made) == 1
    (path / "a").write_text("hal")
    cache.get("wheels", make, "1")
    (path / "b").unlink()
    cache.get("wheels", make, "1")
    assert made == ["1-wheels"] * 3 and (path / "a").read_text() == (path / "b").read_text() == "whole"

    def fails(path: Path) -> None:
        make(path)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.get("wheels", fails, "2")
    assert cache.get("wheels", make, "2").is_dir() and made[3:] == ["2-wheels"] * 2
    assert sorted(each.name for each in tmp_path.glob("*wheels*")) == ["2-wheels", "2-wheels.parts"]


@pytest.mark.parametrize(("home", "removed"), [("/a/cluster", True), ("/another", False)])
def test_a_cluster_that_goes_down_removes_no_users_of_another(home: str, removed: bool) -> None:
    """Two of one port, by mistake; what knows and removes users is pretended here."""
    script = f"""
    root=/a/cluster user=gh-1 other=gh-2
    . {ROOT}/containers/testcluster/people.sh
    getent() {{ echo "$2:x:1:1:$mark:{home}/home/$2:/bin/bash"; }}
    userdel() {{ echo "$1"; }}
    remove_people
    """
    answer = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == (["gh-1", "gh-2"] if removed else [])
