"""The doctor's checks of Python and its packages: really shadowed ones, and answers of made-up Pythons."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from glacierhpc.hpc.doctor import containers, devices, software
from glacierhpc.hpc.doctor.finding import unknown
from tests.hpc.machines import complains, made, says, shim


def python(folder: Path, text: str) -> str:
    """A Python that answers so, whatever it is asked."""
    return shim(folder / "python", text)


@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        (says("3 11 2 /usr/bin/python3"), "ok", "3.11.2 here, /usr/bin/python3"),
        (says("3 9 2 /usr/bin/python3"), "fail", "3.11 to 3.13"),
        (complains("error while loading shared libraries: libpython3.11.so"), "fail", "libpython"),
    ],
)
def test_python(answer: str, status: str, words: str, tmp_path: Path) -> None:
    found = software.python(made(tmp_path, python=python(tmp_path, answer)))
    assert found.status == status and words in f"{found.told} {found.fix}", found
    assert software.python(made(tmp_path)).status == "ok"  # this one, really


def test_packages_are_compared_with_those_that_were_tested() -> None:
    pinned = {"numpy": "2.1.0", "torch": "2.13.0"}
    assert software.compared({"numpy": "2.1.0", "torch": "2.13.0+cu128"}, pinned, [], "here").status == "ok"
    other = software.compared({"numpy": "1.26.0", "torch": "2.13.0"}, pinned, [], "here")
    assert (
        other.status == "warn"
        and "numpy 1.26.0 (tested: 2.1.0)" in other.told
        and "constraints.txt" in other.fix
    )
    assert "torch (training)" in software.compared({}, pinned, ["torch (training)"], "here").told


def test_packages_of_this_python_and_of_a_bare_one(tmp_path: Path) -> None:
    there = {name: "1" for name in ("torch", "distributed", "rasterio", "numba")}
    assert software.packages(made(tmp_path)).status in ("ok", "warn")
    bare = software.packages(made(tmp_path, python=python(tmp_path, says("{}"))))
    assert bare.status == "warn" and "torch (training)" in bare.told
    odd = software.packages(
        made(tmp_path, python=python(tmp_path, says(json.dumps(there | {"Torch_X": "2"}))))
    )
    assert "not as tested" in odd.told  # torch 1
    assert software.packages(made(tmp_path, python=python(tmp_path, "exit 1"))).status == "unknown"


def test_a_package_of_another_place_is_found(tmp_path: Path) -> None:
    """For real: another numpy in PYTHONPATH, found by this Python before ours."""
    assert software.leaks(made(tmp_path)).status == "ok"
    (tmp_path / "evil" / "numpy").mkdir(parents=True)
    (tmp_path / "evil" / "numpy" / "__init__.py").touch()
    found = software.leaks(made(tmp_path, environ={"PYTHONPATH": str(tmp_path / "evil")}))
    assert found.status == "fail" and f"numpy is {tmp_path}/evil/numpy/__init__.py" in found.told
    assert "unset PYTHONPATH" in found.fix


def test_an_environment_that_goes_on_from_the_system_is_ours(tmp_path: Path) -> None:
    """As centres bring torch by a module, and environments are made with --system-site-packages."""
    given = ["-m", "venv", "--without-pip"]
    for name, options in (("alone", []), ("on", ["--system-site-packages"])):
        subprocess.run([sys.executable, *given, *options, tmp_path / name], check=True)
    code = "import site; print(*site.getsitepackages(), sep='\\n')"
    theirs = subprocess.run(
        [tmp_path / "on" / "bin" / "python", "-c", code], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert len(theirs) > 1
    asked = f"found = {{}}; print(all(os.path.realpath(folder) in ours for folder in {theirs}))"
    code = software.ORIGINS.replace("found = {}", asked)
    for name, all_ours in (("on", "True"), ("alone", "False")):
        answer = made(tmp_path, python=str(tmp_path / name / "bin" / "python")).ask_python(code)
        assert answer.out.startswith(all_ours), answer


def test_what_may_shadow_one_day_is_told(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    harmless = software.leaks(made(tmp_path, environ={"PYTHONPATH": str(tmp_path / "none")}))
    assert harmless.status == "warn" and "unset PYTHONPATH" in harmless.fix
    conda = software.leaks(made(tmp_path, environ={"CONDA_PREFIX": "/opt/conda"}))
    assert conda.status == "warn" and "conda deactivate" in conda.fix
    (tmp_path / "home/.local/lib/python3.11/site-packages").mkdir(parents=True)
    answer = {"user": True, "shadowed": {}}
    local = software.leaks(made(tmp_path, python=python(tmp_path, says(json.dumps(answer)))))
    assert local.status == "warn" and "PYTHONNOUSERSITE=1" in local.fix
    closed = software.leaks(
        made(tmp_path, python=python(tmp_path, says(json.dumps(answer | {"user": False}))))
    )
    assert closed.status == "ok"
    assert software.leaks(made(tmp_path, python=python(tmp_path, "exit 1"))).status == "unknown"


def test_nothing_leaks_into_the_image(tmp_path: Path) -> None:
    (tmp_path / "i.sif").touch()
    given: dict[str, Any] = {
        "image": str(tmp_path / "i.sif"), "environ": {"PYTHONPATH": "/evil", "LD_LIBRARY_PATH": "/evil"},
        "commands": {"apptainer": says('{"user": false, "shadowed": {}}')},
    }  # fmt: skip
    assert software.leaks(made(tmp_path, **given)).status == "ok"
    assert software.native_leaks(made(tmp_path, **given)).status == "ok"
    assert software.compiled(made(tmp_path, **given)).status == "skip"


def test_of_an_image_that_is_not_there_nothing_is_known(tmp_path: Path) -> None:
    """That it is not there is told once, by the check of the image."""
    m = made(
        tmp_path, image=str(tmp_path / "none.sif"), commands={"apptainer": says("3 11 2 /usr/bin/python3")}
    )
    checks = (
        software.python,
        software.packages,
        software.leaks,
        devices.torch,
        devices.horovod,
        devices.mpi,
        devices.added,
    )
    assert {check(m) for check in checks} == {unknown("not known: the image cannot be run here")}
    assert containers.image(m).status == "fail"


def test_libraries_of_other_places(tmp_path: Path) -> None:
    assert software.native_leaks(made(tmp_path)).status == "ok"
    surroundings = {"LD_LIBRARY_PATH": f"{tmp_path}/lib:"}
    assert software.native_leaks(made(tmp_path, environ=surroundings)).status == "ok"
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libgdal.so.30").touch()
    found = software.native_leaks(made(tmp_path, environ=surroundings))
    assert found.status == "warn" and "libgdal.so.30" in found.told


def test_compiled_kernels_need_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (
        software.compiled(made(tmp_path, environ={"NUMBA_CACHE_DIR": str(tmp_path / "new")})).status == "ok"
    )
    assert software.compiled(made(tmp_path)).status == "ok"
    # what may be written is the kernel's to say, and root may write everything
    closed = {str(tmp_path), str(tmp_path / "home")}
    monkeypatch.setattr(
        "os.access", lambda path, mode: str(path) not in closed and "glacierhpc/kernels" not in str(path)
    )
    named = software.compiled(made(tmp_path, environ={"NUMBA_CACHE_DIR": str(tmp_path / "new")}))
    assert named.status == "warn" and "NUMBA_CACHE_DIR" in named.told
    assert software.compiled(made(tmp_path)).status == "fail"
    monkeypatch.setattr("os.access", lambda path, mode: "glacierhpc/kernels" not in str(path))
    assert "home folder" in software.compiled(made(tmp_path)).told
