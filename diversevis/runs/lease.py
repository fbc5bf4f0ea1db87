"""Which process works in a folder: at most one at a time, on any machine, even if it is killed.

A claim is a small file, `.claim-0003`, that only one process can make (O_EXCL) and that this
process rewrites every few seconds: its sign of life. The claim with the highest number holds the
folder. A process that sees the holder dead makes the next number; of several that try, one
succeeds, and a holder that had only been stopped sees the higher number when it goes on, and ends.
A file lock would not do: on another node it cannot tell a dead holder. Clocks of two machines are
never compared: a holder on another machine counts as dead when its sign of life has not changed
for a while by the watching process's monotonic clock.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diversevis.errors import FolderLost
from diversevis.runs import process
from diversevis.runs.files import replacing
from diversevis.runs.holder import SILENCE, Holder, claim_name, claims_on, holder_of

SECONDS_BETWEEN_SIGNS = 5.0


class Watch:
    """Whether the holder of a folder is alive, judged from repeated looks."""

    def __init__(self, folder: Path, silence: float = SILENCE) -> None:
        self.folder, self._silence = folder, silence
        self.said = False  # whether its user has reported that it waits
        self._seen: Any = None
        self._since = time.monotonic()

    def holder(self) -> Holder | None:
        """The holder if it may be alive, None if the folder is free."""
        holder, free = self.look()
        return None if free else holder

    def look(self) -> tuple[Holder | None, bool]:
        """The highest claim, and whether the folder is free to be claimed."""
        holder = holder_of(self.folder)
        if holder is None or (alive := holder.is_alive()) is False:
            return holder, True
        seen = holder.number, holder.content.get("token"), holder.content.get("sign")
        now = time.monotonic()
        if seen != self._seen:
            self._seen, self._since = seen, now
        return holder, alive is None and now - self._since >= self._silence


@dataclass
class Claim:
    """This process's claim on a folder."""

    folder: Path
    number: int
    token: str
    progress: dict[str, Any] = field(default_factory=dict)  # of the work, for others to read
    _signs: int = 0
    _lost: str | None = None
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)
    _resting: threading.Event = field(default_factory=threading.Event, repr=False)

    @classmethod
    def make(cls, folder: Path, number: int = 1) -> Claim | None:
        """Claim `folder` with this number; None where another process was first."""
        claim = cls(folder, number, secrets.token_hex(8))
        try:
            with claim._path.open("xb", buffering=0) as file:  # else closing it would write
                try:
                    file.write(claim._content())
                except OSError:
                    claim._path.unlink(missing_ok=True)
                    raise
        except FileExistsError:
            return None
        return claim

    @classmethod
    def take(cls, watch: Watch) -> Claim | None:
        """Claim the folder that `watch` looks at; None while another process holds it."""
        holder, free = watch.look()
        if not free:
            return None
        number = holder.number if holder else 0
        claim = cls.make(watch.folder, number + 1)  # of all that saw `number`, one succeeds
        if claim is None or not claim.holds():
            return None
        for old in claims_on(watch.folder):
            if old <= number:
                with contextlib.suppress(OSError):
                    (watch.folder / claim_name(old)).unlink(missing_ok=True)
        return claim

    def holds(self) -> bool:
        """Whether the claim exists and is the highest."""
        holder = holder_of(self.folder)
        if holder is None or holder.number != self.number:
            return False
        return holder.content.get("token") in (self.token, None)  # None: it could not be read

    def check(self) -> None:
        """Raises `FolderLost` if the last sign of life met the folder deleted or taken over."""
        if self._lost is not None:
            raise FolderLost(self._lost)

    def confirm(self) -> None:
        """`check` after a look at the folder; before anything is written that others read."""
        if self._lost is None and not self.holds():
            self._lost = self._why()
        self.check()

    def begin(self) -> None:
        """Start to give signs of life, from a thread."""
        self._resting.clear()
        threading.Thread(target=self._live, name="sign of life", daemon=True).start()

    def sign(self, *, released: bool = False) -> None:
        """Give a sign of life, or the sign that the folder is free."""
        with self._lock, replacing(self._path) as beside:
            self._signs += 1
            beside.write_bytes(self._content(released))

    def release(self) -> None:
        """Leave the unfinished folder to the next process."""
        self._resting.set()
        if self.holds():
            with contextlib.suppress(OSError):
                self.sign(released=True)

    def remove(self) -> None:
        """Delete the claim on a finished folder, whose record must say so already."""
        self._resting.set()
        with self._lock:
            self._path.unlink(missing_ok=True)

    @property
    def _path(self) -> Path:
        return self.folder / claim_name(self.number)

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
                except OSError:  # a full disk, a server away for a while: the next may succeed
                    continue

    def _why(self) -> str:
        holder = holder_of(self.folder)
        if holder is not None and holder.number > self.number:
            return (
                f"{self.folder}: {holder.words} has taken this run over, since this process gave "
                "no sign of life for a while. The run continues there; this process writes no more."
            )
        return (
            f"{self.folder} was deleted or moved while its job was at work; its results are lost. "
            "Run the same command to begin again."
        )

    def _content(self, released: bool = False) -> bytes:
        content = process.this_process() | {
            "token": self.token, "sign": self._signs, "time": time.time(), "released": released,
            "progress": self.progress,
        }  # fmt: skip
        return json.dumps(content).encode()
