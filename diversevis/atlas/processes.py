"""Works in several processes, which end with the first process, however it ends."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection

from diversevis.errors import WorkFailed

FEW = 8  # units up to which no further processes are started: to start them takes 3 seconds

Work = Callable[[], "str | None"]
Counted = tuple[Work, int]  # with the number of its units
Answer = tuple[int, "str | None"]


def answers(works: Sequence[Counted]) -> Generator[Answer, None, None]:
    """Position and answer of every work, as they come; to be closed where they are not all taken.

    Raises `WorkFailed` where a process dies.
    """
    processes = min(_processors(), len(works))
    if processes <= 1 or sum(units for _, units in works) <= FEW:
        for position, (work, _) in enumerate(works):
            yield position, work()
        return
    context = multiprocessing.get_context("spawn")
    reader, writer = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(processes, context, initializer=_begin, initargs=(reader,))
    try:
        with reader, writer, pool:
            try:
                yield from _in_pool(pool, works, processes)
            except BaseException:
                writer.close()  # all processes end, whatever they do
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    except BrokenProcessPool as error:
        raise WorkFailed(
            "A process of this command was ended from outside, most often because the memory was "
            "full. What is done stays: the same command continues. It needs least memory on a "
            "single processor: `taskset -c 0 diversevis ...`."
        ) from error


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _in_pool(
    pool: ProcessPoolExecutor, works: Sequence[Counted], processes: int
) -> Iterator[Answer]:
    waiting: dict[Future[str | None], int] = {}
    for position, (work, _) in enumerate(works):
        with _ctrl_c_held():
            waiting[pool.submit(work)] = position
        while len(waiting) > 4 * processes:
            yield from _ended(waiting)
    while waiting:
        yield from _ended(waiting)


def _ended(waiting: dict[Future[str | None], int]) -> Iterator[Answer]:
    done, _ = wait(waiting, return_when=FIRST_COMPLETED)
    for future in done:
        yield waiting.pop(future), future.result()


@contextlib.contextmanager
def _ctrl_c_held() -> Iterator[None]:
    """Ctrl-C waits within the `with` block; a process that is started there never gets it.

    Ctrl-C is for all processes of a terminal, and those that still import modules would end in
    tracebacks.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(reader: Connection) -> None:
    """In a new process: a single thread, since it has others beside it; and it ends as soon as the
    other end of the pipe is closed, or the process that holds it is gone."""
    import torch

    threading.Thread(target=_end_with, args=(reader,), daemon=True).start()
    torch.set_num_threads(1)


def _end_with(reader: Connection) -> None:
    with contextlib.suppress(EOFError, OSError):
        reader.recv_bytes()
    os._exit(1)
