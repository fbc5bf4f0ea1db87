"""The versions v001, v002, ... of a work: the folder that holds them, their list, a new one."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from diversevis.errors import InputError

SWEEPS = "multirun"  # the folder below the root with the records of sweeps
LONGEST_NAME = 100  # characters of a folder's name; most disks allow 255 bytes


def work_folder(root: Path, where: Sequence[str]) -> Path:
    """The folder that holds a work's versions: `root`/network/layer/units."""
    names = [re.sub(r"[^A-Za-z0-9._,-]", "_", name).strip(".")[:LONGEST_NAME] for name in where]
    return root.joinpath(*(name or "_" for name in names))


def version_of(folder: Path | str) -> int | None:
    """1 for a folder v001; None for a folder with another name."""
    match = re.fullmatch(r"v([0-9]{3,9})", Path(folder).name)
    return int(match[1]) if match else None


def versions_in(work: Path) -> list[tuple[int, Path]]:
    """Number and folder of every version in `work`, newest first."""
    numbered = []
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for path in work.iterdir():
            if (number := version_of(path)) is not None:
                numbered.append((number, path))
    return sorted(numbered, reverse=True)


def create_version(
    work: Path, number: int, fill: Callable[[Path, Path], None], root: str | None = None
) -> Path | None:
    """Make version `number` in `work`; it appears with all its files in one step (a rename).

    `fill` writes the files: it is called with the folder to write to, and the path it will have.
    None if this version exists: another process may have made the same work. Raises `InputError`
    where the folder cannot be made.
    """
    beside = work / f".new-{secrets.token_hex(8)}"
    path = work / f"v{number:03d}"
    try:
        beside.mkdir(parents=True)
        fill(beside, path)
        beside.rename(path)  # fails if this version exists, since it has files
    except OSError as error:
        if error.errno == errno.ENOTEMPTY or (
            error.errno == errno.EEXIST and os.path.lexists(path)
        ):
            return None
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        given = work.parents[2] if root is None else root
        raise InputError(
            f"root={given}: the run folder {work} cannot be made ({error.strerror}). "
            "Choose a folder that can be written, root=/some/where."
        ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return path
