"""The state of an acquisition under way: what is done, what comes next, what becomes of each scene.

Starting one and making a cube of it is `acquire`'s; the tasks themselves are in `fetch`.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from typing import Any

import numpy as np
import pandas as pd

from glacierhpc.scenes import parts
from glacierhpc.scenes.fetch import AssetTask, SealTask, Task, run_tasks
from glacierhpc.scenes.journal import Journal, Receipt
from glacierhpc.scenes.plan import COMPRESSED_SHARE, AcquisitionPlan, ScenePlan

log = logging.getLogger(__name__)


SCENE_COLUMNS = [
    "scene", "time", "platform", "collection", "cloud_cover", "crs", "level",
    "valid_share", "clear_share", "state", "reason", "key",
]  # fmt: skip
"""Of the scenes table."""


class Acquisition:
    """The state of one acquisition: what is done, what comes next."""

    def __init__(
        self,
        plan: AcquisitionPlan,
        journal: Journal,
        min_valid_share: float,
        min_clear_share: float,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self.plan, self.journal, self.progress = plan, journal, progress
        self.min_valid_share, self.min_clear_share = min_valid_share, min_clear_share
        self.read = 0
        self.ready: deque[Task] = deque()
        self.expected: set[tuple[str, str]] = set()
        self.scenes = {scene.key: scene for scene in plan.scenes}
        self.done: dict[tuple[str, str], Receipt] = {}

    def take_over(self) -> None:
        """Accept the pieces of an earlier run whose checksums agree with the journal."""
        for (scene, asset), receipt in self.journal.receipts.items():
            path = self.plan.folder / scene / asset
            if receipt.state == "done" and path.is_dir() and parts.checksum(path)[0] == receipt.checksum:
                self.done[scene, asset] = receipt
        self.expected |= self.done.keys()
        if self.done:
            log.info("%d assets are there from an earlier run", len(self.done))

    def work(self, pool: Executor, *, batch: int, in_flight: int) -> None:
        """Run tasks until nothing is left to do; a finished task may make others ready."""
        for scene in self.plan.scenes:
            self._advance(scene)
        running: set[Future[list[Receipt]]] = set()
        try:
            while self.ready or running:
                while self.ready and len(running) < in_flight:
                    tasks = [self.ready.popleft() for _ in range(min(batch, len(self.ready)))]
                    running.add(pool.submit(run_tasks, tasks, batch))
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                self._record([receipt for future in finished for receipt in future.result()])
        finally:
            for future in running:
                future.cancel()

    def _record(self, receipts: list[Receipt]) -> None:
        self.journal.add(receipts)
        self.read += sum(receipt.asset != parts.SEALED for receipt in receipts)
        for receipt in receipts:
            self.done[receipt.scene, receipt.asset] = receipt
            if receipt.state == "failed":
                log.warning("scene %s, %s: %s", receipt.scene, receipt.asset, receipt.reason)
        for key in dict.fromkeys(receipt.scene for receipt in receipts):
            self._advance(self.scenes[key])
        if self.progress:
            self.progress(len(self.done), len(self.expected))

    def _advance(self, scene: ScenePlan) -> None:
        """Put the tasks of a scene that can run now and have not been asked for into the queue."""
        if scene.problem or self._verdict(scene)[0] in ("dropped", "failed"):
            return
        first, others = scene.tasks[0], scene.tasks[1:]
        wanted: list[Task] = [first] if (scene.key, first.asset) not in self.done else list(others)
        if all((scene.key, task.asset) in self.done for task in scene.tasks):
            wanted = [_seal_task(self.plan, scene)]
        for task in wanted:
            name = (scene.key, parts.SEALED if isinstance(task, SealTask) else task.asset)
            if name not in self.done and name not in self.expected:
                self.ready.append(task)
            self.expected.add(name)

    def _verdict(self, scene: ScenePlan) -> tuple[str, str]:
        """State of a scene ("" while undecided) and the reason."""
        if scene.problem:
            return "dropped", scene.problem  # no new try helps: the catalogue itself says so
        found = [
            self.done[scene.key, task.asset] for task in scene.tasks if (scene.key, task.asset) in self.done
        ]
        for receipt in found:
            if receipt.state == "failed":
                return "failed", f"{receipt.asset}: {receipt.reason}"
        sealed = self.done.get((scene.key, parts.SEALED))
        first = self.done.get((scene.key, scene.tasks[0].asset))
        for receipt in filter(None, (sealed, first)):
            reason = self._too_little(receipt)
            if reason:
                return "dropped", reason
        return ("kept", "") if sealed else ("", "")

    def _too_little(self, receipt: Receipt) -> str:
        for name, share, limit in (
            ("valid", receipt.valid_share, self.min_valid_share),
            ("clear", receipt.clear_share, self.min_clear_share),
        ):
            if share < limit:
                return f"only {100 * share:.1f} % of the area is {name} (limit {100 * limit:.0f} %)"
        return "no data in the area" if receipt.valid_share == 0 else ""

    def scene_rows(self) -> pd.DataFrame:
        """Return the scenes table, in the order of the plan."""
        rows = []
        for scene in self.plan.scenes:
            state, reason = self._verdict(scene)
            shares = self.done.get((scene.key, parts.SEALED))
            if shares is None and scene.tasks:
                shares = self.done.get((scene.key, scene.tasks[0].asset))
            known = shares is not None and shares.state == "done"
            rows.append(
                {
                    **scene.row(),
                    "valid_share": shares.valid_share if known and shares else np.nan,
                    "clear_share": shares.clear_share if known and shares else np.nan,
                    "state": state,
                    "reason": reason,
                    "key": scene.key,
                }
            )
        return pd.DataFrame(rows, columns=SCENE_COLUMNS)

    def manifest_rows(self) -> pd.DataFrame:
        """Return the manifest, a row per scene and asset."""
        rows = []
        for scene in self.plan.scenes:
            verdict, why = self._verdict(scene)
            for task in scene.tasks:
                receipt = self.done.get((scene.key, task.asset))
                skipped = Receipt(scene.key, task.asset, "skipped", f"the scene is {verdict}: {why}")
                rows.append(_manifest_row(scene, task, receipt or skipped))
        columns = ["scene", "asset", "href", "state", "reason", "attempts", "bytes", "checksum", "seconds"]
        return pd.DataFrame(rows, columns=columns)


def left_to_write(plan: AcquisitionPlan, known: Iterable[Receipt]) -> tuple[int, int]:
    """Return the bytes and the files and folders of a plan that are still to come, as estimated.

    Parameters
    ----------
    known : iterable of Receipt
        What is on record.
    """
    done = [receipt for receipt in known if receipt.state == "done"]
    written = sum(receipt.bytes for receipt in done)
    tasks = sum(len(scene.tasks) + 1 for scene in plan.scenes) or 1
    needed = round(plan.cube_bytes * COMPRESSED_SHARE)
    return max(0, needed - written), round(plan.inodes * max(0.0, 1.0 - len(done) / tasks))


def _manifest_row(scene: ScenePlan, task: AssetTask, receipt: Receipt) -> dict[str, Any]:
    return {
        "scene": scene.scene,
        "asset": task.asset,
        "href": task.request.href,
        "state": receipt.state,
        "reason": receipt.reason,
        "attempts": receipt.attempts,
        "bytes": receipt.bytes,
        "checksum": receipt.checksum,
        "seconds": receipt.seconds,
    }


def _seal_task(plan: AcquisitionPlan, scene: ScenePlan) -> SealTask:
    flag_assets = tuple(task.asset for task in scene.tasks if task.radiometry is None)
    return SealTask(scene.key, plan.folder, plan.bands, flag_assets, plan.grid.shape)
