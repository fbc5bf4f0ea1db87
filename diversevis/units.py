"""Which units: `12`, `0-63`, `[1,5,9]`, `all`, as people write them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from diversevis.errors import InputError

LONGEST_NAME = 40  # characters of a folder name before it is abbreviated


def parse_units(
    unit: int | str | Sequence[int | str], channels: int, where: str
) -> tuple[int, ...]:
    """Unit numbers, ascending, each once.

    unit      a number, a range `0-63`, several of them (`[1,5,9]` or `1,5,8-11`), or `all`
    channels  how many units there are
    where     what holds them, for error messages

    Raises `InputError` for an empty or malformed list and for a unit out of range.
    """
    legal = f"Units of {where} are 0 to {channels - 1}: unit=12, unit=0-15, unit=[1,5,9], unit=all."
    if unit == "all":
        return tuple(range(channels))
    parts = [unit] if isinstance(unit, int) else unit.split(",") if isinstance(unit, str) else unit
    found: set[int] = set()
    for part in parts:
        match = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", str(part))
        if match is None or isinstance(part, bool):
            raise InputError(f"unit={unit}: {part!r} is neither a unit nor a range. {legal}")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise InputError(f"unit={unit}: the range {part} runs backwards. {legal}")
        if last >= channels:
            raise InputError(
                f"unit={unit}: {where} has {channels} units, so there is no unit {last}. {legal}"
            )
        found.update(range(first, last + 1))
    if not found:
        raise InputError(f"unit={unit} names no unit. {legal}")
    return tuple(sorted(found))


def units_list(units: Sequence[int]) -> list[str]:
    """Units as people write them, runs of them as ranges: `0-63`, `70`."""
    runs: list[list[int]] = []
    for unit in units:
        if runs and unit == runs[-1][-1] + 1:
            runs[-1].append(unit)
        else:
            runs.append([unit])
    return [f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs]


def units_text(units: Sequence[int]) -> str:
    """A short, file-safe name for a set of units: `12`, `0-63`, `1,5,9`; long ones abbreviated."""
    text = ",".join(units_list(units))
    if len(text) <= LONGEST_NAME:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{units[0]}-{units[-1]}-{len(units)}units-{digest}"
