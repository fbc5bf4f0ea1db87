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

from diversevis.measures.subject import RespondOwn, Subject
from diversevis.method.alone import images_alone
from diversevis.method.response import generator_of, noise_of, respond, respond_all
from diversevis.method.setup import Setup


def make_subject(
    setup: Setup,
    units: Sequence[int],
    metrics: Sequence[Mapping[str, Any]] | None,
    images: Float[Tensor, "unit image 3 height width"] | None,
    responses: Float[Tensor, "unit image"] | None,
    sample_seed: int,
) -> Subject:
    """The units with these numbers.

    metrics      their entries in `metrics.json`; None without a run
    sample_seed  draws the sample of units that the slow measures take
    """
    experiment, objective = setup.experiment, setup.experiment.objective
    row_of = {unit: row for row, unit in enumerate(setup.targets.units)}
    rows = tuple(row_of[unit] for unit in units)
    best, alive = None, (True,) * len(rows)
    weights: tuple[float | None, ...] = (objective.diversity,) * len(rows)
    if metrics is not None:
        values = [unit["response_best"] for unit in metrics]
        best = torch.tensor([math.nan if value is None else value for value in values])
        alive = tuple(
            unit["stop"] != "dead" and unit["response_mean"] is not None for unit in metrics
        )
        if objective.front is not None:
            weights = tuple(unit.get("knee") for unit in metrics)  # a dead unit has no knee
    return Subject(
        respond=partial(_respond, setup),
        respond_all=lambda batch: respond_all(replace(setup, batch=batch)),
        images_alone=lambda rows, batch: images_alone(replace(setup, batch=batch), rows),
        noise=lambda *draw: noise_of(setup, *draw)(),
        generator=partial(generator_of, setup),
        rows=rows,
        units=tuple(units),
        alive=alive,
        sampled=_sampled(setup, rows, sample_seed),
        images=images,
        responses=responses,
        best=best,
        weights=weights,
        settings=_settings(setup),
        norm=setup.norm,
        size=setup.field.size,
        mean=setup.network.weights.mean,
        device=setup.device,
        batch=setup.batch,
        seed=experiment.seed,
        photographs=None if experiment.natural is None else Path(experiment.natural).expanduser(),
        pictures=experiment.measure.pictures if experiment.images == "png" else None,
    )


def _respond(setup: Setup, rows: Sequence[int], batch: int) -> RespondOwn:
    index = torch.tensor(list(rows), device=setup.device)
    in_batches = replace(setup, batch=batch)
    return lambda x: respond(in_batches, x.to(setup.device), index).responses


def _settings(setup: Setup) -> dict[str, Any]:
    """Settings of every measure; gain and diversity have none, but depend on the run's."""
    experiment = setup.experiment
    objective = asdict(experiment.objective)
    gain = {
        "optimizer": asdict(experiment.optimizer),
        "precondition": experiment.precondition,
        "response": objective["response"],
    }
    return vars(experiment.measure) | {"gain": gain, "diversity": objective}


def _sampled(setup: Setup, rows: Sequence[int], seed: int) -> tuple[bool, ...]:
    """Whether a row is in the random sample (`measure.sample`) that the slow measures take."""
    count, total = setup.experiment.measure.sample, len(setup.targets.units)
    if count is None or count >= total:
        return (True,) * len(rows)
    seeded = replace(setup, experiment=replace(setup.experiment, seed=seed))
    drawn = torch.randperm(total, generator=generator_of(seeded, "sample"))[:count].tolist()
    return tuple(row in drawn for row in rows)
