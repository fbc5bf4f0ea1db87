"""The record of a sweep: which work was planned, in which jobs, and how it was launched.

root/multirun/<name>/
    sweep.json            written before anything is launched
    failures/<hash>.json  errors of work that failed before it had a run folder
    ended.json            why the launcher ended before its jobs
    .claim-0001           while the process that launched it waits for its end
    .submitit/, multirun.yaml, ...   files of the launcher and of Hydra
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from diversevis.errors import InputError
from diversevis.runs.files import replacing
from diversevis.runs.trust import code_of, is_signed, signature
from diversevis.runs.versions import SWEEPS

SHORT = 16  # characters of a hash in a file's name


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One piece of work: some units of a layer, which make one run.

    hash    of its scientific config
    where   its run folder's versions are in root/where[0]/where[1]/where[2]
    config  resolved; its root is absolute
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

    folder    of the record, root/multirun/<name>
    command   as typed
    launcher  Hydra's overrides that chose and set the launcher
    start     when it was launched, in ISO format
    jobs      indices into `works` of what each job does, in the launcher's order
    made_by   signature of the code that the record names, as read (runs/trust.py)
    """

    folder: Path
    command: str
    launcher: tuple[str, ...]
    start: str
    works: tuple[Planned, ...]
    jobs: tuple[tuple[int, ...], ...]
    made_by: str | None = None

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def root(self) -> Path:
        return self.folder.parents[1]

    @cached_property
    def is_signed(self) -> bool:
        """Whether this account made the record here: its launcher and networks may be used."""
        return is_signed(self.folder, self._code, self.made_by)

    @property
    def _code(self) -> dict[str, Any]:
        """All in the record that decides which code runs."""
        codes = [code_of(work.config.get("model")) for work in self.works]
        distinct = {json.dumps(code, sort_keys=True, default=str) for code in codes}
        return {"launcher": list(self.launcher), "networks": sorted(distinct)}

    def write(self) -> None:
        """Write sweep.json; raises InputError if that is not possible."""
        content = {name: value for name, value in asdict(self).items() if name != "folder"}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            content["made_by"] = signature(self.folder, self._code)
            _write_json(self.folder / "sweep.json", content)
        except OSError as error:
            raise InputError(
                f"root={self.root}: the sweep's record {self.folder} cannot be made "
                f"({error.strerror}). Choose a folder that can be written, root=/some/where."
            ) from error

    def write_failure(self, work: Planned, error: str) -> None:
        """Save the error of work that may have no run folder; a full disk may be the error."""
        with contextlib.suppress(OSError):
            _write_json(self._failure(work.hash), {"error": error})

    def forget_failure(self, work: Planned) -> None:
        with contextlib.suppress(OSError):
            self._failure(work.hash).unlink()

    def read_failure(self, work: str) -> str | None:
        """Return the error of the work of this hash, None if there was none."""
        return _read_text(self._failure(work), "error")

    def write_end(self, why: str) -> None:
        """Save why the launcher ended before its jobs did."""
        with contextlib.suppress(OSError):
            _write_json(self.folder / "ended.json", {"ended": why})

    def read_end(self) -> str | None:
        return _read_text(self.folder / "ended.json", "ended")

    def _failure(self, work: str) -> Path:
        return self.folder / "failures" / f"{work[:SHORT]}.json"


def read_sweep(folder: Path) -> Sweep:
    """Return the sweep; raises OSError or ValueError if its record is missing or damaged."""
    content = json.loads((folder / "sweep.json").read_text())
    try:
        return Sweep(
            folder=folder,
            command=content["command"],
            launcher=tuple(content["launcher"]),
            start=content["start"],
            made_by=content.get("made_by"),
            jobs=tuple(map(tuple, content["jobs"])),
            works=tuple(
                Planned(**{**work, "units": tuple(work["units"]), "where": tuple(work["where"])})
                for work in content["works"]
            ),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder}: no record of a sweep ({error!r})") from error


def sweeps(root: Path) -> Iterator[Sweep]:
    """Yield the sweeps recorded in root/multirun, oldest first; damaged ones are left out."""
    with contextlib.suppress(OSError):
        for folder in sorted((root / SWEEPS).iterdir()):
            with contextlib.suppress(OSError, ValueError):
                yield read_sweep(folder)


def share_jobs(works: Iterable[tuple[Planned, int]]) -> list[list[Planned]]:
    """Return the jobs: neighbours on one layer share a process and its network.

    works  with the number of units that a job which begins with it may have
    """
    jobs: list[list[Planned]] = []
    layer, room = None, 0
    for work, most_units in works:
        if work.where[:2] != layer or len(work.units) > room:
            jobs.append([])
            layer, room = work.where[:2], most_units
        jobs[-1].append(work)
        room -= len(work.units)
    return jobs


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside:
        beside.write_text(json.dumps(content))


def _read_text(path: Path, key: str) -> str | None:
    """The entry `key` of a JSON file; None if there is no such file or it is damaged."""
    try:
        return str(json.loads(path.read_text())[key])
    except (OSError, ValueError, KeyError, TypeError):
        return None
