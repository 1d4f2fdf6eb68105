"""Job scripts: the ones in jobs/ are what the renderer writes, and no value escapes its quotes."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glacierhpc.errors import InputError
from glacierhpc.hpc import slurm
from glacierhpc.hpc.slurm import JOBS, JobSpec, job_surroundings, render, write_jobs

FOLDER = Path(__file__).resolve().parents[2] / "jobs"
SPEC = JobSpec("test", "A test.", ("run",))


def test_the_stored_scripts_are_what_is_rendered(tmp_path: Path) -> None:
    written = {path.name: path.read_text() for path in write_jobs(tmp_path)}
    stored = {path.name: path.read_text() for path in FOLDER.glob("*.sbatch")}
    assert stored == written, "run: make jobs"


@pytest.mark.parametrize("name", [spec.name for spec in JOBS])
def test_scripts_are_right_for_bash(name: str) -> None:
    script = FOLDER / f"{name}.sbatch"
    subprocess.run(["bash", "-n", str(script)], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", str(script)], check=True)


@pytest.fixture
def fake(tmp_path: Path) -> dict[str, str]:
    """Return an environment whose `glacierhpc` and `apptainer` print their arguments, one a line."""
    for name in ("glacierhpc", "apptainer"):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/usr/bin/env bash\nprintf "%s\\n" {name} "$@"\n')
        program.chmod(0o755)
    return {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SLURM_SUBMIT_DIR": str(tmp_path)}


def run_script(
    text: str, arguments: list[str], environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    command = ["bash", "-c", text, "job", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_script_hands_its_arguments_on(fake: dict[str, str]) -> None:
    config = "my file; $(touch hacked).yaml"
    answer = run_script(render(SPEC), [config, "align.motion=affine"], {**fake, "SLURM_CPUS_PER_TASK": "3"})
    expected = ["glacierhpc", "run", config, "cluster.workers=3", "align.motion=affine"]
    assert answer.stdout.splitlines() == expected, answer.stderr


def test_training_has_all_cores_of_the_job(fake: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "bin" / "glacierhpc").write_text('#!/usr/bin/env bash\necho "$OMP_NUM_THREADS"\n')
    assert run_script(render(SPEC), ["a"], {**fake, "SLURM_CPUS_PER_TASK": "3"}).stdout.strip() == "3"
    assert run_script(render(SPEC), ["a"], fake).stdout.strip() == "1"


def test_a_script_runs_the_image_it_is_given(fake: dict[str, str]) -> None:
    given_image = {**fake, "GLACIERHPC_IMAGE": "/images/my image.sif", "SLURM_JOB_GPUS": "0"}
    words = run_script(render(SPEC), ["a.yaml"], given_image).stdout.splitlines()
    assert words[:2] == ["apptainer", "exec"] and "--nv" in words
    assert words[words.index("/images/my image.sif") + 1 :] == [
        "glacierhpc",
        "run",
        "a.yaml",
        "cluster.workers=1",
    ]


def test_only_a_job_that_goes_on_says_so() -> None:
    assert "it goes on where it stopped" in render(SPEC)
    assert "starts again" in render(next(spec for spec in JOBS if spec.name == "demo"))


def test_a_script_without_a_configuration_says_so(fake: dict[str, str]) -> None:
    answer = run_script(render(SPEC), [], fake)
    assert answer.returncode == 2 and "no configuration given" in answer.stderr


@settings(max_examples=30, deadline=None)
@given(
    word=st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF), min_size=1, max_size=20),
    directive=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20),
)
def test_no_value_escapes_its_quotes(word: str, directive: str) -> None:
    text = render(replace(SPEC, about=word, command=("run", word), directives={"comment": directive}))
    (line,) = [line for line in text.split("\n") if line.startswith("#SBATCH --comment")]
    assert shlex.split(line.removeprefix("#SBATCH ")) == [f"--comment={directive}"]
    call = text.rstrip("\n").split("\n")[-1].partition('"${glacierhpc[@]}" ')[2]
    assert shlex.split(call)[:2] == ["run", word]
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)


@pytest.mark.parametrize(
    "spec",
    [
        replace(SPEC, name="a; rm -rf $HOME"),
        replace(SPEC, about="two\nlines"),
        replace(SPEC, command=("run\n",)),
        replace(SPEC, directives={"account=x\n#SBATCH --nice": "1"}),
        replace(SPEC, directives={"account": "a\nrm -rf ."}),
        replace(SPEC, hours=0),
    ],
)
def test_what_cannot_stand_in_a_script_is_refused(spec: JobSpec) -> None:
    with pytest.raises(InputError):
        render(spec)


def test_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert job_surroundings({}) == {"job_id": None, "container_digest": None}
    (tmp_path / "image-id").write_text("abc\n")
    monkeypatch.setattr(slurm, "IMAGE_ID", tmp_path / "image-id")
    told = job_surroundings({"SLURM_JOB_ID": "7", "APPTAINER_CONTAINER": "/x.sif"})
    assert told == {"job_id": "7", "container_digest": "abc"}
