"""What the program says while it works."""

from __future__ import annotations

import logging
import sys


class _ToPerson(logging.Handler):
    """Warnings go to stderr; the run folder's log has more."""

    def emit(self, record: logging.LogRecord) -> None:
        print(f"diversevis: {record.getMessage()}", file=sys.stderr)


def speak() -> None:
    log = logging.getLogger("diversevis")
    log.setLevel(logging.INFO)
    log.propagate = False  # Hydra has the root logger print too
    if not log.handlers:
        log.addHandler(_ToPerson(logging.WARNING))
