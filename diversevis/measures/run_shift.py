"""The texture test under both masks. METHOD.md section 8."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from diversevis.measures.shift import Texture
from diversevis.measures.subject import (
    Measured,
    Numbers,
    Progress,
    Subject,
    best_of,
    nan_arrays,
    no_numbers,
    share,
)
from diversevis.method.response import generator_of, noise_of


def measure_shift(subject: Subject, progress: Progress) -> Measured:
    subject, setup = subject.sample(), subject.setup
    settings, size = setup.experiment.measure.shift, setup.field.size
    names = {
        "texture": (3, *(2 * side - 1 for side in size)), "map": tuple(side - 1 for side in size),
        "mask": size, "masked": (3, *size), "best_masked": (),
    }  # fmt: skip
    kinds = ("fixed", "learned")
    arrays = nan_arrays(subject, {f"{n}_{k}": shape for k in kinds for n, shape in names.items()})
    arrays["best"] = torch.full((len(subject.rows),), torch.nan)
    numbers, done = no_numbers(subject), 0
    if min(size) < 2:  # a texture needs more than one shift
        return Measured(numbers, {}, dataclasses.asdict(settings))
    crops = math.prod(side - 1 for side in size)
    for places in subject.parts(min(crops, settings.crops or crops)):
        best = best_of(subject, places)
        found = {kind: _texture(subject, places, kind) for kind in kinds}
        for i, place in enumerate(places):
            arrays["best"][place] = best[i]
            for kind, one in found.items():
                values = one.texture, one.responses, one.mask, one.masked, one.masked_response
                for name, value in zip(names, values, strict=True):
                    arrays[f"{name}_{kind}"][place] = value[i]
            numbers[place] = _shift_numbers(found, i, best[i].item())
        done += len(places)
        progress("shift", done, len(subject.living))
    if subject.living:
        arrays["mask_fixed"] = arrays["mask_fixed"][subject.living[0]]
    return Measured(numbers, arrays, dataclasses.asdict(settings))


def _texture(subject: Subject, places: Sequence[int], kind: str) -> Texture:
    setup, device = subject.setup, subject.setup.device

    def noise(count: int, size: tuple[int, int]) -> Tensor:
        units = [subject.units[place] for place in places]
        purpose = f"shift/{kind}/{size}"
        return torch.stack([noise_of(setup, unit, purpose, count, size)() for unit in units])

    return setup.experiment.measure.shift(
        subject.respond(places),
        subject.best_images(places).to(device),
        noise,
        setup.norm,
        generator_of(setup, f"shift/{kind}/crops"),
        learned=kind == "learned",
    )


def _shift_numbers(found: dict[str, Texture], row: int, best: float) -> Numbers:
    def indices(one: Texture) -> Numbers:
        mean, least = one.responses[row].mean().item(), one.responses[row].min().item()
        masked = one.masked_response[row].item()
        return {
            "mean": share(mean, best), "min": share(least, best),
            "mean_masked": share(mean, masked), "min_masked": share(least, masked),
        }  # fmt: skip

    learned = found["learned"]
    shape = {name: getattr(learned, name)[row].item() for name in ("p", "q", "sigma")}
    return indices(found["fixed"]) | {"learned": indices(learned) | shape}
