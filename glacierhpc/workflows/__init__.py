"""The tasks as stories: the only place where the parts and the configuration meet."""

from __future__ import annotations

from pathlib import Path

from glacierhpc.workflows.runner import run_step, run_steps
from glacierhpc.workflows.tasks import Summary

__all__ = ["demo", "run_step", "run_steps"]


def demo(folder: Path = Path("runs/demo")) -> Summary:
    """Run the forecast task on synthetic scenes, see `demonstration`."""
    from glacierhpc.workflows.demonstration import demo as run_demo

    return run_demo(folder)
