"""One run, one image: which one a run was begun in, and the refusal to go on in another."""

from __future__ import annotations

import logging

from glacierhpc.errors import InputError
from glacierhpc.rundir import RunDirectory, read_json, write_json

log = logging.getLogger(__name__)


def check_image(run: RunDirectory, image: str | None, *, allowed: bool) -> None:
    """Refuse to go on with a run in another image than its steps were done in: other versions, other results.

    To be called before `RunDirectory.provenance`, which records the image.

    Parameters
    ----------
    image : str, optional
        Id of the image this process runs in; None outside any image, which counts as another one.
    allowed : bool
        Go on nevertheless (``allow_another_image=true``); the earlier images stay on record.

    Raises
    ------
    InputError
        If a step was done in another image.
    """
    known = read_json(run.provenance_file) if run.provenance_file.exists() else {}
    if "container_digest" not in known:
        return
    before = known.pop("container_digest")
    if before == image:
        return
    if any(run.steps.glob("*.json")):
        if not allowed:
            raise InputError(
                f"the steps of {str(run.path)!r} were done {_named(before)}, and this is {_named(image)}: results of "
                "two would be mixed; go on where it was begun, or give a new folder with name=... or run_dir=..., or, "
                "if you mean it, add allow_another_image=true"
            )
        log.warning("%s was begun %s and goes on %s", run.path, _named(before), _named(image))
        known["earlier_containers"] = [*known.get("earlier_containers", []), before]
    write_json(run.provenance_file, known)


def _named(image: str | None) -> str:
    return "outside any image" if image is None else f"in the image {image[:12]}"
