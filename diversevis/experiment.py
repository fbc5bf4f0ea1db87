"""The method, from a description of the work to a finished run folder."""

from __future__ import annotations

import contextlib
import logging
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from diversevis import machine, provenance, report
from diversevis.analysis import chosen
from diversevis.batches import visualize_in_batches
from diversevis.devices import visualize_on_devices
from diversevis.errors import InputError
from diversevis.measuring import (
    indices_in,
    indices_of,
    measure_folder,
    possible,
    seeds_of,
    spread,
    subject_of,
    subject_of_folder,
    subject_without_run,
    undisturbed,
)
from diversevis.prepare import Setting, pick_devices, prepare, science
from diversevis.progress import Progress
from diversevis.run_folder import RunFolder
from diversevis.settings import Experiment
from diversevis.visualize import Visualization

LOG = logging.getLogger("diversevis")


def run(
    experiment: Experiment,
    *,
    command: str,
    config: Callable[[Mapping[str, str]], str],
    extras: Mapping[str, str],
) -> Path:
    """Do the work and return its finished run folder.

    command  what was typed, for the record
    config   the resolved config as text, with the given settings in place of what was typed
    extras   further files for the folder, name -> text

    Raises `InputError` before anything is written, `KeyboardInterrupt` after keeping what there is.
    """
    report.check_film(experiment.record)
    names = possible(chosen(experiment.analysis), experiment.natural)
    machine.keep_pages()
    setting = prepare(experiment)
    folder = _new_folder(setting)
    with _accounted(folder, _record(setting, command, folder.path), setting.device):
        folder.write_config(config(_fixed_paths(setting)))
        for name, text in extras.items():
            folder.write_extra(name, text)
        done: list[Visualization] = []
        try:
            _visualize_all(setting, folder, done)
        except BaseException:  # what is done is kept, whatever ended it
            with undisturbed(), contextlib.suppress(OSError):
                _write(folder, done)
            LOG.warning("ended early; %d of %d units are kept in %s",
                        len(done), len(setting.targets.units), folder.path)  # fmt: skip
            raise
        _write(folder, done)
        if names:
            measure_folder(subject_of_folder(setting, folder), folder, names)
        if experiment.seeds > 1:
            _repeat(setting, folder, names, done)
    return folder.path


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
    with _logged_to(folder.log_path):
        measure_folder(subject, folder, names)
        if record["status"] != "finished" and len(subject.rows) == len(record["units"]):
            folder.update_record(status="finished")  # its measures alone were missing


def analyze_units(
    experiment: Experiment, *, command: str, config: Callable[[Mapping[str, str]], str]
) -> Path:
    """The measures that need no images, of units without a run; their folder.

    Raises `InputError` before anything is written.
    """
    asked = chosen(experiment.analysis, with_images=False)
    names = possible(asked, experiment.natural)
    machine.keep_pages()
    setting = prepare(experiment)
    folder = _new_folder(setting)
    record = _record(setting, command, folder.path)
    record |= {"n": None, "distance": None, "diversity": None}
    record["rerun"] = provenance.rerun_line(folder.path, "analyze")
    with _accounted(folder, record, setting.device):
        folder.write_config(config(_fixed_paths(setting)))
        folder.write_metrics([{"unit": unit} for unit in setting.targets.units])
        measure_folder(subject_without_run(setting), folder, names)
    return folder.path


def _new_folder(setting: Setting) -> RunFolder:
    where = setting.network.name, setting.network.layer.name, setting.targets.text
    return RunFolder.create(Path(setting.experiment.root).expanduser(), *where)


def _repeat(
    setting: Setting, folder: RunFolder, names: Sequence[str], done: list[Visualization]
) -> None:
    """The same with further seeds: mean and spread of every index."""
    experiment, units = setting.experiment, setting.targets.units
    kept = [name for name in names if name != "natural"]  # photographs know no seed
    found = [[indices_in(one, kept) for one in folder.read_metrics()]]
    for other in seeds_of(setting):
        optimizer = experiment.optimizer
        bar = Progress(len(units), optimizer.search_steps, optimizer.steps)
        with contextlib.closing(bar) as progress:
            again = visualize_in_batches(other, range(len(units)), progress)
            repeated = [one for one, _ in again]
        metrics = [one.metrics for one in repeated]
        subject = subject_of(other, repeated, sample_seed=experiment.seed)
        found.append(indices_of(subject, metrics, kept))
        LOG.info("seed %d measured", other.experiment.seed)
    seeds = [experiment.seed, *(one.experiment.seed for one in seeds_of(setting))]
    folder.write_spread(spread(found), seeds)


def _visualize_all(setting: Setting, folder: RunFolder, done: list[Visualization]) -> None:
    """Every unit, added to `done` in order; raises `KeyboardInterrupt` after Ctrl-C."""
    experiment, units = setting.experiment, setting.targets.units
    optimizer = experiment.optimizer
    with contextlib.closing(
        Progress(len(units), optimizer.search_steps, optimizer.steps)
    ) as progress:
        for one, frames in (
            visualize_on_devices(setting)
            if len(pick_devices(experiment.device)) > 1
            else visualize_in_batches(setting, range(len(units)), progress)
        ):
            done.append(one)
            _say(one)
            if frames:
                report.write_film(folder, one.unit, experiment.record, frames)


def _say(one: Visualization) -> None:
    found = one.metrics
    if found["stop"] == "dead":
        LOG.warning(
            "unit %d is dead: its response has no gradient in any of the noise drawn", one.unit
        )
        return
    level = logging.WARNING if found["stop"] == "diverged" else logging.INFO
    distance = found["distance_min"]
    LOG.log(
        level,
        "unit %d %s after %d steps: mean response %.4g%s, %.1f s",
        one.unit,
        found["stop"],
        found["steps"],
        found["response_mean"],
        "" if distance is None else f", smallest distance {distance:.4g}",
        found["seconds"],
    )


def _write(folder: RunFolder, done: list[Visualization]) -> None:
    """Arrays, numbers and pictures of the units that are done."""
    if not done:
        return
    folder.write_images(
        torch.stack([one.images for one in done]),
        torch.stack([one.responses for one in done]),
        torch.tensor([one.unit for one in done]),
    )
    folder.write_metrics([one.metrics for one in done])
    _write_front(folder, [one for one in done if one.front is not None])
    names = list(dict.fromkeys(name for one in done for name in one.trace))
    rows = []
    for one in done:
        columns = [one.trace[name].tolist() for name in names] if one.trace else []
        for step, values in enumerate(zip(*columns, strict=True), start=1):
            rows.append([step, one.unit, *(f"{value:.7g}" for value in values)])
    folder.write_trace(names, rows)
    report.make(folder)


def _write_front(folder: RunFolder, done: list[Visualization]) -> None:
    """Images at every weight of a traced front, and its table."""
    if not done:
        return
    names = ["unit", *done[0].metrics["front"][0]]
    rows = [[one.unit, *row.values()] for one in done for row in one.metrics["front"]]
    folder.write_front(
        torch.stack([one.front for one in done if one.front is not None]),
        torch.tensor([row["diversity"] for row in done[0].metrics["front"]]),
        torch.tensor([one.unit for one in done]),
        names,
        rows,
    )


def _fixed_paths(setting: Setting) -> dict[str, str]:
    """Settings that meant a file from where the command was typed, as they hold anywhere."""
    objective, weights = setting.experiment.objective, setting.network.weights
    paths = {
        f"objective.{name}": str(Path(value).expanduser().resolve())
        for name in ("direction", "photographs")
        if (value := getattr(objective, name)) is not None
    }
    if (photographs := setting.experiment.natural) is not None:
        paths["natural"] = str(Path(photographs).expanduser().resolve())
    if weights.is_file and weights.url is None:
        paths["model.weights"] = weights.source
    return paths


class _RunLog(logging.FileHandler):
    """The run folder's log; a full disk ends the run with its own error, not the log's."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass


@contextlib.contextmanager
def _accounted(folder: RunFolder, record: dict[str, Any], device: torch.device) -> Iterator[None]:
    """Keeps `run.json` true: running, then finished, interrupted or failed."""
    began = time.perf_counter()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)

    def close(status: str, **more: Any) -> None:
        seconds = round(time.perf_counter() - began, 3)
        memory = provenance.peak_memory(device)
        LOG.info("%s after %.1f s", status, seconds)
        folder.update_record(status=status, seconds=seconds, **memory, **more)

    folder.write_record(record)
    with _logged_to(folder.log_path):
        try:
            LOG.info("%s", record["command"])
            yield
            close("finished")
        except BaseException as error:
            try:
                if isinstance(error, KeyboardInterrupt):
                    close("interrupted")
                else:
                    close("failed", error=traceback.format_exc())
            except OSError:  # on a full disk even this may not fit
                with contextlib.suppress(OSError):
                    folder.mark_failed()
            raise


@contextlib.contextmanager
def _logged_to(path: Path) -> Iterator[None]:
    handler = _RunLog(path, delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    logs = LOG, logging.getLogger()  # ours, and what libraries have to say
    for log in logs:
        log.addHandler(handler)
    try:
        yield
    finally:
        for log in logs:
            log.removeHandler(handler)
        with contextlib.suppress(OSError):
            handler.close()


def _record(setting: Setting, command: str, folder: Path) -> dict[str, Any]:
    experiment = setting.experiment
    return {
        "status": "running",
        "command": command,
        "rerun": provenance.rerun_line(folder),
        "config_hash": provenance.sha256_of(science(setting)),
        "model": setting.network.name,
        "layer": setting.network.layer.name,
        "response": setting.network.layer.response,
        "direction": setting.targets.file,
        "units": list(setting.targets.units),
        "n": experiment.n,
        "seed": experiment.seed,
        "norm": setting.norm,
        "distance": experiment.objective.distance,
        "diversity": None if experiment.objective.front else experiment.objective.diversity,
        "fraction": experiment.objective.fraction,
        "front": experiment.objective.front,
        "receptive_field": asdict(setting.field),
        "weights": asdict(setting.network.weights),
        "versions": provenance.versions(),
        **provenance.device_facts(setting.device),
        "devices": [str(device) for device in pick_devices(experiment.device)],
        "precision": experiment.precision,
        "batch": setting.batch,
        "start": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
