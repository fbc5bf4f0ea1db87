"""What the program says on the screen, besides its output: notes and warnings, on stderr."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator

from diversevis.errors import plain_lines


def note(text: str) -> None:
    print(f"diversevis: {plain_lines(text)}", file=sys.stderr)


class _Notes(logging.Handler):
    """Looks up sys.stderr for every line, since tests and launchers replace it."""

    def emit(self, record: logging.LogRecord) -> None:
        note(record.getMessage())


def show_warnings() -> None:
    """Print warnings from now on; the run folder's log has all messages."""
    log = logging.getLogger("diversevis")
    log.setLevel(logging.INFO)
    log.propagate = False  # Hydra has the root logger print too
    if not log.handlers:
        log.addHandler(_Notes(logging.WARNING))


@contextlib.contextmanager
def warnings_shown() -> Iterator[None]:
    """Print warnings within the `with` block; afterwards the program's log is as it was."""
    log = logging.getLogger("diversevis")
    level, propagate, handlers = log.level, log.propagate, [*log.handlers]
    show_warnings()
    try:
        yield
    finally:
        log.setLevel(level)
        log.propagate, log.handlers = propagate, handlers
