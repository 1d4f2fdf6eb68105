"""dask-jobqueue's own tests, run against our classes in a process of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

import dask_jobqueue

from glacierhpc.hpc.cluster.tls import _Authority
from tests.conftest import ROOT

LEFT_OUT = {
    "test_runner.py": "starts no cluster, and waits for ever under Python's own event loop",
    "test_oar.py": "a batch system that is not one of ours",
}


@dataclass(frozen=True)
class Results:
    """What became of the tests."""

    passed: int
    skipped: int
    failed: list[str]
    output: str


def run_suite(folder: Path, *options: str, path: str | None = None) -> Results:
    """Run the tests in a folder.

    Parameters
    ----------
    options : str
        Further options of pytest.
    path : str, optional
        Where programs are looked for.
    """
    suite = folder / "suite"
    source = Path(dask_jobqueue.__file__).parent / "tests"
    shutil.copytree(source, suite, ignore=shutil.ignore_patterns("__pycache__", *LEFT_OUT))
    authority = _Authority()  # these two files of theirs do not come with the package
    certificate, key = authority.sign("worker")
    (suite / "key.pem").write_text(key)
    (suite / "ca.pem").write_text(certificate + authority.certificate)
    report = folder / "report.xml"
    command = [
        sys.executable, "-m", "pytest", "-q", "-p", "tests.hpc.jobqueue_plugin", "-p", "no:cacheprovider",
        f"--junitxml={report}", "-o", "faulthandler_timeout=60", str(suite), *options,
    ]  # fmt: skip
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CI_SHARED_SPACE": str(folder)}
    done = subprocess.run(
        command, cwd=folder, env=environ | ({"PATH": path} if path else {}), capture_output=True, text=True,
        check=False, timeout=900,
    )  # fmt: skip
    said = done.stdout[-6000:] + done.stderr[-2000:]
    assert report.is_file(), said
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    failed = [
        f"{case.get('name')}: {(case.find('failure') or case.find('error')).get('message')}"  # type: ignore[union-attr]
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    ]
    skipped = sum(case.find("skipped") is not None for case in cases)
    return Results(len(cases) - skipped - len(failed), skipped, failed, said)
