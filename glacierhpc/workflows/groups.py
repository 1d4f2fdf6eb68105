"""The scenes of a run read by several processes side by side, a group each, as the tasks of a job array do.

Every group is a run of its own below ``.parts/`` of the base run, held and recorded like any other: nobody else writes
there, and a task that was given up with its node is kept off by its next start. What they have read is taken over by
the step `acquire`.
"""

from __future__ import annotations

from glacierhpc import lease
from glacierhpc.config import Config, run_config
from glacierhpc.config.groups import group_config, group_paths
from glacierhpc.hpc.slurm.states import has_ended
from glacierhpc.hpc.surroundings import job_attempt
from glacierhpc.run_config import refuse_another
from glacierhpc.rundir import RunDirectory
from glacierhpc.scenes import parts
from glacierhpc.scenes.groups import Group, gather
from glacierhpc.workflows.runner import claimed, recorded
from glacierhpc.workflows.tasks import Summary, need, step_function


def read_group(config: Config, number: int, of: int) -> Summary:
    """Read one group of the scenes, beside others that other processes are at; started again, it goes on.

    Parameters
    ----------
    number, of : int
        Which group, counted from 0, and how many there are. A scene's group follows from these and the list of scenes.

    Raises
    ------
    InputError
        If there is no such group, the scenes are not found yet, the run is of another configuration, or another process
        is reading this group.
    GlacierError
        If more scenes could not be read than acquire.tolerate_failed_scenes.
    """
    own, base = group_config(config, number, of), RunDirectory(config.run_path)
    refuse_another(base.path, run_config(config))
    need(base.items, "search")
    read = step_function(config, "acquire", "acquire_group")

    def step(config: Config, run: RunDirectory) -> Summary:
        return dict(read(config, base, Group(number, of, run.path)))

    with claimed(own) as run:
        return recorded("acquire", own, run, step=step)


def gather_groups(run: RunDirectory) -> None:
    """Move what groups have read to where an acquisition of all scenes takes it over.

    Each folder is taken first: a process that still writes there, unknown to the scheduler, is refused from then on.

    Raises
    ------
    InputError
        If a task is reading its group at this moment.
    """
    job, restart = job_attempt()
    for folder in group_paths(run.path):
        held = lease.take(folder, job=job, restart=restart, has_ended=has_ended)
        try:
            gather(run.path / parts.FOLDER, folder)
        finally:
            held.release()
