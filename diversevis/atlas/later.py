"""What takes longest and is made last: the pictures of measures, and similar units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from safetensors.numpy import load_file

from diversevis.atlas.details import PNG, media
from diversevis.atlas.texts import script, write
from diversevis.pictures.draw import picture
from diversevis.runs.folder import RunFolder

NEIGHBOURS = 8
MOST_IMAGES = 12_000  # of a layer that are compared; of larger layers, the best image of every unit
BLOCK = 2**26  # products of two images at once


@dataclass(frozen=True, kw_only=True)
class PictureWork:
    """Pictures of a measure of some units of a run.

    rows  of these units in metrics.json
    out   the folder they are written to
    """

    path: Path
    measure: str
    rows: Sequence[int]
    out: Path

    def __call__(self) -> str | None:
        """Write the pictures that are not there yet; returns what failed, or None."""
        folder, failed = RunFolder(self.path), None
        record, metrics = folder.read_record(), folder.read_metrics()
        drawn = self.measure in record.get("drawn", [])
        arrays = batch = None
        for row in self.rows:
            entry = metrics[row]
            out = self.out / f"unit{entry['unit']:04d}.png"
            if entry.get(self.measure) is None or out.is_file():
                continue
            content = self._of_run(entry["unit"]) if drawn else None
            if content is None:
                if arrays is None:
                    arrays = folder.read_measure(self.measure)
                    batch = folder.read_images() if record["n"] is not None else None
                images, responses = (
                    batch[key][row] if batch else None for key in ("images", "responses")
                )
                try:
                    content = picture(self.measure, record, entry, arrays, row, images, responses)
                except Exception as error:  # a picture that fails is no reason to stop
                    failed = f"unit {entry['unit']}: {type(error).__name__}: {error}"
                    continue
            write(out, content)
        return failed and f"{self.measure}: {failed}"

    def _of_run(self, unit: int) -> bytes | None:
        """The picture that the run has drawn; None where there is none that can be used."""
        content = media(self.path, f"analysis/{self.measure}_unit{unit:04d}.png")
        return content if content is not None and content.startswith(PNG) else None


@dataclass(frozen=True, kw_only=True)
class NeighbourWork:
    """The units of a layer whose images look most alike.

    units  (run folder, row in it) of the units that have images; None for the others
    """

    units: Sequence[tuple[Path, int] | None]
    out: Path

    def __call__(self) -> str | None:
        known = [position for position, unit in enumerate(self.units) if unit is not None]
        images = self._images([unit for unit in self.units if unit is not None])
        nearest = similar(images, min(NEIGHBOURS, len(known) - 1))
        listed: list[list[tuple[int, float]]] = [[] for _ in self.units]
        for position, row in zip(known, nearest, strict=True):
            listed[position] = [(known[other], cosine) for other, cosine in row]
        of = "two images" if images.shape[1] > 1 else "the best images"
        by = f"largest cosine similarity of {of}"
        write(self.out, script("neighbours", {"by": by, "units": listed}))
        return None

    def _images(self, units: Sequence[tuple[Path, int]]) -> Float[np.ndarray, "unit image pixel"]:
        opened: dict[Path, dict[str, np.ndarray]] = {}
        for path, _ in units:
            if path not in opened:
                opened[path] = load_file(path / "images.safetensors")
        n = next(iter(opened.values()))["images"].shape[1]
        if n * len(units) <= MOST_IMAGES:
            chosen = [opened[path]["images"][row] for path, row in units]
        else:
            best = (np.nan_to_num(opened[path]["responses"][row]).argmax() for path, row in units)
            chosen = [
                opened[path]["images"][row][[index]]
                for (path, row), index in zip(units, best, strict=True)
            ]
        return np.nan_to_num(np.stack(chosen).reshape(*np.shape(chosen)[:2], -1), copy=False)


def similar(
    images: Float[np.ndarray, "unit image pixel"], count: int
) -> list[list[tuple[int, float]]]:
    """Of every unit the `count` other units with the most similar images, the most similar first:
    (unit, largest cosine of an image of the one and an image of the other).

    >>> images = np.array([[[1.0, 0.0]], [[0.6, 0.8]], [[0.0, 1.0]]])
    >>> [[(unit, round(cosine, 3)) for unit, cosine in row] for row in similar(images, 1)]
    [[(1, 0.6)], [(2, 0.8)], [(1, 0.8)]]
    """
    units, n, pixels = images.shape
    flat = images.reshape(units * n, pixels).astype(np.float32)
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)
    together = max(1, BLOCK // (units * n * n))
    nearest: list[list[tuple[int, float]]] = []
    for first in range(0, units, together):
        last = min(first + together, units)
        cosines = flat[first * n : last * n] @ flat.T
        best = cosines.reshape(last - first, n, units, n).max(axis=(1, 3))
        best[np.arange(last - first), np.arange(first, last)] = -np.inf
        order = np.argsort(-best, axis=1, kind="stable")[:, : max(0, count)]
        for row, others in enumerate(order):
            nearest.append([(int(other), float(best[row, other])) for other in others])
    return nearest
