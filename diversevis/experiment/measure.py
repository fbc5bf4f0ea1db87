"""Take the measures of a run, and write their numbers, arrays and pictures to its folder."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from diversevis.errors import InputError
from diversevis.experiment.progress import ProgressDisplay
from diversevis.experiment.subject import make_subject
from diversevis.measures.catalogue import measure
from diversevis.measures.subject import Measured, Progress, Subject
from diversevis.method.device import is_out_of_memory, precision
from diversevis.method.result import Visualization
from diversevis.method.setup import Setup
from diversevis.photographs.files import names_and_sizes
from diversevis.pictures import draw
from diversevis.runs import signals
from diversevis.runs.folder import RunFolder
from diversevis.runs.lease import Claim

LOG = logging.getLogger("diversevis")

# Numbers that depend on the seed, beside those of the measures.
RESPONSES = ("response_mean", "response_min", "response_best", "distance_min", "distance_mean",
             "distance_pixels_min", "distance_pixels_mean")  # fmt: skip


def subject_of_folder(setup: Setup, folder: RunFolder) -> Subject:
    """The units of a finished run."""
    arrays = folder.read_images()
    return make_subject(
        setup, arrays["units"].tolist(), folder.read_metrics(), arrays["images"],
        arrays["responses"], setup.experiment.seed,
    )  # fmt: skip


def subject_of(
    setup: Setup, done: Sequence[Visualization], sample_seed: int | None = None
) -> Subject:
    """The units of a run that is not written to a folder.

    sample_seed  draws the sample of units; the setup's seed unless given
    """
    return make_subject(
        setup,
        [result.unit for result in done],
        [result.metrics for result in done],
        torch.stack([result.images for result in done]),
        torch.stack([result.responses for result in done]),
        setup.experiment.seed if sample_seed is None else sample_seed,
    )


def subject_without_run(setup: Setup) -> Subject:
    """All units of a setup, without images."""
    return make_subject(setup, setup.targets.units, None, None, None, setup.experiment.seed)


def possible(names: Sequence[str], folder: str | None) -> list[str]:
    """The measures of `names` without natural exemplars where there is no folder of photographs.

    Raises `InputError` where the folder holds no photographs.
    """
    if "natural" not in names:
        return list(names)
    if folder is None:
        LOG.warning("no natural exemplars: they need a folder of photographs, natural=FOLDER")
        return [name for name in names if name != "natural"]
    names_and_sizes(Path(folder).expanduser(), "natural")
    return list(names)


def pulse_of(claim: Claim) -> Progress:
    """A function to call between batches: it renews the claim, and raises where the run must stop
    (`Stopped`, `KeyboardInterrupt`, `FolderLost`)."""

    def pulse(name: str, done: int, total: int) -> None:
        claim.progress = {"phase": name, "done": done, "units": total}
        claim.check()
        signals.check()

    return pulse


def measure_folder(
    subject: Subject, folder: RunFolder, names: Sequence[str], pulse: Progress
) -> dict[str, str]:
    """Take the measures one after the other, and write each when it is done.

    pulse  called before and between batches; may raise

    Returns the reasons, by measure, for those that cannot be taken; the others are not affected.
    """
    impossible: dict[str, str] = {}
    for name in names:
        try:
            measured = _measure(subject, name, pulse)
        except InputError as error:
            LOG.warning("no measure %s: %s", name, error)
            impossible[name] = str(error)
            continue
        with signals.ignore_sigint():
            draw.forget(folder, name)
            folder.write_measure(name, measured.settings, measured.numbers, measured.arrays)
        if subject.pictures is not None:
            draw.draw(folder, name, subject.pictures, pulse)
        count = sum(numbers is not None for numbers in measured.numbers)
        LOG.info("measured %s of %d units", name, count)
    return impossible


def _measure(subject: Subject, name: str, pulse: Progress) -> Measured:
    """A measure, in plain float32; repeated with half the batch when out of memory."""
    pulse(name, 0, len(subject.rows))
    with contextlib.closing(ProgressDisplay()) as display, precision("float32"):

        def report(name: str, done: int, total: int) -> None:
            pulse(name, done, total)
            display(name, done, total)

        while True:
            try:
                return measure(subject, name, report)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or subject.batch == 1:
                    raise
            # Outside of the except clause: the error holds on to the failed attempt's tensors.
            gc.collect()
            if subject.device.type == "cuda":
                torch.cuda.empty_cache()
            subject = dataclasses.replace(subject, batch=subject.batch // 2)
            LOG.warning("out of memory: %s goes on with batch=%d images at once",
                        name, subject.batch)  # fmt: skip


def indices_of(
    subject: Subject,
    metrics: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    pulse: Progress,
) -> list[dict[str, float]]:
    """Every number of every unit by its dotted name, measured without a folder."""
    indices = [indices_in(unit, ()) for unit in metrics]
    for name in names:
        measured = _measure(subject, name, pulse)
        for unit_indices, numbers in zip(indices, measured.numbers, strict=True):
            unit_indices |= dict(flat(name, numbers))
    return indices


def indices_in(metrics: Mapping[str, Any], names: Sequence[str]) -> dict[str, float]:
    """Every number of a unit's entry in `metrics.json` by its dotted name."""
    indices = {name: metrics[name] for name in RESPONSES if metrics.get(name) is not None}
    for name in names:
        indices |= flat(name, metrics.get(name))
    return indices


def flat(name: str, numbers: Any) -> Iterator[tuple[str, float]]:
    """Finite numbers within a measure's object, by their dotted names."""
    if isinstance(numbers, Mapping):
        for key, value in numbers.items():
            yield from flat(f"{name}.{key}", value)
    elif isinstance(numbers, (int, float)) and type(numbers) is not bool and math.isfinite(numbers):
        yield name, float(numbers)


def spread(seeds: Sequence[Sequence[Mapping[str, float]]]) -> list[dict[str, Any] | None]:
    """Mean, standard deviation and count over seeds of every index of every unit.

    seeds  of every seed, for every unit, its indices by name; the count says how many seeds have
           an index

    None for a unit without any index.
    """
    table: list[dict[str, Any] | None] = []
    for unit in zip(*seeds, strict=True):
        names = dict.fromkeys(name for indices in unit for name in indices)
        entry = {}
        for name in names:
            values = torch.tensor(
                [indices[name] for indices in unit if name in indices], dtype=torch.float64
            )
            deviation = values.std().item() if len(values) > 1 else None
            entry[name] = {
                "mean": values.mean().item(), "deviation": deviation, "count": len(values)
            }  # fmt: skip
        table.append(entry or None)
    return table


def seeds_of(setup: Setup) -> list[Setup]:
    """The same setup with the further seeds that `seeds=` asks for."""
    experiment = setup.experiment
    return [
        dataclasses.replace(
            setup, experiment=dataclasses.replace(experiment, seed=experiment.seed + k)
        )
        for k in range(1, experiment.seeds)
    ]
