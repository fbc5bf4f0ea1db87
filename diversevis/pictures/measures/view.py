"""What a measure's picture is drawn from: the numbers and arrays of a unit, or of a layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float64
from torch import Tensor

from diversevis.method.images import display
from diversevis.pictures.page import Block, Pixels, tiles, title_of
from diversevis.pictures.panels import Tiles
from diversevis.units import counted

# Arrays that all units of a run share; the first axis of every other array is the unit.
SHARED = {"phases", "frequencies", "orientations", "deltas", "mask_fixed", "pairs", "best_images",
          "order", "linkage", "divisions", "left_out", "fractions",
          "energy_shares"}  # fmt: skip
LISTED = 6  # unit numbers that are written out
NO_NUMBER = "-"


@dataclass(frozen=True, kw_only=True)
class View:
    """One unit that is not dead.

    record             run.json
    metrics, numbers   the unit's entry of metrics.json, and the measure's part of it
    arrays             of the measure, this unit's alone
    images, responses  the batch, in grey levels around the network's mean, and the responses to it;
                       None where only measures were made
    """

    record: dict[str, Any]
    metrics: dict[str, Any]
    numbers: dict[str, Any]
    arrays: dict[str, Tensor]
    images: Float[Tensor, "image color height width"] | None
    responses: Float[Tensor, " image"] | None

    @property
    def title(self) -> str:
        return title_of(self.record, [self.metrics["unit"]])

    def text(self, name: str) -> str:
        """A number of the measure, for a person."""
        return number(self.numbers.get(name))

    def array(self, name: str) -> Float64[np.ndarray, "*axes"]:
        return self.arrays[name].double().numpy()

    def has(self, name: str) -> bool:
        """Whether the array is there, with any finite value."""
        return name in self.arrays and bool(self.arrays[name].isfinite().any())

    def pixels(self, x: Tensor) -> Pixels:
        """Images [c, h, w] or [image, color, h, w], grey levels around the mean, for display."""
        x = x[None] if x.ndim == 3 else x
        return display(x.nan_to_num(), tuple(self.record["weights"]["mean"]))

    def batch(self, heading: str, *, is_numbered: bool = False) -> list[Block]:
        """Tiles of the unit's images with their responses; nothing where there are no images."""
        if self.images is None or self.responses is None:
            return []
        return [tiles(self.pixels(self.images), _captions(self.responses, is_numbered), heading)]

    def batch_panel(self, heading: str = "", *, is_numbered: bool = False) -> list[Tiles]:
        """The same, for a paper."""
        if self.images is None or self.responses is None:
            return []
        captions = _captions(self.responses, is_numbered)
        images = list(self.pixels(self.images))
        return [Tiles(images=images, captions=captions, heading=heading)]

    def best_image(self) -> list[tuple[Block, str]]:
        """The unit's image with the highest response, and a caption; nothing without images."""
        if self.images is None or self.responses is None:
            return []
        best = int(self.responses.nan_to_num(-math.inf).argmax())
        caption = f"best image\nresponse {number(float(self.responses[best]))}"
        return [(self.pixels(self.images[best])[0], caption)]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """All units of a run.

    record   run.json
    units    their numbers in the layer
    numbers  what metrics.json holds of the measure for every unit; None where a unit is dead
    arrays   of the measure
    """

    record: dict[str, Any]
    units: list[int]
    numbers: list[dict[str, Any] | None]
    arrays: dict[str, Tensor]

    @property
    def title(self) -> str:
        return title_of(self.record, self.units)

    def values(self, name: str) -> Float[np.ndarray, " unit"]:
        """A number of every unit; NaN where a unit has none."""
        return np.array([(entry or {}).get(name) for entry in self.numbers], dtype=float)

    def array(self, name: str) -> Float64[np.ndarray, "*axes"]:
        return self.arrays[name].double().numpy()

    def counted(self, values: Float[np.ndarray, " unit"]) -> str:
        """How many units are shown, and which have no value."""
        pairs = zip(self.units, values, strict=True)
        missing = [unit for unit, value in pairs if not math.isfinite(value)]
        shown = f"{len(self.units) - len(missing)} of {counted(len(self.units), 'unit')} shown"
        return f"{shown}; without a value: {listed(missing)}" if missing else shown

    def extremes(
        self, values: Float[np.ndarray, " unit"], most: int = 3
    ) -> tuple[list[int], list[int]]:
        """Rows of the lowest units (lowest first) and the highest (highest first); none twice."""
        order = [int(row) for row in np.argsort(values, kind="stable") if np.isfinite(values[row])]
        few = min(most, (len(order) + 1) // 2)
        return order[:few], order[::-1][: min(few, len(order) - few)]


def _captions(responses: Float[Tensor, " image"], is_numbered: bool) -> list[str]:
    captions = [number(response) for response in responses.tolist()]
    if is_numbered:
        return [f"image {row}\n{caption}" for row, caption in enumerate(captions)]
    return captions


def number(value: float | int | None) -> str:
    """A number for a person, three digits; a dash for what is none."""
    if value is None or not math.isfinite(value):
        return NO_NUMBER
    return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:#.3g}".rstrip(".")


def percent(value: float | int | None) -> str:
    """A share for a person."""
    return NO_NUMBER if value is None or not math.isfinite(value) else f"{100 * value:.0f} %"


def median(values: Float[np.ndarray, " unit"]) -> float:
    """Of the finite values; NaN where there is none."""
    return float(np.nanmedian(values)) if np.isfinite(values).any() else math.nan


def listed(units: Sequence[int]) -> str:
    """Unit numbers, the first few written out."""
    few = ", ".join(str(unit) for unit in units[:LISTED])
    return few if len(units) <= LISTED else f"{few} and {len(units) - LISTED} more"
