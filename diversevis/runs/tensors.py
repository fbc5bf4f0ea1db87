"""Safetensors files of a run, looked at without torch: headers, responses, norms of images.

A file is 8 bytes with the header's length, the header (JSON), and the tensors' bytes.
"""

from __future__ import annotations

import math
import os
import shlex
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diversevis.runs.facts import Object
from diversevis.runs.files import Damaged, Missing, is_whole, opened, parse_json, shown

TOLERANCE = 1e-3  # relative, of a norm or a response, for other ways to round
TINY, HUGE = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
SAMPLE = 2**18  # bytes of images that are read unless all are wanted; a whole run of some units
BLOCK = 2**26  # bytes read together
LONGEST_HEADER = 2**20  # bytes
CODES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4"}
DTYPES: dict[str, np.dtype] = {code: np.dtype(name) for code, name in CODES.items()}
MOST_AXES = 16  # of a tensor
BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "I16": 2, "U16": 2, "F16": 2,
         "BF16": 2, "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8}  # fmt: skip
NAME = "images.safetensors"
CHANGED = f"{NAME} changed while it was read"
NEEDED = ("images", "f"), ("responses", "f"), ("units", "i")  # with the kind of their numbers


_of_thread = threading.local()  # with the buffer that files are read into


class Tensor(NamedTuple):
    """Where a tensor lies behind the header."""

    dtype: np.dtype
    shape: list[int]
    begin: int

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class Images:
    """What images.safetensors holds, as Python's numbers: numpy takes longer for a few of them.

    shapes  of images, responses and units
    responses  of every unit to its images
    read    numbers of the images that were read, counted through all units
    norms   Euclidean norms of these; not finite where a pixel is not
    """

    shapes: list[list[int]]
    units: list[int]
    responses: list[list[float]]
    read: Sequence[int]
    norms: list[float]

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
        diverged = self._check_responses(rows, told or [None] * len(rows))
        self._check_norms(float(record["norm"]), n, diverged)

    def _check_responses(self, rows: Sequence[Object], told: Sequence[float | None]) -> list[int]:
        """Rows of the units that have diverged: their images need not be numbers."""
        diverged = []
        for row, (responses, mean) in enumerate(zip(self.responses, told, strict=True)):
            computed, largest = sum(responses) / len(responses), max(map(abs, responses))
            if mean is not None:
                same = largest < math.inf and abs(computed - mean) <= TOLERANCE * largest + TINY
            elif rows[row]["stop"] == "dead":  # its images are noise: no response to them is told
                same = True
            else:  # the mean, taken in float32, was no number
                same = not sum(map(abs, responses)) <= HUGE
                diverged.append(row)
            if not same:
                what = f"the responses of unit {self.units[row]}"
                says = f"metrics.json says {shown(mean)}"
                raise _contradiction(what, f"have a mean of {computed:.6g}", says)
        return diverged

    def _check_norms(self, norm: float, n: int, diverged: Sequence[int]) -> None:
        low, high = norm * (1 - TOLERANCE), norm * (1 + TOLERANCE)
        if math.isfinite(sum(self.norms)) and low <= min(self.norms) and max(self.norms) <= high:
            return
        for number, value in zip(self.read, self.norms, strict=True):
            row, index = divmod(number, n)
            if not low <= value <= high and row not in diverged:
                finite = math.isfinite(value)
                has = f"norm {value:.6g}" if finite else "pixels that are not finite numbers"
                what = f"image {index} of unit {self.units[row]}"
                raise _contradiction(what, f"has {has}", f"run.json says norm {norm:.6g}")


def _contradiction(what: str, has: str, says: str) -> Damaged:
    return Damaged(f"{NAME}: {what} {has}; {says}")


def read_images(folder: Path | str, *, thorough: bool) -> Images:
    """Raises `Damaged` where the file is cut off, or has no images, responses or units."""
    with opened(folder, NAME) as (descriptor, facts):
        small = facts.st_size <= SAMPLE
        buffer = memoryview(_of_thread.__dict__.setdefault("buffer", bytearray(SAMPLE + 1)))
        # A small file is read at once, which takes half as long as its parts, and into the same
        # memory as the file before: new memory takes longer than all the rest.
        if small and os.readv(descriptor, [buffer[: facts.st_size + 1]]) != facts.st_size:
            raise Damaged(CHANGED)

        def content(begin: int, length: int) -> bytes | memoryview:
            if small:
                return buffer[begin : begin + length]
            part = os.pread(descriptor, length, begin)
            if len(part) != length:
                raise Damaged(CHANGED)
            return part

        header, start = _header(content, facts.st_size, NAME)
        images, responses, units = _layout(header, facts.st_size - start)

        def numbers(tensor: Tensor, first: int, count: int) -> np.ndarray:
            width = tensor.dtype.itemsize
            part = content(start + tensor.begin + first * width, count * width)
            return np.frombuffer(part, tensor.dtype)

        every = thorough or small
        read, norms = _norms(images, partial(numbers, images), every=every)
        values = numbers(responses, 0, responses.size).reshape(responses.shape)
        return Images(
            shapes=[images.shape, responses.shape, units.shape],
            units=numbers(units, 0, units.size).tolist(),
            responses=values.tolist(), read=read, norms=norms,
        )  # fmt: skip


def check_arrays(folder: Path | str, measures: Iterable[str]) -> None:
    """Raises `Damaged` where the arrays of one of these measures, if it has any, are cut off."""
    for measure in measures:
        name = f"analysis/{measure}.safetensors"
        try:
            with opened(folder, name) as (descriptor, facts):
                read = partial(_at, descriptor)
                header, start = _header(read, facts.st_size, name)
                _entries(header, name, facts.st_size - start)
        except Missing:
            continue
        except Damaged as reason:
            anew = f"diversevis analyze {shlex.quote(str(folder))} analysis={measure}"
            raise Damaged(f"{reason}; `{anew}` makes it anew") from reason


def _norms(
    images: Tensor, numbers: Callable[[int, int], np.ndarray], *, every: bool
) -> tuple[Sequence[int], list[float]]:
    """Norms of all images, or of some at equal steps, at least of the first."""
    count, pixels = math.prod(images.shape[:2]), math.prod(images.shape[2:])
    size = pixels * images.dtype.itemsize
    some = count if every else max(1, min(count, SAMPLE // size))
    read = range(count) if some == count else [number * count // some for number in range(some)]
    together = max(1, BLOCK // size) if some == count else 1  # images that lie side by side
    squares: list[float] = []
    for at in range(0, some, together):
        part = read[at : at + together]
        values = numbers(part[0] * pixels, len(part) * pixels).reshape(-1, pixels)
        values = values.astype(np.float32) if images.dtype.itemsize < 4 else values
        squares += np.einsum("ij,ij->i", values, values).tolist()
    return read, [math.sqrt(square) for square in squares]


def _at(descriptor: int, begin: int, length: int) -> bytes:
    return os.pread(descriptor, length, begin)


def _header(
    content: Callable[[int, int], bytes | memoryview], size: int, name: str
) -> tuple[bytes, int]:
    """The header, and where the tensors' bytes start; raises `Damaged` for a file of `size` bytes
    that is cut off.

    content  bytes of the file, from a position on
    """
    if size < 8:
        raise Damaged(f"{name} is cut off")
    length = int.from_bytes(content(0, 8), "little")
    if not 2 <= length <= size - 8:
        raise Damaged(f"{name} is cut off")
    if length > LONGEST_HEADER:
        raise Damaged(f"{name} has a header of {length} bytes")
    return bytes(content(8, length)), 8 + length


def _entries(header: bytes, name: str, size: int) -> dict[str, Any]:
    """The tensors' entries; raises `Damaged` where they do not fill the file's `size` bytes."""
    entries = parse_json(header, name)
    notes = entries.pop("__metadata__", {})
    try:
        if not all(isinstance(note, str) for note in notes.values()):
            raise TypeError
        spans = sorted((*entry["data_offsets"], _bytes(entry)) for entry in entries.values())
        ends = [0, *(end for _, end, _ in spans)]
        fits = all(begin + length == end for begin, end, length in spans)
        whole = fits and ends[:-1] == [begin for begin, _, _ in spans]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Damaged(f"{name} is damaged") from error
    if ends[-1] != size:
        raise Damaged(f"{name} is cut off")
    if not whole:
        raise Damaged(f"{name} is damaged")
    return entries


def _bytes(entry: Any) -> int:
    """Of a tensor; raises `TypeError` or `KeyError` where its entry does not say."""
    shape = entry["shape"]
    if len(shape) > MOST_AXES or not all(map(is_whole, [*shape, *entry["data_offsets"]])):
        raise TypeError
    return math.prod(shape) * BYTES[entry["dtype"]]


@lru_cache(maxsize=256)  # the runs of a sweep have the same header
def _layout(header: bytes, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images, responses and units; raises `Damaged` where their entries are not as they must be."""
    entries = _entries(header, NAME, size)
    images, responses, units = (_tensor(entries.get(key), key, kind) for key, kind in NEEDED)
    if len(images.shape) < 3 or len(responses.shape) != 2 or 0 in images.shape:
        raise Damaged(f"{NAME}: images has shape {images.shape}")
    return images, responses, units


def _tensor(entry: Any, key: str, kind: str) -> Tensor:
    if entry is None:
        raise Damaged(f"{NAME} lacks {key}")
    code, shape, begin = entry["dtype"], entry["shape"], entry["data_offsets"][0]
    dtype = DTYPES.get(code)
    if dtype is None or dtype.kind != kind:
        raise Damaged(f"{NAME}: {key} is of type {code[:20]}")
    return Tensor(dtype, shape, begin)
