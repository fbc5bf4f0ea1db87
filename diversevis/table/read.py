"""A finished run folder -> the columns of its units, or why the run is left out of the table."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from diversevis.runs import files
from diversevis.runs.files import Damaged, is_whole, shown
from diversevis.runs.find import Folder
from diversevis.runs.holder import sign_of
from diversevis.runs.states import LOST
from diversevis.runs.versions import version_of

Object = Mapping[str, Any]  # of JSON
Value = float | int | str | bool
Row = dict[str, Value]
Columns = dict[str, list[Value | None]]

# What run.json says beside the settings; in the table, these names begin with "run.".
FACTS = (
    "norm", "response", "receptive_field.height", "receptive_field.width", "stride.height",
    "stride.width", "weights.source", "weights.sha256", "versions.diversevis", "versions.torch",
    "versions.git_commit", "device_name", "start", "seconds", "sweep",
)  # fmt: skip
KEYS = {name.partition(".")[0] for name in FACTS} - {"receptive_field", "stride"}

MOST = 5000  # settings of a run, or numbers of a unit; all measures with their spread have 250
# All entries of a unit in metrics.json are numbers, except those whose last name is one of these.
KINDS: dict[str, set[type]] = {"stop": {str}, "color": {str}, "weak": {bool}}
NUMBER: set[type] = {int, float}
OTHERS: set[type] = {dict, list, NoneType}  # may stand for a number
SCALARS = ("response_", "distance_")  # numbers of a unit that begin so hold no object and no list

LISTS = json.JSONEncoder(ensure_ascii=False)


@dataclass(frozen=True, kw_only=True)
class Run:
    """What joins a finished run to the rows of its units."""

    folder: Folder
    model: str
    layer: str
    config_hash: str
    images: bool  # False: it measured units without making images
    units: Sequence[int]

    @property
    def version(self) -> int | None:
        return version_of(self.folder.path)

    @property
    def work(self) -> tuple[str, str, bool]:
        """What its versions have in common. Measures alone do not make a run with images old."""
        return self.folder.path.rpartition("/")[0], self.config_hash, self.images


def read_files(folder: Folder) -> tuple[dict[str, Any], bytes] | Damaged:
    """The record of a finished run and the bytes of its metrics.json, or why it is left out.

    `parse_run` does the rest, outside the threads that read: they share one processor for parsing.
    """
    try:
        record, _ = files.read_record(folder.path)  # first: if it is finished, metrics are there
        status = record["status"]
        if status != "finished":
            return Damaged(_running_or_lost(folder) if status == "running" else status)
        return record, files.read_file(folder.path, "metrics.json")[0]
    except Damaged as reason:
        return reason


def _running_or_lost(folder: Folder) -> str:
    """`LOST` for a run whose record says that it is running, but whose process has died."""
    try:
        sign = sign_of(Path(folder.path))
    except OSError:
        return "running"
    if sign is not None and sign.alive:
        return "running"
    status = files.read_record(folder.path)[0]["status"]  # it may have ended since the first look
    # one that has just finished will be in the next table
    return {"running": LOST, "finished": "running"}.get(status, status)


def parse_run(folder: Folder, record: Object, metrics_file: bytes) -> tuple[Run, Row, Columns]:
    """The run, its settings and facts by dotted names, and columns of its units' numbers.

    Raises `Damaged` where the files do not hold what they must.
    """
    files.check_kinds(record, {"config_hash": str, "config": dict})
    metrics = files.parse_json(metrics_file, "metrics.json")
    try:
        units, numbers = _units_and_numbers(record["units"], metrics)
        settings = _settings_and_facts(record)
    except (RecursionError, MemoryError) as error:
        raise Damaged("its JSON is nested too deeply or too large for the memory") from error
    names = {name: legible(record[name]) for name in ("model", "layer", "config_hash")}
    run = Run(folder=folder, **names, images=record["n"] is not None, units=units)
    return run, settings, numbers


def _settings_and_facts(record: Object) -> Row:
    """The settings by the names that users type, then the facts."""
    unused = {"layer", "unit"} | ({"n"} if record["n"] is None else set())  # of no images
    config = {name: value for name, value in record["config"].items() if name not in unused}
    settings: Row = {}
    _flatten_settings(config, "", settings)
    facts: Row = {}
    _flatten_settings({name: record[name] for name in KEYS if name in record}, "", facts)
    for name in ("norm", "seconds"):
        if type(facts.get(name, 0)) not in NUMBER:
            raise Damaged(f"run.json: {name} is {shown(facts[name])}")
    facts |= _sides(record.get("receptive_field"))
    return settings | {f"run.{name}": facts[name] for name in FACTS if name in facts}


def _sides(field: Any) -> Row:
    """Height and width of the receptive field and of its stride, pixels."""
    if field is None:
        return {}
    sides: Row = {}
    for name, key in (("receptive_field", "size"), ("stride", "stride")):
        pair = field.get(key) if isinstance(field, dict) else None
        if not isinstance(pair, list) or len(pair) != 2 or not all(map(is_whole, pair)):
            raise Damaged(f"run.json: receptive_field is {shown(field)}")
        sides |= {f"{name}.height": pair[0], f"{name}.width": pair[1]}
    return sides


def _units_and_numbers(planned: Sequence[int], metrics: Object) -> tuple[list[int], Columns]:
    """The units in metrics.json, which must be those `planned` in run.json, and their numbers."""
    rows, measures = metrics.get("units"), metrics.get("measures")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise Damaged("metrics.json: units is no list of objects")
    if not isinstance(measures, dict):
        raise Damaged(f"metrics.json: measures is {shown(measures)}")
    units = [row.get("unit") for row in rows]
    if not all(map(is_whole, units)):
        raise Damaged("metrics.json has a unit without its number")
    for file, numbers in (("run.json", planned), ("metrics.json", units)):
        if len(set(numbers)) < len(numbers):
            raise Damaged(f"{file} has a unit twice")
    if set(units) != set(planned):
        unit = min(set(units) ^ set(planned))
        file = "metrics.json" if unit in planned else "run.json"
        raise Damaged(f"{file} lacks unit {unit}: the two files name different units")
    for name in measures:
        _check_types(name, [row.get(name) for row in rows], {dict, NoneType})
    columns: Columns = {}
    _flatten_numbers(rows, "", columns)
    del columns["unit"]
    return units, columns


def _flatten_settings(content: Object, prefix: str, into: Row) -> None:
    """Add scalars by dotted names, and lists as JSON; null is left out."""
    for key, value in content.items():
        name = prefix + key
        if isinstance(value, dict):
            _flatten_settings(value, name + ".", into)
        elif value is not None:
            text = LISTS.encode(value) if isinstance(value, list) else value
            into[legible(name)] = _checked("run.json", name, text)
    if len(into) > MOST:
        raise Damaged(f"run.json has more than {MOST} entries")


def _flatten_numbers(units: Sequence[Object], prefix: str, into: Columns) -> None:
    """Add columns by dotted names with a value for every unit; null and lists become None.

    Name by name and not unit by unit: most of the time goes here, and so most of it is spent in C.
    """
    names = dict.fromkeys(itertools.chain.from_iterable(units))
    if len(names) + len(into) > MOST:
        raise Damaged(f"metrics.json has more than {MOST} numbers of a unit")
    for key in names:
        name, scalars = prefix + key, KINDS.get(key, NUMBER)
        values: list[Any] = [unit.get(key) for unit in units]
        types = set(map(type, values))
        if types == {float} and float in scalars and all(map(math.isfinite, values)):
            into[name] = values
            continue
        holds_scalars = not prefix and key.startswith(SCALARS)
        _check_types(name, values, scalars | ({NoneType} if holds_scalars else OTHERS))
        if dict in types:
            inner = [value if type(value) is dict else {} for value in values]
            _flatten_numbers(inner, name + ".", into)
        if types & scalars:
            into[name] = [
                _checked("metrics.json", name, value) if type(value) in scalars else None
                for value in values
            ]


def _check_types(name: str, values: Sequence[Any], types: set[type]) -> None:
    if not set(map(type, values)) <= types:
        odd = next(value for value in values if type(value) not in types)
        raise Damaged(f"metrics.json: {name[:99]} is {shown(odd)}")


def _checked(file: str, name: str, value: Any) -> Value:
    """A scalar of JSON as a table can hold it; raises `Damaged` for one that is too large."""
    if isinstance(value, str):
        if len(value) > files.LONGEST:
            raise Damaged(f"{file}: {name[:99]} has {len(value)} characters")
        return legible(value)
    if isinstance(value, bool) or (-(2**63) <= value < 2**63 and isinstance(value, int)):
        return value
    with contextlib.suppress(OverflowError):
        if math.isfinite(value):
            return float(value)
    raise Damaged(f"{file}: {name[:99]} is too large a number")


def legible(text: str) -> str:
    """The text with lone surrogates escaped: file names and JSON may hold them, tables may not."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
