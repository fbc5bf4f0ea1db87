"""Checkpoints of a run, from which another process can continue.

While a batch of units is optimized, its state is written now and then; once it is done, its results
replace the state, until the run has written those of all units. Each is a single file.
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
from diversevis.method.optimize.loop import LoopCheckpoint, State
from diversevis.runs import signals
from diversevis.runs.files import is_whole
from diversevis.runs.folder import RunFolder
from diversevis.runs.lease import Claim

LOG = logging.getLogger("diversevis")
PROGRAM = f"{__version__}, 2"  # the second number: of the layout of states
NEEDED = {"done": {"rows", "results"},
          "state": {"rows", "seconds", "phase", "loop", "companion"}}  # fmt: skip
SHARE = 0.05  # of the time may go into writing states, whatever interval was asked for


@runtime_checkable
class Companion(Protocol):
    """Something whose state belongs to the optimization's, such as the frames of a film."""

    def state(self) -> State: ...

    def restore(self, state: State) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """The checkpoints of one part of a run: of its images, or of those of a further seed.

    work     hash of what is computed; checkpoints of another work are deleted
    seconds  between two states of a batch; None: no states are written
    device   on which states are restored
    claim    this process's claim on the folder; None in worker processes
    """

    folder: RunFolder
    part: str
    work: str
    seconds: float | None
    device: torch.device
    claim: Claim | None

    def done(self, rows: Sequence[int]) -> list[State]:
        """The results of the batches among `rows` that are done."""
        batches = self.batches("done", rows)
        states = [self.read("done", batch, torch.device("cpu")) for batch in batches]
        return [State(state.tensors, state.facts["results"]) for state in states if state]

    def write_done(self, rows: Sequence[int], results: State) -> None:
        """Keep the results of a batch in place of its state."""
        try:
            self.write("done", rows, results.tensors, {"results": results.facts})
        except OSError as error:
            LOG.warning("the results of a batch could not be kept: %s", error)
        else:
            self.discard_state(rows)

    def discard_state(self, rows: Sequence[int]) -> None:
        self.folder.remove_checkpoint(self._name("state", rows))

    def write(
        self, kind: str, rows: Sequence[int], tensors: dict[str, Tensor], facts: dict[str, Any]
    ) -> None:
        """Raises `OSError`, and `FolderLost` if the folder is no longer this process's."""
        if self.claim is not None:
            self.claim.confirm()
        common = {"work": self.work, "program": PROGRAM, "rows": list(rows)}
        self.folder.write_checkpoint(self._name(kind, rows), tensors, common | facts)

    def read(self, kind: str, rows: Sequence[int], device: torch.device) -> State | None:
        file = self.folder.read_checkpoint(self._name(kind, rows), device)
        return None if file is None else State(*file)

    def batches(self, kind: str, rows: Sequence[int]) -> list[list[int]]:
        """Batches of these rows alone, no row twice, that have a checkpoint of this kind (`state`,
        `done`). Deletes checkpoints of another work or program version, and damaged files."""
        wanted, batches = set(rows), []
        for name in self.folder.checkpoints():
            if not name.startswith(f"{self.part}-{kind}-"):
                continue
            _, facts = self.folder.read_checkpoint(name, None) or ({}, {})
            is_ours = (facts.get("work"), facts.get("program")) == (self.work, PROGRAM)
            complete = NEEDED[kind] <= facts.keys() and _are_rows(facts["rows"])
            if not is_ours or not complete or name != self._name(kind, facts["rows"]):
                if name not in self.folder.checkpoints():  # another process has ended its batch
                    continue
                LOG.warning("checkpoint %s is damaged or of another program: deleted", name)
                self.folder.remove_checkpoint(name)
            elif wanted.issuperset(facts["rows"]):
                batches.append(facts["rows"])
                wanted.difference_update(facts["rows"])
        return sorted(batches)

    def _name(self, kind: str, rows: Sequence[int]) -> str:
        digest = hashlib.sha256(repr(list(rows)).encode()).hexdigest()[:12]
        return f"{self.part}-{kind}-{rows[0]:05d}-{digest}"


def _are_rows(rows: Any) -> bool:
    return isinstance(rows, list) and bool(rows) and all(map(is_whole, rows))


class BatchCheckpoint:
    """Writes and restores the state of a batch of units, in the phases `search` and `diverse`."""

    def __init__(self, checkpoints: Checkpoints, rows: Sequence[int], companion: Companion) -> None:
        self._checkpoints, self._rows, self._companion = checkpoints, rows, companion
        self._phase, before = "", 0.0
        self._remembered: dict[str, Tensor] = {}
        self._stored = state = checkpoints.read("state", rows, checkpoints.device)
        if state is not None:
            before, self._remembered = state.facts["seconds"], state.part("kept").tensors
            companion.restore(state.part("companion"))
            step, phase = state.facts["loop"]["step"], state.facts["phase"]
            LOG.info("going on from step %d of the %s phase", step, phase)
        self._began = time.monotonic() - before
        self._written, self._costs = time.monotonic(), (0.0, 0.0)  # of the last two, in seconds

    def recall(self) -> dict[str, Tensor] | None:
        """The results of the phase before, None where it has not ended."""
        return self._remembered or None

    def remember(self, tensors: dict[str, Tensor]) -> None:
        """Keep the results of a phase that has ended, for the next phase."""
        self._remembered = dict(tensors)

    @property
    def seconds(self) -> float:
        """Time spent on this batch so far, that of earlier processes included."""
        return time.monotonic() - self._began

    def of(self, phase: str) -> LoopCheckpoint:
        """This checkpoint, for the loop of `phase`, which starts now."""
        self._phase = phase
        return self

    def restore(self) -> State | None:
        """The stored state of this phase's loop."""
        state = self._stored
        return state.part("loop") if state and state.facts["phase"] == self._phase else None

    def __call__(self, step: int, snapshot: Callable[[], State]) -> None:
        """Between two steps: report progress, write a state when due, end if asked to.

        Raises `FolderLost`, and `Stopped` or `KeyboardInterrupt` after a last state.
        """
        self._stored = None  # the loop has its own copy: free the memory
        if (claim := self._checkpoints.claim) is not None:
            claim.check()
            claim.progress = claim.progress | {"phase": self._phase, "step": step}
        if (seconds := self._checkpoints.seconds) is not None:
            pause = max(seconds, min(self._costs) / SHARE)  # a disk may have stalled once
            if signals.is_waiting() or time.monotonic() - self._written >= pause:
                self._write(snapshot())
        signals.check()
        signals.raise_if_interrupted()

    def _write(self, loop: State) -> None:
        began = time.monotonic()
        companion = self._companion.state()
        parts = {"loop": loop.tensors, "kept": self._remembered, "companion": companion.tensors}
        tensors = {
            f"{part}.{name}": tensor for part in parts for name, tensor in parts[part].items()
        }
        facts = {"phase": self._phase, "seconds": self.seconds,
                 "loop": loop.facts, "companion": companion.facts}  # fmt: skip
        try:
            self._checkpoints.write("state", self._rows, tensors, facts)
        except OSError as error:  # a full disk: the run itself may still succeed
            LOG.warning("no checkpoint at step %d: %s", loop.facts["step"], error)
        self._written = time.monotonic()
        self._costs = self._costs[1], self._written - began
