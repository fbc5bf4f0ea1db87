"""Which process has claimed a folder, and whether it still lives: read from `.claim-0001`.

`runs/lease.py` says how claims are made.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diversevis.runs import process
from diversevis.runs.files import Damaged, read_json

# Seconds without a sign of life after which a process on another machine counts as dead: more than
# the 60 s for which NFS may show an old file.
SILENCE = 90.0
LARGEST_CLAIM = 2**20  # bytes
LATEST = 1e12  # seconds since the epoch
NAME = re.compile(r"\.claim-([0-9]{4,})")


@dataclass(frozen=True)
class Holder:
    """The highest claim on a folder; `content` is empty where the file cannot be read."""

    number: int
    content: Mapping[str, Any]

    @property
    def released(self) -> bool:
        return bool(self.content.get("released"))

    @property
    def progress(self) -> Mapping[str, Any]:
        progress = self.content.get("progress")
        return progress if isinstance(progress, Mapping) else {}

    @property
    def time(self) -> float | None:
        """When it last gave a sign of life, seconds since the epoch by its machine's clock."""
        told: Any = self.content.get("time")
        return float(told) if type(told) in (int, float) and abs(told) < LATEST else None

    @property
    def words(self) -> str:
        """The process, for people."""
        content = self.content
        job = f", job {content['job']}" if content.get("job") else ""
        return f"process {content.get('pid', '?')} on {content.get('host', '?')}{job}"

    def is_alive(self) -> bool | None:
        """Whether its process lives; None where only its signs of life can tell, as of a process on
        another machine."""
        if self.released:
            return False
        here = process.this_process()
        if here["job"] and self.content.get("job") == here["job"]:
            earlier = self.content.get("restarts")
            if isinstance(earlier, int) and earlier < here["restarts"]:
                return False  # this same job, before the cluster started it again
        same = [self.content.get(name) == here[name] for name in ("host", "boot", "namespace")]
        pid = self.content.get("pid")
        if not all(same) or here["namespace"] is None or not isinstance(pid, int):
            return None
        started = process.start_of(pid)
        if started is None and process.is_hidden(pid):
            return None
        return started == self.content.get("started")  # else the number was given to another


def holder_of(folder: Path) -> Holder | None:
    """The highest claim on `folder`; None without a claim."""
    numbers = claims_on(folder)
    if not numbers:
        return None
    content: dict[str, Any] = {}
    with contextlib.suppress(Damaged):
        content = read_json(folder, claim_name(max(numbers)), LARGEST_CLAIM)
    return Holder(max(numbers), content)


def claims_on(folder: Path) -> list[int]:
    """The numbers of all claims on `folder`."""
    try:
        names = [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        return []
    return [int(match[1]) for name in names if (match := NAME.fullmatch(name))]


@dataclass(frozen=True, kw_only=True)
class Sign:
    """The last sign of life in a folder."""

    holder: Holder
    age: float | None  # seconds since then; None where it is not known
    alive: bool  # whether the process that gave it may be at work

    @property
    def fresh(self) -> bool:
        return self.alive and self.age is not None and self.age < SILENCE


def sign_of(folder: Path) -> Sign | None:
    """The last sign of life, judged by the clock of the holder's machine, which may differ a little
    (`Watch` does not trust it); None without a claim."""
    holder = holder_of(folder)
    if holder is None:
        return None
    written = holder.time
    if written is None or written > time.time() + SILENCE:
        # A claim just made is still empty; and no sign comes from the future: by the disk's clock.
        with contextlib.suppress(OSError):
            written = (folder / claim_name(holder.number)).stat().st_mtime
    age = None if written is None else max(0.0, time.time() - written)
    alive = holder.is_alive()
    if alive is None:
        alive = age is not None and age < SILENCE
    return Sign(holder=holder, age=age, alive=alive)


def claim_name(number: int) -> str:
    return f".claim-{number:04d}"
