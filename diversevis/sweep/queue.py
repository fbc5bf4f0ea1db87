"""Which jobs a sweep's launcher has sent, and whether they may still do something.

The launchers `local` and `slurm` are submitit's, whose files are in `.submitit/` of the sweep:

    123_4_submitted.pkl, 123_4_0_log.err, 123_4_0_log.out   of job 4 of Slurm's array 123
    123_submitted.pkl, 123_0_log.err, 123_0_log.out         of a single job; locally, of process 123
    123_submission.sh                                       the script that Slurm was given
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
from diversevis.sweep.record import Sweep

SUBMITIT = ".submitit"
PATIENCE = 10.0  # seconds in which Slurm must have answered
JOB_FILE = re.compile(r"((\d+)(?:_(\d+))?)_(?:submitted\.pkl|0_log\.(?:err|out)|0_result\.pkl)")


def ask_slurm(*command: str, patience: float) -> str | None:
    """Return what a command of Slurm prints; None if there is no Slurm, or it does not answer."""
    # A person's SQUEUE_... variables would change what is listed.
    environment = {name: v for name, v in os.environ.items() if not name.startswith("SQUEUE_")}
    try:
        return subprocess.run(  # noqa: S603  (our commands)
            command, capture_output=True, text=True, check=True, timeout=patience, env=environment
        ).stdout
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def squeue_ids() -> set[str] | None:
    """Return the jobs that wait or run, `123` or, of an array, `123_4`; None without an answer."""
    answer = ask_slurm("squeue", "-h", "-r", "-o", "%i", patience=PATIENCE)
    return None if answer is None else set(answer.split())


@dataclass(frozen=True, kw_only=True)
class Launched:
    """A sweep and the state of its launcher at one moment.

    alive    whether the process that launched the sweep still waits for its end
    ids      the launcher's names of the jobs sent so far, in the order of the sweep's jobs
    slurm    whether the jobs are Slurm's
    numbers  hash -> number of the job that does the work
    """

    sweep: Sweep
    alive: bool
    ids: tuple[str, ...]
    slurm: bool
    numbers: Mapping[str, int]

    @property
    def start(self) -> float:
        """Seconds since the epoch; 0 if the record does not say."""
        try:
            return datetime.fromisoformat(self.sweep.start).timestamp()
        except (TypeError, ValueError):
            return 0.0

    def job(self, work: str) -> str | None:
        """The launcher's name of the job that does the work of this hash, once it is sent."""
        number = self.numbers.get(work)
        return self.ids[number] if number is not None and number < len(self.ids) else None

    def may_do(self, work: str, queue: Collection[str] | None, busy: Collection[str]) -> bool:
        """Whether a job may still do the work of this hash.

        queue  the jobs that Slurm has, None if that is not known
        busy   hashes of works in progress: a job does its other works after such a work
        """
        number, job = self.numbers.get(work), self.job(work)
        if number is None:
            return False
        if self.slurm and job is not None and queue is not None:
            return job in queue
        return self.alive or any(self.numbers.get(other) == number for other in busy)

    def logs(self, work: str) -> list[Path]:
        """What the job that does this work has printed, where that is not empty."""
        job = self.job(work)
        paths = [self.sweep.folder / SUBMITIT / f"{job}_0_log.{kind}" for kind in ("err", "out")]
        return [path for path in paths if job is not None and _time_and_size(path)[1]]


def read_launched(sweep: Sweep) -> Launched:
    """Return the current state of a sweep's launcher."""
    sign = sign_of(sweep.folder)
    ids, slurm = _sent(sweep)
    return Launched(
        sweep=sweep,
        alive=sign is not None and sign.alive,
        ids=ids,
        slurm=slurm,
        numbers={
            sweep.works[index].hash: number
            for number, job in enumerate(sweep.jobs)
            for index in job
            if index < len(sweep.works)  # the record may be damaged
        },
    )


def _sent(sweep: Sweep) -> tuple[tuple[str, ...], bool]:
    """Names of the jobs in the order in which they were sent, and whether to Slurm."""
    folder = sweep.folder / SUBMITIT
    try:
        names = os.listdir(folder)  # noqa: PTH208
    except OSError:
        return (), False
    jobs = {match[1]: match for name in names if (match := JOB_FILE.fullmatch(name))}
    slurm = any(re.fullmatch(r"\d+_submission\.sh", name) for name in names)

    def order(job: str) -> tuple[float, int, int]:
        """Slurm's numbers ascend; those of local processes start over, so there time decides."""
        time = 0.0 if slurm else _time_and_size(folder / f"{job}_submitted.pkl")[0]
        return time, int(jobs[job][2]), int(jobs[job][3] or 0)

    return tuple(sorted(jobs, key=order)), slurm


def _time_and_size(path: Path) -> tuple[float, int]:
    """When the file was written, and its bytes; zeros if there is none."""
    try:
        facts = path.stat()
    except OSError:
        return 0.0, 0
    return facts.st_mtime, facts.st_size
