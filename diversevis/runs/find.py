"""The run folders below a root, and what their records say.

Made for tens of thousands of folders on a network disk, where most of the time goes into waiting:
a folder is listed once, a file is opened once, and several threads wait at the same time.
"""

from __future__ import annotations

import contextlib
import gc
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from diversevis.errors import InputError
from diversevis.runs import check, files
from diversevis.runs.files import Damaged, Missing
from diversevis.runs.versions import SWEEPS, version_of

THREADS = 8
WAIT = 0.0005  # seconds for an item, from which on threads are worth their price
MOST_AT_ONCE = 64  # items handed over together: handing over takes as long as a small file
NONE: frozenset[str] = frozenset()
WITHIN_A_RUN = frozenset({"images", "analysis", "checkpoint"})  # these hold no further runs
WITHIN_AN_ATLAS = frozenset({"layers", "runs", "pictures", "comparisons"})  # nor do these
ATLAS = "atlas.js"  # a file in the folder of an atlas

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Folder(NamedTuple):
    """A folder: its real path, and its name as seen from where the search began."""

    path: str
    name: str


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run folder, or a folder that cannot be listed; `record` is None where it cannot be used."""

    folder: Path
    record: Mapping[str, Any] | None  # of a finished run without config and versions: for memory
    reason: str | None  # why the record, or the results of a finished run, cannot be used
    changed: float  # when the record was last written, seconds since the epoch

    @property
    def hash(self) -> str | None:
        value = self.record.get("config_hash") if self.record else None
        return value if isinstance(value, str) else None

    @property
    def version(self) -> int:
        """The number of the version; -1 for a folder that was named by hand."""
        number = version_of(self.folder)
        return -1 if number is None else number


def find_runs(starts: Iterable[Path]) -> list[Run]:
    """Every run that makes images at or below `starts`, and every folder that cannot be listed.

    Folders that `analyze` made without a run, and that are deleted meanwhile, are left out.
    """
    folders, closed = find_folders(starts)
    paths = [Path(folder.name) for folder in folders]
    with no_garbage_collection():
        runs = [run for run in in_threads(read_run, paths) if run is not None]
    return [run for run in runs if run.record is None or run.record["n"] is not None] + [
        Run(folder=Path(folder.name), record=None, reason=reason, changed=0.0)
        for folder, reason in closed
        if os.path.lexists(folder.path)
    ]


@contextlib.contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Python looks for no cycles of references within the `with` block: JSON has none, and to look
    through the many objects that its parsing makes takes an eighth of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def newest(runs: Iterable[Run]) -> list[Run]:
    """The newest version of every work in every folder; damaged runs are all returned."""
    latest: dict[Any, Run] = {}
    for run in sorted(runs, key=lambda run: run.version):
        latest[(run.folder.parent, run.hash) if run.hash else run.folder] = run
    return list(latest.values())


def read_run(folder: Path) -> Run | None:
    """The run in `folder`; None where there is no record: it has just been deleted."""
    try:
        record, changed = files.read_record(folder)
    except Missing:
        return None
    except Damaged as reason:
        return Run(folder=folder, record=None, reason=str(reason), changed=0.0)
    if record["status"] != "finished":
        return Run(folder=folder, record=record, reason=None, changed=changed)
    flaw = None
    try:
        check.check(check.read_rest(folder, record, changed))
    except Damaged as reason:
        flaw = str(reason)
    short = {name: value for name, value in record.items() if not isinstance(value, dict)}
    # Damaged measures without images: no `diversevis run` repeats them.
    known = None if flaw and record["n"] is None else short
    return Run(folder=folder, record=known, reason=flaw, changed=changed)


def find_folders_below(root: Path) -> tuple[list[Folder], list[tuple[Folder, str]]]:
    """`find_folders` for a command that needs runs; raises `InputError` where there is none."""
    if not root.is_dir():
        raise InputError(f"{root} is not a folder. Name a run folder, or a folder above several.")
    folders, closed = find_folders([root])
    if not folders:
        why = "".join(f" {folder.name}: {reason}." for folder, reason in closed[:3])
        raise InputError(
            f"{root} holds no run (no run.json, at any depth).{why} Name a folder that "
            "`diversevis run` printed, or a folder above several."
        )
    return folders, closed


def find_folders(starts: Iterable[Path]) -> tuple[list[Folder], list[tuple[Folder, str]]]:
    """Every folder with a run.json at or below `starts`, and those that cannot be listed, with why.

    Links to folders are followed after everything else: never to a folder that was seen already,
    nor to one above `starts`, so that loops end and every run is found once.
    """
    level = {os.path.realpath(start): str(start) for start in starts}  # real path -> name
    roots, seen = list(level), set(level)
    runs: list[Folder] = []
    closed: list[tuple[Folder, str]] = []
    links: list[Folder] = []
    while level:
        below: dict[str, str] = {}
        folders = [Folder(*item) for item in level.items()]
        for folder, listing in zip(folders, in_threads(_list, folders), strict=True):
            if isinstance(listing, str):
                closed.append((folder, listing))
                continue
            is_run, subfolders, linked = listing
            if is_run:
                runs.append(folder)
            below |= (_inside(folder, name) for name in subfolders)
            links += (_inside(folder, name) for name in linked)
        level = {path: name for path, name in below.items() if path not in seen}
        if not level:
            for path, name in links:
                target = os.path.realpath(path)
                is_above = any(f"{root}/".startswith(f"{target}/") for root in roots)
                if target not in seen and not is_above:
                    level.setdefault(target, name)
            links = []
        seen.update(level)
    return runs, closed


def in_threads(
    ask: Callable[[Item], Answer], items: Sequence[Item], most: int = MOST_AT_ONCE
) -> Iterator[Answer]:
    """The answers in the order of the items; a thread is given at most `most` items together.

    A few such parts are answered ahead, and no more, since answers may be large. As long as the
    disk does not have this process wait, there is one thread: several would wait for each other.
    """

    def ask_all(part: Sequence[Item]) -> list[Answer]:
        return [ask(item) for item in part]

    first = 0
    while first < len(items):
        part = items[first : first + most]
        wall, busy = time.perf_counter(), time.thread_time()
        answers = ask_all(part)
        waited = time.perf_counter() - wall - (time.thread_time() - busy)
        yield from answers
        first += len(part)
        if waited > WAIT * len(part):
            break
    left = items[first:]
    size = max(1, min(len(left) // (4 * THREADS), most))
    waiting: deque[Future[list[Answer]]] = deque()
    with ThreadPoolExecutor(THREADS) as pool:
        for first in range(0, len(left), size):
            waiting.append(pool.submit(ask_all, left[first : first + size]))
            if len(waiting) > 2 * THREADS:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def _list(folder: Folder) -> tuple[bool, list[str], list[str]] | str:
    """Whether the folder is a run's, and its subfolders and links to folders, or why it cannot be
    listed. The disk is asked for the list only, not about every entry."""
    is_run = is_atlas = False
    folders: list[str] = []
    links: list[str] = []
    try:
        with os.scandir(folder.path) as entries:
            for entry in entries:
                if entry.name == "run.json":
                    is_run = True
                elif entry.name == ATLAS:
                    is_atlas = True
                elif entry.name.startswith(".") or entry.name == SWEEPS:
                    continue
                elif entry.is_dir(follow_symlinks=False):
                    folders.append(entry.name)
                elif entry.is_symlink() and os.path.isdir(entry.path):  # noqa: PTH112
                    links.append(entry.name)
    except OSError as error:
        return f"the folder cannot be listed ({error.strerror})"
    skipped = (WITHIN_A_RUN if is_run else NONE) | (WITHIN_AN_ATLAS if is_atlas else NONE)
    return is_run, sorted({*folders} - skipped), sorted({*links} - skipped)


def _inside(folder: Folder, name: str) -> Folder:
    return Folder(f"{folder.path.rstrip('/')}/{name}", f"{folder.name.rstrip('/')}/{name}")
