"""What is written for a run: strips of images, tiles for the walls, and the details of its units.

Everything is in a new folder, runs/<digest>, which appears complete; pictures of measures, which
take longest, come later (later.py).
"""

from __future__ import annotations

import csv
import os
import shlex
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor

from diversevis.atlas.scan import address_of
from diversevis.atlas.strips import UNITS_PER_FILE, strip, tile_at, tiles
from diversevis.atlas.texts import script
from diversevis.compare.answers import answers
from diversevis.compare.indices import look_up, number_at
from diversevis.compare.layer import Unit
from diversevis.compare.report import measured_indices, state_of, unit_facts
from diversevis.compare.runs import Run, open_run
from diversevis.method.images import display
from diversevis.pictures.page import Pixels
from diversevis.runs.files import Damaged, read_file
from diversevis.runs.folder import RunFolder
from diversevis.runs.tensors import check_arrays
from diversevis.units import counted

MOST_LETTERS = 500  # of a photograph's name
SHOWN = {"images": (5,), "grating": (4, 5), "responses": (2,)}  # arrays, with their numbers of axes
MOST_DISTANCES = 16  # images of a unit, up to which their distances are listed
TRACE = 120  # points of a curve
MOST_MEDIA = 64 * 2**20  # bytes of a picture or film
PNG = b"\x89PNG\r\n\x1a\n"
FILMS = {"gif": (0, b"GIF8"), "mp4": (4, b"ftyp")}  # how such a file begins: from which byte, what

Images = Float[Tensor, "image color height width"]
One = Float[Tensor, "color height width"]


@dataclass(frozen=True, kw_only=True)
class RunWork:
    """A run whose files are to be written.

    path      its folder
    pictures  folder of the pictures of every measure, below that of the atlas
    out       the folder to be made
    """

    path: Path
    pictures: Mapping[str, str]
    out: Path

    def __call__(self) -> str | None:
        """Write the folder; returns why the run cannot be shown, or None."""
        beside = self.out.with_name(f".{self.out.name}.{os.getpid()}")
        try:
            run = open_run(self.path, thorough=True)
            check_arrays(self.path, run.measures)
            beside.mkdir(parents=True)
            _Writer(run=run, work=self, out=beside).write()
            beside.rename(self.out)
        except (Damaged, SafetensorError) as reason:
            return str(reason)
        except OSError:
            if not (self.path / "run.json").is_file():
                return "it was deleted meanwhile"
            if not self.out.is_dir():  # else another process has just made it
                raise
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        return None


class _Writer:
    """Writes what pages show of a run into a folder."""

    def __init__(self, *, run: Run, work: RunWork, out: Path) -> None:
        self.run, self.work, self.out = run, work, out
        self.folder = RunFolder(run.path)
        self.mean = tuple(run.record["weights"]["mean"])
        self.size = list(run.record["receptive_field"]["size"])
        self.has_images = run.record["n"] is not None
        self.indices = measured_indices(run)
        shown = ("gain", "natural") if self.has_images else ("phase", "natural")
        self.arrays = {name: self._arrays(name) for name in shown if name in run.measures}
        self.batch = self.folder.read_images() if self.has_images else {}
        self.traces = self._traces()
        self.files = {file.name for file in run.path.iterdir()}

    def write(self) -> None:
        for first in range(0, len(self.run.units), UNITS_PER_FILE):
            rows = range(first, min(first + UNITS_PER_FILE, len(self.run.units)))
            details = {str(self.run.units[row]["unit"]): self._unit(row) for row in rows}
            name = f"units-{first // UNITS_PER_FILE:04d}"
            key = f"runs/{self.work.out.name}/{name}"
            (self.out / f"{name}.js").write_bytes(script(key, details))
            shown = [self._best_image(row) for row in rows]
            pixels = [None if image is None else self._pixels(image[None])[0] for image in shown]
            file, _ = tile_at(first)
            (self.out / file).write_bytes(tiles(pixels, (self.size[0], self.size[1])))

    def _unit(self, row: int) -> dict[str, Any]:
        unit = self.run.units[row]
        number = unit["unit"]
        facts = unit_facts(self.run, unit, self.indices, None)
        is_dead = facts["state"] == "dead"
        by_index = {address_of(index): said for index, said in
                    zip(self.indices, facts["indices"], strict=True)}  # fmt: skip
        batch = None if is_dead or not self.has_images else self._batch(row)
        alone = None if is_dead else self._alone(row, number)
        return {
            "unit": number, "state": facts["state"] or "",
            "stop": stop if isinstance(stop := unit.get("stop"), str) else None,
            "steps": number_at(unit, "steps"),
            "response_mean": facts["response"]["mean"], "response_best": facts["response"]["best"],
            **(batch or {"images": None, "responses": [], "distances": None}),
            "alone": alone, "best": _best(batch, alone),
            "natural": None if is_dead else self._natural(row, number),
            "driven_by": None if is_dead else _driven_by(unit),
            "film": self._film(number), "trace": self.traces.get(number),
            "pictures": {
                name: f"{folder}/{_name(number)}.png"
                for name, folder in self.work.pictures.items()
                if unit.get(name) is not None
            } | self._front(number),
            "errors": _known({name: said["error"] for name, said in by_index.items()}),
            "seeds": _known({name: said["seeds"] for name, said in by_index.items()}),
            "grating": facts["grating"], "answers": answers(facts),
        }  # fmt: skip

    # -- images -----------------------------------------------------------------------------------

    def _batch(self, row: int) -> dict[str, Any]:
        number, images = self.run.units[row]["unit"], self.batch["images"][row]
        return {
            "images": self._strip(f"{_name(number)}.png", images),
            "responses": self.batch["responses"][row].tolist(),
            "distances": _distances(images) if len(images) <= MOST_DISTANCES else None,
        }

    def _alone(self, row: int, number: int) -> dict[str, Any] | None:
        arrays = self.arrays.get("gain", {})
        if not {"images", "responses"} <= arrays.keys():
            return None
        file = self._strip(f"{_name(number)}-alone.png", arrays["images"][row])
        return {**file, "responses": arrays["responses"][row].tolist()}

    def _natural(self, row: int, number: int) -> dict[str, Any] | None:
        arrays = self.arrays.get("natural", {})
        exemplars = look_up(self.run.units[row], "natural.exemplars")
        if not isinstance(exemplars, list) or "images" not in arrays:
            return None
        shown = [
            (image, crop)
            for image, crop in zip(arrays["images"][row], exemplars, strict=False)
            if isinstance(crop, Mapping)
        ]
        if not shown:
            return None
        items = [
            {"photograph": str(crop.get("file"))[:MOST_LETTERS],
             **{key: number_at(crop, key) for key in ("row", "column", "response")}}
            for _, crop in shown
        ]  # fmt: skip
        images = torch.stack([image for image, _ in shown])
        return {**self._strip(f"{_name(number)}-natural.png", images), "items": items}

    def _strip(self, name: str, images: Images) -> dict[str, Any]:
        content, facts = strip(self._pixels(images))
        (self.out / name).write_bytes(content)
        return {"file": name, **facts}

    def _best_image(self, row: int) -> One | None:
        """The image that stands for the unit on a wall; of measures without images, its grating or
        photograph."""
        if state_of(self.run.units[row]) == "dead":
            return None
        if self.has_images:
            responses = self.batch["responses"][row].nan_to_num(-torch.inf)
            return self.batch["images"][row][int(responses.argmax())]
        for name, array in (("phase", "grating"), ("natural", "images")):
            if array in self.arrays.get(name, {}):
                image = self.arrays[name][array][row]
                image = image[0] if image.ndim == 4 else image
                return image if list(image.shape[1:]) == self.size else None
        return None

    def _pixels(self, images: Images) -> Pixels:
        return display(images.float().nan_to_num(), self.mean)

    # -- files of the run -------------------------------------------------------------------------

    def _arrays(self, measure: str) -> dict[str, Tensor]:
        """Images and responses of a measure; raises `Damaged` where they are not of these units."""
        try:
            arrays = self.folder.read_measure(measure)
        except FileNotFoundError:
            return {}
        for name, axes in SHOWN.items():
            if name not in arrays:
                continue
            shape = list(arrays[name].shape)
            fits = len(shape) in axes and len(self.run.units) == shape[0] and 0 not in shape
            if name != "responses":
                fits = fits and shape[-3] == len(self.mean)
            if not (fits and arrays[name].is_floating_point()):
                raise Damaged(
                    f"analysis/{measure}.safetensors: {name} is {arrays[name].dtype} of shape "
                    f"{shape}, the run has {counted(len(self.run.units), 'unit')}; `diversevis "
                    f"analyze {shlex.quote(str(self.run.path))} analysis={measure}` makes it anew"
                )
        return arrays

    def _film(self, number: int) -> str | None:
        for kind, (at, start) in FILMS.items():
            name = f"optimization_{_name(number)}.{kind}"
            if name not in self.files:
                continue
            content = media(self.run.path, name) or b""
            if content[at : at + len(start)] == start:
                (self.out / f"{_name(number)}.{kind}").write_bytes(content)
                return f"{_name(number)}.{kind}"
        return None

    def _front(self, number: int) -> dict[str, str]:
        """The picture of the unit's front, where the run has drawn it."""
        content = media(self.run.path, f"front_{_name(number)}.png")
        if content is None or not content.startswith(PNG):
            return {}
        (self.out / f"{_name(number)}-front.png").write_bytes(content)
        return {"front": f"runs/{self.work.out.name}/{_name(number)}-front.png"}

    def _traces(self) -> dict[int, dict[str, Sequence[float]]]:
        """Mean response and smallest distance at the steps of every unit."""
        if not (self.run.path / "trace.csv").is_file():  # a pipe would wait for its writer
            return {}
        try:
            names, rows = self.folder.read_trace()
            columns = [names.index(name) for name in ("step", "unit", "response_mean")]
            distance = names.index("distance_min") if "distance_min" in names else None
            by_unit: dict[int, list[tuple[float, ...]]] = defaultdict(list)
            for row in rows:
                step, unit, response = (row[column] for column in columns)
                more = () if distance is None else (row[distance],)
                by_unit[int(unit)].append((step, response, *more))
        except (csv.Error, OSError, ValueError, LookupError, OverflowError):
            return {}
        return {unit: _curve(points) for unit, points in by_unit.items()}


def media(folder: Path, name: str) -> bytes | None:
    """A picture or a film of a run; None where there is none that can be read. A link is not
    followed: what it leads to was not made by the run, and pages are for others."""
    path = folder / name
    if path.is_symlink() or path.parent.resolve() != folder.resolve() / Path(name).parent:
        return None
    try:
        return read_file(folder, name, MOST_MEDIA)[0]
    except Damaged:
        return None


def _name(number: int) -> str:
    return f"unit{number:04d}"


def _driven_by(unit: Unit) -> list[tuple[int, float]] | None:
    """Units whose images drive the unit most, with its response as a share of its best; None where
    selectivity was not measured."""
    listed = look_up(unit, "selectivity.driven_by")
    if not isinstance(listed, list):
        return None
    pairs = [(number_at(other, "unit"), number_at(other, "value")) for other in listed
             if isinstance(other, Mapping)]  # fmt: skip
    return [
        (int(other), value) for other, value in pairs if other is not None and value is not None
    ]


def _known(content: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in content.items() if value is not None}


def _curve(points: Sequence[tuple[float, ...]]) -> dict[str, Sequence[float]]:
    """At most about `TRACE` of the points, always the first and the last."""
    chosen = sorted({round(x) for x in np.linspace(0, len(points) - 1, min(len(points), TRACE))})
    columns = [*zip(*(points[i] for i in chosen), strict=True)]
    return dict(zip(("step", "response", "distance"), columns, strict=False))


def _distances(images: Images) -> list[list[float]]:
    """Root mean square differences of all pairs of images, grey levels."""
    flat = images.flatten(1).double().nan_to_num()
    return (torch.cdist(flat, flat) / flat.shape[1] ** 0.5).tolist()


def _best(
    batch: Mapping[str, Any] | None, alone: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """The single image with the highest response: of those made alone, or of the batch."""
    best: dict[str, Any] | None = None
    for of, file, responses in (
        ("batch", batch and batch["images"]["file"], batch["responses"] if batch else []),
        ("alone", alone and alone["file"], alone["responses"] if alone else []),
    ):
        for index, response in enumerate(responses):
            if np.isfinite(response) and (best is None or response > best["response"]):
                best = {"file": file, "index": index, "response": response, "of": of}
    return best
