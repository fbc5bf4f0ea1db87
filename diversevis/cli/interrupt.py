"""Ctrl-C before a command has begun, and after it has ended: the process leaves at once.

Python's answer to Ctrl-C is an exception. While modules are imported, some in C, it may be
swallowed, or end in a traceback; and so it may while Python shuts down. There nothing is half-done.
"""

from __future__ import annotations

import os
import signal
from types import FrameType

_status: int | None = None  # of a command that has ended


def leave_at_once(status: int | None = None) -> None:
    """Ctrl-C ends the process from now on: with a line, or with the status of the ended command.

    No effect where Ctrl-C does not have Python's meaning, such as under nohup, which ignores it.
    """
    global _status
    _status = status
    if signal.getsignal(signal.SIGINT) in (signal.default_int_handler, _leave):
        signal.signal(signal.SIGINT, _leave)


def work_begins() -> None:
    """Ctrl-C is an exception from now on: there may be files to finish."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave(number: int, frame: FrameType | None) -> None:
    if _status is None:
        os.write(2, b"diversevis: interrupted. Nothing had begun.\n")
    os._exit(130 if _status is None else _status)
