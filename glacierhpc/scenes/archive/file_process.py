"""The file server as a process of its own, steered by lines of JSON; answers no requests itself.

A process, because GDAL holds Python's global lock while it opens a file: served by a thread of the
same process, it would wait for ever for an answer that cannot be given. The child ends when its standard
input closes, and that happens however the parent ends.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

from glacierhpc.errors import GlacierError
from glacierhpc.scenes.archive.counts import ServerStatistics
from glacierhpc.scenes.archive.faults import Faults
from glacierhpc.scenes.archive.files import FileServer


class FileProcess:
    """A running file server; the parent's end.

    Parameters
    ----------
    folder : path
    host : str
    token_lifetime_s : float, optional
    faults : Faults
    """

    def __init__(
        self, folder: Path | str, *, host: str, token_lifetime_s: float | None, faults: Faults
    ) -> None:
        self._lock = threading.Lock()
        self._last = ServerStatistics()
        package = str(Path(__file__).resolve().parents[3])
        start = f"import sys; sys.path.insert(0, {package!r}); from {__name__} import main; main()"
        self._process = subprocess.Popen(
            [sys.executable, "-c", start], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        settings = {"host": host, "token_lifetime_s": token_lifetime_s, "faults": asdict(faults)}
        self.url: str = self._ask({"folder": str(Path(folder).resolve()), **settings})["url"]

    def statistics(self) -> ServerStatistics:
        """Return what was asked and answered; after `stop` the last state."""
        if self._process.poll() is None:
            values = self._ask({"do": "statistics"})
            by_status = {int(status): count for status, count in values.pop("by_status").items()}
            self._last = ServerStatistics(**values, by_status=by_status)
        return self._last

    def reset_statistics(self) -> None:
        """Start counting anew."""
        self._ask({"do": "reset"})

    def set_faults(self, faults: Faults) -> None:
        """Go wrong in another way from now on."""
        self._ask({"do": "faults", "faults": asdict(faults)})

    def stop(self) -> None:
        """End the server; what it counted stays known."""
        if self._process.poll() is None:
            self.statistics()
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        try:
            self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin and self._process.stdout
        with self._lock:
            try:
                self._process.stdin.write(json.dumps(message) + "\n")
                self._process.stdin.flush()
                line = self._process.stdout.readline()
            except BrokenPipeError as err:
                raise GlacierError(
                    f"the archive's file server has ended, exit code {self._process.poll()}"
                ) from err
        if not line:
            raise GlacierError(f"the archive's file server has ended, exit code {self._process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise GlacierError(f"the archive's file server cannot start: {answer['error']}")
        return dict(answer)


def main() -> None:
    """Serve until standard input closes; the child's end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which closes standard input
    settings = json.loads(sys.stdin.readline() or "null")
    if settings is None:  # the parent ended before it said what to serve
        return
    try:
        server = FileServer(
            settings["folder"],
            host=settings["host"],
            token_lifetime_s=settings["token_lifetime_s"],
            faults=_faults(settings["faults"]),
        )
    except OSError as err:
        _say({"error": f"{settings['host']!r}: {err}"})
        return
    server.start()
    _say({"url": server.url})
    for line in sys.stdin:
        message = json.loads(line)
        if message["do"] == "reset":
            server.counts.reset()
        elif message["do"] == "faults":
            server.faults = _faults(message["faults"])
        _say(asdict(server.counts.snapshot()))
    server.stop()


def _faults(values: dict[str, Any]) -> Faults:
    return Faults(**{**values, "fail_kinds": tuple(values["fail_kinds"])})


def _say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()
