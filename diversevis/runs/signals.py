"""Signals that ask this process to end: noted when they arrive, obeyed once its state is saved.

Slurm sends SIGTERM to jobs that it preempts, cancels or ends; launchers make it send SIGUSR2 (or
SIGUSR1) some time before a job's time limit, and then queue the job again. The handlers here only
note the signal. The code at work calls `check` at points where its state is complete and on disk.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from diversevis.errors import Stopped

SIGNALS = signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2

Handler = Callable[[int, FrameType | None], Any] | int | None  # as `signal.getsignal` returns it

_asked: int | None = None
_interrupted = False


def check() -> None:
    """Raises `Stopped` if a signal asked this process to end."""
    if _asked is not None:
        raise Stopped(_asked)


def listen() -> dict[signal.Signals, Handler]:
    """Note signals to end instead of dying of them; returns the previous handlers."""
    global _asked
    _asked = None
    return {number: signal.signal(number, _note) for number in SIGNALS}


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Listen within the `with` block; no effect outside the main thread.

    At the end a signal that arrived is passed on to the previous handler, such as a launcher's,
    which has the cluster queue the job again.
    """
    global _asked
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = listen()
    try:
        yield
    finally:
        for number, handler in previous.items():
            # A handler that was installed from C (None) cannot be restored from Python.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        received, _asked = _asked, None
        if received is not None and callable(handler := previous[signal.Signals(received)]):
            handler(received, None)


def _note(number: int, frame: FrameType | None) -> None:
    global _asked
    if _asked in (None, signal.SIGTERM):  # after the other two a launcher queues the job again
        _asked = number


def is_waiting() -> bool:
    """Whether a signal to end, or a deferred Ctrl-C, waits to be obeyed."""
    return _asked is not None or _interrupted


def raise_if_interrupted() -> None:
    """Raises `KeyboardInterrupt` if a deferred Ctrl-C is waiting."""
    global _interrupted
    if _interrupted:
        _interrupted = False
        raise KeyboardInterrupt


@contextlib.contextmanager
def defer_sigint() -> Iterator[None]:
    """Ctrl-C waits until `raise_if_interrupted` is called; a second Ctrl-C acts at once.

    No effect outside the main thread, or where Ctrl-C has no handler in Python: it is ignored (as
    in `nohup`), ends the process, or was taken over by a program in C that embeds Python.
    """
    previous = signal.getsignal(signal.SIGINT)

    def defer(number: int, frame: FrameType | None) -> None:
        global _interrupted
        if _interrupted:
            _interrupted = False
            previous(number, frame)  # type: ignore[operator]
        _interrupted = True

    with _sigint_handler(defer) if callable(previous) else contextlib.nullcontext():
        yield


def ignore_sigint() -> contextlib.AbstractContextManager[None]:
    """Ctrl-C has no effect, so that files are written to the end; a program in C keeps its own."""
    return _sigint_handler(signal.SIG_IGN)


@contextlib.contextmanager
def _sigint_handler(handler: Handler) -> Iterator[None]:
    previous = signal.getsignal(signal.SIGINT)
    in_main_thread = threading.current_thread() is threading.main_thread()
    if previous is None or not in_main_thread:  # None: from C, it could not be restored
        yield
        return
    signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
