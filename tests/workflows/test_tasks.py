"""The table of steps: which module tells each, and what that module asks for."""

import subprocess
import sys


def test_flow_and_report_need_no_torch():
    program = "import sys, glacierhpc.workflows.results as told; sys.exit('torch' in sys.modules or not told.report)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
