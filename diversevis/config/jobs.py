"""One job of a sweep, wherever a launcher has started it: its works one after the other."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

from diversevis import stopping
from diversevis.bind import bind
from diversevis.config.compose import settled
from diversevis.config.speak import speak
from diversevis.errors import InputError
from diversevis.settings import Experiment
from diversevis.sweep.manifest import Planned, Sweep, read_sweep

LOG = logging.getLogger("diversevis")


@dataclass(frozen=True, kw_only=True)
class Jobs:
    """The jobs of the sweep whose record is in `folder`; `submitter` is the process that launched
    them."""

    folder: Path
    submitter: int

    def __call__(self, number: int) -> list[str]:
        """Do job `number`; returns what has become of each of its works.

        One that fails does not keep the others from being done. Raises `Stopped` after a checkpoint
        where the system asked this process to end.
        """
        speak()
        from diversevis.prepare import Preparer

        sweep, prepare = read_sweep(self.folder), Preparer()
        works = [sweep.works[place] for place in sweep.jobs[number]]
        with stopping.listening():
            fates = [self._do(sweep, work, prepare, wait=False) for work in works]
            for place, work in enumerate(works):
                if fates[place] == "held":  # the others first, then see what has become of it
                    fates[place] = self._do(sweep, work, prepare, wait=True)
        if "failed" in fates and os.getpid() != self.submitter:
            _end_badly()
        return fates

    def _do(self, sweep: Sweep, work: Planned, prepare: object, *, wait: bool) -> str:
        from diversevis.experiment import run

        stopping.check()
        try:
            done = run(
                bind(Experiment, work.config, ""),
                command=sweep.command,
                config=settled(work.config),
                extras={},
                sweep=sweep.name,
                expected=work.hash,
                wait=wait,
                prepare=prepare,  # type: ignore[arg-type]
            )
        except Exception as error:
            plain = isinstance(error, InputError)
            LOG.warning("%s failed: %s", "/".join(work.where), error)
            sweep.write_failure(work, str(error) if plain else traceback.format_exc())
            return "failed"
        if done.how == "held":
            return done.how
        sweep.forget_failure(work)
        if os.getpid() == self.submitter:
            print(shown(done.path), flush=True)
        return done.how


def shown(path: Path) -> str:
    """As a person sees it from here."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _end_badly() -> None:
    """Have a launcher's process end with status 1, after it has handed over what it has.

    Launchers take whatever a job raises for a result, and end it well: a cluster would show a job
    that failed as completed.
    """
    if "SUBMITIT_EXECUTOR" not in os.environ:
        return

    def end() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)

    atexit.register(end)
