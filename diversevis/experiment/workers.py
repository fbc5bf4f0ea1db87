"""The units of one run shared between several devices of one machine, one process each."""

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
from concurrent.futures import TimeoutError as NoAnswer
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diversevis.errors import Stopped
from diversevis.experiment.batches import batches_left, done_before, visualize_in_batches
from diversevis.experiment.finished import Finished
from diversevis.experiment.progress import Progress
from diversevis.method.device import keep_pages, pick_devices
from diversevis.method.settings import Experiment
from diversevis.method.setup import Setup, prepare
from diversevis.method.visualize import Visualization
from diversevis.runs import signals
from diversevis.runs.checkpoints import Checkpoints

LOG = logging.getLogger("diversevis")
PATIENCE = 60.0  # seconds that interrupted processes have to hand over what they have
SECONDS_BETWEEN_LOOKS = 0.5


class _Answer(NamedTuple):
    """What a process has to say about one batch."""

    packed: list[tuple[dict[str, Any], list[Any]]]
    warnings: list[str]
    interrupted: bool
    stopped: bool = False


def visualize_on_devices(
    setup: Setup, checkpoints: Checkpoints | None = None
) -> Iterator[Finished]:
    """Every unit of `setup`, whichever device computed it: first those done before.

    The batches are dealt out in turn; which units share one changes nothing. Raises
    `KeyboardInterrupt` after the last of those that Ctrl-C let finish; `Stopped` where the system
    asked this process to end.
    """
    devices = pick_devices(setup.experiment.device)
    threads = max(1, torch.get_num_threads() // len(devices))
    rows = range(len(setup.targets.units))
    done = done_before(checkpoints, rows)
    yield from done
    batches = batches_left(setup, rows, done, checkpoints, devices=len(devices))
    away = replace(checkpoints, claim=None) if checkpoints else None
    pools: list[ProcessPoolExecutor] = []
    try:
        for device in devices:
            experiment = replace(setup.experiment, device=str(device))
            pools.append(_pool(experiment, setup.batch, threads))
        answers = [
            pools[place % len(pools)].submit(_work, list(rows), away)
            for place, rows in enumerate(batches)
        ]
        for place, answer in enumerate(answers):
            try:
                given = [_patiently(answer, checkpoints)]
            except KeyboardInterrupt:
                given = _hasten(pools, answers[place:], signal.SIGINT)
            except Stopped:  # every process keeps its state, then this one goes
                _hasten(pools, answers[place:], signal.SIGTERM)
                raise
            for one in given:
                for warning in one.warnings:
                    LOG.warning("%s", warning)
                yield from (_unpack(*packed) for packed in one.packed)
            if any(one.interrupted for one in given):
                raise KeyboardInterrupt
        for pool in pools:
            pool.shutdown()
    except BaseException:  # whatever ends it early, be it the reader's, no process goes on alone
        _signal(pools, signal.SIGTERM)
        for pool in pools:
            pool.shutdown(wait=False, cancel_futures=True)
        raise


def _pool(experiment: Experiment, batch: int, threads: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(
        max_workers=1,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin,
        initargs=(experiment, batch, threads),
    )


def _patiently(answer: Future[_Answer], checkpoints: Checkpoints | None) -> _Answer:
    """The answer, unless something else asks for this process meanwhile."""
    while not wait([answer], timeout=SECONDS_BETWEEN_LOOKS).done:
        signals.check()
        if checkpoints and checkpoints.claim:
            checkpoints.claim.check()
    given = answer.result()
    if given.stopped:  # the system spoke to the process there first
        raise Stopped(signal.SIGTERM)
    return given


def _hasten(
    pools: Sequence[ProcessPoolExecutor], answers: Sequence[Future[_Answer]], number: int
) -> list[_Answer]:
    """After Ctrl-C: what the processes at work have so far."""
    _signal(pools, number)
    given = [_Answer([], [], interrupted=True)]
    deadline = time.monotonic() + PATIENCE
    for answer in answers:
        if not answer.cancel():
            with contextlib.suppress(NoAnswer, Exception):  # a process may have been killed
                given.append(answer.result(timeout=max(0.0, deadline - time.monotonic())))
    return given


def _signal(pools: Sequence[ProcessPoolExecutor], number: int) -> None:
    for pool in pools:
        for process in list(pool._processes or {}):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)


# From here on: what runs in a worker process.

_setting: Setup | None = None
_interrupted = False
_hearing = contextlib.ExitStack()


def _begin(experiment: Experiment, batch: int, threads: int) -> None:
    """First, away from the terminal's Ctrl-C, which the parent hears."""
    global _setting
    if hasattr(os, "setsid"):
        os.setsid()
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    _hearing.enter_context(signals.listening())
    keep_pages()
    torch.set_num_threads(threads)
    _setting = replace(prepare(experiment), batch=batch)


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _work(rows: list[int], checkpoints: Checkpoints | None) -> _Answer:
    """One batch; after Ctrl-C what there is of it, and nothing of those that were to follow."""
    global _interrupted, _setting
    assert _setting is not None  # noqa: S101  (set by _begin)
    done: list[tuple[dict[str, Any], list[Any]]] = []
    heard: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    LOG.addHandler(handler)
    LOG.propagate = False
    optimizer = _setting.experiment.optimizer
    progress = (
        None
        if sys.stderr.isatty()  # where several bars would be drawn over one another
        else Progress(len(rows), optimizer.search_steps, optimizer.steps)
    )

    def remember(setup: Setup) -> None:
        global _setting
        _setting = setup

    try:
        if not _interrupted:
            signals.check()
            if checkpoints:
                checkpoints = replace(checkpoints, device=_setting.device)
            for one in visualize_in_batches(
                _setting, rows, progress, checkpoints=checkpoints, halved=remember
            ):
                done.append(_pack(one))
    except KeyboardInterrupt:
        _interrupted = True
    except Stopped:
        return _Answer([], heard, _interrupted, stopped=True)
    finally:
        LOG.removeHandler(handler)
    return _Answer(done, heard, _interrupted)


def _pack(one: Finished) -> tuple[dict[str, Any], list[Any]]:
    """Plain arrays: tensors would be sent through shared memory, of which there may be little."""
    fields = vars(one.visualization)
    arrays = {
        "images": fields["images"].numpy().copy(),
        "responses": fields["responses"].numpy().copy(),
        "trace": {name: values.numpy().copy() for name, values in fields["trace"].items()},
    }
    return fields | arrays, one.frames


def _unpack(fields: dict[str, Any], frames: list[Any]) -> Finished:
    tensor = torch.from_numpy
    trace: dict[str, Tensor] = {name: tensor(values) for name, values in fields["trace"].items()}
    tensors = {
        "images": tensor(fields["images"]), "responses": tensor(fields["responses"]),
        "trace": trace,
    }  # fmt: skip
    return Finished(Visualization(**(fields | tensors)), frames)
