"""The commands that hand a run to the scheduler and look after its jobs; none of them imports numpy."""

from __future__ import annotations

import difflib
import json
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glacierhpc.cli import configs
from glacierhpc.cli.arguments import ConfigFile, Json, Overrides, load
from glacierhpc.cli.steps import STEPS
from glacierhpc.console import show
from glacierhpc.errors import GlacierError, InputError

if TYPE_CHECKING:
    from glacierhpc.config import Config
    from glacierhpc.hpc.chain import Link
    from glacierhpc.hpc.journal import Journal
    from glacierhpc.hpc.site import Site

log = logging.getLogger(__name__)

SiteName = Annotated[str, typer.Option("--site", help="profile of the computing centre, or a YAML file")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="value of the site, such as jobs.train.nodes=2")
]  # fmt: skip
Run = Annotated[Path, typer.Argument(metavar="RUN", help="folder of the run")]
OF_SCENES = ("search", "acquire", "clean", "align")


def submit(
    config: ConfigFile,
    overrides: Overrides = None,
    site: SiteName = "generic",
    settings: Settings = None,
    account: Annotated[str | None, typer.Option(help="project that is billed")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print the job scripts and submit nothing")
    ] = False,
    diff: Annotated[
        bool,
        typer.Option("--diff", help="print what differs from the scripts submitted last, and submit nothing"),
    ] = False,
    as_json: Json = False,
) -> None:
    """Submit what is still to do as a chain of jobs, each waiting for the one before to end well."""
    loaded = load(config, overrides)
    from glacierhpc.hpc.sites import load_site

    given = [*(settings or []), *([f"account={account}"] if account else [])]
    profile = load_site(site, given)
    _submit(
        loaded, profile.site, profile.name, dict(profile.values), dry_run=dry_run, diff=diff, as_json=as_json
    )


def _submit(
    config: Config, site: Site, name: str, values: dict[str, Any], *, dry_run: bool, diff: bool, as_json: bool
) -> None:
    from glacierhpc.hpc import chain, submission
    from glacierhpc.hpc.journal import Journal, read_journal

    links = _links(config, site)
    run = config.run_path
    if not links:
        show({"table": [["jobs", "nothing to do"]], "run": str(run), "jobs": {}}, as_json=as_json)
        return
    if diff or dry_run:
        chain.check(links, site)
        _print_scripts(links, run, diff=diff, as_json=as_json)
        return
    _refuse_another(config)
    chain.check(links, site)
    with submission.alone(run):
        try:
            journal = read_journal(run)
        except InputError:
            journal = Journal(run)
        journal = Journal(run, name, values, journal.entries)
        submission.tested(links)
        _keep_configuration(config)
        journal = submission.submit_chain(journal, links)
    jobs = {entry.job: entry.id for entry in journal.entries[-len(links) :]}
    rows = [[job, f"job {number}"] for job, number in jobs.items()]
    show(
        {"table": [*rows, ["look at them", f"glacierhpc status {run}"]], "run": str(run), "jobs": jobs},
        as_json=as_json,
    )


def _links(config: Config, site: Site) -> list[Link]:
    from glacierhpc.hpc.chain import first_to_do, plan
    from glacierhpc.hpc.journal import FOLDER

    steps = [step for step in STEPS if not (config.input.cube is not None and step in OF_SCENES)]
    run = config.run_path
    return plan(
        site,
        name=_queue_name(config.name),
        run=str(run),
        steps=steps,
        to_do=first_to_do(steps, _records(run, steps)),
        backend=config.train.backend,
        folder=str(run / FOLDER),
    )


def _queue_name(name: str) -> str:
    """Return a run's name as it can stand in a queue and between commas."""
    return "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name)[:40]


def _records(run: Path, steps: list[str]) -> dict[str, dict[str, Any]]:
    found = {}
    for step in steps:
        path = run / "steps" / f"{step}.json"
        if path.is_file():
            found[step] = dict(_read(path))
    return found


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as err:
        raise GlacierError(f"{path} is damaged: {err}; remove it, and the step is done again") from err


def _refuse_another(config: Config) -> None:
    """Refuse a folder of another configuration now, not when the first job starts."""
    from glacierhpc.config import config_hash

    path = config.run_path / "provenance.json"
    known = _read(path).get("config_hash") if path.is_file() else None
    if known is not None and known != config_hash(config):
        raise InputError(
            f"run directory {str(config.run_path)!r} is of another configuration; give this run its own with name=..., "
            f"or go on with that one: glacierhpc resume {config.run_path}"
        )


def _keep_configuration(config: Config) -> None:
    """Write the configuration as it is now: jobs that start tomorrow take this one, whatever the file says by then.

    With its hash, as the first job would write it: by that, jobs with more workers are of the same run.
    """
    from glacierhpc.atomic import write_text
    from glacierhpc.config import config_hash, config_to_yaml

    provenance = config.run_path / "provenance.json"
    known = _read(provenance) if provenance.is_file() else {}
    write_text(config.run_path / "config.yaml", config_to_yaml(config))
    write_text(provenance, json.dumps({**known, "config_hash": config_hash(config)}, indent=1) + "\n")


def _print_scripts(links: list[Link], run: Path, *, diff: bool, as_json: bool) -> None:
    from glacierhpc.hpc.journal import FOLDER

    scripts = {f"{link.spec.name}.sbatch": link.script for link in links}
    if as_json:
        show({"run": str(run), "scripts": scripts}, as_json=True)
        return
    for name, text in scripts.items():
        path = run / FOLDER / name
        if not diff:
            typer.echo(f"==> {path}\n{text}")
            continue
        old = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        lines = difflib.unified_diff(
            old, text.splitlines(), f"{path} (submitted)", f"{path} (now)", lineterm=""
        )
        typer.echo("\n".join(lines) or f"{path}: no difference")


def status(run: Run, as_json: Json = False) -> None:
    """Say what became of the jobs of a run, and which steps are done."""
    from glacierhpc.hpc import submission
    from glacierhpc.hpc.journal import read_journal

    journal = read_journal(run.absolute())
    found = submission.states(journal)
    rows: list[list[Any]] = []
    jobs = {}
    for name, (entry, state) in found.items():
        words = [state.told.lower() or "unknown", f"({state.reason})" if state.reason else ""]
        code = f"exit code {state.exit_code}" if state.exit_code else ""
        rows.append([name, f"job {entry.id or '-'}", *filter(None, (state.verdict, *words, code))])
        jobs[name] = {
            "id": entry.id, "state": state.verdict, "told": state.told, "exit_code": state.exit_code,
            "reason": state.reason, "source": state.source,
        }  # fmt: skip
    steps = {step: record.get("state") for step, record in _records(journal.run, list(STEPS)).items()}
    rows += [[f"step {step}", state] for step, state in steps.items()]
    if last := _last_line(journal):
        rows.append(["last words", last])
    show({"table": rows, "run": str(journal.run), "jobs": jobs, "steps": steps}, as_json=as_json)


def _last_line(journal: Journal) -> str:
    logs = sorted(journal.folder.glob("*.log"), key=lambda path: path.stat().st_mtime)
    if not logs:
        return ""
    with logs[-1].open("rb") as file:
        file.seek(max(0, logs[-1].stat().st_size - 4000))
        lines = file.read().decode("utf-8", "replace").strip().splitlines()
    return f"{logs[-1].name}: {lines[-1]}" if lines else ""


def cancel(run: Run, as_json: Json = False) -> None:
    """Cancel the jobs of a run that wait or run; what they have done is kept."""
    from glacierhpc.hpc import submission
    from glacierhpc.hpc.journal import read_journal

    journal = read_journal(run.absolute())
    with submission.alone(journal.run):
        ended = submission.cancel(journal)
    rows = [["cancelled", ", ".join(ended) or "nothing, no job waits or runs"]]
    show({"table": rows, "run": str(journal.run), "cancelled": ended}, as_json=as_json)


def resume(run: Run, settings: Settings = None, as_json: Json = False) -> None:
    """Submit what is still to do of a run again, on the site and with the values of the last time."""
    from glacierhpc.hpc import submission
    from glacierhpc.hpc.journal import read_journal
    from glacierhpc.hpc.sites import site_again

    journal = read_journal(run.absolute())
    profile = site_again(journal.site, journal.values, settings or [])
    with submission.alone(journal.run):
        _end_waiting_for_nothing(journal)
    config = load(journal.run, None)
    _submit(
        config, profile.site, profile.name, dict(profile.values), dry_run=False, diff=False, as_json=as_json
    )


def _end_waiting_for_nothing(journal: Journal) -> None:
    """Cancel jobs that wait for one that has failed, on a scheduler that keeps such jobs for ever."""
    from glacierhpc.hpc import submission
    from glacierhpc.hpc.slurm.client import call
    from glacierhpc.hpc.slurm.states import NEVER_STARTS

    found = submission.states(journal).values()
    stuck = [entry.id for entry, state in found if entry.id and state.active and state.reason == NEVER_STARTS]
    if stuck:
        call(["scancel", *stuck])
        time.sleep(1)


def explain(
    key: Annotated[str, typer.Argument(metavar="KEY", help="such as account or jobs.train.nodes")],
    site: SiteName = "generic",
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Say what a value of a site is and where it comes from."""
    from glacierhpc.hpc.sites import load_site, user_file, value_of

    profile = load_site(site, settings or [])
    value, source = value_of(profile, key), profile.source(key)
    rows = [
        [key, value],
        ["from", source],
        ["order", f"defaults < site {profile.name} < {user_file()} < --set"],
    ]
    show({"table": rows, "key": key, "value": value, "source": source}, as_json=as_json)


def rendezvous(
    address: Annotated[str, typer.Option(help="name of this machine")] = "127.0.0.1",
    interface: Annotated[str, typer.Option(help="network interface to listen on")] = "",
) -> None:
    """Let Horovod's processes find each other, until standard input ends."""
    from glacierhpc.hpc.rendezvous import serve

    serve(address, interface)


def add_to(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command()(submit)
    app.command()(status)
    app.command()(cancel)
    app.command()(resume)
    app.command(hidden=True)(rendezvous)
    configs.app.command("explain")(explain)
