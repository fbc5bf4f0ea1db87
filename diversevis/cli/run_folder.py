"""The run folder, and the unit in it, that a command was given."""

from __future__ import annotations

import re
from pathlib import Path

from diversevis.compare.layer import Unit
from diversevis.compare.runs import Run, open_run
from diversevis.errors import InputError
from diversevis.runs.files import Damaged
from diversevis.runs.versions import versions_in
from diversevis.units import units_list

LISTED = 12  # ranges of units that an error names


def open_given(folder: Path, command: str, example: str) -> Run:
    """The run; raises `InputError` where there is none, or a damaged one.

    command, example  for the error: how the command is called, and a sentence with an example
    """
    if not (folder / "run.json").is_file():
        problem = "holds no run.json" if folder.is_dir() else "is not a folder"
        versions = versions_in(folder)
        name = f" It holds versions: `{command} {versions[0][1]}`." if versions else ""
        raise InputError(
            f"{folder} {problem}: name a run folder, which `diversevis run` printed as its last "
            f"line.{name} {example}"
        )
    try:
        return open_run(folder)
    except Damaged as reason:
        raise InputError(f"{folder} is damaged: {reason}.") from reason


def unit_given(run: Run, text: str) -> Unit | None:
    """The entry of the unit asked for, or of the only unit; None for all units of a run."""
    units = {unit["unit"]: unit for unit in run.units}
    if not text:
        return next(iter(units.values())) if len(units) == 1 else None
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise InputError(f"unit={text} is not the number of a unit. {units_of(run)}.")
    if int(text) not in units:
        raise InputError(f"unit={text}: there is no such unit. {units_of(run)}.")
    return units[int(text)]


def units_of(run: Run) -> str:
    """`RUN has the units 0-63`, for an error."""
    ranges = units_list(sorted(unit["unit"] for unit in run.units))
    listed = ", ".join(ranges[:LISTED]) + (", ..." if ranges[LISTED:] else "")
    return f"{run.path} has the units {listed}" if ranges else f"{run.path} has no unit yet"
