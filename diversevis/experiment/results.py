"""What a run says and writes of the units that are done: arrays and numbers."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

from diversevis.method.setup import Setup
from diversevis.method.visualize import Visualization
from diversevis.pictures import draw
from diversevis.runs.folder import RunFolder

LOG = logging.getLogger("diversevis")


def say(one: Visualization) -> None:
    """How a unit ended, in one line."""
    found = one.metrics
    if found["stop"] == "dead":
        LOG.warning(
            "unit %d is dead: its response has no gradient in any of the noise drawn", one.unit
        )
        return
    level = logging.WARNING if found["stop"] == "diverged" else logging.INFO
    distance = found["distance_min"]
    LOG.log(
        level,
        "unit %d %s after %d steps: mean response %.4g%s, %.1f s",
        one.unit,
        found["stop"],
        found["steps"],
        found["response_mean"],
        "" if distance is None else f", smallest distance {distance:.4g}",
        found["seconds"],
    )


def in_order(setup: Setup, done: Sequence[Visualization]) -> list[Visualization]:
    """As the units were named, whichever was done first."""
    place = {unit: row for row, unit in enumerate(setup.targets.units)}
    return sorted(done, key=lambda one: place[one.unit])


def write(setup: Setup, folder: RunFolder, done: Sequence[Visualization]) -> None:
    """Arrays and numbers of the units that are done; nothing where none is."""
    if not done:
        return
    done = in_order(setup, done)
    draw.forget(folder, draw.IMAGES)
    folder.write_images(
        torch.stack([one.images for one in done]),
        torch.stack([one.responses for one in done]),
        torch.tensor([one.unit for one in done]),
    )
    folder.write_metrics([one.metrics for one in done])
    _write_front(folder, [one for one in done if one.front is not None])
    _write_trace(folder, done)


def _write_trace(folder: RunFolder, done: Sequence[Visualization]) -> None:
    """Every term of every unit at every step."""
    names = list(dict.fromkeys(name for one in done for name in one.trace))
    rows = []
    for one in done:
        columns = [one.trace[name].tolist() for name in names] if one.trace else []
        for step, values in enumerate(zip(*columns, strict=True), start=1):
            rows.append([step, one.unit, *(f"{value:.7g}" for value in values)])
    folder.write_trace(names, rows)


def _write_front(folder: RunFolder, done: Sequence[Visualization]) -> None:
    """Images at every weight of a traced front, and its table."""
    if not done:
        return
    names = ["unit", *done[0].metrics["front"][0]]
    rows = [[one.unit, *row.values()] for one in done for row in one.metrics["front"]]
    folder.write_front(
        torch.stack([one.front for one in done if one.front is not None]),
        torch.tensor([row["diversity"] for row in done[0].metrics["front"]]),
        torch.tensor([one.unit for one in done]),
        names,
        rows,
    )
