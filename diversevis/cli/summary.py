"""Tables of a run's units: a short one after the run, all units with `diversevis show`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from diversevis.cli.status import aligned
from diversevis.compare.answers import percent
from diversevis.compare.report import table_report
from diversevis.compare.runs import open_run
from diversevis.config.log import note
from diversevis.errors import plain
from diversevis.runs.files import Damaged
from diversevis.units import counted

LINES = 12  # of the table after a run, with its head and its last line
INDICES = 4  # of that table: the most telling of those measured; it fits 80 characters
HEADS = {  # of the columns, with the decimals of their numbers
    "response_of_best": ("response", 0), "distance_min": ("distance", 1),
    "phase.f1f0": ("phase (F1/F0)", 2), "shift.mean_masked": ("shift", 2),
    "deformation.stability": ("deformation (R)", 2), "diversity.index": ("diversity", 2),
    "gain.distance_min": ("gain", 1), "dimension.participation": ("dimensions", 1),
    "natural.of_synthetic": ("natural", 2),
}  # fmt: skip
WITH_WORD = "phase.f1f0"  # the column where words say more than they take room


def say_findings(folder: Path) -> None:
    """Print on stderr what a run says about its units, in at most `LINES` lines."""
    try:
        report = table_report(open_run(folder))
    except Damaged as error:  # the run itself is as it was: its folder is still printed
        note(f"no table of its units: {error}")
        return
    for line in short_table(report):
        print(plain(line), file=sys.stderr)


def short_table(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield at most `LINES` lines: a head, units, and where there is more."""
    room = LINES - 2
    units = report["units"]
    columns = [*_of_images(report), *report["indices"][:INDICES]]
    yield from table(units[:room], columns)
    more = len(units) - room
    show = f"diversevis show {shlex.quote(report['folder'])}"
    if more > 0:
        yield f"{counted(more, 'more unit')}: {show}"
    else:
        yield f"What this means: {show}"


def full_table(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield the table of all units, with medians."""
    columns = [*_of_images(report), *report["indices"]]
    yield from table(report["units"], columns, report["medians"])


def table(
    units: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
    medians: Mapping[str, float | None] | None = None,
) -> Iterator[str]:
    """Yield a head, a line for every unit, and the medians."""
    rows = [("unit", *(HEADS[key][0] for key in columns))]
    rows += [(str(unit["unit"]), *(cell(unit, key) for key in columns)) for unit in units]
    if medians is not None:
        rows.append(("median", *(_number(medians[key], key) for key in columns)))
    texts = [1 + columns.index(WITH_WORD)] if WITH_WORD in columns else []
    return aligned(rows, right={*range(len(rows[0]))} - {*texts})


def cell(unit: Mapping[str, Any], key: str) -> str:
    """A number of a unit, with its word; dead and diverged units say so in place of a response."""
    if key == "response_of_best" and unit["state"]:
        return str(unit["state"])
    text = _number(unit[key], key)
    if key in unit["weak"]:
        return f"{text} weak"
    word = unit["words"].get(key) if key == WITH_WORD else None
    return f"{text} {word}" if word else text


def _number(value: float | None, key: str) -> str:
    if value is None:
        return "-"
    return percent(value) if key == "response_of_best" else f"{value:.{HEADS[key][1]}f}"


def _of_images(report: Mapping[str, Any]) -> list[str]:
    """The columns that need images: none where only measures were taken."""
    return [] if report["n"] is None else ["response_of_best", "distance_min"]
