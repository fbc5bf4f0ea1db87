"""What a sweep's launcher says: which jobs it has sent, and whether they may still do something.

The launchers `local` and `slurm` are submitit's, whose files lie in `.submitit/` of the sweep:

    123_4_submitted.pkl, 123_4_0_log.err, 123_4_0_log.out   of job 4 of Slurm's array 123
    123_submitted.pkl, 123_0_log.err, 123_0_log.out         of a job alone; locally, of process 123
    123_submission.sh                                       what Slurm was given
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from diversevis.runs.holder import sign_of
from diversevis.sweep.record import Planned, Sweep

PATIENCE = 10.0  # seconds in which Slurm must have answered
OF_A_JOB = re.compile(r"((\d+)(?:_(\d+))?)_(?:submitted\.pkl|0_log\.(?:err|out)|0_result\.pkl)")


def squeue_ids() -> set[str] | None:
    """Jobs that wait or run, `123` or, of an array, `123_4`; None where Slurm does not say."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("SQUEUE_")}
    try:
        answer = subprocess.run(
            ["squeue", "-h", "-r", "-o", "%i"],  # noqa: S607
            capture_output=True, text=True, check=True, timeout=PATIENCE, env=ours,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return set(answer.stdout.split())


@dataclass(frozen=True, kw_only=True)
class Launched:
    """A sweep, and how its launcher stood at one moment.

    alive    whether the process that launched it waits for its end
    ids      the launcher's names of the jobs sent so far, in the order of the sweep's
    slurm    whether these are Slurm's
    works    of each hash
    numbers  of each hash, the place of the job that does it
    """

    sweep: Sweep
    alive: bool
    ids: tuple[str, ...]
    slurm: bool
    works: Mapping[str, Planned]
    numbers: Mapping[str, int]

    @property
    def start(self) -> float:
        """Seconds since the epoch; 0 where it is not known."""
        try:
            return datetime.fromisoformat(self.sweep.start).timestamp()
        except (TypeError, ValueError):
            return 0.0

    def job(self, work: str) -> str | None:
        """The launcher's name of the job that does the work of this hash, if it has been sent."""
        number = self.numbers.get(work)
        return self.ids[number] if number is not None and number < len(self.ids) else None

    def may_come(self, work: str, queue: Collection[str] | None, busy: Collection[str]) -> bool:
        """Whether the work of this hash may still be done.

        queue  jobs that Slurm has, None where that is not known
        busy   hashes of works at which somebody is: their jobs go on to others
        """
        number, job = self.numbers.get(work), self.job(work)
        if number is None:
            return False
        if self.slurm and job is not None and queue is not None:
            return job in queue
        return self.alive or any(self.numbers.get(other) == number for other in busy)

    def logs(self, work: str) -> list[Path]:
        """What the job that does this work has printed, as far as there is something."""
        job = self.job(work)
        paths = [_files(self.sweep) / f"{job}_0_log.{kind}" for kind in ("err", "out")]
        return [path for path in paths if job is not None and _facts(path)[1]]


def read_launched(sweep: Sweep) -> Launched:
    """How a sweep's launcher stands now."""
    sign = sign_of(sweep.folder)
    ids, slurm = _sent(sweep)
    return Launched(
        sweep=sweep,
        alive=sign is not None and sign.alive,
        ids=ids,
        slurm=slurm,
        works={work.hash: work for work in sweep.works},
        numbers={
            sweep.works[place].hash: number
            for number, job in enumerate(sweep.jobs)
            for place in job
            if place < len(sweep.works)
        },
    )


def _files(sweep: Sweep) -> Path:
    """Where the launcher's own files are."""
    return sweep.folder / ".submitit"


def _sent(sweep: Sweep) -> tuple[tuple[str, ...], bool]:
    """Names of the jobs in the order in which they were sent, and whether to Slurm."""
    folder = _files(sweep)
    try:
        names = os.listdir(folder)  # noqa: PTH208
    except OSError:
        return (), False
    sent = {match[1]: match for name in names if (match := OF_A_JOB.fullmatch(name))}
    slurm = any(re.fullmatch(r"\d+_submission\.sh", name) for name in names)

    def order(job: str) -> tuple[float, int, int]:
        """Numbers of processes begin anew after the highest: there, time tells."""
        time = 0.0 if slurm else _facts(folder / f"{job}_submitted.pkl")[0]
        return time, int(sent[job][2]), int(sent[job][3] or 0)

    return tuple(sorted(sent, key=order)), slurm


def _facts(path: Path) -> tuple[float, int]:
    """When it was written, and its size; zeros where it is not there."""
    try:
        facts = path.stat()
    except OSError:
        return 0.0, 0
    return facts.st_mtime, facts.st_size
