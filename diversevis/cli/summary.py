"""Tables of a run's units: a short one after the run, all units with `diversevis show`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from diversevis.cli.status import aligned
from diversevis.compare.report import table_report
from diversevis.compare.runs import open_run
from diversevis.compare.words import WITH_WORD, columns_of_images, table_rows
from diversevis.config.log import note
from diversevis.errors import plain
from diversevis.runs.files import Damaged
from diversevis.units import counted

LINES = 12  # of the table after a run, with its head and its last line
INDICES = 4  # of that table: the most telling of those measured; it fits 80 characters


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
    columns = [*columns_of_images(report), *report["indices"][:INDICES]]
    yield from table(units[:room], columns)
    more = len(units) - room
    show = f"diversevis show {shlex.quote(report['folder'])}"
    if more > 0:
        yield f"{counted(more, 'more unit')}: {show}"
    else:
        yield f"What this means: {show}"


def full_table(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield the table of all units, with medians."""
    columns = [*columns_of_images(report), *report["indices"]]
    yield from table(report["units"], columns, report["medians"])


def table(
    units: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
    medians: Mapping[str, float | None] | None = None,
) -> Iterator[str]:
    """Yield a head, a line for every unit, and the medians."""
    rows = table_rows(units, columns, medians)
    texts = [1 + columns.index(WITH_WORD)] if WITH_WORD in columns else []
    return aligned(rows, right={*range(len(rows[0]))} - {*texts})
