"""The check of a run folder: its files are there, fit together, and hold finite numbers.

All who read a run go through it (`status`, `collect`, `analyze`, `compare`, `show`, `retry`, and a
run that looks whether it is done). It reads a part of the images, or all of them where the caller
uses them. Made for tens of thousands of folders: no torch, and every file is opened once.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from diversevis.runs import files
from diversevis.runs.facts import Object, Row, Value, settings_and_facts
from diversevis.runs.files import Damaged, check_kinds, is_whole, shown

Columns = dict[str, Sequence[Value | None]]

MOST = 5000  # numbers of a unit; all measures with their spread have 250
PER_UNIT = 2**18  # bytes of metrics.json; all measures with their spread have 2**14

# All entries of a unit in metrics.json are numbers, except those whose last name is one of these.
KINDS: dict[str, set[type]] = {"stop": {str}, "color": {str}, "weak": {bool},
                               "family": {str}, "typical": {bool}}  # fmt: skip
NUMBER: set[type] = {int, float}
FLOAT: set[type] = {float}
OF_IMAGES = "response_mean", "response_best", "stop"  # of every unit with images
OBJECTIVE = "distance", "metric", "diversity", "fraction", "front"
OTHERS: set[type] = {dict, list, NoneType}  # may stand for a number
NAME = re.compile(r"[a-z0-9_]{1,50}")  # of a measure; its files in analysis/ are called so
SCALARS = ("response_", "distance_")  # numbers of a unit that begin so hold no object and no list


@dataclass(frozen=True, kw_only=True)
class Files:
    """What the files of a run hold, before it is checked.

    changed  when run.json was last written, seconds since the epoch
    metrics  bytes of metrics.json
    images   `tensors.Images`; None for measures without images
    """

    record: dict[str, Any]
    changed: float
    metrics: bytes
    images: Any


@dataclass(frozen=True, kw_only=True)
class Results:
    """The results of a run whose files fit together.

    facts     settings and facts of the run by dotted names
    measures  their settings
    rows      the entries of the units in metrics.json
    columns   a number of all units by its dotted name, None where a unit has none
    """

    record: dict[str, Any]
    facts: Row
    measures: dict[str, dict[str, Any]]
    units: list[int]
    rows: list[dict[str, Any]]
    columns: Columns


def flaw_of(folder: Path | str) -> str | None:
    """Why the results of a run cannot be used; None if they can."""
    try:
        read_results(folder)
    except Damaged as reason:
        return str(reason)
    return None


def read_results(folder: Path | str, *, thorough: bool = False) -> Results:
    """The results of a run; raises `Damaged` where its files do not hold what they must.

    thorough  all images are read, not only a sample
    """
    return check(read_files(folder, thorough=thorough))


def read_files(folder: Path | str, *, thorough: bool = False) -> Files:
    """What the files of a run with results hold; raises `Damaged` where one cannot be read."""
    record, changed = files.read_record(folder)
    return read_rest(folder, record, changed, thorough=thorough)


def read_rest(
    folder: Path | str, record: dict[str, Any], changed: float, *, thorough: bool = False
) -> Files:
    """`read_files`, for a record that has been read."""
    check_record(record)
    largest = min(files.LARGEST, PER_UNIT * (4 + len(record["units"])))
    metrics, _ = files.read_file(folder, "metrics.json", largest)
    images = None
    if record["n"] is not None:
        from diversevis.runs import tensors  # numpy, which `status` without a run need not wait for

        images = tensors.read_images(folder, thorough=thorough)
    return Files(record=record, changed=changed, metrics=metrics, images=images)


def check(content: Files) -> Results:
    """The results; raises `Damaged` where the files contradict one another."""
    record = content.record
    facts = settings_and_facts(record)
    metrics = files.parse_json(content.metrics, "metrics.json")
    facts_of_all = {name: value for name, value in metrics.items() if name != "units"}
    files.check_depth(facts_of_all, "metrics.json")
    try:
        rows, columns = _rows_and_columns(metrics)
    except (RecursionError, MemoryError) as error:
        raise Damaged("metrics.json is nested too deeply or too large for the memory") from error
    units = [row["unit"] for row in rows]
    _check_units(units, record)
    if content.images is not None:
        lacking = [name for name in OF_IMAGES if any(name not in row for row in rows)]
        if lacking:
            raise Damaged(f"metrics.json lacks {lacking[0]} of a unit")
        content.images.check(record, rows, columns.get("response_mean"))
    elif "response_mean" in columns:
        raise Damaged("run.json says that there are no images, metrics.json has responses to some")
    return Results(
        record=record, facts=facts, measures=metrics["measures"], units=units, rows=rows,
        columns=columns,
    )  # fmt: skip


# -- run.json -------------------------------------------------------------------------------------


def check_record(record: Object) -> None:
    """Raises `Damaged` where the record of a run with results lacks what these are checked by."""
    check_kinds(record, {"config_hash": str, "config": dict})
    if len(set(record["units"])) < len(record["units"]):
        raise Damaged("run.json has a unit twice")
    check_kinds(record, {"norm": (int, float), "receptive_field": dict, "weights": dict})
    if not isinstance(record.get("drawn", []), list):
        raise Damaged(f"run.json: drawn is {shown(record['drawn'])}")
    n, norm = record["n"], record["norm"]
    _check_objective(record)
    if n is not None and not (is_whole(n) and n > 0):  # None: measures without images
        raise Damaged(f"run.json: n is {shown(n)}")
    if not (type(norm) in NUMBER and 0 < norm < math.inf):
        raise Damaged(f"run.json: norm is {shown(norm)}")
    size, mean = record["receptive_field"].get("size"), record["weights"].get("mean")
    if not (isinstance(size, list) and len(size) == 2 and all(map(is_whole, size)) and all(size)):
        raise Damaged(f"run.json: receptive_field is {shown(record['receptive_field'])}")
    if not (isinstance(mean, list) and mean and {*map(type, mean)} <= NUMBER):
        raise Damaged(f"run.json: weights.mean is {shown(mean)}")


def _check_objective(record: Object) -> None:
    """Raises `Damaged` where the record's facts about the objective are not those of its config."""
    objective = record["config"].get("objective")
    if record["n"] is None or not isinstance(objective, dict):
        return
    for name in OBJECTIVE:
        said, wanted = (content.get(name) for content in (record, objective))
        traced = name == "diversity" and objective.get("front") is not None  # at many weights
        if name in record and name in objective and not traced and said != wanted:
            raise Damaged(f"run.json: {name} is {shown(said)}, and {shown(wanted)} in its config")


def _check_units(units: Sequence[int], record: Object) -> None:
    """Raises `Damaged` where the two files name different units; those of a run that is not
    finished may be some of the planned."""
    planned = record["units"]
    complete = record["status"] == "finished" or record.get("optimized") is True
    if len(set(units)) < len(units):
        raise Damaged("metrics.json has a unit twice")
    if extra := set(units) - set(planned):
        raise Damaged(f"run.json lacks unit {min(extra)}: the two files name different units")
    if complete and (missing := set(planned) - set(units)):
        raise Damaged(f"metrics.json lacks unit {min(missing)}: the two files name different units")


# -- metrics.json ---------------------------------------------------------------------------------


def _rows_and_columns(metrics: Object) -> tuple[list[dict[str, Any]], Columns]:
    """The units' entries, and their numbers by name."""
    rows, measures = metrics.get("units"), metrics.get("measures")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise Damaged("metrics.json: units is no list of objects")
    if not isinstance(measures, dict) or not all(
        isinstance(entry, dict) for entry in measures.values()
    ):
        raise Damaged(f"metrics.json: measures is {shown(measures)}")
    for name, entry in measures.items():
        if not NAME.fullmatch(name) or not isinstance(entry.get("settings", {}), dict):
            raise Damaged(f"metrics.json: measures has {shown(name)}: {shown(entry)}")
    if not all(is_whole(row.get("unit")) for row in rows):
        raise Damaged("metrics.json has a unit without its number")
    for name in measures:
        _check_types(name, [row.get(name) for row in rows], {dict, NoneType})
    columns: Columns = {}
    _flatten(rows, "", columns)
    columns.pop("unit", None)
    return rows, columns


def _flatten(units: Sequence[Object], prefix: str, into: Columns, level: int = 1) -> None:
    """Add columns by dotted names with a value for every unit; null and lists become None.

    Name by name and not unit by unit: most of the time goes here, and so most of it is spent in C.
    """
    names = list(units[0]) if units else []
    if all(list(unit) == names for unit in units):
        listed: Iterable[Sequence[Any]] = zip(*(unit.values() for unit in units), strict=True)
    else:
        names = list(dict.fromkeys(itertools.chain.from_iterable(units)))
        listed = [[unit.get(name) for unit in units] for name in names]
    if len(names) + len(into) > MOST:
        raise Damaged(f"metrics.json has more than {MOST} numbers of a unit")
    for key, values in zip(names, listed, strict=True):
        types = set(map(type, values))
        if types == FLOAT and key not in KINDS and math.isfinite(sum(values)):
            into[prefix + key] = values
            continue
        name, scalars = prefix + key, KINDS.get(key, NUMBER)
        holds_scalars = not prefix and key.startswith(SCALARS)
        _check_types(name, values, scalars | ({NoneType} if holds_scalars else OTHERS))
        if list in types:
            lists = {str(i): value for i, value in enumerate(values) if type(value) is list}
            files.check_depth(lists, "metrics.json")
        if dict in types:
            if level == files.DEEPEST:
                raise Damaged(f"metrics.json is nested deeper than {level} levels")
            inner = [value if type(value) is dict else {} for value in values]
            _flatten(inner, name + ".", into, level + 1)
        if types & scalars:
            into[name] = [
                files.scalar("metrics.json", name, value) if type(value) in scalars else None
                for value in values
            ]


def _check_types(name: str, values: Sequence[Any], types: set[type]) -> None:
    if not set(map(type, values)) <= types:
        odd = next(value for value in values if type(value) not in types)
        raise Damaged(f"metrics.json: {name[:99]} is {shown(odd)}")
