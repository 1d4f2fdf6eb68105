"""Site profiles: those that come with the package hold, layers lie in order, faults name their file and key."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from glacierhpc.errors import InputError
from glacierhpc.hpc.chain import plan
from glacierhpc.hpc.site import Site
from glacierhpc.hpc.sites import load_site, site_again, site_names, user_file, value_of
from glacierhpc.hpc.slurm import JobSpec
from glacierhpc.hpc.slurm.limits import faults, partition_of
from glacierhpc.hpc.slurm.script import directives

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
STEPS = (
    "search",
    "acquire",
    "clean",
    "align",
    "composite",
    "sequences",
    "train",
    "evaluate",
    "predict",
    "report",
)


@pytest.fixture
def nobody(tmp_path: Path) -> Path:
    return tmp_path / "none.yaml"


@pytest.mark.parametrize("name", site_names())
def test_profiles_hold_and_their_own_limits_let_their_jobs_pass(name: str, nobody: Path) -> None:
    site = load_site(name, ["account=project_1"], user=nobody).site
    assert site.documentation or name == "generic"
    assert site.verified is None, "who has tried it says when"
    links = plan(site, name="x", run="/r", steps=STEPS, to_do=0, backend="single", folder="/r/jobs")
    assert [link.spec.name for link in links] == ["imagery", "train", "results"]
    for link in links:
        partition = partition_of(link.spec, site)
        assert partition is None or partition in site.partitions
        assert faults(link.spec, site, site.partitions.get(partition or "")) == []
    assert (
        f"# {name}".lower() in (ROOT / "configs/sites" / f"{name}.yaml").read_text().lower()
        or name == "generic"
    )


@pytest.mark.parametrize(
    ("name", "backend", "settings"),
    [
        ("lumi", "ddp", ["jobs.train.nodes=4", "jobs.train.gpus=8", "jobs.train.tasks_per_node=8"]),
        ("delftblue", "single", ["image=/scratch/$USER/my image.sif"]),
        ("generic", "horovod", ["jobs.train.nodes=2"]),
        ("juwels", "horovod", ["horovod=mpi", "jobs.train.nodes=2"]),
    ],
)
def test_the_chain_of_a_site_is_the_stored_one(
    name: str, backend: str, settings: list[str], nobody: Path
) -> None:
    """After a wanted change: remove tests/golden/chain-*.txt, run this, and read what git says of the difference."""
    site = load_site(name, ["account=project_1", *settings], user=nobody).site
    links = plan(
        site, name="demo", run="/r/demo", steps=STEPS, to_do=0, backend=backend, folder="/r/demo/jobs"
    )
    text = "".join(f"==> {link.spec.name}\n{link.script}" for link in links)
    stored = GOLDEN / f"chain-{name}.txt"
    if not stored.exists():
        stored.write_text(text)
        pytest.fail(f"{stored} was missing and is written now")
    assert text == stored.read_text()


def test_what_jobs_ask_for_at_every_site_is_the_stored_text(nobody: Path) -> None:
    """After a wanted change: remove tests/golden/directives.txt, run this, and read what git says of the difference."""
    text = ""
    for name in site_names():
        site = load_site(name, ["account=project_1"], user=nobody).site
        for link in plan(
            site, name="demo", run="/r/demo", steps=STEPS, to_do=0, backend="single", folder="/r/demo/jobs"
        ):
            asked = [line for line in link.script.splitlines() if line.startswith("#SBATCH")]
            text += "\n".join([f"# {name}, {link.spec.name}", *asked]) + "\n"
    stored = GOLDEN / "directives.txt"
    if not stored.exists():
        stored.write_text(text)
        pytest.fail(f"{stored} was missing and is written now")
    assert text == stored.read_text()


def test_a_site_may_ask_for_gpus_and_memory_in_its_own_way() -> None:
    own = {"gpus-per-task": "1", "mem-per-gpu": "60G", "account": "p1_gpu", "qos": "gpu"}
    site = Site(account="p1", gpus="none", memory="none", directives={"gpu": own})
    spec = JobSpec("train", "A test.", ("train",), kind="gpu", gpus=1)
    asked = directives(spec, site)
    assert {key: asked[key] for key in own} == own and not {"mem", "gres", "gpus-per-node"} & set(asked)
    other = directives(replace(spec, kind="cpu", gpus=0), site)
    assert other["account"] == "p1" and not {"qos", "mem-per-gpu"} & set(other)


def test_layers_lie_in_order_and_each_value_knows_its_source(tmp_path: Path) -> None:
    user = tmp_path / "user.yaml"
    user.write_text("account: mine\njobs: {train: {nodes: 2, hours: 3}}\nwarning_s: 120\n")
    profile = load_site("lumi", ["jobs.train.nodes=4", "jobs.train.gpus=0"], user=user)
    assert (profile.site.account, profile.site.warning_s) == ("mine", 120)
    wish = profile.site.jobs.train
    assert (wish.nodes, wish.gpus, wish.hours, wish.cpus) == (4, 0, 3, 7)
    sources = {
        key: profile.source(key) for key in ("account", "gpus", "attempts", "jobs.train.nodes", "jobs.train")
    }
    assert sources["account"] == str(user) and sources["gpus"].endswith("lumi.yaml")
    assert sources["attempts"] == "default" and sources["jobs.train.nodes"] == "--set jobs.train.nodes=4"
    assert str(user) in sources["jobs.train"] and "lumi.yaml" in sources["jobs.train"]
    assert value_of(profile, "jobs.train.nodes") == 4 and value_of(profile, "partitions.small.max_nodes") == 4
    again = site_again(profile.name, profile.values, ["jobs.train.nodes=8"]).site
    assert again.jobs.train.nodes == 8 and again.account == "mine" and again.jobs.train.cpus == 7


def test_the_image_of_the_environment_lies_between_the_user_s_and_the_typed_one(tmp_path: Path) -> None:
    user = tmp_path / "user.yaml"
    user.write_text("image: /user.sif\n")
    environ = {"GLACIERHPC_IMAGE": "/env.sif"}
    images = [
        load_site("generic", typed, user=user, environ=given).site.image
        for given, typed in (({}, []), (environ, []), (environ, ["image=/typed.sif"]))
    ]
    assert images == ["/user.sif", "/env.sif", "/typed.sif"]


def test_the_user_file_is_where_such_files_are() -> None:
    assert user_file({"HOME": "/h"}) == Path("/h/.config/glacierhpc/site.yaml")
    assert user_file({"HOME": "/h", "XDG_CONFIG_HOME": "/x"}) == Path("/x/glacierhpc/site.yaml")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("acount: x", "key 'acount' is not known; did you mean 'account'?"),
        ("jobs: {train: {node: 2}}", "key 'jobs.train.node' is not known; did you mean 'nodes'?"),
        ("memory: lots", "memory: 'lots' cannot be used"),
        ('account: "a\\nb"', "line break"),
        ("directives: {all: {'qos=x': y}}", "is not an option of sbatch"),
        ("environment: {'a-b': c}", "is no name of a variable"),
        ("mpi: 'pmix; id'", "write letters"),
        ("warning_s: 1", "greater than or equal to 60"),
        ("just words", "not keys"),
        ("a: [", "cannot be read as YAML"),
    ],
)
def test_faults_name_their_file_and_what_is_right(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as told:
        load_site(str(path), user=tmp_path / "none")
    assert words in str(told.value) and str(path) in str(told.value)


def test_unknown_names(nobody: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'lumi'"):
        load_site("lumii", user=nobody)
    with pytest.raises(InputError, match="does not exist"):
        load_site("none.yaml", user=nobody)
    with pytest.raises(InputError, match="is not KEY=VALUE"):
        load_site("generic", ["account"], user=nobody)
    with pytest.raises(InputError, match="did you mean"):
        value_of(load_site("generic", user=nobody), "acount")


@pytest.mark.parametrize(
    ("site", "expected"),
    [
        (Site(), ["--mem=16G"]),
        (Site(memory="mem-per-cpu"), ["--mem-per-cpu=2048M"]),
        (Site(memory="none"), []),
    ],
)
def test_memory_is_asked_for_as_the_site_wants_it(site: Site, expected: list[str]) -> None:
    links = plan(site, name="x", run="/r", steps=STEPS, to_do=0, backend="single", folder="/r/jobs")
    asked = [line.removeprefix("#SBATCH ") for line in links[0].script.splitlines() if "--mem" in line]
    assert asked == expected
