"""Columns of one type each, packed while rows are added."""

from __future__ import annotations

from collections.abc import Iterator
from types import NoneType
from typing import TYPE_CHECKING

from diversevis.table.read import Columns, Value, legible

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_AS_OBJECTS = 4096  # then packed: as Python objects, numbers take four times the memory


class ColumnBuilder:
    """Columns of one type each, to which rows are added; a column without a value has null there.

    A column of whole numbers and fractions becomes one of floats. A column with text in some rows,
    and numbers or truth values in others, becomes text: 64 and 64.0 are "64", true is "true".
    """

    def __init__(self) -> None:
        self._rows = 0
        self._columns: Columns = {}
        self._packed: list[tuple[int, dict[str, pa.Array]]] = []

    def add(self, rows: int, columns: Columns) -> None:
        """Add rows, with a value for each of them in every column that is named."""
        for name, values in columns.items():
            column = self._columns.setdefault(name, [])
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
