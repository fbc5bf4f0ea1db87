"""Gratings, shown to a whole layer at once. METHOD.md section 8."""

from __future__ import annotations

import dataclasses

import torch

from diversevis.measures import phase, stimuli
from diversevis.measures.subject import Measured, Progress, Subject, nan_arrays, no_numbers, quietly
from diversevis.method.response import LookingAtAll


def measure_phase(subject: Subject, progress: Progress) -> Measured:
    setup = subject.setup
    settings, size, device = setup.experiment.measure.phase, setup.field.size, setup.device
    found = settings.search(LookingAtAll(setup), size, setup.norm, device)
    shown = {"tuning": settings.phases, "grating": (3, *size)}
    arrays = nan_arrays(subject, shown)
    if subject.images is not None:
        arrays |= nan_arrays(subject, {f"fitted_{name}": shape for name, shape in shown.items()})
    numbers, done = no_numbers(subject), 0
    for places in subject.parts(settings.phases):
        rows = torch.tensor([subject.rows[place] for place in places])
        tuned = settings.best(quietly(subject.respond(places)), found, rows, size, setup.norm,
                              device)  # fmt: skip
        fitted = None
        if subject.images is not None:
            best = subject.best_images(places)
            fitted = settings.fitted(quietly(subject.respond(places)), best, setup.norm, device)
        for i, place in enumerate(places):
            row = subject.rows[place]
            facts = found.largest[row].item(), bool(found.varies[row])
            arrays["tuning"][place], arrays["grating"][place] = (
                tuned.responses[i],
                tuned.gratings[i],
            )
            own = phase.numbers(tuned, i, *facts)
            if fitted is not None:
                arrays["fitted_tuning"][place] = fitted.responses[i]
                arrays["fitted_grating"][place] = fitted.gratings[i]
            if own is not None:
                own["color"] = phase.color_name(own["color"])
                own["fitted"] = phase.numbers(fitted, i, *facts) if fitted is not None else None
            numbers[place] = own
        done += len(places)
        progress("phase", done, len(subject.living))
    arrays |= {
        "map": found.strength[list(subject.rows)],
        "frequencies": found.frequencies,
        "orientations": found.orientations,
        "phases": stimuli.phases(settings.phases),
    }
    return Measured(numbers, arrays, dataclasses.asdict(settings))
