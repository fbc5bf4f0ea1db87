"""The runs in a folder that can be compared, and why others cannot."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diversevis.errors import InputError
from diversevis.runs.folder import RunFolder

SAME = "n", "diversity", "distance", "fraction", "front"  # of run.json: what a pair must share


@dataclass(frozen=True, kw_only=True)
class Run:
    """What is compared of a run folder: run.json, and of metrics.json measures and units."""

    path: Path
    record: Mapping[str, Any]
    measures: Mapping[str, Any]
    units: Sequence[Mapping[str, Any]]

    @property
    def name(self) -> str:
        return f"{self.record['model']} {self.record['layer']}"

    @property
    def size(self) -> float:
        """Side of the receptive field, pixels: the geometric mean of both sides."""
        height, width = self.record["receptive_field"]["size"]
        return math.sqrt(height * width)

    @property
    def contrast(self) -> float:
        """RMS contrast of every image, grey levels."""
        return float(self.record["norm"]) / (math.sqrt(3) * self.size)

    def summary(self) -> dict[str, Any]:
        kept = ("model", "layer", "direction", "n", "norm", "diversity", "distance", "fraction",
                "front", "seed", "config_hash", "weights")  # fmt: skip
        return {
            "folder": str(self.path),
            **{key: self.record.get(key) for key in kept},
            "receptive_field": list(self.record["receptive_field"]["size"]),
            "contrast": self.contrast,
            "units": [unit["unit"] for unit in self.units],
            "measures": dict(self.measures),
        }


def find_runs(folder: Path) -> tuple[list[Run], list[str]]:
    """Runs at or below `folder`, of each work the latest that can be used; and what was not.

    Raises `InputError` where there is none.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder. Name a run folder, or a folder above several.")
    alone = (folder / "run.json").is_file()
    paths = [folder] if alone else sorted(path.parent for path in folder.rglob("run.json"))
    works: dict[Path, list[Path]] = {}
    for path in sorted(paths, key=version_of, reverse=True):
        works.setdefault(path.parent if version_of(path) else path, []).append(path)
    runs: list[Run] = []
    notes: list[str] = []
    for versions in works.values():
        for path in versions:
            try:
                runs.append(read_run(path))
                break
            except InputError as error:
                notes.append(str(error))
    if not paths:
        raise InputError(
            f"{folder} holds no run (no run.json, at any depth). Name a folder that "
            "`diversevis run` printed, or a folder above several."
        )
    if not runs:
        raise InputError(f"{folder} holds no run that can be compared. {' '.join(notes)}")
    return sorted(runs, key=lambda run: (run.size, str(run.path))), notes


def read_run(path: Path) -> Run:
    """The run in a folder; raises `InputError` where it is unfinished, corrupt or not analyzed."""
    try:
        folder = RunFolder(path)
        record = folder.read_record()
        if record["status"] != "finished":
            raise InputError(f"{path} is {record['status']}, not finished: left aside.")
        record = {
            "fraction": None,
            "front": None,
        } | record  # runs of before it could be set do not say it
        measures = folder.read_measures()
        if not measures:
            raise InputError(
                f"{path} has no measures: run `diversevis analyze {path}` first, then compare."
            )
        run = Run(path=path, record=record, measures=measures, units=folder.read_metrics())
        run.summary()
        if not all(0 < value < math.inf for value in (run.size, run.contrast)):
            raise ValueError("receptive field or norm is not above 0")
        _ = [record[key] for key in SAME], [unit.items() for unit in run.units]
    except OSError as error:
        raise InputError(f"{error.filename or path} cannot be read ({error.strerror}).") from error
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
        what = f"{type(error).__name__}: {error}"
        raise InputError(f"{path} is corrupt ({what}): left aside.") from error
    return run


def version_of(path: Path) -> int:
    """Of a folder v001, 1; of one with another name, 0."""
    found = re.fullmatch(r"v(\d+)", path.name)
    return int(found[1]) if found else 0
