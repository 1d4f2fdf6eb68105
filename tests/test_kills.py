"""Killed at random moments, a run leaves nothing that is loadable but wrong, and comes to the same end.

A dozen kills by default; the full number by hand: python -m tests.kills --kills 100
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.mark.slow
def test_a_dozen_kills_leave_nothing_wrong(tmp_path: Path) -> None:
    # a process of its own, because it forks: pytest has threads and open files
    command = [sys.executable, "-m", "tests.kills", "--kills", "12", "--folder", str(tmp_path)]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=1800)
    assert answer.returncode == 0, answer.stderr[-3000:]
    seen = json.loads(answer.stdout.splitlines()[-1])
    assert seen["kills"] == 12 and seen["runs"] >= 1 and seen["in_a_write"] >= 1
