"""All units of a run, batch by batch; a batch that does not fit in memory is halved."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from diversevis import images, machine, report
from diversevis.prepare import Setting
from diversevis.progress import Progress
from diversevis.units import units_text
from diversevis.visualize import Visualization, visualize

LOG = logging.getLogger("diversevis")

Frame = UInt8[np.ndarray, "image height width 3"]


class Finished(NamedTuple):
    """A unit's result, and the frames of its film if one is made."""

    visualization: Visualization
    frames: list[Frame]


def visualize_in_batches(
    setting: Setting,
    rows: Sequence[int],
    progress: Progress | None = None,
    *,
    halved: Callable[[Setting], None] = lambda setting: None,
) -> Iterator[Finished]:
    """The units at `rows` of the setting's targets, in this order.

    halved  told of the setting that fits, whenever memory has run out

    Raises `KeyboardInterrupt` after the last of those that Ctrl-C let finish.
    """
    pending = setting.batches(rows)
    while pending:
        batch, *pending = pending
        if progress:
            units = tuple(setting.targets.units[row] for row in batch)
            progress.units(f"units {units_text(units)}" if len(units) > 1 else f"unit {units[0]}",
                           len(units))  # fmt: skip
        films = _Films(setting, len(batch))
        found = _unless_out_of_memory(setting, batch, progress, films)
        if found is None:
            setting = _halved(setting, batch)
            halved(setting)
            pending = setting.batches([*batch, *(row for later in pending for row in later)])
            continue
        if progress:
            progress.end()
        for place, one in enumerate(found):
            yield Finished(one, films.of(place, one))
        if any(one.interrupted for one in found):
            raise KeyboardInterrupt


def _unless_out_of_memory(
    setting: Setting, batch: Sequence[int], progress: Progress | None, films: _Films
) -> list[Visualization] | None:
    listener = films if films.wanted else None
    try:
        return visualize(setting, batch, progress=progress, listener=listener)
    except (RuntimeError, MemoryError) as error:
        if not machine.is_out_of_memory(error) or setting.batch == 1:
            raise
    return None  # from here on nothing of the failed attempt is referred to any more


def _halved(setting: Setting, batch: Sequence[int]) -> Setting:
    gc.collect()
    if setting.device.type == "cuda":
        torch.cuda.empty_cache()
    most = len(batch) * setting.experiment.images_per_unit
    half = max(1, min(setting.batch, most) // 2)
    LOG.warning("out of memory: going on with batch=%d images at once", half)
    return replace(setting, batch=half)


class _Films:
    """Keeps the images of a few telling steps, as pixels, unit by unit."""

    def __init__(self, setting: Setting, count: int) -> None:
        self.wanted = setting.experiment.record != "none"
        self.mean = setting.network.weights.mean
        self.frames: list[list[Frame]] = [[] for _ in range(count)]

    def __call__(
        self, step: int, rows: Sequence[int], shown: Tensor, terms: dict[str, Tensor]
    ) -> None:
        if report.is_film_step(step):
            pixels = images.display(shown, self.mean)
            for place, row in enumerate(rows):
                self.frames[row].append(pixels[place])

    def of(self, place: int, one: Visualization) -> list[Frame]:
        """The film of one unit, ending with its result; empty where none was made."""
        frames = self.frames[place]
        return [*frames, images.display(one.images, self.mean)] if frames else []
