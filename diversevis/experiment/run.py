"""One run, from a description of the work to a finished run folder."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch

from diversevis.errors import FolderLost, InputError, Stopped
from diversevis.experiment import measure, results
from diversevis.experiment.batches import visualize_in_batches
from diversevis.experiment.subject import sampled, subject_of
from diversevis.experiment.workers import visualize_on_devices
from diversevis.measures.catalogue import chosen
from diversevis.method.device import keep_pages, pick_devices
from diversevis.method.settings import Config, Experiment, Settled
from diversevis.method.setup import Setup, prepare
from diversevis.method.visualize import Visualization
from diversevis.pictures import draw
from diversevis.pictures.film import check_film, write_film
from diversevis.runs import identity, provenance, signals
from diversevis.runs.checkpoints import Checkpoints
from diversevis.runs.folder import RunFolder
from diversevis.runs.identity import Opened, Work
from diversevis.runs.lease import Claim, Watch
from diversevis.runs.process import job_id, restarts
from diversevis.runs.record import accounted, make_record

LOG = logging.getLogger("diversevis")


class Done(NamedTuple):
    """The folder of a run, and what happened to it: see `Opened`."""

    path: Path
    how: str


@dataclass(frozen=True, kw_only=True)
class _OpenRun:
    """What the steps of a run work with; `claim` keeps other processes off the folder."""

    setup: Setup
    work: Work
    folder: RunFolder
    claim: Claim
    checkpoints: Checkpoints


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
    """Compute a run, or what is missing of it, and return its folder.

    command   as it was typed, for the record
    config    returns the resolved config; its argument replaces settings in it
    extras    further files for the folder, name -> text
    sweep     name of the sweep that the run belongs to
    expected  the work's hash when the sweep was planned
    wait      until another process that is at work on the same run has finished it
    prepare   `Preparer()` shares a network between the runs of a sweep

    Raises `InputError` before anything is written, `KeyboardInterrupt` after saving the results so
    far, `Stopped` after a checkpoint if the system asked this process to end, and `FolderLost` if
    the folder was deleted or taken over by another process.
    """
    check_film(experiment.record)
    measures = measure.possible(chosen(experiment.analysis), experiment.natural)
    keep_pages()
    setup = prepare(experiment)
    settled = config(identity.fixed_paths(setup))
    work = _work(setup, settled, measures, sweep)
    _check_planned(setup, work, expected)
    record = make_record(setup, command, settled.content)
    record |= {"sweep": sweep, "measuring": work.measuring}
    opened = identity.open_work(work, record, wait=wait)
    folder, claim, how = opened
    if claim is None:
        if how == "found":
            _add_pictures(experiment, folder)
        return Done(folder.path, how)
    setup = _with_earlier_batch(setup, opened)
    record["batch"] = setup.batch
    checkpoints = Checkpoints(
        folder=folder, part="images", work=work.hash, seconds=experiment.checkpoint,
        device=setup.device, claim=claim,
    )  # fmt: skip
    open_run = _OpenRun(setup=setup, work=work, folder=folder, claim=claim, checkpoints=checkpoints)
    with accounted(folder, claim, record, setup.device):
        if not identity.is_optimized(folder):
            folder.write_config(settled.text)
            for name, text in extras.items():
                folder.write_extra(name, text)
            _make_images(open_run)
        _draw_pictures(experiment, folder, claim)
        _take_measures(open_run)
        _repeat_with_seeds(open_run)
    return Done(folder.path, how)


def _work(setup: Setup, settled: Settled, measures: Sequence[str], sweep: str | None) -> Work:
    experiment = setup.experiment
    return Work(
        root=Path(experiment.root).expanduser(),
        where=setup.where,
        hash=provenance.sha256_of(identity.science(setup)),
        measures=measures,
        seeds=experiment.seeds,
        again=experiment.again,
        measuring=identity.measuring(settled.content),
        origin=sweep or job_id(),
        restarted=sweep is not None or restarts() > 0,
    )


def _check_planned(setup: Setup, work: Work, expected: str | None) -> None:
    """Raises `InputError` if the work is not the sweep's, though its settings are."""
    if expected not in (None, work.hash):
        raise InputError(
            f"This run differs from the one that was planned: the weights of {setup.network.name} "
            f"({setup.network.weights.source}), another input file or this program differ on this "
            "machine. Give all machines the same, or type the sweep's command again."
        )


def _with_earlier_batch(setup: Setup, opened: Opened) -> Setup:
    """With `batch=auto`, the batch size that the run was begun with on a device of the same kind.

    It decides how units are batched, and with it how sums are rounded and which checkpoints fit.
    """
    if opened.how == "made" or setup.experiment.batch != "auto":
        return setup
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # a damaged record
        record = opened.folder.read_record()
        if torch.device(record["device"]).type == setup.device.type and not record["optimized"]:
            return replace(setup, batch=int(record["batch"]))
    return setup


def _make_images(run: _OpenRun) -> None:
    """Optimize the images of all units and write them; those so far if an error ends it."""
    setup, folder, units = run.setup, run.folder, list[Visualization]()
    folder.update_record(optimized=False)  # True in a damaged run that is made again
    optimizer = setup.experiment.optimizer
    steps = {"search": optimizer.search_steps, "diverse": optimizer.steps}
    total = {"units": len(setup.targets.units), "steps": steps}
    run.claim.progress = total | {"done": 0}
    if len(pick_devices(setup.experiment.device)) > 1:
        unit_results = visualize_on_devices(setup, run.checkpoints)
    else:
        unit_results = visualize_in_batches(setup, checkpoints=run.checkpoints, show_progress=True)
    with _results_saved(run, units):
        for unit, frames in unit_results:
            units.append(unit)
            run.claim.progress = total | {"done": len(units)}
            results.log_result(unit)
            if frames:
                write_film(folder, unit.unit, setup.experiment.record, frames)
    run.claim.confirm()
    results.write(setup, folder, units)
    folder.update_record(optimized=True)
    folder.remove_checkpoints()


@contextlib.contextmanager
def _results_saved(run: _OpenRun, units: Sequence[Visualization]) -> Iterator[None]:
    """Write the results of `units` if an error or Ctrl-C ends the `with` block."""
    try:
        yield
    except (Stopped, FolderLost):  # no time for it, or no folder
        raise
    except BaseException:
        with signals.ignore_sigint(), contextlib.suppress(OSError, FolderLost):
            run.claim.confirm()
            results.write(run.setup, run.folder, units)
            if units and run.setup.experiment.images == "png":
                draw.draw(run.folder, draw.IMAGES, "all", lambda name, done, total: None)
        LOG.warning("ended early: results of %d of %d units are saved in %s",
                    len(units), len(run.setup.targets.units), run.folder.path)  # fmt: skip
        raise


def _draw_pictures(experiment: Experiment, folder: RunFolder, claim: Claim) -> None:
    """The pictures that are wanted and missing."""
    if experiment.images == "png":
        for name in draw.lacking(folder):
            draw.draw(folder, name, experiment.measure.pictures, measure.pulse_of(claim))


def _take_measures(run: _OpenRun) -> None:
    """The measures that are missing."""
    missing = run.work.left(run.folder)
    if not missing:
        return
    impossible = measure.measure_folder(run.setup, run.folder, run.claim, missing)
    record = run.folder.read_record()
    earlier = record["not_measured"] if record["measuring"] == run.work.measuring else {}
    run.folder.update_record(not_measured=earlier | impossible, measuring=run.work.measuring)


def _repeat_with_seeds(run: _OpenRun) -> None:
    """Optimize and measure with further seeds; write mean and spread of every index."""
    if not run.work.lacks_seeds(run.folder):
        return
    experiment = run.setup.experiment
    names = [name for name in run.work.measures if name != "natural"]  # it has no seed
    indices = [[measure.indices_in(unit, names) for unit in run.folder.read_metrics()]]
    seeds = [experiment.seed + k for k in range(experiment.seeds)]
    for seed in seeds[1:]:
        indices.append(_indices_of_seed(run, seed, names))
        LOG.info("seed %d measured", seed)
    run.folder.write_spread(measure.spread(indices), seeds, names)
    run.folder.remove_checkpoints()


def _indices_of_seed(run: _OpenRun, seed: int, names: Sequence[str]) -> list[dict[str, float]]:
    """The indices of every unit with another seed; its images are not written to the folder."""
    setup = replace(run.setup, experiment=replace(run.setup.experiment, seed=seed))
    work = f"{run.work.hash}/{seed}"
    checkpoints = replace(run.checkpoints, part=f"seed-{seed}", work=work)
    repeated = visualize_in_batches(setup, checkpoints=checkpoints, show_progress=True)
    units = results.in_order(setup, [result.visualization for result in repeated])
    # The sample of units that some measures draw is that of the first seed.
    subject = replace(subject_of(setup, units), sampled=sampled(run.setup))
    metrics = [unit.metrics for unit in units]
    for name in names:
        measured = measure.measure_with_less_memory(subject, name, measure.pulse_of(run.claim))
        pairs = zip(metrics, measured.numbers, strict=True)
        metrics = [unit | {name: numbers} for unit, numbers in pairs]
    return [measure.indices_in(unit, names) for unit in metrics]


def _add_pictures(experiment: Experiment, folder: RunFolder) -> None:
    """Draw the pictures that a finished run was made without."""
    try:
        record = folder.read_record()
        lacks_pictures = experiment.images == "png" and draw.lacking(folder)
        # No claim: another process is at work on it, and may be drawing.
        if lacks_pictures and (claim := Claim.take(Watch(folder.path))) is not None:
            claim.begin()
            try:
                _draw_pictures(experiment, folder, claim)
            finally:
                claim.remove()
        if experiment.record != "none" and record.get("config", {}).get("record") == "none":
            LOG.warning("%s was made without a film: again=true makes one", folder.path)
    except FolderLost:
        raise
    except Exception as error:  # damaged, or not ours to write to: the run is finished all the same
        LOG.warning("%s: no pictures drawn (%s: %s)",
                    folder.path, type(error).__name__, error)  # fmt: skip
