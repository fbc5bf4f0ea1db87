"""The units of one run shared between several devices of one machine, one process each."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace

import torch

from diversevis import machine
from diversevis.batches import Finished, visualize_in_batches
from diversevis.prepare import Setting, pick_devices, prepare
from diversevis.settings import Experiment

PATIENCE = 60.0  # seconds that interrupted processes have to hand over what they have
Answer = tuple[list[Finished], bool]  # results, and whether Ctrl-C cut them short


def visualize_on_devices(setting: Setting) -> Iterator[Finished]:
    """Every unit of `setting`, in order, whichever device computed it.

    The batches are those of a single device, dealt out in turn, so results are the same. Raises
    `KeyboardInterrupt` after the last of those that Ctrl-C let finish.
    """
    devices = pick_devices(setting.experiment.device)
    threads = max(1, torch.get_num_threads() // len(devices))
    context = multiprocessing.get_context("spawn")
    pools = [
        ProcessPoolExecutor(
            max_workers=1,
            mp_context=context,
            initializer=_begin,
            initargs=(replace(setting.experiment, device=str(device)), setting.batch, threads),
        )
        for device in devices
    ]
    batches = setting.batches(range(len(setting.targets.units)), at_least=len(devices))
    answers = [
        pools[place % len(pools)].submit(_work, list(rows)) for place, rows in enumerate(batches)
    ]
    try:
        for answer in answers:
            found, interrupted = _wait(answer, pools, answers)
            yield from found
            if interrupted:
                raise KeyboardInterrupt
    finally:
        for pool in pools:
            pool.shutdown(wait=False, cancel_futures=True)


def _wait(
    answer: Future[Answer], pools: list[ProcessPoolExecutor], answers: list[Future[Answer]]
) -> Answer:
    """The answer; after Ctrl-C all that the processes at work have to give."""
    try:
        return answer.result()
    except KeyboardInterrupt:
        found: list[Finished] = []
        for other in answers:
            other.cancel()
        for pool in pools:
            for process in list((pool._processes or {}).keys()):
                os.kill(process, signal.SIGINT)
        for other in answers[answers.index(answer) :]:
            if not other.cancelled():
                try:
                    found += other.result(timeout=PATIENCE)[0]
                except (BrokenProcessPool, KeyboardInterrupt, TimeoutError):
                    continue
        return found, True


_setting: Setting | None = None  # of this worker process


def _begin(experiment: Experiment, batch: int, threads: int) -> None:
    """What a worker process does first: away from the terminal's Ctrl-C, which its parent hears."""
    global _setting
    if hasattr(os, "setsid"):
        os.setsid()
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    machine.keep_pages()
    torch.set_num_threads(threads)
    _setting = replace(prepare(experiment), batch=batch)


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _work(rows: list[int]) -> Answer:
    assert _setting is not None  # noqa: S101  (set by _begin)
    found: list[Finished] = []
    try:
        for one in visualize_in_batches(_setting, rows):
            found.append(one)
    except KeyboardInterrupt:
        return found, True
    return found, False
