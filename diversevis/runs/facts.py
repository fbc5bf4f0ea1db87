"""The settings and facts in run.json, by the dotted names that tables give them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from diversevis.runs.files import LONGEST, Damaged, is_whole, legible, scalar, shown

Object = Mapping[str, Any]  # of JSON
Value = float | int | str | bool
Row = dict[str, Value]

# What run.json says beside the settings; in the table, these names begin with "run.".
FACTS = (
    "norm", "response", "receptive_field.height", "receptive_field.width", "stride.height",
    "stride.width", "weights.source", "weights.sha256", "versions.diversevis", "versions.torch",
    "versions.git_commit", "device_name", "start", "seconds", "sweep",
)  # fmt: skip
KEYS = {name.partition(".")[0] for name in FACTS} - {"receptive_field", "stride"}

MOST = 5000  # settings of a run; there are about 120

LISTS = json.JSONEncoder(ensure_ascii=False)


def settings_and_facts(record: Object) -> Row:
    """The settings by the names that users type, then the facts."""
    unused = {"layer", "unit"} | ({"n"} if record["n"] is None else set())  # of no images
    config = {name: value for name, value in record["config"].items() if name not in unused}
    settings: Row = {}
    _flatten_settings(config, "", settings)
    facts: Row = {}
    _flatten_settings({name: record[name] for name in KEYS if name in record}, "", facts)
    for name in ("norm", "seconds"):
        if not _is_number(facts.get(name, 0)):
            raise Damaged(f"run.json: {name} is {shown(facts[name])}")
    facts |= _sides(record.get("receptive_field"))
    return settings | {f"run.{name}": facts[name] for name in FACTS if name in facts}


def _sides(field: Any) -> Row:
    """Height and width of the receptive field and of its stride, pixels."""
    if field is None:
        return {}
    if not isinstance(field, dict):
        raise Damaged(f"run.json: receptive_field is {shown(field)}")
    sides: Row = {}
    for name, key in (("receptive_field", "size"), ("stride", "stride")):
        pair, is_side = field.get(key), is_whole if key == "size" else _is_number
        if not isinstance(pair, list) or len(pair) != 2 or not all(map(is_side, pair)):
            raise Damaged(f"run.json: receptive_field is {shown(field)}")
        sides |= {f"{name}.height": pair[0], f"{name}.width": pair[1]}
    return sides


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _flatten_settings(content: Object, prefix: str, into: Row) -> None:
    """Add scalars by dotted names, and lists as JSON; null is left out."""
    for key, value in content.items():
        kind, name = type(value), prefix + key
        if kind is dict:
            _flatten_settings(value, name + ".", into)
        elif kind is bool or (kind is str and len(value) <= LONGEST and value.isascii()):
            into[legible(name)] = value
        elif value is not None:
            text = LISTS.encode(value) if kind is list else value
            into[legible(name)] = scalar("run.json", name, text)
    if len(into) > MOST:
        raise Damaged(f"run.json has more than {MOST} entries")
