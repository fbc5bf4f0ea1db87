"""What a run keeps while it is at work, so that another process can go on from there.

Every batch of units has a state, written every so often, until it is done; then its results are
kept instead, until the run has written them all. Each is one file, there whole or not at all.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from diversevis import __version__
from diversevis.method.optimize.loop import Keep, State
from diversevis.runs import signals
from diversevis.runs.folder import RunFolder
from diversevis.runs.lease import Claim

LOG = logging.getLogger("diversevis")
SHARE = 0.05  # of the time, at most, goes into writing states


@runtime_checkable
class Companion(Protocol):
    """Something beside the optimization that goes on with it, such as a film."""

    def state(self) -> State: ...

    def restore(self, kept: State) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """Those of one part of a run: of its images, or of a further seed's.

    work     hash of what is computed: nothing else is gone on from
    seconds  between two states of a batch; None: none are written
    device   where states are brought back to
    claim    this process's on the folder; None in processes that work for it
    """

    folder: RunFolder
    part: str
    work: str
    seconds: float | None
    device: torch.device
    claim: Claim | None

    def keeper(self, rows: Sequence[int], companion: Companion) -> Keeper:
        """Of the batch with the units at `rows`."""
        return Keeper(self, rows, companion)

    def begun(self, rows: Sequence[int]) -> list[list[int]]:
        """Batches among `rows` that have a state."""
        return self._batches("state", rows)

    def done(self, rows: Sequence[int]) -> list[State]:
        """Results of the batches among `rows` that are done."""
        found = [self._read("done", own) for own in self._batches("done", rows)]
        return [state for state in found if state is not None]

    def write_done(self, rows: Sequence[int], results: State) -> None:
        """In place of the batch's state."""
        if self.claim is not None:
            self.claim.confirm()
        try:
            self.write("done", rows, results.tensors, {"results": results.facts})
        except OSError as error:
            LOG.warning("a batch that is done could not be kept: %s", error)
        else:
            self.discard(rows)

    def discard(self, rows: Sequence[int]) -> None:
        """The batch's state."""
        self.folder.remove_checkpoint(self._name("state", rows))

    def write(
        self, kind: str, rows: Sequence[int], tensors: dict[str, Tensor], facts: dict[str, Any]
    ) -> None:
        common = {"work": self.work, "program": __version__, "rows": list(rows)}
        self.folder.write_checkpoint(self._name(kind, rows), tensors, common | facts)

    def read_state(self, rows: Sequence[int]) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        return self.folder.read_checkpoint(self._name("state", rows), self.device)

    def _read(self, kind: str, rows: Sequence[int]) -> State | None:
        found = self.folder.read_checkpoint(self._name(kind, rows), torch.device("cpu"))
        return None if found is None else State(found[0], found[1]["results"])

    def _batches(self, kind: str, rows: Sequence[int]) -> list[list[int]]:
        """Rows of the batches of this kind, without one twice, where they are this very work's."""
        wanted, found = set(rows), []
        for name in self.folder.checkpoints():
            if not name.startswith(f"{self.part}-{kind}-"):
                continue
            facts = self.folder.checkpoint_facts(name)
            if facts is None or (facts["work"], facts["program"]) != (self.work, __version__):
                LOG.warning("the checkpoint %s is another program's, or damaged: left out", name)
                self.folder.remove_checkpoint(name)
            elif wanted.issuperset(facts["rows"]):
                found.append(facts["rows"])
                wanted.difference_update(facts["rows"])
        return sorted(found)

    def _name(self, kind: str, rows: Sequence[int]) -> str:
        digest = hashlib.sha256(repr(list(rows)).encode()).hexdigest()[:12]
        return f"{self.part}-{kind}-{rows[0]:05d}-{digest}"


class Keeper:
    """Keeps one batch of units between any two steps, phase by phase."""

    def __init__(self, checkpoints: Checkpoints, rows: Sequence[int], companion: Companion) -> None:
        self._checkpoints, self._rows, self._companion = checkpoints, list(rows), companion
        self._remembered: dict[str, Tensor] = {}
        self._phase, self._loop, before = "", None, 0.0
        kept = checkpoints.read_state(rows)
        if kept is not None:
            tensors, facts = kept
            self._phase, before = facts["phase"], facts["seconds"]
            self._loop = State(_under("loop", tensors), facts["loop"])
            self._remembered = _under("kept", tensors)
            companion.restore(State(_under("companion", tensors), facts["companion"]))
            LOG.info("going on from step %d of the %s phase", facts["loop"]["step"], self._phase)
        self._began = time.monotonic() - before
        self._written, self._cost = time.monotonic(), 0.0

    def recall(self) -> dict[str, Tensor] | None:
        """What was remembered, if anything was."""
        return self._remembered or None

    def remember(self, tensors: dict[str, Tensor]) -> None:
        """Results of a phase that is over."""
        self._remembered = dict(tensors)

    def of(self, phase: str) -> Keep:
        """Keeps the loop of this phase."""
        return _Phase(self, phase)

    @property
    def seconds(self) -> float:
        """That this batch has taken so far, those of earlier processes among them."""
        return time.monotonic() - self._began

    def restore(self, phase: str) -> State | None:
        return self._loop if phase == self._phase else None

    def step(self, phase: str, step: int, snapshot: Callable[[], State]) -> None:
        """Between two steps: a sign, a state where it is time, and a way out where one is asked."""
        checkpoints, asked = self._checkpoints, signals.asked() or signals.interrupted()
        self._loop = None  # its memory is not needed twice
        if (claim := checkpoints.claim) is not None:
            claim.check()
            claim.progress = claim.progress | {"phase": phase, "step": step}
        seconds, now = checkpoints.seconds, time.monotonic()
        if seconds is not None and (
            asked or now - self._written >= max(seconds, self._cost / SHARE)
        ):
            self._write(phase, snapshot())
        signals.check()
        signals.check_interrupted()

    def _write(self, phase: str, loop: State) -> None:
        began = time.monotonic()
        if (claim := self._checkpoints.claim) is not None:
            claim.confirm()
        beside = self._companion.state()
        parts = {"loop": loop.tensors, "kept": self._remembered, "companion": beside.tensors}
        tensors = {
            f"{part}.{name}": value for part, own in parts.items() for name, value in own.items()
        }
        facts = {
            "phase": phase, "seconds": self.seconds, "loop": loop.facts, "companion": beside.facts,
        }  # fmt: skip
        try:
            self._checkpoints.write("state", self._rows, tensors, facts)
        except OSError as error:  # the run may yet end well, and fails by itself if it cannot
            LOG.warning("no checkpoint at step %d: %s", loop.facts["step"], error)
        self._written = time.monotonic()
        self._cost = self._written - began


@dataclass(frozen=True)
class _Phase:
    keeper: Keeper
    phase: str

    def restore(self) -> State | None:
        return self.keeper.restore(self.phase)

    def __call__(self, step: int, snapshot: Callable[[], State]) -> None:
        self.keeper.step(self.phase, step, snapshot)


def _under(part: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those whose names begin with `part`, without it."""
    names = [name for name in tensors if name.startswith(f"{part}.")]
    return {name.removeprefix(f"{part}."): tensors[name] for name in names}
