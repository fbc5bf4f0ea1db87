"""Errors with a message for the user: a paragraph that names the value and the remedy."""

from __future__ import annotations

import difflib
import re
import signal
from collections.abc import Iterable

# Errors and file names may hold terminal commands: of a program's output, or a damaged file.
ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # colours, the cursor
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f]).*?(?:\x07|\x1b\\|\x9c|$)"  # titles, links, commands
    r"|\x1b[ -/]*.?",
    re.DOTALL,
)


class InputError(Exception):
    """A value from the user cannot be used; the message names it and says what to do instead."""


def printable(text: object) -> str:
    """The text in a line: line breaks and what cannot be printed are written as escapes."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


def suggest(name: str, choices: Iterable[str], *, limit: int = 12) -> str:
    """The end of an error message: names similar to `name`, or the first `limit` choices."""
    choices = list(choices)
    near = difflib.get_close_matches(name, choices, n=4, cutoff=0.6)
    if near:
        return "Did you mean " + " or ".join(near) + "?"
    return "Choose from: " + ", ".join(choices[:limit]) + (", ..." if choices[limit:] else ".")


def plain(text: str) -> str:
    """The text on a line, without what changes a terminal's colours, title or direction."""
    text = ESCAPES.sub("", text).replace("\t", " ").replace("\n", " ")
    return "".join(character for character in text if character.isprintable())


def plain_lines(text: str) -> str:
    """The text on its lines, as `plain` gives them."""
    return "\n".join(map(plain, text.split("\n")))


class FolderLost(Exception):
    """The folder of a running run was deleted, or another process has taken the run over."""


class Stopped(BaseException):
    """This process was asked to end (SIGTERM, SIGUSR1, SIGUSR2) and has saved its state."""

    def __init__(self, number: int) -> None:
        super().__init__(number)  # the argument again, so that it can be pickled
        self.number = number

    def __str__(self) -> str:
        return signal.Signals(self.number).name


class WorkFailed(Exception):
    """The work could not be done, for no fault of the input; the message says what to do."""


class SweepUnfinished(Exception):
    """A sweep has ended and some of its runs are unfinished; the message counts them."""
