"""Who is at work in a folder and whether still, told at one look."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from diversevis.runs.lease import NAME, SILENCE, Holder, holder_of


@dataclass(frozen=True, kw_only=True)
class Sign:
    """The last sign of life in a folder.

    age    seconds since then, None where nothing tells
    alive  whether the process that gave it may be at work
    """

    holder: Holder
    age: float | None
    alive: bool

    @property
    def fresh(self) -> bool:
        return self.alive and self.age is not None and self.age < SILENCE


def sign_of(folder: Path) -> Sign | None:
    """At one look: unlike `Watch`, it goes by the clock of the machine that the holder is on, which
    may differ a little from ours."""
    holder = holder_of(folder)
    if holder is None:
        return None
    at = _written(folder) if holder.time is None else holder.time
    age = None if at is None else max(0.0, time.time() - at)
    alive = holder.is_alive()
    if alive is None:
        alive = age is not None and age < SILENCE
    return Sign(holder=holder, age=age, alive=alive)


def _written(folder: Path) -> float | None:
    """When the newest claim was, by the disk's clock: one just made says nothing yet."""
    try:
        return max(path.stat().st_mtime for path in folder.iterdir() if NAME.fullmatch(path.name))
    except (OSError, ValueError):
        return None
