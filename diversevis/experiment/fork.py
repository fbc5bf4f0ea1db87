"""Processes forked from this one: nothing is imported again, and they begin at once."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import signal
import sys
import warnings
from collections.abc import Iterator

from diversevis.runs import signals

HELD_BACK = {signal.SIGINT, *signals.SIGNALS}  # until a forked process has its answer to them


def is_possible() -> bool:
    """False where a fork is not safe (other systems than Linux), or not allowed."""
    return sys.platform == "linux" and not multiprocessing.current_process().daemon


@contextlib.contextmanager
def forking() -> Iterator[None]:
    """Around what starts processes; signals wait until the block ends, and in a new process until
    `begin`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)
    try:
        with warnings.catch_warnings():  # Python 3.12 warns of the other threads' locks
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def begin() -> None:
    """In the new process, when it has its answers to signals."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_BACK)
    gc.freeze()  # to look at the parent's objects would copy their memory
