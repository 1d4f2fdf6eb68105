"""The commands of the embedded archive: synthetic scenes, a server for them, and files of one's own."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from glacierhpc.cli.arguments import Json
from glacierhpc.console import logging_shown, show
from glacierhpc.errors import InputError

app = typer.Typer(help="Synthetic scenes, a server for them, and your own files.", no_args_is_help=True)


@app.command("create")
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


@app.command("serve")
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


@app.command("index")
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
