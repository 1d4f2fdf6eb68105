"""The commands that write and check configurations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glacierhpc.cli.arguments import ConfigFile, Json, Overrides, Settings, SiteName, load
from glacierhpc.console import show
from glacierhpc.errors import InputError

if TYPE_CHECKING:
    from glacierhpc.config.schema import Area

app = typer.Typer(help="Write and check configurations.", no_args_is_help=True)


@app.command("template")
def config_template() -> None:
    """Print a commented configuration with every key and its default."""
    from glacierhpc.config.template import template

    typer.echo(template(), nl=False)


@app.command("check")
def config_check(config: ConfigFile, overrides: Overrides = None, as_json: Json = False) -> None:
    """Say everything that is wrong with a configuration, with line numbers."""
    loaded = load(config, overrides)
    from glacierhpc.config import config_hash
    from glacierhpc.config.checks import grid_size_px

    digest = config_hash(loaded)
    grid = f"that of {loaded.input.cube}"
    if loaded.area is not None:
        rows, columns = grid_size_px(loaded.area)
        _check_grid(loaded.area)
        grid = f"about {rows} x {columns} px of {loaded.area.resolution_m:g} m"
    table = [
        ["configuration", "right"],
        ["run directory", loaded.run_path],
        ["grid", grid],
        ["hash", digest[:12]],
    ]
    show(
        {"table": table, "config": str(config), "run": str(loaded.run_path), "hash": digest}, as_json=as_json
    )


def _check_grid(area: Area) -> None:
    """Lay the grid over the area, where the packages for it are installed: a CRS far from home shows only then."""
    try:
        from glacierhpc.grid import Grid
    except ModuleNotFoundError:  # a login node with the core only
        return
    Grid.from_bbox(area.bbox_lonlat, area.resolution_m, crs=area.crs, allow_distortion=area.allow_distortion)


@app.command("explain")
def explain(
    key: Annotated[
        str, typer.Argument(metavar="KEY", help="such as account, jobs.train.nodes or train.epochs")
    ],
    config: Annotated[
        Path | None, typer.Argument(metavar="[CONFIG]", help="YAML file, for keys of a configuration")
    ] = None,
    overrides: Overrides = None,
    site: SiteName = "generic",
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Say what a value of a site, of its jobs or of a configuration is, and where it comes from."""
    from glacierhpc.config import origins

    if origins.knows(key):
        if config is None:
            raise InputError(
                f"{key!r} is a key of a configuration; write: glacierhpc config explain {key} CONFIG"
            )
        given = config / "config.yaml" if config.is_dir() else config
        value, source = origins.origin(key, given, overrides or [])
        order = f"default < {given} < command line"
    else:
        value, source, order = _of_site(key, site, settings or [])
    rows = [[key, value], ["from", source], ["order", order]]
    show({"table": rows, "key": key, "value": value, "source": source}, as_json=as_json)


def _of_site(key: str, name: str, settings: list[str]) -> tuple[Any, str, str]:
    from glacierhpc.hpc.sites import IMAGE, load_site, user_file, value_of
    from glacierhpc.hpc.trials import asked_by_itself

    profile = load_site(name, settings)
    value, source = value_of(profile, key), profile.source(key)
    if value is None and (own := asked_by_itself(key, profile.site)) is not None:
        of_training = key.replace("jobs.trials.", "jobs.train.")
        value, source = own, profile.source(of_training)
        source = "the job itself" if source == "default" else f"as {of_training}: {source}"
    variable = f" < {IMAGE} of the environment" if key == "image" else ""
    return value, source, f"default < site {profile.name} < {user_file()}{variable} < --set"
