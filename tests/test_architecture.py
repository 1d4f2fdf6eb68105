"""The directions of imports: downwards only, siblings apart, no circle, each layer its own libraries.

Imports are read from the source with `ast`, so that those inside functions and under ``TYPE_CHECKING`` count too.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

LAYERS = (
    {"errors", "kernels", ""},
    {"atomic", "config", "cube", "fanout", "fence", "files", "grid"}
    | {"holder", "lease", "run_config", "rundir", "seasons", "tiling"},
    {"scenes", "coreg", "velocity", "datasets", "models", "training", "evaluation", "hpc"},
    {"mapping", "report"},
    {"workflows"},
    {"cli", "console", "__main__"},
)
"""Parts of the package by layer, lowest first; the empty name is the package itself."""
APART = (2, 3)
"""Layers whose parts do not import each other."""
SEE_CONFIG = {"config", "workflows", "cli"}
ONLY = {"kernels": {"numpy", "numba", "llvmlite"}}  # numba is written in terms of llvmlite
NEVER = {
    "scenes": {"torch"},
    "models": {"xarray"},
    "training": {"xarray"},
    "hpc": {"torch", "xarray", "rasterio"},
    "": {"dill", "joblib", "cloudpickle", "pickle", "marshal", "shelve"},
}
"""Libraries a part must not import; the empty name stands for all parts."""

Imports = dict[str, set[str]]


def read_imports(package: Path) -> Imports:
    """Return what every module of a package imports, as absolute dotted names."""
    files = {_module_name(path, package): path for path in sorted(package.rglob("*.py"))}
    return {name: set(_imported(path, name, set(files))) for name, path in files.items()}


def _module_name(path: Path, package: Path) -> str:
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(path: Path, name: str, modules: set[str]) -> Iterator[str]:
    inside = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = inside[: len(inside) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                member = f"{source}.{alias.name}"
                yield member if member in modules else source


def part_of(module: str) -> str:
    """Return the part of the package a module belongs to, empty for the package itself."""
    return module.split(".")[1] if "." in module else ""


def layer_of(part: str) -> int | None:
    return next((level for level, parts in enumerate(LAYERS) if part in parts), None)


def faults(imports: Imports) -> list[str]:
    """Return a sentence for every import against the rules."""
    return [*_directions(imports), *_circles(imports), *_libraries(imports)]


def _directions(imports: Imports) -> Iterator[str]:
    for module, targets in imports.items():
        part, level = part_of(module), layer_of(part_of(module))
        if level is None:
            yield f"{module} belongs to no layer"
            continue
        for target in sorted(targets & imports.keys()):
            other, other_level = part_of(target), layer_of(part_of(target))
            if other_level is None or other == part:
                continue
            if other_level > level:
                yield f"{module} imports upwards: {target}"
            elif other_level == level and level in APART:
                yield f"{module} imports its sibling {target}"
            if other == "config" and part not in SEE_CONFIG:
                yield f"{module} sees the configuration: {target}"


def _circles(imports: Imports) -> Iterator[str]:
    """Find circles by a depth-first walk; one sentence per back edge."""
    state: dict[str, str] = {}
    path: list[str] = []

    def visit(module: str) -> Iterator[str]:
        state[module] = "open"
        path.append(module)
        for target in sorted(imports[module] & imports.keys()):
            if state.get(target) == "open":
                yield "circle: " + " > ".join([*path[path.index(target) :], target])
            elif target not in state:
                yield from visit(target)
        path.pop()
        state[module] = "closed"

    for module in sorted(imports):
        if module not in state:
            yield from visit(module)


def _libraries(imports: Imports) -> Iterator[str]:
    for module, targets in imports.items():
        part, own = part_of(module), module.split(".")[0]
        tops = {target.split(".")[0] for target in targets} - {own}
        foreign = tops - set(sys.stdlib_module_names)
        if part in ONLY:
            yield from (f"{module} knows {library}" for library in sorted(foreign - ONLY[part]))
        banned = NEVER.get(part, set()) | NEVER[""]
        yield from (f"{module} knows {library}" for library in sorted(tops & banned))


def test_the_package_keeps_the_rules() -> None:
    imports = read_imports(ROOT / "glacierhpc")
    assert len(imports) > 20
    assert faults(imports) == []


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"kernels/warp.py": "import scipy"}, "glacierhpc.kernels.warp knows scipy"),
        ({"kernels/warp.py": "def f():\n    from scipy.ndimage import zoom"}, "kernels.warp knows scipy"),
        ({"coreg.py": "import glacierhpc.velocity", "velocity.py": ""}, "coreg imports its sibling"),
        ({"coreg.py": "from .velocity import x", "velocity.py": "x = 1"}, "coreg imports its sibling"),
        (
            {"cube.py": "from glacierhpc import coreg", "coreg.py": ""},
            "cube imports upwards: glacierhpc.coreg",
        ),
        ({"cube.py": "from glacierhpc import grid", "grid.py": "from glacierhpc import cube"}, "circle: "),
        ({"scenes/__init__.py": "", "scenes/stac.py": "import torch.nn"}, "scenes.stac knows torch"),
        ({"models/__init__.py": "import xarray as xr"}, "models knows xarray"),
        ({"training/__init__.py": "import joblib"}, "training knows joblib"),
        ({"files.py": "def f():\n    from pickle import loads"}, "files knows pickle"),
        ({"training/loop.py": "import shelve, marshal"}, "training.loop knows marshal"),
        (
            {"coreg.py": "from glacierhpc.config import Config", "config/__init__.py": ""},
            "sees the configuration",
        ),
        ({"helpers.py": ""}, "glacierhpc.helpers belongs to no layer"),
        (
            {
                "coreg/__init__.py": "from glacierhpc.coreg import align",
                "coreg/align.py": "if TYPE_CHECKING:\n    from glacierhpc.coreg import x",
            },
            "circle: glacierhpc.coreg > glacierhpc.coreg.align > glacierhpc.coreg",
        ),
    ],
)
def test_each_rule_can_be_broken(tmp_path: Path, files: dict[str, str], words: str) -> None:
    package = tmp_path / "glacierhpc"
    for name, text in {"__init__.py": "", "errors.py": "", **files}.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    assert any(words in fault for fault in faults(read_imports(package)))


def test_a_good_tree_has_no_faults(tmp_path: Path) -> None:
    package = tmp_path / "glacierhpc"
    files = {
        "__init__.py": "__version__ = '1'",
        "errors.py": "from glacierhpc import __version__",
        "kernels/warp.py": "import math\nimport numpy\nfrom numba import njit\nfrom glacierhpc.errors import x",
        "rundir.py": "from .files import write\nimport pandas",
        "files.py": "from . import errors",
        "workflows/__init__.py": "from .imagery import run",
        "workflows/imagery.py": "from glacierhpc.config import Config\nfrom ..rundir import RunDirectory",
        "config/__init__.py": "",
    }
    for name, text in files.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    assert faults(read_imports(package)) == []
