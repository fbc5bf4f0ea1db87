"""The result of a visualization in Python: images, responses, numbers, pictures."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor, tensor

from diversevis.errors import InputError
from diversevis.method.images import display
from diversevis.runs.folder import RunFolder
from diversevis.units import counted

if TYPE_CHECKING:
    from PIL import Image


class Field(NamedTuple):
    """What a unit sees, in pixels: rows and columns.

    stride  pixels between the fields of neighbouring units; 0 where units see the whole image
    """

    size: tuple[int, int]
    stride: tuple[float, float]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Visualized:
    """Diverse images of some units of a layer, on the CPU.

    units      their numbers in the layer, ascending
    images     in grey levels around the mean of the network's input
    responses  of the units to their images, in the network's units
    metrics    of every unit what metrics.json holds of it (docs/run-folder.md)
    settings   of the measures that were taken, by the measure's name
    arrays     of the measures (docs/measures.md), by the measure's name
    record     what run.json holds: settings, hashes, versions, device
    reference  of metamers the photographs that they match, as the images; else None
    path       the run's folder; None for a module in memory
    """

    units: tuple[int, ...]
    images: Float[Tensor, "unit image color height width"]
    responses: Float[Tensor, "unit image"]
    metrics: list[dict[str, Any]]
    settings: Mapping[str, Mapping[str, Any]]
    arrays: Mapping[str, Mapping[str, Tensor]]
    record: Mapping[str, Any]
    path: Path | None
    reference: Float[Tensor, "unit color height width"] | None = None

    def __repr__(self) -> str:
        record, (rows, columns) = self.record, self.field.size
        what = f"{counted(len(self.units), 'unit')} with {counted(self.images.shape[1], 'image')}"
        return f"Visualized({record['model']} {record['layer']}: {what} of {rows} x {columns} px)"

    def _repr_html_(self) -> str:
        """What a notebook shows: the sheets of the first units, all indices, and the command."""
        from diversevis.interface.notebook import as_html

        return as_html(self)

    @property
    def norm(self) -> float:
        """Euclidean norm of every image, grey levels."""
        return float(self.record["norm"])

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of the network's input, in [0, 1], a number for every channel."""
        return tuple(self.record["weights"]["mean"])

    @property
    def field(self) -> Field:
        """What the units see."""
        field = self.record["receptive_field"]
        return Field(tuple(field["size"]), tuple(field["stride"]))

    @property
    def pixels(self) -> UInt8[np.ndarray, "unit image height width 3"]:
        """The images as a person sees them: RGB, clipped to 0..255."""
        return display(self.images, self.mean)

    def sheet(self, unit: int | None = None) -> Image.Image:
        """The unit's images with their responses, as `sheet_unit0012.png` in a run folder; of
        metamers, with the photograph.

        unit  its number; None: the first unit

        Raises `InputError` for a unit that is not among `units`.
        """
        from PIL import Image

        from diversevis.pictures.images import captioned, sheet

        row, record = 0 if unit is None else self._row(unit), dict(self.record)
        reference = None if self.reference is None else self.reference[row]
        shown = captioned(self.images[row], self.responses[row].tolist(), reference, record)
        return Image.fromarray(sheet(*shown, record, self.metrics[row]))

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write run.json, metrics.json, images.safetensors, the arrays of the measures and a sheet
        for every unit to a new folder, which `diversevis.load` reads; returns its path.

        Raises `InputError` where the folder exists and is not empty, or cannot be made.
        """
        from diversevis.pictures.page import png

        path = Path(folder).expanduser()
        try:
            path.mkdir(parents=True, exist_ok=True)
            occupied = any(path.iterdir())
        except OSError as error:
            raise InputError(f"{path} cannot be made a folder ({error.strerror}).") from error
        if occupied:
            raise InputError(f"{path} is not empty: save writes to a new folder.")
        to = RunFolder(path)
        to.write_images(self.images, self.responses, tensor(self.units), self.reference)
        to.write_metrics(self.metrics)
        for name, settings in self.settings.items():
            numbers = [unit[name] for unit in self.metrics]
            to.write_measure(name, settings, numbers, self.arrays.get(name, {}))
        for unit in self.units:
            to.write_sheet(unit, png(np.asarray(self.sheet(unit))))
        to.write_record(self.record)  # last: what has a record is complete
        return path

    def _row(self, unit: int) -> int:
        if unit not in self.units:
            raise InputError(f"unit={unit} was not visualized. Units: {_listed(self.units)}.")
        return self.units.index(unit)


def _listed(units: Sequence[int], most: int = 12) -> str:
    more = ", ..." if len(units) > most else ""
    return ", ".join(map(str, units[:most])) + more
