"""Units as a user writes them (`12`, `0-63`, `[1,5,9]`, `all`) <-> unit numbers; and counts."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from diversevis.errors import InputError

LONGEST_NAME = 40  # characters; a longer folder name is abbreviated


def parse_units(
    unit: int | str | Sequence[int | str], channels: int, where: str
) -> tuple[int, ...]:
    """Unit numbers, ascending, without repeats.

    unit      a number, a range `0-63`, a list (`[1,5,9]` or `1,5,8-11`), or `all`
    channels  number of units of the layer
    where     the layer or file, for error messages

    Raises `InputError` for an empty or malformed list and for a unit out of range.
    """
    legal = f"Units of {where} are 0 to {channels - 1}: unit=12, unit=0-15, unit=[1,5,9], unit=all."
    if unit == "all":
        return tuple(range(channels))
    parts = [unit] if isinstance(unit, int) else unit.split(",") if isinstance(unit, str) else unit
    numbers: set[int] = set()
    for part in parts:
        match = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", str(part))
        if match is None or isinstance(part, bool):
            raise InputError(f"unit={unit}: {part!r} is neither a unit nor a range. {legal}")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise InputError(f"unit={unit}: the range {part} runs backwards. {legal}")
        if last >= channels:
            raise InputError(
                f"unit={unit}: {where} has {counted(channels, 'unit')}, so there is no unit "
                f"{last}. {legal}"
            )
        numbers.update(range(first, last + 1))
    if not numbers:
        raise InputError(f"unit={unit} names no unit. {legal}")
    return tuple(sorted(numbers))


def counted(number: int, noun: str) -> str:
    """`1 run`, `2 runs`; the noun's plural ends in s."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def units_list(units: Sequence[int]) -> list[str]:
    """Units as a user writes them, consecutive numbers as ranges: `0-63`, `70`."""
    ranges: list[list[int]] = []
    for unit in units:
        if ranges and unit == ranges[-1][-1] + 1:
            ranges[-1].append(unit)
        else:
            ranges.append([unit])
    return [f"{part[0]}-{part[-1]}" if len(part) > 1 else f"{part[0]}" for part in ranges]


def units_text(units: Sequence[int]) -> str:
    """A short, file-safe name for a set of units: `12`, `0-63`, `1,5,9`; long ones abbreviated."""
    text = ",".join(units_list(units))
    if len(text) <= LONGEST_NAME:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{units[0]}-{units[-1]}-{len(units)}units-{digest}"
