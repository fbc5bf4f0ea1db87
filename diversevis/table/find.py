"""The run folders below a root, and the content of their two JSON files.

Made for tens of thousands of folders on a network's disk: a folder is listed once, a file opened
once, and several at a time, since there it is the waiting that takes long.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import NamedTuple, TypeVar

AT_ONCE = 8  # folders that are asked for at the same time
LARGEST = 256 * 2**20  # bytes; a layer of 4096 units with all measures and seeds has 50 MiB
NO_RUNS = frozenset({"multirun"})  # Hydra's records of sweeps
NO_RUNS_WITHIN_A_RUN = frozenset({"images", "analysis", "checkpoint"})

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class LeftOut(Exception):
    """Why a folder is not in the table, in one line."""


class Place(NamedTuple):
    """A folder: where it really is, and its name as seen from the root, "" for the root itself."""

    path: str
    name: str


class Found(NamedTuple):
    """The content of a run folder's run.json and metrics.json, or why there is none."""

    place: Place
    record: bytes | LeftOut
    metrics: bytes | LeftOut


class _Listing(NamedTuple):
    is_run: bool
    folders: list[Place]
    links: list[Place]


def find_runs(root: Path, pool: Executor) -> tuple[list[Place], list[tuple[Place, LeftOut]]]:
    """Every folder with a run.json at or below `root`, and the folders that cannot be listed.

    Links to folders are followed once all else is known: never to a folder that was seen already,
    nor to one above `root`, so that loops end and every run is there once.
    """
    start = os.path.realpath(root)
    runs: list[Place] = []
    closed: list[tuple[Place, LeftOut]] = []
    links: list[Place] = []
    level, seen = [Place(start, "")], {start}
    while level:
        below: list[Place] = []
        for place, listing in zip(level, _ahead(_list, level, pool), strict=True):
            if isinstance(listing, LeftOut):
                closed.append((place, listing))
                continue
            if listing.is_run:
                runs.append(place)
            below += listing.folders
            links += listing.links
        if not below:
            below = [Place(os.path.realpath(link.path), link.name) for link in links]
            below = [place for place in below if not f"{start}/".startswith(f"{place.path}/")]
            links = []
        fresh: dict[str, Place] = {}
        for place in below:
            if place.path not in seen:
                fresh.setdefault(place.path, place)
        level = list(fresh.values())
        seen.update(fresh)
    return runs, closed


def read_runs(places: Iterable[Place], pool: Executor) -> Iterator[Found]:
    """The content of run folders, in their order."""
    return _ahead(_read_both, places, pool)


def _ahead(
    ask: Callable[[Item], Answer], items: Iterable[Item], pool: Executor
) -> Iterator[Answer]:
    """As `map`, with a few answers waiting: not all, for they may be large."""
    waiting: deque[Future[Answer]] = deque()
    for item in items:
        waiting.append(pool.submit(ask, item))
        if len(waiting) > 2 * AT_ONCE:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _list(place: Place) -> _Listing | LeftOut:
    """What lies in a folder; the disk is asked for the list alone, not about its entries."""
    is_run = False
    folders: list[str] = []
    links: list[str] = []
    try:
        with os.scandir(place.path) as entries:
            for entry in entries:
                if entry.name == "run.json":
                    is_run = True
                elif entry.name.startswith(".") or entry.name in NO_RUNS:
                    continue
                elif entry.is_dir(follow_symlinks=False):
                    folders.append(entry.name)
                elif entry.is_symlink() and _is_folder(entry):
                    links.append(entry.name)
    except OSError as error:
        return LeftOut(f"the folder cannot be listed ({error.strerror})")
    skipped = NO_RUNS_WITHIN_A_RUN if is_run else frozenset()

    def inside(names: list[str]) -> list[Place]:
        return [
            Place(f"{place.path.rstrip('/')}/{name}", f"{place.name}/{name}".lstrip("/"))
            for name in sorted(names)
            if name not in skipped
        ]

    return _Listing(is_run, inside(folders), inside(links))


def _is_folder(link: os.DirEntry[str]) -> bool:
    try:
        return link.is_dir()
    except OSError:  # a link to itself, or into a folder that is closed
        return False


def _read_both(place: Place) -> Found:
    record = _read(place, "run.json")  # first: when it says finished, the metrics are there
    return Found(place, record, _read(place, "metrics.json"))


def _read(place: Place, name: str) -> bytes | LeftOut:
    try:
        with open(f"{place.path}/{name}", "rb", opener=_without_waiting) as file:
            facts = os.fstat(file.fileno())
            if not stat.S_ISREG(facts.st_mode):
                return LeftOut(f"{name} is no file")
            if facts.st_size > LARGEST:
                return LeftOut(f"{name} is larger than {LARGEST >> 20} MiB")
            content = file.read(facts.st_size + 1)
    except FileNotFoundError:
        return LeftOut(f"{name} is not there")
    except OSError as error:
        return LeftOut(f"{name} cannot be read ({error.strerror})")
    except MemoryError:
        return LeftOut(f"{name} does not fit into memory")
    if len(content) != facts.st_size:
        return LeftOut(f"{name} changed while it was read")
    return content


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe of that name must not hold us up
