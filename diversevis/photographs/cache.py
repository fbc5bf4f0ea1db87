"""Results over photographs, remembered between commands: in XDG_CACHE_HOME, else in ~/.cache."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

LOG = logging.getLogger("diversevis")
CHECKSUM = 32  # bytes of a SHA-256 before the content: a damaged file is computed again

_warned: set[str] = set()


def warn_once(message: str) -> None:
    """Log a warning that this process has not logged yet."""
    if message not in _warned:
        _warned.add(message)
        LOG.warning("%s", message)


def read(name: str) -> bytes | None:
    """The content written under this name; None without such a file, or with a damaged file."""
    folder = _folder()
    try:
        stored = b"" if folder is None else (folder / name).read_bytes()
    except OSError:
        return None
    content = stored[CHECKSUM:]
    return content if stored[:CHECKSUM] == hashlib.sha256(content).digest() else None


def write(name: str, content: bytes) -> None:
    """Remember the content under this name; where that is impossible, a warning says why.

    By renaming: other processes may read or write the same file at the same time.
    """
    folder = _folder()
    if folder is None:
        warn_once(f"{_NO_CACHE}: there is no home folder. XDG_CACHE_HOME can name another folder")
        return
    temporary = folder / f"{name}.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(hashlib.sha256(content).digest() + content)
            temporary.replace(folder / name)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        reason = error.strerror or type(error).__name__
        warn_once(f"{_NO_CACHE}: {folder} cannot be written ({reason})")


_NO_CACHE = "what was computed over photographs is not remembered for the next command"


def _folder() -> Path | None:
    """None for a user without a home folder."""
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return None
    return base / "diversevis" if base.is_absolute() else None
