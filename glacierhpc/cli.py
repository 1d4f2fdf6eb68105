"""The command line: arguments in, exit code out; the work is in `workflows` and the packages below it.

Everything heavy is imported by the command that needs it, so that ``--help`` answers at once.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glacierhpc import __version__
from glacierhpc.console import keep_traceback, logging_shown, show, show_error
from glacierhpc.errors import GlacierError, InputError

if TYPE_CHECKING:
    from glacierhpc.config import Config
    from glacierhpc.config.schema import Area

STEPS = {
    "search": "Find the scenes of the area and period in the catalogue.",
    "acquire": "Read the scenes into one cube; started again, it reads only what is missing.",
    "clean": "Mask clouds, shadows and saturation; fill small holes and mark them.",
    "align": "Co-register every scene to one reference.",
    "composite": "Make one image of an index per window of months.",
    "sequences": "Plan the training sequences and a split without leakage.",
    "train": "Train the forecast model.",
    "evaluate": "Measure skill on the test sequences against three baselines.",
    "predict": "Forecast the whole area.",
    "flow": "Compare the apparent motion of targets and forecasts.",
    "report": "Write one self-contained HTML file about the run.",
}
"""The steps of the forecast task with their help lines."""

BENCHMARKS = {
    "acquire": "Measure how fast scenes are read.",
    "align": "Measure how fast and how exact pairs are aligned.",
    "gaps": "Measure how fast gaps are filled.",
    "patch": "Measure how fast training sequences are cut.",
    "memory": "Measure the memory that the imagery steps take.",
}
"""The benchmarks with their help lines; each is a script of the same name in ``benchmarks/``."""

app = typer.Typer(
    name="glacierhpc",
    help="Glacier products from public satellite archives, on batch clusters.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
config_app = typer.Typer(help="Write and check configurations.", no_args_is_help=True)
archive_app = typer.Typer(
    help="Synthetic scenes, a server for them, and your own files.", no_args_is_help=True
)
bench_app = typer.Typer(help="Benchmarks.", no_args_is_help=True)
app.add_typer(config_app, name="config")
app.add_typer(archive_app, name="archive")
app.add_typer(bench_app, name="bench")

# click's base exception, by way of a name that typer exports: newer releases of typer carry a click of their own
UsageProblem: Any = typer.BadParameter.__mro__[2]

GOES_ON = "nothing is lost, the same command goes on where it stopped"
INTERRUPTED = 130  # what typer makes of Ctrl-C, without a word to the user

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file, or the folder of a run")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="values that replace those of the file"),
]
Json = Annotated[bool, typer.Option("--json", help="print one JSON object as the last line")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="say what would be read and written, and write nothing")
]


@dataclass
class _Running:
    """What an error message needs to know about the command that was running."""

    as_json: bool = False
    log: Path | None = None
    again: str = GOES_ON
    """What the same command does after an interruption."""


_running = _Running()


def main(arguments: list[str] | None = None) -> None:
    """Run a command and exit: 0 done, 1 the work failed, 2 the input is wrong. Never ends with a traceback."""
    arguments = sys.argv[1:] if arguments is None else arguments
    _running.as_json, _running.log, _running.again = "--json" in arguments, None, GOES_ON
    signal.signal(signal.SIGTERM, _interrupt)
    logging.raiseExceptions = (
        False  # a log line that cannot be written (full disk) is no reason for a traceback
    )
    sys.exit(_exit_code(arguments))


def _exit_code(arguments: list[str]) -> int:
    try:
        code = int(app(args=arguments, standalone_mode=False) or 0)
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        return code
    except UsageProblem as err:
        if type(err).__name__ == "NoArgsIsHelpError":
            err.show()
            return 2
        return _failed(f"{err.format_message().rstrip('.')}; see: glacierhpc --help", 2)
    except GlacierError as err:
        return _failed(str(err), err.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return _failed(f"stopped; {_running.again}", 1)
    except BrokenPipeError:  # the reader of a pipe (head, less) has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as err:
        if err.errno in (errno.ENOSPC, errno.EDQUOT):
            return _failed(f"the disk or quota is full; free space, then {_running.again}", 1)
        return _unexpected(err)
    except Exception as err:  # noqa: BLE001 - the last door: the traceback goes to a file, one line to the user
        return _unexpected(err)


def _unexpected(err: Exception) -> int:
    log = keep_traceback(_running.log)
    return _failed(f"unexpected {type(err).__name__}: {err} (details in {log})", 1)


def _failed(message: str, exit_code: int) -> int:
    show_error(message, exit_code=exit_code, as_json=_running.as_json)
    return exit_code


def _interrupt(signum: int, frame: object) -> None:
    """Treat the scheduler's SIGTERM as Ctrl-C, so that steps record that they were interrupted."""
    raise KeyboardInterrupt


@app.callback(invoke_without_command=True)
def _options(version: Annotated[bool, typer.Option("--version", help="print the version")] = False) -> None:
    if version:
        typer.echo(f"glacierhpc {__version__}")
        raise typer.Exit


def _load(path: Path, overrides: list[str] | None) -> Config:
    """Load a configuration, or that of a run directory."""
    from glacierhpc.config import load_config

    given = list(overrides or [])
    if path.is_dir():
        if not (path / "config.yaml").is_file():
            raise InputError(
                f"folder {str(path)!r} has no config.yaml; give a YAML file or the folder of a run"
            )
        given.append(f"run_dir={_quoted(path.resolve())}")
        path = path / "config.yaml"
    config = load_config(path, given)
    _running.log = config.run_path / "logs" / "unexpected.log"
    return config


def _quoted(path: Path) -> str:
    import yaml

    return yaml.safe_dump(str(path), default_style='"', width=10**6).strip()


@app.command()
def run(
    config: ConfigFile,
    overrides: Overrides = None,
    from_step: Annotated[
        str | None, typer.Option("--from", metavar="STEP", help="run again from this step on")
    ] = None,
    to_step: Annotated[str | None, typer.Option("--to", metavar="STEP", help="stop after this step")] = None,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Run all steps that are still to do."""
    loaded = _load(config, overrides)
    from glacierhpc import workflows

    with logging_shown():
        if dry_run:
            summary = workflows.run_step("acquire", loaded, dry_run=True)
        else:
            summary = workflows.run_steps(loaded, from_step=from_step, to_step=to_step)
    show(summary, as_json=as_json)


def _run_step(
    name: str, config: Path, overrides: list[str] | None, *, as_json: bool, dry_run: bool = False
) -> None:
    loaded = _load(config, overrides)
    from glacierhpc import workflows

    with logging_shown():
        summary = workflows.run_step(name, loaded, dry_run=dry_run)
    show({"step": name, **summary}, as_json=as_json)


def _step_command(name: str) -> Callable[..., None]:
    def command(config: ConfigFile, overrides: Overrides = None, as_json: Json = False) -> None:
        _run_step(name, config, overrides, as_json=as_json)

    return command


def _acquire(
    config: ConfigFile, overrides: Overrides = None, as_json: Json = False, dry_run: DryRun = False
) -> None:
    _run_step("acquire", config, overrides, as_json=as_json, dry_run=dry_run)


def _report(
    config: ConfigFile,
    overrides: Overrides = None,
    picture: Annotated[
        Path | None, typer.Option(metavar="PNG", help="also write one picture of the run, for a slide")
    ] = None,
    as_json: Json = False,
) -> None:
    _run_step("report", config, overrides, as_json=as_json)
    if picture is not None:
        from glacierhpc.report import write_picture

        write_picture(_load(config, overrides).run_path, picture)


_OWN_COMMANDS: dict[str, Callable[..., None]] = {"acquire": _acquire, "report": _report}
for _name, _help in STEPS.items():
    app.command(_name, help=_help)(_OWN_COMMANDS.get(_name) or _step_command(_name))


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="where the demo is written")] = Path("runs/demo"),
    as_json: Json = False,
) -> None:
    """Run the whole forecast, small and offline, on synthetic scenes; ends with the report's path.

    Given again, it removes the folder of the earlier demo and starts again.
    """
    _running.again = "the same command starts again"
    _running.log = folder / "logs" / "unexpected.log"
    from glacierhpc import workflows

    with logging_shown():
        summary = workflows.demo(folder)
    show(summary, as_json=as_json)


@config_app.command("template")
def config_template() -> None:
    """Print a commented configuration with every key and its default."""
    from glacierhpc.config.template import template

    typer.echo(template(), nl=False)


@config_app.command("check")
def config_check(config: ConfigFile, overrides: Overrides = None, as_json: Json = False) -> None:
    """Say everything that is wrong with a configuration, with line numbers."""
    loaded = _load(config, overrides)
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


@archive_app.command("create")
def archive_create(
    folder: Annotated[Path, typer.Argument(help="new folder for the archive")],
    seed: Annotated[int, typer.Option(help="same seed, same bytes")] = 0,
    scenes: Annotated[int, typer.Option(min=1, help="number of scenes")] = 24,
    size_px: Annotated[int, typer.Option(min=64, help="side of a scene, pixels")] = 256,
    utm_zones: Annotated[
        int, typer.Option(min=1, max=2, help="spread the scenes over one or two UTM zones")
    ] = 1,
    cloud_share: Annotated[float, typer.Option(min=0, max=1, help="mean share of cloud")] = 0.3,
    as_json: Json = False,
) -> None:
    """Write a synthetic glacier scene series as COG and STAC items, with the truth beside it."""
    from glacierhpc.scenes import archive

    with logging_shown():
        archive.create(
            folder,
            seed=seed,
            scenes=scenes,
            size_px=size_px,
            utm_zones=utm_zones,
            cloud_share=cloud_share,
            progress=_log_progress("scenes written"),
        )
    rows = [["archive", folder], ["scenes", scenes], ["catalogue", folder / "catalog.json"]]
    show({"table": rows, "folder": str(folder), "scenes": scenes}, as_json=as_json)


def _log_progress(what: str) -> Callable[[int, int], None]:
    """Return a callback that moves the bar of the terminal; in a job it says something every tenth of the way."""
    log = logging.getLogger(__name__)

    def told(done: int, total: int) -> None:
        if sys.stderr.isatty() or done % max(1, total // 10) == 0 or done == total:
            log.info("%d of %d %s", done, total, what, extra={"done": done, "total": total})

    return told


@archive_app.command("serve")
def archive_serve(
    folder: Annotated[Path, typer.Argument(help="folder of `archive create`")],
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="port of the STAC API; 0 = a free one")] = 0,
    token_lifetime_s: Annotated[
        float | None, typer.Option(min=0.1, help="demand tokens of this lifetime")
    ] = None,
    delay_s: Annotated[float, typer.Option(min=0, help="wait before every answer, seconds")] = 0.0,
    bytes_per_s: Annotated[float | None, typer.Option(min=1, help="throttle every answer")] = None,
    fail_rate: Annotated[float, typer.Option(min=0, max=1, help="share of requests that fail")] = 0.0,
    as_json: Json = False,
) -> None:
    """Serve an archive as a STAC API and its files with range requests, until Ctrl-C."""
    from glacierhpc.scenes import archive

    with archive.serve(
        folder,
        host=host,
        port=port,
        token_lifetime_s=token_lifetime_s,
        delay_s=delay_s,
        bytes_per_s=bytes_per_s,
        fail_rate=fail_rate,
    ) as served:
        addresses = {"catalogue": served.stac_url, "files": served.files_url, "tokens": served.token_url}
        with suppress(KeyboardInterrupt):  # the way to end it, at once if need be
            show(
                {"table": [[key, value] for key, value in addresses.items() if value], **addresses},
                as_json=as_json,
            )
            sys.stdout.flush()
            signal.pause()


@archive_app.command("index")
def archive_index(
    folder: Annotated[Path, typer.Argument(help="folder with GeoTIFF or JP2 files")],
    collection: Annotated[str, typer.Option(help="id of the collection to make")] = "local",
    scale: Annotated[float | None, typer.Option(help="reflectance = number x scale + offset")] = None,
    offset: Annotated[float | None, typer.Option(help="see --scale")] = None,
    nodata: Annotated[float | None, typer.Option(help="number that means no data")] = None,
    bands: Annotated[str, typer.Option(metavar="A,B,...", help="bands inside one file, in order")] = "",
    pattern: Annotated[str | None, typer.Option(help="file names, such as {scene}_{date}_{band}")] = None,
    quality: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=KIND", help="a band that is a quality raster: cloud_mask, flags, qa_pixel or scl"
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a STAC catalogue of scenes already on disk."""
    from glacierhpc.scenes.archive.index import index

    with logging_shown():
        catalogue = index(
            folder,
            collection=collection,
            scale=scale,
            offset=offset,
            nodata=nodata,
            bands=[band.strip() for band in bands.split(",") if band.strip()] or None,
            pattern=pattern,
            quality=_pairs("--quality", quality or []),
        )
    show({"table": [["catalogue", catalogue]], "catalogue": str(catalogue)}, as_json=as_json)


def _pairs(option: str, given: list[str]) -> dict[str, str]:
    """Return the NAME=VALUE of a repeated option."""
    pairs = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise InputError(
                f"{option} {text!r} is not NAME=KIND; write for instance {option} clm=cloud_mask"
            )
        pairs[name] = value
    return pairs


def _bench_command(name: str) -> Callable[..., None]:
    def command(context: typer.Context) -> None:
        _benchmark(name, context.args)

    return command


for _name, _help in BENCHMARKS.items():
    bench_app.command(
        _name,
        help=f"{_help} Options go to benchmarks/{_name}.py.",
        add_help_option=False,  # --help is that of the benchmark
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )(_bench_command(_name))


def _benchmark(name: str, arguments: list[str]) -> None:
    script = Path(__file__).resolve().parents[1] / "benchmarks" / f"{name}.py"
    if not script.is_file():
        raise InputError(
            f"{script} does not exist; benchmarks come with the source repository, run them from a clone"
        )
    code = subprocess.run([sys.executable, str(script), *arguments], check=False).returncode
    raise typer.Exit(code)
