"""Groups of scenes that several processes read side by side, each in a folder of its own, and how they are gathered.

Reading a group is `acquire`'s, as reading all scenes is; who may write in which folder is the caller's to see to.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from glacierhpc.atomic import publish
from glacierhpc.scenes import parts
from glacierhpc.scenes.journal import JOURNAL, Journal, Receipt, read_receipts
from glacierhpc.scenes.plan import AcquisitionPlan

Receipts = dict[tuple[str, str], Receipt]


@dataclass(frozen=True)
class Group:
    """The scenes of one of several processes: every `of`-th in the order of the cube, from `number` on."""

    number: int
    """Counted from 0."""
    of: int
    folder: Path
    """Of this process alone; beside it are those of the others."""

    def own(self, whole: AcquisitionPlan, common: Path) -> AcquisitionPlan:
        """Return what is this group's to read: its scenes, without those that others have read and closed.

        Others are an earlier run in one process, in the folder `common`, or one in another number of groups.
        """
        others = [folder for folder in _folders(self, common) if folder != self.folder]
        closed = {
            scene
            for folder in others
            for (scene, asset), receipt in read_receipts(folder / JOURNAL)[1].items()
            if asset == parts.SEALED and receipt.state == "done"
            if any((place / scene / asset).is_dir() for place in (folder, common))
        }
        mine = whole.scenes[self.number :: self.of]
        return replace(whole, scenes=tuple(scene for scene in mine if scene.key not in closed))

    def written(self, common: Path) -> Receipts:
        """Return what all groups together have on record so far, so that room is looked for only for the rest."""
        found: Receipts = {}
        for folder in _folders(self, common):
            found |= read_receipts(folder / JOURNAL)[1]
        return found


def _folders(group: Group, common: Path) -> list[Path]:
    return [common, *(path.parent for path in sorted(group.folder.parent.glob(f"*/{JOURNAL}")))]


def gather(folder: Path, group: Path) -> None:
    """Move the pieces that a group has read into the folder of all, with their lines in its journal.

    Killed and called again, it goes on. What a group could not read is left out: it is tried again with all that is
    missing. Whether a piece is what its line says is seen by who takes it over.

    Parameters
    ----------
    folder : path
        Where `acquire` looks for the pieces of an earlier run.
    group : path
        A folder of `Group` in which nobody writes any more.

    Raises
    ------
    InputError
        If the pieces are of another acquisition.
    """
    purpose, receipts = read_receipts(group / JOURNAL)
    if purpose is None:
        return
    with Journal(folder / JOURNAL, purpose) as journal:
        new = [receipt for receipt in receipts.values() if _moved(receipt, group, folder, journal)]
        if new:
            journal.add(new)


def _moved(receipt: Receipt, group: Path, folder: Path, journal: Journal) -> bool:
    """Move a piece, and return whether the journal is to say so."""
    own, target = (place / receipt.scene / receipt.asset for place in (group, folder))
    known = journal.receipts.get((receipt.scene, receipt.asset))
    if receipt.state != "done" or (known is not None and known.state == "done" and target.is_dir()):
        return False
    if own.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        publish(own, target)
        return True
    # moved before a kill that came between the move and the line
    return known is None and target.is_dir()
