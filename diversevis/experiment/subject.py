"""A subject for measures, made from a prepared network and the results of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from diversevis.experiment.control import random_control
from diversevis.measures.subject import RespondOwn, Subject
from diversevis.method.alone import images_alone
from diversevis.method.response import generator_of, noise_of, respond, respond_all
from diversevis.method.result import Visualization
from diversevis.method.setup import Setup
from diversevis.runs.folder import RunFolder


def subject_of_folder(setup: Setup, folder: RunFolder) -> Subject:
    """The units of a finished run; all units of the setup, if the run has no images."""
    if folder.read_record()["n"] is None:
        return subject_without_run(setup)
    arrays, metrics = folder.read_images(), folder.read_metrics()
    return _subject(setup, arrays["units"].tolist(), metrics, arrays["images"], arrays["responses"])


def subject_of(setup: Setup, results: Sequence[Visualization]) -> Subject:
    """The units of a run that is not written to a folder."""
    units, metrics = [result.unit for result in results], [result.metrics for result in results]
    images = torch.stack([result.images for result in results])
    responses = torch.stack([result.responses for result in results])
    return _subject(setup, units, metrics, images, responses)


def subject_without_run(setup: Setup) -> Subject:
    """All units of a setup, without images."""
    return _subject(setup, setup.targets.units, None, None, None)


def _subject(
    setup: Setup,
    units: Sequence[int],
    metrics: Sequence[Mapping[str, Any]] | None,
    images: Float[Tensor, "unit image color height width"] | None,
    responses: Float[Tensor, "unit image"] | None,
) -> Subject:
    """The units with these numbers; `metrics` are their entries in `metrics.json`."""
    experiment, objective = setup.experiment, setup.experiment.objective
    row_of = {unit: row for row, unit in enumerate(setup.targets.units)}
    rows = tuple(row_of[unit] for unit in units)
    best, alive = None, (True,) * len(rows)
    weights: tuple[float | None, ...] = (objective.diversity,) * len(rows)
    if metrics is not None:
        values = [unit.get("response_best") for unit in metrics]
        best = torch.tensor([math.nan if value is None else value for value in values])
        alive = tuple(
            unit.get("stop") != "dead" and unit.get("response_mean") is not None for unit in metrics
        )
        if objective.front is not None:
            weights = tuple(unit.get("knee") for unit in metrics)  # a dead unit has no knee
    scale_of: dict[int, float | None] = {
        row: unit.get("prior_response_scale")
        for row, unit in zip(rows, metrics or (), strict=False)
    }
    sample, photographs = sampled(setup), experiment.natural
    return Subject(
        respond=partial(_respond, setup),
        respond_all=lambda batch: respond_all(replace(setup, batch=batch)),
        images_alone=lambda rows, batch: images_alone(
            replace(setup, batch=batch), rows, [scale_of.get(row) for row in rows]
        ),
        noise=lambda *draw: noise_of(setup, *draw)(),
        generator=partial(generator_of, setup),
        rows=rows, units=tuple(units), alive=alive, sampled=tuple(sample[row] for row in rows),
        images=images, responses=responses, best=best, weights=weights,
        settings=_settings(setup), seed=experiment.seed,
        norm=setup.norm, size=setup.field.size, whole_image=setup.field.is_whole_image,
        mean=setup.network.weights.mean,
        device=setup.device, batch=setup.batch,
        photographs=None if photographs is None else Path(photographs).expanduser(),
        control=partial(random_control, setup) if objective.reference is not None else None,
    )  # fmt: skip


def _respond(setup: Setup, rows: Sequence[int], batch: int) -> RespondOwn:
    index = torch.tensor(list(rows), device=setup.device)
    in_batches = replace(setup, batch=batch)
    return lambda x: respond(in_batches, x.to(setup.device), index).responses


def _settings(setup: Setup) -> dict[str, Any]:
    """Settings of every measure; gain and diversity have none, but depend on the run's."""
    experiment, objective = setup.experiment, asdict(setup.experiment.objective)
    gain = {"optimizer": asdict(experiment.optimizer), "precondition": experiment.precondition,
            "response": objective["response"]}  # fmt: skip
    return vars(experiment.measure) | {"gain": gain, "diversity": objective}


def sampled(setup: Setup) -> tuple[bool, ...]:
    """Whether a unit is in the random sample (`measure.sample`) that the slow measures take."""
    count, total = setup.experiment.measure.sample, len(setup.targets.units)
    if count is None or count >= total:
        return (True,) * total
    drawn = torch.randperm(total, generator=generator_of(setup, "sample"))[:count].tolist()
    return tuple(row in drawn for row in range(total))
