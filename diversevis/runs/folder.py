"""The run folder: the only owner of its file names. Files are written beside, then renamed.

outputs/<model>/<layer>/<units>/v001/
    run.json             status, command, hashes, versions, timing
    config.yaml          the resolved config
    metrics.json         numbers per unit
    images.safetensors   images [K, n, 3, h, w], responses [K, n], units [K]
    images/unit0012/00.png ...
    sheet_unit0012.png, trace.png, optimization_unit0012.gif
    trace.csv            every term of every unit at every step
    analysis/phase.safetensors, analysis/phase_unit0012.png, analysis/phase.png ...
    front.csv, front.safetensors, front_unit0012.png
    run.log, .hydra/
    checkpoint/, .claim-0001   while it is at work, and until it is finished
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import logging
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
from diversevis.runs.files import replacing

LOG = logging.getLogger("diversevis")


@dataclass(frozen=True)
class RunFolder:
    """One version of one piece of work, on disk."""

    path: Path

    # -- text ---------------------------------------------------------------------------------

    def write_record(self, record: Mapping[str, Any]) -> None:
        """`run.json`, whole."""
        self._write("run.json", _json(record))

    def read_record(self) -> dict[str, Any]:
        return json.loads((self.path / "run.json").read_text())

    def update_record(self, **changes: Any) -> None:
        """`run.json` with some entries changed.

        Its status is `running`, `finished`, `interrupted` or `failed`.
        """
        self.write_record(self.read_record() | changes)

    def mark_failed(self) -> None:
        """The status alone, in place: on a full disk not even a small new file may fit."""
        path = self.path / "run.json"
        content = path.read_bytes()
        marked = content.replace(b'"status": "running"', b'"status": "failed" ', 1)
        with path.open("rb+") as file:  # of the same length: no room is needed
            file.write(marked)

    def write_config(self, text: str) -> None:
        self._write("config.yaml", text.encode())

    def write_metrics(self, units: Sequence[Mapping[str, Any]]) -> None:
        """`metrics.json`: numbers of every unit."""
        self._write("metrics.json", _json({"measures": {}, "units": list(units)}))

    def read_metrics(self) -> list[dict[str, Any]]:
        return self._metrics()["units"]

    def read_measures(self) -> dict[str, dict[str, Any]]:
        """What was measured, and with which settings."""
        return self._metrics().get("measures", {})

    def write_measure(
        self,
        name: str,
        settings: Mapping[str, Any],
        numbers: Sequence[Mapping[str, Any] | None],
        arrays: Mapping[str, Tensor],
    ) -> None:
        """One measure of every unit, in place of an earlier one: its arrays, then its numbers.

        numbers  in the order of the units in `metrics.json`
        """
        if arrays:
            content = save({k: v.contiguous() for k, v in arrays.items()})
            self._write(f"analysis/{name}.safetensors", content)
        else:
            (self.path / "analysis" / f"{name}.safetensors").unlink(missing_ok=True)
        content_before = self._metrics()
        units = [
            unit | {name: own} for unit, own in zip(content_before["units"], numbers, strict=True)
        ]
        measures = content_before.get("measures", {}) | {name: {"settings": dict(settings)}}
        self._write("metrics.json", _json({"measures": measures, "units": units}))
        for picture in (self.path / "analysis").glob(f"{name}*.png"):
            picture.unlink(missing_ok=True)  # of what was measured before

    def read_measure(self, name: str) -> dict[str, Tensor]:
        """Arrays of one measure."""
        return load_file(self.path / "analysis" / f"{name}.safetensors")

    def write_measure_picture(self, name: str, unit: int | None, png: bytes) -> None:
        """Of a unit, or of the layer."""
        suffix = "" if unit is None else f"_{_unit(unit)}"
        self._write(f"analysis/{name}{suffix}.png", png)

    def write_spread(
        self,
        units: Sequence[Mapping[str, Any] | None],
        seeds: Sequence[int],
        names: Sequence[str],
    ) -> None:
        """Mean and spread over seeds of every index of these measures, into `metrics.json`."""
        content = self._metrics()
        found = [one | {"seeds": own} for one, own in zip(content["units"], units, strict=True)]
        over = {"seeds": list(seeds), "seeds_of": list(names)}
        self._write("metrics.json", _json(content | over | {"units": found}))

    def read_spread(self) -> tuple[list[int], list[str]]:
        """Seeds over which the indices' spread was taken, and of which measures."""
        try:
            content = self._metrics()
        except (OSError, ValueError):
            return [], []
        return content.get("seeds", []), content.get("seeds_of", [])

    def _metrics(self) -> dict[str, Any]:
        return json.loads((self.path / "metrics.json").read_text())

    def write_trace(self, names: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """`trace.csv`: step, unit, then the terms `names`."""
        self._write_table("trace.csv", ["step", "unit", *names], rows)

    def read_trace(self) -> tuple[list[str], list[list[float]]]:
        """Column names and rows of `trace.csv`."""
        with (self.path / "trace.csv").open(newline="") as file:
            names, *rows = csv.reader(file)
        return names, [[float(value) for value in row] for row in rows]

    def write_extra(self, name: str, text: str) -> None:
        """A file that others define (Hydra's own record)."""
        self._write(name, text.encode())

    def remove_leftovers(self) -> None:
        """What processes were writing when they were killed."""
        for place in (self.path, self.path / "analysis", self.path / "checkpoint"):
            for path in place.glob(".*"):
                if re.fullmatch(r"\..+\.\d+", path.name) and path.is_file():
                    path.unlink(missing_ok=True)

    @property
    def log_path(self) -> Path:
        return self.path / "run.log"

    # -- arrays and pictures --------------------------------------------------------------------

    def write_images(
        self,
        images: Float[Tensor, "unit image 3 height width"],
        responses: Float[Tensor, "unit image"],
        units: Int[Tensor, " unit"],
    ) -> None:
        """`images.safetensors`, in grey levels around the network's input mean."""
        arrays = {"images": images, "responses": responses, "units": units}
        self._write("images.safetensors", save({k: v.contiguous() for k, v in arrays.items()}))

    def read_images(self) -> dict[str, Tensor]:
        return load_file(self.path / "images.safetensors")

    def write_front(
        self,
        images: Float[Tensor, "unit weight image 3 height width"],
        weights: Float[Tensor, " weight"],
        units: Int[Tensor, " unit"],
        names: Sequence[str],
        rows: Iterable[Sequence[Any]],
    ) -> None:
        """The front of response against diversity: `front.safetensors`, and `front.csv` with a row
        for every unit and weight."""
        arrays = {"images": images, "weights": weights, "units": units}
        self._write("front.safetensors", save({k: v.contiguous() for k, v in arrays.items()}))
        self._write_table("front.csv", names, rows)

    def write_front_figure(self, unit: int, png: bytes) -> None:
        self._write(f"front_{_unit(unit)}.png", png)

    def read_front(self) -> dict[str, Tensor] | None:
        """Images at every weight; None where no front was traced."""
        path = self.path / "front.safetensors"
        return load_file(path) if path.is_file() else None

    def write_image(self, unit: int, index: int, png: bytes) -> None:
        self._write(f"images/{_unit(unit)}/{index:02d}.png", png)

    def write_sheet(self, unit: int, png: bytes) -> None:
        self._write(f"sheet_{_unit(unit)}.png", png)

    def write_trace_figure(self, png: bytes) -> None:
        self._write("trace.png", png)

    def write_animation(self, unit: int, kind: str, film: bytes) -> None:
        """`kind` is the file's ending, `gif` or `mp4`."""
        self._write(f"optimization_{_unit(unit)}.{kind}", film)

    def _write_table(self, file: str, names: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(names)
        writer.writerows(rows)
        self._write(file, text.getvalue().encode())

    # -- checkpoints ----------------------------------------------------------------------------

    def write_checkpoint(
        self, name: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]
    ) -> None:
        """`checkpoint/<name>.safetensors`: what a run has come to, to go on from."""
        self._write(f"checkpoint/{name}.safetensors", tensor_file.content(tensors, facts))

    def read_checkpoint(
        self, name: str, device: torch.device
    ) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors, laid out in memory as they were, and facts; None where there is none that can be
        read."""
        path = self.path / "checkpoint" / f"{name}.safetensors"
        try:
            return tensor_file.read(path, device)
        except FileNotFoundError:
            return None
        except ValueError as error:
            LOG.warning("%s cannot be read (%s): this part begins anew", path, error)
            return None

    def checkpoint_facts(self, name: str) -> dict[str, Any] | None:
        """Without the tensors; None where there are none that can be read."""
        try:
            return tensor_file.read_facts(self.path / "checkpoint" / f"{name}.safetensors")
        except (FileNotFoundError, ValueError):
            return None

    def checkpoints(self) -> list[str]:
        """Names, in alphabetical order."""
        ending = ".safetensors"
        found = (self.path / "checkpoint").glob(f"*{ending}")
        return sorted(path.name.removesuffix(ending) for path in found if path.name[0] != ".")

    def remove_checkpoint(self, name: str) -> None:
        (self.path / "checkpoint" / f"{name}.safetensors").unlink(missing_ok=True)

    def remove_checkpoints(self) -> None:
        """All of them: what they led to is written."""
        shutil.rmtree(self.path / "checkpoint", ignore_errors=True)

    def _write(self, name: str, content: bytes) -> None:
        """Never makes the run folder itself anew: one that is gone was deleted."""
        try:
            where = self.path
            for part in Path(name).parts[:-1]:
                where /= part
                with contextlib.suppress(FileExistsError):
                    where.mkdir()
            with replacing(self.path / name, new_parents=False) as beside:
                beside.write_bytes(content)
        except FileNotFoundError as error:
            raise FolderLost(
                f"{self.path} was deleted or moved while it was written to; what it had is lost. "
                "Run the same command to begin again."
            ) from error


def _unit(unit: int) -> str:
    return f"unit{unit:04d}"


def _json(content: Any) -> bytes:
    return (json.dumps(_finite(content), indent=2, allow_nan=False) + "\n").encode()


def _finite(content: Any) -> Any:
    """JSON knows no NaN: what is not a number becomes null."""
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    return content
