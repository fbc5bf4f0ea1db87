"""A planned sweep, given to the launcher that Hydra has for it, and followed to its end."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import re
import shlex
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

from diversevis.config.hydra_call import launch_jobs
from diversevis.config.log import note
from diversevis.errors import InputError, SweepUnfinished
from diversevis.runs.lease import Claim
from diversevis.runs.versions import SWEEPS
from diversevis.sweep.jobs import LISTED, Jobs, named, shown
from diversevis.sweep.queue import SUBMITIT, ask_slurm, read_launched, squeue_ids
from diversevis.sweep.record import Planned, Sweep
from diversevis.sweep.status import state_of_works
from diversevis.units import counted

LOG = logging.getLogger("diversevis")
SECONDS_BETWEEN_LOOKS = 5.0
PATIENCE = 600.0  # seconds without an answer of Slurm after which it is no longer waited for
BATCH_SIZE = "hydra.sweeper.max_batch_size="


def launch(jobs: Sequence[Sequence[Planned]], launcher: Sequence[str], typed: str) -> None:
    """Have Hydra's launcher do the jobs; returns when all their works are finished.

    jobs      the works of every job, all for the same root
    launcher  overrides that choose and set the launcher

    Raises SweepUnfinished if some works are not finished in the end, and InputError if nothing
    could be launched.
    """
    batch = _jobs_at_once(launcher) or len(jobs)
    name = f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{os.getpid()}"
    index = itertools.count()
    sweep = Sweep(
        folder=Path(jobs[0][0].config["root"], SWEEPS, name),
        command=typed,
        launcher=tuple(launcher),
        start=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        works=tuple(itertools.chain.from_iterable(jobs)),
        jobs=tuple(tuple(next(index) for _ in job) for job in jobs),
    )
    sweep.write()
    _print_plan(sweep)
    claim = Claim.make(sweep.folder)
    if claim is not None:
        claim.begin()
    job = Jobs(folder=sweep.folder, submitter=os.getpid())
    settings = [word for word in launcher if BATCH_SIZE not in word]
    try:
        # Array by array here, not by Hydra's sweeper: once a job has died, a launcher raises, and
        # the sweeper would not launch the arrays that are left.
        for first in range(0, len(jobs), batch):
            numbers = range(first, min(first + batch, len(jobs)))
            _follow(partial(launch_jobs, job, numbers, settings, sweep.folder), sweep)
    except InputError:
        if not (sweep.folder / SUBMITIT).exists():  # nothing was launched
            _remove(sweep)
        raise
    finally:
        if claim is not None:
            claim.remove()
    _print_end(sweep)


def _jobs_at_once(launcher: Sequence[str]) -> int | None:
    """How many jobs to launch at once: as set, or as the cluster limits job arrays; None: all."""
    for word in launcher:
        if BATCH_SIZE in word:
            value = word.partition("=")[2]
            if not value.isdecimal() or int(value) < 1:
                raise InputError(f"{word}: must be a number of jobs, 1 or more.")
            return int(value)
    if "hydra/launcher=slurm" not in launcher:
        return None
    answer = ask_slurm("scontrol", "show", "config", patience=30) or ""
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", answer, re.MULTILINE)
    # Slurm's array indices are smaller than this, and start at 0
    return max(1, int(match[1]) - 1) if match else None


def _follow(launch_array: Callable[[], None], sweep: Sweep) -> None:
    """Launch, and wait until no job is queued: a launcher raises at the first job that died, while
    the others continue."""
    try:
        launch_array()
    except InputError:
        raise
    except KeyboardInterrupt:
        if _is_queued(sweep):
            note(
                "the jobs in the cluster's queue continue; scancel ends them, `diversevis status "
                f"{shown(sweep.root)}` shows their state."
            )
        else:
            sweep.write_end("Ctrl-C")
        raise
    except Exception as error:
        hint = "\nA cluster's nodes without GPUs need hydra.launcher.gpus_per_node=0."
        LOG.warning("the launcher: %s%s", error, hint if "node configuration" in str(error) else "")
        sweep.write_end(str(error))
        _wait_for_queue(sweep)


def _wait_for_queue(sweep: Sweep) -> None:
    answered = time.monotonic()
    while (queued := _is_queued(sweep)) is not False:
        if queued:
            answered = time.monotonic()
        elif time.monotonic() - answered > PATIENCE:
            LOG.warning("Slurm does not answer which jobs it has: no longer waiting for them")
            return
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _is_queued(sweep: Sweep) -> bool | None:
    """Whether Slurm has jobs of this sweep; None if it does not answer."""
    launched = read_launched(sweep)
    if not launched.slurm:
        return False
    queue = squeue_ids()
    return None if queue is None else not queue.isdisjoint(launched.ids)


def _remove(sweep: Sweep) -> None:
    """Remove the sweep's record, and the folders above it that were made for it."""
    shutil.rmtree(sweep.folder, ignore_errors=True)
    for folder in (sweep.folder.parent, sweep.root):
        with contextlib.suppress(OSError):  # it is not empty
            folder.rmdir()


def _print_plan(sweep: Sweep) -> None:
    units = sum(len(work.units) for work in sweep.works)
    runs, jobs = counted(len(sweep.works), "run"), counted(len(sweep.jobs), "job")
    note(f"{counted(units, 'unit')} in {runs}, {jobs}")
    for number in range(len(sweep.jobs))[:LISTED]:
        print(f"  {named(sweep, number)}", file=sys.stderr)
    if len(sweep.jobs) > LISTED:
        print(f"  and {len(sweep.jobs) - LISTED} more", file=sys.stderr)
    if {"hydra/launcher=slurm", "hydra/launcher=local"} & {*sweep.launcher}:
        note(f"what the jobs print is in {shown(sweep.folder / SUBMITIT)}")


def _print_end(sweep: Sweep) -> None:
    """Print the finished folders and the counts; raises SweepUnfinished if not all is finished."""
    states = state_of_works(sweep.root, sweep.works, sweep=sweep)
    chosen = [word for word in sweep.launcher if word.startswith("hydra/launcher=")]
    if chosen and chosen[-1] != "hydra/launcher=basic":  # else `Jobs` has printed them, in here
        for state in states:
            if state.state == "finished" and state.folder is not None:
                print(shown(state.folder), flush=True)
    counts = Counter(state.state for state in states)
    if set(counts) <= {"finished"}:
        note(f"{counted(len(states), 'run')}, all finished.")
        return
    words = ", ".join(f"{count} {state}" for state, count in counts.most_common())
    root = shlex.quote(shown(sweep.root))
    raise SweepUnfinished(
        f"{counted(len(states), 'run')}: {words}. `diversevis status {root} --failed` shows why; "
        f"`diversevis retry {root}` does the rest."
    )
