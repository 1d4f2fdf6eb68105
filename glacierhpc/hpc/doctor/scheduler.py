"""Checks of the scheduler: whether it is here, answers, knows the user, and takes the jobs of a chain."""

from __future__ import annotations

import re
import time

from glacierhpc.errors import GlacierError, InputError
from glacierhpc.hpc.chain import check, plan
from glacierhpc.hpc.doctor.finding import Finding, fail, ok, skip, unheard, unknown, warn
from glacierhpc.hpc.doctor.machine import NO_ANSWER, Machine, listed, words_of
from glacierhpc.hpc.slurm.client import Answer
from glacierhpc.hpc.submission import tested

COMMANDS = ("sbatch", "squeue", "scontrol", "scancel")
OLDEST = (20, 2)
"""The first release whose squeue knows --me (its release notes), by which jobs are found again."""
SLOW_S = 5.0

NOT_HERE = "submit from a login node, or load its module; without a scheduler: glacierhpc run CONFIG"

CAUSES = (
    ("rewound credential", "this machine's clock is behind the controller's; ask the site to set it (NTP)"),
    ("expired credential", "this machine's clock is ahead of the controller's; ask the site to set it (NTP)"),
    ("munge encode failed", "the munge daemon of this machine does not run; tell the site"),
    ("failed to connect to", "the munge daemon of this machine does not run; tell the site"),
    ("credential", "this machine and the controller have different munge keys; tell the site"),
    ("authentication", "this machine and the controller have different munge keys; tell the site"),
    ("configuration source", "there is no slurm.conf; set SLURM_CONF to its path, or go to a login node"),
    ("cannot stat file", "SLURM_CONF names a file that is not there; unset it, or give the right path"),
    ("configuration file", "slurm.conf is not right; look at SLURM_CONF, or tell the site"),
    ("unable to contact", "the controller is down or not reached from here; try again, then tell the site"),
    ("timed out", "the controller is busy or not reached from here; try again, then tell the site"),
    (NO_ANSWER, "the controller is busy or not reached from here; try again, then tell the site"),
)
"""What Slurm's commands say, in lower case, and what to do about it; the first that fits."""
NO_WORD = CAUSES[-1][1]
"""What to do about a command that neither ends nor complains."""

REFUSED = re.compile("credential|munge|authentication", re.I)
"""What they say when it is the user's credential that is at fault, not the controller."""


def cause(answer: Answer) -> str:
    """Return what to do about what a command of the scheduler said."""
    said = (answer.err + answer.out).lower()
    return next((fix for text, fix in CAUSES if text in said), "try it by hand, then tell the site")


def missing(m: Machine, told: str, fix: str = NOT_HERE) -> Finding:
    """Return the finding for what only those need who submit jobs from here."""
    if m.inside:
        return skip("inside a container the scheduler is not seen; ask outside")
    return fail(told, fix) if m.scheduler_needed else skip(f"{told}; not needed to work on this machine")


def unanswered(m: Machine, answer: Answer) -> Finding:
    """Return the finding for what is not known because the scheduler does not answer, which is told once, elsewhere."""
    if "configuration source" in answer.err:
        told = "not known without a slurm.conf"
        return unknown(told) if m.scheduler_needed else skip(told)
    return unknown(f"not told: {words_of(answer)}", cause(answer))


def commands(m: Machine) -> Finding:
    """Look for the scheduler's commands, and for a release that knows the options that are used."""
    absent = [name for name in COMMANDS if m.which(name) is None]
    if absent:
        return missing(m, f"{listed(absent)} not on the path")
    said = m.ask("sbatch", "--version")
    release = re.search(r"(\d+)\.(\d+)[.\w-]*", said.out)
    if not release:
        if cause(said) == NO_WORD and (finding := unheard(said)):
            return finding
        told = f"the commands are here, but do not work: {words_of(said)}"
        return fail(told, cause(said)) if m.scheduler_needed else warn(told, cause(said))
    if (int(release[1]), int(release[2])) < OLDEST:
        return fail(
            f"Slurm {release[0]} is too old: squeue --me is from 20.02 on", "ask the site for a newer one"
        )
    return ok(f"Slurm {release[0]}")


def controller(m: Machine) -> Finding:
    """Ask the controller whether it is up; asks for no credential."""
    if m.which("scontrol") is None:
        return missing(m, "no scontrol")
    began = time.monotonic()
    answer = m.ask("scontrol", "ping")
    took_s = time.monotonic() - began
    up = [line.strip() for line in answer.out.splitlines() if line.rstrip().endswith(" UP")]
    if not up:
        # with SLURM_CONF wrong it complains, and tries on
        if "configuration source" in answer.err or (answer.code is None and cause(answer) == NO_WORD):
            return unanswered(m, answer)
        told = f"does not answer: {words_of(answer)}"
        return fail(told, cause(answer)) if m.scheduler_needed else warn(told, cause(answer))
    if took_s > SLOW_S:
        return warn(
            f"{up[0]}, after {took_s:.0f} s", "the scheduler is busy: expect submissions to take minutes"
        )
    return ok(up[0])


def credentials(m: Machine) -> Finding:
    """Ask for what needs a credential: munge's daemon, its key, and clocks that agree."""
    if m.which("squeue") is None:
        return missing(m, "no squeue")
    answer = m.ask("squeue", "--me", "--noheader", "--format=%A")
    if not answer.ok:
        if not REFUSED.search(answer.err):
            return unanswered(m, answer)
        told = f"not accepted: {words_of(answer)}"
        return fail(told, cause(answer)) if m.scheduler_needed else warn(told, cause(answer))
    jobs = len(answer.out.split())
    return ok(f"accepted; {jobs} job{'' if jobs == 1 else 's'} of yours in the queue")


def accounting(m: Machine) -> Finding:
    """Ask whether the past is kept: how jobs ended is then told by the scheduler."""
    if m.which("sacct") is None:
        return missing(m, "no sacct")
    answer = m.ask("sacct", "--allocations", "--noheader", "--starttime=now-1hour", "--format=JobIDRaw")
    if answer.ok:
        return ok("on")
    if "disabled" in answer.err + answer.out:
        return ok("off: how jobs ended is taken from the queue and from the exit files that they leave")
    return unanswered(m, answer)


def limits(m: Machine) -> Finding:
    """Compare what the jobs of a chain ask for with what their partitions give."""
    if m.which("scontrol") is None:
        return missing(m, "no scontrol")
    used = sorted(set(m.site.use.values()))
    said = m.ask("scontrol", "ping")
    if said.code is None:  # each partition would be waited for as long
        return unanswered(m, said)
    if not said.ok and not all(name in m.site.partitions for name in used or [""]):
        return skip("what partitions give is not told here")
    try:
        # who is billed is a question of its own
        check(_links(m), m.site.model_copy(update={"account_needed": False}))
    except GlacierError as err:
        return fail(str(err), "set these for this call, or in ~/.config/glacierhpc/site.yaml")
    return ok(f"the jobs of a chain fit into {listed(used) if used else 'the default partition'}")


def _links(m: Machine) -> list:  # type: ignore[type-arg]
    asked = m.site.jobs.train
    several = (asked.nodes or 1) * (asked.tasks_per_node or 1) > 1
    steps = ("search", "sequences", "train", "report")
    return plan(
        m.site, name="doctor", run=str(m.folder), steps=steps, to_do=0, backend="ddp" if several else "single",
        folder=str(m.folder),
    )  # fmt: skip


def partitions(m: Machine) -> Finding:
    """Look whether the partitions that are used take jobs."""
    if m.which("sinfo") is None:
        return missing(m, "no sinfo")
    answer = m.ask("sinfo", "--noheader", "--format=%P|%a|%l")
    rows = [line.split("|") for line in answer.out.split() if line.count("|") == 2]
    if not answer.ok or not rows:
        return unanswered(m, answer)
    there = {name.rstrip("*"): state for name, state, _ in rows}
    default = [name.rstrip("*") for name, _, _ in rows if name.endswith("*")]
    used = sorted(set(m.site.use.values())) or default
    if not used:
        return fail(
            "no partition is the default one", f"name one: --set use.cpu=NAME ({listed(sorted(there), 8)})"
        )
    if absent := [name for name in used if name not in there]:
        return fail(
            f"{m.site.title} has no partition {listed(absent)}; it has {listed(sorted(there), 8)}",
            "set use.cpu, use.gpu and use.network in ~/.config/glacierhpc/site.yaml, or choose another --site",
        )
    if closed := [name for name in used if there[name] != "up"]:
        return warn(
            f"{listed(closed)} takes no jobs now", "wait, or use another partition: --set use.cpu=NAME"
        )
    return ok(listed([f"{name.rstrip('*')} ({longest})" for name, _, longest in rows], 6))


def account(m: Machine) -> Finding:
    """Look whether somebody is billed, and whether the scheduler knows that the user may bill them."""
    if m.site.account_needed and not m.site.account:
        return fail(
            f"{m.site.title} wants to know who is billed",
            "write --account PROJECT, or account: PROJECT into ~/.config/glacierhpc/site.yaml",
        )
    if not m.site.account:
        return skip("none named, none asked for")
    answer = m.ask(
        "sacctmgr", "--noheader", "--parsable2", "show", "associations", f"user={m.user}", "format=account"
    )
    known = sorted(set(answer.out.split()))
    if not answer.ok or not known:
        return unknown(f"whether {m.site.account} is yours is not told here")
    if m.site.account.lower() not in known:  # as Slurm keeps them
        return fail(
            f"{m.site.account!r} is none of yours, which are {listed(known, 8)}",
            f"write --account {known[0]}",
        )
    return ok(m.site.account)


def memory(m: Machine) -> Finding:
    """Compare how memory is asked for with whether the scheduler counts it."""
    if m.which("scontrol") is None:
        return missing(m, "no scontrol")
    answer = m.ask("scontrol", "show", "config")
    found = re.search(r"^SelectTypeParameters\s*=\s*(\S+)", answer.out, re.M)
    if not answer.ok or not found:
        return unanswered(m, answer)
    counted = "MEMORY" in found[1].upper()
    if counted and m.site.memory == "none":
        return warn(
            f"memory is counted ({found[1]}), and jobs ask for none: they get the default",
            "if jobs run out of memory: --set memory=mem (or mem-per-cpu)",
        )
    if not counted and m.site.memory != "none":
        return warn(
            f"memory is not counted ({found[1]}): a job may get less than it asks for",
            "if jobs are refused for it: --set memory=none",
        )
    return ok(f"asked for by {m.site.memory}, {'counted' if counted else 'not counted'} ({found[1]})")


def trial(m: Machine) -> Finding:
    """Let the scheduler judge the scripts of a chain, without submitting them."""
    if m.which("sbatch") is None:
        return missing(m, "no sbatch")
    if not m.ask("scontrol", "ping").ok:
        told = "not known without a controller that answers"
        return unknown(told) if m.scheduler_needed else skip(told)
    try:
        judged = tested(_links(m))
    except InputError as err:
        return fail(
            " ".join(str(err).split()), "the scheduler's words say which option; change it by --set KEY=VALUE"
        )
    if not judged:
        return unknown(
            "the scheduler does not judge the scripts now", "look at the finding about credentials first"
        )
    return ok("sbatch --test-only accepts the scripts of a chain")


def requeue(m: Machine) -> Finding:
    """Look on a node for the command by which a job that met its walltime goes on."""
    needed = {"requeue": "scontrol", "successor": "sbatch"}.get(m.site.again)
    if needed is None:
        return skip("jobs do not queue themselves again here")
    if m.inside or (not m.scheduler_needed and m.which(needed) is None):
        return skip("no job runs here")
    if m.which(needed) is None:
        return fail(
            f"no {needed} on this node: a job that meets its walltime cannot queue itself again",
            "write --set again=none and go on with: glacierhpc resume RUN",
        )
    return ok(f"by {needed}")
