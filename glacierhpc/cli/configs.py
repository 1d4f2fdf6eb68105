"""The commands that write and check configurations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from glacierhpc.cli.arguments import ConfigFile, Json, Overrides, load
from glacierhpc.console import show

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
