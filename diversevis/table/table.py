"""The runs below a folder as one table with a row for every unit."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any

from diversevis.errors import InputError, printable
from diversevis.runs.check import Columns
from diversevis.runs.facts import Value
from diversevis.runs.files import Damaged, legible
from diversevis.runs.find import (
    Folder,
    find_folders_below,
    in_threads,
    no_garbage_collection,
)
from diversevis.table.read import Run, parse_run, read_files

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

RUNS_AT_ONCE = 4  # for a thread; few, because metrics.json of a large layer has megabytes
ROWS_AS_OBJECTS = 4096  # then packed: as Python objects, numbers take four times the memory


def collect(root: str | os.PathLike[str]) -> pd.DataFrame:
    """See `diversevis.collect`."""
    table, left_out = collect_runs(Path(root))
    frame = _to_pandas(table)
    frame.attrs["left_out"] = left_out
    return frame


def collect_runs(root: Path) -> tuple[pa.Table, list[tuple[str, str]]]:
    """A row for every unit of every finished run at or below `root`, and (folder, reason) of the
    runs that are left out. Folders may come, go or change meanwhile.

    Rows are sorted by model, layer, unit, version and folder. The table tells pandas the types of
    its columns.

    Raises `InputError` where there is no run folder, and where pandas or pyarrow is missing.
    """
    _check_libraries()
    folders, left_out = find_folders_below(root)
    runs: list[Run] = []
    of_runs, of_units = ColumnBuilder(), ColumnBuilder()
    with no_garbage_collection():
        contents = in_threads(read_files, folders, RUNS_AT_ONCE)
        for folder, files in zip(folders, contents, strict=True):
            try:
                if isinstance(files, Damaged):
                    raise files
                run, settings, numbers = parse_run(folder, files)
            except Damaged as reason:
                left_out.append((folder, str(reason)))
                continue
            runs.append(run)
            of_runs.add(1, {name: [value] for name, value in settings.items()})
            of_units.add(len(run.units), numbers)
    reasons = [(_name(folder, root), printable(why)) for folder, why in left_out]
    return _join(runs, root, of_runs, of_units), sorted(reasons, key=_natural)


def _check_libraries() -> None:
    try:
        import pandas  # noqa: F401
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"collect needs pandas and pyarrow, and here is {error}. Install both with "
            "pip install 'diversevis[collect]'"
        ) from error


def _name(folder: Folder, root: Path) -> str:
    name, above = folder.name, f"{root}/"
    # As mostly; else in ten times the time.
    return legible(name[len(above) :] if name.startswith(above) else os.path.relpath(name, root))


def _join(
    runs: Sequence[Run], root: Path, of_runs: ColumnBuilder, of_units: ColumnBuilder
) -> pa.Table:
    """Identity, then settings and facts, then numbers, as `metrics.NAME` where NAME is taken."""
    import numpy as np
    import pyarrow as pa

    names = [_name(run.folder, root) for run in runs]
    versions = [run.version for run in runs]
    run_of_row = np.repeat(np.arange(len(runs)), [len(run.units) for run in runs])
    unit = np.array([number for run in runs for number in run.units], dtype=np.int64)
    layers = sorted({(run.model, run.layer) for run in runs}, key=_natural)
    index = {layer: i for i, layer in enumerate(layers)}
    layer = np.array([index[run.model, run.layer] for run in runs], dtype=np.int64)
    by_version = sorted(range(len(runs)), key=lambda i: (versions[i] or 0, names[i]))
    rank = np.argsort(np.array(by_version, dtype=np.int64))
    order = np.lexsort((rank[run_of_row], unit, layer[run_of_row]))  # the last key counts first
    row_index, run_index = pa.array(order), pa.array(run_of_row[order])
    text, whole = pa.string(), pa.int64()
    columns: dict[str, Any] = {
        "model": pa.array([run.model for run in runs], text).take(run_index),
        "layer": pa.array([run.layer for run in runs], text).take(run_index),
        "unit": pa.array(unit, whole).take(row_index),
        "folder": pa.array(names, text).take(run_index),
        "version": pa.array(versions, whole).take(run_index),
        "latest": pa.array(_latest(runs), pa.bool_()).take(run_index),
        "config_hash": pa.array([run.config_hash for run in runs], text).take(run_index),
    }
    settings = dict(of_runs.take(run_index))
    for name in sorted(settings, key=lambda name: (name.startswith("run."), name)):
        columns.setdefault(name, settings[name])
    for name, column in of_units.take(row_index):
        columns[f"metrics.{name}" if name in columns else name] = column
    table = pa.table(columns)
    types = pa.Schema.from_pandas(_to_pandas(table.slice(0, 0)), preserve_index=False)
    return table.replace_schema_metadata(types.metadata)


def _to_pandas(table: pa.Table) -> pd.DataFrame:
    """As pandas' types that can miss a value: Int64, boolean and string."""
    import pandas as pd
    import pyarrow as pa

    types = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
    return table.to_pandas(types_mapper=(types | {pa.string(): pd.StringDtype()}).get)


def _latest(runs: Sequence[Run]) -> list[bool]:
    """Whether a run is the highest version of its work, or has no version."""
    highest: dict[Any, int] = {}
    for run in runs:
        highest[run.work] = max(highest.get(run.work, 0), run.version or 0)
    return [run.version in (None, highest[run.work]) for run in runs]


def _natural(words: Sequence[str]) -> list[Any]:
    """A sort key that compares numbers as numbers: conv1_2 before conv1_10."""
    parts = [re.split(r"([0-9]{1,18})", word) for word in words]
    numbered = [[int(p) if i % 2 else p for i, p in enumerate(part)] for part in parts]
    return [numbered, list(words)]


class ColumnBuilder:
    """Columns of one type each, to which rows are added; a column without a value has null there.

    A column of whole numbers and fractions becomes one of floats. A column with text in some rows,
    and numbers or truth values in others, becomes text: 64 and 64.0 are "64", true is "true".
    """

    def __init__(self) -> None:
        self._rows = 0
        self._columns: dict[str, list[Value | None]] = {}
        self._packed: list[tuple[int, dict[str, pa.Array]]] = []

    def add(self, rows: int, columns: Columns) -> None:
        """Add rows, with a value for each of them in every column that is named."""
        for name, values in columns.items():
            column = self._columns.setdefault(name, [])
            if len(column) < self._rows:
                column += [None] * (self._rows - len(column))
            column += values
        self._rows += rows
        if self._rows >= ROWS_AS_OBJECTS:
            self._pack()

    def take(self, order: pa.Array) -> Iterator[tuple[str, pa.Array]]:
        """Every column by its name, in alphabetical order. Only once: it is then forgotten.

        order  for each row of the result, the index of a row in the order in which they were added
        """
        import pyarrow as pa

        self._pack()
        for name in sorted({name for _, columns in self._packed for name in columns}):
            parts = [(rows, columns.pop(name, None)) for rows, columns in self._packed]
            kind = _common({part.type for _, part in parts if part is not None})
            arrays = [
                pa.nulls(rows, kind) if part is None
                else part if part.type == kind
                else _array(part.to_pylist(), kind)
                for rows, part in parts
            ]  # fmt: skip
            yield legible(name), pa.concat_arrays(arrays).take(order)

    def _pack(self) -> None:
        packed = {}
        for name, values in self._columns.items():
            packed[name] = _array(values + [None] * (self._rows - len(values)))
        self._packed.append((self._rows, packed))
        self._rows, self._columns = 0, {}


def _array(values: list[Value | None], kind: pa.DataType | None = None) -> pa.Array:
    """The values as an array of type `kind`, by default of the type that can hold all of them."""
    import pyarrow as pa

    arrow = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}
    types = {arrow[python] for python in set(map(type, values)) - {NoneType}}
    kind = kind or _common(types)
    if types != {kind}:
        convert = float if kind == pa.float64() else _text
        values = [None if value is None else convert(value) for value in values]
    return pa.array(values, kind)


def _common(types: set[pa.DataType]) -> pa.DataType:
    """The type that holds values of all of these types."""
    import pyarrow as pa

    if len(types) == 1:
        return next(iter(types))
    return pa.float64() if types == {pa.int64(), pa.float64()} else pa.string()


def _text(value: Value) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if value == int(value) else repr(value)
