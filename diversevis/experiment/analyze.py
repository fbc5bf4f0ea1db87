"""`diversevis analyze`: measures of finished runs, and of units without a run."""

from __future__ import annotations

import contextlib
from pathlib import Path

from diversevis.errors import InputError
from diversevis.experiment.check import check_network
from diversevis.experiment.drawing import Drawing
from diversevis.experiment.measure import measure_folder, measures_of, possible
from diversevis.measures.catalogue import OF_PHOTOGRAPHS, chosen
from diversevis.method.device import keep_pages
from diversevis.method.settings import Config, Experiment
from diversevis.method.setup import prepare
from diversevis.runs.folder import RunFolder
from diversevis.runs.holder import holder_of
from diversevis.runs.identity import absolute_paths, is_optimized, new_analysis
from diversevis.runs.lease import Claim, Watch
from diversevis.runs.record import keep_record, logged_to, make_record


def analyze_run(folder: RunFolder, experiment: Experiment) -> None:
    """Take the measures of a finished run; those taken before, and not now, stay.

    experiment  of the run, with the measures, their settings and the device of today

    Raises `InputError` where the network, its weights or its responses have changed since the run,
    or another process holds it.
    """
    names = possible(measures_of(experiment), experiment.natural)
    keep_pages()
    setup = prepare(experiment)
    check_network(setup, folder)
    record = folder.read_record()
    claim = _take_claim(folder)
    complete = is_optimized(folder)
    try:
        with logged_to(folder.log_path), _drawing(folder, experiment) as drawing:
            measure_folder(setup, folder, claim, names, drawing)
        # Natural exemplars may be missing: there may have been no photographs.
        metamers = experiment.objective.reference is not None
        asked = chosen(record["config"].get("analysis", []), metamers=metamers)
        wanted = {*asked} - {*OF_PHOTOGRAPHS}
        complete = complete and wanted <= {*folder.read_measures()}
        if complete and record["status"] != "finished":
            folder.update_record(status="finished")  # only its measures were missing
    finally:
        # A released claim says that the run is not complete; a complete run has no claim.
        (claim.remove if complete else claim.release)()


def analyze_units(experiment: Experiment, *, command: str, config: Config) -> Path:
    """Take the measures that need no images, of units without a run; returns their new folder.

    Raises `InputError` before anything is written.
    """
    names = possible(chosen(experiment.analysis, with_images=False), experiment.natural)
    keep_pages()
    setup = prepare(experiment)
    settled = config(absolute_paths(setup))
    record = make_record(setup, command, settled.content)
    record |= {"n": None, "distance": None, "metric": None, "diversity": None}
    folder, claim = new_analysis(setup, record)
    with keep_record(folder, claim, record, setup.device):
        folder.write_config(settled.text)
        folder.write_metrics([{"unit": unit} for unit in setup.targets.units])
        with _drawing(folder, experiment) as drawing:
            measure_folder(setup, folder, claim, names, drawing)
    return folder.path


def _drawing(folder: RunFolder, experiment: Experiment) -> contextlib.closing[Drawing]:
    return contextlib.closing(Drawing(folder, wanted=experiment.images == "png"))


def _take_claim(folder: RunFolder) -> Claim:
    claim = Claim.take(Watch(folder.path))
    if claim is None:
        holder = holder_of(folder.path)
        words = holder.words if holder else "another process"
        raise InputError(f"{folder.path}: {words} is at work there. Wait for it, then measure.")
    claim.begin()
    return claim
