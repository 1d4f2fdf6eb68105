"""`glacierhpc doctor`: what works here and on a compute node; the checks are in `hpc.doctor`."""

from __future__ import annotations

import json
import logging
import os
import pwd
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from glacierhpc.cli.arguments import Json, load

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from glacierhpc.hpc.doctor import Finding, Machine

log = logging.getLogger(__name__)

Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="value of the site, such as interface=ib0")
]  # fmt: skip


def doctor(
    config: Annotated[
        Path | None,
        typer.Argument(
            metavar="[CONFIG]", help="YAML file or folder of a run: its folder and archive are tried"
        ),
    ] = None,
    site: Annotated[
        str | None, typer.Option("--site", help="profile of the computing centre, or a YAML file")
    ] = None,
    settings: Settings = None,
    account: Annotated[str | None, typer.Option(help="project that is billed")] = None,
    image: Annotated[str | None, typer.Option(help="image that jobs run in")] = None,
    key: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="public key that the image is signed by, PEM; by default your keyring",
        ),
    ] = None,
    compute: Annotated[
        bool, typer.Option("--compute", help="look at a compute node, too, by a short job")
    ] = False,
    kind: Annotated[
        Literal["cpu", "gpu", "network"], typer.Option(help="which kind of node that job asks for")
    ] = "cpu",
    wait: Annotated[
        float, typer.Option(metavar="MINUTES", min=0, help="longest wait for that job's start")
    ] = 10,
    patience: Annotated[
        float,
        typer.Option(
            metavar="TIMES", min=1, max=100, help="give each check so many times its time: slow file systems"
        ),
    ] = 1,
    here: Annotated[
        bool,
        typer.Option("--here", help="look at this machine as one that computes, not as one that submits"),
    ] = False,
    meet: Annotated[Path | None, typer.Option(hidden=True)] = None,
    as_json: Json = False,
) -> None:
    """Say what works here, what does not, and what to do about it.

    Ends with 0 if nothing that is needed is broken, else with 1. Submits nothing but with --compute.
    """
    from glacierhpc.errors import InputError
    from glacierhpc.hpc.doctor import Machine
    from glacierhpc.hpc.sites import load_site

    if compute and here:
        raise InputError(
            "--here looks at this machine as one that computes, --compute at another one by a job; write one of them"
        )
    given = [*(settings or []), *([f"account={account}"] if account else [])]
    if image:
        image = str(Path(image).absolute())
        given.append(f"image={json.dumps(image)}")
    chosen = load_site(site or "generic", given).site
    # what is typed goes before what is set, as for jobs that goes before what the site says
    image = image or os.environ.get("GLACIERHPC_IMAGE") or chosen.image
    folder, archive = _of_config(config)
    m = Machine(
        user=_user(), site=chosen, folder=folder, archive=archive, image=image, key=str(key) if key else None,
        scheduler_needed=compute or meet is not None or site not in (None, "generic"), gpu=here and kind == "gpu",
        role="compute" if here else "login", patience=patience,
    )  # fmt: skip
    if here:
        _look_here(m, meet, as_json=as_json)
        return
    again = [*_again(config, site, given, m.image, kind), "--patience", f"{patience:g}"]
    columns, about = _look(m, again if compute else None, kind, wait_s=60 * wait)
    _show(columns, about, as_json=as_json)


def _of_config(config: Path | None) -> tuple[Path, str | None]:
    """Return the folder of the run, and the address of its archive if that is on the network."""
    if config is None:
        return Path.cwd(), None
    loaded = load(config, None)
    address = loaded.archive.catalogue if loaded.archive else ""
    return loaded.run_path.absolute(), address if "://" in address else None


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a user that the machine does not know, as in some containers
        return os.environ.get("USER", "")


def _again(
    config: Path | None, site: str | None, given: Sequence[str], image: str | None, kind: str
) -> list[str]:
    """Return the arguments by which the job knows what is known here; an archive's address may hold a token."""
    words = [*([str(config.absolute())] if config else []), "--kind", kind]
    if site:
        words += [
            "--site",
            str(Path(site).absolute()) if site.endswith((".yaml", ".yml")) or "/" in site else site,
        ]
    for text in given:
        words += ["--set", text]
    if image and not any(text.startswith("image=") for text in given):
        words += ["--image", image]
    return words


def _look_here(m: Machine, meet: Path | None, *, as_json: bool) -> None:
    """Go through the checks of a machine that computes; in a job, meet the login host meanwhile."""
    from glacierhpc.errors import GlacierError
    from glacierhpc.hpc.doctor import examine
    from glacierhpc.hpc.doctor.meeting import Node

    node = None
    if meet is not None:
        try:
            node = Node(meet, m.host, m.site.interface)
        except (GlacierError, OSError) as err:
            log.warning("the login host is not met: %s", err)
    columns = {m.host: examine(m)}
    if node is not None:
        node.wait()
    _show(columns, {"host": m.host, "role": m.role}, as_json=as_json)


def _look(
    m: Machine, again: Sequence[str] | None, kind: Literal["cpu", "gpu", "network"], *, wait_s: float
) -> tuple[dict[str, Sequence[Finding]], dict[str, Any]]:
    """Look at this machine, and at a compute node if the arguments of a job for it are given."""
    from glacierhpc.console import logging_shown
    from glacierhpc.hpc.doctor import examine
    from glacierhpc.hpc.doctor.node import examine_node

    about: dict[str, Any] = {"host": m.host, "role": m.role}
    columns: dict[str, Sequence[Finding]] = {"login" if again is not None else "here": examine(m)}
    if again is not None:
        with logging_shown():
            report = examine_node(m, again, kind=kind, wait_s=wait_s)
        columns["compute"] = report.findings
        about["compute"] = {"host": report.host, "job": report.job}
    return columns, about


def _show(columns: Mapping[str, Sequence[Finding]], about: Mapping[str, Any], *, as_json: bool) -> None:
    """Print the findings, and end with 1 if something that is needed is broken."""
    from glacierhpc.hpc.doctor.table import broken, summary, table

    failed = broken(columns)
    if as_json:
        first = next(iter(columns.values()))
        found: dict[str, Any] = {"findings": [finding.plain() for finding in first]}
        for title, findings in list(columns.items())[1:]:
            found[title] = {**about.get(title, {}), "findings": [finding.plain() for finding in findings]}
        typer.echo(
            json.dumps({"ok": not failed, "summary": summary(columns), **about, **found}, ensure_ascii=False)
        )
    else:
        typer.echo(table(columns, width=shutil.get_terminal_size().columns))
    if failed:
        raise typer.Exit(1)


def add_to(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(doctor)
