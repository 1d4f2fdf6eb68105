"""What a configuration says of workers that are jobs, as `hpc.cluster` takes it; imports nothing heavy."""

from __future__ import annotations

from glacierhpc.config import Config
from glacierhpc.hpc.cluster.wish import WorkerJobs
from glacierhpc.hpc.sites import load_site


def worker_jobs(config: Config, *, reading: bool = False) -> WorkerJobs | None:
    """Return how the workers of a step are run, None where they are processes of this machine.

    Parameters
    ----------
    reading : bool
        Whether the step reads over the network, which some sites allow on one partition only.

    Raises
    ------
    InputError
        If the site is not known.
    """
    cluster = config.cluster
    if cluster.kind in ("local", "serial"):
        return None
    return WorkerJobs(
        site=load_site(cluster.site).site,
        scheduler=cluster.scheduler,
        cpus=cluster.threads_per_worker,
        hours=cluster.hours,
        image=cluster.image,
        folder=config.run_path,  # all nodes see it
        kind="network" if reading else "cpu",
        options=cluster.options,
        insecure=cluster.insecure,
    )
