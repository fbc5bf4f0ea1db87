"""Take the measures of a run, and write their numbers, arrays and pictures to its folder."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from diversevis.errors import InputError, printable
from diversevis.experiment.drawing import Drawing
from diversevis.experiment.progress import ProgressDisplay
from diversevis.experiment.subject import subject_of_folder
from diversevis.measures.catalogue import OF_PHOTOGRAPHS, chosen, measure
from diversevis.measures.subject import Measured, Progress, Subject
from diversevis.method.device import none_if_out_of_memory, precision
from diversevis.method.settings import Experiment
from diversevis.method.setup import Setup
from diversevis.photographs.cache import warn_once
from diversevis.photographs.survey import survey
from diversevis.pictures import draw
from diversevis.runs import signals
from diversevis.runs.folder import RunFolder
from diversevis.runs.lease import Claim
from diversevis.units import counted

LOG = logging.getLogger("diversevis")
Result = TypeVar("Result")

# Numbers that depend on the seed, beside those of the measures.
RESPONSES = ("response_mean", "response_min", "response_best", "distance_min", "distance_mean",
             "distance_pixels_min", "distance_pixels_mean",
             # of metamers:
             "error_mean", "error_max", "distance_to_reference_min", "distance_to_reference_mean",
             "distance_pixels_to_reference_min", "distance_pixels_to_reference_mean",
             )  # fmt: skip
ANGLES = {"bipartite.side", "phase.orientation", "phase.fitted.orientation"}


def measures_of(experiment: Experiment) -> list[str]:
    """The measures that the run asks for; raises `InputError` for an unknown name."""
    return chosen(experiment.analysis, metamers=experiment.objective.reference is not None)


def possible(names: Sequence[str], folder: str | None) -> list[str]:
    """The measures of `names`, without those of photographs where there is no folder of these.

    Raises `InputError` where the folder holds no photographs that can be read.
    """
    if not {*names} & {*OF_PHOTOGRAPHS}:
        if folder is not None:
            warn_once(
                f"natural={printable(folder)} is not used: natural exemplars are not asked for. "
                "analysis=natural measures them, and so does analysis=all; analysis=varied takes "
                "photographs as well"
            )
        return list(names)
    if folder is None:
        LOG.warning(
            "no natural exemplars or varied images: they need a folder of photographs, "
            "natural=FOLDER"
        )
        return [name for name in names if name not in OF_PHOTOGRAPHS]
    survey(Path(folder).expanduser(), "natural")
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
    setup: Setup, folder: RunFolder, claim: Claim, names: Sequence[str], drawing: Drawing
) -> dict[str, str]:
    """Take the measures one after the other; write each to the folder when it is done, and draw it
    while the next is taken.

    Returns the reasons, by measure, for those that cannot be taken; the others are not affected.
    """
    subject, pulse = subject_of_folder(setup, folder), pulse_of(claim)
    most, wanted = setup.experiment.measure.pictures, setup.experiment.images == "png"
    undrawn, impossible = list[str](), dict[str, str]()

    def finish(name: str) -> None:
        draw.draw(folder, name, most, pulse, drawing.drawn(name, pulse))

    for name in names:
        try:
            measured = take_measure(subject, name, pulse)
        except InputError as error:
            LOG.warning("no measure %s: %s", name, error)
            impossible[name] = str(error)
            continue
        with signals.ignore_sigint():
            draw.mark_outdated(folder, name)
            folder.write_measure(name, measured.settings, measured.numbers, measured.arrays)
        count = sum(numbers is not None for numbers in measured.numbers)
        LOG.info("measured %s of %s", name, counted(count, "unit"))
        if wanted:
            drawing.measure(name, most)
            undrawn.append(name)
        while undrawn and drawing.is_ready(undrawn[0]):
            finish(undrawn.pop(0))
    for name in undrawn:
        finish(name)
    return impossible


def take_measure(subject: Subject, name: str, pulse: Progress) -> Measured:
    """A measure, in plain float32; repeated with half the batch when out of memory."""
    pulse(name, 0, len(subject.rows))
    with contextlib.closing(ProgressDisplay()) as display, precision("float32"):

        def report(name: str, done: int, total: int) -> None:
            pulse(name, done, total)
            display(name, done, total)

        return in_memory(subject, name, lambda smaller: measure(smaller, name, report))


def in_memory(subject: Subject, name: str, attempt: Callable[[Subject], Result]) -> Result:
    """What `attempt` returns for the subject; repeated with half the batch when out of memory."""
    while True:
        result = none_if_out_of_memory(partial(attempt, subject), subject.batch, subject.device)
        if result is not None:
            return result
        subject = replace(subject, batch=subject.batch // 2)
        LOG.warning(f"out of memory: {name} goes on with batch={subject.batch} images at once")


def indices_of(
    subject: Subject, metrics: Sequence[dict[str, Any]], names: Sequence[str], pulse: Progress
) -> list[dict[str, float]]:
    """Every number of every unit by its dotted name, measured without a folder."""
    for name in names:
        numbers = take_measure(subject, name, pulse).numbers
        metrics = [unit | {name: new} for unit, new in zip(metrics, numbers, strict=True)]
    return [indices_in(unit, names) for unit in metrics]


def indices_in(metrics: Mapping[str, Any], names: Sequence[str]) -> dict[str, float]:
    """Every number of a unit's entry in `metrics.json` by its dotted name, but for angles, whose
    mean over seeds says nothing (of 1 and 359 degrees it is 180)."""
    indices = {name: metrics[name] for name in RESPONSES if metrics.get(name) is not None}
    for name in names:
        indices |= flat(name, metrics.get(name))
    return {name: value for name, value in indices.items() if name not in ANGLES}


def flat(name: str, numbers: Any) -> Iterator[tuple[str, float]]:
    """Finite numbers within a measure's object, by their dotted names."""
    if isinstance(numbers, Mapping):
        for key, value in numbers.items():
            yield from flat(f"{name}.{key}", value)
    elif isinstance(numbers, (int, float)) and type(numbers) is not bool and math.isfinite(numbers):
        yield name, float(numbers)


def spread(seeds: Sequence[Sequence[Mapping[str, float]]]) -> list[dict[str, Any] | None]:
    """Mean, standard deviation and count over seeds of every index of every unit.

    seeds  of every seed, for every unit, its indices by name; the count is that of the seeds that
           have an index, and a unit without any index gets None
    """
    table: list[dict[str, Any] | None] = []
    for unit in zip(*seeds, strict=True):
        entry = {}
        for name in dict.fromkeys(name for indices in unit for name in indices):
            known = [indices[name] for indices in unit if name in indices]
            values = torch.tensor(known, dtype=torch.float64)
            mean = values.mean().item()
            deviation = values.std().item() if len(known) > 1 else None
            entry[name] = {"mean": mean, "deviation": deviation, "count": len(known)}
        table.append(entry or None)
    return table
