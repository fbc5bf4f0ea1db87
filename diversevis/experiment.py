"""The method, from a description of the work to a finished run folder."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from diversevis import machine, pictures, provenance, report, results
from diversevis.accounting import accounted, make_record
from diversevis.analysis import chosen
from diversevis.batches import visualize_in_batches
from diversevis.checkpoints import Checkpoints
from diversevis.devices import visualize_on_devices
from diversevis.errors import FolderLost, InputError, Stopped
from diversevis.measuring import (
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
from diversevis.prepare import Setting, fixed_paths, pick_devices, prepare, science
from diversevis.progress import Progress
from diversevis.run_folder import Claim, RunFolder, Watch, job_id, restarts
from diversevis.settings import Config, Experiment, Settled
from diversevis.visualize import Visualization
from diversevis.work import Work, is_optimized, measuring, open_work

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
    prepare: Callable[[Experiment], Setting] = prepare,
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
    report.check_film(experiment.record)
    measures = possible(chosen(experiment.analysis), experiment.natural)
    machine.keep_pages()
    setting = prepare(experiment)
    settled = config(fixed_paths(setting))
    work = _work(setting, settled, measures, sweep)
    if expected not in (None, work.hash):
        raise InputError(
            f"This is not the work that was planned: the weights of {setting.network.name} here "
            f"({setting.network.weights.source}), another file it needs, or this program have "
            "changed since. Give every node the same, or type the sweep's command again."
        )
    record = make_record(setting, command, settled.content)
    record |= {"sweep": sweep, "measuring": work.measuring}
    opened = open_work(work, record, wait=wait)
    folder, claim = opened.folder, opened.claim
    if claim is None:
        if opened.holder:
            return Done(folder.path, "held")
        _add_pictures(setting, folder)
        return Done(folder.path, "found")
    if not opened.fresh and experiment.batch == "auto":
        setting = _cut_as_before(setting, folder)
        record["batch"] = setting.batch
    with accounted(folder, claim, record, setting.device):
        if not is_optimized(folder):
            folder.write_config(settled.text)
            for name, text in extras.items():
                folder.write_extra(name, text)
            _make_images(setting, folder, claim, work)
        _draw(setting, folder, claim)
        _measure(setting, folder, claim, work)
        if work.lacks_seeds(folder):
            _repeat(setting, folder, claim, work)
    return Done(folder.path, "made" if opened.fresh else "continued")


def _work(setting: Setting, settled: Settled, measures: Sequence[str], sweep: str | None) -> Work:
    experiment = setting.experiment
    return Work(
        root=Path(experiment.root).expanduser(),
        where=setting.where,
        hash=provenance.sha256_of(science(setting)),
        measures=measures,
        seeds=experiment.seeds,
        again=experiment.again,
        measuring=measuring(settled.content),
        origin=sweep or job_id(),
        restarted=sweep is not None or restarts() > 0,
    )


def _cut_as_before(setting: Setting, folder: RunFolder) -> Setting:
    """With batches as large as those that the run was begun with, on a device of the same kind."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        before = folder.read_record()
        if torch.device(before["device"]).type == setting.device.type and not before["optimized"]:
            return replace(setting, batch=int(before["batch"]))
    return setting


def _make_images(setting: Setting, folder: RunFolder, claim: Claim, work: Work) -> None:
    """All units' images, into the folder; those of some if it ends early."""
    done: list[Visualization] = []
    folder.update_record(optimized=False)  # a damaged run had been
    checkpoints = _checkpoints(setting, folder, claim, "images", work.hash)
    try:
        _visualize_all(setting, folder, checkpoints, done)
    except (Stopped, FolderLost):  # no time to lose, or nothing to write to
        raise
    except BaseException:  # what is done is kept, whatever ended it
        with undisturbed(), contextlib.suppress(OSError, FolderLost):
            claim.confirm()
            results.write(setting, folder, done)
            if done and setting.experiment.images == "png":
                pictures.draw(folder, pictures.IMAGES, "all", _no_pulse)
        LOG.warning("ended early; %d of %d units are kept in %s",
                    len(done), len(setting.targets.units), folder.path)  # fmt: skip
        raise
    claim.confirm()
    results.write(setting, folder, done)
    folder.update_record(optimized=True)
    folder.remove_checkpoints()


def _visualize_all(
    setting: Setting, folder: RunFolder, checkpoints: Checkpoints, done: list[Visualization]
) -> None:
    """Every unit, added to `done`; raises `KeyboardInterrupt` after Ctrl-C."""
    experiment, units, claim = setting.experiment, setting.targets.units, checkpoints.claim
    optimizer = experiment.optimizer
    steps = {"search": optimizer.search_steps, "diverse": optimizer.steps}
    facts: dict[str, Any] = {"units": len(units), "steps": steps}
    if claim is not None:
        claim.progress = facts | {"done": 0}
    with contextlib.closing(
        Progress(len(units), optimizer.search_steps, optimizer.steps)
    ) as progress:
        for one, frames in (
            visualize_on_devices(setting, checkpoints)
            if len(pick_devices(experiment.device)) > 1
            else visualize_in_batches(setting, range(len(units)), progress, checkpoints=checkpoints)
        ):
            done.append(one)
            if claim is not None:
                claim.progress = facts | {"done": len(done)}
            results.say(one)
            if frames:
                report.write_film(folder, one.unit, experiment.record, frames)


def _measure(setting: Setting, folder: RunFolder, claim: Claim, work: Work) -> None:
    """The measures that the folder lacks."""
    left = work.left(folder)
    if not left:
        return
    subject = subject_of_folder(setting, folder)
    impossible = measure_folder(subject, folder, left, pulse_of(claim))
    before = folder.read_record()
    known = before["not_measured"] if before["measuring"] == work.measuring else {}
    folder.update_record(not_measured=known | impossible, measuring=work.measuring)


def _draw(setting: Setting, folder: RunFolder, claim: Claim) -> None:
    """The pictures that the folder lacks, if any are wanted."""
    experiment = setting.experiment
    if experiment.images == "png":
        for name in pictures.lacking(folder):
            pictures.draw(folder, name, experiment.measure.pictures, pulse_of(claim))


def _no_pulse(name: str, done: int, total: int) -> None:
    """What is drawn on the way out is not disturbed."""


def _add_pictures(setting: Setting, folder: RunFolder) -> None:
    """To a finished run that was made without. It may be damaged, or not ours to write to: it is
    finished all the same."""
    experiment = setting.experiment
    try:
        record = folder.read_record()
        if experiment.images == "png" and pictures.lacking(folder):
            claim = Claim.take(Watch(folder.path))
            if claim is None:  # another process is at it, and may be drawing
                return
            claim.begin()
            try:
                _draw(setting, folder, claim)
            finally:
                claim.remove()
    except FolderLost:
        raise
    except Exception as error:
        LOG.warning("%s: no pictures of it (%s: %s)", folder.path, type(error).__name__, error)
        return
    if experiment.record != "none" and record.get("config", {}).get("record") == "none":
        LOG.warning("%s was made without a film: again=true makes one", folder.path)


def _repeat(setting: Setting, folder: RunFolder, claim: Claim, work: Work) -> None:
    """The same with further seeds: mean and spread of every index."""
    experiment, units = setting.experiment, setting.targets.units
    kept = [name for name in work.measures if name != "natural"]  # photographs know no seed
    found = [[indices_in(one, kept) for one in folder.read_metrics()]]
    for other in seeds_of(setting):
        optimizer, seed = experiment.optimizer, other.experiment.seed
        checkpoints = _checkpoints(other, folder, claim, f"seed-{seed}", f"{work.hash}/{seed}")
        bar = Progress(len(units), optimizer.search_steps, optimizer.steps)
        with contextlib.closing(bar) as progress:
            again = visualize_in_batches(
                other, range(len(units)), progress, checkpoints=checkpoints
            )
            repeated = results.in_order(setting, [one for one, _ in again])
        metrics = [one.metrics for one in repeated]
        subject = subject_of(other, repeated, sample_seed=experiment.seed)
        found.append(indices_of(subject, metrics, kept, pulse_of(claim)))
        LOG.info("seed %d measured", seed)
    seeds = [experiment.seed, *(one.experiment.seed for one in seeds_of(setting))]
    folder.write_spread(spread(found), seeds, kept)
    folder.remove_checkpoints()


def _checkpoints(
    setting: Setting, folder: RunFolder, claim: Claim, part: str, work: str
) -> Checkpoints:
    return Checkpoints(
        folder=folder,
        part=part,
        work=work,
        seconds=setting.experiment.checkpoint,
        device=setting.device,
        claim=claim,
    )
