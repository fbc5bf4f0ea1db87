"""The runs in a folder that can be compared, and why others cannot."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diversevis.errors import InputError
from diversevis.runs import check, files
from diversevis.runs.files import Damaged, Missing
from diversevis.runs.find import find_folders_below
from diversevis.runs.versions import version_of


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run: its run.json, and `measures` and `units` of its metrics.json."""

    path: Path
    record: Mapping[str, Any]
    measures: Mapping[str, Any]
    units: Sequence[Mapping[str, Any]]

    @property
    def size(self) -> float:
        """Side of the receptive field, pixels: the geometric mean of height and width."""
        height, width = self.record["receptive_field"]["size"]
        return math.sqrt(height * width)

    @property
    def contrast(self) -> float:
        """RMS contrast of every image, grey levels: the norm over the root of its c h w values."""
        channels = len(self.record["weights"]["mean"])
        return float(self.record["norm"]) / (math.sqrt(channels) * self.size)

    def summary(self) -> dict[str, Any]:
        """What comparison.json says about the run."""
        keys = ("model", "layer", "direction", "n", "norm", "diversity", "distance", "metric",
                "fraction", "front", "prior", "seed", "config_hash", "weights")  # fmt: skip
        return {
            "folder": str(self.path),
            **{key: self.record.get(key) for key in keys},
            "receptive_field": list(self.record["receptive_field"]["size"]),
            "contrast": self.contrast,
            "units": [unit["unit"] for unit in self.units],
            "measures": dict(self.measures),
        }


def find_runs(folder: Path) -> tuple[list[Run], list[str]]:
    """The newest usable version of every work at or below `folder`, by size of the receptive field,
    and notes on runs left out. Raises `InputError` where there is none."""
    folders, closed = find_folders_below(folder)
    paths = sorted(Path(run.name) for run in folders)
    notes = [f"{hidden.name}: {reason}." for hidden, reason in closed]
    runs: dict[Path, Run] = {}  # by the folder that holds the versions of a work
    for path in sorted(paths, key=lambda path: version_of(path) or 0, reverse=True):
        work = path.parent if version_of(path) else path
        if work not in runs:
            try:
                runs[work] = read_run(path)
            except InputError as error:
                notes.append(str(error))
    if not runs:
        raise InputError(f"{folder} holds no run that can be compared. {' '.join(notes)}")
    return sorted(runs.values(), key=lambda run: (run.size, str(run.path))), notes


def read_run(path: Path) -> Run:
    """The run in a folder; raises `InputError` where it is unfinished, damaged or not analyzed."""
    try:
        run = open_run(path, thorough=True)
    except Damaged as reason:
        raise InputError(f"{path} is damaged ({reason}): left out.") from reason
    if (status := run.record["status"]) != "finished":
        raise InputError(f"{path} is {status}, not finished: left out.")
    if not run.measures:
        raise InputError(
            f"{path} has no measures: run `diversevis analyze {path}` first, then compare."
        )
    return run


def open_run(path: Path, *, thorough: bool = False) -> Run:
    """The run in a folder, finished and measured or not; without metrics.json, it has no units.

    thorough  as in `check.read_results`

    Raises `Damaged`.
    """
    record, changed = files.read_record(path)
    measures, units = dict[str, Any](), list[dict[str, Any]]()
    try:
        results = check.check(check.read_rest(path, record, changed, thorough=thorough))
        measures, units = results.measures, results.rows
    except Missing:
        if record["status"] == "finished":
            raise
    return Run(path=path, record=record, measures=measures, units=units)
