"""Files that are written completely or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path, *, new_parents: bool = True) -> Iterator[Path]:
    """A temporary path beside `path` to write to, which replaces `path` once it is safely on disk.

    new_parents  make missing folders above it
    """
    if new_parents:
        path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield beside
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        if error.errno is not None and error.filename is None:  # a full disk: no path is given
            error.filename = str(path)
        raise
    finally:
        beside.unlink(missing_ok=True)
