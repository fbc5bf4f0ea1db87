"""The folder of an atlas: whose it is, who writes to it, and what is deleted in it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from diversevis.config.log import note
from diversevis.errors import InputError
from diversevis.runs.find import ATLAS, WITHIN_AN_ATLAS

STYLE = "atlas.css"
FOLDERS = sorted(WITHIN_AN_ATLAS)
NAMES = (*FOLDERS, "index.html", ATLAS, STYLE)
MARK = b"/* diversevis atlas */\n"  # the first line of the first file that is written
GENERATOR = b'content="diversevis atlas"'  # in the head of every page
DIGEST = re.compile(r"[0-9a-f]{16}")
SLUG = re.compile(r"[A-Za-z0-9._-]+-[0-9a-f]{8}")
MADE = {"layers": SLUG, "comparisons": SLUG, "runs": DIGEST, "pictures": DIGEST}
UNFINISHED = re.compile(r"\.(.+)\.[0-9]+")  # what a process writes under another name


def prepare(out: Path) -> None:
    """Make the folder; raises `InputError` where it cannot be an atlas's.

    It may hold other files, but none with a name that an atlas needs, and no link that would have
    files written elsewhere.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"out={out}: the folder cannot be made ({error.strerror}). Choose one that "
            "can be written, out=/some/where."
        ) from error
    if (out / "run.json").exists():
        raise InputError(f"out={out} is a run's folder: choose another, such as out={out}/atlas.")
    for link in (*_links(out, NAMES), *(x for name in FOLDERS for x in _links(out / name))):
        raise InputError(
            f"{link} is a link: an atlas writes into no folder but {out}. Remove the link, or "
            "choose another folder, out=/some/where."
        )
    if (taken := [name for name in NAMES if (out / name).exists()]) and not _is_atlas(out):
        raise InputError(
            f"out={out} holds {taken[0]}, which is not of an atlas: it stays as it is. Choose "
            "another folder, out=/some/where."
        )


def _links(folder: Path, names: Collection[str] = ()) -> list[Path]:
    """The links in a folder, or those of them that have one of these names."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        return [
            folder / entry.name
            for entry in entries
            if entry.is_symlink() and (not names or entry.name in names)
        ]
    return []


def _is_atlas(out: Path) -> bool:
    for name, mark in ((STYLE, MARK), ("index.html", GENERATOR)):
        with contextlib.suppress(OSError), (out / name).open("rb") as file:
            if mark in file.read(2**12):
                return True
    return False


class Claim:
    """The right to write to an atlas, which a process has until it ends, or `leave` is called."""

    def __init__(self, out: Path) -> None:
        self.waited = self.alone = False
        self._descriptor: int | None = os.open(out, os.O_RDONLY | os.O_DIRECTORY)
        with contextlib.suppress(OSError):  # some network disks have no locks
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.waited = True
                note(f"another process writes {out}: this command waits until it is done")
                fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            self.alone = True

    def leave(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __del__(self) -> None:
        self.leave()


def delete_outdated(out: Path, wanted: Mapping[str, Collection[str]], *, alone: bool) -> None:
    """Delete folders of an atlas other than the wanted, and nothing that it has not made.

    alone  no other process writes here: what is unfinished was left by processes that have died
    """
    if alone:
        _delete_unfinished(out, re.compile("|".join(map(re.escape, NAMES))))
    for name, pattern in MADE.items():
        if alone:
            _delete_unfinished(out / name, pattern)
        for path in _inside(out / name):
            if not pattern.fullmatch(path.name):
                continue
            if path.name not in wanted[name]:
                shutil.rmtree(path, ignore_errors=True)
            elif alone:
                _delete_unfinished(path, re.compile(".+"))


def _delete_unfinished(folder: Path, names: re.Pattern[str]) -> None:
    for path in _inside(folder):
        match = UNFINISHED.fullmatch(path.name)
        if match and names.fullmatch(match[1]):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _inside(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from [*folder.iterdir()]
