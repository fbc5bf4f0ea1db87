"""Which work a run is, and its folder: the same work is done once, by one process at a time.

A work is identified by the hash of what its images depend on (`science`). The device, the folder
and the measures that are taken afterwards are no part of it.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from diversevis.measures.catalogue import OF_PHOTOGRAPHS
from diversevis.method.setup import Setup
from diversevis.photographs.survey import survey
from diversevis.priors.open import WITHOUT_FILE
from diversevis.runs import signals
from diversevis.runs.check import flaw_of
from diversevis.runs.files import RECORD, Damaged, read_json
from diversevis.runs.folder import RunFolder
from diversevis.runs.lease import Claim, Watch
from diversevis.runs.provenance import rerun_line, sha256_of
from diversevis.runs.trust import signed
from diversevis.runs.versions import create_version, versions_in, work_folder

LOG = logging.getLogger("diversevis")
SECONDS_BETWEEN_LOOKS = 1.0
# Measures that came after runs had been hashed with the settings of all others.
LATER = "bipartite", "selectivity", "align", "varied"
# Settings of the objective that came later: while they have these values, hashes are as before.
CAME_LATER = {"metric": "rms", "crop": None, "side": 256, "tolerance": None, "start": None}


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is asked for.

    root, where  network, layer and units: versions are in `root/where[0]/where[1]/where[2]`
    hash         of `science`
    measures     to be taken
    seeds        number of seeds for the spread of the measures; 1: no spread
    again        make a new version even if a finished one exists
    measure_settings_hash  of the measures' settings
    later        settings of the measures of `LATER`, by the measure's name
    origin       the sweep or the cluster's job that asks
    restarted    whether `origin` may have asked before, as a job does that its cluster starts
                 again: with `again`, it then means the version that it made itself
    """

    root: Path
    where: tuple[str, str, str]
    hash: str
    measures: Sequence[str]
    seeds: int
    again: bool
    measure_settings_hash: str
    later: Mapping[str, Any]
    origin: str | None
    restarted: bool

    @property
    def place(self) -> Path:
        """The folder that holds its versions."""
        return work_folder(self.root, self.where)

    def look(self) -> tuple[RunFolder | None, int]:
        """The newest version that is done, else the newest, else None; and the highest number of
        all versions in the folder, which may be of other works; 0 without any."""
        numbered = versions_in(self.place)
        folders = [RunFolder(path) for _, path in numbered]
        matching = [folder for folder in folders if self._matches(_record(folder))]
        done = [folder for folder in matching if self.is_done(folder)]
        return next(iter([*done, *matching]), None), numbered[0][0] if numbered else 0

    def _matches(self, record: Mapping[str, Any]) -> bool:
        if record.get("config_hash") != self.hash or record.get("n") is None:
            return False
        return not self.again or (self.restarted and record.get("origin") == self.origin)

    def left(self, folder: RunFolder) -> list[str]:
        """The measures that the version in `folder` lacks."""
        record, known = _record(folder), set[str]()
        if is_optimized(folder) and record.get("measuring") == self.measure_settings_hash:
            with contextlib.suppress(OSError, ValueError, KeyError):
                taken = folder.read_measures()
                known = {name for name in taken if self._as_asked(name, taken[name])}
                known |= {*record.get("not_measured", {})}
        return [name for name in self.measures if name not in known]

    def _as_asked(self, name: str, taken: Mapping[str, Any]) -> bool:
        """Whether a measure was taken with the settings of today, as far as the hash does not tell:
        it tells for all measures but those of `LATER`."""
        asked = self.later.get(name)
        return asked is None or all(taken["settings"].get(key) == asked[key] for key in asked)

    def lacks_seeds(self, folder: RunFolder) -> bool:
        """Whether the spread over seeds is asked for, and the version in `folder` lacks it."""
        seeds, names = folder.read_spread()
        wanted = {name for name in self.measures if name not in OF_PHOTOGRAPHS}
        known = {*names, *_record(folder).get("not_measured", {})}
        return self.seeds > 1 and (len(seeds) < self.seeds or not wanted <= known)

    def is_done(self, folder: RunFolder) -> bool:
        finished = _record(folder).get("status") == "finished" and is_optimized(folder)
        return finished and not self.left(folder) and not self.lacks_seeds(folder)


class Opened(NamedTuple):
    """A version of a work, with a claim where this process has something to do.

    how  `made` just now, `continued` (an earlier process had begun it), `found` (it was finished
         before), or `held` (another process is at work on it, and was not waited for)
    """

    folder: RunFolder
    claim: Claim | None
    how: Literal["made", "continued", "found", "held"]


def open_work(work: Work, record: Mapping[str, Any], *, wait: bool) -> Opened:
    """The existing version of the work or a new one, claimed if there is something to do.

    record  the first record of a new version
    wait    if another process holds the version, wait until it has finished or died; else return
            the version without a claim

    Raises `InputError` where a folder cannot be made, `Stopped` where this process must end.
    """
    watch: Watch | None = None
    while True:
        signals.check()
        folder, highest = work.look()
        if folder is None:
            first = dict(record) | {"origin": work.origin}
            made = _make(work.place, highest + 1, first, "run")
            if made is not None:
                return Opened(*made, "made")
            continue  # another process made a version of this number: it may be the same work
        if work.is_done(folder):
            return Opened(folder, None, "found")
        if watch is None or watch.folder != folder.path:
            watch = Watch(folder.path)
        try:
            claim = Claim.take(watch)
        except FileNotFoundError:  # the folder has just been deleted
            continue
        if claim is not None:
            if not work.is_done(folder):
                return Opened(folder, claim, "continued")
            claim.remove()  # another process has finished it since the look above
            return Opened(folder, None, "found")
        if not wait:
            return Opened(folder, None, "held")
        if not watch.said:
            watch.said = True
            holder = watch.holder()
            words = holder.words if holder else "another process"
            LOG.warning("%s is being made by %s: waiting for it", folder.path, words)
        time.sleep(SECONDS_BETWEEN_LOOKS)


def science(setup: Setup) -> dict[str, Any]:
    """All that the images depend on: no device and no path, but hashes of the files' content."""
    experiment, network = setup.experiment, setup.network
    objective = {**vars(experiment.objective)}
    for name in ("direction", "reference", "default_unit"):
        del objective[name]
    for name, default in CAME_LATER.items():
        if objective[name] == default:
            del objective[name]
    photographs = objective.pop("photographs")
    natural_images = None
    if photographs:
        natural_images = survey(Path(photographs).expanduser(), "objective.photographs").digest
    reading = experiment.reading if setup.field.is_whole_image else None
    # Settings that most runs do not have are left out of their hashes.
    counts = setup.targets.matched
    matched = None if counts is None else counts.nonzero()[:, 0].tolist()
    algorithms = None if experiment.algorithms == "same" else experiment.algorithms
    # What is computed otherwise than before, with the same settings.
    searched = setup.targets.references is None and experiment.objective.restarts > 1
    search = "halving" if searched else None
    ascent = "accelerated" if experiment.optimizer.kind == "sphere" else None
    rare = {"image": reading, "computation": setup.computation, "input": network.convention,
            "matched": matched, "algorithms": algorithms, "search": search,
            "ascent": ascent,
            "prior": setup.prior.identity if setup.prior else None}  # fmt: skip
    return {
        **{name: value for name, value in rare.items() if value is not None},
        "model": network.name, "weights": network.weights.identity,
        "mean": network.weights.mean, "std": network.weights.std,
        "layer": network.layer.name,
        "units": setup.targets.units, "direction": setup.targets.sha256,
        "n": experiment.n, "seed": experiment.seed, "norm": setup.norm,
        "precondition": experiment.precondition, "precision": experiment.precision,
        "objective": objective, "photographs": natural_images,
        "optimizer": vars(experiment.optimizer),
    }  # fmt: skip


def recipe(science: dict[str, Any]) -> dict[str, Any]:
    """All that a unit's images depend on, whichever units are computed with it."""
    return {name: value for name, value in science.items() if name != "units"}


def absolute_paths(setup: Setup) -> dict[str, Any]:
    """The settings that name files, as absolute paths: they hold in any working folder."""

    def absolute(path: str) -> str:
        return str(Path(path).expanduser().resolve())

    objective, weights = setup.experiment.objective, setup.network.weights
    typed = {"objective.direction": objective.direction,
             "objective.photographs": objective.photographs,
             "natural": setup.experiment.natural}  # fmt: skip
    prior = setup.experiment.prior
    typed |= {f"prior.{name}": getattr(prior, name, None) for name in ("file", "photographs")}
    check = getattr(prior, "check", None)
    if check not in (None, "auto", *WITHOUT_FILE):
        typed["prior.check"] = check
    paths: dict[str, Any] = {name: absolute(p) for name, p in typed.items() if p is not None}
    if isinstance(objective.reference, str):
        paths["objective.reference"] = absolute(objective.reference)
    elif objective.reference is not None:
        paths["objective.reference"] = [absolute(path) for path in objective.reference]
    if weights.is_file and weights.url is None:
        paths["model.weights"] = weights.source
    return paths


def is_optimized(folder: RunFolder) -> bool:
    """Whether the images of all units were written and the files are complete."""
    return bool(_record(folder).get("optimized")) and flaw_of(folder.path) is None


def measure_settings_hash(config: Mapping[str, Any], measures: Sequence[str]) -> str:
    """Hash of what decides how these measures are taken: settings, and pixels of photographs.

    Without the settings of the measures of `LATER`, so that the hashes of earlier runs remain.
    """
    photographs = None
    if {*OF_PHOTOGRAPHS} & {*measures}:
        photographs = survey(Path(config["natural"]).expanduser(), "natural").digest
    settings = {k: value for k, value in config.get("measure", {}).items() if k not in LATER}
    content = {"measure": settings, "natural": photographs}
    if settings.get("shift", {}).get("optimizer") == "sphere":
        content["shift"] = "predicted"  # the same settings led to other textures before
    return sha256_of(content)


def later_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the measures of `LATER`, by the measure's name."""
    return {k: value for k, value in config.get("measure", {}).items() if k in LATER}


def new_analysis(setup: Setup, record: Mapping[str, Any]) -> tuple[RunFolder, Claim]:
    """A new version for measures alone, claimed. Raises `InputError` where it cannot be made."""
    work = work_folder(Path(setup.experiment.root).expanduser(), setup.where)
    while True:
        numbered = versions_in(work)
        made = _make(work, numbered[0][0] + 1 if numbered else 1, record, "analyze")
        if made is not None:
            return made


def _make(
    work: Path, number: int, record: Mapping[str, Any], command: str
) -> tuple[RunFolder, Claim] | None:
    """A claimed folder with its first record; None where another process was faster."""
    claims: list[Claim] = []

    def fill(folder: Path, path: Path) -> None:
        first = signed(record, folder) | {"rerun": rerun_line(path, command)}
        RunFolder(folder).write_record(first)
        claim = Claim.make(folder)
        assert claim is not None  # noqa: S101  (no other process knows this folder yet)
        claims.append(claim)

    path = create_version(work, number, fill)
    if path is None:
        return None
    claims[0].folder = path
    return RunFolder(path), claims[0]


def _record(folder: RunFolder) -> dict[str, Any]:
    """The content of run.json; empty where it cannot be read."""
    with contextlib.suppress(Damaged):
        return read_json(folder.path, "run.json", RECORD)
    return {}
