"""The command line: arguments in, exit code out; the work is in `workflows` and the packages below it.

Everything heavy is imported by the command that needs it, so that ``--help`` answers at once.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
from typing import Annotated, Any

import typer

from glacierhpc import __version__
from glacierhpc.cli import archives, bench, configs, containers, doctor, jobs, runs, steps, workers
from glacierhpc.cli.arguments import GOES_ON, running
from glacierhpc.cli.bench import BENCHMARKS
from glacierhpc.cli.steps import STEPS
from glacierhpc.console import keep_traceback, show_error
from glacierhpc.errors import REQUEUE, GlacierError

__all__ = ["BENCHMARKS", "STEPS", "app", "main"]

app = typer.Typer(
    name="glacierhpc",
    help="Glacier products from public satellite archives, on batch clusters.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
steps.add_to(app)
runs.add_to(app)
jobs.add_to(app)
app.command()(workers.workers)
doctor.add_to(app)
app.add_typer(configs.app, name="config")
app.add_typer(archives.app, name="archive")
app.add_typer(bench.app, name="bench")
app.add_typer(containers.app, name="container")

# click's base exception, by way of a name that typer exports: newer releases of typer carry a click of their own
UsageProblem: Any = typer.BadParameter.__mro__[2]

INTERRUPTED = 130  # what typer makes of Ctrl-C, without a word to the user


def main(arguments: list[str] | None = None) -> None:
    """Run a command and exit: 0 done, 1 the work failed, 2 the input is wrong, 75 asked to stop and to go on later.

    A training in which nothing moves any more ends itself with 70.

    Never ends with a traceback.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    running.as_json, running.log, running.again = "--json" in arguments, None, GOES_ON
    running.asked = False
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, _interrupt)
    logging.raiseExceptions = (
        False  # a log line that cannot be written (full disk) is no reason for a traceback
    )
    sys.exit(_exit_code(arguments))


def _exit_code(arguments: list[str]) -> int:
    try:
        code = int(app(args=arguments, standalone_mode=False) or 0)
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        return code
    except UsageProblem as err:
        if type(err).__name__ == "NoArgsIsHelpError":
            err.show()
            return 2
        return _failed(f"{err.format_message().rstrip('.')}; see: glacierhpc --help", 2)
    except GlacierError as err:
        return _failed(str(err), err.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return _failed(f"stopped; {running.again}", REQUEUE if running.asked else 1)
    except BrokenPipeError:  # the reader of a pipe (head, less) has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as err:
        if err.errno in (errno.ENOSPC, errno.EDQUOT):
            return _failed(f"the disk or quota is full; free space, then {running.again}", 1)
        return _unexpected(err)
    except Exception as err:  # noqa: BLE001 - the last door: the traceback goes to a file, one line to the user
        return _unexpected(err)


def _unexpected(err: Exception) -> int:
    log = keep_traceback(running.log)
    return _failed(f"unexpected {type(err).__name__}: {err} (details in {log})", 1)


def _failed(message: str, exit_code: int) -> int:
    show_error(message, exit_code=exit_code, as_json=running.as_json)
    return exit_code


def _interrupt(signum: int, frame: object) -> None:
    """Treat the scheduler's signals as Ctrl-C, so that steps record that they were interrupted.

    SIGUSR1 and SIGUSR2 are sent by nobody else: what they end is to go on in another job.
    """
    running.asked = signum != signal.SIGTERM
    raise KeyboardInterrupt


@app.callback(invoke_without_command=True)
def _options(version: Annotated[bool, typer.Option("--version", help="print the version")] = False) -> None:
    if version:
        typer.echo(f"glacierhpc {__version__}")
        raise typer.Exit
