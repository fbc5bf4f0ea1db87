"""`diversevis analyze`: measures of runs that are done, and of units that have no run."""

from __future__ import annotations

from pathlib import Path

from diversevis import machine
from diversevis.accounting import accounted, logged_to, make_record
from diversevis.analysis import chosen
from diversevis.errors import InputError
from diversevis.measuring import (
    measure_folder,
    possible,
    pulse_of,
    subject_of_folder,
    subject_without_run,
)
from diversevis.prepare import fixed_paths, prepare
from diversevis.run_folder import Claim, RunFolder, Watch, holder_of
from diversevis.settings import Config, Experiment
from diversevis.work import is_optimized, new_version


def analyze_run(folder: RunFolder, experiment: Experiment) -> None:
    """Take the measures of a run that is done; those taken before, and not now, stay.

    experiment  the run's own, with the measures, their settings and the device of today

    Raises `InputError` where the folder's weights are not those of today.
    """
    names = possible(chosen(experiment.analysis), experiment.natural)
    machine.keep_pages()
    setting = prepare(experiment)
    record = folder.read_record()
    if record["weights"]["sha256"] != setting.network.weights.sha256:
        raise InputError(
            f"{folder.path}: its images were made with other weights "
            f"({record['weights']['source']}) than {setting.network.weights.source} holds. Give "
            "the same weights."
        )
    subject = (
        subject_of_folder(setting, folder)
        if record["n"] is not None
        else subject_without_run(setting)
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
    machine.keep_pages()
    setting = prepare(experiment)
    settled = config(fixed_paths(setting))
    record = make_record(setting, command, settled.content)
    record |= {"n": None, "distance": None, "diversity": None}
    root = Path(experiment.root).expanduser()
    folder, claim = new_version(root, setting.where, record, command="analyze")
    with accounted(folder, claim, record, setting.device):
        folder.write_config(settled.text)
        folder.write_metrics([{"unit": unit} for unit in setting.targets.units])
        measure_folder(subject_without_run(setting), folder, names, pulse_of(claim))
    return folder.path
