"""From a configuration to the chain of its jobs: what is still to do, of a training or of a sweep; no numpy needed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glacierhpc.cli.steps import STEPS
from glacierhpc.errors import GlacierError

if TYPE_CHECKING:
    from glacierhpc.config import Config
    from glacierhpc.hpc.chain import Link
    from glacierhpc.hpc.site import Site

OF_SCENES = ("search", "acquire", "clean", "align")


def links_of(config: Config, site: Site, *, sweep: bool) -> list[Link]:
    """Return the jobs of what is still to do, in their order."""
    return _of_sweep(config, site) if sweep else _of_training(config, site)


def _of_training(config: Config, site: Site) -> list[Link]:
    from glacierhpc.hpc.chain import first_to_do, plan
    from glacierhpc.hpc.journal import FOLDER

    steps = steps_of(config)
    run = config.run_path
    return plan(
        site,
        name=queue_name(config.name),
        run=str(run),
        steps=steps,
        to_do=first_to_do(steps, records(run, steps)),
        backend=config.train.backend,
        folder=str(run / FOLDER),
        before=_reading(config, site),
    )


def _of_sweep(config: Config, site: Site) -> list[Link]:
    from glacierhpc.config.trials import trials_of
    from glacierhpc.hpc.chain import first_to_do
    from glacierhpc.hpc.journal import FOLDER
    from glacierhpc.hpc.slurm.limits import array_size
    from glacierhpc.hpc.trials import plan, trials_to_do

    run, trials = config.run_path, trials_of(config)
    steps = steps_of(config)
    steps = steps[: steps.index("sequences") + 1]
    known = records(run, steps)
    imagery = first_to_do(steps, known) < len(steps)
    to_do = list(range(len(trials)))
    if not imagery:
        of_trials = [records(trial.config.run_path, ("train", "evaluate")) for trial in trials]
        to_do = trials_to_do(known["sequences"], of_trials)
        if not to_do and _gathered(run, [trial.config.run_path for trial in trials]):
            return []
    return plan(
        site,
        name=queue_name(config.name),
        run=str(run),
        imagery=imagery,
        to_do=to_do,
        array_size=array_size(site),
        folder=str(run / FOLDER),
        before=_reading(config, site),
    )


def _reading(config: Config, site: Site) -> list[Link]:
    """Return the jobs that read the scenes as an array, where the site asks for one and they are still to be read."""
    from glacierhpc.config.groups import group_path
    from glacierhpc.hpc.chain import first_to_do
    from glacierhpc.hpc.journal import FOLDER
    from glacierhpc.hpc.reading import groups_to_do, plan
    from glacierhpc.hpc.slurm.limits import array_size

    run, count, steps = config.run_path, site.jobs.acquire.tasks, ("search", "acquire")
    known = records(run, steps)
    if count is None or config.input.cube is not None or first_to_do(steps, known) == len(steps):
        return []
    groups = [records(group_path(run, number, count), ("acquire",)) for number in range(count)]
    search = known.get("search", {})
    return plan(
        site,
        name=queue_name(config.name),
        run=str(run),
        search=first_to_do(("search",), known) == 0,
        to_do=groups_to_do(search, [group.get("acquire", {}) for group in groups]),
        array_size=array_size(site),
        folder=str(run / FOLDER),
    )


def _gathered(run: Path, trials: Sequence[Path]) -> bool:
    """Return whether what trials gave was written down after the last of them ended."""
    table = run / "sweep.parquet"
    ends = [(trial / "steps" / "evaluate.json").stat().st_mtime_ns for trial in trials]
    return table.is_file() and table.stat().st_mtime_ns >= max(ends)


def steps_of(config: Config) -> list[str]:
    """Return the steps of a run; one whose images were made elsewhere has none of scenes."""
    return [step for step in STEPS if not (config.input.cube is not None and step in OF_SCENES)]


def queue_name(name: str) -> str:
    """Return a run's name as it can stand in a queue and between commas."""
    return "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name)[:40]


def records(run: Path, steps: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return what a run directory has on record of each step."""
    found = {}
    for step in steps:
        path = run / "steps" / f"{step}.json"
        if path.is_file():
            found[step] = dict(_read(path))
    return found


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as err:
        raise GlacierError(f"{path} is damaged: {err}; remove it, and the step is done again") from err


def refuse_another(config: Config) -> None:
    """Refuse a folder of another configuration now, not when the first job starts."""
    from glacierhpc import run_config
    from glacierhpc.config import run_config as of_run

    run_config.refuse_another(config.run_path, of_run(config))


def keep_configuration(config: Config) -> None:
    """Write the configuration as it is now: jobs that start tomorrow take this one, whatever the file says by then."""
    from glacierhpc import run_config
    from glacierhpc.config import run_config as of_run

    run_config.keep(config.run_path, of_run(config))
