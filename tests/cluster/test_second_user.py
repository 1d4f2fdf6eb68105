"""What another user of the machine can see of a run: its results where the owner's umask lets them, never its secrets.

That user is a real one, of the test cluster. Who may take part in a cluster of workers is tried in `test_dask`.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from glacierhpc.grid import Grid
from glacierhpc.rundir import RunDirectory
from glacierhpc.scenes.acquire import acquire
from glacierhpc.scenes.archive import serve
from glacierhpc.scenes.remote.shared import FOLDER
from glacierhpc.workflows import run_steps
from tests.cluster.jobs import prepared
from tests.cluster.test_scheduler import ours
from tests.cluster.workers import as_other, items_of
from tests.conftest import ROOT
from tests.scenes.rasters import BANDS, GRID, small_archive

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

STRANGER = r"""
cd /
for place in {places}; do
    if cat "$place" 2>/dev/null | grep -q . || ls "$place" 2>/dev/null | grep -q . ; then echo "READ $place"; fi
done
export PYTHONPATH={root} OMP_NUM_THREADS=1
"{python}" -m glacierhpc report {run} --json
echo "CODE $?"
"{python}" -m glacierhpc report {run} --output {page} --json
echo "CODE $?"
"""


@ours
def test_a_second_user_reads_results_but_no_checkpoint_and_no_token(tmp_path: Path) -> None:
    """All may enter the folders above and read what the umask lets them: the secrets' own must keep them out."""
    shared = Path(os.environ["GLACIERHPC_TESTCLUSTER"]) / "tmp" / f"seen-{os.getpid()}"
    shared.mkdir()
    before = os.umask(0o022)
    try:
        config, _ = prepared(shared, epochs=1)
        run_steps(config, to_step="train")
        run = RunDirectory(config.run_path)
        script, reading = shared / "stranger.sh", shared / "reading"
        said: list[str] = []

        def look(done: int, total: int) -> None:
            if done < 3 or said:
                return
            secret = [run.checkpoints, *run.checkpoints.iterdir()]
            access = reading / ".parts" / FOLDER
            tokens = [access, *access.rglob("*")]
            assert len(secret) >= 2 and any("sig=" in path.read_text() for path in tokens[1:]), tokens
            places = [run.config_file, run.model / "model.json", *secret, *tokens]
            script.write_text(
                STRANGER.format(
                    places=" ".join(map(str, places)),
                    root=ROOT,
                    python=sys.executable,
                    run=run.path,
                    page=page,
                )
            )
            shared.chmod(0o777)  # what they say and make is written here
            said.append(as_other(script))

        page = shared / "theirs.html"
        with serve(small_archive(tmp_path), token_lifetime_s=3600) as served:
            acquire(
                items_of(served.stac_url), Grid.from_dict(GRID.to_dict()), reading / "cube.zarr", bands=list(BANDS),
                manifest=reading / "manifest.parquet", scenes_table=reading / "scenes.parquet",
                signing=served.token_url, progress=look,
            )  # fmt: skip
    finally:
        os.umask(before)
    read = re.findall("^READ (.*)", said[0], re.MULTILINE)
    assert read == [str(run.config_file), str(run.model / "model.json")], said[0]
    assert re.findall("^CODE (.*)", said[0], re.MULTILINE) == ["2", "0"], said[0]
    assert "--output PLACE" in said[0] and page.read_text().endswith("</html>")
    assert page.owner() != run.config_file.owner() and not run.report.exists()
