"""The units of one run shared between several devices of one machine, one process per device."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from dataclasses import replace
from logging.handlers import BufferingHandler
from typing import Any, NamedTuple

import torch
from safetensors.torch import load, save

from diversevis.errors import Stopped
from diversevis.experiment.batches import split_by_progress, visualize_in_batches
from diversevis.experiment.results import UnitResult, pack, unpack
from diversevis.method.device import keep_pages, pick_devices
from diversevis.method.optimize.loop import State
from diversevis.method.settings import Experiment
from diversevis.method.setup import Setup, prepare
from diversevis.runs import signals
from diversevis.runs.checkpoints import Checkpoints

LOG = logging.getLogger("diversevis")
PATIENCE = 60.0  # seconds that interrupted processes have to return their results
SECONDS_BETWEEN_LOOKS = 0.5


class _Answer(NamedTuple):
    """What a worker process returns for one batch.

    tensors      of `pack`, as safetensors bytes: as tensors they would be sent through shared
                 memory, of which there may be little
    facts        of `pack`
    interrupted  by Ctrl-C (SIGINT from the main process); the results are those so far
    """

    tensors: bytes
    facts: dict[str, Any]
    warnings: Sequence[str]
    interrupted: bool


def visualize_on_devices(
    setup: Setup, checkpoints: Checkpoints | None = None
) -> Iterator[UnitResult]:
    """Results of every unit of `setup`, those of earlier processes first.

    The devices get the batches in turn. Raises `KeyboardInterrupt` after the results of the
    batches that Ctrl-C ended, and `Stopped` when the system asks this process to end.
    """
    rows = range(len(setup.targets.units))
    devices = len(pick_devices(setup.experiment.device))
    finished, batches = split_by_progress(setup, rows, checkpoints, devices)
    yield from finished
    # Only this process holds the claim on the run folder.
    for_workers = replace(checkpoints, claim=None) if checkpoints else None
    with _pools(setup) as pools:
        futures = [
            pools[number % devices].submit(_compute, list(batch), for_workers)
            for number, batch in enumerate(batches)
        ]
        for number, future in enumerate(futures):
            try:
                interrupted, answers = False, [_wait_for(future, checkpoints)]
            except KeyboardInterrupt:
                interrupted, answers = True, _interrupt(pools, futures[number:])
            except Stopped:  # every worker writes a checkpoint before this process ends
                _send(pools, signal.SIGTERM)
                wait(futures, timeout=PATIENCE)
                raise
            for answer in answers:
                for warning in answer.warnings:
                    LOG.warning("%s", warning)
                yield from unpack(State(load(answer.tensors), answer.facts))
            if interrupted or any(answer.interrupted for answer in answers):
                raise KeyboardInterrupt


@contextlib.contextmanager
def _pools(setup: Setup) -> Iterator[list[ProcessPoolExecutor]]:
    """A process per device; none goes on alone if an error, or the caller, ends the block early."""
    devices = pick_devices(setup.experiment.device)
    threads = max(1, torch.get_num_threads() // len(devices))
    spawn = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    experiments = [replace(setup.experiment, device=str(device)) for device in devices]
    pools = [
        ProcessPoolExecutor(1, spawn, _start, (experiment, setup.batch, threads))
        for experiment in experiments
    ]
    try:
        yield pools
        for pool in pools:
            pool.shutdown()
    except BaseException:
        _send(pools, signal.SIGTERM)
        for pool in pools:
            pool.shutdown(wait=False, cancel_futures=True)
        raise


def _wait_for(future: Future[_Answer], checkpoints: Checkpoints | None) -> _Answer:
    """Raises `FolderLost`, or `Stopped` if this process or the worker was asked to end."""
    while not wait([future], timeout=SECONDS_BETWEEN_LOOKS).done:
        signals.check()
        if checkpoints and checkpoints.claim:
            checkpoints.claim.check()
    return future.result()


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
_interrupted = False
_warnings = BufferingHandler(sys.maxsize)  # of the batch at work


def _start(experiment: Experiment, batch: int, threads: int) -> None:
    """Prepare the network on this worker's device."""
    global _setup
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C on the terminal goes to the main process alone, which passes it on
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    signals.listen()
    keep_pages()
    torch.set_num_threads(threads)
    LOG.propagate = False  # the main process logs this worker's warnings
    _warnings.setLevel(logging.WARNING)
    LOG.addHandler(_warnings)
    _setup = replace(prepare(experiment), batch=batch)


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _compute(rows: list[int], checkpoints: Checkpoints | None) -> _Answer:
    """One batch; after Ctrl-C the results so far, and none of the batches that follow.

    Raises `Stopped` after a signal that asks to end; the state is in a checkpoint.
    """
    global _setup, _interrupted
    assert _setup is not None  # noqa: S101  (set by _start)
    signals.check()
    _warnings.flush()
    if checkpoints:
        checkpoints = replace(checkpoints, device=_setup.device)
    # On a terminal the bars of several processes would overwrite one another.
    show = not sys.stderr.isatty()
    unit_results = visualize_in_batches(_setup, rows, checkpoints=checkpoints, show_progress=show)
    results: list[UnitResult] = []
    try:
        while not _interrupted:
            results.append(next(unit_results))
    except StopIteration as end:
        _setup = end.value  # with the batch size that fitted in memory, for the next batch
    except KeyboardInterrupt:
        _interrupted = True
    packed = pack(results)
    tensors = save({name: value.contiguous() for name, value in packed.tensors.items()})
    messages = [record.getMessage() for record in _warnings.buffer]
    return _Answer(tensors, packed.facts, messages, _interrupted)
