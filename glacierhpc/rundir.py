"""The run directory: names of its files, the state of each step, the provenance.

What the files hold is the business of the packages that write them; how a file is written is in `files`, and how one
command at a time has the folder in `lease`.
"""

from __future__ import annotations

import logging
import platform
import subprocess
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from glacierhpc import lease
from glacierhpc.atomic import remove_leftovers
from glacierhpc.errors import REQUEUE, GlacierError, InputError, redact
from glacierhpc.files import atomic_path, plain, read_json, read_table, write_json, write_table
from glacierhpc.run_config import RECORD, TEXT, RunConfig, keep, refuse_another

__all__ = [
    "RunConfig", "RunDirectory", "RunFile", "atomic_path", "plain", "read_json", "read_table", "source_commit",
    "write_json", "write_table",
]  # fmt: skip

logger = logging.getLogger(__name__)

PACKAGES = (
    "glacierhpc", "numpy", "numba", "xarray", "zarr", "pandas", "rasterio", "odc-stac", "stackstac",
    "pystac-client", "dask", "scipy", "opencv-python-headless", "torch", "geopandas", "pyproj",
)  # fmt: skip
"""Packages whose versions a run records, where they are installed."""


class RunFile:
    """A file of the run directory, as an attribute that gives its path."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, run: RunDirectory, owner: type | None = None) -> Path:
        """Return the path in this run."""
        return run.path / self.name


class RunDirectory:
    """The files of one run. `RunDirectory(path)` only names them; `RunDirectory.open` claims it for writing."""

    config_file = RunFile(TEXT)
    provenance_file = RunFile(RECORD)
    items = RunFile("items.json")
    scenes = RunFile("scenes.parquet")
    manifest = RunFile("manifest.parquet")
    cube = RunFile("cube.zarr")
    clean = RunFile("clean.zarr")
    clean_table = RunFile("clean.parquet")
    aligned = RunFile("aligned.zarr")
    alignment = RunFile("alignment.parquet")
    alignment_links = RunFile("alignment_links.parquet")
    alignment_vectors = RunFile("alignment_vectors.parquet")
    composite = RunFile("composite.zarr")
    sequences = RunFile("sequences.parquet")
    sequence_shards = RunFile("sequences.zarr")
    split = RunFile("split.json")
    model = RunFile("model")
    checkpoints = RunFile("checkpoints")
    history = RunFile("history.csv")
    metrics = RunFile("metrics.json")
    scores = RunFile("scores.parquet")
    prediction = RunFile("prediction.zarr")
    prediction_maps = RunFile("prediction")
    flow = RunFile("flow.zarr")
    flow_summary = RunFile("flow.json")
    report = RunFile("report.html")
    sweep = RunFile("sweep")
    sweep_table = RunFile("sweep.parquet")
    logs = RunFile("logs")
    steps = RunFile("steps")

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._release: weakref.finalize | None = None

    @classmethod
    def open(
        cls,
        path: str | Path,
        config: RunConfig,
        *,
        job: str | None = None,
        restart: int = 0,
        on_lost: lease.OnLost | None = None,
        has_ended: lease.HasEnded = lease.nobody_knows,
        gives_way: bool = False,
    ) -> RunDirectory:
        """Claim a folder for a configuration: create it, or go on in it if it is of the same one.

        Use as a context manager or call `close`; until then no other run can have the folder.

        Parameters
        ----------
        path : path
            The folder; created with its parents.
        config : RunConfig
            Kept as ``config.yaml``; a folder of another one is refused.
        job, restart, on_lost, has_ended, gives_way :
            See `lease.take`.

        Raises
        ------
        InputError
            If the folder is of another configuration, holds other things, or is in use.
        """
        run = cls(path)
        _make_folder(run.path)
        held = lease.take(
            run.path, job=job, restart=restart, on_lost=on_lost, has_ended=has_ended, gives_way=gives_way
        )
        run._release = weakref.finalize(run, held.release)
        try:
            run._claim(config)
            run._remove_leftovers()
        except BaseException:
            run.close()
            raise
        return run

    def _claim(self, config: RunConfig) -> None:
        strangers = sorted(item.name for item in self.path.iterdir() if not item.name.startswith("."))
        if strangers and not {TEXT, RECORD} & set(strangers):
            raise InputError(
                f"run directory {str(self.path)!r} holds other things ({', '.join(strangers[:3])}) and no {TEXT}; "
                "give an empty or new folder with run_dir=..."
            )
        refuse_another(self.path, config)
        keep(self.path, config)
        for folder in (self.logs, self.steps):
            folder.mkdir(exist_ok=True)

    def _remove_leftovers(self) -> None:
        for folder in (self.path, self.steps, self.logs, self.checkpoints, self.model, self.prediction_maps):
            remove_leftovers(folder)

    def close(self) -> None:
        """Let go of the folder."""
        if self._release is not None:
            self._release()

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @contextmanager
    def step(self, name: str) -> Iterator[dict[str, Any]]:
        """Record a step: ``steps/<name>.json`` with state running, then done, failed or interrupted.

        Yields the record; what the block adds to it is kept.
        """
        record: dict[str, Any] = {
            "step": name,
            "started": datetime.now(UTC).isoformat(timespec="microseconds"),
        }
        path, begin = self.steps / f"{name}.json", time.perf_counter()
        write_json(path, {**record, "state": "running"})
        try:
            yield record
        except BaseException as err:
            stopped = not isinstance(err, Exception) or getattr(err, "exit_code", None) == REQUEUE
            state = "interrupted" if stopped else "failed"
            self._finish(path, record, state=state, begin=begin, error=redact(f"{type(err).__name__}: {err}"))
            raise
        self._finish(path, record, state="done", begin=begin, error=None)

    def _finish(
        self, path: Path, record: dict[str, Any], *, state: str, begin: float, error: str | None
    ) -> None:
        record.update(state=state, seconds=round(time.perf_counter() - begin, 3), error=error)
        try:
            write_json(path, record)
        except GlacierError:
            if error is None:
                raise
            logger.warning("the state of the step could not be written to %s", path)

    def step_record(self, name: str) -> dict[str, Any]:
        """Return what is recorded about a step, empty if it never ran."""
        path = self.steps / f"{name}.json"
        return dict(read_json(path)) if path.exists() else {}

    def done(self, name: str) -> bool:
        """Return whether a step has ended well."""
        return self.step_record(name).get("state") == "done"

    def cubes(self) -> dict[str, tuple[int, int]]:
        """Return what tells each cube from the one that takes its place, for those who read while others write."""
        found = {}
        for path in sorted(self.path.glob("*.zarr")):
            with suppress(FileNotFoundError):  # being replaced
                found[path.name] = (path.stat().st_ino, path.stat().st_mtime_ns)
        return found

    def provenance(
        self,
        *,
        seeds: Mapping[str, int] | None = None,
        input_ids: Sequence[str] | None = None,
        job_id: str | None = None,
        container_digest: str | None = None,
    ) -> dict[str, Any]:
        """Write where the results come from to ``provenance.json``, keeping what earlier calls said.

        Versions, commit and host are found here; job and container are told by `hpc`, seeds and inputs by the step.
        """
        record = read_json(self.provenance_file) if self.provenance_file.exists() else {}
        record |= {
            "versions": {**_versions(), "python": platform.python_version()},
            "commit": source_commit(Path(__file__).parent),
            "host": platform.node(),
            "machine": platform.machine(),
        }
        told = {
            "seeds": seeds,
            "input_ids": input_ids,
            "job_id": job_id,
            "container_digest": container_digest,
        }
        for key, value in told.items():
            if value is not None or key not in record:
                record[key] = value
        write_json(self.provenance_file, record)
        return dict(record)


def source_commit(folder: Path) -> str | None:
    """Return the git commit of a source folder, with ``-dirty`` if files differ; None outside a checkout."""
    command = ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue  # an extra that is not installed takes no part in the run
    return found


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise InputError(
            f"run directory {str(path)!r} cannot be made: {err.strerror}; give another one with run_dir=..."
        ) from err
