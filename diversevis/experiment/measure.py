"""The measures of a run: its folder read, its units measured, numbers and pictures written back."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import logging
import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from diversevis.errors import InputError
from diversevis.experiment.progress import Progress
from diversevis.measures.catalogue import measure
from diversevis.measures.subject import Measured, Subject
from diversevis.method.device import is_out_of_memory
from diversevis.method.setup import Setup
from diversevis.method.visualize import Visualization
from diversevis.photographs.files import names_and_sizes
from diversevis.pictures import draw
from diversevis.runs import signals
from diversevis.runs.folder import RunFolder
from diversevis.runs.lease import Claim

LOG = logging.getLogger("diversevis")

# Beside the measures, what a seed may change of a unit.
RESPONSES = ("response_mean", "response_min", "response_best", "distance_min", "distance_mean",
             "distance_pixels_min", "distance_pixels_mean")  # fmt: skip


def possible(names: Sequence[str], folder: str | None) -> list[str]:
    """Those of the measures that can be taken: natural exemplars need photographs.

    Raises `InputError` where there is such a folder, but without photographs.
    """
    if "natural" not in names:
        return list(names)
    if folder is None:
        LOG.warning("no natural exemplars: they need a folder of photographs, natural=FOLDER")
        return [name for name in names if name != "natural"]
    names_and_sizes(Path(folder).expanduser(), "natural")
    return list(names)


def pulse_of(claim: Claim) -> Callable[[str, int, int], None]:
    """Between two batches of a measure: a sign, and a way out where one is asked."""

    def pulse(name: str, done: int, total: int) -> None:
        claim.progress = {"phase": name, "done": done, "units": total}
        claim.check()
        signals.check()

    return pulse


def subject_of_folder(setup: Setup, folder: RunFolder) -> Subject:
    """The units of a run that is done."""
    arrays, metrics = folder.read_images(), folder.read_metrics()
    known = {unit: row for row, unit in enumerate(setup.targets.units)}
    best = [one["response_best"] for one in metrics]
    return Subject(
        setup=setup,
        rows=tuple(known[unit] for unit in arrays["units"].tolist()),
        alive=tuple(_is_alive(one) for one in metrics),
        images=arrays["images"],
        responses=arrays["responses"],
        best=torch.tensor([math.nan if value is None else value for value in best]),
        knees=_knees(setup, metrics),
    )


def subject_of(
    setup: Setup, done: Sequence[Visualization], sample_seed: int | None = None
) -> Subject:
    """The units of a run that was not written.

    sample_seed  of the run whose sample of units is taken, if it had another seed
    """
    known = {unit: row for row, unit in enumerate(setup.targets.units)}
    best = [one.metrics["response_best"] for one in done]
    return Subject(
        setup=setup,
        rows=tuple(known[one.unit] for one in done),
        alive=tuple(_is_alive(one.metrics) for one in done),
        images=torch.stack([one.images for one in done]),
        responses=torch.stack([one.responses for one in done]),
        best=torch.tensor([math.nan if value is None else value for value in best]),
        knees=_knees(setup, [one.metrics for one in done]),
        sample_seed=sample_seed,
    )


def subject_without_run(setup: Setup) -> Subject:
    """All units of a setting, of which nothing is known."""
    count = len(setup.targets.units)
    return Subject(
        setup=setup,
        rows=tuple(range(count)),
        alive=(True,) * count,
        images=None,
        responses=None,
        best=None,
    )


def measure_folder(
    subject: Subject,
    folder: RunFolder,
    names: Sequence[str],
    pulse: Callable[[str, int, int], None],
) -> dict[str, str]:
    """Take the measures one after the other; each is written when it is done.

    pulse  told of a measure, and how many of how many units it has done; may raise

    A measure that cannot be taken says so, and the rest goes on. Returns why, by its name.
    """
    impossible: dict[str, str] = {}
    for name in names:
        pulse(name, 0, len(subject.rows))
        with contextlib.closing(Progress()) as progress:

            def tell(name: str, done: int, total: int) -> None:
                pulse(name, done, total)
                progress(name, done, total)

            try:
                found = _measure(subject, name, tell)
            except InputError as error:
                LOG.warning("no measure %s: %s", name, error)
                impossible[name] = str(error)
                continue
        with undisturbed():
            draw.forget(folder, name)
            folder.write_measure(name, found.settings, found.numbers, found.arrays)
        if subject.setup.experiment.images == "png":
            draw.draw(folder, name, subject.setup.experiment.measure.pictures, pulse)
        left_out = sum(one is None for one in found.numbers)
        LOG.info("measured %s of %d units", name, len(found.numbers) - left_out)
    return impossible


def _measure(subject: Subject, name: str, progress: Callable[[str, int, int], None]) -> Measured:
    """With fewer images at once where they do not fit in memory."""
    while True:
        try:
            return measure(subject, name, progress)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or subject.setup.batch == 1:
                raise
        gc.collect()
        if subject.setup.device.type == "cuda":
            torch.cuda.empty_cache()
        half = dataclasses.replace(subject.setup, batch=subject.setup.batch // 2)
        LOG.warning("out of memory: %s goes on with batch=%d images at once", name, half.batch)
        subject = dataclasses.replace(subject, setup=half)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Ctrl-C waits until what there is has been written."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def indices_of(
    subject: Subject,
    metrics: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    pulse: Callable[[str, int, int], None],
) -> list[dict[str, float]]:
    """Every number of every unit by its dotted name, measured without a folder."""
    found = [indices_in(one, ()) for one in metrics]
    for name in names:
        pulse(name, 0, len(subject.rows))
        with contextlib.closing(Progress()) as progress:
            for own, numbers in zip(found, _measure(subject, name, progress).numbers, strict=True):
                own |= dict(flat(name, numbers))
    return found


def indices_in(metrics: Mapping[str, Any], names: Sequence[str]) -> dict[str, float]:
    """Every number of a unit's entry in `metrics.json` by its dotted name."""
    found = {name: metrics[name] for name in RESPONSES if metrics.get(name) is not None}
    for name in names:
        found |= flat(name, metrics.get(name))
    return found


def flat(name: str, numbers: Any) -> Iterator[tuple[str, float]]:
    """Finite numbers within a measure's object, by their dotted names."""
    if isinstance(numbers, Mapping):
        for key, value in numbers.items():
            yield from flat(f"{name}.{key}", value)
    elif isinstance(numbers, (int, float)) and type(numbers) is not bool and math.isfinite(numbers):
        yield name, float(numbers)


def spread(seeds: Sequence[Sequence[Mapping[str, float]]]) -> list[dict[str, Any] | None]:
    """Of every unit: mean, standard deviation and count over seeds of every index.

    seeds  for every seed, for every unit, its indices by name; an index that some seeds lack is the
           others', and its count says so. None for a unit without any.
    """
    found: list[dict[str, Any] | None] = []
    for unit in zip(*seeds, strict=True):
        names = dict.fromkeys(name for one in unit for name in one)
        table = {}
        for name in names:
            values = torch.tensor([one[name] for one in unit if name in one], dtype=torch.float64)
            deviation = values.std().item() if len(values) > 1 else None
            table[name] = {
                "mean": values.mean().item(), "deviation": deviation, "count": len(values)
            }  # fmt: skip
        found.append(table or None)
    return found


def seeds_of(setup: Setup) -> list[Setup]:
    """The same work with the further seeds that `seeds=` asks for."""
    experiment = setup.experiment
    return [
        dataclasses.replace(
            setup, experiment=dataclasses.replace(experiment, seed=experiment.seed + k)
        )
        for k in range(1, experiment.seeds)
    ]


def _knees(setup: Setup, metrics: Sequence[Mapping[str, Any]]) -> tuple[float | None, ...] | None:
    if setup.experiment.objective.front is None:
        return None
    return tuple(one.get("knee") for one in metrics)


def _is_alive(metrics: Mapping[str, Any]) -> bool:
    return metrics["stop"] != "dead" and metrics["response_mean"] is not None
