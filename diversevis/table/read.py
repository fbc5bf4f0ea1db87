"""A finished run folder -> the columns of its units, or why the run is left out of the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diversevis.runs import check, files
from diversevis.runs.check import Columns, Files
from diversevis.runs.facts import Row
from diversevis.runs.files import Damaged, legible
from diversevis.runs.find import Folder
from diversevis.runs.holder import sign_of
from diversevis.runs.states import LOST
from diversevis.runs.versions import version_of


@dataclass(frozen=True, kw_only=True)
class Run:
    """What joins a finished run to the rows of its units."""

    folder: Folder
    model: str
    layer: str
    config_hash: str
    images: bool  # False: it measured units without making images
    units: Sequence[int]

    @property
    def version(self) -> int | None:
        return version_of(self.folder.path)

    @property
    def work(self) -> tuple[str, str, bool]:
        """What its versions have in common. Measures alone do not make a run with images old."""
        return self.folder.path.rpartition("/")[0], self.config_hash, self.images


def read_files(folder: Folder) -> Files | Damaged:
    """The files of a finished run, or why it is left out.

    `parse_run` does the rest, outside the threads that read: they share one processor for parsing.
    """
    try:
        record, changed = files.read_record(folder.path)  # first: if finished, the rest is there
        status = record["status"]
        if status != "finished":
            return Damaged(_running_or_lost(folder) if status == "running" else status)
        return check.read_rest(folder.path, record, changed)
    except Damaged as reason:
        return reason


def _running_or_lost(folder: Folder) -> str:
    """`LOST` for a run whose record says that it is running, but whose process has died."""
    try:
        sign = sign_of(Path(folder.path))
    except OSError:
        return "running"
    if sign is not None and sign.alive:
        return "running"
    status = files.read_record(folder.path)[0]["status"]  # it may have ended since the first look
    # one that has just finished will be in the next table
    return {"running": LOST, "finished": "running"}.get(status, status)


def parse_run(folder: Folder, content: Files) -> tuple[Run, Row, Columns]:
    """The run, its settings and facts by dotted names, and columns of its units' numbers.

    Raises `Damaged` where the files do not hold what they must.
    """
    results, record = check.check(content), content.record
    names = {name: legible(record[name]) for name in ("model", "layer", "config_hash")}
    run = Run(folder=folder, **names, images=record["n"] is not None, units=results.units)
    return run, results.facts, results.columns
