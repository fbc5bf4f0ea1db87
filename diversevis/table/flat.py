"""JSON's objects -> scalars by dotted names, each of a kind that a table can hold."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any

from diversevis.table.find import LeftOut

Value = float | int | str | bool
Row = dict[str, Value]
Columns = dict[str, list[Value | None]]

LONGEST = 2**16  # characters of a word; more is no setting
MOST = 5000  # numbers of a unit; all measures and their spread over seeds are 250

# Of a unit in metrics.json, all but these are numbers: the last part of the name, and its kind.
KINDS: dict[str, set[type]] = {"stop": {str}, "color": {str}, "weak": {bool}}
NUMBER: set[type] = {int, float}
SCALARS = ("response_", "distance_")  # so begin a unit's own numbers: no object, no list

LISTS = json.JSONEncoder(ensure_ascii=False)


def flatten_settings(content: Mapping[str, Any], prefix: str, into: Row) -> None:
    """Scalars by dotted names, lists as JSON; null is nothing."""
    for key, value in content.items():
        name = prefix + key
        if isinstance(value, dict):
            flatten_settings(value, name + ".", into)
        elif isinstance(value, list):
            into[legible(name)] = _checked("run.json", name, LISTS.encode(value))
        elif value is not None:
            into[legible(name)] = _checked("run.json", name, value)
    if len(into) > MOST:
        raise LeftOut(f"run.json has more than {MOST} entries")


def flatten_numbers(units: Sequence[Mapping[str, Any]], prefix: str, into: Columns) -> None:
    """Scalars of all units by dotted names, a list with one of each; null and lists are None.

    Name by name and not unit by unit: the time goes here, and this way most of it is C's.
    """
    names = dict.fromkeys(itertools.chain.from_iterable(units))
    if len(names) + len(into) > MOST:
        raise LeftOut(f"metrics.json has more than {MOST} numbers of a unit")
    for key in names:
        values: list[Any] = [unit.get(key) for unit in units]
        kinds = set(map(type, values))
        if kinds == {float} and key not in KINDS and all(map(math.isfinite, values)):
            into[prefix + key] = values
        else:
            _flatten_mixed(key, values, kinds, prefix, into)


def _flatten_mixed(
    key: str, values: list[Any], kinds: set[type], prefix: str, into: Columns
) -> None:
    name = prefix + key
    if not prefix and key.startswith(SCALARS) and kinds & {dict, list}:
        raise _rubbish(name, values, {dict, list})
    if dict in kinds:
        inner = [value if type(value) is dict else {} for value in values]
        flatten_numbers(inner, name + ".", into)
    kinds = kinds - {dict, list, NoneType}
    if odd := kinds - KINDS.get(key, NUMBER):
        raise _rubbish(name, values, odd)
    if kinds:
        into[name] = [
            _checked("metrics.json", name, value) if type(value) in kinds else None
            for value in values
        ]


def _rubbish(name: str, values: Sequence[Any], kinds: set[type]) -> LeftOut:
    found = next(value for value in values if type(value) in kinds)
    return LeftOut(f"metrics.json: {name[:99]} is {shown(found)}")


def _checked(file: str, name: str, value: Any) -> Value:
    """A scalar of JSON that a table can hold."""
    if isinstance(value, str):
        if len(value) > LONGEST:
            raise LeftOut(f"{file}: {name[:99]} has {len(value)} characters")
        return legible(value)
    if isinstance(value, bool) or (-(2**63) <= value < 2**63 and isinstance(value, int)):
        return value
    try:
        if math.isfinite(value):
            return float(value)
    except OverflowError:
        pass
    raise LeftOut(f"{file}: {name[:99]} is too large a number")


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_whole(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def legible(text: str) -> str:
    """The same text if it is Unicode; file names and JSON may hold what no file format can."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def one_line(text: str) -> str:
    """For people: what would not be seen as it is, escaped."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)
