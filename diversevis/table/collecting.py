"""The runs below a folder, joined to one table."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from diversevis.errors import InputError
from diversevis.runs.sign import sign_of
from diversevis.table.columns import Table
from diversevis.table.find import AT_ONCE, LeftOut, Place, find_runs, read_runs
from diversevis.table.flat import legible, one_line
from diversevis.table.read import FOUND, read_run

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


@dataclass(frozen=True, kw_only=True)
class Collected:
    """A row for every unit of every finished run.

    table     sorted by model, layer, unit, version, folder; tells pandas the types of its columns
    runs      how many runs it holds
    layers    (model, layer) of the runs, in the table's order
    left_out  (folder, reason), sorted
    """

    table: pa.Table
    runs: int
    layers: Sequence[tuple[str, str]]
    left_out: Sequence[tuple[str, str]]


class _Known(NamedTuple):
    """What joins a run to the rows of its units."""

    place: Place
    model: str
    layer: str
    config_hash: str
    images: bool
    units: Sequence[int]

    @property
    def folder(self) -> str:
        return legible(self.place.name) or "."

    @property
    def version(self) -> int | None:
        """Of a folder v001, 1; of one with another name, None."""
        found = re.fullmatch(r"v([0-9]{1,9})", self.place.path.rpartition("/")[2])
        return int(found[1]) if found else None


def collect(root: str | os.PathLike[str]) -> pd.DataFrame:
    """See `diversevis.collect`."""
    found = collect_runs(Path(root))
    frame = _to_pandas(found.table)
    frame.attrs["left_out"] = list(found.left_out)
    return frame


def collect_runs(root: Path) -> Collected:
    """Read every run folder at or below `root`.

    Folders that come, go or change meanwhile do no harm: what is not there whole is left out.

    Raises `InputError` where there is no run folder, and where pandas or pyarrow is missing.
    """
    check_libraries()
    if not root.is_dir():
        raise InputError(f"{root} is not a folder. Name a run folder, or a folder above several.")
    runs: list[_Known] = []
    of_runs, of_units = Table(), Table()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        places, left_out = find_runs(root, pool)
        if not places:
            why = "".join(f" {place.name or root}: {reason}." for place, reason in left_out[:3])
            raise InputError(
                f"{root} holds no run (no run.json, at any depth).{why} Name a folder that "
                "`diversevis run` printed, or a folder above several."
            )
        for found in read_runs(places, pool):
            try:
                run = read_run(found)
            except LeftOut as reason:
                left_out.append((found.place, _of_today(found.place, reason, pool)))
                continue
            known = run.model, run.layer, run.config_hash, run.images, run.units
            runs.append(_Known(found.place, *known))
            of_runs.add(1, {name: [value] for name, value in run.same.items()})
            of_units.add(len(run.units), run.own)
    return Collected(
        table=_join(runs, of_runs, of_units),
        runs=len(runs),
        layers=sorted({(run.model, run.layer) for run in runs}, key=_natural),
        left_out=sorted(
            ((legible(place.name) or ".", one_line(str(why))) for place, why in left_out),
            key=_natural,
        ),
    )


def _of_today(place: Place, reason: LeftOut, pool: Executor) -> LeftOut:
    """A run whose process has died is lost, though its record says that it runs."""
    if str(reason) != "running":
        return reason
    try:
        sign = sign_of(Path(place.path))
    except OSError:
        return reason
    if sign is not None and sign.alive:
        return reason
    (again,) = read_runs([place], pool)  # it may have ended between the two looks
    try:
        read_run(again)
    except LeftOut as now:
        return LeftOut("lost") if str(now) == "running" else now
    return reason  # finished: in the next table


def check_libraries() -> None:
    """Raises `InputError` where pandas or pyarrow is missing."""
    try:
        import pandas  # noqa: F401
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"collect needs pandas and pyarrow, and here is {error}. Install both with "
            "pip install 'diversevis[collect]'"
        ) from error


def _join(runs: Sequence[_Known], of_runs: Table, of_units: Table) -> pa.Table:
    """Identity, then settings and facts, then numbers; where a name is taken, `metrics.` + name."""
    import numpy as np
    import pyarrow as pa

    counts = [len(run.units) for run in runs]
    owner = np.repeat(np.arange(len(runs)), counts)
    unit = np.array([number for run in runs for number in run.units], dtype=np.int64)
    order = np.lexsort(
        (
            _places([run.folder for run in runs])[owner],
            np.array([run.version or 0 for run in runs], dtype=np.int64)[owner],
            unit,
            _places([(run.model, run.layer) for run in runs], key=_natural)[owner],
        )
    )
    rows, its_run = pa.array(order), pa.array(owner[order])
    text, whole = pa.string(), pa.int64()
    columns: dict[str, Any] = {
        "model": pa.array([run.model for run in runs], text).take(its_run),
        "layer": pa.array([run.layer for run in runs], text).take(its_run),
        "unit": pa.array(unit, whole).take(rows),
        "folder": pa.array([run.folder for run in runs], text).take(its_run),
        "version": pa.array([run.version for run in runs], whole).take(its_run),
        "latest": pa.array(_latest(runs), pa.bool_()).take(its_run),
        "config_hash": pa.array([run.config_hash for run in runs], text).take(its_run),
    }
    settings = dict(of_runs.take(its_run))
    for name in sorted(settings, key=lambda name: (name.startswith(FOUND), name)):
        columns.setdefault(name, settings[name])
    for name, column in of_units.take(rows):
        columns[f"metrics.{name}" if name in columns else name] = column
    table = pa.table(columns)
    types = pa.Schema.from_pandas(_to_pandas(table.slice(0, 0)), preserve_index=False)
    return table.replace_schema_metadata(types.metadata)


def _to_pandas(table: pa.Table) -> pd.DataFrame:
    """Whole numbers Int64, truths boolean, words string: of types that can miss a value."""
    import pandas as pd
    import pyarrow as pa

    types = {
        pa.int64(): pd.Int64Dtype(),
        pa.bool_(): pd.BooleanDtype(),
        pa.string(): pd.StringDtype(),
    }
    return table.to_pandas(types_mapper=types.get)


def _latest(runs: Sequence[_Known]) -> list[bool]:
    """Whether a run has the highest version of its config among its folder's siblings, with images
    or without: measures alone do not make images old."""
    works = [(run.place.path.rpartition("/")[0], run.config_hash, run.images) for run in runs]
    highest: dict[tuple[str, str, bool], int] = {}
    for work, run in zip(works, runs, strict=True):
        highest[work] = max(highest.get(work, 0), run.version or 0)
    return [
        run.version is None or run.version == highest[work]
        for work, run in zip(works, runs, strict=True)
    ]


def _places(values: Sequence[Any], key: Any = None) -> Any:
    """Where each value comes in the sorted set of all."""
    import numpy as np

    place = {value: i for i, value in enumerate(sorted(set(values), key=key))}
    return np.array([place[value] for value in values], dtype=np.int64)


def _natural(words: Sequence[str]) -> list[Any]:
    """conv1_2 before conv1_10: a number is compared as a number."""
    parts = [re.split(r"([0-9]{1,18})", word) for word in words]
    numbered = [[int(p) if i % 2 else p for i, p in enumerate(part)] for part in parts]
    return [numbered, list(words)]
