"""A sweep's combinations of settings -> pieces of work, and jobs that each fill a device.

The units of a combination are cut into runs of so many, always at the same places, so that the same
sweep names the same work when it is typed again. Units that finished runs with the same settings
have already are left out, whichever others these runs were of.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from diversevis.errors import InputError
from diversevis.experiment.measure import possible
from diversevis.measures.catalogue import chosen
from diversevis.method.device import check_precision
from diversevis.method.settings import Experiment
from diversevis.method.setup import Preparer, Setup, units_to_fill
from diversevis.pictures import draw
from diversevis.runs import provenance
from diversevis.runs.folder import RunFolder
from diversevis.runs.identity import Work, fixed_paths, measuring, recipe, science
from diversevis.runs.versions import versions_in
from diversevis.sweep.record import Planned
from diversevis.units import units_list

UNITS_AT_LEAST = 64  # in a job, so that starting it is not most of its time


class Combination(NamedTuple):
    """One combination of a sweep's settings, with all its units."""

    experiment: Experiment
    config: Mapping[str, Any]


class Plan(NamedTuple):
    """What is to do.

    jobs   places in `works` of what shares a process
    found  folder of finished runs -> how many of the units wanted it has
    """

    works: list[Planned]
    jobs: list[list[int]]
    found: dict[Path, int]


def plan(combinations: Sequence[Combination], kinds: Sequence[str]) -> Plan:
    """The work that is left, in jobs for devices of these kinds (`cpu` or `cuda`).

    Raises `InputError` for whatever cannot be had, before anything is begun.
    """
    prepare, shelf = Preparer(), _Shelf({}, defaultdict(int))
    works: list[Planned] = []
    jobs: list[list[int]] = []
    network: Any = None
    room = 0
    hashes: set[str] = set()
    for (experiment, config), kind in _layer_by_layer(combinations, kinds):
        check_precision(experiment.precision, torch.device(kind))
        wanted = replace(experiment, device="cpu", precision="float32")
        setup = replace(prepare(wanted), experiment=experiment)
        size = _units_per_job(setup, wanted, kind)
        for work in _works(setup, config, size, shelf):
            if work.hash in hashes:
                raise InputError(
                    f"{'/'.join(work.where)} is asked for twice: a setting is swept that does not "
                    "change the images (such as measure, natural or device). Type one command "
                    "after the other, each with a root=... of its own."
                )
            hashes.add(work.hash)
            if work.where[:2] != network or len(work.units) > room:  # a job of its own
                jobs.append([])
                network, room = work.where[:2], size
            jobs[-1].append(len(works))
            works.append(work)
            room -= len(work.units)
    return Plan(works, jobs, dict(shelf.found))


def _layer_by_layer(
    combinations: Sequence[Combination], kinds: Sequence[str]
) -> list[tuple[Combination, str]]:
    """Those of one network and layer together, else in the order given; with their devices."""
    found: dict[tuple[str, str], list[tuple[Combination, str]]] = {}
    for one in zip(combinations, kinds, strict=True):
        experiment = one[0].experiment
        found.setdefault((repr(experiment.model), str(experiment.layer)), []).append(one)
    return [one for layer in found.values() for one in layer]


@dataclass
class _Shelf:
    """Finished runs, read once for each layer; and what of them was of use."""

    layers: dict[Path, list[tuple[RunFolder, dict[str, Any]]]]
    found: dict[Path, int]

    def finished(self, layer: Path) -> list[tuple[RunFolder, dict[str, Any]]]:
        if layer not in self.layers:
            self.layers[layer] = _finished_in(layer)
        return self.layers[layer]


def _works(setup: Setup, config: Mapping[str, Any], size: int, shelf: _Shelf) -> list[Planned]:
    """Those of one combination that are not done."""
    experiment, units = setup.experiment, setup.targets.units
    scientific = science(setup)
    root = Path(experiment.root).expanduser().resolve()
    names = possible(chosen(experiment.analysis), experiment.natural)
    works = []
    for part in (units[first : first + size] for first in range(0, len(units), size)):
        work = _planned(setup, config, scientific, part, root)
        wanted = Work(
            root=root, where=work.where, hash=work.hash, measures=names,
            seeds=experiment.seeds, again=experiment.again, origin=None, restarted=False,
            measuring=measuring(config),
        )  # fmt: skip
        if not experiment.again and (version := wanted.version()) is not None:
            if wanted.is_done(version) and not _lacks_pictures(experiment, version):
                shelf.found[version.path] += len(part)
            else:
                works.append(work)
            continue
        left = part if experiment.again else _left(wanted, scientific, part, shelf)
        if left:
            works.append(_planned(setup, config, scientific, left, root))
    return works


def _lacks_pictures(experiment: Experiment, folder: RunFolder) -> bool:
    with contextlib.suppress(OSError, ValueError, KeyError):  # damaged: it has what it has
        return experiment.images == "png" and bool(draw.lacking(folder))
    return False


def _left(
    wanted: Work, scientific: Mapping[str, Any], units: Sequence[int], shelf: _Shelf
) -> list[int]:
    """Units that no finished run with the same settings has, whatever others it is of."""
    same = provenance.sha256_of(recipe(dict(scientific)))
    left = list(units)
    for folder, record in shelf.finished(wanted.place.parent):
        shared = [unit for unit in left if unit in record["units"]]
        if not shared or record["recipe_hash"] != same or not wanted.is_done(folder):
            continue
        shelf.found[folder.path] += len(shared)
        left = [unit for unit in left if unit not in shared]
    return left


def _finished_in(layer: Path) -> list[tuple[RunFolder, dict[str, Any]]]:
    """Finished runs of a layer that say which settings they had."""
    found = []
    for work in sorted(layer.iterdir()) if layer.is_dir() else []:
        for _, path in versions_in(work):
            folder = RunFolder(path)
            try:
                record = folder.read_record()
                if record["status"] == "finished" and record["n"] and record["recipe_hash"]:
                    found.append((folder, {**record, "units": set(record["units"])}))
            except (OSError, ValueError, KeyError, TypeError):
                continue
    return found


def _planned(
    setup: Setup,
    config: Mapping[str, Any],
    scientific: Mapping[str, Any],
    units: Sequence[int],
    root: Path,
) -> Planned:
    fixed = {"root": str(root), "unit": units_list(units), **fixed_paths(setup)}
    targets = setup.targets.only(units)
    return Planned(
        hash=provenance.sha256_of({**scientific, "units": list(units)}),
        model=setup.network.name,
        layer=setup.network.layer.name,
        units=tuple(units),
        where=(*setup.where[:2], targets.text),
        config=_with(config, fixed),
    )


def _with(config: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with some settings, by their dotted names, in place of others."""
    found = dict(config)
    for name, value in changes.items():
        first, _, rest = name.partition(".")
        found[first] = _with(found[first], {rest: value}) if rest else value
    return found


def _units_per_job(setup: Setup, experiment: Experiment, kind: str) -> int:
    if isinstance(experiment.units_per_job, int):
        return experiment.units_per_job
    with torch.no_grad():
        batch = units_to_fill(replace(setup, experiment=experiment), kind)
    return batch * -(-UNITS_AT_LEAST // batch)
