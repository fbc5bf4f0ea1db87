"""All units of a run, batch by batch; a batch that does not fit in memory is halved."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Generator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from diversevis.experiment.check import check_results
from diversevis.experiment.progress import ProgressDisplay
from diversevis.experiment.results import Frame, UnitResult, pack, unpack
from diversevis.method import images
from diversevis.method.device import none_if_out_of_memory
from diversevis.method.optimize.loop import State
from diversevis.method.result import Visualization
from diversevis.method.setup import Setup
from diversevis.method.visualize import visualize
from diversevis.pictures.film import is_film_step, recorded
from diversevis.runs import signals
from diversevis.runs.checkpoints import BatchCheckpoint, Checkpoints
from diversevis.units import units_text

LOG = logging.getLogger("diversevis")


def visualize_in_batches(
    setup: Setup,
    rows: Sequence[int] | None = None,
    *,
    checkpoints: Checkpoints | None = None,
    show_progress: bool = False,
    display: type[ProgressDisplay] = ProgressDisplay,
) -> Generator[UnitResult, None, Setup]:
    """Results of the units at `rows` of the setup's targets, those of earlier processes first.

    rows         None: all
    checkpoints  save finished batches, and the state of the batch at work

    The generator returns the setup with the batch size that fitted in memory. It raises
    `KeyboardInterrupt` after the results of the batch that Ctrl-C ended, and `Stopped` when the
    system asks this process to end.
    """
    rows = range(len(setup.targets.units)) if rows is None else rows
    finished, pending = split_by_progress(setup, rows, checkpoints)
    yield from finished
    steps = most_steps(setup)
    progress = display(len(rows), len(finished), *steps, show=show_progress)
    with contextlib.closing(progress):
        while pending:
            signals.raise_if_interrupted()
            batch, *pending = pending
            units = [setup.targets.units[row] for row in batch]
            progress.units(f"unit{'s' * (len(units) > 1)} {units_text(units)}", len(units))
            attempt = partial(_visualize_batch, setup, batch, progress, checkpoints)
            results = none_if_out_of_memory(attempt, setup.batch, setup.device)
            if results is None:
                setup = _halve(setup, batch, checkpoints)
                pending = setup.batches([row for left in (batch, *pending) for row in left])
                continue
            progress.end()
            interrupted = any(result.visualization.interrupted for result in results)
            if checkpoints and checkpoints.seconds is not None and not interrupted:
                checkpoints.write_done(batch, pack(results))
            yield from results
            signals.raise_if_interrupted()
            if interrupted:
                raise KeyboardInterrupt
    return setup


def most_steps(setup: Setup) -> tuple[int, int]:
    """Of a unit, in the search and in the batch."""
    return setup.experiment.optimizer.search_steps, setup.experiment.optimizer.steps


def split_by_progress(
    setup: Setup, rows: Sequence[int], checkpoints: Checkpoints | None, devices: int = 1
) -> tuple[list[UnitResult], list[Sequence[int]]]:
    """Results that earlier processes saved of the units at `rows`, and the other rows in batches:
    those with a saved state first, unchanged."""
    finished = _unpacked(checkpoints.done(rows)) if checkpoints else []
    check_results(setup, finished)
    units = {result.visualization.unit for result in finished}
    left = [row for row in rows if setup.targets.units[row] not in units]
    begun = checkpoints.batches("state", left) if checkpoints else []
    fresh = set(left) - {row for batch in begun for row in batch}
    # Cut all rows, then drop those not needed: the batches, and with them the rounding of sums,
    # are those of a run without interruption.
    cut = [[row for row in batch if row in fresh] for batch in setup.batches(rows, devices)]
    return finished, [*begun, *(batch for batch in cut if batch)]


def _unpacked(done: Sequence[State]) -> list[UnitResult]:
    """The saved results; a batch that does not hold what it must is computed again."""
    finished: list[UnitResult] = []
    for batch in done:
        try:
            finished += unpack(batch)
        except (LookupError, TypeError, AttributeError) as error:
            LOG.warning("saved results cannot be read (%r): these units start again", error)
    return finished


def _visualize_batch(
    setup: Setup, batch: Sequence[int], progress: ProgressDisplay, checkpoints: Checkpoints | None
) -> list[UnitResult]:
    films = _Films(setup, len(batch))
    checkpoint = BatchCheckpoint(checkpoints, batch, films) if checkpoints else None
    # With a checkpoint Ctrl-C waits until the state between two steps is saved.
    with signals.defer_sigint() if checkpoint else contextlib.nullcontext():
        units = visualize(setup, batch, progress=progress, listener=films, checkpoint=checkpoint)
    return [UnitResult(unit, films.of(index, unit)) for index, unit in enumerate(units)]


def _halve(setup: Setup, batch: Sequence[int], checkpoints: Checkpoints | None) -> Setup:
    """The setup with half the batch size, after memory ran out in `batch`."""
    if checkpoints:
        checkpoints.discard_state(batch)
    half = max(1, min(setup.batch, len(batch) * setup.experiment.images_per_unit) // 2)
    LOG.warning("out of memory: going on with batch=%d images at once", half)
    return replace(setup, batch=half)


class _Films:
    """Listener of the optimization that collects the frames of every unit's film."""

    def __init__(self, setup: Setup, units: int) -> None:
        self.recording = setup.experiment.record != "none"
        self.mean = setup.network.weights.mean
        self.frames: list[list[Frame]] = [[] for _ in range(units)]

    def __call__(
        self, step: int, rows: Sequence[int], shown: Tensor, terms: dict[str, Tensor]
    ) -> None:
        if self.recording and is_film_step(step):
            for row, unit_images in zip(rows, shown.cpu(), strict=True):
                self.frames[row].append(self._frame(unit_images))

    def state(self) -> State:
        tensors = {
            f"{row}.{k}": torch.from_numpy(frame)
            for row, frames in enumerate(self.frames)
            for k, frame in enumerate(frames)
        }
        return State(tensors, {"frames": [len(frames) for frames in self.frames]})

    def restore(self, state: State) -> None:
        self.frames = [
            [state.tensors[f"{row}.{k}"].cpu().numpy() for k in range(count)]
            for row, count in enumerate(state.facts["frames"])
        ]

    def of(self, row: int, unit: Visualization) -> list[Frame]:
        """A unit's frames, its result last; empty if no film is recorded."""
        frames = self.frames[row]
        return [*frames, self._frame(unit.images)] if frames else []

    def _frame(self, shown: Tensor) -> Frame:
        return recorded(images.display(shown, self.mean))
