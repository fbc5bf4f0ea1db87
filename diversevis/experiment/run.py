"""The method, from a description of the work to a finished run folder."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from diversevis.errors import FolderLost, InputError, Stopped
from diversevis.experiment import results
from diversevis.experiment.batches import visualize_in_batches
from diversevis.experiment.measure import (
    indices_in,
    indices_of,
    measure_folder,
    possible,
    pulse_of,
    seeds_of,
    spread,
    subject_of,
    subject_of_folder,
    undisturbed,
)
from diversevis.experiment.progress import Progress
from diversevis.experiment.workers import visualize_on_devices
from diversevis.measures.catalogue import chosen
from diversevis.method.device import keep_pages, pick_devices
from diversevis.method.settings import Config, Experiment, Settled
from diversevis.method.setup import Setup, prepare
from diversevis.method.visualize import Visualization
from diversevis.pictures import draw
from diversevis.pictures.film import check_film, write_film
from diversevis.runs import provenance
from diversevis.runs.checkpoints import Checkpoints
from diversevis.runs.folder import RunFolder
from diversevis.runs.identity import Work, fixed_paths, is_optimized, measuring, open_work, science
from diversevis.runs.lease import Claim, Watch
from diversevis.runs.process import job_id, restarts
from diversevis.runs.record import accounted, make_record

LOG = logging.getLogger("diversevis")


class Done(NamedTuple):
    """What has become of a piece of work.

    how  `made`, `continued` (an earlier process had begun it), `found` (it was there), or `held`
         (another process is at it, and was not waited for)
    """

    path: Path
    how: Literal["made", "continued", "found", "held"]


def run(
    experiment: Experiment,
    *,
    command: str,
    config: Config,
    extras: Mapping[str, str],
    sweep: str | None = None,
    expected: str | None = None,
    wait: bool = True,
    prepare: Callable[[Experiment], Setup] = prepare,
) -> Done:
    """Do the work, or what is left of it, and return its finished run folder.

    command   what was typed, for the record
    config    the resolved config, with the given settings in place of what was typed
    extras    further files for the folder, name -> text
    sweep     the sweep's name, if it is one's
    expected  hash that the work had when the sweep was planned
    wait      for another process that is at this very work
    prepare   may know the network already

    Raises `InputError` before anything is written, `KeyboardInterrupt` after keeping what there is,
    `Stopped` after a checkpoint where the system asked this process to end, `FolderLost` where the
    folder was deleted or taken over.
    """
    check_film(experiment.record)
    measures = possible(chosen(experiment.analysis), experiment.natural)
    keep_pages()
    setup = prepare(experiment)
    settled = config(fixed_paths(setup))
    work = _work(setup, settled, measures, sweep)
    if expected not in (None, work.hash):
        raise InputError(
            f"This is not the work that was planned: the weights of {setup.network.name} here "
            f"({setup.network.weights.source}), another file it needs, or this program have "
            "changed since. Give every node the same, or type the sweep's command again."
        )
    record = make_record(setup, command, settled.content)
    record |= {"sweep": sweep, "measuring": work.measuring}
    opened = open_work(work, record, wait=wait)
    folder, claim = opened.folder, opened.claim
    if claim is None:
        if opened.holder:
            return Done(folder.path, "held")
        _add_pictures(setup, folder)
        return Done(folder.path, "found")
    if not opened.fresh and experiment.batch == "auto":
        setup = _cut_as_before(setup, folder)
        record["batch"] = setup.batch
    with accounted(folder, claim, record, setup.device):
        if not is_optimized(folder):
            folder.write_config(settled.text)
            for name, text in extras.items():
                folder.write_extra(name, text)
            _make_images(setup, folder, claim, work)
        _draw(setup, folder, claim)
        _measure(setup, folder, claim, work)
        if work.lacks_seeds(folder):
            _repeat(setup, folder, claim, work)
    return Done(folder.path, "made" if opened.fresh else "continued")


def _work(setup: Setup, settled: Settled, measures: Sequence[str], sweep: str | None) -> Work:
    experiment = setup.experiment
    return Work(
        root=Path(experiment.root).expanduser(),
        where=setup.where,
        hash=provenance.sha256_of(science(setup)),
        measures=measures,
        seeds=experiment.seeds,
        again=experiment.again,
        measuring=measuring(settled.content),
        origin=sweep or job_id(),
        restarted=sweep is not None or restarts() > 0,
    )


def _cut_as_before(setup: Setup, folder: RunFolder) -> Setup:
    """With batches as large as those that the run was begun with, on a device of the same kind."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        before = folder.read_record()
        if torch.device(before["device"]).type == setup.device.type and not before["optimized"]:
            return replace(setup, batch=int(before["batch"]))
    return setup


def _make_images(setup: Setup, folder: RunFolder, claim: Claim, work: Work) -> None:
    """All units' images, into the folder; those of some if it ends early."""
    done: list[Visualization] = []
    folder.update_record(optimized=False)  # a damaged run had been
    checkpoints = _checkpoints(setup, folder, claim, "images", work.hash)
    try:
        _visualize_all(setup, folder, checkpoints, done)
    except (Stopped, FolderLost):  # no time to lose, or nothing to write to
        raise
    except BaseException:  # what is done is kept, whatever ended it
        with undisturbed(), contextlib.suppress(OSError, FolderLost):
            claim.confirm()
            results.write(setup, folder, done)
            if done and setup.experiment.images == "png":
                draw.draw(folder, draw.IMAGES, "all", _no_pulse)
        LOG.warning("ended early; %d of %d units are kept in %s",
                    len(done), len(setup.targets.units), folder.path)  # fmt: skip
        raise
    claim.confirm()
    results.write(setup, folder, done)
    folder.update_record(optimized=True)
    folder.remove_checkpoints()


def _visualize_all(
    setup: Setup, folder: RunFolder, checkpoints: Checkpoints, done: list[Visualization]
) -> None:
    """Every unit, added to `done`; raises `KeyboardInterrupt` after Ctrl-C."""
    experiment, units, claim = setup.experiment, setup.targets.units, checkpoints.claim
    optimizer = experiment.optimizer
    steps = {"search": optimizer.search_steps, "diverse": optimizer.steps}
    facts: dict[str, Any] = {"units": len(units), "steps": steps}
    if claim is not None:
        claim.progress = facts | {"done": 0}
    with contextlib.closing(
        Progress(len(units), optimizer.search_steps, optimizer.steps)
    ) as progress:
        for one, frames in (
            visualize_on_devices(setup, checkpoints)
            if len(pick_devices(experiment.device)) > 1
            else visualize_in_batches(setup, range(len(units)), progress, checkpoints=checkpoints)
        ):
            done.append(one)
            if claim is not None:
                claim.progress = facts | {"done": len(done)}
            results.say(one)
            if frames:
                write_film(folder, one.unit, experiment.record, frames)


def _measure(setup: Setup, folder: RunFolder, claim: Claim, work: Work) -> None:
    """The measures that the folder lacks."""
    left = work.left(folder)
    if not left:
        return
    subject = subject_of_folder(setup, folder)
    impossible = measure_folder(subject, folder, left, pulse_of(claim))
    before = folder.read_record()
    known = before["not_measured"] if before["measuring"] == work.measuring else {}
    folder.update_record(not_measured=known | impossible, measuring=work.measuring)


def _draw(setup: Setup, folder: RunFolder, claim: Claim) -> None:
    """The pictures that the folder lacks, if any are wanted."""
    experiment = setup.experiment
    if experiment.images == "png":
        for name in draw.lacking(folder):
            draw.draw(folder, name, experiment.measure.pictures, pulse_of(claim))


def _no_pulse(name: str, done: int, total: int) -> None:
    """What is drawn on the way out is not disturbed."""


def _add_pictures(setup: Setup, folder: RunFolder) -> None:
    """To a finished run that was made without. It may be damaged, or not ours to write to: it is
    finished all the same."""
    experiment = setup.experiment
    try:
        record = folder.read_record()
        if experiment.images == "png" and draw.lacking(folder):
            claim = Claim.take(Watch(folder.path))
            if claim is None:  # another process is at it, and may be drawing
                return
            claim.begin()
            try:
                _draw(setup, folder, claim)
            finally:
                claim.remove()
    except FolderLost:
        raise
    except Exception as error:
        LOG.warning("%s: no pictures of it (%s: %s)", folder.path, type(error).__name__, error)
        return
    if experiment.record != "none" and record.get("config", {}).get("record") == "none":
        LOG.warning("%s was made without a film: again=true makes one", folder.path)


def _repeat(setup: Setup, folder: RunFolder, claim: Claim, work: Work) -> None:
    """The same with further seeds: mean and spread of every index."""
    experiment, units = setup.experiment, setup.targets.units
    kept = [name for name in work.measures if name != "natural"]  # photographs know no seed
    found = [[indices_in(one, kept) for one in folder.read_metrics()]]
    for other in seeds_of(setup):
        optimizer, seed = experiment.optimizer, other.experiment.seed
        checkpoints = _checkpoints(other, folder, claim, f"seed-{seed}", f"{work.hash}/{seed}")
        bar = Progress(len(units), optimizer.search_steps, optimizer.steps)
        with contextlib.closing(bar) as progress:
            again = visualize_in_batches(
                other, range(len(units)), progress, checkpoints=checkpoints
            )
            repeated = results.in_order(setup, [one for one, _ in again])
        metrics = [one.metrics for one in repeated]
        subject = subject_of(other, repeated, sample_seed=experiment.seed)
        found.append(indices_of(subject, metrics, kept, pulse_of(claim)))
        LOG.info("seed %d measured", seed)
    seeds = [experiment.seed, *(one.experiment.seed for one in seeds_of(setup))]
    folder.write_spread(spread(found), seeds, kept)
    folder.remove_checkpoints()


def _checkpoints(
    setup: Setup, folder: RunFolder, claim: Claim, part: str, work: str
) -> Checkpoints:
    return Checkpoints(
        folder=folder,
        part=part,
        work=work,
        seconds=setup.experiment.checkpoint,
        device=setup.device,
        claim=claim,
    )
