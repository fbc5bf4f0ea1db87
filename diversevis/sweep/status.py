"""What has become of every piece of work below a root.

finished     its run folder is whole
running      a process is at it and gives signs of life
waiting      it has not begun, or has ended early, and a job is still to come to it
interrupted  ended by Ctrl-C or by the system, with what there was kept
failed       ended by an error
lost         its process is gone without a word (out of memory, or the machine went down), or
             its job was cancelled
missing      planned by a sweep, and neither there nor still to come
damaged      a folder whose record cannot be read
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from diversevis.runs.find import Run, find_runs, newest, read_run
from diversevis.runs.holder import Holder, Sign, sign_of
from diversevis.runs.versions import work_folder
from diversevis.sweep.queue import Launched, read_launched, squeue_ids
from diversevis.sweep.record import Planned, Sweep, sweeps

STATES = (
    "finished", "running", "waiting", "interrupted", "failed", "lost", "missing", "damaged",
)  # fmt: skip
UNDONE = "interrupted", "failed", "lost", "missing"  # of which nothing becomes by itself
REQUEUED = "SIGTERM", "SIGUSR1", "SIGUSR2"  # may have ended a job that Slurm then starts again

Queued = Callable[[], set[str] | None]


@dataclass(frozen=True, kw_only=True)
class State:
    """What has become of a piece of work.

    state   one of `STATES`
    hash    of its scientific config; None where its record does not say
    folder  of its newest version; None where there is none
    record  that folder's, of finished work without its config; None where none can be read
    planned, sweep  as the newest sweep that has it planned it; None where no sweep did
    holder  who was the last at work there and has not finished
    error   whole; None where there was none, or nothing is known of it
    age     seconds since the holder's last sign of life
    """

    state: str
    model: str
    layer: str
    units: tuple[int, ...]
    hash: str | None
    folder: Path | None
    record: Mapping[str, Any] | None
    planned: Planned | None
    sweep: Sweep | None
    holder: Holder | None
    error: str | None
    age: float | None


def states(root: Path, *, queued: Queued = squeue_ids) -> list[State]:
    """Of every run at or below `root`, and of all work that the sweeps in `root/multirun` planned;
    by model, layer and units.

    queued  the ids of the jobs that Slurm has, None where they are not known
    """
    plans = _Plans(map(read_launched, sweeps(root)), queued)
    found = _settled(find_runs([root]), plans, plans.works.values())
    return sorted(found, key=_order)


def state_of_works(
    root: Path,
    works: Sequence[Planned],
    *,
    sweep: Sweep | None = None,
    queued: Queued = squeue_ids,
) -> list[State]:
    """Of these works alone, in their order, without a look at all of `root`.

    sweep  that planned them; the process that launched it is the one that asks, so that nothing is
           to come from there any more
    """
    launched = [replace(read_launched(sweep), alive=False)] if sweep else []
    plans = _Plans(launched, queued)
    places = dict.fromkeys(work_folder(root, work.where) for work in works)
    found = {
        state.hash: state
        for state in _settled(find_runs(places), plans, works)
        if state.hash is not None
    }
    return [found[work.hash] for work in works]


class _Plans:
    """What sweeps planned, and what may still come of it.

    Made before the runs are read: what ends in between is then among the runs.
    """

    def __init__(self, launched: Iterable[Launched], queued: Queued) -> None:
        self._launched: dict[str, list[Launched]] = defaultdict(list)  # the newest first
        for one in reversed(list(launched)):
            for work in one.works:
                self._launched[work].append(one)
        self.works = {work: of[0].works[work] for work, of in self._launched.items()}
        self.queue = queued()
        self.busy: set[str] = set()  # works at which somebody is

    def newest(self, work: str | None) -> Launched | None:
        of = self._launched.get(work) if work else None
        return of[0] if of else None

    def fate(self, work: str, since: float) -> tuple[str, str | None] | None:
        """What the sweeps begun since then have made of work that has nothing newer to show for it:
        `failed` and why, or `waiting`; None for nothing."""
        for one in self._launched.get(work, []):
            if one.start < since:
                continue
            if (error := one.sweep.read_failure(one.works[work])) is not None:
                return "failed", error
            if one.may_come(work, self.queue, self.busy):
                return "waiting", None
        return None


def _settled(runs: Sequence[Run], plans: _Plans, works: Iterable[Planned]) -> list[State]:
    """Of runs, and of those `works` that have none."""
    known = {run.hash for run in runs if _counts(run, plans)}
    found = [(run, _of_run(run, plans)) for run in newest(runs) if run.hash in known]
    plans.busy = {state.hash for _, state in found if state.state == "running" and state.hash}
    unknown = {work.hash: work for work in works if work.hash not in known}
    return [
        *(_to_come(run, state, plans) for run, state in found),
        *(_of_plan(work, plans) for work in unknown.values()),
    ]


def _counts(run: Run, plans: _Plans) -> bool:
    """Whether it may be what the newest sweep asked for: with `again=true`, one of its own."""
    newest = plans.newest(run.hash)
    if newest is None or run.hash is None or run.record is None:
        return True
    again = newest.works[run.hash].config.get("again")
    return not again or run.record.get("origin") == newest.sweep.name


def _of_run(run: Run, plans: _Plans) -> State:
    run, state, sign = _look(run)
    newest = plans.newest(run.hash)
    model, layer = _network(run)
    return State(
        state=state,
        model=model,
        layer=layer,
        units=tuple(run.record["units"]) if run.record else (),
        hash=run.hash,
        folder=run.folder,
        record=run.record,
        planned=plans.works.get(run.hash) if run.hash else None,
        sweep=newest.sweep if newest else None,
        holder=sign.holder if sign else None,
        error=_error(run) if state in ("failed", "damaged") else None,
        age=sign.age if sign else None,
    )


def _network(run: Run) -> tuple[str, str]:
    """Model and layer; of a damaged run by where it is, if that tells."""
    if run.record is not None:
        return run.record["model"], run.record["layer"]
    names = run.folder.absolute().parts[-4:-2]
    return (names[0], names[1]) if run.version >= 0 and len(names) == 2 else ("?", "?")


def _look(run: Run) -> tuple[Run, str, Sign | None]:
    """Its state by its record, and by the sign of life of whoever is at work there."""
    if run.record is None or run.reason is not None:
        return run, "damaged", None
    if run.record["status"] == "finished":
        return run, "finished", None
    sign = sign_of(run.folder)
    status = run.record["status"]
    if sign is not None and (sign.alive if status == "running" else sign.fresh):
        return run, "running", sign
    if status != "running":
        return run, status, sign
    again = read_run(run.folder)  # it may have ended between the two looks
    if again is None or again.record is None or again.record["status"] == "running":
        return run, "lost", sign
    return again, again.record["status"], sign


def _error(run: Run) -> str | None:
    found = run.reason or (run.record or {}).get("error")
    return found if isinstance(found, str) else None


def _to_come(run: Run, state: State, plans: _Plans) -> State:
    """The same, unless something else has become of it since, or will."""
    if state.state not in UNDONE or state.record is None:
        return state
    if str(state.record.get("job")) in (plans.queue or ()) and _is_started_again(state):
        return replace(state, state="waiting", error=None)
    fate = plans.fate(state.hash, run.changed) if state.hash else None
    if fate is not None:
        return replace(state, state=fate[0], error=fate[1])
    gone = plans.queue is not None and state.record.get("job") is not None
    if gone and state.state == "interrupted" and state.record.get("ended_by") in REQUEUED:
        return replace(state, state="lost")  # its job was cancelled, not queued again
    return state


def _is_started_again(state: State) -> bool:
    """By Slurm, whose job it was; a person's own shell goes on in a job of which nothing comes."""
    record = state.record or {}
    if state.state == "interrupted":
        return record.get("ended_by") in REQUEUED
    return state.state == "lost" and record.get("sweep") is not None


def _of_plan(work: Planned, plans: _Plans) -> State:
    newest = plans.newest(work.hash)
    state, error = plans.fate(work.hash, since=-math.inf) or ("missing", None)
    return State(
        state=state,
        model=work.model,
        layer=work.layer,
        units=work.units,
        hash=work.hash,
        folder=None,
        record=None,
        planned=work,
        sweep=newest.sweep if newest else None,
        holder=None,
        error=error,
        age=None,
    )


def _order(state: State) -> tuple[Any, ...]:
    names = natural(state.model), natural(state.layer)
    return *names, state.units, str(state.folder or "")


@cache
def natural(text: str) -> list[tuple[int, str]]:
    """Sorts conv1_2 before conv1_10."""
    parts = re.split(r"(\d{1,18})", text)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
