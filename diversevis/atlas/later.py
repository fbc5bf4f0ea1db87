"""What takes longest and is made last: the pictures of measures, and similar units."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError, safe_open

from diversevis.atlas.details import PNG, media
from diversevis.atlas.texts import script, write
from diversevis.pictures.draw import MEASURES, picture
from diversevis.runs.files import Damaged
from diversevis.runs.folder import RunFolder

NEIGHBOURS = 8
MOST_IMAGES = 12_000  # of a layer that are compared; of larger layers, the best image of every unit
BLOCK = 2**26  # products of two images at once
SIDE = 64  # pixels: larger images are compared at a fraction of their size
READING = FileNotFoundError, LookupError, Damaged, SafetensorError


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
        try:
            failed = self._write()
        except READING as error:
            failed = _why(self.path, error)
        return failed and f"{self.measure} of {self.path}: {failed}"

    def _write(self) -> str | None:
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
                if self.measure not in MEASURES:
                    return "this version of diversevis draws no such measure"
                if arrays is None:
                    arrays = folder.read_measure(self.measure)
                    batch = folder.read_images() if record["n"] is not None else None
                try:
                    images, responses = (
                        batch[key][row] if batch else None for key in ("images", "responses")
                    )
                    content = picture(self.measure, record, entry, arrays, row, images, responses)
                except Exception as error:  # a picture that fails is no reason to stop
                    failed = (
                        f"unit {entry['unit']}: its numbers or arrays are not as a run writes "
                        f"them ({type(error).__name__}: {str(error)[:200]})"
                    )
                    continue
            write(out, content)
        return failed

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
        by_run: dict[Path, dict[int, int]] = defaultdict(dict)  # row in the run, row among known
        for at, position in enumerate(known):
            path, row = self.units[position] or (Path(), 0)
            by_run[path][row] = at
        images = [np.empty(0)] * len(known)
        for path, rows in by_run.items():
            try:
                self._read(path, rows, images)
            except (*READING, ValueError) as error:
                return f"similar units: {path}: {_why(path, error)}"
        compared = np.stack(images)
        nearest = similar(compared, min(NEIGHBOURS, len(known) - 1))
        listed: list[list[tuple[int, float]]] = [[] for _ in self.units]
        for position, others in zip(known, nearest, strict=True):
            listed[position] = [(known[other], cosine) for other, cosine in others]
        of = "two images" if compared.shape[1] > 1 else "the best images"
        by = f"largest cosine similarity of {of}"
        write(self.out, script("neighbours", {"by": by, "units": listed}))
        return None

    def _read(self, path: Path, rows: Mapping[int, int], into: list[np.ndarray]) -> None:
        """The images of some units of a run that are compared, in their rows of `into`."""
        with safe_open(path / "images.safetensors", "np") as file:
            images, responses = file.get_slice("images"), file.get_tensor("responses")
            few = len(into) * images.get_shape()[1] <= MOST_IMAGES
            for row, at in rows.items():
                stack = images[row : row + 1][0]
                if not few:
                    stack = stack[[np.nan_to_num(responses[row], nan=-np.inf).argmax()]]
                into[at] = smaller(np.nan_to_num(stack.astype(np.float32))).reshape(len(stack), -1)


def smaller(images: Float[np.ndarray, "*axes height width"]) -> Float[np.ndarray, "*axes _ _"]:
    """The images, or where a side is larger than `SIDE` means over squares of pixels: differences
    of pixels are nothing that two units have in common, and larger images would fill the memory.

    What is left at the right and at the bottom is not shown.
    """
    *axes, height, width = images.shape
    by = -(-max(height, width) // SIDE)
    high, wide = min(by, height), min(by, width)
    rows, columns = height // high, width // wide
    squares = images[..., : rows * high, : columns * wide]
    return squares.reshape(*axes, rows, high, columns, wide).mean((-3, -1))


def _why(path: Path, error: Exception) -> str:
    """Why the files of a run cannot be used: they have changed since they were checked."""
    if not (path / "run.json").is_file():
        return "it was deleted meanwhile"
    if isinstance(error, Damaged):
        return str(error)
    return f"its files have changed meanwhile, or are damaged ({type(error).__name__}: {error})"


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
