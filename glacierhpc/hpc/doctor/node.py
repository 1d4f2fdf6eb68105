"""The look at a compute node: a short job that goes through the checks there, and what the host sees of it."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glacierhpc.atomic import write_text
from glacierhpc.errors import GlacierError
from glacierhpc.hpc.doctor.finding import Finding, fail, ok, read, unknown, warn
from glacierhpc.hpc.doctor.machine import Machine
from glacierhpc.hpc.doctor.meeting import CALL_S, Host
from glacierhpc.hpc.doctor.storage import existing
from glacierhpc.hpc.slurm.client import call
from glacierhpc.hpc.slurm.job import JobSpec, Kind
from glacierhpc.hpc.slurm.script import render
from glacierhpc.hpc.slurm.states import UNKNOWN, JobState, job_states
from glacierhpc.hpc.slurm.submit import submit

log = logging.getLogger(__name__)

MINUTES = 6
"""Walltime: the checks take one, on a busy file system some more."""
LOOK_S = 1.0
ASK_S = (2.0, 15.0)
"""Between two questions to the scheduler, first and at most, seconds: it has others to serve."""
SETTLE_S = 30.0
"""After the end of a job its last words may take so long to be seen."""
FOLDER = ".glacierhpc-doctor-"
SKEW_S, BROKEN_S = 5.0, 120.0
"""Clocks that differ by more are worth a word; tokens and certificates are made with a margin of the second."""


@dataclass(frozen=True)
class Report:
    """What was found on a compute node."""

    host: str
    job: str
    findings: tuple[Finding, ...]


def examine_node(
    m: Machine, arguments: Sequence[str], *, kind: Kind = "cpu", wait_s: float = 600.0
) -> Report:
    """Submit a job that examines the node it runs on, wait for it, and return what it found.

    Parameters
    ----------
    arguments : sequence of str
        Options of ``glacierhpc doctor`` by which the job knows the site.
    kind : {"cpu", "gpu", "network"}
        What the node's partition must have.
    wait_s : float
        Longest wait for the job's start, seconds; then it is cancelled.

    Returns
    -------
    Report
        Where there is no folder for the job to write to, or no answer of it: with that as its only finding.
    """
    folder: Path | None = None
    try:
        folder = Path(tempfile.mkdtemp(prefix=FOLDER, dir=existing(m.folder)))
        with closing(Host(folder, m.host, m.site.interface)) as host:
            return _Visit(m, folder, host).made(arguments, kind, wait_s)
    except (OSError, GlacierError) as err:
        reason = (err.strerror if isinstance(err, OSError) else None) or err
        told = f"the job would write its findings to {m.folder}, which does not work: {reason}"
        fix = "call glacierhpc doctor in a folder that compute nodes see and you may write"
        return Report("", "", (_named("job", fail(told, fix)),))
    finally:
        if folder is not None and not (folder / "kept").exists():
            shutil.rmtree(folder, ignore_errors=True)


class _Visit:
    """One job, from its submission to its end."""

    def __init__(self, m: Machine, folder: Path, host: Host) -> None:
        self.m, self.folder, self.host = m, folder, host
        self.refused: str | None = None
        """What kept the host from calling the node; empty if nothing; None before it has tried."""
        self.seen_at = 0.0
        self.state = UNKNOWN
        self.job = ""

    def made(self, arguments: Sequence[str], kind: Kind, wait_s: float) -> Report:
        label = f"glacierhpc-doctor-{self.folder.name.removeprefix(FOLDER)}"
        script = self.folder / "doctor.sbatch"
        write_text(script, self._script(label, arguments, kind))
        began = time.monotonic()
        try:
            self.job = submit(str(script), label)
        except KeyboardInterrupt:  # the scheduler may have it by now
            call(["scancel", f"--name={label}"], timeout_s=30)
            raise
        except GlacierError as err:
            return Report(
                "", "", (_named("job", fail(" ".join(str(err).split()), "see the scheduler's words")),)
            )
        log.info("submitted job %s; waiting for its start, at most %.0f minutes", self.job, wait_s / 60)
        try:
            answer = self._waited(wait_s)
        finally:
            if answer_missing := self._answer() is None:
                call(["scancel", self.job], timeout_s=30)
        if answer is None or answer_missing:
            return Report("", self.job, (_named("job", self._no_answer()),))
        took_s = time.monotonic() - began
        node = str(answer.get("host", ""))
        findings = [read(values) for values in answer.get("findings", [])]
        told = ok(f"job {self.job} on {node}, {took_s:.0f} s from submission to answer")
        return Report(node, self.job, (_named("job", told), *self._between(), *findings))

    def _script(self, label: str, arguments: Sequence[str], kind: Kind) -> str:
        # the node is looked at from outside the image, which is one of the things looked at
        outside = self.m.site.model_copy(update={"image": None, "warning_s": 60})
        spec = JobSpec(
            "doctor", "Looks at the node it runs on.",
            ("doctor", "--here", "--json", "--meet", str(self.folder), *arguments), goes_on=False,
            takes_config=False, folder=str(self.folder), label=label, kind=kind, cpus=2, memory_gb=4,
            hours=MINUTES * self.m.patience / 60, gpus=1 if kind == "gpu" else 0,
            directives={"export": "ALL,GLACIERHPC_IMAGE="},
        )  # fmt: skip
        return render(spec, outside)

    def _waited(self, wait_s: float) -> dict[str, Any] | None:
        """Wait for the job's answer; None if it does not come."""
        pause, asked, last_news = ASK_S[0], 0.0, ""
        end = time.monotonic() + wait_s
        ended_at: float | None = None
        started = False
        while True:
            if (answer := self._answer()) is not None:
                return answer
            self._call_node()
            now = time.monotonic()
            if now >= asked + pause:
                pause, asked = min(pause * 1.5, ASK_S[1]), now
                self.state = job_states([self.job], exit_files=[*self.folder.glob("*.exit")])[self.job]
                if (news := _news(self.state)) != last_news:
                    log.info("job %s is %s", self.job, news)
                    last_news = news
                if self.state.verdict == "running" and not started:
                    started, end = (
                        True,
                        now + 60 * MINUTES * self.m.patience + SETTLE_S,
                    )  # its walltime ends it
                elif not self.state.active and self.state is not UNKNOWN:
                    ended_at = ended_at or now
            if now > end or (ended_at is not None and now > ended_at + SETTLE_S):
                return None
            time.sleep(LOOK_S)

    def _answer(self) -> dict[str, Any] | None:
        """Return the job's last words: a line of JSON among those of modules and shells."""
        path = self.folder / f"doctor-{self.job}.log"
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return None
        for line in reversed(lines):
            if line.startswith("{") and '"findings"' in line:
                try:
                    return dict(json.loads(line))
                except ValueError:
                    return None  # half written
        return None

    def _call_node(self) -> None:
        if self.refused is None and (self.host.heard or self.host.node()):
            self.seen_at = time.time()
            self.refused = self.host.call_node()

    def _no_answer(self) -> Finding:
        if self.state.verdict == "waiting":
            return unknown(
                f"job {self.job} did not start in time ({_news(self.state)}); it is cancelled",
                "try again later, with --wait MINUTES, or in a partition with free nodes: --set use.cpu=NAME",
            )
        (self.folder / "kept").touch()
        said = self._last_words()
        told = f"job {self.job} left no answer ({_news(self.state)})"
        fix = f"look into {self.folder}; the folder and Python must be seen on compute nodes"
        return fail(f"{told}: {said}" if said else told, fix)

    def _last_words(self) -> str:
        path = self.folder / f"doctor-{self.job}.log"
        lines = (
            path.read_text(encoding="utf-8", errors="replace").strip().splitlines() if path.is_file() else []
        )
        return lines[-1][:200] if lines else "it has no log here"

    def _between(self) -> list[Finding]:
        """Return what the two machines saw of each other."""
        node = self.host.node()
        self._call_node()
        found = {
            "node to login": _reached(str(node.get("refused", "")), self.host, heard=bool(self.host.heard)),
            "login to node": _called(self.refused, node),
            "clock of the node": self._clock(node),
            "locks between nodes": _locks(node.get("locked")),
        }
        return [_named(name, finding) for name, finding in found.items()]

    def _clock(self, node: dict[str, Any]) -> Finding:
        heard = self.host.heard
        if heard:
            return clock(float(heard["time"]) - float(heard["heard"]), CALL_S)
        if "time" in node:  # told by a file, seen after some seconds
            return clock(float(node["time"]) - self.seen_at, SETTLE_S)
        return unknown("the node did not tell its time")


def clock(ahead_s: float, blur_s: float) -> Finding:
    """Judge how far the node's clock is ahead of this one; `blur_s` is how late its time may have been read."""
    sure = max(abs(ahead_s) - blur_s, 0.0) if ahead_s < 0 else ahead_s
    told = f"{abs(ahead_s):.0f} s {'ahead' if ahead_s > 0 else 'behind'}"
    fix = "ask the site to set its clocks (NTP): tokens and certificates count on them"
    if sure > BROKEN_S:
        return fail(told, fix)
    return warn(told, fix) if sure > SKEW_S else ok("agrees with the login host's")


def _reached(refused: str, host: Host, *, heard: bool) -> Finding:
    if heard:
        return ok(f"the job reaches {host.address}")
    return warn(
        f"the job does not reach {host.address}: {refused or 'nothing was heard'}",
        "a Dask scheduler on the login host gets no workers: run it in a job, or try --set interface=NAME",
    )


def _called(refused: str | None, node: dict[str, Any]) -> Finding:
    where = node.get("address", "the node")
    if refused == "":
        return ok(f"the login host reaches {where}")
    return warn(
        f"the login host does not reach {where}: {refused or 'the node told no address'}",
        "dashboards of jobs are not reached from here; submit from a host that reaches compute nodes if you need them",
    )


def _locks(locked: object) -> Finding:
    if locked is True:
        return ok("a file that the login host locks is locked on the node")
    told = "cannot be tried" if locked is None else "a file that the login host locks is free on the node"
    return warn(
        told, "do not start two commands on one run from two hosts; runs guard themselves by a lease besides"
    )


def _news(state: JobState) -> str:
    words = state.told.lower() or state.verdict
    return f"{words} ({state.reason})" if state.reason else words


def _named(name: str, finding: Finding) -> Finding:
    return Finding(finding.status, finding.told, finding.fix, name)
