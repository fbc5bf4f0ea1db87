"""Columns of one type each, kept small while they are gathered."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from diversevis.table.flat import Columns, Value, legible

if TYPE_CHECKING:
    import pyarrow as pa

AT_ONCE = 4096  # rows that are kept as Python has them, four times as large as packed


class Table:
    """Grows at its end; where a column is not named, it is null.

    A column that is whole numbers and fractions is of floats. One that has words in some rows, and
    numbers or truths in others, is of words: 64 and 64.0 are "64", true is "true".
    """

    def __init__(self) -> None:
        self._rows = 0
        self._columns: Columns = {}
        self._chunks: list[tuple[int, dict[str, pa.Array]]] = []

    def add(self, rows: int, columns: Columns) -> None:
        """So many rows, with a value for each in every column that is named."""
        for name, values in columns.items():
            own = self._columns.setdefault(name, [])
            own += [None] * (self._rows - len(own))
            own += values
        self._rows += rows
        if self._rows >= AT_ONCE:
            self._pack()

    def take(self, order: pa.Array) -> Iterator[tuple[str, pa.Array]]:
        """Every column by its name, in alphabetical order. Once: what is given is forgotten here.

        order  which of the rows, counted as they were added, is in each row of the result
        """
        import pyarrow as pa

        self._pack()
        for name in sorted({name for _, chunk in self._chunks for name in chunk}):
            parts = [(count, chunk.pop(name, None)) for count, chunk in self._chunks]
            kind = _common({part.type for _, part in parts if part is not None})
            whole = pa.chunked_array(
                [pa.nulls(n, kind) if part is None else _cast(part, kind) for n, part in parts],
                type=kind,
            )
            yield legible(name), whole.combine_chunks().take(order)

    def _pack(self) -> None:
        chunk = {}
        for name, values in self._columns.items():
            chunk[name] = _array(values + [None] * (self._rows - len(values)))
        self._chunks.append((self._rows, chunk))
        self._rows, self._columns = 0, {}


def _array(values: list[Value | None]) -> pa.Array:
    import pyarrow as pa

    types = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}
    found = {types[kind] for kind in set(map(type, values)) if kind in types}
    kind = _common(found)
    return pa.array(values if len(found) == 1 else _converted(values, kind), kind)


def _common(types: set[pa.DataType]) -> pa.DataType:
    """The type that holds values of all of these types."""
    import pyarrow as pa

    if len(types) == 1:
        return next(iter(types))
    return pa.float64() if types == {pa.int64(), pa.float64()} else pa.string()


def _cast(part: pa.Array, kind: pa.DataType) -> pa.Array:
    import pyarrow as pa

    return part if part.type == kind else pa.array(_converted(part.to_pylist(), kind), kind)


def _converted(values: list[Value | None], kind: pa.DataType) -> list[Any]:
    import pyarrow as pa

    if kind == pa.float64():
        return [None if value is None else float(value) for value in values]
    if kind == pa.string():
        return [None if value is None else _text(value) for value in values]
    return values


def _text(value: Value) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if value == int(value) else repr(value)
