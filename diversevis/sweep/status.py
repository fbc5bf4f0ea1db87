"""The state of every piece of work below a root, from three sources.

The run's record in run.json, the sign of life of whoever works on it, and the sweep that planned
it. `diversevis.runs.states` has the states' names and meanings.
"""

from __future__ import annotations

import math
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from diversevis.runs.find import Run, find_runs, newest, read_run
from diversevis.runs.holder import Sign, sign_of
from diversevis.runs.states import DAMAGED, LOST, MISSING, UNFINISHED, WAITING
from diversevis.runs.versions import work_folder
from diversevis.sweep.queue import Launched, read_launched, squeue_ids
from diversevis.sweep.record import Planned, Sweep, sweeps

REQUEUED = "SIGTERM", "SIGUSR1", "SIGUSR2"  # Slurm sends them to jobs that it starts again

Queued = Callable[[], set[str] | None]  # returns the jobs that Slurm has, None if not known


@dataclass(frozen=True, kw_only=True)
class State:
    """The state of a piece of work.

    state     one of `MEANINGS`
    hash      of its scientific config; None where its record does not say
    folder    of its newest version; None where there is none
    record    that folder's, of finished work without its config; None where it cannot be read
    planned   as the newest sweep planned it
    launched  the newest sweep that planned it
    sign      of life, of the last process that worked on it and has not finished
    error     complete; None where there was none, or it is not known
    """

    state: str
    model: str
    layer: str
    units: tuple[int, ...]
    hash: str | None
    folder: Path | None = None
    record: Mapping[str, Any] | None = None
    planned: Planned | None = None
    launched: Launched | None = None
    sign: Sign | None = None
    error: str | None = None

    @property
    def sweep(self) -> Sweep | None:
        return self.launched.sweep if self.launched else None


def states(root: Path, *, queued: Queued = squeue_ids) -> list[State]:
    """Return the states of all runs at or below `root`, and of all work that its sweeps planned."""
    plans = _Plans(map(read_launched, sweeps(root)), queued)
    all_states = _states(root, find_runs([root]), plans, plans.works.values())
    return sorted(
        all_states, key=lambda s: (natural(s.model), natural(s.layer), s.units, str(s.folder or ""))
    )


def state_of_works(
    root: Path, works: Sequence[Planned], *, sweep: Sweep | None = None, queued: Queued = squeue_ids
) -> list[State]:
    """Return the states of these works alone, in their order, without reading all of `root`.

    sweep  that planned them; the process that launched it asks, so it will launch nothing more
    """
    launched = [replace(read_launched(sweep), alive=False)] if sweep else []
    plans = _Plans(launched, queued)
    folders = dict.fromkeys(work_folder(root, work.where) for work in works)
    by_hash = {state.hash: state for state in _states(root, find_runs(folders), plans, works)}
    return [by_hash[work.hash] for work in works]


class _Plans:
    """What sweeps planned, and what may still be done of it.

    Made before the runs are read, so that a job that ends in between is seen as a run.
    """

    def __init__(self, launched: Iterable[Launched], queued: Queued) -> None:
        # By the hash of the work; a damaged run has none.
        self.works: dict[str | None, Planned] = {}  # as the newest sweep planned them
        self._launched: dict[str | None, list[Launched]] = defaultdict(list)  # oldest sweep first
        for launch in launched:
            for work in launch.sweep.works:
                self.works[work.hash] = work
                self._launched[work.hash].append(launch)
        self.queue = queued()
        self.busy: set[str] = set()  # hashes of works in progress

    def newest(self, work: str | None) -> Launched | None:
        """The newest sweep that planned the work of this hash."""
        return self._launched[work][-1] if work in self._launched else None

    def is_asked_for(self, run: Run) -> bool:
        """False for a run that the newest sweep does over, as again=true asks."""
        launched = self.newest(run.hash)
        if launched is None or run.record is None:
            return True
        again = self.works[run.hash].config.get("again")
        return not again or run.record.get("origin") == launched.sweep.name

    def outcome(self, work: str, since: float) -> tuple[str, str | None] | None:
        """("failed", error) or (WAITING, None) by the sweeps begun since then; None for neither."""
        for launched in reversed(self._launched.get(work, [])):
            if launched.start < since:
                continue
            if (error := launched.sweep.read_failure(work)) is not None:
                return "failed", error
            if launched.may_do(work, self.queue, self.busy):
                return WAITING, None
        return None


def _states(
    root: Path, runs: Sequence[Run], plans: _Plans, works: Iterable[Planned]
) -> list[State]:
    """The states of the runs, and of those `works` that have none."""
    known = {run.hash for run in runs if plans.is_asked_for(run)}
    pairs = [(run, _of_run(run, plans)) for run in newest(runs) if run.hash in known]
    plans.busy = {state.hash for _, state in pairs if state.state == "running" and state.hash}
    unknown = {work.hash: work for work in works if work.hash not in known}
    present = [_by_sweeps(state, run.changed, plans) for run, state in pairs]
    planned = [_of_plan(work, plans) for work in unknown.values()]
    return _joined(root, present, planned)


def _joined(root: Path, present: Sequence[State], planned: Sequence[State]) -> list[State]:
    """All states, a damaged folder that does not say what it was being what was planned for it."""
    states = list(present)
    left = {os.path.realpath(work_folder(root, state.planned.where)): state
            for state in planned if state.planned and state.state != WAITING}  # fmt: skip
    for index in sorted(range(len(states)), key=lambda i: str(states[i].folder), reverse=True):
        state = states[index]
        if state.hash is None and state.folder is not None:
            work = left.pop(os.path.realpath(state.folder.parent), None)
            if work is not None:
                states[index] = replace(work, state=DAMAGED, folder=state.folder, error=state.error)
    taken = {state.hash for state in states}
    return [*states, *(state for state in planned if state.hash not in taken)]


def _of_run(run: Run, plans: _Plans) -> State:
    """The state by the run's record and its sign of life."""
    run, state, sign = _look(run)
    record = run.record or {}
    # Of a damaged run, the names of the folders that it is in say what it was.
    folders = run.folder.absolute().parts[-4:-2]
    model, layer = folders if run.version >= 0 and len(folders) == 2 else ("?", "?")
    error = run.reason or record.get("error")
    return State(
        state=state,
        model=record.get("model", model),
        layer=record.get("layer", layer),
        units=tuple(record.get("units", ())),
        hash=run.hash,
        folder=run.folder,
        record=run.record,
        planned=plans.works.get(run.hash),
        launched=plans.newest(run.hash),
        sign=sign,
        error=error if state in ("failed", DAMAGED) and isinstance(error, str) else None,
    )


def _look(run: Run) -> tuple[Run, str, Sign | None]:
    """The run, its state by its record, and the sign of life of whoever works on it."""
    if run.record is None or run.reason is not None:
        return run, DAMAGED, None
    status = run.record["status"]
    if status == "finished":
        return run, "finished", None
    sign = sign_of(run.folder)
    # Of a run that has ended, an old claim may be left; only a fresh sign means a new process.
    if sign is not None and (sign.alive if status == "running" else sign.fresh):
        return run, "running", sign
    if status != "running":
        return run, status, sign
    again = read_run(run.folder)  # it may have ended after its record was read
    if again is None or again.record is None or again.record["status"] == "running":
        return run, LOST, sign
    return again, again.record["status"], sign


def _by_sweeps(state: State, changed: float, plans: _Plans) -> State:
    """The state, changed where a job will continue the work, or has failed to since `changed`."""
    if state.state == "finished" and state.hash is not None:
        # A later sweep has asked for more of it, such as measures, and that failed.
        told, error = plans.outcome(state.hash, float(math.floor(changed))) or ("", None)
        return replace(state, state="failed", error=error) if told == "failed" else state
    if state.state not in UNFINISHED or state.record is None:
        return state
    job, ended_by = state.record.get("job"), state.record.get("ended_by")
    # In a job, a person's shell may survive the run: Slurm restarts no run typed there.
    of_slurm = state.state == LOST and state.record.get("sweep") is not None
    warned = state.state == "interrupted" and ended_by in REQUEUED
    if str(job) in (plans.queue or ()) and (of_slurm or warned):
        return replace(state, state=WAITING, error=None)
    outcome = plans.outcome(state.hash, changed) if state.hash else None
    if outcome is not None:
        return replace(state, state=outcome[0], error=outcome[1])
    if warned and job is not None and plans.queue is not None:
        return replace(state, state=LOST)  # the job was cancelled: Slurm did not queue it again
    return state


def _of_plan(work: Planned, plans: _Plans) -> State:
    """The state of work that has no run."""
    state, error = plans.outcome(work.hash, since=-math.inf) or (MISSING, None)
    return State(
        state=state,
        model=work.model,
        layer=work.layer,
        units=work.units,
        hash=work.hash,
        planned=work,
        launched=plans.newest(work.hash),
        error=error,
    )


@cache
def natural(text: str) -> list[tuple[int, str]]:
    """Return a key that sorts conv1_2 before conv1_10."""
    # 18 digits: int() refuses more than a few thousand, and a hash of digits is no number.
    parts = re.split(r"(\d{1,18})", text)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
