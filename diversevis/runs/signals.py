"""Signals that ask to end: heard at once, heeded where what there is can be kept.

Slurm sends SIGTERM to what it preempts, cancels or ends; launchers have it send SIGUSR2 (or
SIGUSR1) some time before a job's time limit, and then queue the job again. The handlers here only
take note. Whoever works calls `check` where its state is whole and on disk.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from diversevis.errors import Stopped

SIGNALS = signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2

_asked: int | None = None
_interrupted = False


def asked() -> int | None:
    """The signal that has asked this process to end, if one has."""
    return _asked


def check() -> None:
    """Raises `Stopped` where this process has been asked to end."""
    if _asked is not None:
        raise Stopped(_asked)


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Signals to end are taken note of instead of ending the process; only in the main thread.

    On the way out they are handed to whoever would have heard them, such as a launcher that then
    has the cluster start the job again.
    """
    global _asked
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _asked = None
    before = {number: signal.signal(number, _hear) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        heard = asked()
        _asked = None
        if heard is not None and callable(theirs := before[signal.Signals(heard)]):
            theirs(heard, None)


def _hear(number: int, frame: FrameType | None) -> None:
    global _asked
    if _asked in (None, signal.SIGTERM):  # the others have a launcher queue the job again
        _asked = number


def interrupted() -> bool:
    """Whether Ctrl-C waits to be heeded."""
    return _interrupted


def check_interrupted() -> None:
    """Raises `KeyboardInterrupt` where Ctrl-C waits to be heeded."""
    global _interrupted
    if _interrupted:
        _interrupted = False
        raise KeyboardInterrupt


@contextlib.contextmanager
def patient() -> Iterator[None]:
    """Ctrl-C waits until `check_interrupted`, where the state is whole; a second one does not.

    Only in the main thread, and not where Ctrl-C is ignored.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return

    def hear(number: int, frame: FrameType | None) -> None:
        global _interrupted
        if _interrupted:
            _interrupted = False
            before(number, frame)
        _interrupted = True

    signal.signal(signal.SIGINT, hear)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
