"""The method, from a description of the work to a finished run folder."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from diversevis import machine, provenance, report, stopping
from diversevis.accounting import accounted, logged_to, make_record
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
    seeds_of,
    spread,
    subject_of,
    subject_of_folder,
    subject_without_run,
    undisturbed,
)
from diversevis.prepare import Setting, fixed_paths, pick_devices, prepare, science
from diversevis.progress import Progress
from diversevis.run_folder import Claim, RunFolder, Watch, holder_of, job_id, restarts
from diversevis.settings import Config, Experiment
from diversevis.visualize import Visualization
from diversevis.work import Work, is_optimized, measuring, new_version, open_work

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
    names = possible(chosen(experiment.analysis), experiment.natural)
    machine.keep_pages()
    setting = prepare(experiment)
    identity = provenance.sha256_of(science(setting))
    if expected not in (None, identity):
        raise InputError(
            f"This is not the work that was planned: the weights of {setting.network.name} here "
            f"({setting.network.weights.source}), another file it needs, or this program have "
            "changed since. Give every node the same, or type the sweep's command again."
        )
    settled = config(fixed_paths(setting))
    work = Work(
        root=Path(experiment.root).expanduser(),
        where=_where(setting),
        hash=identity,
        measures=names,
        seeds=experiment.seeds,
        again=experiment.again,
        measuring=measuring(settled.content),
        origin=sweep or job_id(),
        restarted=sweep is not None or restarts() > 0,
    )
    record = make_record(setting, command, settled.content)
    record |= {"sweep": sweep, "measuring": work.measuring}
    opened = open_work(work, record, wait=wait)
    if not opened.fresh and experiment.batch == "auto":
        setting = _cut_as_before(setting, opened.folder)
        record["batch"] = setting.batch
    folder, claim = opened.folder, opened.claim
    if claim is None:
        return Done(folder.path, "held" if opened.holder else "found")
    with accounted(folder, claim, record, setting.device):
        if not is_optimized(folder):
            folder.write_config(settled.text)
            for name, text in extras.items():
                folder.write_extra(name, text)
            _make_images(setting, folder, claim, identity)
        if left := work.left(folder):
            subject = subject_of_folder(setting, folder)
            impossible = measure_folder(subject, folder, left, _pulse(claim))
            before = folder.read_record()
            known = before["not_measured"] if before["measuring"] == work.measuring else {}
            folder.update_record(not_measured=known | impossible, measuring=work.measuring)
        if experiment.images == "png":
            for name in (one for one in folder.read_measures() if folder.lacks_pictures(one)):
                report.make_measure(folder, name, experiment.measure.pictures)
        if work.lacks_seeds(folder):
            _repeat(setting, folder, claim, identity, names)
    return Done(folder.path, "made" if opened.fresh else "continued")


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
            measure_folder(subject, folder, names, _pulse(claim))
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
    folder, claim = new_version(root, _where(setting), record, command="analyze")
    with accounted(folder, claim, record, setting.device):
        folder.write_config(settled.text)
        folder.write_metrics([{"unit": unit} for unit in setting.targets.units])
        measure_folder(subject_without_run(setting), folder, names, _pulse(claim))
    return folder.path


def _cut_as_before(setting: Setting, folder: RunFolder) -> Setting:
    """With batches as large as those that the run was begun with, on a device of the same kind."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        before = folder.read_record()
        if torch.device(before["device"]).type == setting.device.type and not before["optimized"]:
            return replace(setting, batch=int(before["batch"]))
    return setting


def _where(setting: Setting) -> tuple[str, str, str]:
    return setting.network.name, setting.network.layer.name, setting.targets.text


def _checkpoints(
    setting: Setting, folder: RunFolder, claim: Claim, identity: str, part: str
) -> Checkpoints:
    return Checkpoints(
        folder=folder,
        part=part,
        work=identity,
        seconds=setting.experiment.checkpoint,
        device=setting.device,
        claim=claim,
    )


def _pulse(claim: Claim) -> Callable[[str, int, int], None]:
    """Between two batches of a measure: a sign, and a way out where one is asked."""

    def pulse(name: str, done: int, total: int) -> None:
        claim.progress = {"phase": name, "done": done, "units": total}
        claim.check()
        stopping.check()

    return pulse


def _make_images(setting: Setting, folder: RunFolder, claim: Claim, identity: str) -> None:
    """All units' images, into the folder; those of some if it ends early."""
    done: list[Visualization] = []
    checkpoints = _checkpoints(setting, folder, claim, identity, "images")
    try:
        _visualize_all(setting, folder, checkpoints, done)
    except (Stopped, FolderLost):  # no time to lose, or nothing to write to
        raise
    except BaseException:  # what is done is kept, whatever ended it
        with undisturbed(), contextlib.suppress(OSError, FolderLost):
            claim.confirm()
            _write(setting, folder, done)
        LOG.warning("ended early; %d of %d units are kept in %s",
                    len(done), len(setting.targets.units), folder.path)  # fmt: skip
        raise
    claim.confirm()
    _write(setting, folder, done)
    folder.update_record(optimized=True)
    folder.remove_checkpoints()


def _repeat(
    setting: Setting, folder: RunFolder, claim: Claim, identity: str, names: Sequence[str]
) -> None:
    """The same with further seeds: mean and spread of every index."""
    experiment, units = setting.experiment, setting.targets.units
    kept = [name for name in names if name != "natural"]  # photographs know no seed
    found = [[indices_in(one, kept) for one in folder.read_metrics()]]
    for other in seeds_of(setting):
        optimizer, seed = experiment.optimizer, other.experiment.seed
        checkpoints = _checkpoints(other, folder, claim, f"{identity}/{seed}", f"seed-{seed}")
        bar = Progress(len(units), optimizer.search_steps, optimizer.steps)
        with contextlib.closing(bar) as progress:
            again = visualize_in_batches(
                other, range(len(units)), progress, checkpoints=checkpoints
            )
            repeated = _in_order(setting, [one for one, _ in again])
        metrics = [one.metrics for one in repeated]
        subject = subject_of(other, repeated, sample_seed=experiment.seed)
        found.append(indices_of(subject, metrics, kept, _pulse(claim)))
        LOG.info("seed %d measured", seed)
    seeds = [experiment.seed, *(one.experiment.seed for one in seeds_of(setting))]
    folder.write_spread(spread(found), seeds, kept)
    folder.remove_checkpoints()


def _in_order(setting: Setting, done: list[Visualization]) -> list[Visualization]:
    """As the units were named, whichever was done first."""
    place = {unit: row for row, unit in enumerate(setting.targets.units)}
    return sorted(done, key=lambda one: place[one.unit])


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


def _write(setting: Setting, folder: RunFolder, done: list[Visualization]) -> None:
    """Arrays, numbers and pictures of the units that are done."""
    if not done:
        return
    done = _in_order(setting, done)
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
    if setting.experiment.images == "png":
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
