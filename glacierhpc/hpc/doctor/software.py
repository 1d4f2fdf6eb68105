"""Checks of Python as jobs use it: its version, its packages, and what may stand before them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from glacierhpc.hpc.doctor.finding import Finding, fail, ok, skip, unheard, unknown, warn
from glacierhpc.hpc.doctor.machine import Machine, listed, words_of
from glacierhpc.hpc.slurm.client import Answer

OLDEST, NEWEST = (3, 11), (3, 13)
"""Of Python, for which the pinned packages have wheels."""
PARTS = {"torch": "training", "distributed": "workers", "rasterio": "reading scenes", "numba": "aligning"}
"""Packages without which a part of the work is not possible, and which."""

VERSIONS = """
import importlib.metadata, json, sys
print(json.dumps({d.metadata['Name']: d.version for d in importlib.metadata.distributions() if d.metadata['Name']}))
"""

ORIGINS = """
import importlib.util, json, os, site, sys, sysconfig
ours = [sysconfig.get_paths()[name] for name in ('purelib', 'platlib', 'stdlib')]
# those of the system, too, where an environment was made to go on from them
ours = [os.path.realpath(folder) for folder in (*ours, *site.getsitepackages())]
# the folder of the script or, as here, the working folder
sys.path = [entry for entry in sys.path if entry not in ('', os.getcwd())]
found = {}
for name in sys.argv[1:]:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        continue
    place = os.path.realpath(spec.origin) if spec and spec.origin else ''
    if place and not any(place.startswith(folder + os.sep) for folder in ours):
        found[name] = place
print(json.dumps({'user': bool(site.ENABLE_USER_SITE), 'shadowed': found}))
"""

SHADOWED = ("numpy", "pandas", "torch", "xarray", "dask", "distributed", "rasterio", "numba", "zarr", "pydantic",
            "yaml", "json", "typing", "logging")  # fmt: skip
"""Packages of ours and modules of Python that are looked for in other places."""


INSTALL = {
    "here": "write: pip install -c constraints.txt -e '.[imagery,learning,mapping]'",
    "in the image": "build the image from deeplearning.def again: make build-container",
}
"""What brings the packages, by where they are to be."""


def where(m: Machine) -> str:
    """Return where the Python that jobs use is."""
    return "in the image" if m.image else "here"


def unasked(m: Machine, answer: Answer) -> Finding | None:
    """Return the finding for what nobody could be asked, or did not answer in time; why is told elsewhere."""
    if m.image and answer.missing:
        return unknown("not known: the image cannot be run here")
    return unheard(answer)


def python(m: Machine) -> Finding:
    """Look for Python as jobs use it."""
    answer = m.ask_python("import sys; print(*sys.version_info[:3], sys.executable)", timeout_s=30)
    words = answer.out.split()
    if finding := unasked(m, answer):
        return finding
    if not answer.ok or len(words) < 4:
        return fail(f"does not start {where(m)}: {words_of(answer)}", _no_python(m))
    version = tuple(int(word) for word in words[:3])
    told = f"{'.'.join(words[:3])} {where(m)}, {words[3]}"
    if not OLDEST <= version[:2] <= NEWEST:
        return fail(
            told,
            f"make an environment with Python {_dotted(OLDEST)} to {_dotted(NEWEST)}: make PYTHON=PATH demo",
        )
    return ok(told)


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version)


def _no_python(m: Machine) -> str:
    if m.image:
        return "look at the findings about the container first; then build the image again"
    return "make an environment on a file system that all nodes share: make demo"


def packages(m: Machine) -> Finding:
    """Compare the installed packages with those that this version was tested with."""
    answer = m.ask_python(VERSIONS, timeout_s=50)
    try:
        there = {_plain(name): version for name, version in json.loads(answer.out).items()}
    except (ValueError, AttributeError):
        return unasked(m, answer) or unknown(f"not told {where(m)}: {words_of(answer)}", _no_python(m))
    pinned = _pinned()
    absent = [f"{name} ({what})" for name, what in PARTS.items() if name not in there]
    return compared(there, pinned, absent, where(m))


def compared(there: Mapping[str, str], pinned: Mapping[str, str], absent: list[str], place: str) -> Finding:
    """Judge what is installed: nothing may be absent, and what differs from the pinned releases is told."""
    install = INSTALL[place]
    if absent:
        return warn(f"not {place}: {listed(absent)}", install)
    # torch's builds have a suffix for the library they are built on
    other = [
        f"{name} {there[name]} (tested: {version})"
        for name, version in sorted(pinned.items())
        if name in there and there[name].split("+")[0] != version.split("+")[0]
    ]
    if other:
        return warn(f"{len(other)} are not as tested: {listed(other, 3)}", install)
    same = sum(name in there for name in pinned)
    return ok(f"{same} as tested" if pinned else "those that are needed are there")


def _pinned() -> dict[str, str]:
    """Return the tested releases, by package; none where this is not a clone of the project."""
    path = Path(__file__).resolve().parents[3] / "constraints.txt"
    if not path.is_file():
        return {}
    lines = re.findall(r"^([A-Za-z0-9][\w.-]*)==([^\s;#]+)", path.read_text(encoding="utf-8"), re.M)
    return {_plain(name): version for name, version in lines}


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def leaks(m: Machine) -> Finding:
    """Look whether packages of other places stand before ours: of PYTHONPATH, ~/.local, conda."""
    answer = m.ask_python(ORIGINS, *SHADOWED, timeout_s=50)
    try:
        told = json.loads(answer.out)
        shadowed = dict(told["shadowed"])
    except (ValueError, KeyError, TypeError):
        return unasked(m, answer) or unknown(f"not told {where(m)}: {words_of(answer)}", _no_python(m))
    if shadowed:
        name, place = next(iter(sorted(shadowed.items())))
        return fail(
            f"{listed(sorted(shadowed))} not ours: {name} is {place}",
            "write: unset PYTHONPATH PYTHONHOME; export PYTHONNOUSERSITE=1",
        )
    if m.image:
        return ok("nothing of the home folder or the environment gets into the image")
    return _named(m, bool(told.get("user")))


def _named(m: Machine, user_site: bool) -> Finding:
    """Tell what of the environment may stand before our packages one day."""
    set_ = [name for name in ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP") if m.environ.get(name)]
    if set_:
        return warn(
            f"{listed([f'{name}={m.environ[name]}' for name in set_])}: packages there would stand before ours",
            f"write: unset {' '.join(set_)}",
        )
    prefix = m.environ.get("CONDA_PREFIX", "")
    if prefix and not m.python.startswith(prefix + os.sep):
        return warn(f"the conda environment {prefix} is active beside ours", "write: conda deactivate")
    local = sorted(m.home.glob(".local/lib/python3.*/site-packages"))
    if user_site and local:
        return warn(
            f"packages in {listed([str(path) for path in local])} may stand before ours",
            "write: export PYTHONNOUSERSITE=1",
        )
    return ok("no packages of other places stand before ours")


def native_leaks(m: Machine) -> Finding:
    """Look whether libraries of other places stand before those of our packages, which bring their own."""
    folders = [folder for folder in m.environ.get("LD_LIBRARY_PATH", "").split(":") if folder]
    if not folders:
        return ok("LD_LIBRARY_PATH is not set")
    if m.image:
        return ok("LD_LIBRARY_PATH is not handed into the image")
    ours = (
        "libstdc++.so*",
        "libgomp.so*",
        "libgdal.so*",
        "libproj.so*",
        "libtorch*.so*",
        "libnccl.so*",
        "libcudnn*.so*",
    )
    found = [
        str(path) for folder in folders for pattern in ours for path in sorted(Path(folder).glob(pattern))[:1]
    ]
    if found:
        return warn(
            f"LD_LIBRARY_PATH has {listed(found, 3)}: such libraries come with our packages, too",
            "if something ends with undefined symbol: unset LD_LIBRARY_PATH, or module unload what set it",
        )
    return ok(f"LD_LIBRARY_PATH has nothing that our packages bring ({listed(folders, 2)})")


def compiled(m: Machine) -> Finding:
    """Look whether compiled kernels can be kept: without that every process compiles for half a minute."""
    if m.image:
        return skip("the image has them")
    named = m.environ.get("NUMBA_CACHE_DIR")
    if named:
        folder = Path(named)
        above = next((path for path in (folder, *folder.absolute().parents) if path.exists()), Path("/"))
        if not (above.is_dir() and os.access(above, os.W_OK)):
            return warn(
                f"NUMBA_CACHE_DIR={named} may not be written", "name a folder of yours, local to the node"
            )
        return ok(named)
    kernels = Path(__file__).resolve().parents[2] / "kernels"
    beside = kernels / "__pycache__" if (kernels / "__pycache__").exists() else kernels
    if os.access(beside, os.W_OK):
        return ok(f"beside the kernels, {kernels}")
    home = Path(m.environ.get("XDG_CACHE_HOME") or m.home / ".cache")
    above = next((path for path in (home, *home.absolute().parents) if path.exists()), Path("/"))
    if os.access(above, os.W_OK):
        return ok(f"in the home folder, {home}")
    return fail("there is no folder for them", "write: export NUMBA_CACHE_DIR=FOLDER, one that you may write")
