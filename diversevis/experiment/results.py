"""Results of a run's units: packed for a checkpoint, logged, and written to the run folder."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8

from diversevis.method.optimize.loop import State
from diversevis.method.result import Visualization
from diversevis.method.setup import Setup
from diversevis.pictures import draw
from diversevis.runs.folder import RunFolder
from diversevis.units import counted

LOG = logging.getLogger("diversevis")

Frame = UInt8[np.ndarray, "image height width 3"]


class UnitResult(NamedTuple):
    """A unit's result, and the frames of its film (none unless a film is recorded)."""

    visualization: Visualization
    frames: list[Frame]


def pack(results: Sequence[UnitResult]) -> State:
    """The results as tensors by name and facts that JSON can hold."""
    tensors, facts = {}, []
    for row, (unit, frames) in enumerate(results):
        tensors[f"{row}.images"], tensors[f"{row}.responses"] = unit.images, unit.responses
        if unit.front is not None:
            tensors[f"{row}.front"] = unit.front
        tensors |= {f"{row}.trace.{name}": values for name, values in unit.trace.items()}
        tensors |= {f"{row}.film.{k}": torch.from_numpy(frame) for k, frame in enumerate(frames)}
        facts.append({"metrics": unit.metrics, "trace": list(unit.trace), "frames": len(frames)})
    return State(tensors, {"units": facts})


def unpack(packed: State) -> list[UnitResult]:
    """The results that `pack` was given; `interrupted` is False in all of them."""
    results = []
    for row, facts in enumerate(packed.facts["units"]):
        tensors, metrics = packed.tensors, facts["metrics"]
        unit = Visualization(
            unit=metrics["unit"], metrics=metrics, interrupted=False,
            images=tensors[f"{row}.images"], responses=tensors[f"{row}.responses"],
            trace={name: tensors[f"{row}.trace.{name}"] for name in facts["trace"]},
            front=tensors.get(f"{row}.front"),
        )  # fmt: skip
        frames = [tensors[f"{row}.film.{k}"].numpy() for k in range(facts["frames"])]
        results.append(UnitResult(unit, frames))
    return results


def log_result(unit: Visualization) -> None:
    """One line on how a unit's optimization ended."""
    metrics = unit.metrics
    if metrics["stop"] == "dead":
        text = "unit %d is dead: its response has no gradient in any of the noise drawn"
        LOG.warning(text, unit.unit)
        return
    level = logging.WARNING if metrics["stop"] == "diverged" else logging.INFO
    distance = metrics["distance_min"]
    closest = "" if distance is None else f", smallest distance {distance:.4g}"
    ended = f"unit {unit.unit} {metrics['stop']} after {counted(metrics['steps'], 'step')}"
    response, seconds = metrics["response_mean"], metrics["seconds"]
    if metrics.get("error_over"):
        LOG.warning(
            "%s: its largest error is %.1f %%; %s above objective.tolerance. More steps or a "
            "smaller objective.diversity bring them closer",
            ended, 100 * metrics["error_max"], counted(metrics["error_over"], "image"),
        )  # fmt: skip
        return
    LOG.log(level, f"{ended}: mean response {response:.4g}{closest}, {seconds:.1f} s")


def in_order(setup: Setup, units: Sequence[Visualization]) -> list[Visualization]:
    """The results in the order of the run's units; batches may finish in another."""
    rows = {unit: row for row, unit in enumerate(setup.targets.units)}
    return sorted(units, key=lambda unit: rows[unit.unit])


def write(setup: Setup, folder: RunFolder, units: Sequence[Visualization]) -> None:
    """Write arrays and numbers of the finished units; nothing if there are none."""
    if not units:
        return
    units = in_order(setup, units)
    images = torch.stack([unit.images for unit in units])
    responses = torch.stack([unit.responses for unit in units])
    draw.mark_outdated(folder, draw.IMAGES)
    numbers, references = [unit.unit for unit in units], setup.targets.references
    photographs = None if references is None else references[numbers].cpu()
    folder.write_images(images, responses, torch.tensor(numbers), photographs)
    folder.write_metrics([unit.metrics for unit in units])
    _write_front(folder, [unit for unit in units if unit.front is not None])
    _write_trace(folder, units)


def _write_trace(folder: RunFolder, units: Sequence[Visualization]) -> None:
    """`trace.csv`: a row per unit and step, a column per term."""
    names = list(dict.fromkeys(name for unit in units for name in unit.trace))
    rows = []
    for unit in units:
        columns = [unit.trace[name].tolist() for name in names] if unit.trace else []
        for step, values in enumerate(zip(*columns, strict=True), start=1):
            rows.append([step, unit.unit, *(f"{value:.7g}" for value in values)])
    folder.write_trace(names, rows)


def _write_front(folder: RunFolder, units: Sequence[Visualization]) -> None:
    """`front.safetensors` and `front.csv`: images and terms at every diversity weight."""
    if not units:
        return
    images = torch.stack([unit.front for unit in units if unit.front is not None])
    weights = torch.tensor([row["diversity"] for row in units[0].metrics["front"]])
    numbers = torch.tensor([unit.unit for unit in units])
    columns = ["unit", *units[0].metrics["front"][0]]
    rows = [[unit.unit, *row.values()] for unit in units for row in unit.metrics["front"]]
    folder.write_front(images, weights, numbers, columns, rows)
