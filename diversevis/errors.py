"""What a person typed is wrong: said in one paragraph that names the value and the way out."""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable


class InputError(Exception):
    """A value given by the user cannot be used; the message says which and what to do instead."""


def suggest(name: str, choices: Iterable[str], *, limit: int = 12) -> str:
    """Words that end an error: the names nearest to `name`, or the first `limit` choices."""
    choices = list(choices)
    near = difflib.get_close_matches(name, choices, n=4, cutoff=0.6)
    if near:
        return "Did you mean " + " or ".join(near) + "?"
    shown = ", ".join(choices[:limit])
    return f"Choose from: {shown}" + (", ..." if len(choices) > limit else ".")


class FolderLost(Exception):
    """A run's folder was deleted under it, or another process holds it by now."""


class Stopped(BaseException):
    """The system asked this process to end (SIGTERM, SIGUSR1, SIGUSR2), and it is ready to."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class SweepUnfinished(Exception):
    """A sweep has come to its end, and some of its work has not; the message counts it."""
