"""A training killed by SIGKILL at random moments, and one that gets signals; test_resume runs it in its own process.

    python -m tests.training.killed FOLDER SEED

Imports once and forks for every try, so that many kills take little time. Prints what came of it as JSON.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from glacierhpc.training.checkpoint import Checkpoints
from glacierhpc.training.loop import fit
from glacierhpc.training.stopping import Interrupted
from tests.training.lines import OPTIONS, Line, LineData, losses, uninterrupted, validation, weights


class SlowData(LineData):
    """Takes long enough to be killed anywhere: while reading, learning or writing."""

    def __getitems__(self, items):
        time.sleep(0.004)
        return super().__getitems__(items)


def train(folder, result=None):
    model = Line()
    history = fit(model, SlowData(), validation(), checkpoints=Checkpoints(folder, every_steps=1), **OPTIONS)
    if result is not None:
        torch.save([weights(model), losses(history)], result)


def in_child(folder, *, result=None):
    """Start a training in a child process and return its number."""
    child = os.fork()
    if child:
        return child
    try:
        train(folder, result)
    except Interrupted as err:
        os._exit(err.exit_code)
    except BaseException as err:  # noqa: BLE001 - a forked child must not come back
        sys.stderr.write(f"{err!r}\n")
        os._exit(1)
    os._exit(0)


def ended(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_often(folder, seed):
    """Kill a run again and again until it is through; return how often it was killed."""
    rng, kills, result = random.Random(seed), 0, folder / "result"
    while not result.exists():
        child = in_child(folder, result=result)
        if kills < 8:
            time.sleep(rng.uniform(0.01, 0.12))
            os.kill(child, signal.SIGKILL)
        code = ended(child)
        kills += code == -signal.SIGKILL
        if code not in (0, -signal.SIGKILL):
            raise SystemExit(f"the training ended with {code}")
    return kills, result


def stopped(folder, number):
    """Send a signal to a run; return its exit code and where it goes on."""
    child = in_child(folder)
    while not (folder / "last.pt").exists():
        time.sleep(0.002)
    os.kill(child, number)
    code = ended(child)
    result = folder / "result"
    assert ended(in_child(folder, result=result)) == 0
    return code, result


def same(result):
    wanted, found = uninterrupted(), torch.load(result, weights_only=True)
    return bool(torch.equal(found[0], wanted[0])) and found[1] == wanted[1]


def main(folder, seed):
    torch.set_num_threads(1)
    kills, result = killed_often(folder / "killed", seed)
    told = {"kills": kills, "same": same(result)}
    for name in ("SIGUSR1", "SIGUSR2", "SIGTERM"):
        code, result = stopped(folder / name, getattr(signal, name))
        told[name] = [code, same(result)]
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
