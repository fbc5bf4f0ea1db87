"""Smooth deformations of every unit's images. METHOD.md section 8."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from diversevis.measures.subject import (
    Measured,
    Numbers,
    Progress,
    Subject,
    best_first,
    finite,
    nan_arrays,
    no_numbers,
)
from diversevis.method.response import generator_of


def measure_deformation(subject: Subject, progress: Progress) -> Measured:
    subject, setup, (images, _) = subject.sample(), subject.setup, subject.of_run()
    settings, count = setup.experiment.measure.deformation, len(subject.rows)
    deltas = settings.deltas
    kinds = "kept", "stability", "stability_error", "strict", "strict_error"
    arrays = nan_arrays(subject, dict.fromkeys(kinds, (len(deltas),)))
    arrays["deformed"] = torch.full((count, len(deltas), *images.shape[2:]), torch.nan)
    numbers, done = no_numbers(subject), 0
    for places in subject.parts(3 * images.shape[1]):
        order = best_first(subject, places).to(setup.device)
        with torch.no_grad():
            found = settings(subject.respond(places), order, generator_of(setup, "deformation"))
        for i, place in enumerate(places):
            for kind in kinds:
                arrays[kind][place] = getattr(found, kind)[i]
            arrays["deformed"][place] = found.examples[i]
            numbers[place] = _deformation_numbers(arrays, place, deltas, settings.delta)
        done += len(places)
        progress("deformation", done, len(subject.living))
    for error in ("", "_error"):
        arrays[f"stability_strict{error}"] = arrays.pop(f"strict{error}")
    return Measured(
        numbers, arrays | {"deltas": torch.tensor(deltas)}, dataclasses.asdict(settings)
    )


def _deformation_numbers(
    arrays: dict[str, Tensor], place: int, deltas: Sequence[float], delta: float
) -> Numbers:
    kinds = "kept", "stability", "stability_error", "strict", "strict_error"
    at = {kind: dict(zip(deltas, arrays[kind][place].tolist(), strict=True)) for kind in kinds}

    def curve(kind: str) -> Numbers:
        return {f"{d:g}": finite(value) for d, value in at[kind].items()}

    return {
        "stability": finite(at["stability"][delta]),
        "stability_error": finite(at["stability_error"][delta]),
        "stability_strict": finite(at["strict"][delta]),
        "stability_strict_error": finite(at["strict_error"][delta]),
        "delta": delta,
        "kept": curve("kept"),
        "stability_at": curve("stability"),
        "stability_strict_at": curve("strict"),
    }
