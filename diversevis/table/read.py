"""From the content of a run folder to the columns of its units, or why it cannot be used."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any

from diversevis.table.find import Found, LeftOut
from diversevis.table.flat import (
    LONGEST,
    Columns,
    Row,
    flatten_numbers,
    flatten_settings,
    is_number,
    is_whole,
    legible,
    shown,
)

UNFINISHED = ("running", "interrupted", "failed")  # what run.json says of a run that is not done

# Folders of before run.json had the config say some of it otherwise.
SETTINGS = {
    "n": "n",
    "seed": "seed",
    "precision": "precision",
    "objective.diversity": "diversity",
    "objective.distance": "distance",
    "objective.fraction": "fraction",
    "objective.front": "front",
    "objective.direction": "direction",
}
# Of run.json, what was found rather than set: in the table, their names begin with FOUND.
FOUND = "run."
FACTS = (
    "norm", "response", "receptive_field.height", "receptive_field.width", "stride.height",
    "stride.width", "weights.source", "weights.sha256", "versions.diversevis", "versions.torch",
    "versions.git_commit", "device_name", "start", "seconds", "sweep",
)  # fmt: skip
NUMBERS = ("n", "seed", "diversity", "fraction", "norm", "seconds")  # of run.json, where there
ASKED = {name.partition(".")[0] for name in (*SETTINGS.values(), *FACTS)} - {"receptive_field"}


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a finished run puts into the table.

    images   whether it made any, or is of measures alone
    units    their numbers
    same     what is the same of all its units
    own      what is each unit's own, in the order of the units
    """

    model: str
    layer: str
    config_hash: str
    images: bool
    units: Sequence[int]
    same: Row
    own: Columns


def read_run(found: Found) -> Run:
    """The run whose files were read; raises `LeftOut` where it is unfinished or not whole."""
    try:
        record = _object("run.json", found.record)
        status = _word(record, "status")
        if status in UNFINISHED:
            raise LeftOut(status)
        if status != "finished":
            raise LeftOut(f"run.json has status {status[:40]!r}")
        units, own = _units(record, _object("metrics.json", found.metrics))
        return Run(
            model=_word(record, "model"),
            layer=_word(record, "layer"),
            config_hash=_word(record, "config_hash"),
            images=record.get("n") is not None,
            units=units,
            same=_settings_and_facts(record),
            own=own,
        )
    except RecursionError:
        raise LeftOut("its JSON is nested too deeply") from None
    except MemoryError:
        raise LeftOut("its JSON does not fit into memory") from None


def _object(file: str, content: bytes | LeftOut) -> dict[str, Any]:
    if isinstance(content, LeftOut):
        raise content
    if not content:
        raise LeftOut(f"{file} is empty")
    try:
        found = DECODER.decode(content.decode())
    except UnicodeDecodeError:
        raise LeftOut(f"{file} is not UTF-8 text") from None
    except ValueError as error:  # no JSON; an integer of thousands of digits
        raise LeftOut(f"{file} is not JSON ({error})") from None
    if not isinstance(found, dict):
        raise LeftOut(f"{file} holds no object")
    return found


def _no_number(token: str) -> float:
    raise ValueError(f"{token} is no number")


DECODER = json.JSONDecoder(parse_constant=_no_number)  # refuses NaN and Infinity


def _word(record: Mapping[str, Any], name: str) -> str:
    if name not in record:
        raise LeftOut(f"run.json lacks {name}")
    value = record[name]
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST:
        raise LeftOut(f"run.json: {name} is {shown(value)}")
    return legible(value)


def _settings_and_facts(record: Mapping[str, Any]) -> Row:
    """The settings by the names that users type, then the facts."""
    config = record.get("config")
    if not isinstance(config, dict | None):
        raise LeftOut(f"run.json: config is {shown(config)}")
    flat: Row = {}
    flatten_settings({name: record[name] for name in ASKED if name in record}, "", flat)
    for name in NUMBERS:
        if not is_number(flat.get(name, 0)):
            raise LeftOut(f"run.json: {name} is {shown(flat[name])}")
    settings: Row = {}
    if config is None:
        settings = {name: flat[old] for name, old in SETTINGS.items() if old in flat}
    else:
        flatten_settings(
            {k: v for k, v in config.items() if k not in ("layer", "unit")}, "", settings
        )
    if "n" not in flat:
        settings.pop("n", None)  # no images: the config's number was not used
    flat |= _sides(record)
    return settings | {FOUND + name: flat[name] for name in FACTS if name in flat}


def _sides(record: Mapping[str, Any]) -> Row:
    """Receptive field and stride [height, width], pixels."""
    field = record.get("receptive_field")
    if field is None:
        return {}
    found: Row = {}
    for name, part in (("receptive_field", "size"), ("stride", "stride")):
        sides = field.get(part) if isinstance(field, dict) else None
        if not isinstance(sides, list) or len(sides) != 2 or not all(map(is_whole, sides)):
            raise LeftOut(f"run.json: receptive_field is {shown(field)}")
        found |= {f"{name}.height": sides[0], f"{name}.width": sides[1]}
    return found


def _units(record: Mapping[str, Any], metrics: Mapping[str, Any]) -> tuple[list[int], Columns]:
    """Every unit and what was found of it, by dotted names; they are those that run.json names."""
    asked, rows, measures = record.get("units"), metrics.get("units"), metrics.get("measures", {})
    if not isinstance(asked, list) or not asked or not all(map(is_whole, asked)):
        raise LeftOut(f"run.json: units is {shown(asked)}")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise LeftOut("metrics.json: units is no list of objects")
    if not isinstance(measures, dict):
        raise LeftOut(f"metrics.json: measures is {shown(measures)}")
    units = [row.get("unit") for row in rows]
    if not all(map(is_whole, units)):
        raise LeftOut("metrics.json has a unit without its number")
    for file, numbers in (("run.json", asked), ("metrics.json", units)):
        if len(set(numbers)) < len(numbers):
            raise LeftOut(f"{file} has a unit twice")
    if set(units) != set(asked):
        odd = min(set(units) ^ set(asked))
        file = "metrics.json" if odd in asked else "run.json"
        raise LeftOut(f"{file} lacks unit {odd}: the two files name different units")
    for name in measures:
        for row in rows:
            if type(row.get(name)) not in (dict, NoneType):
                raise LeftOut(f"metrics.json: {name[:99]} is {shown(row[name])}")
    columns: Columns = {}
    flatten_numbers(rows, "", columns)
    del columns["unit"]
    return units, columns
