"""The units of a run shared between processes: one for each device, or for each core of a CPU.

Many operations of a batch are too small to be divided between cores. Processes with a core and a
batch each do without the division.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from logging.handlers import BufferingHandler
from multiprocessing.context import BaseContext
from types import FrameType
from typing import Any, NamedTuple

import torch
from safetensors.torch import load, save
from torch import Tensor

from diversevis.errors import FolderLost, Stopped, WorkFailed
from diversevis.experiment import fork
from diversevis.experiment.batches import most_steps, split_by_progress, visualize_in_batches
from diversevis.experiment.progress import ProgressDisplay
from diversevis.experiment.results import UnitResult, pack, unpack
from diversevis.method.device import keep_pages, pick_devices
from diversevis.method.optimize.loop import State
from diversevis.method.settings import Experiment
from diversevis.method.setup import Setup, batch_of_each, prepare
from diversevis.runs import signals
from diversevis.runs.checkpoints import Checkpoints
from diversevis.runs.lease import Claim
from diversevis.units import counted

LOG = logging.getLogger("diversevis")
PATIENCE = 60.0  # seconds that interrupted processes have to return their results
SECONDS_BETWEEN_LOOKS = 0.1
UNITS = 4  # for a core, and in its batches: with fewer, all cores compute one batch


class _Answer(NamedTuple):
    """What a worker process returns for one batch.

    tensors      of `pack`, as safetensors bytes: as tensors they would be sent through shared
                 memory, of which there may be little
    facts        of `pack`
    messages     for the log: level and text
    interrupted  by Ctrl-C (SIGINT from the main process); the results are those so far
    """

    tensors: bytes
    facts: dict[str, Any]
    messages: Sequence[tuple[int, str]]
    interrupted: bool


class _Team(NamedTuple):
    """The processes of a run.

    setup     with the largest batch of each of them
    prepared  for each of them, what returns its setup, called there
    threads   of each of them
    """

    setup: Setup
    context: BaseContext
    prepared: Sequence[Callable[[], Setup]]
    threads: int


def visualize_units(
    setup: Setup, checkpoints: Checkpoints | None = None
) -> Generator[UnitResult, None, None]:
    """Results of every unit of `setup`, those of earlier processes first; shows the progress.

    Raises `KeyboardInterrupt` after the results of the batches that Ctrl-C ended, and `Stopped`
    when the system asks this process to end.
    """
    team = _of_devices(setup) or _of_cores(setup)
    if team is not None:
        try:
            yield from _visualize_together(team, checkpoints)
            return
        except _Refused as refused:
            LOG.warning("one process computes all units: the system starts no other (%s)", refused)
    yield from visualize_in_batches(setup, checkpoints=checkpoints, show_progress=True)


class _Refused(Exception):
    """The system starts no more processes, such as for a limit of their number or of memory."""


def _of_devices(setup: Setup) -> _Team | None:
    """A process for each device, if there are several."""
    devices = pick_devices(setup.experiment.device)
    if len(devices) == 1:
        return None
    spawn = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    experiments = [replace(setup.experiment, device=str(device)) for device in devices]
    prepared = [partial(_prepare, experiment, setup.batch) for experiment in experiments]
    return _Team(setup, spawn, prepared, max(1, torch.get_num_threads() // len(devices)))


def _of_cores(setup: Setup) -> _Team | None:
    """A process for each core of the CPU, if there are enough units for all of them.

    None where this process cannot fork: PyTorch refuses to compute gradients in a forked process
    where there is an accelerator, used or not.
    """
    cores = torch.get_num_threads()
    enough = len(setup.targets.units) >= UNITS * cores
    accelerated = setup.device.type != "cpu" or torch.accelerator.is_available()
    if cores == 1 or not enough or accelerated or not fork.is_possible():
        return None
    setup = replace(setup, batch=batch_of_each(setup, cores))
    if setup.batch < UNITS * setup.experiment.images_per_unit:
        return None
    return _Team(setup, multiprocessing.get_context("fork"), [lambda: setup] * cores, 1)


def _visualize_together(team: _Team, checkpoints: Checkpoints | None) -> Iterator[UnitResult]:
    """Results of all units; the processes get the batches in turn."""
    setup, count = team.setup, len(team.prepared)
    rows = range(len(setup.targets.units))
    finished, batches = split_by_progress(setup, rows, checkpoints, count)
    if len(batches) < count:  # what an earlier process has left
        yield from visualize_in_batches(setup, checkpoints=checkpoints, show_progress=True)
        return
    # Only this process holds the claim on the run folder.
    for_workers = replace(checkpoints, claim=None) if checkpoints else None
    reached = team.context.RawArray("q", 2 * count)
    shown = _Shown(setup, len(finished), count, reached)
    with contextlib.closing(shown.display), _pools(team, reached) as pools:
        try:
            with fork.forking():
                futures = [
                    pools[number % count].submit(_compute, list(batch), for_workers)
                    for number, batch in enumerate(batches)
                ]
        except OSError as error:
            raise _Refused(error) from error
        yield from finished
        for number, future in enumerate(futures):
            try:
                while not wait([future], timeout=SECONDS_BETWEEN_LOOKS).done:
                    signals.check()
                    if checkpoints and checkpoints.claim:
                        checkpoints.claim.check()
                    shown.show(number % count, checkpoints.claim if checkpoints else None)
                interrupted, answers = False, [future.result()]
            except BrokenProcessPool as error:
                raise WorkFailed(
                    "A process that computed units could not begin, or was ended from outside, "
                    "most often because the memory was full. The same command goes on with this "
                    f"run; `batch={max(1, setup.batch // 2)}` needs less memory."
                ) from error
            except KeyboardInterrupt:
                interrupted, answers = True, _interrupt(pools, futures[number:])
            except Stopped:  # every worker writes a checkpoint before this process ends
                _send(pools, signal.SIGTERM)
                wait(futures, timeout=PATIENCE)
                raise
            for answer in answers:
                for level, message in answer.messages:
                    LOG.log(level, "%s", message)
                yield from unpack(State(load(answer.tensors), answer.facts))
            if interrupted or any(answer.interrupted for answer in answers):
                raise KeyboardInterrupt


class _Shown:
    """Shows how far all processes have come together, by what they note in `reached`."""

    def __init__(self, setup: Setup, finished: int, count: int, reached: Any) -> None:
        self.steps, self.count, self.reached = most_steps(setup), count, reached
        units = len(setup.targets.units)
        self.text = f"{counted(units, 'unit')}  {count} processes"
        self.display = ProgressDisplay(units, finished, *self.steps)

    def show(self, number: int, claim: Claim | None) -> None:
        """On the terminal that of all; in the claim that of a process's batch, for `status`."""
        self.display.together(self.text, sum(self.reached[: self.count]))
        if claim is not None:
            step, search = self.reached[self.count + number], self.steps[0]
            at = {"phase": "search", "step": step}
            if step > search:
                at = {"phase": "diverse", "step": step - search}
            claim.progress = claim.progress | at


@contextlib.contextmanager
def _pools(team: _Team, reached: Any) -> Iterator[list[ProcessPoolExecutor]]:
    """A pool of one process for each of the team; none goes on alone if an error, or the caller,
    ends the block early.

    reached  array in shared memory: how many steps of a unit each process has taken in all, and
             then, at which step its batch is
    """
    pools = [
        ProcessPoolExecutor(1, team.context, _start, (prepared, team.threads, reached, number))
        for number, prepared in enumerate(team.prepared)
    ]
    try:
        yield pools
        for pool in pools:
            pool.shutdown()
    except BaseException as error:
        # A folder that is another process's now gets no last state.
        _send(pools, signal.SIGKILL if isinstance(error, FolderLost) else signal.SIGTERM)
        for pool in pools:
            pool.shutdown(wait=False, cancel_futures=True)
        raise


def _interrupt(pools: list[ProcessPoolExecutor], futures: list[Future]) -> list[_Answer]:
    """Send SIGINT to the workers; returns the results that they have so far."""
    _send(pools, signal.SIGINT)
    at_work = [future for future in futures if not future.cancel()]
    done = wait(at_work, timeout=PATIENCE).done
    # A worker that was killed leaves an exception.
    return [future.result() for future in at_work if future in done and not future.exception()]


def _send(pools: list[ProcessPoolExecutor], number: int) -> None:
    for pool in pools:
        for process in list(pool._processes or {}):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)


# From here on: what runs in a worker process.

_setup: Setup | None = None
_computing = _interrupted = False
_log = BufferingHandler(sys.maxsize)  # of the batch at work


def _prepare(experiment: Experiment, batch: int) -> Setup:
    """The network on this worker's device."""
    return replace(prepare(experiment), batch=batch)


def _start(prepared: Callable[[], Setup], threads: int, reached: Any, number: int) -> None:
    """Before the first batch; `reached[number]` is this worker's."""
    global _setup
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C on the terminal goes to the main process alone, which passes it on
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    signals.listen()
    signal.signal(signal.SIGINT, _interrupt_batch)
    fork.begin()
    keep_pages()
    torch.set_num_threads(threads)
    LOG.propagate = False  # the main process writes this worker's log
    LOG.handlers[:] = [_log]
    LOG.setLevel(logging.INFO)
    _Noted.reached, _Noted.number, _Noted.before = reached, number, 0
    _setup = prepared()


def _interrupt_batch(number: int, frame: FrameType | None) -> None:
    """Ctrl-C ends the batch at work, but not the sending of its results; none follows."""
    global _interrupted
    _interrupted = True
    if _computing:
        raise KeyboardInterrupt


class _Noted(ProgressDisplay):
    """Notes the progress for the main process, which shows it.

    before  steps of a unit in batches before
    """

    reached: Any
    number: int
    before: int

    def step(
        self, step: int, rows: Sequence[int], images: Tensor, terms: dict[str, Tensor]
    ) -> None:
        at = self._offset[self._phase] + step
        self.reached[self.number] = self.before + self._finished + self._batch * at
        self.reached[len(self.reached) // 2 + self.number] = at


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _compute(rows: list[int], checkpoints: Checkpoints | None) -> _Answer:
    """One batch; after Ctrl-C the results so far, and none of the batches that follow.

    Raises `Stopped` after a signal that asks to end; the state is in a checkpoint.
    """
    global _setup, _computing, _interrupted
    assert _setup is not None  # noqa: S101  (set by _start)
    signals.check()
    _log.flush()
    if checkpoints:
        checkpoints = replace(checkpoints, device=_setup.device)
    unit_results = visualize_in_batches(
        _setup, rows, checkpoints=checkpoints, show_progress=True, display=_Noted
    )
    results: list[UnitResult] = []
    try:
        _computing = True
        while not _interrupted:
            results.append(next(unit_results))
    except StopIteration as end:
        _setup = end.value  # with the batch size that fitted in memory, for the next batch
    except KeyboardInterrupt:
        _interrupted = True
    finally:
        _computing = False
    _Noted.before += len(rows) * sum(most_steps(_setup))
    packed = pack(results)
    tensors = save({name: value.contiguous() for name, value in packed.tensors.items()})
    messages = [(record.levelno, record.getMessage()) for record in _log.buffer]
    return _Answer(tensors, packed.facts, messages, _interrupted)
