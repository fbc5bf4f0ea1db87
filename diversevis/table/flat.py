"""JSON's objects -> scalars by dotted names, each of a kind that a table can hold."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from diversevis.table.find import LeftOut

Value = float | int | str | bool
Row = dict[str, Value]

LONGEST = 2**16  # characters of a word; more is no setting
MOST = 5000  # numbers of a unit; all measures and their spread over seeds are 250

# Of a unit in metrics.json, all but these are numbers: the last part of the name, and its kind.
KINDS = {"stop": str, "color": str, "weak": bool}

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


def flatten_numbers(content: Mapping[str, Any], prefix: str, into: Row) -> None:
    """Scalars by dotted names; null and lists are nothing. The loop in which the time goes."""
    for key, value in content.items():
        kind = type(value)
        if kind is float and key not in KINDS:
            if not math.isfinite(value):  # 1e999
                raise rubbish(prefix + key, value)
            into[prefix + key] = value
        elif kind is dict:
            flatten_numbers(value, prefix + key + ".", into)
        elif value is not None and kind is not list:
            name = prefix + key
            if kind is not KINDS.get(key, int):
                raise rubbish(name, value)
            into[name] = _checked("metrics.json", name, value)


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


def rubbish(name: str, value: Any) -> LeftOut:
    return LeftOut(f"metrics.json: {name[:99]} is {shown(value)}")


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
