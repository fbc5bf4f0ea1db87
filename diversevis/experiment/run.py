"""One run, from a description of the work to a finished run folder."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from diversevis.errors import FolderLost, InputError, Stopped
from diversevis.experiment import measure, results
from diversevis.experiment.check import check_network
from diversevis.experiment.drawing import Drawing
from diversevis.experiment.subject import sampled, subject_of
from diversevis.experiment.workers import visualize_units
from diversevis.measures.catalogue import OF_PHOTOGRAPHS
from diversevis.method.result import Visualization
from diversevis.method.settings import Config, Experiment, Settled
from diversevis.method.setup import Setup, prepare
from diversevis.pictures import draw
from diversevis.pictures.film import check_film, write_film
from diversevis.runs import identity, provenance, signals
from diversevis.runs.checkpoints import Checkpoints
from diversevis.runs.files import is_whole
from diversevis.runs.folder import RunFolder
from diversevis.runs.identity import Work
from diversevis.runs.lease import Claim, Watch
from diversevis.runs.process import job_id, restarts
from diversevis.runs.record import keep_record, make_record
from diversevis.units import counted

LOG = logging.getLogger("diversevis")


class Done(NamedTuple):
    """The folder of a run, and what happened to it, in the words of `Opened`."""

    path: Path
    how: str


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
    measures = measure.possible(measure.measures_of(experiment), experiment.natural)
    setup = prepare(experiment)
    check_film(experiment.record, experiment.n, setup.field.size)
    settled = config(identity.absolute_paths(setup))
    work = _work(setup, settled, measures, sweep, expected)
    record = make_record(setup, command, settled.content)
    record |= {"sweep": sweep, "measuring": work.measure_settings_hash}
    folder, claim, how = identity.open_work(work, record, wait=wait)
    if claim is None:
        if how == "found":
            _add_pictures(experiment, folder)
        return Done(folder.path, how)
    if how == "continued" and identity.is_optimized(folder):
        _check_network(setup, folder, claim)
    if how == "continued" and experiment.batch == "auto":
        setup = _with_earlier_batch(setup, folder)
    with (
        keep_record(folder, claim, record | {"batch": setup.batch}, setup.device),
        contextlib.closing(Drawing(folder, wanted=experiment.images == "png")) as drawing,
    ):
        if not identity.is_optimized(folder):
            _write_config(folder, settled, extras)
            _make_images(setup, work, folder, claim, drawing)
        _draw_pictures(experiment, folder, claim, drawing)
        _take_measures(setup, work, folder, claim, drawing)
        _repeat_with_seeds(setup, work, folder, claim)
    return Done(folder.path, how)


def _check_network(setup: Setup, folder: RunFolder, claim: Claim) -> None:
    """Raises `InputError`, with the folder as it was, where the network has changed."""
    try:
        check_network(setup, folder)
    except BaseException:
        finished = folder.read_record()["status"] == "finished"
        (claim.remove if finished else claim.release)()
        raise


def _work(
    setup: Setup, settled: Settled, measures: Sequence[str], sweep: str | None, expected: str | None
) -> Work:
    """The work by its hash; raises `InputError` if that is not the hash planned by the sweep."""
    experiment = setup.experiment
    work = Work(
        root=Path(experiment.root).expanduser(), where=setup.where,
        hash=provenance.sha256_of(identity.science(setup)),
        measures=measures,
        measure_settings_hash=identity.measure_settings_hash(settled.content, measures),
        later=identity.later_settings(settled.content),
        seeds=experiment.seeds, again=experiment.again,
        origin=sweep or job_id(), restarted=sweep is not None or restarts() > 0,
    )  # fmt: skip
    if expected not in (None, work.hash):
        raise InputError(
            f"This run differs from the one that was planned: the weights of {setup.network.name} "
            f"({setup.network.weights.source}), another input file or this program differ on this "
            "machine. Give all machines the same, or type the sweep's command again."
        )
    return work


def _with_earlier_batch(setup: Setup, folder: RunFolder) -> Setup:
    """The setup with the batch size that the run was begun with on a device of the same kind.

    It decides how units are batched, and with it how sums are rounded and which checkpoints fit.
    """
    with contextlib.suppress(OSError, ValueError, KeyError, AttributeError):  # a damaged record
        record = folder.read_record()
        kind, batch = record["device"].partition(":")[0], record["batch"]
        if kind == setup.device.type and not record["optimized"] and is_whole(batch) and batch:
            return replace(setup, batch=batch)
    return setup


def _write_config(folder: RunFolder, settled: Settled, extras: Mapping[str, str]) -> None:
    folder.write_config(settled.text)
    for name, text in extras.items():
        folder.write_extra(name, text)


def _make_images(
    setup: Setup, work: Work, folder: RunFolder, claim: Claim, drawing: Drawing
) -> None:
    """Optimize the images of all units and write them; those so far if an error ends it."""
    experiment, units = setup.experiment, list[Visualization]()
    checkpoints = _checkpoints(setup, work, folder, claim)
    folder.update_record(optimized=False)  # True in a damaged run that is made again
    draw.mark_outdated(folder, draw.IMAGES)
    steps = {"search": experiment.optimizer.search_steps, "diverse": experiment.optimizer.steps}
    total = {"units": len(setup.targets.units), "steps": steps}
    claim.progress = total | {"done": 0}
    references = setup.targets.references
    with (
        _results_saved(setup, folder, claim, units, drawing),
        contextlib.closing(visualize_units(setup, checkpoints)) as unit_results,
    ):
        for unit, frames in unit_results:
            units.append(unit)
            drawing.unit(unit, None if references is None else references[unit.unit])
            claim.progress = total | {"done": len(units)}
            results.log_result(unit)
            if frames:
                write_film(folder, unit.unit, experiment.record, frames)
    claim.confirm()
    results.write(setup, folder, units)
    drawing.graphs()
    folder.update_record(optimized=True)
    folder.remove_checkpoints()


@contextlib.contextmanager
def _results_saved(
    setup: Setup,
    folder: RunFolder,
    claim: Claim,
    units: Sequence[Visualization],
    drawing: Drawing,
) -> Iterator[None]:
    """Write the results of `units` if an error or Ctrl-C ends the `with` block."""
    try:
        yield
    except (Stopped, FolderLost):  # no time for it, or no folder
        raise
    except BaseException:
        with signals.ignore_sigint(), contextlib.suppress(OSError, FolderLost):
            claim.confirm()
            results.write(setup, folder, units)
            if units and setup.experiment.images == "png":
                drawn = drawing.drawn(draw.IMAGES, _nobody)
                draw.draw(folder, draw.IMAGES, "all", _nobody, drawn)
        count = f"{len(units)} of {counted(len(setup.targets.units), 'unit')}"
        LOG.warning(f"ended early: results of {count} are saved in {folder.path}")
        raise


def _nobody(name: str, done: int, total: int) -> None:
    """Tells nobody how far the drawing is: a person waits for the end."""


def _draw_pictures(
    experiment: Experiment, folder: RunFolder, claim: Claim, drawing: Drawing
) -> None:
    """The pictures that are wanted and missing."""
    if experiment.images == "png":
        for name in draw.missing_pictures(folder):
            pulse, most = measure.pulse_of(claim), experiment.measure.pictures
            drawing.missing(name, most)
            draw.draw(folder, name, most, pulse, drawing.drawn(name, pulse))


def _take_measures(
    setup: Setup, work: Work, folder: RunFolder, claim: Claim, drawing: Drawing
) -> None:
    """The measures that are missing."""
    if missing := work.left(folder):
        impossible = measure.measure_folder(setup, folder, claim, missing, drawing)
        record = folder.read_record()
        earlier = (
            record["not_measured"] if record["measuring"] == work.measure_settings_hash else {}
        )
        folder.update_record(
            not_measured=earlier | impossible, measuring=work.measure_settings_hash
        )


def _checkpoints(setup: Setup, work: Work, folder: RunFolder, claim: Claim) -> Checkpoints:
    return Checkpoints(
        folder=folder, part="images", work=work.hash, seconds=setup.experiment.checkpoint,
        device=setup.device, claim=claim,
    )  # fmt: skip


def _repeat_with_seeds(setup: Setup, work: Work, folder: RunFolder, claim: Claim) -> None:
    """Optimize and measure with further seeds; write mean and spread of every index."""
    if not work.lacks_seeds(folder):
        return
    experiment, pulse = setup.experiment, measure.pulse_of(claim)
    checkpoints = _checkpoints(setup, work, folder, claim)
    left_out = {*OF_PHOTOGRAPHS, *folder.read_record().get("not_measured", {})}
    names = [name for name in work.measures if name not in left_out]
    indices = [[measure.indices_in(unit, names) for unit in folder.read_metrics()]]
    seeds = [experiment.seed + k for k in range(experiment.seeds)]
    for seed in seeds[1:]:
        seeded = replace(setup, experiment=replace(experiment, seed=seed))
        seed_checkpoints = replace(checkpoints, part=f"seed-{seed}", work=f"{work.hash}/{seed}")
        repeated = visualize_units(seeded, seed_checkpoints)
        units = results.in_order(seeded, [result.visualization for result in repeated])
        # The sample of units that some measures draw is that of the first seed.
        subject = replace(subject_of(seeded, units), sampled=sampled(setup))
        indices.append(measure.indices_of(subject, [unit.metrics for unit in units], names, pulse))
        LOG.info("seed %d measured", seed)
    folder.write_spread(measure.spread(indices), seeds, names)
    folder.remove_checkpoints()


def _add_pictures(experiment: Experiment, folder: RunFolder) -> None:
    """Draw the pictures that a finished run was made without."""
    try:
        record = folder.read_record()
        lacks_pictures = experiment.images == "png" and draw.missing_pictures(folder)
        # No claim: another process is at work on it, and may be drawing.
        if lacks_pictures and (claim := Claim.take(Watch(folder.path))) is not None:
            claim.begin()
            try:
                with contextlib.closing(Drawing(folder, wanted=True)) as drawing:
                    _draw_pictures(experiment, folder, claim, drawing)
            finally:
                claim.remove()
        if experiment.record != "none" and record.get("config", {}).get("record") == "none":
            LOG.warning("%s was made without a film: again=true makes one", folder.path)
    except FolderLost:
        raise
    except Exception as error:  # damaged, or not ours to write to: the run is finished all the same
        LOG.warning(f"{folder.path}: no pictures drawn ({type(error).__name__}: {error})")
