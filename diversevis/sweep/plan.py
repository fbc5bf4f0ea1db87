"""A sweep's combinations of settings -> pieces of work, in jobs that fill a device.

The units of a combination are cut into runs of a fixed size, from its first unit on, so that the
same sweep names the same work when it is typed again. Units that are in finished runs with the same
settings are left out, whichever other units these runs have.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from diversevis.config.bind import bind, with_settings
from diversevis.errors import InputError
from diversevis.experiment.measure import measures_of, possible
from diversevis.method.device import check_precision
from diversevis.method.settings import Experiment
from diversevis.method.setup import Preparer, Setup, units_to_fill
from diversevis.pictures import draw
from diversevis.runs import provenance
from diversevis.runs.folder import RunFolder
from diversevis.runs.identity import (
    Work,
    absolute_paths,
    later_settings,
    measure_settings_hash,
    recipe,
    science,
)
from diversevis.runs.versions import versions_in
from diversevis.sweep.record import Planned, share_jobs
from diversevis.units import units_list

UNITS_AT_LEAST = 64  # in a job, so that starting it is not most of its time

PlainConfig = Mapping[str, Any]
Jobs = list[list[Planned]]
Read = Callable[[Path], list[tuple[RunFolder, dict[str, Any]]]]  # the finished runs of a layer
Finished = dict[Path, int]  # folder of a finished run -> how many of the wanted units it has


def plan(configs: Sequence[PlainConfig], launcher: Sequence[str]) -> tuple[Jobs, Finished]:
    """Return the jobs that are left of these configs, for this launcher, and what is finished.

    Raises InputError for whatever is not possible, before anything is begun.
    """
    experiments = [bind(Experiment, config, "") for config in configs]
    roots = {str(Path(experiment.root).expanduser().resolve()) for experiment in experiments}
    if len(roots) > 1:
        words = f"root={','.join(sorted(roots))}: a sweep has one root"
        raise InputError(f"{words}. Type one command after the other.")
    prepare, read_finished = Preparer(), cache(_read_finished)
    finished: Finished = defaultdict(int)
    works: list[tuple[Planned, int]] = []
    for experiment, config in _layer_by_layer(experiments, configs):
        kind = _kind_of_device(experiment, launcher)
        check_precision(experiment.precision, experiment.algorithms, torch.device(kind))
        # The machine that plans may have no GPU.
        here = replace(experiment, device="cpu", precision="float32", algorithms="same")
        setup = prepare(here)
        size = experiment.units_per_job
        if not isinstance(size, int):
            with torch.no_grad():
                batch = units_to_fill(setup, kind)
            size = batch * -(-UNITS_AT_LEAST // batch)  # so that every batch is full
        left = _left(replace(setup, experiment=experiment), config, size, read_finished, finished)
        works += [(work, size) for work in left]
    _refuse_repeated(work for work, _ in works)
    return share_jobs(works), dict(finished)


def _layer_by_layer(
    experiments: Sequence[Experiment], configs: Sequence[PlainConfig]
) -> Iterator[tuple[Experiment, PlainConfig]]:
    """Those of one network and layer together, so that they share it; else in the given order."""
    layers: dict[tuple[str, str], list[tuple[Experiment, PlainConfig]]] = defaultdict(list)
    for experiment, config in zip(experiments, configs, strict=True):
        layers[repr(experiment.model), str(experiment.layer)].append((experiment, config))
    return chain.from_iterable(layers.values())


def _kind_of_device(experiment: Experiment, launcher: Sequence[str]) -> str:
    """`cpu` or `cuda`: where the jobs will run, by the settings, else as on this machine."""
    name = str(experiment.device)
    if name != "auto":
        return "cuda" if "cuda" in name else "cpu"
    if "hydra/launcher=slurm" in launcher:  # the node that launches often has no GPU
        without = {f"hydra.launcher.gpus_per_node={value}" for value in ("0", "null")}
        return "cpu" if without & set(launcher) else "cuda"
    return "cuda" if torch.cuda.is_available() else "cpu"


def _refuse_repeated(works: Iterable[Planned]) -> None:
    hashes: set[str] = set()
    for work in works:
        if work.hash in hashes:
            raise InputError(
                f"{'/'.join(work.where)} is asked for twice: a setting is swept that does not "
                "change the images (such as measure, natural or device). Type one command "
                "after the other, each with a root=... of its own."
            )
        hashes.add(work.hash)


def _read_finished(layer: Path) -> list[tuple[RunFolder, dict[str, Any]]]:
    """Finished runs of a layer whose records say with which settings they were made."""
    runs = []
    for work in sorted(layer.iterdir()) if layer.is_dir() else []:
        for _, path in versions_in(work):
            folder = RunFolder(path)
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                record = folder.read_record()
                if record["status"] == "finished" and record["n"] and record["recipe_hash"]:
                    runs.append((folder, {**record, "units": set(record["units"])}))
    return runs


def _left(
    setup: Setup, config: PlainConfig, size: int, read: Read, finished: Finished
) -> list[Planned]:
    """The unfinished work of a combination; counts in `finished` what is."""
    experiment, units = setup.experiment, setup.targets.units
    if setup.targets.references is not None:  # photographs are matched in one run
        size = len(units)
    scientific = science(setup)
    works = []
    for part in (units[first : first + size] for first in range(0, len(units), size)):
        planned = _planned(setup, config, scientific, part)
        work = _work(planned, experiment)
        version = None if experiment.again else work.look()[0]
        if version and work.is_done(version) and not _lacks_pictures(experiment, version):
            finished[version.path] += len(part)
        elif version or experiment.again:
            works.append(planned)
        elif left := _without_finished(work, scientific, part, read, finished):
            works.append(_planned(setup, config, scientific, left))
    return works


def _work(planned: Planned, experiment: Experiment) -> Work:
    measures = possible(measures_of(experiment), experiment.natural)
    return Work(
        root=Path(planned.config["root"]),
        where=planned.where,
        hash=planned.hash,
        measures=measures,
        seeds=experiment.seeds,
        again=experiment.again,
        measure_settings_hash=measure_settings_hash(planned.config, measures),
        later=later_settings(planned.config),
        origin=None,
        restarted=False,
    )


def _lacks_pictures(experiment: Experiment, folder: RunFolder) -> bool:
    with contextlib.suppress(OSError, ValueError, KeyError):  # damaged: nothing can be drawn
        return experiment.images == "png" and bool(draw.missing_pictures(folder))
    return False


def _without_finished(
    work: Work, scientific: PlainConfig, units: Sequence[int], read: Read, finished: Finished
) -> list[int]:
    """The units that no finished run with the same settings has."""
    same_recipe = provenance.sha256_of(recipe(dict(scientific)))
    left = list(units)
    for folder, record in read(work.place.parent):
        shared = record["units"].intersection(left)
        if shared and record["recipe_hash"] == same_recipe and work.is_done(folder):
            finished[folder.path] += len(shared)
            left = [unit for unit in left if unit not in shared]
    return left


def _planned(
    setup: Setup, config: PlainConfig, scientific: PlainConfig, units: Sequence[int]
) -> Planned:
    root = str(Path(setup.experiment.root).expanduser().resolve())
    fixed = {"root": root, **absolute_paths(setup)}
    if setup.targets.references is None:  # of metamers, `unit` names what is matched
        fixed["unit"] = units_list(units)
    return Planned(
        hash=provenance.sha256_of({**scientific, "units": list(units)}),
        model=setup.network.name,
        layer=setup.network.layer.name,
        units=tuple(units),
        where=(*setup.where[:2], setup.targets.only(units).text),
        config=with_settings(config, fixed),
    )
