"""The run folders below a root, and what their records say.

Made for tens of thousands of folders on a network's disk: a folder is listed once, a record opened
once, and several at a time, since there it is the waiting that takes long.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from diversevis.runs.integrity import flaw_of
from diversevis.runs.versions import SWEEPS

AT_ONCE = 8  # threads that ask at the same time
MOST_AT_ONCE = 64  # folders that one of them is given: handing them over takes time, too
WITHIN_A_RUN = frozenset({"images", "analysis", "checkpoint"})  # and no runs in them
KINDS = {"status": str, "model": str, "layer": str, "units": list}  # what a record must have
STATUSES = "running", "finished", "interrupted", "failed"

Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run folder, or a folder that cannot be listed.

    record   None where it cannot be used; of a finished run without its config and versions, for
             there may be very many
    reason   why it cannot, or why what a finished run made cannot
    changed  when the record was last written, seconds since the epoch
    """

    folder: Path
    record: Mapping[str, Any] | None
    reason: str | None
    changed: float

    @property
    def hash(self) -> str | None:
        found = self.record.get("config_hash") if self.record else None
        return found if isinstance(found, str) else None

    @property
    def version(self) -> int:
        """Its number; -1 for a folder that was named by hand."""
        match = re.fullmatch(r"v(\d{3,})", self.folder.name)
        return int(match[1]) if match else -1


class _Listing(NamedTuple):
    is_run: bool
    folders: list[str]
    links: list[str]


def find_runs(starts: Iterable[Path]) -> list[Run]:
    """Every run with images of its own at or below `starts`, and folders that are closed to us.

    Left out are folders of `analyze` without a run. Links to folders are followed once all else is
    known: never to a folder that was seen already, so that loops end and every run is there once.
    """
    with ThreadPoolExecutor(AT_ONCE) as pool:
        folders, closed = _walk([str(start) for start in starts], pool)
        read = _ask(read_run, list(map(Path, folders)), pool)
    runs = [run for run in read if run is not None and not _without_images(run)]
    return runs + closed


def newest(runs: Iterable[Run]) -> list[Run]:
    """Of several versions of the same work in one folder, the newest; damaged ones all stay."""
    found: dict[Any, Run] = {}
    for run in sorted(runs, key=lambda run: run.version):
        found[(run.folder.parent, run.hash) if run.hash else run.folder] = run
    return list(found.values())


def read_run(folder: Path) -> Run | None:
    """None where there is no record: it has just been deleted."""
    changed = 0.0
    try:
        with (folder / "run.json").open("rb") as file:
            changed = os.fstat(file.fileno()).st_mtime
            record = json.loads(file.read())
    except FileNotFoundError:
        return None
    except OSError as error:
        reason: str | None = f"run.json cannot be read ({error.strerror})"
    except (ValueError, RecursionError) as error:
        reason = f"run.json is damaged ({error})"
    else:
        reason = _flaw(record)
    if reason is not None:
        record = None
    elif record["status"] == "finished" and record["n"] is not None and (flaw := flaw_of(folder)):
        reason = flaw
    elif record["status"] == "finished":
        record = {name: value for name, value in record.items() if not isinstance(value, dict)}
    return Run(folder=folder, record=record, reason=reason, changed=changed)


def _flaw(record: Any) -> str | None:
    """Why this is no record of a run."""
    if not isinstance(record, dict):
        return "run.json holds no record"
    for name in (*KINDS, "n"):
        if name not in record:
            return f"run.json does not say {name}"
    for name, kind in KINDS.items():
        if not isinstance(record[name], kind):
            return f"run.json: {name} is {record[name]!r:.40}"
    if record["status"] not in STATUSES:
        return f"run.json: status is {record['status']!r:.40}"
    if not all(type(unit) is int for unit in record["units"]):
        return "run.json: units are no numbers"
    return None


def _without_images(run: Run) -> bool:
    return run.record is not None and run.record["n"] is None


def _walk(starts: list[str], pool: ThreadPoolExecutor) -> tuple[list[str], list[Run]]:
    """Run folders, and closed ones; each by its first name."""
    roots = [os.path.realpath(start) for start in starts]
    level, seen = dict(zip(roots, starts, strict=True)), set(roots)  # real path -> name
    runs: list[str] = []
    closed: list[Run] = []
    links: list[str] = []
    while level:
        below: dict[str, str] = {}
        answers = _ask(_list, list(level.values()), pool)
        for (path, name), listing in zip(level.items(), answers, strict=True):
            if isinstance(listing, Run):
                closed.append(listing)
                continue
            runs += [name] if listing.is_run else []
            below |= {f"{path}/{one}": f"{name}/{one}" for one in listing.folders}
            links += [f"{name}/{one}" for one in listing.links]
        if not below:
            below = {os.path.realpath(link): link for link in links}
            below = {path: name for path, name in below.items() if not _is_above(path, roots)}
            links = []
        level = {path: name for path, name in below.items() if path not in seen}
        seen.update(level)
    return runs, closed


def _ask(
    ask: Callable[[Item], Answer], items: Sequence[Item], pool: ThreadPoolExecutor
) -> list[Answer]:
    """The answers for all items, several at a time; each thread gets some at once."""
    size = max(1, min(len(items) // (4 * AT_ONCE), MOST_AT_ONCE))
    parts = [items[first : first + size] for first in range(0, len(items), size)]
    answers = pool.map(lambda part: [ask(item) for item in part], parts)
    return [answer for part in answers for answer in part]


def _is_above(path: str, roots: Iterable[str]) -> bool:
    return any(f"{root}/".startswith(f"{path}/") for root in roots)


def _list(folder: str) -> _Listing | Run:
    """What lies in a folder; the disk is asked for the list alone, not about its entries."""
    is_run = False
    folders: list[str] = []
    links: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name == "run.json":
                    is_run = True
                elif entry.name.startswith(".") or entry.name == SWEEPS:
                    continue
                elif entry.is_dir(follow_symlinks=False):
                    folders.append(entry.name)
                elif entry.is_symlink() and os.path.isdir(entry.path):  # noqa: PTH112
                    links.append(entry.name)
    except FileNotFoundError:  # deleted meanwhile
        return _Listing(False, [], [])
    except OSError as error:
        reason = f"the folder cannot be listed ({error.strerror})"
        return Run(folder=Path(folder), record=None, reason=reason, changed=0.0)
    skipped = WITHIN_A_RUN if is_run else frozenset()
    return _Listing(
        is_run,
        sorted(name for name in folders if name not in skipped),
        sorted(name for name in links if name not in skipped),
    )
