"""One job of a sweep, wherever a launcher has started it: its works one after the other."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import sys
import traceback
from dataclasses import dataclass, field
from pathlib import Path

from diversevis.config.log import speak
from diversevis.errors import FolderLost, InputError, Stopped
from diversevis.runs import signals
from diversevis.sweep.record import Planned, Sweep, read_sweep

LOG = logging.getLogger("diversevis")


@dataclass(kw_only=True)
class Jobs:
    """The jobs of the sweep whose record is in `folder`; `submitter` is the process that launched
    them."""

    folder: Path
    submitter: int
    _held: list[Planned] = field(default_factory=list)

    def __call__(self, number: int) -> list[str]:
        """Do job `number`; returns what has become of each of its works.

        One that fails does not keep the others from being done. Raises `Stopped` after a checkpoint
        where the system asked this process to end.
        """
        elsewhere = os.getpid() != self.submitter
        try:
            fates = self._all(number, elsewhere)
        except Stopped as error:
            if not elsewhere:
                raise
            LOG.warning("ended by %s; the job, started again, goes on", error)
            sys.exit(128 + error.number)
        except Exception:
            if elsewhere:
                _end_badly()
            raise
        if "failed" in fates and elsewhere:
            _end_badly()
        return fates

    def _all(self, number: int, elsewhere: bool) -> list[str]:
        speak()
        with signals.listening():
            from diversevis.method.setup import Preparer

            sweep, prepare = read_sweep(self.folder), Preparer()
            works = [sweep.works[place] for place in sweep.jobs[number]]
            fates = [self._do(sweep, work, prepare, wait=False) for work in works]
            self._held += [work for work, how in zip(works, fates, strict=True) if how == "held"]
            if elsewhere or number == len(sweep.jobs) - 1:
                # All others first, which nobody may be at; then see what has become of these.
                fates += [self._do(sweep, work, prepare, wait=True) for work in self._held]
        return fates

    def _do(self, sweep: Sweep, work: Planned, prepare: object, *, wait: bool) -> str:
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
                prepare=prepare,  # type: ignore[arg-type]
            )
        except FolderLost as error:  # deleted, or another process goes on with it
            LOG.warning("%s", error)
            return "held"
        except Exception as error:
            plain = isinstance(error, InputError)
            LOG.warning("%s failed: %s", "/".join(work.where), error)
            with contextlib.suppress(OSError):  # a full disk may be why
                sweep.write_failure(work, str(error) if plain else traceback.format_exc())
            return "failed"
        if done.how == "held":
            return done.how
        with contextlib.suppress(OSError):
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
