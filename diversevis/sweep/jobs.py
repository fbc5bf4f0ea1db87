"""One job of a sweep, in whichever process a launcher has started it.

Imports neither torch nor Hydra at the top: a job must hear a cluster's signals from its first
second, and both take several seconds to import.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diversevis.config.log import note, show_warnings
from diversevis.errors import FolderLost, InputError, Stopped
from diversevis.runs import signals
from diversevis.sweep.record import Planned, Sweep, read_sweep

LOG = logging.getLogger("diversevis")
LISTED = 20  # jobs that a sweep names when it begins; those of a longer one name themselves too


@dataclass(kw_only=True)
class Jobs:
    """The jobs of the sweep recorded in `folder`, launched by the process `submitter`."""

    folder: Path
    submitter: int
    _held: list[Planned] = field(default_factory=list)

    @property
    def is_submitter(self) -> bool:
        return os.getpid() == self.submitter

    def __call__(self, number: int) -> list[str]:
        """Do the works of job `number` in turn; return what was done of each.

        A work that fails does not keep the others from being done. Raises Stopped after a
        checkpoint if the system asked this process to end.
        """
        try:
            outcomes = self._do_all(number)
        except Stopped as error:
            if self.is_submitter:
                raise
            LOG.warning("ended by %s; the job continues when it is started again", error)
            sys.exit(128 + error.number)
        except Exception:
            self._exit_with_failure()
            raise
        if "failed" in outcomes:
            self._exit_with_failure()
        return outcomes

    def _do_all(self, number: int) -> list[str]:
        show_warnings()
        with signals.listening():
            from diversevis.method.device import keep_pages
            from diversevis.method.setup import Preparer

            keep_pages()
            sweep, prepare = read_sweep(self.folder), Preparer()
            works = [sweep.works[index] for index in sweep.jobs[number]]
            if len(sweep.jobs) > LISTED or "SUBMITIT_EXECUTOR" in os.environ:
                note(named(sweep, number))  # the plan has not, or this goes into the job's own file
            outcomes = [self._do(sweep, work, prepare, wait=False) for work in works]
            pairs = zip(works, outcomes, strict=True)
            self._held += [work for work, outcome in pairs if outcome == "held"]
            if not self.is_submitter or number == len(sweep.jobs) - 1:
                # Wait for other processes last, when nothing else is left to do: they may fail.
                outcomes += [self._do(sweep, work, prepare, wait=True) for work in self._held]
        return outcomes

    def _do(self, sweep: Sweep, work: Planned, prepare: Callable[..., Any], *, wait: bool) -> str:
        from diversevis.config.bind import bind
        from diversevis.config.compose import settled
        from diversevis.experiment.run import run
        from diversevis.method.settings import Experiment

        signals.check()
        try:
            done = run(
                bind(Experiment, work.config, ""),
                command=sweep.command,
                config=settled(work.config),
                extras={},
                sweep=sweep.name,
                expected=work.hash,
                wait=wait,
                prepare=prepare,
            )
        except FolderLost as error:  # deleted, or taken over by another process
            LOG.warning("%s", error)
            return "held"
        except Exception as error:
            text = str(error) if isinstance(error, InputError) else traceback.format_exc()
            LOG.warning("%s failed: %s", "/".join(work.where), error)
            sweep.write_failure(work, text)
            return "failed"
        if done.how == "held":
            return "held"
        sweep.forget_failure(work)
        if self.is_submitter:
            print(shown(done.path), flush=True)
        return done.how

    def _exit_with_failure(self) -> None:
        """Have submitit's process end with status 1, after it has handed over its result.

        submitit takes an exception for a result and ends with status 0: Slurm would show a job that
        failed as completed.
        """

        def exit_now() -> None:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)

        if "SUBMITIT_EXECUTOR" in os.environ and not self.is_submitter:
            atexit.register(exit_now)


def named(sweep: Sweep, number: int) -> str:
    """`job 5 of 41: vgg19/conv2_1/0-63`, with all works of the job; the first has the number 0."""
    names = ", ".join("/".join(sweep.works[index].where) for index in sweep.jobs[number])
    return f"job {number + 1} of {len(sweep.jobs)}: {names}"


def shown(path: Path) -> str:
    """Return the path relative to the current folder, if it lies below it."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
