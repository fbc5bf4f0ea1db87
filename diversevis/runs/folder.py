"""The run folder. Only this module knows the names of its files.

Every file is written under a temporary name and then renamed, so that no reader sees half a file.

outputs/<model>/<layer>/<units>/v001/
    run.json             status, command, hashes, versions, timing
    config.yaml          the resolved config
    metrics.json         numbers per unit
    images.safetensors   images [K, n, c, h, w], responses [K, n], units [K]
    images/unit0012/00.png ...
    sheet_unit0012.png, trace.png, prior.png, optimization_unit0012.gif
    trace.csv            every term of every unit at every step
    analysis/phase.safetensors, analysis/phase_unit0012.png, analysis/phase.png ...
    front.csv, front.safetensors, front_unit0012.png
    run.log, .hydra/
    checkpoint/, .claim-0001   until the run is finished
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save
from torch import Tensor

from diversevis.errors import FolderLost
from diversevis.runs import tensor_file
from diversevis.runs.files import read_json, replacing
from diversevis.runs.tensor_file import Content

Tensors = Mapping[str, Tensor]
Numbers = Sequence[Mapping[str, Any] | None]  # of the units in metrics.json, in their order


@dataclass(frozen=True)
class RunFolder:
    """A version of a work, on disk."""

    path: Path

    # -- records --------------------------------------------------------------------------------

    def write_record(self, record: Mapping[str, Any]) -> None:
        self._write("run.json", _json(record))

    def read_record(self) -> dict[str, Any]:
        """Raises `Damaged` (a ValueError) where it cannot be read, `Missing` where it is not there;
        so do all that read JSON here."""
        return self._read_json("run.json")

    def update_record(self, **changes: Any) -> None:
        """Change some entries of `run.json`."""
        self.write_record(self.read_record() | changes)

    def mark_failed(self) -> None:
        """Set the status in place: on a full disk there is no room even for a small new file."""
        path = self.path / "run.json"
        content = path.read_bytes()
        marked = content.replace(b'"status": "running"', b'"status": "failed" ', 1)
        with path.open("rb+") as file:  # of the same length: no more room is needed
            file.write(marked)

    def write_config(self, text: str) -> None:
        self._write("config.yaml", text.encode())

    def write_extra(self, name: str, text: str) -> None:
        """Write a file whose name others define (Hydra's records)."""
        self._write(name, text.encode())

    @property
    def log_path(self) -> Path:
        return self.path / "run.log"

    # -- numbers --------------------------------------------------------------------------------

    def write_metrics(self, units: Sequence[Mapping[str, Any]]) -> None:
        """Write the numbers of every unit as a new `metrics.json`, without measures."""
        self._write("metrics.json", _json({"measures": {}, "units": list(units)}))

    def read_metrics(self) -> list[dict[str, Any]]:
        """The numbers of every unit."""
        return self._read_json("metrics.json")["units"]

    def read_measures(self) -> dict[str, dict[str, Any]]:
        """The measures taken so far, with their settings."""
        return self._read_json("metrics.json")["measures"]

    def write_measure(
        self, name: str, settings: Mapping[str, Any], numbers: Numbers, arrays: Tensors
    ) -> None:
        """Write a measure of all units in place of an earlier one: arrays, then numbers."""
        file = f"analysis/{name}.safetensors"
        if arrays:
            self._write_tensors(file, arrays)
        else:
            (self.path / file).unlink(missing_ok=True)
        metrics = self._read_json("metrics.json")
        measures = metrics["measures"] | {name: {"settings": dict(settings)}}
        # without `seeds` and `seeds_of`: the spread over seeds was of what was measured before
        self._write_numbers({"measures": measures, "units": metrics["units"]}, name, numbers)
        for picture in (self.path / "analysis").glob(f"{name}*.png"):
            picture.unlink(missing_ok=True)  # of the earlier measure

    def read_measure(self, name: str) -> dict[str, Tensor]:
        """The arrays of a measure."""
        return load_file(self.path / "analysis" / f"{name}.safetensors")

    def write_spread(self, units: Numbers, seeds: Sequence[int], names: Sequence[str]) -> None:
        """Write mean and spread over seeds of every unit's indices of the measures `names`."""
        facts = {"seeds": list(seeds), "seeds_of": list(names)}
        self._write_numbers(self._read_json("metrics.json") | facts, "seeds", units)

    def read_spread(self) -> tuple[list[int], list[str]]:
        """The seeds of the spread, and the measures it was taken of; empty where there is none."""
        try:
            content = self._read_json("metrics.json")
        except (OSError, ValueError):
            return [], []
        return content.get("seeds", []), content.get("seeds_of", [])

    def write_trace(self, names: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Rows are of step, unit, then the terms `names`."""
        self._write_table("trace.csv", ["step", "unit", *names], rows)

    def read_trace(self) -> tuple[list[str], list[list[float]]]:
        """Column names and rows of `trace.csv`."""
        with (self.path / "trace.csv").open(newline="") as file:
            names, *rows = csv.reader(file)
        return names, [[float(value) for value in row] for row in rows]

    # -- images and pictures --------------------------------------------------------------------

    def write_images(
        self,
        images: Float[Tensor, "unit image color height width"],
        responses: Float[Tensor, "unit image"],
        units: Int[Tensor, " unit"],
        references: Float[Tensor, "unit color height width"] | None = None,
    ) -> None:
        """Write `images.safetensors`; images are in grey levels around the network's input mean.

        references  the photographs that metamers are made of
        """
        arrays = {"images": images, "responses": responses, "units": units}
        if references is not None:
            arrays["reference"] = references
        self._write_tensors("images.safetensors", arrays)

    def read_images(self) -> dict[str, Tensor]:
        """Images and responses in float32, even where another tool has written float64."""
        arrays = load_file(self.path / "images.safetensors")
        return {name: array.float() if array.is_floating_point() else array
                for name, array in arrays.items()}  # fmt: skip

    def write_front(
        self,
        images: Float[Tensor, "unit weight image color height width"],
        weights: Float[Tensor, " weight"],
        units: Int[Tensor, " unit"],
        names: Sequence[str],
        rows: Iterable[Sequence[Any]],
    ) -> None:
        """Write the front of response against diversity: `front.safetensors` with the images, and
        `front.csv` with a row for every unit and diversity weight."""
        arrays = {"images": images, "weights": weights, "units": units}
        self._write_tensors("front.safetensors", arrays)
        self._write_table("front.csv", names, rows)

    def read_front(self) -> dict[str, Tensor] | None:
        """The images at every weight; None where no front was traced."""
        path = self.path / "front.safetensors"
        return load_file(path) if path.is_file() else None

    def write_image(self, unit: int, index: int, png: bytes) -> None:
        self._write(f"images/{_unit(unit)}/{index:02d}.png", png)

    def write_sheet(self, unit: int, png: bytes) -> None:
        self._write(f"sheet_{_unit(unit)}.png", png)

    def write_trace_figure(self, png: bytes) -> None:
        self._write("trace.png", png)

    def write_prior_figure(self, png: bytes) -> None:
        self._write("prior.png", png)

    def write_front_figure(self, unit: int, png: bytes) -> None:
        self._write(f"front_{_unit(unit)}.png", png)

    def write_animation(self, unit: int, kind: str, film: bytes) -> None:
        """`kind` is the file's ending, `gif` or `mp4`."""
        self._write(f"optimization_{_unit(unit)}.{kind}", film)

    def write_measure_picture(self, name: str, unit: int | None, png: bytes) -> None:
        """Write the picture of a measure, of a unit or (None) of the layer."""
        suffix = "" if unit is None else f"_{_unit(unit)}"
        self._write(f"analysis/{name}{suffix}.png", png)

    # -- checkpoints ----------------------------------------------------------------------------

    def write_checkpoint(self, name: str, tensors: Tensors, facts: Mapping[str, Any]) -> None:
        self._write(_checkpoint(name), tensor_file.serialize(tensors, facts))

    def read_checkpoint(self, name: str, device: torch.device | None) -> Content | None:
        """Tensors and facts as `tensor_file.read` gives them; None where it cannot."""
        return tensor_file.read(self.path / _checkpoint(name), device)

    def checkpoints(self) -> list[str]:
        """Names of all checkpoints, in alphabetical order."""
        names: list[str] = []
        with contextlib.suppress(OSError):
            names += [path.name for path in (self.path / "checkpoint").iterdir()]
        ending = ".safetensors"
        return sorted(
            name.removesuffix(ending)
            for name in names
            if name.endswith(ending) and not name.startswith(".")
        )

    def remove_checkpoint(self, name: str) -> None:
        path = self.path / _checkpoint(name)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    def remove_checkpoints(self) -> None:
        """Delete all, once the results they led to are written."""
        shutil.rmtree(self.path / "checkpoint", ignore_errors=True)

    def remove_leftovers(self) -> None:
        """Delete temporary files of processes that were killed while they wrote."""
        folders = [self.path / name for name in ("", "analysis", "checkpoint")]
        for folder in (*folders, *self.path.glob("images/unit*")):
            for path in folder.glob(".*"):
                if re.fullmatch(r"\..+\.\d+", path.name) and path.is_file():
                    path.unlink(missing_ok=True)

    # -- files ----------------------------------------------------------------------------------

    def _write_numbers(self, content: Mapping[str, Any], name: str, numbers: Numbers) -> None:
        """Write `metrics.json` with `name` of every unit set to these numbers."""
        units = [unit | {name: new} for unit, new in zip(content["units"], numbers, strict=True)]
        self._write("metrics.json", _json({**content, "units": units}))

    def _read_json(self, file: str) -> dict[str, Any]:
        return read_json(self.path, file)

    def _write_tensors(self, file: str, arrays: Tensors) -> None:
        self._write(file, save({name: array.contiguous() for name, array in arrays.items()}))

    def _write_table(self, file: str, names: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(names)
        writer.writerows(rows)
        self._write(file, text.getvalue().encode())

    def _write(self, file: str, content: bytes) -> None:
        """Raises `FolderLost` where the run folder was deleted: it is not made again."""
        try:
            for parent in reversed(Path(file).parents[:-1]):
                (self.path / parent).mkdir(exist_ok=True)
            with replacing(self.path / file) as beside:
                beside.write_bytes(content)
        except FileNotFoundError as error:
            raise FolderLost(
                f"{self.path} was deleted or moved while it was written to; its results are lost. "
                "Run the same command to begin again."
            ) from error


def _unit(unit: int) -> str:
    return f"unit{unit:04d}"


def _checkpoint(name: str) -> str:
    return f"checkpoint/{name}.safetensors"


def _json(content: Any) -> bytes:
    return (json.dumps(finite(content), indent=2, allow_nan=False) + "\n").encode()


def finite(content: Any) -> Any:
    """The content with null in place of numbers that are not finite, which JSON does not know."""
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [finite(value) for value in content]
    return content
