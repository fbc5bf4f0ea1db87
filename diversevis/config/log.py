"""The program's log on the screen."""

from __future__ import annotations

import logging
import sys


class _Stderr(logging.Handler):
    """Looks up sys.stderr for every line, since tests and launchers replace it."""

    def emit(self, record: logging.LogRecord) -> None:
        print(f"diversevis: {record.getMessage()}", file=sys.stderr)


def show_warnings() -> None:
    """Print warnings on stderr from now on; the run folder's log has all messages."""
    log = logging.getLogger("diversevis")
    log.setLevel(logging.INFO)
    log.propagate = False  # Hydra has the root logger print too
    if not log.handlers:
        log.addHandler(_Stderr(logging.WARNING))
