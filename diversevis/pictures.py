"""The pictures of a run, and which of them it has: `run.json` lists them once they are whole."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

from diversevis import report
from diversevis.run_folder import RunFolder

IMAGES = "images"  # sheets, single images, trace and fronts; other names are the measures'


def lacking(folder: RunFolder) -> list[str]:
    """Of what the run has arrays for, and no pictures, or not all of them."""
    record = folder.read_record()
    images = [] if record["n"] is None else [IMAGES]
    drawn = record.get("drawn", [])
    return [name for name in (*images, *folder.read_measures()) if name not in drawn]


def draw(
    folder: RunFolder,
    name: str,
    most: int | Literal["all"],
    pulse: Callable[[str, int, int], None],
) -> None:
    """The pictures of the images, or of one measure (of so many units).

    pulse  told of how many of how many units are drawn; may raise
    """
    tell = partial(pulse, f"pictures ({name})")
    if name == IMAGES:
        report.make(folder, tell)
    else:
        report.make_measure(folder, name, most, tell)
    folder.update_record(drawn=[*_others(folder, name), name])


def forget(folder: RunFolder, name: str) -> None:
    """Before there are other arrays: the pictures are no longer theirs."""
    folder.update_record(drawn=_others(folder, name))


def _others(folder: RunFolder, name: str) -> list[str]:
    return [one for one in folder.read_record().get("drawn", []) if one != name]
