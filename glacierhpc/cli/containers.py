"""The commands about images: build one, run in it, look at what it was made of, sign it, check who signed it."""

from __future__ import annotations

import getpass
import os
import subprocess
from pathlib import Path
from typing import Annotated

import typer

from glacierhpc.cli.arguments import Json
from glacierhpc.console import show
from glacierhpc.errors import InputError

app = typer.Typer(
    help="The container image: build, run inside, look into, sign, verify.", no_args_is_help=True
)

DEFAULT_IMAGE = Path("deeplearning.sif")
Image = Annotated[Path, typer.Argument(metavar="IMAGE", help="image file, such as deeplearning.sif")]
FURTHER = {"allow_extra_args": True, "ignore_unknown_options": True}


@app.command("build")
def build(
    image: Image = DEFAULT_IMAGE,
    definition: Annotated[Path, typer.Option(help="definition file")] = Path("deeplearning.def"),
    arguments: Annotated[
        list[str] | None, typer.Option("--build-arg", metavar="NAME=VALUE", help="value of the definition")
    ] = None,
) -> None:
    """Build the image, without root."""
    from glacierhpc.hpc.apptainer import FIXES, build_command, fakeroot_rung, find_runtime, origin_arguments
    from glacierhpc.rundir import source_commit

    if not definition.is_file():
        raise InputError(
            f"definition {str(definition)!r} does not exist; run this in a clone of the project, or name it: "
            "--definition FILE"
        )
    if image.exists():
        raise InputError(f"image {str(image)!r} exists; remove it, or build another name")
    pairs, folder = dict(_pair(text) for text in arguments or []), None
    if "{{ COMMIT }}" in definition.read_text(encoding="utf-8"):  # ours; others refuse what they do not name
        folder = definition.absolute().parent  # where the files lie that it names
        pairs = origin_arguments(pairs, commit=source_commit(folder))
        if Path(pairs.get("FROM", "")).is_file():
            pairs["FROM"] = str(Path(pairs["FROM"]).absolute())
        (folder / "build" / "wheelhouse").mkdir(parents=True, exist_ok=True)
    hint = "" if os.getuid() == 0 else FIXES[fakeroot_rung(getpass.getuser())]
    command = build_command(find_runtime(), image.absolute(), definition.absolute(), arguments=pairs)
    _pass(command, folder=folder, hint=hint)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise InputError(
            f"--build-arg {text!r} is not NAME=VALUE; write for instance: --build-arg FROM=debian:12"
        )
    return name, value


@app.command("exec", context_settings=FURTHER)
def execute(
    context: typer.Context,
    image: Image,
    bind: Annotated[
        list[Path] | None, typer.Option(help="folder that is seen inside; may be repeated")
    ] = None,
    gpu: Annotated[bool, typer.Option("--gpu", help="with the machine's GPUs, of NVIDIA or AMD")] = False,
) -> None:
    """Run a command in the image, which sees this folder and nothing of the home folder.

    It must be signed where signed_by in ~/.config/glacierhpc/site.yaml names keys.
    """
    from glacierhpc.hpc.apptainer import (
        check_architecture,
        check_signed,
        exec_command,
        find_runtime,
        inside_environment,
    )
    from glacierhpc.hpc.sites import load_site

    if not context.args:
        raise InputError(
            "no command given; write for instance: glacierhpc container exec IMAGE glacierhpc --version"
        )
    check_architecture(_there(image))
    check_signed(str(image), load_site().site.signed_by)
    folders = [Path.cwd(), *(folder.absolute() for folder in bind or [])]
    _pass(
        exec_command(find_runtime(), image, context.args, binds=folders, gpu=gpu),
        inside_environment(),
    )


@app.command("inspect")
def inspect(
    image: Image,
    with_packages: Annotated[
        bool, typer.Option("--packages", help="also list the Python packages inside; starts the image")
    ] = False,
    as_json: Json = False,
) -> None:
    """Say what an image was made of, from its labels: source, lock, base, versions, and the id runs record."""
    from glacierhpc.hpc import apptainer

    runtime = apptainer.find_runtime()
    machine = apptainer.architecture(_there(image))
    labels = apptainer.inspect(runtime, image)
    packages = apptainer.packages(runtime, image) if with_packages else None
    rows = [["image id", labels.get("glacierhpc.image-id", "none: not built from deeplearning.def")]]
    rows += [["architecture", machine], *([key, value] for key, value in sorted(labels.items()))]
    rows += [[f"package {name}", version] for name, version in (packages or {}).items()]
    facts = {"image_id": labels.get("glacierhpc.image-id"), "architecture": machine, "labels": labels}
    show({"table": rows, **facts, **({} if packages is None else {"packages": packages})}, as_json=as_json)


@app.command("sign")
def sign(
    image: Image,
    key: Annotated[
        Path | None, typer.Option(help="private key, PEM; by default that of your keyring (apptainer key)")
    ] = None,
    as_json: Json = False,
) -> None:
    """Sign an image, so that others can check that it is yours and unchanged.

    A pair of keys: openssl genpkey -algorithm ed25519 -out mine.pem && chmod 600 mine.pem && openssl pkey -in mine.pem
    -pubout -out public.pem
    """
    from glacierhpc.hpc.apptainer import find_runtime
    from glacierhpc.hpc.apptainer import sign as sign_with

    said = sign_with(find_runtime(), _there(image), key=key)
    rows = [["image", image], ["signed with", key or "the key of the keyring"]]
    show({"table": rows, "image": str(image), "told": said}, as_json=as_json)


@app.command("verify")
def verify(
    image: Image,
    key: Annotated[
        Path | None, typer.Option(help="public key, PEM; by default those of your keyring")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check that an image is signed, and unchanged since."""
    from glacierhpc.hpc.apptainer import find_runtime
    from glacierhpc.hpc.apptainer import verify as check

    said = check(find_runtime(), _there(image), key=key)
    show(
        {"table": [["image", image], ["signature", "right"]], "image": str(image), "told": said},
        as_json=as_json,
    )


def _there(image: Path) -> Path:
    if not image.exists():
        raise InputError(f"image {str(image)!r} does not exist; build one with: glacierhpc container build")
    return image


def _pass(
    command: list[str], environ: dict[str, str] | None = None, *, folder: Path | None = None, hint: str = ""
) -> None:
    """Run a command in the place of this one's terminal, and end with its exit code; if it fails, with a hint."""
    code = subprocess.run(command, env=environ or dict(os.environ), cwd=folder, check=False).returncode
    if code and hint:
        typer.echo(f"building without root, on this machine: {hint}", err=True)
    raise typer.Exit(code if code >= 0 else 128 - code)
