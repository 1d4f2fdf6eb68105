"""The command that shows or tries the workers of a configuration."""

from __future__ import annotations

from typing import Annotated

import typer

from glacierhpc.cli.arguments import ConfigFile, Json, Overrides, load
from glacierhpc.console import show
from glacierhpc.errors import InputError


def workers(
    config: ConfigFile,
    overrides: Overrides = None,
    scheduler: Annotated[
        str | None, typer.Option("--scheduler", help="slurm, pbs, lsf, sge or htcondor")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print the job script of a worker; submit and write nothing")
    ] = False,
    as_json: Json = False,
) -> None:
    """Start the Dask workers of a configuration, let each say where it runs, and stop them: does it work here?"""
    from glacierhpc.workflows.workers import worker_jobs

    given = list(overrides or [])
    if scheduler:
        given.append(f"cluster.scheduler={scheduler}")
    loaded = load(config, given)
    cluster = loaded.cluster
    jobs = worker_jobs(loaded, reading=True)
    if dry_run:
        if jobs is None:
            raise InputError(
                f"cluster.kind={cluster.kind!r} needs no job scripts; to see one write: cluster.kind=jobqueue"
            )
        from glacierhpc.hpc.cluster import worker_script

        script = worker_script(cores=cluster.threads_per_worker, memory_gb=cluster.memory_gb, jobs=jobs)
        show({"scheduler": jobs.scheduler, "script": script}, as_json=True) if as_json else typer.echo(script)
        return
    from glacierhpc.hpc.cluster import make_cluster
    from glacierhpc.hpc.cluster.trial import places

    with make_cluster(
        cluster.kind, workers=cluster.workers, cores=cluster.threads_per_worker, memory_gb=cluster.memory_gb, jobs=jobs
    ) as executor:  # fmt: skip
        found = places(executor, cluster.workers)
    show(
        {"table": [[name, f"{count} workers"] for name, count in found.items()], "workers": found},
        as_json=as_json,
    )
