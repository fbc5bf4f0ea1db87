"""The numbers of a unit that are compared, and where metrics.json has them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from diversevis.compare.runs import Run


@dataclass(frozen=True)
class Index:
    """A number of every unit that is compared.

    `key` is a dotted key in a unit's entry of metrics.json, of at most three names. A last `*`
    stands for every name there, which replaces `{}` in the title.
    """

    key: str
    title: str
    unit: str  # of the number, for axes
    below: float | None = None  # compare the share of units below this, instead of the number
    unless: str | None = None  # key of a flag: units for which it is true are left out

    @property
    def measure(self) -> str:
        return self.key.split(".")[0]

    @property
    def name(self) -> str:
        return self.key if self.below is None else f"{self.key}<{self.below:g}"


WEAK, OF_BEST, OF_MASKED = "phase.weak", "share of best response", "share of best, masked"
INDICES = (
    Index("phase.f1f0", "F1/F0, best grating", "F1/F0", unless=WEAK),
    Index("phase.f1f0", "units with F1/F0 below 1", "share of units", below=1.0, unless=WEAK),
    Index("phase.fitted.f1f0", "F1/F0, fitted grating", "F1/F0", unless="phase.fitted.weak"),
    Index("shift.mean", "shift, mean of crops", OF_BEST),
    Index("shift.min", "shift, worst crop", OF_BEST),
    Index("shift.mean_masked", "shift, mean, masked", OF_MASKED),
    Index("shift.learned.mean_masked", "shift, mean, learned mask", OF_MASKED),
    Index("deformation.stability", "deformation, R (white noise)", "R"),
    Index("deformation.stability_strict", "deformation, R (matched noise)", "R"),
    Index("deformation.kept.*", "deformation of {} px", "share of response kept"),
    Index("diversity.index", "diversity index", "index (0 simple, 1 complex)"),
    Index("dimension.participation", "participation ratio", "dimensions"),
    Index("dimension.path_min", "lowest response on paths", "share of lower end"),
    Index("dimension.groups", "groups of images", "groups"),
    Index("gain.distance_min", "gain, smallest distance", "RMS grey levels"),
    Index("gain.distance_mean", "gain, mean distance", "RMS grey levels"),
    Index("gain.response", "response, batch / alone", "ratio"),
    Index("natural.of_synthetic", "best natural / synthetic", "ratio"),
)


def indices_of(a: Run, b: Run) -> list[Index]:
    """The indices that both runs were measured for; a `*` becomes every name in either run."""
    indices = []
    for index in INDICES:
        if index.measure not in a.measures or index.measure not in b.measures:
            continue
        first, _, last = index.key.rpartition(".")
        parents = [_look_up(unit, first) for unit in (*a.units, *b.units)]
        names = dict.fromkeys(name for p in parents if isinstance(p, Mapping) for name in p)
        wanted = sorted(names, key=float) if last == "*" else [last] if last in names else []
        for name in wanted:
            title = index.title.format(name)
            indices.append(replace(index, key=f"{first}.{name}", title=title))
    return indices


def values_of(run: Run, index: Index) -> tuple[Float[np.ndarray, " unit"], dict[str, int]]:
    """The index of every unit, NaN for units left out; and the number left out by reason."""
    values = np.full(len(run.units), np.nan)
    left_out = {"dead": 0, "weak": 0, "null": 0}
    for row, unit in enumerate(run.units):
        value = _look_up(unit, index.key)
        if unit.get("stop") == "dead":
            left_out["dead"] += 1
        elif type(value) not in (int, float) or not math.isfinite(value):
            left_out["null"] += 1
        elif index.unless and _look_up(unit, index.unless):
            left_out["weak"] += 1
        else:
            values[row] = value if index.below is None else float(value < index.below)
    return values, left_out


def _look_up(unit: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key of at most three names; the last may contain a dot (`kept.0.5`)."""
    value: Any = unit
    for name in key.split(".", 2):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
