"""Safetensors files of a run, looked at without torch: headers, responses, norms of images.

A file is 8 bytes with the header's length, the header (JSON), and the tensors' bytes.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from diversevis.runs.facts import Object
from diversevis.runs.files import Damaged, is_whole, opened, parse_json, shown

TOLERANCE = 1e-3  # relative, of a norm or a response, for other ways to round
TINY, HUGE = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
SAMPLE = 2**18  # bytes of images that are read unless all are wanted; a whole run of some units
BLOCK = 2**26  # bytes read together
LONGEST_HEADER = 2**20  # bytes
CODES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4"}
DTYPES: dict[str, np.dtype] = {code: np.dtype(name) for code, name in CODES.items()}
NAME = "images.safetensors"
CHANGED = f"{NAME} changed while it was read"
NEEDED = ("images", "f"), ("responses", "f"), ("units", "i")  # with the kind of their numbers


class Tensor(NamedTuple):
    """Where a tensor lies behind the header."""

    dtype: np.dtype
    shape: list[int]
    begin: int

    @property
    def values(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class Images:
    """What images.safetensors holds.

    shapes  of images, responses and units
    read    numbers of the images that were read, counted through all units
    norms   Euclidean norms of these; not finite where a pixel is not
    """

    shapes: list[list[int]]
    units: list[int]
    responses: Float[np.ndarray, "unit image"]
    read: Int[np.ndarray, " read"]
    norms: Float[np.ndarray, " read"]

    def check(
        self, record: Object, rows: Sequence[Object], told: Sequence[float | None] | None
    ) -> None:
        """Raises `Damaged` where images, responses or units are not what the other files say.

        rows  of metrics.json; told: the mean responses in them, None where there are none
        """
        n, size = record["n"], record["receptive_field"]["size"]
        images = [len(rows), n, len(record["weights"]["mean"]), *size]
        expected = images, images[:2], images[:1]
        for (name, _), shape, wanted in zip(NEEDED, self.shapes, expected, strict=True):
            if shape != wanted:
                raise _contradiction(name, f"has shape {shape}", f"run.json says {wanted}")
        if self.units != [row["unit"] for row in rows]:
            raise Damaged(f"{NAME} and metrics.json are of different units")
        means = np.array(told or [None] * len(rows), float)
        self._check_norms(float(record["norm"]), n, self._check_responses(rows, means))

    def _check_responses(
        self, rows: Sequence[Object], told: Float[np.ndarray, " unit"]
    ) -> Bool[np.ndarray, " unit"]:
        """Whether a unit has diverged: then its images need not be numbers."""
        sizes, computed = np.abs(self.responses), self.responses.mean(1)
        is_number = sizes.sum(1) <= HUGE  # else the mean, taken in float32, was none
        same = is_number & (np.abs(computed - told) <= TOLERANCE * sizes.max(1) + TINY)
        if same.all():
            return ~same
        # The images of a dead unit are noise: no response to them is told.
        dead = np.array([row.get("stop") == "dead" or "response_mean" not in row for row in rows])
        same |= np.isnan(told) & (dead | ~is_number)
        if not same.all():
            row = int(np.argmin(same))
            what = f"the responses of unit {self.units[row]}"
            says = f"metrics.json says {shown(rows[row]['response_mean'])}"
            raise _contradiction(what, f"have a mean of {computed[row]:.6g}", says)
        return np.isnan(told) & ~dead

    def _check_norms(self, norm: float, n: int, diverged: Bool[np.ndarray, " unit"]) -> None:
        right = np.abs(self.norms - norm) <= TOLERANCE * norm
        if right.all():
            return
        wrong = ~right & ~diverged[self.read // n]
        if wrong.any():
            first = int(np.argmax(wrong))
            row, index = divmod(int(self.read[first]), n)
            has = f"norm {self.norms[first]:.6g}"
            if not np.isfinite(self.norms[first]):
                has = "pixels that are not finite numbers"
            what = f"image {index} of unit {self.units[row]}"
            raise _contradiction(what, f"has {has}", f"run.json says norm {norm:.6g}")


def _contradiction(what: str, has: str, says: str) -> Damaged:
    return Damaged(f"{NAME}: {what} {has}; {says}")


def read_images(folder: Path | str, *, thorough: bool) -> Images:
    """Raises `Damaged` where the file is cut off, or has no images, responses or units."""
    with opened(folder, NAME) as file:
        header, start, size = _header(file, NAME)
        images, responses, units = _layout(header, size - start)
        # A small file is read at once: that takes half as long as its parts.
        rest = file.read(size - start + 1) if size - start <= SAMPLE else None
        if rest is not None and len(rest) != size - start:
            raise Damaged(CHANGED)

        def numbers(tensor: Tensor, first: int, count: int) -> np.ndarray:
            length, begin = count * tensor.dtype.itemsize, tensor.begin
            begin += first * tensor.dtype.itemsize
            if rest is not None:
                return np.frombuffer(rest, tensor.dtype, count, begin)
            content = os.pread(file.fileno(), length, start + begin)
            if len(content) != length:
                raise Damaged(CHANGED)
            return np.frombuffer(content, tensor.dtype)

        every = thorough or rest is not None
        read, norms = _norms(images, partial(numbers, images), every=every)
        values = numbers(responses, 0, responses.values).reshape(responses.shape)
        return Images(
            shapes=[images.shape, responses.shape, units.shape],
            units=numbers(units, 0, units.values).tolist(),
            responses=values.astype(float), read=read, norms=norms,
        )  # fmt: skip


def check_arrays(folder: Path | str) -> None:
    """Raises `Damaged` where a file in analysis/ is cut off or of another kind."""
    below = Path(folder, "analysis")
    try:
        names = [path.name for path in below.iterdir() if path.suffix == ".safetensors"]
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in sorted(name for name in names if name[0] != "."):
        with opened(folder, f"analysis/{name}") as file:
            header, start, size = _header(file, f"analysis/{name}")
            _entries(header, f"analysis/{name}", size - start)


def _norms(
    images: Tensor, numbers: Callable[[int, int], np.ndarray], *, every: bool
) -> tuple[Int[np.ndarray, " read"], Float[np.ndarray, " read"]]:
    """Norms of all images, or of some at equal steps, at least of the first."""
    count, pixels = math.prod(images.shape[:2]), math.prod(images.shape[2:])
    size = pixels * images.dtype.itemsize
    some = count if every else max(1, min(count, SAMPLE // size))
    read = np.arange(some) * count // some
    together = max(1, BLOCK // size) if some == count else 1  # images that lie side by side
    norms = np.empty(some)
    for at in range(0, some, together):
        part = read[at : at + together]
        values = numbers(int(part[0]) * pixels, len(part) * pixels).reshape(-1, pixels)
        values = values.astype(np.float32) if images.dtype.itemsize < 4 else values
        norms[at : at + together] = np.einsum("ij,ij->i", values, values)
    return read, np.sqrt(norms)


def _header(file: BinaryIO, name: str) -> tuple[bytes, int, int]:
    """The header, where the tensors' bytes start, and the file's size; raises `Damaged` for a file
    that is cut off."""
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= size - 8:
        raise Damaged(f"{name} is cut off")
    if length > LONGEST_HEADER:
        raise Damaged(f"{name} has a header of {length} bytes")
    return file.read(length), 8 + length, size


def _entries(header: bytes, name: str, size: int) -> dict[str, Any]:
    """The tensors' entries; raises `Damaged` where they do not end with the file's `size` bytes."""
    entries = parse_json(header, name)
    entries.pop("__metadata__", None)
    try:
        last = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        whole = last == size
    except (KeyError, TypeError, IndexError) as error:
        raise Damaged(f"{name} is damaged") from error
    if not whole:
        raise Damaged(f"{name} is cut off")
    return entries


@lru_cache(maxsize=256)  # the runs of a sweep have the same header
def _layout(header: bytes, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images, responses and units; raises `Damaged` where their entries are not as they must be."""
    entries = _entries(header, NAME, size)
    images, responses, units = (_tensor(entries.get(key), key, kind) for key, kind in NEEDED)
    if len(images.shape) < 3 or len(responses.shape) != 2 or 0 in images.shape:
        raise Damaged(f"{NAME}: images has shape {images.shape}")
    return images, responses, units


def _tensor(entry: Any, key: str, kind: str) -> Tensor:
    if not isinstance(entry, dict):
        raise Damaged(f"{NAME} lacks {key}")
    code, shape, ends = entry.get("dtype"), entry.get("shape"), entry["data_offsets"]
    dtype = DTYPES.get(code) if isinstance(code, str) else None
    if dtype is None or dtype.kind != kind:
        raise Damaged(f"{NAME}: {key} is of type {str(code)[:20]}")
    if not isinstance(shape, list) or not all(map(is_whole, [*shape, *ends])):
        raise Damaged(f"{NAME} is damaged")
    if len(ends) != 2 or ends[1] - ends[0] != dtype.itemsize * math.prod(shape):
        raise Damaged(f"{NAME} is damaged")
    return Tensor(dtype, shape, ends[0])
