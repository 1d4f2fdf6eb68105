"""Job scripts: the ones in jobs/ are what the renderer writes, they run as written, and no value escapes its quotes."""

from __future__ import annotations

import shlex
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glacierhpc.errors import InputError
from glacierhpc.hpc import surroundings
from glacierhpc.hpc.apptainer import Runtime, exec_command
from glacierhpc.hpc.site import PLAIN, Site
from glacierhpc.hpc.slurm import JOBS, JobSpec, job_surroundings, render, write_jobs
from glacierhpc.hpc.slurm.arrays import numbers_of, numbers_text, parted
from glacierhpc.hpc.slurm.job import Launch
from glacierhpc.workflows.tasks import TASKS
from tests.hpc.scripts import SPEC, environment, program, run_script

FOLDER = Path(__file__).resolve().parents[2] / "jobs"
SCRIPTS = sorted(path.name for path in FOLDER.glob("*.sbatch"))


@pytest.fixture
def fake(tmp_path: Path) -> dict[str, str]:
    """Return an environment whose `glacierhpc` and `apptainer` print their arguments, one a line."""
    for name in ("glacierhpc", "apptainer"):
        program(tmp_path, name, f'printf "%s\\n" {name} "$@"')
    return environment(tmp_path)


# --- what stands in jobs/


def test_the_stored_scripts_are_what_is_rendered(tmp_path: Path) -> None:
    written = {path.name: path.read_text() for path in write_jobs(tmp_path)}
    stored = {path.name: path.read_text() for path in FOLDER.glob("*.sbatch")}
    assert stored == written, "run: make jobs"


def test_there_is_a_script_for_every_step_and_what_is_typed_already() -> None:
    assert {*TASKS["forecast"], "run", "imagery", "training", "results", "demo"} < {
        spec.name for spec in JOBS
    }


def test_scripts_are_right_for_bash() -> None:
    paths = [str(FOLDER / name) for name in SCRIPTS]
    for path in paths:
        subprocess.run(["bash", "-n", path], check=True)
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed; on Debian: apt install shellcheck")
    answer = subprocess.run(["shellcheck", *paths], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout


# --- what they run


def test_a_script_hands_its_arguments_on(fake: dict[str, str]) -> None:
    config = "my file; $(touch hacked).yaml"
    answer = run_script(render(SPEC), [config, "align.motion=affine"], {**fake, "SLURM_CPUS_PER_TASK": "3"})
    expected = ["glacierhpc", "run", config, "cluster.workers=3", "align.motion=affine"]
    assert answer.stdout.splitlines() == expected, answer.stderr


def test_what_a_job_sets_comes_before_what_the_user_sets(fake: dict[str, str]) -> None:
    spec = JobSpec("train-single", "A test.", ("train",), ("train.backend=single",))
    words = run_script(render(spec), ["a.yaml", "train.epochs=2"], fake).stdout.splitlines()
    assert words == ["glacierhpc", "train", "a.yaml", "train.backend=single", "train.epochs=2"]


def test_training_has_all_cores_of_the_job(fake: dict[str, str], tmp_path: Path) -> None:
    program(tmp_path, "glacierhpc", 'echo "$OMP_NUM_THREADS"')
    assert run_script(render(SPEC), ["a"], {**fake, "SLURM_CPUS_PER_TASK": "3"}).stdout.strip() == "3"
    assert run_script(render(SPEC), ["a"], fake).stdout.strip() == "1"


def test_a_script_runs_the_image_it_is_given(fake: dict[str, str]) -> None:
    given_image = {**fake, "GLACIERHPC_IMAGE": "/images/my image.sif", "SLURM_JOB_GPUS": "0"}
    words = run_script(render(SPEC), ["a.yaml"], given_image).stdout.splitlines()
    assert words[:2] == ["apptainer", "exec"] and {"--cleanenv", "--no-home"} <= set(words)
    called = ["glacierhpc", "run", "a.yaml", "cluster.workers=1"]
    assert words[words.index("/images/my image.sif") + 1 :] == called


@pytest.mark.parametrize(
    ("there", "option"), [((), "--nv"), (("nvidiactl", "kfd"), "--nv"), (("kfd",), "--rocm")]
)
def test_an_image_is_shown_the_drivers_of_the_gpus_that_are_there(
    there: tuple[str, ...], option: str, fake: dict[str, str], tmp_path: Path
) -> None:
    """The node's devices are files in a folder: no AMD GPU is here. A job without GPU gets no driver."""
    (tmp_path / "dev").mkdir()
    for name in there:
        (tmp_path / "dev" / name).touch()
    script = render(SPEC).replace("-e /dev/", f"-e {tmp_path}/dev/")
    image = {**fake, "GLACIERHPC_IMAGE": "i.sif"}
    words = run_script(script, ["a.yaml"], {**image, "SLURM_JOB_GPUS": "0"}).stdout.splitlines()
    assert [word for word in words if word in ("--nv", "--rocm")] == [option]
    command = exec_command(
        Runtime("apptainer", "apptainer", (1, 3)), "i.sif", [], gpu=True, devices=tmp_path / "dev"
    )
    assert option in command  # what `container exec --gpu` and the doctor do is the same
    assert not {"--nv", "--rocm"} & set(run_script(script, ["a.yaml"], image).stdout.splitlines())


@pytest.mark.parametrize(
    ("keys", "runs"),
    [([], True), (["my key.pem"], True), (["keyring", "$HERE/k"], True), (["keyring"], False)],
)
def test_a_job_refuses_an_image_without_the_signature_that_is_demanded(
    keys: list[str], runs: bool, fake: dict[str, str], tmp_path: Path
) -> None:
    """A program stands for Apptainer, which knows two keys."""
    known = 'case $2$3 in "--keymy key.pem" | --key/a/k) ;; *) exit 255;; esac'
    program(tmp_path, "apptainer", f'if [[ $1 == verify ]]; then {known}; else echo "runs"; fi')
    site = Site(signed_by=tuple(keys))
    environ = {**fake, "HERE": "/a"}
    answer = run_script(render(SPEC, site), ["a.yaml"], {**environ, "GLACIERHPC_IMAGE": "my image.sif"})
    assert answer.returncode == (0 if runs else 2) and ("runs" in answer.stdout) == runs
    assert ("none of signed_by has signed it (keyring)" in answer.stderr) != runs
    assert run_script(render(SPEC, site), ["a.yaml"], environ).returncode == 0  # no image, no signature


def test_an_image_sees_of_the_environment_only_what_is_named(fake: dict[str, str], tmp_path: Path) -> None:
    program(tmp_path, "apptainer", "env")
    outside = {
        **fake,
        "GLACIERHPC_IMAGE": "i.sif",
        "PYTHONPATH": "/evil",
        "SLURM_PROCID": "0",
        "NCCL_DEBUG": "a b,c",
    }
    seen = run_script(render(SPEC), ["a.yaml"], outside).stdout.splitlines()
    handed = {
        line.partition("=")[0].removeprefix("APPTAINERENV_")
        for line in seen
        if line.startswith("APPTAINERENV")
    }
    assert {"SLURM_PROCID", "PYTHONNOUSERSITE", "NCCL_DEBUG"} <= handed and "PYTHONPATH" not in handed
    assert "APPTAINERENV_NCCL_DEBUG=a b,c" in seen


def test_folders_of_a_site_are_seen_in_the_image(fake: dict[str, str]) -> None:
    site = Site(binds=('/scratch/$PROJECT/it\'s "$(touch hacked)" `x`',), image="/i.sif")
    words = run_script(render(SPEC, site), ["a.yaml"], {**fake, "PROJECT": "p 1"}).stdout.splitlines()
    assert '/scratch/p 1/it\'s "$(touch hacked)" `x`' in words
    twice = run_script(render(SPEC, Site(binds=("/a", "/a b", "/a"), image="/i.sif")), ["a.yaml"], fake)
    assert [word for word in twice.stdout.splitlines() if word.startswith("/a")] == ["/a", "/a b"]


@pytest.mark.parametrize("name", ["a,b", "a:b"])
def test_a_folder_that_would_be_two_in_an_image_is_refused(
    name: str, fake: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "a.yaml").touch()
    in_image = {**fake, "GLACIERHPC_IMAGE": "/i.sif"}
    answer = run_script(render(SPEC), [f"{name}/a.yaml"], in_image)
    assert answer.returncode == 2 and f"{name} cannot be seen in an image" in answer.stderr
    assert run_script(render(SPEC), [f"{name}/a.yaml"], fake).returncode == 0


def test_a_script_without_a_configuration_says_so(fake: dict[str, str]) -> None:
    answer = run_script(render(SPEC), [], fake)
    assert answer.returncode == 2 and "no configuration given" in answer.stderr


def test_only_a_job_that_goes_on_says_so_and_is_queued_again() -> None:
    assert "it goes on where it stopped" in render(SPEC) and "#SBATCH --requeue\n" in render(SPEC)
    demo = render(next(spec for spec in JOBS if spec.name == "demo"))
    assert "starts again" in demo and "--requeue" not in demo and "again=none" in demo


def test_several_processes_are_started_by_srun_and_told_where_to_meet(
    fake: dict[str, str], tmp_path: Path
) -> None:
    program(tmp_path, "scontrol", "printf 'n1\\nn2\\n'")
    program(tmp_path, "srun", 'echo "$MASTER_ADDR $MASTER_PORT"; printf "%s\\n" "$@"')
    spec = JobSpec("ranks", "A test.", ("train",), launch="srun", nodes=2)
    job = {**fake, "SLURM_JOB_ID": "12034", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_CPUS_PER_TASK": "4"}
    said = run_script(render(spec, Site(srun=("--cpu-bind=cores",))), ["a.yaml"], job).stdout.splitlines()
    assert said[0] == "n1 20034" and {"--mpi=none", "--cpus-per-task=4", "--cpu-bind=cores"} <= set(said)


# --- time is up


STOPPABLE = "trap 'echo saved; exit 75' USR2; echo ready; while :; do sleep 0.05; done"


def stopped_by(number: int, environ: dict[str, str], text: str) -> tuple[int, str]:
    """Run a script, send it a signal when its work has begun, and return its exit code and words."""
    command = ["bash", "-c", text, "job", "a.yaml"]
    with subprocess.Popen(
        command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as job:
        assert job.stdout is not None and job.stdout.readline() == "ready\n"
        job.send_signal(number)
        said = job.stdout.read()
    return job.returncode, said


@pytest.fixture
def job(fake: dict[str, str], tmp_path: Path) -> dict[str, str]:
    program(tmp_path, "glacierhpc", STOPPABLE)
    program(tmp_path, "scontrol", 'echo "scontrol $*"')
    program(
        tmp_path,
        "sbatch",
        'echo "sbatch $GLACIERHPC_ATTEMPT $*" >&2; env | grep -c ^SLURM_J >&2; echo "99;x"',
    )
    program(tmp_path, "squeue", 'printf "%s\\n" "8 afterok:7(unfulfilled)" "9 afterok:77(unfulfilled)"')
    return {**fake, "SLURM_JOB_ID": "7", "SLURM_JOB_PARTITION": "long", "SLURM_JOB_NAME": "a job"}


def test_a_job_whose_time_is_up_saves_and_is_queued_again(job: dict[str, str]) -> None:
    code, said = stopped_by(signal.SIGUSR2, job, render(SPEC))
    assert code == 75 and "saved\n" in said and "scontrol requeue 7" in said


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_job_that_somebody_ends_saves_and_is_not_queued_again(job: dict[str, str], number: int) -> None:
    code, said = stopped_by(number, job, render(SPEC))
    assert code == 75 and "saved\n" in said and "scontrol" not in said and "sbatch" not in said


def test_attempts_are_counted(job: dict[str, str]) -> None:
    text = render(SPEC, Site(attempts=3))
    assert "scontrol requeue" in stopped_by(signal.SIGUSR2, {**job, "SLURM_RESTART_COUNT": "1"}, text)[1]
    code, said = stopped_by(signal.SIGUSR2, {**job, "SLURM_RESTART_COUNT": "2"}, text)
    assert code == 75 and "scontrol" not in said and "start 3 of at most 3" in said
    evil = {**job, "SLURM_RESTART_COUNT": "1", "GLACIERHPC_ATTEMPT": "x[$(touch hacked)]1"}
    assert "start 3" in stopped_by(signal.SIGUSR2, evil, text)[1]


def test_where_jobs_may_not_be_requeued_a_new_one_follows(job: dict[str, str]) -> None:
    code, said = stopped_by(
        signal.SIGUSR2, {**job, "SLURM_RESTART_COUNT": "1"}, render(SPEC, Site(again="successor"))
    )
    assert code == 75 and "goes on in job 99" in said
    assert (
        "sbatch 2 --parsable --dependency=afterany:7 --job-name=a job --partition=long job a.yaml\n0\n"
        in said
    )
    # what waited for this one waits for the new one, and nothing else does
    assert "scontrol update JobId=8 Dependency=afterok:99" in said and "JobId=9" not in said


def test_a_requeue_that_is_refused_becomes_a_new_job(job: dict[str, str], tmp_path: Path) -> None:
    program(tmp_path, "scontrol", "exit 1")
    assert "goes on in job 99" in stopped_by(signal.SIGUSR2, job, render(SPEC))[1]


def test_work_that_fails_is_not_started_again(job: dict[str, str], tmp_path: Path) -> None:
    program(tmp_path, "glacierhpc", "exit 3")
    answer = run_script(render(SPEC), ["a.yaml"], job)
    assert answer.returncode == 3 and "scontrol" not in answer.stdout
    program(tmp_path, "glacierhpc", "trap 'exit 1' USR2; echo ready; while :; do sleep 0.05; done")
    code, said = stopped_by(signal.SIGUSR2, job, render(SPEC))
    assert code == 1 and "scontrol" not in said


def test_work_that_asks_to_be_tried_again_is(job: dict[str, str], tmp_path: Path) -> None:
    program(tmp_path, "glacierhpc", "exit 75")
    answer = run_script(render(SPEC), ["a.yaml"], job)
    assert answer.returncode == 75 and "scontrol requeue 7" in answer.stdout


def test_a_signal_that_comes_twice_is_one(job: dict[str, str], tmp_path: Path) -> None:
    program(
        tmp_path, "glacierhpc", "trap ':' USR2; echo ready; for i in {1..20}; do sleep 0.05; done; exit 75"
    )
    with subprocess.Popen(
        ["bash", "-c", render(SPEC), "job", "a.yaml"], env=job, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        for _ in range(3):
            process.send_signal(signal.SIGUSR2)
            time.sleep(0.1)
        said = process.stdout.read()
    assert process.returncode == 75 and said.count("scontrol requeue") == 1


def test_a_job_leaves_word_of_its_end(job: dict[str, str], tmp_path: Path) -> None:
    spec = replace(SPEC, config="/run", folder=str(tmp_path))
    assert stopped_by(signal.SIGUSR2, job, render(spec))[0] == 75
    assert (tmp_path / "test-7.exit").read_text().split()[:3] == ["75", "requeued", "0"]
    program(tmp_path, "glacierhpc", "exit 3")
    again = {**job, "SLURM_RESTART_COUNT": "1", "SLURM_JOB_NODELIST": "n[1-2]"}
    assert run_script(render(spec), [], again).returncode == 3
    code, word, attempt, _, *more = (tmp_path / "test-7.exit").read_text().split()
    assert [code, word, attempt, *more] == ["3", "ended", "1", "-", "n[1-2]"]


def test_a_start_that_was_overtaken_leaves_the_word_to_the_next(job: dict[str, str], tmp_path: Path) -> None:
    """As the first start of a job lives on when its node is lost for the scheduler, and the second one runs."""
    spec = replace(SPEC, config="/run", folder=str(tmp_path))
    (tmp_path / "test-7.exit").write_text("- began 1 1\n")
    code, said = stopped_by(signal.SIGUSR2, job, render(spec))
    assert code == 75 and "scontrol" not in said and "sbatch" not in said
    assert (tmp_path / "test-7.exit").read_text() == "- began 1 1\n"
    (tmp_path / "test-7.exit").write_text("")  # torn
    assert "scontrol requeue 7" in stopped_by(signal.SIGUSR2, job, render(spec))[1]


# --- tasks of an array


def test_a_task_of_an_array_is_handed_its_number(fake: dict[str, str]) -> None:
    spec = replace(
        SPEC, command=("sweep",), numbered="--trial", pools=False, array=(0, 1, 7), offset=1000, at_once=2
    )
    text = render(spec)
    assert "#SBATCH --array=0-1,7%2\n" in text and "#SBATCH --output=%x-%A_%a.log\n" in text
    task = {**fake, "SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_JOB_ID": "3"}
    words = run_script(text, ["a b.yaml", "x.y=1"], task).stdout.splitlines()
    assert words == ["glacierhpc", "sweep", "a b.yaml", "--trial", "1007", "x.y=1"]
    alone = run_script(text, ["a b.yaml"], fake).stdout.splitlines()
    assert alone == ["glacierhpc", "sweep", "a b.yaml"]


def test_a_task_of_an_array_queues_itself_again_and_not_the_array(
    job: dict[str, str], tmp_path: Path
) -> None:
    """Of the last task SLURM_JOB_ID is the number of the whole array: `scontrol requeue 7` would start all again."""
    task = {**job, "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "4"}
    spec = replace(SPEC, config="/run", folder=str(tmp_path), array=(4,))
    code, said = stopped_by(signal.SIGUSR2, task, render(spec))
    assert code == 75 and "scontrol requeue 7_4\n" in said
    assert (tmp_path / "test-7_4.exit").read_text().split()[:2] == ["75", "requeued"]
    program(
        tmp_path,
        "squeue",
        'printf "%s\\n" "8 afterok:2(unfulfilled),afterany:7_*(unfulfilled)" "9 afterany:70_*"',
    )
    _, said = stopped_by(signal.SIGUSR2, task, render(spec, Site(again="successor")))
    assert "--dependency=afterany:7_4 " in said and "--array=4 " in said
    assert (
        "scontrol update JobId=8 Dependency=afterok:2,afterany:7,afterany:99\n" in said
        and "JobId=9" not in said
    )
    assert (tmp_path / "test-7_4.exit").read_text().split()[1::3] == ["succeeded", "99"]
    # of the tasks that are to end well the next to do so finds what the first has made of it
    for waits, then in (("afterok:2,afterok:7_*", "afterok:2,afterany:7,afterok:99"),
                        ("afterany:7_*,afterok:98", "afterany:7,afterok:98,afterany:99")):  # fmt: skip
        program(tmp_path, "squeue", f'echo "8 {waits.replace(",", "(unfulfilled),")}(unfulfilled)"')
        _, said = stopped_by(signal.SIGUSR2, task, render(spec, Site(again="successor")))
        assert f"scontrol update JobId=8 Dependency={then}\n" in said


@given(numbers=st.sets(st.integers(0, 300)), size=st.integers(2, 50))
def test_arrays_together_have_the_numbers_of_all(numbers: set[int], size: int) -> None:
    assert numbers_of(numbers_text(numbers)) == tuple(sorted(numbers))
    parts = parted(sorted(numbers), size)
    assert all(max(own) < size for _, own in parts)
    assert [offset + number for offset, own in parts for number in own] == sorted(numbers)


def test_numbers_as_slurm_writes_them() -> None:
    assert numbers_text([5, 0, 1, 2]) == "0-2,5" and numbers_of("[0-6:3,9%2]") == (0, 3, 6, 9)
    assert numbers_of("N/A") == () and numbers_of("") == ()


# --- the chain that needs no Python


@pytest.mark.parametrize(
    ("training", "chain"),
    [
        ("", ["imagery", "training", "results"]),
        ("train-ddp", ["imagery", "sequences", "train-ddp", "results"]),
    ],
)
def test_the_pipeline_submits_one_job_after_the_other(
    fake: dict[str, str], tmp_path: Path, training: str, chain: list[str]
) -> None:
    shutil.copytree(FOLDER, tmp_path / "jobs")
    program(tmp_path, "sbatch", 'echo "${SLURM_JOB_ID:-none} $*" >>said; wc -l <said')
    given_job = {**fake, "TRAINING": training, "SLURM_JOB_ID": "5"}
    answer = run_script((FOLDER / "pipeline.sbatch").read_text(), ["my config.yaml", "a.b=1"], given_job)
    assert answer.returncode == 0, answer.stderr
    said = (tmp_path / "said").read_text().splitlines()
    assert [line.split("jobs/")[1] for line in said] == [
        f"{job}.sbatch my config.yaml a.b=1" for job in chain
    ]
    assert all(line.startswith("none ") and "--kill-on-invalid-dep=yes" in line for line in said)
    assert ["--dependency" in line for line in said] == [False] + [True] * (len(chain) - 1)
    assert "--dependency=afterok:2 " in said[2]
    program(tmp_path, "sbatch", "exit 1")
    assert run_script((FOLDER / "pipeline.sbatch").read_text(), ["c"], given_job).returncode == 1
    unknown = run_script((FOLDER / "pipeline.sbatch").read_text(), ["c"], {**given_job, "TRAINING": "x"})
    assert unknown.returncode == 2 and "names no script" in unknown.stderr


# --- hostile values


SPECIAL = st.sampled_from(list(" ;$()`#'\"\\%&|<>*?~!{}[]="))
HOSTILE = st.one_of(
    st.text(SPECIAL, max_size=20),
    st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), max_size=20),
    st.text(st.one_of(SPECIAL, st.sampled_from(["\n", "\r", "\t", "\x00", "\u2028"])), max_size=20),
)


@settings(max_examples=40, deadline=None)
@given(value=HOSTILE, word=HOSTILE.filter(bool))
def test_no_value_is_ever_executed(tmp_path_factory: pytest.TempPathFactory, value: str, word: str) -> None:
    """Every field of a job and a site is hostile; what refuses to be rendered is fine, what runs is the same text."""
    folder = tmp_path_factory.mktemp("hostile")
    program(folder, "glacierhpc", 'printf "%s\\0" "$@"; printf "%s\\0" "$VALUE" "$TMPDIR"')
    program(folder, "module", "true")
    attack = f"{value}$(touch {folder}/hacked)"
    text_of = attack.replace("$", "").replace(":", "").replace(",", "")
    try:
        site = Site.model_validate({
            "environment": {"VALUE": attack}, "modules": [attack], "scratch": text_of, "binds": [text_of],
            "image": None, "account": attack, "use": {"cpu": attack}, "directives": {"all": {"comment": attack}},
            "interface": attack,
        })  # fmt: skip
        spec = replace(SPEC, command=("run", word), about=attack, label=attack, overrides=(attack,))
        text = render(spec, site)
    except (InputError, ValueError):
        assert any(ord(letter) < 32 or letter in "\x7f\x85\u2028\u2029" for letter in value + word)
        return
    answer = run_script(text, [attack], environment(folder))
    said = answer.stdout.split("\0")
    assert said[:2] == ["run", word] and said[2] == said[4] == attack, answer.stderr
    assert said[5:7] == [attack, text_of]
    assert not (folder / "hacked").exists()
    lines = [line.removeprefix("#SBATCH ") for line in text.split("\n") if line.startswith("#SBATCH")]
    for option in ("comment", "account", "partition", "job-name"):
        found = [shlex.split(line) for line in lines if line.startswith(f"--{option}")]
        assert found == [[f"--{option}={attack}".replace("\\", "\\\\")]]  # sbatch halves them again


def test_a_module_command_may_read_what_is_not_set(tmp_path: Path) -> None:
    """What a site defines comes to a job as a function; the script itself goes on as strict as before."""
    program(tmp_path, "glacierhpc", "true")
    text = render(replace(SPEC, command=("run",)), Site(modules=("tools",)))
    module = {"BASH_FUNC_module%%": '() { loaded=$1$LOADED_BEFORE; echo "module $*"; }'}
    answer = run_script(text, ["c.yaml"], environment(tmp_path) | module)
    assert answer.returncode == 0 and "module load tools" in answer.stdout, answer.stderr
    strict = run_script(
        text.replace("set -u\n", 'set -u\n: "$NEVER_SET"\n', 1), ["c.yaml"], environment(tmp_path) | module
    )
    assert strict.returncode != 0 and "NEVER_SET" in strict.stderr


CONTAINER = """\
if [[ "$*" == *rendezvous* ]]; then echo 127.0.0.1 1; exec cat; fi
printf "%s\\0" image "$@"
"""
NODES = """\
while [[ $1 == --* ]]; do shift; done
for ((task = 0; task < SLURM_STEP_NUM_TASKS; task++)); do
    node=$((task / PER_NODE))
    SLURM_PROCID=$task SLURM_LOCALID=$((task % PER_NODE)) SLURM_NODEID=$node SLURMD_NODENAME=n$node "$@" || exit
done
"""
"""Stands for srun: one task after the other, as they lie on nodes in blocks."""
TOLD_PLACE = """\
[[ $1 == rendezvous ]] && { echo 127.0.0.1 1; cat; exit; }
echo "$HOROVOD_HOSTNAME $HOROVOD_RANK $HOROVOD_LOCAL_RANK $HOROVOD_CROSS_RANK" \\
    "$HOROVOD_SIZE $HOROVOD_LOCAL_SIZE $HOROVOD_CROSS_SIZE"
"""


@pytest.mark.parametrize(("nodes", "per_node"), [(1, 2), (3, 1), (2, 2), (3, 4)])
def test_the_places_of_tasks_are_those_that_horovod_counts(
    nodes: int, per_node: int, fake: dict[str, str], tmp_path: Path
) -> None:
    hosts = pytest.importorskip("horovod.runner.common.util.hosts", reason="make horovod")
    program(tmp_path, "srun", NODES)
    program(tmp_path, "scontrol", "echo n0")
    program(tmp_path, "glacierhpc", TOLD_PLACE)
    spec = JobSpec("train-horovod", "A test.", ("train",), launch="gloo")
    job = {"SLURM_STEP_NUM_TASKS": str(nodes * per_node), "SLURM_STEP_NUM_NODES": str(nodes),
           "PER_NODE": str(per_node), "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n0"}  # fmt: skip
    even = f"{per_node}(x{nodes})" if nodes > 1 else str(per_node)
    answer = run_script(render(spec), ["a.yaml"], {**fake, **job, "SLURM_STEP_TASKS_PER_NODE": even})
    named = hosts.parse_hosts(",".join(f"n{node}:{per_node}" for node in range(nodes)))
    places = hosts.get_host_assignments(named, nodes * per_node, nodes * per_node)
    assert answer.stdout.splitlines() == [
        f"{place.hostname} {place.rank} {place.local_rank} {place.cross_rank} "
        f"{place.size} {place.local_size} {place.cross_size}"
        for place in places
    ], answer.stderr
    answer = run_script(render(spec), ["a.yaml"], {**fake, **job, "SLURM_STEP_TASKS_PER_NODE": "2,1"})
    assert answer.returncode == 2 and "as many processes on one node as on the other" in answer.stderr


STEP = """\
options=()
while [[ $1 == --* ]]; do options+=("$1"); shift; done
printf "%s\\0" srun "${options[@]}" end
exec "$@"
"""


@settings(max_examples=30, deadline=None)
@given(
    value=HOSTILE.map(lambda text: text.replace("/", "")),
    launch=st.sampled_from(["alone", "srun", "gloo", "mpi", "elastic"]),
)
def test_nor_is_any_value_of_a_run_in_an_image(
    tmp_path_factory: pytest.TempPathFactory, value: str, launch: Launch
) -> None:
    """The fields that a script of `glacierhpc submit` has besides, for each way to start processes."""
    folder = tmp_path_factory.mktemp("hostile")
    program(
        folder,
        "apptainer",
        '[[ "$*" =~ rendezvous|"glacierhpc members" ]] && { echo 127.0.0.1 1; cat; exit; }; printf "%s\\0" image "$@"',
    )
    program(folder, "srun", STEP)
    program(folder, "scontrol", "echo n1")
    program(folder, "touch", f"echo >{folder}/hacked")
    attack = f"{value}$(touch hacked)`touch hacked`"
    path = attack.translate(dict.fromkeys(map(ord, "$:,\\")))
    try:
        site = Site(
            image=f"/{path}",
            binds=(f"/{path}", "/b"),
            signed_by=(f"/{path}",),
            srun=(f"--x={attack}",),
            gpu_type=attack,
            interface=attack,
        )
        run = folder / path
        spec = replace(
            SPEC, config=str(run), folder=str(run), launch=launch, gpus=1, numbered=f"--{attack}", array=(3,)
        )
        text = render(spec, site)
    except (InputError, ValueError):
        assert any(ord(letter) < 32 or letter in "\x7f\x85\u2028\u2029" for letter in value)
        return
    run.mkdir()
    subprocess.run(["bash", "-n", "/dev/stdin"], input=text, text=True, check=True)
    job = {"SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "6", "SLURM_ARRAY_TASK_ID": "3", "SLURM_JOB_NODELIST": "n1",
           "SLURM_STEP_TASKS_PER_NODE": "1", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_LOCALID": "0",
           "SLURM_NODEID": "0", "SLURM_STEP_NUM_NODES": "1", "SLURMD_NODENAME": "n1"}  # fmt: skip
    answer = run_script(text, [attack], environment(folder, **job))
    said = answer.stdout.split("\0")
    assert answer.returncode == 0 and not (folder / "hacked").exists(), answer.stderr
    if launch != "alone":
        assert f"--x={attack}" in said[: said.index("end")]
    inside = said[said.index("image") :]
    assert {f"/{path}", str(folder)} <= set(inside)
    called = ["glacierhpc", "run", str(run), f"--{attack}", "3", "cluster.workers=1", attack, ""]
    assert inside[inside.index("glacierhpc") :] == called and inside[-len(called) - 1] == f"/{path}"
    assert (run / "test-6_3.exit").read_text().startswith("0 ended 0 ")


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="on Debian: apt install shellcheck")
@pytest.mark.parametrize("launch", ["alone", "srun", "gloo", "mpi", "elastic"])
def test_a_script_full_of_special_characters_is_right_for_shellcheck(launch: Launch, tmp_path: Path) -> None:
    nasty = "a b;&|<>()#\"'`$(id)${HOME}\\%j*?~!{}[]= ü"
    site = Site.model_validate({
        "environment": {"VALUE": nasty}, "modules": [nasty], "scratch": nasty, "binds": [nasty], "image": nasty,
        "signed_by": [nasty], "account": nasty, "use": {"cpu": nasty}, "interface": nasty, "srun": [nasty],
        "gpu_type": nasty, "directives": {"all": {"comment": nasty}},
    })  # fmt: skip
    spec = JobSpec(
        "a", nasty, ("run", nasty), label=nasty, overrides=(nasty,), config=f"/{nasty}", folder="/a %j '$(id)` \"",
        launch=launch, numbered=nasty, array=(0, 5), gpus=2,
    )  # fmt: skip
    path = tmp_path / "job.sbatch"
    path.write_text(render(spec, site))
    answer = subprocess.run(["shellcheck", path], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout


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


def test_a_folder_in_which_sbatch_could_write_no_log_is_refused() -> None:
    with pytest.raises(InputError, match="cannot write their logs"):
        render(replace(SPEC, config="/r", folder="/a\\b"))


def test_a_log_is_where_it_should_be_whatever_the_folder_is_called() -> None:
    spec = replace(SPEC, config="/r", folder="/a %j b")
    assert "#SBATCH --output='/a %%j b/test-%j.log'\n" in render(spec, PLAIN)


def test_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert job_surroundings({}) == {"job_id": None, "container_digest": None}
    (tmp_path / "image-id").write_text("abc\n")
    monkeypatch.setattr(surroundings, "IMAGE_ID", tmp_path / "image-id")
    told = job_surroundings({"SLURM_JOB_ID": "7", "APPTAINER_CONTAINER": "/x.sif"})
    assert told == {"job_id": "7", "container_digest": "abc"}


def test_the_quota_is_asked_for_before_the_image_starts(fake: dict[str, str], tmp_path: Path) -> None:
    program(tmp_path, "quotas", 'printf "%s|" "$@"')
    program(tmp_path, "apptainer", 'echo "$APPTAINERENV_GLACIERHPC_QUOTA"')
    site = Site(quota_command="quotas -u $WHO '$(touch hacked) \"x' $NOBODY_KNOWS_THIS", image="/i.sif")
    known = Site(quota_command="quotas -u $WHO '$(touch hacked) \"x'", image="/i.sif")
    environ = {**fake, "WHO": "me too"}
    assert run_script(render(SPEC, known), ["a.yaml"], environ).stdout == '-u|me too|$(touch hacked) "x|\n'
    failed = run_script(render(SPEC, site), ["a.yaml"], environ)
    assert failed.returncode == 0 and "the command that tells the quota failed" in failed.stderr
    assert "quotas" not in render(replace(SPEC, pools=False), known) and not (tmp_path / "hacked").exists()
    with pytest.raises(ValueError, match="quotes do not close"):
        Site(quota_command="quotas 'x")
