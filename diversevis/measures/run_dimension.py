"""Participation ratio and paths. METHOD.md section 8."""

from __future__ import annotations

import dataclasses

import torch

from diversevis.measures import dimension as dimensions
from diversevis.measures.subject import Measured, Progress, Subject, nan_arrays, no_numbers


def measure_dimension(subject: Subject, progress: Progress) -> Measured:
    setup, (images, _) = subject.setup, subject.of_run()
    settings, n = setup.experiment.measure.dimension, images.shape[1]
    pairs = n * (n - 1) // 2
    arrays = nan_arrays(subject, {"paths": (pairs, settings.points), "spectrum": (n,)})
    numbers, done = no_numbers(subject), 0
    for places in subject.parts(settings.points):
        with torch.no_grad():
            own = images[places].to(setup.device)
            paths = settings.paths(subject.respond(places), own)
        smallest = dimensions.smallest_along(paths)
        for i, place in enumerate(places):
            ratio, spectrum = dimensions.participation(images[place : place + 1])
            arrays["paths"][place], arrays["spectrum"][place] = paths.responses[i], spectrum[0]
            known = smallest[i][~smallest[i].isnan()]
            numbers[place] = {
                "participation": ratio.item(),
                "path_min": known.min().item() if len(known) else None,
                "path_mean": known.mean().item() if len(known) else None,
                "groups": settings.groups(paths, i, n) if len(known) or n == 1 else None,
            }
        done += len(places)
        progress("dimension", done, len(subject.living))
    arrays["pairs"] = torch.triu_indices(n, n, 1).T
    return Measured(numbers, arrays, dataclasses.asdict(settings))
