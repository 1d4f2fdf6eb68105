"""The commands that hand a run to the scheduler and look after its jobs; none of them imports numpy."""

from __future__ import annotations

import difflib
import logging
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glacierhpc.cli import status
from glacierhpc.cli.arguments import ConfigFile, Json, Overrides, Settings, SiteName, load
from glacierhpc.cli.chains import keep_configuration, links_of, refuse_another
from glacierhpc.console import logging_shown, show
from glacierhpc.errors import InputError

if TYPE_CHECKING:
    from glacierhpc.config import Config
    from glacierhpc.hpc.chain import Link
    from glacierhpc.hpc.journal import Journal
    from glacierhpc.hpc.site import Site
    from glacierhpc.hpc.sites import Profile

log = logging.getLogger(__name__)

Run = Annotated[Path, typer.Argument(metavar="RUN", help="folder of the run")]


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
    sweep: Annotated[
        bool | None,
        typer.Option(
            help="submit what is listed under sweep:, jobs.trials.at_once at a time; by default if anything is"
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Submit what is still to do as a chain of jobs, each waiting for the one before to end well.

    Variations and seeds under sweep: become the tasks of a job array; so does the reading of the scenes, where the site
    or --set jobs.acquire.tasks=N asks for it.
    """
    loaded = load(config, overrides)
    from glacierhpc.config.trials import has_sweep
    from glacierhpc.hpc.sites import load_site

    given = [*(settings or []), *([f"account={account}"] if account else [])]
    profile = load_site(site, given)
    refuse_another(loaded)
    links = links_of(loaded, profile.site, sweep=has_sweep(loaded) if sweep is None else sweep)
    if dry_run or diff:
        _shown(links, profile.site, loaded.run_path, diff=diff, as_json=as_json)
    else:
        _submit(loaded, links, profile, as_json=as_json)


def _shown(links: list[Link], site: Site, run: Path, *, diff: bool, as_json: bool) -> None:
    from glacierhpc.hpc import chain

    chain.check(links, site)
    scripts = {f"{link.spec.name}.sbatch": link.script for link in links}
    if as_json and diff:
        show({"run": str(run), "differences": _differences(scripts, run)}, as_json=True)
    elif as_json:
        show({"run": str(run), "scripts": scripts, "commands": _commands(links, run)}, as_json=True)
    elif not links:
        show({"table": [["jobs", "nothing to do"]]}, as_json=False)
    elif diff:
        for name, text in _differences(scripts, run).items():
            typer.echo(text or f"{_journal_folder(run) / name}: no difference")
    else:
        for name, text in scripts.items():
            typer.echo(f"==> {_journal_folder(run) / name}\n{text}")
        typer.echo(
            "==> submitted by, with ids of jobs for their names in capitals, and letters of no other time for ONCE"
        )
        typer.echo("\n".join(_commands(links, run)))


def _commands(links: Sequence[Link], run: Path) -> list[str]:
    """Return the commands that submit jobs, as far as they are known before."""
    from glacierhpc.hpc.slurm.submit import sbatch

    return [
        shlex.join(
            sbatch(
                str(_journal_folder(run) / f"{link.spec.name}.sbatch"),
                f"{link.spec.label}-ONCE",
                after=[name.upper() for name in link.after],
                ended=[name.upper() for name in link.ended],
            )
        )
        for link in links
    ]


def _submit(config: Config, links: list[Link], profile: Profile, *, as_json: bool) -> None:
    from glacierhpc.hpc import chain, submission
    from glacierhpc.hpc.apptainer import check_signed
    from glacierhpc.hpc.journal import Journal, read_journal

    run, site = config.run_path, profile.site
    if not links:
        show({"table": [["jobs", "nothing to do"]], "run": str(run), "jobs": {}}, as_json=as_json)
        return
    chain.check(links, site)
    if site.image:
        check_signed(site.image, site.signed_by)
    with submission.alone(run):
        try:
            journal = read_journal(run)
        except InputError:
            journal = Journal(run)
        journal = Journal(run, profile.name, dict(profile.values), journal.entries)
        submission.tested(links)
        journal = submission.submit_chain(journal, links, prepare=lambda: keep_configuration(config))
    jobs = {entry.job: entry.id for entry in journal.entries[-len(links) :]}
    rows = [[job, f"job {number}"] for job, number in jobs.items()]
    show(
        {"table": [*rows, ["look at them", f"glacierhpc status {run}"]], "run": str(run), "jobs": jobs},
        as_json=as_json,
    )


def _differences(scripts: dict[str, str], run: Path) -> dict[str, str]:
    """Return for each script what differs from the one submitted last, empty where nothing does."""
    found = {}
    for name, text in scripts.items():
        path = _journal_folder(run) / name
        old = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        names = (f"{path} (submitted)", f"{path} (now)")
        found[name] = "\n".join(difflib.unified_diff(old, text.splitlines(), *names, lineterm=""))
    return found


def _journal_folder(run: Path) -> Path:
    from glacierhpc.hpc.journal import FOLDER

    return run / FOLDER


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
    from glacierhpc.hpc.trials import GATHER

    journal = read_journal(run.absolute())
    profile = site_again(journal.site, journal.values, settings or [])
    with submission.alone(journal.run):
        _end_waiting_for_nothing(journal)
    config = load(journal.run, None)
    refuse_another(config)
    of_sweep = GATHER.name in list(journal.latest())[-1:]
    _submit(config, links_of(config, profile.site, sweep=of_sweep), profile, as_json=as_json)


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


def rendezvous(
    address: Annotated[str, typer.Option(help="name of this machine")] = "127.0.0.1",
    interface: Annotated[str, typer.Option(help="network interface to listen on")] = "",
) -> None:
    """Let Horovod's processes find each other, until standard input ends."""
    from glacierhpc.hpc.rendezvous import serve

    serve(address, interface)


def members(
    config: ConfigFile,
    overrides: Overrides = None,
    address: Annotated[str, typer.Option(help="name of this machine")] = "127.0.0.1",
    interface: Annotated[str, typer.Option(help="network interface to listen on")] = "",
    processes: Annotated[int, typer.Option(min=1, help="how many to wait for at the beginning")] = 1,
    as_json: Json = False,
) -> None:
    """Give ranks to the processes of a run's elastic training, until standard input ends.

    Takes what `train` takes, of which the folder of the run alone is of interest.
    """
    from glacierhpc.hpc.members import serve

    with logging_shown():
        serve(load(config, overrides).run_path, address, interface, processes)


def add_to(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command()(submit)
    app.command()(status.status)
    app.command()(cancel)
    app.command()(resume)
    app.command(hidden=True)(rendezvous)
    app.command(hidden=True)(members)
