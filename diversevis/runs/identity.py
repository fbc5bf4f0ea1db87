"""The same work is done once: its run folder found or made, and held by one process at a time.

Work is named by the hash of its scientific config (`prepare.science`); which devices, where, and
which measures are taken afterwards are no part of that.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diversevis.method.setup import Setup
from diversevis.photographs.files import names_and_sizes
from diversevis.runs import signals
from diversevis.runs.folder import RunFolder
from diversevis.runs.integrity import flaw_of
from diversevis.runs.lease import Claim, Watch
from diversevis.runs.provenance import rerun_line, sha256_of
from diversevis.runs.versions import create_version, versions_in, work_folder

LOG = logging.getLogger("diversevis")
SECONDS_BETWEEN_LOOKS = 1.0


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is wanted.

    root, where  its versions are in `root/where[0]/where[1]/where[2]`
    hash         of the scientific config
    measures     to be taken of it
    seeds        of which the spread is wanted
    again        a new version, whatever there is
    measuring    hash of the measures' settings
    origin       what asks for it: the sweep's or the cluster job's name
    restarted    whether it may be the same asking again, as a job does that is started anew: then
                 it means the version that it made before
    """

    root: Path
    where: tuple[str, str, str]
    hash: str
    measures: Sequence[str]
    seeds: int
    again: bool
    measuring: str
    origin: str | None
    restarted: bool

    @property
    def place(self) -> Path:
        """The folder of its versions."""
        return work_folder(self.root, self.where)

    def version(self) -> RunFolder | None:
        """The newest version of it that is done, else the newest."""
        return self.look()[0]

    def look(self) -> tuple[RunFolder | None, int]:
        """The same, and the highest number there is of any version, 0 where there is none."""
        every = versions_in(self.place)
        folders = [RunFolder(path) for _, path in every]
        found = [folder for folder in folders if self._is_of(_record(folder))]
        done = [folder for folder in found if self.is_done(folder)]
        return next(iter([*done, *found]), None), every[0][0] if every else 0

    def _is_of(self, record: Mapping[str, Any]) -> bool:
        if record.get("config_hash") != self.hash or record.get("n") is None:
            return False
        return not self.again or (self.restarted and record.get("origin") == self.origin)

    def left(self, folder: RunFolder) -> list[str]:
        """Measures that the version in `folder` lacks."""
        record = _record(folder)
        if not is_optimized(folder) or record.get("measuring", self.measuring) != self.measuring:
            return list(self.measures)
        try:
            taken = folder.read_measures()
        except (OSError, ValueError):
            return list(self.measures)
        known = {*taken, *record.get("not_measured", {})}
        return [name for name in self.measures if name not in known]

    def lacks_seeds(self, folder: RunFolder) -> bool:
        """Whether the spread over seeds is wanted, and not there."""
        seeds, names = folder.read_spread()
        wanted = {name for name in self.measures if name != "natural"}
        known = {*names, *_record(folder).get("not_measured", {})}
        return self.seeds > 1 and (len(seeds) < self.seeds or not wanted <= known)

    def is_done(self, folder: RunFolder) -> bool:
        record = _record(folder)
        if record.get("status") != "finished" or not is_optimized(folder):
            return False
        return not self.left(folder) and not self.lacks_seeds(folder)


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A version of a work; `claim` is None where there is nothing to do, or another holds it.

    holder  who does, in words
    fresh   nobody has worked on it before
    """

    folder: RunFolder
    claim: Claim | None
    holder: str | None
    fresh: bool


def open_work(work: Work, record: Mapping[str, Any], *, wait: bool) -> Opened:
    """The work's version, found or made, and claimed if there is something to do.

    record  what a new one begins with
    wait    until another process that holds it has finished it, or has died; else it is returned
            without a claim

    Raises `InputError` where a folder cannot be made, `Stopped` where this process is to end.
    """
    watch: Watch | None = None
    while True:
        signals.check()
        folder, highest = work.look()
        if folder is None:
            begin = dict(record) | {"origin": work.origin}
            made = _make(work.place, highest + 1, begin, "run")
            if made is not None:
                return Opened(folder=made[0], claim=made[1], holder=None, fresh=True)
            continue  # another process made this version: it may be this very work
        if work.is_done(folder):
            return Opened(folder=folder, claim=None, holder=None, fresh=False)
        if watch is None or watch.folder != folder.path:
            watch = Watch(folder.path)
        try:
            claim = Claim.take(watch)
        except FileNotFoundError:  # it has just been deleted
            continue
        if claim is not None:
            if work.is_done(folder):  # between the two looks
                claim.remove()
                return Opened(folder=folder, claim=None, holder=None, fresh=False)
            return Opened(folder=folder, claim=claim, holder=None, fresh=False)
        holder = watch.holder()
        words = holder.words if holder else "another process"
        if not wait:
            return Opened(folder=folder, claim=None, holder=words, fresh=False)
        if not watch.said:
            watch.said = True
            LOG.warning("%s is being made by %s: waiting for it", folder.path, words)
        time.sleep(SECONDS_BETWEEN_LOOKS)


def science(setup: Setup) -> dict[str, Any]:
    """What the result depends on, and nothing else: no device, no path, no record."""
    experiment, network = setup.experiment, setup.network
    objective = {
        name: value
        for name, value in vars(experiment.objective).items()
        if name not in ("direction", "photographs")
    }
    photographs = experiment.objective.photographs
    natural_images = names_and_sizes(Path(photographs).expanduser()) if photographs else None
    return {
        "model": network.name,
        "weights": network.weights.sha256,
        "mean": network.weights.mean,
        "std": network.weights.std,
        "layer": network.layer.name,
        "units": setup.targets.units,
        "direction": setup.targets.sha256,
        "n": experiment.n,
        "seed": experiment.seed,
        "norm": setup.norm,
        "precondition": experiment.precondition,
        "objective": objective,
        "photographs": natural_images,
        "optimizer": vars(experiment.optimizer),
        "precision": experiment.precision,
    }


def recipe(science: dict[str, Any]) -> dict[str, Any]:
    """What a unit's result depends on, whichever others are computed with it."""
    return {name: value for name, value in science.items() if name != "units"}


def fixed_paths(setup: Setup) -> dict[str, str]:
    """Settings that meant a file from where the command was typed, as they hold anywhere."""
    objective, weights = setup.experiment.objective, setup.network.weights
    paths = {
        f"objective.{name}": str(Path(value).expanduser().resolve())
        for name in ("direction", "photographs")
        if (value := getattr(objective, name)) is not None
    }
    if (photographs := setup.experiment.natural) is not None:
        paths["natural"] = str(Path(photographs).expanduser().resolve())
    if weights.is_file and weights.url is None:
        paths["model.weights"] = weights.source
    return paths


def is_optimized(folder: RunFolder) -> bool:
    """Whether all its images are there, and whole."""
    record = _record(folder)
    optimized = record.get("optimized", record.get("status") == "finished")
    return bool(optimized) and (record.get("n") is None or flaw_of(folder.path) is None)


def measuring(config: Mapping[str, Any]) -> str:
    """Hash of what of a config decides how measures are taken."""
    return sha256_of({name: config.get(name) for name in ("measure", "natural")})


def new_version(
    root: Path, where: tuple[str, str, str], record: Mapping[str, Any], *, command: str = "run"
) -> tuple[RunFolder, Claim]:
    """A new version whatever there is, claimed. Raises `InputError` where it cannot be made."""
    work = work_folder(root, where)
    while True:
        every = versions_in(work)
        made = _make(work, every[0][0] + 1 if every else 1, record, command)
        if made is not None:
            return made


def _make(
    work: Path, number: int, record: Mapping[str, Any], command: str
) -> tuple[RunFolder, Claim] | None:
    """None where another process made this version first."""
    claims: list[Claim] = []

    def fill(folder: Path, path: Path) -> None:
        RunFolder(folder).write_record(dict(record) | {"rerun": rerun_line(path, command)})
        claim = Claim.make(folder)
        assert claim is not None  # noqa: S101  (nobody knows this folder yet)
        claims.append(claim)

    path = create_version(work, number, fill)
    if path is None:
        return None
    claims[0].folder = path
    return RunFolder(path), claims[0]


def _record(folder: RunFolder) -> dict[str, Any]:
    try:
        found = folder.read_record()
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
