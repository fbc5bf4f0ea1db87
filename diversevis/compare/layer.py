"""The other units of a unit's layer, from the runs beside its run: root/model/layer/units/v001."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diversevis.compare.indices import Index, value_of
from diversevis.compare.ranks import Rank, rank
from diversevis.compare.runs import Run, open_run
from diversevis.compare.same import another_layer, differences, differently_made
from diversevis.runs.files import Damaged
from diversevis.runs.versions import version_of

Unit = Mapping[str, Any]  # an entry of metrics.json


@dataclass(frozen=True, kw_only=True)
class Layer:
    """The other units that a unit can be compared with; every unit counts once.

    units     by measure, those of runs in which it was taken with the settings of the unit's run
    runs      number of runs that these units are from
    left_out  number of other runs of the layer by the reason why they do not count
    """

    units: Mapping[str, Sequence[Unit]]
    runs: int
    left_out: Mapping[str, int]

    def rank(self, value: float, index: Index) -> Rank:
        """Of a unit's number among the numbers of the other units."""
        others = (value_of(unit, index) for unit in self.units[index.measure])
        return rank(value, [other for other in others if not isinstance(other, str)])


def layer_of(run: Run, unit: int) -> Layer:
    """All units that `unit` of `run` can be compared with, from the newest run that has them.

    Looks only where `diversevis run` puts runs of the same layer: a run folder that was copied
    elsewhere has no layer, and no foreign folder is searched.
    """
    units: dict[str, dict[int, Unit]] = {measure: {} for measure in run.measures}
    others, left_out = _runs_beside(run)
    runs = 0
    for other in sorted([run, *others], key=_start, reverse=True):
        before = _count(units)
        reason = _add(units, run, other, unit)
        runs += _count(units) > before
        if reason or (_count(units) == before and other is not run):
            left_out[reason or "with no further unit"] += 1
    listed = {measure: [*known.values()] for measure, known in units.items()}
    return Layer(units=listed, runs=runs, left_out=dict(left_out))


def _add(units: dict[str, dict[int, Unit]], run: Run, other: Run, unit: int) -> str | None:
    """Add the units of `other` that are new, by measure; return why a part of it does not count."""
    new = {entry["unit"]: entry for entry in other.units if entry["unit"] != unit}
    common = [measure for measure in units if measure in other.measures]
    differ = [m for m in common if any(differences(run.measures[m], other.measures[m], m))]
    for measure in common:
        if measure not in differ:
            units[measure] = new | units[measure]
    if differ:
        return f"measured with other settings ({', '.join(differ)})"
    return None if common else "without these measures"


def _count(units: Mapping[str, Mapping[int, Unit]]) -> int:
    return sum(map(len, units.values()))


def _start(run: Run) -> tuple[str, str]:
    """When a run was begun (UTC, as text), and its version: in the order of their making."""
    return str(run.record.get("start")), run.path.name


def _runs_beside(run: Run) -> tuple[list[Run], Counter[str]]:
    """All other runs of the layer that may be compared; and the number of others by reason."""
    runs: list[Run] = []
    left_out = Counter[str]()
    path = run.path.resolve()
    if version_of(path) is None or len(path.parents) < len(("units", "layer", "model", "root")):
        return runs, left_out
    for work in _listed(path.parents[1], left_out):
        for version in _listed(work, left_out):
            if version_of(version) is None or version == path:
                continue
            other, reason = _comparable(run, version)
            if other is not None:
                runs.append(other)
            elif reason is not None:
                left_out[reason] += 1
    return runs, left_out


def _listed(folder: Path, left_out: Counter[str]) -> list[Path]:
    """What is in a folder; a folder that cannot be listed counts among those left out."""
    try:
        return sorted(folder.iterdir()) if folder.is_dir() else []
    except OSError:
        left_out["in a folder that cannot be read"] += 1
        return []


def _comparable(run: Run, path: Path) -> tuple[Run | None, str | None]:
    """The run at `path`, or why its units cannot be compared with those of `run`; no reason where
    there is no run."""
    try:
        other = open_run(path)
    except Damaged:
        return (None, "damaged") if (path / "run.json").exists() else (None, None)
    if other.record["status"] != "finished":
        return None, "not finished"
    if not other.measures:
        return None, "without measures"
    if difference := another_layer(run, other):
        return None, f"with another {difference}"
    if made := differently_made(run, other):
        return None, f"made with another {', '.join(name for name, _, _ in made)}"
    return other, None
