"""What a picture is drawn from: one unit's numbers and arrays, or a layer's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, UInt8
from torch import Tensor

from diversevis.method.images import display
from diversevis.pictures.sheet import noun

# Arrays that all units of a run share; of every other one the first axis is the unit.
SHARED = {"phases", "frequencies", "orientations", "deltas", "mask_fixed", "pairs"}
LISTED = 6  # so many unit numbers are written out
NO_NUMBER = "-"


@dataclass(frozen=True, kw_only=True)
class View:
    """One unit: what its measure found (`measure`), its own arrays, and its batch where there
    is one."""

    record: dict[str, Any]
    metrics: dict[str, Any]
    measure: dict[str, Any]
    arrays: dict[str, Tensor]
    images: Float[Tensor, "image 3 height width"] | None
    responses: Float[Tensor, " image"] | None

    @property
    def title(self) -> str:
        return f"{self.record['model']}  {self.record['layer']}  {noun(self.record)} " + str(
            self.metrics["unit"]
        )

    def numbers(self, name: str) -> Float64[np.ndarray, "*axes"]:
        """An array of the measure."""
        return _numbers(self.arrays[name])

    def has(self, name: str) -> bool:
        """Whether the array is there and says anything."""
        return name in self.arrays and bool(self.arrays[name].isfinite().any())

    def pixels(self, name: str) -> UInt8[np.ndarray, "image height width 3"]:
        """Images [3, h, w] or [image, 3, h, w] of the measure as a person sees them."""
        x = self.arrays[name]
        return self.shown(x[None] if x.ndim == 3 else x)

    def batch(self) -> UInt8[np.ndarray, "image height width 3"] | None:
        """The unit's own images as a person sees them."""
        return None if self.images is None else self.shown(self.images)

    def captions(self, n: int) -> list[str]:
        """The responses of the batch, one per image."""
        if self.responses is None:
            return [""] * n
        return [number(response) for response in self.responses.tolist()]

    def best(self) -> int | None:
        """The place of the batch's best image."""
        if self.responses is None or self.images is None:
            return None
        return int(self.responses.nan_to_num(-math.inf).argmax())

    def shown(self, x: Tensor) -> UInt8[np.ndarray, "image height width 3"]:
        """Images in grey levels around the mean as a person sees them."""
        return display(x.nan_to_num(), tuple(self.record["weights"]["mean"]))


@dataclass(frozen=True, kw_only=True)
class Layer:
    """All units of a run: their numbers, the measure's objects (None where dead), the arrays."""

    record: dict[str, Any]
    units: list[int]
    measures: list[dict[str, Any] | None]
    arrays: dict[str, Tensor]

    @property
    def title(self) -> str:
        what = noun(self.record)
        return f"{self.record['model']}  {self.record['layer']}  {len(self.units)} {what}s"

    def values(self, *path: str) -> Float[np.ndarray, " unit"]:
        """One field of every unit, `values("fitted", "f1f0")`; NaN where it has none."""
        return np.array([_follow(measure, path) for measure in self.measures], dtype=float)

    def numbers(self, name: str) -> Float64[np.ndarray, "*axes"]:
        """An array of the measure, of all units."""
        return _numbers(self.arrays[name])

    def counted(self, values: Float[np.ndarray, " unit"]) -> str:
        """How many units are shown, and which have no value."""
        found = zip(self.units, values, strict=True)
        missing = [unit for unit, value in found if not math.isfinite(value)]
        shown = f"{len(self.units) - len(missing)} of {len(self.units)} units shown"
        return f"{shown}; without a value: {listed(missing)}" if missing else shown

    def extremes(self, values: Float[np.ndarray, " unit"], most: int = 3) -> tuple[list, list]:
        """Places of the lowest (lowest first) and the highest units (highest first)."""
        order = [int(at) for at in np.argsort(values, kind="stable") if math.isfinite(values[at])]
        few = min(most, (len(order) + 1) // 2)
        return order[:few], order[::-1][: min(few, len(order) - few)]


def number(value: float | int | None) -> str:
    """A number for a person, three digits; a dash for what is none."""
    if value is None or not math.isfinite(value):
        return NO_NUMBER
    return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:#.3g}".rstrip(".")


def percent(value: float | int | None) -> str:
    """A share for a person."""
    return NO_NUMBER if value is None or not math.isfinite(value) else f"{100 * value:.0f} %"


def listed(units: Sequence[int]) -> str:
    """Unit numbers, the first few written out."""
    few = ", ".join(str(unit) for unit in units[:LISTED])
    return few if len(units) <= LISTED else f"{few} and {len(units) - LISTED} more"


def _numbers(values: Tensor) -> Float64[np.ndarray, "*axes"]:
    return values.detach().cpu().double().numpy()


def _follow(measure: Mapping[str, Any] | None, path: Sequence[str]) -> float:
    found: Any = measure
    for name in path:
        found = None if found is None else found.get(name)
    return math.nan if found is None else float(found)
