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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from diversevis.config.log import note
from diversevis.errors import InputError
from diversevis.runs.files import (
    Damaged,
    Missing,
    check_depth,
    is_whole,
    read_json,
    replacing,
    shown,
)
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
    """Return the sweep; raises Damaged if its record is missing, damaged or nested too deeply."""
    content = read_json(folder, "sweep.json")
    try:
        works = tuple(
            Planned(**{**work, "units": tuple(work["units"]), "where": tuple(work["where"])})
            for work in content["works"]
        )
        jobs = tuple(map(tuple, content["jobs"]))
        texts = (content["command"], content["start"], *content["launcher"])
        _check_types(works, jobs, texts)
    except (KeyError, TypeError) as error:
        raise Damaged(f"sweep.json is no record of a sweep ({error!r})") from error
    command, start, *launcher = texts
    return Sweep(
        folder=folder, command=command, launcher=tuple(launcher), start=start, jobs=jobs,
        works=works, made_by=content.get("made_by"),
    )  # fmt: skip


def _check_types(works: Sequence[Planned], jobs: Sequence[Sequence[Any]], texts: Any) -> None:
    """Raises TypeError for values of other types, and Damaged for configs nested too deeply."""
    for work in works:
        if not isinstance(work.config, dict):
            raise TypeError(shown(work.config))
        check_depth(work.config, "sweep.json")
        names = (work.hash, work.model, work.layer, *work.where)
        if len(work.where) != 3 or not all(map(is_whole, work.units)) or not work.units:
            raise TypeError(f"{shown(work.where)}, {shown(work.units)}")
        texts = (*texts, *names)
    if not all(isinstance(text, str) for text in texts):
        raise TypeError(shown(next(text for text in texts if not isinstance(text, str))))
    if not all(is_whole(index) for job in jobs for index in job):
        raise TypeError(shown(jobs))


def sweeps(root: Path) -> Iterator[Sweep]:
    """Yield the sweeps in root/multirun, oldest first; damaged ones are named on stderr."""
    with contextlib.suppress(OSError):
        for folder in sorted((root / SWEEPS).iterdir()):
            try:
                yield read_sweep(folder)
            except Missing:  # it is just being made, or is no sweep's
                continue
            except Damaged as reason:
                note(f"{folder}: {reason}. What this sweep planned is not known.")


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
        return str(read_json(path.parent, path.name)[key])
    except (Damaged, KeyError):
        return None
