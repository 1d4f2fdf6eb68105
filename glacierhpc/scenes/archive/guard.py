"""Runs a command that must not outlive its parent; started as a file, so it imports nothing of the package.

    python guard.py <command> [arguments]

The guard ends the command when its own standard input closes: the parent holds the other end, and the
operating system closes that when the parent ends, however it ends. This holds for parents that start the
guard from a thread, too, where Linux's parent-death signal alone would strike when the thread ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading


def _die_with_parent() -> None:
    """Ask Linux to kill this process when the guard ends, should the guard itself be killed."""
    with contextlib.suppress(
        OSError, AttributeError
    ):  # other systems have no prctl; there standard input must do
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)


def main(arguments: list[str]) -> int:
    """Run a command until it ends or standard input closes; return its exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which closes standard input
    child = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, preexec_fn=_die_with_parent)

    def watch() -> None:
        while os.read(0, 4096):
            pass
        child.terminate()
        try:
            child.wait(2.0)
        except subprocess.TimeoutExpired:
            child.kill()

    threading.Thread(target=watch, daemon=True).start()
    return child.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
