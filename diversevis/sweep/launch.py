"""A planned sweep, given to whichever launcher Hydra has, and followed to its end."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

from omegaconf import DictConfig

from diversevis.config.arguments import in_quotes
from diversevis.config.hydra_call import call_hydra
from diversevis.errors import InputError, SweepUnfinished
from diversevis.runs.lease import Claim
from diversevis.runs.versions import SWEEPS
from diversevis.sweep.jobs import Jobs, shown
from diversevis.sweep.record import Planned, Sweep

LOG = logging.getLogger("diversevis")
SECONDS_BETWEEN_LOOKS = 5.0
PATIENCE = 600.0  # seconds in which Slurm must say once what it has
BATCH_SIZE = "hydra.sweeper.max_batch_size="
SHOWN = 20  # jobs that are told one by one


def launch(
    root: Path,
    works: Sequence[Planned],
    jobs: Sequence[Sequence[int]],
    launcher: Sequence[str],
    typed: str,
) -> None:
    """Have Hydra's launcher do the jobs; returns when all is finished.

    Raises `SweepUnfinished` where it is not.
    """
    name = f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{os.getpid()}"
    sweep = Sweep(
        folder=root / SWEEPS / name,
        command=typed,
        launcher=tuple(launcher),
        start=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        works=tuple(works),
        jobs=tuple(tuple(job) for job in jobs),
    )
    sweep.write()
    _say_plan(sweep)
    claim = Claim.make(sweep.folder)
    if claim is not None:
        claim.begin()
    job = Jobs(folder=sweep.folder, submitter=os.getpid())

    def one_job(config: DictConfig) -> object:
        return job(config.planned_job)

    size = _most_at_once(launcher) or len(jobs)
    here = [
        *(word for word in launcher if BATCH_SIZE not in word),
        f"hydra.sweep.dir={in_quotes(str(sweep.folder))}",
        "hydra.job.name=diversevis",
    ]
    try:
        # Array by array: a launcher gives up all that it has not launched once a job has died.
        for first in range(0, len(jobs), size):
            last = min(first + size, len(jobs))
            numbers = f"range({first},{last})" if last - first > 1 else str(first)
            words = [*here, f"+planned_job={numbers}"]
            _until_its_end(partial(call_hydra, one_job, ["-m"], words), sweep)
    except InputError:
        if not (sweep.folder / ".submitit").exists():  # nothing was launched
            _forget(sweep)
        raise
    finally:
        if claim is not None:
            claim.remove()
    _say_end(sweep)


def _most_at_once(launcher: Sequence[str]) -> int | None:
    """How many jobs are launched at once: as told, or as a cluster's job arrays may be long."""
    for word in launcher:
        if BATCH_SIZE in word:
            value = word.partition("=")[2]
            if not value.isdecimal() or int(value) < 1:
                raise InputError(f"{word}: must be a number of jobs, 1 or more.")
            return int(value)
    if "hydra/launcher=slurm" not in launcher or shutil.which("scontrol") is None:
        return None
    try:
        answer = subprocess.run(
            ["scontrol", "show", "config"],  # noqa: S607
            capture_output=True, text=True, timeout=30, check=True,
        ).stdout  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", answer, re.MULTILINE)
    return max(1, int(found[1]) - 1) if found else None


def _until_its_end(launched: Callable[[], None], sweep: Sweep) -> None:
    """The launcher's part; it gives up at the first job that died, and the others go on."""
    try:
        launched()
    except InputError:
        raise
    except KeyboardInterrupt:
        if not _queued(sweep):
            sweep.write_end("Ctrl-C")
        else:
            print(
                "diversevis: the jobs in the cluster's queue go on; scancel ends them, "
                f"`diversevis status {shown(sweep.folder.parents[1])}` tells how they stand.",
                file=sys.stderr,
            )
        raise
    except Exception as error:
        LOG.warning("the launcher: %s%s", error, _hint(str(error)))
        sweep.write_end(str(error))
        silent_since = time.monotonic()
        while (queued := _queued(sweep)) is not False:
            if queued:
                silent_since = time.monotonic()
            elif time.monotonic() - silent_since > PATIENCE:
                LOG.warning("Slurm does not say which jobs it has: no longer waited for")
                return
            time.sleep(SECONDS_BETWEEN_LOOKS)


def _hint(said: str) -> str:
    if "node configuration" in said:
        return "\nA cluster's nodes without GPUs need hydra.launcher.gpus_per_node=0."
    return ""


def _forget(sweep: Sweep) -> None:
    """The record of a sweep that came to nothing, and the folders made for it."""
    shutil.rmtree(sweep.folder, ignore_errors=True)
    for empty in (sweep.folder.parent, sweep.folder.parents[1]):
        with contextlib.suppress(OSError):
            empty.rmdir()


def _queued(sweep: Sweep) -> bool | None:
    """Whether the cluster's queue has jobs of this sweep; None where it does not say."""
    from diversevis.sweep.queue import read_launched, squeue_ids

    launched = read_launched(sweep)
    if not launched.slurm:
        return False
    queue = squeue_ids()
    return None if queue is None else bool(set(launched.ids) & queue)


def _say_end(sweep: Sweep) -> None:
    """Folders, counts, and what to do about the rest."""
    from diversevis.sweep.status import state_of_works

    root = sweep.folder.parents[1]
    states = state_of_works(root, sweep.works, sweep=sweep)
    chosen = [word for word in sweep.launcher if word.startswith("hydra/launcher=")]
    elsewhere = bool(chosen) and chosen[-1] != "hydra/launcher=basic"
    for one in states:
        if elsewhere and one.state == "finished" and one.folder is not None:
            print(shown(one.folder), flush=True)
    counts = Counter(one.state for one in states)
    words = ", ".join(f"{count} {state}" for state, count in counts.most_common())
    if set(counts) <= {"finished"}:
        print(f"diversevis: {len(states)} runs, all finished.", file=sys.stderr)
        return
    where = shlex.quote(shown(root))
    raise SweepUnfinished(
        f"{len(states)} runs: {words}. `diversevis status {where} --failed` tells why; "
        f"`diversevis retry {where}` does what is left."
    )


def _say_plan(sweep: Sweep) -> None:
    units = sum(len(work.units) for work in sweep.works)
    print(
        f"diversevis: {units} units in {len(sweep.works)} runs, {len(sweep.jobs)} jobs",
        file=sys.stderr,
    )
    for number, job in enumerate(sweep.jobs[:SHOWN]):
        words = ", ".join("/".join(sweep.works[place].where) for place in job)
        print(f"  job {number}: {words}", file=sys.stderr)
    if len(sweep.jobs) > SHOWN:
        print(f"  and {len(sweep.jobs) - SHOWN} more", file=sys.stderr)
