"""All units of a run, batch by batch; a batch that does not fit in memory is halved."""

from __future__ import annotations

import contextlib
import gc
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from diversevis.experiment.finished import Finished, Frame, pack, unpack
from diversevis.experiment.progress import Progress
from diversevis.method import images
from diversevis.method.device import is_out_of_memory
from diversevis.method.optimize.loop import State
from diversevis.method.setup import Setup
from diversevis.method.visualize import Visualization, visualize
from diversevis.pictures.film import is_film_step
from diversevis.runs import signals
from diversevis.runs.checkpoints import Checkpoints, Keeper
from diversevis.units import units_text

LOG = logging.getLogger("diversevis")


def visualize_in_batches(
    setup: Setup,
    rows: Sequence[int],
    progress: Progress | None = None,
    *,
    checkpoints: Checkpoints | None = None,
    halved: Callable[[Setup], None] = lambda setup: None,
) -> Iterator[Finished]:
    """The units at `rows` of the setup's targets: first those that an earlier process has done.

    checkpoints  keep what is done, and the state of what is not
    halved       told of the setting that fits, whenever memory has run out

    Raises `KeyboardInterrupt` after the last of those that Ctrl-C let finish; `Stopped` where the
    system asked this process to end.
    """
    done = done_before(checkpoints, rows)
    yield from done
    pending = batches_left(setup, rows, done, checkpoints)
    if progress:
        progress.skip(len(done))
    while pending:
        signals.check_interrupted()
        batch, *pending = pending
        if progress:
            units = tuple(setup.targets.units[row] for row in batch)
            progress.units(f"units {units_text(units)}" if len(units) > 1 else f"unit {units[0]}",
                           len(units))  # fmt: skip
        films = _Films(setup, len(batch))
        keeper = checkpoints.keeper(batch, films) if checkpoints else None
        found = _unless_out_of_memory(setup, batch, progress, films, keeper)
        if found is None:
            if checkpoints:
                checkpoints.discard(batch)
            setup = _halved(setup, batch)
            halved(setup)
            pending = setup.batches([*batch, *(row for later in pending for row in later)])
            continue
        if progress:
            progress.end()
        finished = [Finished(one, films.of(place, one)) for place, one in enumerate(found)]
        interrupted = any(one.interrupted for one in found)
        if checkpoints and checkpoints.seconds is not None and not interrupted:
            checkpoints.write_done(batch, pack(finished))
        yield from finished
        signals.check_interrupted()
        if interrupted:
            raise KeyboardInterrupt


def done_before(checkpoints: Checkpoints | None, rows: Sequence[int]) -> list[Finished]:
    """Of the units at `rows`, those that earlier processes have done."""
    if checkpoints is None:
        return []
    return [one for state in checkpoints.done(rows) for one in unpack(state)]


def batches_left(
    setup: Setup,
    rows: Sequence[int],
    done: Sequence[Finished],
    checkpoints: Checkpoints | None,
    devices: int = 1,
) -> list[Sequence[int]]:
    """The others in batches: first those that were begun, as they were."""
    units = {one.visualization.unit for one in done}
    left = [row for row in rows if setup.targets.units[row] not in units]
    begun = checkpoints.begun(left) if checkpoints else []
    to_begin = set(left) - {row for batch in begun for row in batch}
    # All are cut, and of what was cut the rest is taken: the same batches as in one go.
    cut = [[row for row in batch if row in to_begin] for batch in setup.batches(rows, devices)]
    return [*begun, *(batch for batch in cut if batch)]


def _unless_out_of_memory(
    setup: Setup,
    batch: Sequence[int],
    progress: Progress | None,
    films: _Films,
    keeper: Keeper | None,
) -> list[Visualization] | None:
    listener = films if films.wanted else None
    patience = signals.patient() if keeper else contextlib.nullcontext()
    try:
        with patience:
            return visualize(setup, batch, progress=progress, listener=listener, keeper=keeper)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error) or setup.batch == 1:
            raise
    return None  # from here on nothing of the failed attempt is referred to any more


def _halved(setup: Setup, batch: Sequence[int]) -> Setup:
    gc.collect()
    if setup.device.type == "cuda":
        torch.cuda.empty_cache()
    most = len(batch) * setup.experiment.images_per_unit
    half = max(1, min(setup.batch, most) // 2)
    LOG.warning("out of memory: going on with batch=%d images at once", half)
    return replace(setup, batch=half)


class _Films:
    """Keeps the images of a few telling steps, as pixels, unit by unit."""

    def __init__(self, setup: Setup, count: int) -> None:
        self.wanted = setup.experiment.record != "none"
        self.mean = setup.network.weights.mean
        self.frames: list[list[Frame]] = [[] for _ in range(count)]

    def __call__(
        self, step: int, rows: Sequence[int], shown: Tensor, terms: dict[str, Tensor]
    ) -> None:
        if is_film_step(step):
            pixels = images.display(shown, self.mean)
            for place, row in enumerate(rows):
                self.frames[row].append(pixels[place])

    def state(self) -> State:
        """For a checkpoint."""
        tensors = {
            f"{place}.{k}": torch.from_numpy(frame)
            for place, frames in enumerate(self.frames)
            for k, frame in enumerate(frames)
        }
        return State(tensors, {"frames": [len(frames) for frames in self.frames]})

    def restore(self, kept: State) -> None:
        self.frames = [
            [kept.tensors[f"{place}.{k}"].cpu().numpy() for k in range(count)]
            for place, count in enumerate(kept.facts["frames"])
        ]

    def of(self, place: int, one: Visualization) -> list[Frame]:
        """The film of one unit, ending with its result; empty where none was made."""
        frames = self.frames[place]
        return [*frames, images.display(one.images, self.mean)] if frames else []
