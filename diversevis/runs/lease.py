"""Who is at work in a folder: one process at a time, wherever it runs and whatever happens to it.

A claim is a small file, `.claim-0003`, that one process alone can make (O_EXCL) and that it writes
anew every few seconds: its sign of life. The claim with the highest number holds. Whoever finds the
holder dead makes the next number; of several who try, one succeeds, and a holder that was only
asleep sees the higher number when it wakes and stops. Nothing compares clocks of two machines: a
holder elsewhere is dead when its sign of life has not changed for a while by the looker's own
monotonic clock.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diversevis.errors import FolderLost
from diversevis.runs.files import replacing

SECONDS_BETWEEN_SIGNS = 5.0
SILENCE = 90.0  # seconds without a sign after which a process on another machine counts as dead
NAME = re.compile(r"\.claim-(\d{4,})")


@dataclass(frozen=True)
class Holder:
    """What a folder's highest claim says; `content` is empty where it cannot be read."""

    number: int
    content: Mapping[str, Any]

    @property
    def released(self) -> bool:
        return bool(self.content.get("released"))

    @property
    def progress(self) -> Mapping[str, Any]:
        found = self.content.get("progress")
        return found if isinstance(found, Mapping) else {}

    @property
    def time(self) -> float | None:
        """Of its last sign of life, seconds since the epoch by its own clock."""
        found = self.content.get("time")
        return float(found) if isinstance(found, (int, float)) else None

    @property
    def words(self) -> str:
        """Which process it is, for people."""
        content = self.content
        job = f", job {content['job']}" if content.get("job") else ""
        return f"process {content.get('pid', '?')} on {content.get('host', '?')}{job}"

    def is_alive(self) -> bool | None:
        """Whether its process is there; None for one elsewhere, of which only its signs tell."""
        mine = _here()
        if self.released:
            return False
        if mine["job"] and self.content.get("job") == mine["job"]:
            earlier = self.content.get("restarts")
            if isinstance(earlier, int) and earlier < mine["restarts"]:
                return False  # an attempt of this very job, before the cluster started it again
        same = [self.content.get(name) == mine[name] for name in ("host", "boot", "namespace")]
        pid = self.content.get("pid")
        if not all(same) or mine["namespace"] is None or not isinstance(pid, int):
            return None
        started = _started(pid)
        if started is None and _is_hidden(pid):
            return None
        return started == self.content.get("started")


def holder_of(folder: Path) -> Holder | None:
    """The highest claim on `folder`, None where there is none."""
    try:
        names = [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        return None
    numbers = [int(match[1]) for name in names if (match := NAME.fullmatch(name))]
    if not numbers:
        return None
    content: Any = {}
    with contextlib.suppress(OSError, ValueError):
        content = json.loads((folder / _name(max(numbers))).read_text())
    return Holder(max(numbers), content if isinstance(content, dict) else {})


class Watch:
    """Tells whether the holder of a folder is alive, from one look to the next."""

    def __init__(self, folder: Path, silence: float = SILENCE) -> None:
        self.folder, self.silence = folder, silence
        self.said = False  # for whoever waits: that it does
        self._seen: Any = None
        self._since = time.monotonic()

    def holder(self) -> Holder | None:
        """The holder if it may be alive, None if the folder is free."""
        found, free = self.look()
        return None if free else found

    def look(self) -> tuple[Holder | None, bool]:
        """The highest claim, and whether the folder is free all the same."""
        found = holder_of(self.folder)
        if found is None or (alive := found.is_alive()) is False:
            return found, True
        seen = found.number, found.content.get("token"), found.content.get("sign")
        if seen != self._seen:
            self._seen, self._since = seen, time.monotonic()
        silent = time.monotonic() - self._since >= self.silence
        return found, alive is None and silent


@dataclass
class Claim:
    """This process's own claim on a folder.

    progress  what others are told: how far the work has come
    """

    folder: Path
    number: int
    token: str
    progress: dict[str, Any] = field(default_factory=dict)
    _signs: int = 0
    _lost: str | None = None
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)
    _resting: threading.Event = field(default_factory=threading.Event, repr=False)

    @classmethod
    def make(cls, folder: Path, number: int = 1) -> Claim | None:
        """Claim `folder` by this number; None where another process was first."""
        claim = cls(folder, number, secrets.token_hex(8))
        path = folder / _name(number)
        try:
            with path.open("xb") as file:
                try:
                    file.write(claim._content())
                except OSError:
                    path.unlink(missing_ok=True)
                    raise
        except FileExistsError:
            return None
        return claim

    @classmethod
    def take(cls, watch: Watch) -> Claim | None:
        """Claim the folder that `watch` looks at; None while somebody else holds it."""
        before, free = watch.look()
        if not free:
            return None
        number = before.number if before else 0
        claim = cls.make(watch.folder, number + 1)  # of all that saw this number, one succeeds
        if claim is None or not claim.holds():
            return None
        for old in range(1, number + 1):
            (watch.folder / _name(old)).unlink(missing_ok=True)
        return claim

    def holds(self) -> bool:
        """Whether the claim is there and the highest."""
        found = holder_of(self.folder)
        if found is None or found.number != self.number:
            return False
        return found.content.get("token") in (self.token, None)

    def check(self) -> None:
        """Raises `FolderLost` where a sign of life found the folder gone or in other hands."""
        if self._lost is not None:
            raise FolderLost(self._lost)

    def confirm(self) -> None:
        """The same, after a look: before anything is written that others may read."""
        if self._lost is None and not self.holds():
            self._lost = self._why()
        self.check()

    def begin(self) -> None:
        """Give signs of life from now on."""
        self._resting.clear()
        threading.Thread(target=self._live, name="sign of life", daemon=True).start()

    def sign(self) -> None:
        """One sign of life."""
        with self._lock:
            self._signs += 1
            self._write()

    def release(self) -> None:
        """The folder is free: unfinished, for whoever comes next."""
        self._end()
        if self.holds():
            with contextlib.suppress(OSError), self._lock:
                self._write(released=True)

    def remove(self) -> None:
        """The folder is done: no trace of the claim is left. Say so in the folder first."""
        self._end()
        with self._lock:
            (self.folder / _name(self.number)).unlink(missing_ok=True)

    def _end(self) -> None:
        self._resting.set()

    def _live(self) -> None:
        while not self._resting.wait(SECONDS_BETWEEN_SIGNS):
            with self._lock:
                if self._resting.is_set():
                    return
                try:
                    if not self.holds():
                        self._lost = self._why()
                        return
                    self.sign()
                except OSError:  # a full disk, a server away for a while: the next one may do
                    continue

    def _write(self, released: bool = False) -> None:
        with replacing(self.folder / _name(self.number), new_parents=False) as beside:
            beside.write_bytes(self._content(released))

    def _why(self) -> str:
        found = holder_of(self.folder)
        if found is not None and found.number > self.number:
            return (
                f"{self.folder}: {found.words} has taken this run over, since this process gave no "
                "sign of life for a while. It goes on there; nothing more is written from here."
            )
        return (
            f"{self.folder} was deleted or moved while its job was at work; what it had is lost. "
            "Run the same command to begin again."
        )

    def _content(self, released: bool = False) -> bytes:
        content = _here() | {
            "token": self.token, "sign": self._signs, "time": time.time(), "released": released,
            "progress": self.progress,
        }  # fmt: skip
        return json.dumps(content).encode()


def _name(number: int) -> str:
    return f".claim-{number:04d}"


def job_id() -> str | None:
    """The cluster's name of this job (Slurm's, `123` or `123_4` in an array)."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{name}_ID") for name in ("JOB", "TASK"))
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def restarts() -> int:
    """How often a cluster has started this job again."""
    count = os.environ.get("SLURM_RESTART_COUNT", "0")
    return int(count) if count.isdigit() else 0


def _here() -> dict[str, Any]:
    """What tells this process from every other."""
    pid = os.getpid()
    return {
        "host": socket.gethostname(),
        "boot": _read("/proc/sys/kernel/random/boot_id"),
        "namespace": _link("/proc/self/ns/pid"),
        "pid": pid,
        "started": _started(pid),
        "job": job_id(),
        "restarts": restarts(),
    }


def _started(pid: int) -> int | None:
    """When a process of this machine began, in ticks since boot; None where there is none."""
    text = _read(f"/proc/{pid}/stat")
    if text is None:
        return None
    state, *fields = text.rpartition(")")[2].split()
    return None if state == "Z" else int(fields[18])  # a zombie is dead


def _is_hidden(pid: int) -> bool:
    """Whether there is such a process, of another user, that this machine does not show."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return False


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def _link(path: str) -> str | None:
    try:
        return str(Path(path).readlink())
    except OSError:
        return None
