"""Which files a folder of photographs holds, through links as well, and what is no photograph."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from diversevis.photographs.files import SUFFIXES


@dataclass(frozen=True)
class Listing:
    """Names are relative to the folder.

    files       image files by their suffix, sorted; a file reached in several ways is there once
    unreadable  what cannot be reached, name -> reason
    others      files of other kinds
    state       hash of names, sizes, times and inodes: it changes whenever a file does
    """

    files: tuple[str, ...]
    unreadable: dict[str, str]
    others: tuple[str, ...]
    state: str


def list_files(folder: Path) -> Listing:
    """The files below a folder, without hidden files and folders."""
    files, others = list[str](), list[str]()
    unreadable, known = dict[str, str](), set[str]()
    state = hashlib.sha256()

    def refuse(error: OSError) -> None:
        unreadable[os.path.relpath(error.filename, folder)] = error.strerror or str(error)

    for directory, real, names in _walk(folder, refuse):
        below = os.path.relpath(directory, folder)
        for name in names:
            path, relative = Path(directory, name), name if below == "." else f"{below}/{name}"
            if not name.lower().endswith(SUFFIXES):
                others.append(relative)
                continue
            try:
                facts = path.stat()
            except OSError as error:
                dead = isinstance(error, FileNotFoundError)
                unreadable[relative] = "a link to nothing" if dead else error.strerror or str(error)
                continue
            target = os.path.realpath(path) if path.is_symlink() else f"{real}/{name}"
            if not stat.S_ISREG(facts.st_mode):
                unreadable[relative] = "no regular file"
            elif target not in known:
                known.add(target)
                files.append(relative)
                times = facts.st_mtime_ns, facts.st_ctime_ns
                row = (relative, facts.st_size, *times, facts.st_dev, facts.st_ino)
                state.update(repr(row).encode())
    state.update(repr((unreadable, others)).encode())
    return Listing(tuple(sorted(files)), unreadable, tuple(sorted(others)), state.hexdigest())


def _walk(folder: Path, refuse: Callable[[OSError], None]) -> Iterator[tuple[str, str, list[str]]]:
    """Path, real path and names of files, sorted, of every folder; each once, though links may
    lead to it again."""
    known: set[str] = set()
    for directory, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        real = os.path.realpath(directory)
        if real in known:
            folders.clear()
            continue
        known.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield directory, real, sorted(name for name in names if not name.startswith("."))
