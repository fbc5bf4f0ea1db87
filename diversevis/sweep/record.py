"""The record of a sweep: which work was planned, in which jobs, and how it was launched.

root/multirun/<name>/
    sweep.json            written before anything is launched
    failures/<hash>.json  errors of work that failed before it had a run folder
    .claim-0001           while the process that launched it waits for its end
    .submitit/, multirun.yaml, ...   the launcher's and Hydra's own
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from diversevis.errors import InputError
from diversevis.runs.files import replacing
from diversevis.runs.versions import SWEEPS

SHORT = 16  # characters of a hash in a file's name


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One piece of work: some units of a layer, which make one run.

    hash    of its scientific config
    where   its run folder's versions are in root/where[0]/where[1]/where[2]
    config  all of it, resolved; its root is absolute
    """

    hash: str
    model: str
    layer: str
    units: tuple[int, ...]
    where: tuple[str, str, str]
    config: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What was planned.

    folder    of the record
    command   as typed
    launcher  Hydra's overrides that chose and set the launcher
    works     everything that was to do
    jobs      places in `works` of what each job does, in the launcher's order
    """

    folder: Path
    command: str
    launcher: tuple[str, ...]
    start: str
    works: tuple[Planned, ...]
    jobs: tuple[tuple[int, ...], ...]

    @property
    def name(self) -> str:
        return self.folder.name

    def write(self) -> None:
        """`sweep.json`. Raises `InputError` where it cannot be written."""
        content = {
            "command": self.command,
            "launcher": self.launcher,
            "start": self.start,
            "jobs": self.jobs,
            "works": [asdict(work) for work in self.works],
        }
        try:
            with replacing(self.folder / "sweep.json") as beside:
                beside.write_text(json.dumps(content))
        except OSError as error:
            raise InputError(
                f"root={self.folder.parents[1]}: the sweep's record {self.folder} cannot be made "
                f"({error.strerror}). Choose a folder that can be written, root=/some/where."
            ) from error

    def write_failure(self, work: Planned, error: str) -> None:
        """Of work that has no run folder to say it in."""
        with replacing(self._failure(work.hash)) as beside:
            beside.write_text(json.dumps({"error": error}))

    def forget_failure(self, work: Planned) -> None:
        self._failure(work.hash).unlink(missing_ok=True)

    def read_failure(self, work: Planned) -> str | None:
        """The error, None where there was none."""
        try:
            return str(json.loads(self._failure(work.hash).read_text())["error"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write_end(self, why: str) -> None:
        """Why its launcher has ended before its jobs did."""
        with contextlib.suppress(OSError), replacing(self.folder / "ended.json") as beside:
            beside.write_text(json.dumps({"ended": why}))

    def read_end(self) -> str | None:
        """None where it has not, or does not say."""
        try:
            return str(json.loads((self.folder / "ended.json").read_text())["ended"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _failure(self, work: str) -> Path:
        return self.folder / "failures" / f"{work[:SHORT]}.json"


def read_sweep(folder: Path) -> Sweep:
    """Raises `OSError` or `ValueError` where there is none, or a damaged one."""
    content = json.loads((folder / "sweep.json").read_text())
    try:
        return Sweep(
            folder=folder,
            command=content["command"],
            launcher=tuple(content["launcher"]),
            start=content["start"],
            jobs=tuple(tuple(job) for job in content["jobs"]),
            works=tuple(
                Planned(**{**work, "units": tuple(work["units"]), "where": tuple(work["where"])})
                for work in content["works"]
            ),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder}: no record of a sweep ({error!r})") from error


def sweeps(root: Path) -> Iterator[Sweep]:
    """The sweeps recorded below `root/multirun`, oldest first; damaged ones are left out."""
    try:
        folders: Sequence[Path] = sorted((root / SWEEPS).iterdir())
    except OSError:
        return
    for folder in folders:
        try:
            yield read_sweep(folder)
        except (OSError, ValueError):
            continue
