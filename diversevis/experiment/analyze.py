"""`diversevis analyze`: measures of runs that are done, and of units that have no run."""

from __future__ import annotations

from pathlib import Path

from diversevis.errors import InputError
from diversevis.experiment.measure import (
    measure_folder,
    possible,
    pulse_of,
    subject_of_folder,
    subject_without_run,
)
from diversevis.measures.catalogue import chosen
from diversevis.method.device import keep_pages
from diversevis.method.settings import Config, Experiment
from diversevis.method.setup import prepare
from diversevis.runs.folder import RunFolder
from diversevis.runs.holder import holder_of
from diversevis.runs.identity import fixed_paths, is_optimized, new_version
from diversevis.runs.lease import Claim, Watch
from diversevis.runs.record import accounted, logged_to, make_record


def analyze_run(folder: RunFolder, experiment: Experiment) -> None:
    """Take the measures of a run that is done; those taken before, and not now, stay.

    experiment  the run's own, with the measures, their settings and the device of today

    Raises `InputError` where the folder's weights are not those of today.
    """
    names = possible(chosen(experiment.analysis), experiment.natural)
    keep_pages()
    setup = prepare(experiment)
    record = folder.read_record()
    if record["weights"]["sha256"] != setup.network.weights.sha256:
        raise InputError(
            f"{folder.path}: its images were made with other weights "
            f"({record['weights']['source']}) than {setup.network.weights.source} holds. Give "
            "the same weights."
        )
    subject = (
        subject_of_folder(setup, folder) if record["n"] is not None else subject_without_run(setup)
    )
    claim = Claim.take(Watch(folder.path))
    if claim is None:
        holder = holder_of(folder.path)
        words = holder.words if holder else "another process"
        raise InputError(f"{folder.path}: {words} is at work there. Wait for it, then measure.")
    claim.begin()
    whole = is_optimized(folder)
    try:
        with logged_to(folder.log_path):
            measure_folder(subject, folder, names, pulse_of(claim))
        wanted = chosen(record.get("config", {}).get("analysis", []))
        whole = whole and not {*wanted} - {*folder.read_measures(), "natural"}
        if whole and record["status"] != "finished":
            folder.update_record(status="finished")  # its measures alone were missing
    finally:
        (claim.remove if whole else claim.release)()


def analyze_units(experiment: Experiment, *, command: str, config: Config) -> Path:
    """The measures that need no images, of units without a run; their folder.

    Raises `InputError` before anything is written.
    """
    asked = chosen(experiment.analysis, with_images=False)
    names = possible(asked, experiment.natural)
    keep_pages()
    setup = prepare(experiment)
    settled = config(fixed_paths(setup))
    record = make_record(setup, command, settled.content)
    record |= {"n": None, "distance": None, "diversity": None}
    root = Path(experiment.root).expanduser()
    folder, claim = new_version(root, setup.where, record, command="analyze")
    with accounted(folder, claim, record, setup.device):
        folder.write_config(settled.text)
        folder.write_metrics([{"unit": unit} for unit in setup.targets.units])
        measure_folder(subject_without_run(setup), folder, names, pulse_of(claim))
    return folder.path
