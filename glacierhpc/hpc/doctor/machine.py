"""A machine as the checks see it: files below a root, an environment, commands with a time limit; it judges nothing."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Literal

from glacierhpc.errors import redact
from glacierhpc.hpc.apptainer import PROGRAMS, Runtime, exec_command, inside_environment
from glacierhpc.hpc.site import PLAIN, Site
from glacierhpc.hpc.slurm.client import Answer, outside

Role = Literal["login", "compute"]

NO_ANSWER = "no answer within"
TOLD_CHARACTERS = 200
"""Of what a command said, in a table."""


@dataclass(frozen=True)
class Machine:
    """This machine, or one made up for a test."""

    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    root: Path = Path("/")
    """Where ``etc``, ``proc``, ``sys`` and ``dev`` are."""
    user: str = ""
    host: str = field(default_factory=socket.gethostname)
    site: Site = PLAIN
    scheduler_needed: bool = False
    """Whether jobs are to be submitted from here: otherwise a machine without a scheduler is fine."""
    role: Role = "login"
    """``login``: where jobs are submitted; ``compute``: where they run."""
    folder: Path = field(default_factory=Path.cwd)
    """Where runs are, or this one run."""
    image: str | None = None
    """The image that jobs run in; None where they run in an environment of Python."""
    key: str | None = None
    """Public key, a file in PEM, by which the image is signed; None for those of the user's keyring."""
    archive: str | None = None
    """Address that scenes are read from, where the user has named one."""
    gpu: bool = False
    """Whether there must be a GPU here."""
    python: str = sys.executable
    patience: float = 1.0
    """How many times longer than usual everything may take."""

    def path(self, name: str) -> Path:
        """Return a file of the machine: ``path("etc/subuid")``."""
        return self.root / name

    def text(self, name: str) -> str:
        """Return what a file of the machine says, empty if it says nothing."""
        try:
            return self.path(name).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def which(self, program: str) -> str | None:
        """Return the path of a program, or None."""
        return shutil.which(program, path=self.environ.get("PATH", os.defpath))

    @property
    def inside(self) -> bool:
        """Whether this process runs in a container, from where the machine's own programs are not seen."""
        return any(name in self.environ for name in ("APPTAINER_CONTAINER", "SINGULARITY_CONTAINER"))

    @property
    def has_gpu(self) -> bool:
        """Whether there is, or must be, a GPU to show to an image."""
        return self.gpu or self.which("nvidia-smi") is not None or self.path("dev/kfd").exists()

    @property
    def home(self) -> Path:
        """The user's home folder."""
        return Path(self.environ.get("HOME") or "/")

    def expanded(self, text: str) -> str:
        """Return a text of the site with its variables as they are here; unknown ones stay."""
        return Template(text).safe_substitute(self.environ)

    def ask(
        self, *words: str, timeout_s: float = 8.0, environ: Mapping[str, str] | None = None, given: str = ""
    ) -> Answer:
        """Run a command and return what it left; never raises, and leaves no process of it behind.

        Parameters
        ----------
        timeout_s : float
            After so long it is killed with all that it started, seconds; times the patience.
        environ : mapping, optional
            Its environment, by default the machine's; what belongs to a surrounding job is taken out.
        given : str
            Its standard input.
        """
        surroundings = outside(self.environ if environ is None else environ)
        timeout_s *= self.patience
        try:
            process = subprocess.Popen(
                words, env=surroundings, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True,
            )  # fmt: skip
        except OSError as err:
            return Answer(words, None, err=str(err), missing=True)
        _running[process.pid] = process
        try:
            out, err_text = process.communicate(given, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            _end(process)
            out, err_text = process.communicate()
            return Answer(words, None, out, f"{NO_ANSWER} {timeout_s:g} s\n{err_text}")
        finally:
            del _running[process.pid]
        return Answer(words, process.returncode, out, err_text)

    def runtime(self) -> Runtime | None:
        """Return the program that runs images here, its version not asked for."""
        wanted = self.site.container
        for name in PROGRAMS if wanted in (None, "none") else (str(wanted),):
            if path := self.which(name):
                return Runtime(path, name, ())
        return None

    def ask_python(self, code: str, *arguments: str, timeout_s: float = 60.0) -> Answer:
        """Run a program text in the Python that jobs use: that of the image, where there is one."""
        words = ["-c", code, *arguments]
        if self.image is None:
            return self.ask(self.python, *words, timeout_s=timeout_s)
        runtime, image = self.runtime(), self.expanded(self.image)
        if runtime is None or not Path(image).exists():
            return Answer(("apptainer",), None, err="the image cannot be run here", missing=True)
        command = exec_command(
            runtime,
            image,
            ["python3", *words],
            binds=[self.folder],
            gpu=self.has_gpu,
            devices=self.path("dev"),
        )
        return self.ask(*command, timeout_s=timeout_s, environ=inside_environment(self.environ))


_running: dict[int, subprocess.Popen[str]] = {}
"""Commands that are asked now, by their process id."""


def _end(process: subprocess.Popen[str]) -> None:
    """End a command with all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


@atexit.register
def _end_all() -> None:
    """End what is still asked: Ctrl-C reaches no process that has a session of its own."""
    for process in list(_running.values()):
        _end(process)


def words_of(answer: Answer) -> str:
    """Return the line of an answer that says most: the last of its errors, else of its output; without secrets."""
    if answer.missing:
        return f"{answer.command[0]} is not here" if answer.command else "not here"
    lines = [line.strip() for line in (answer.err or answer.out).strip().splitlines() if line.strip()]
    said = lines[-1] if lines else f"{answer.command[0]} ended with {answer.code} and said nothing"
    return "".join(letter for letter in redact(said) if letter.isprintable())[:TOLD_CHARACTERS]


def listed(names: Sequence[str], most: int = 4) -> str:
    """Return names as a list in a sentence, the first few of them."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
