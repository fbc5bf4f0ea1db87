"""Gain: what optimizing images together adds to images that are optimized without diversity.

`gain = distance of the batch - distance of n images alone` (smallest and mean over pairs, RMS grey
levels), and the ratio of the mean responses. The images alone start from other noise and have the
same steps and norm. docs/method.md, section 8.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from diversevis.measures.checks import finite_or_none, ratio_or_none
from diversevis.measures.diversity import distance_matrix
from diversevis.measures.subject import Measured, Numbers, Progress, Subject, in_batches


def measure_gain(subject: Subject, progress: Progress) -> Measured:
    """Images without diversity of every unit, and the batch compared with them."""
    images, responses = subject.of_run()

    def measure_batch(batch: Subject) -> tuple[list[Numbers | None], dict[str, Tensor]]:
        together = list(zip(*batch.of_run(), strict=True))
        alone = batch.images_alone(batch.rows, batch.batch)
        numbers = [
            None if unit_alone is None else gain_numbers(*unit_together, *unit_alone)
            for unit_together, unit_alone in zip(together, alone, strict=True)
        ]
        # A unit may lose its gradient from the other noise alone: it has no images, that is NaN.
        nothing = torch.full_like(images[0], torch.nan), torch.full_like(responses[0], torch.nan)
        images_alone, responses_alone = zip(*(pair or nothing for pair in alone), strict=True)
        arrays = {"images": torch.stack(images_alone), "responses": torch.stack(responses_alone)}
        return numbers, arrays

    shapes = {"images": images.shape[1:], "responses": responses.shape[1:]}
    n = images.shape[1]
    return in_batches("gain", subject, subject.living, n, shapes, measure_batch, progress)


def gain_numbers(
    images: Float[Tensor, "image color height width"],
    responses: Float[Tensor, " image"],
    images_alone: Float[Tensor, "image color height width"],
    responses_alone: Float[Tensor, " image"],
) -> Numbers:
    """Distances and response of a unit's batch beside those of its images alone."""
    first, second = torch.triu_indices(len(images), len(images), 1)
    pairs, alone = (distance_matrix(x[None])[0][first, second] for x in (images, images_alone))
    mean, mean_alone = responses.mean().item(), responses_alone.mean().item()
    numbers: Numbers = {}
    for name, reduce in (("min", torch.amin), ("mean", torch.mean)):
        distance, distance_alone = (
            reduce(values).item() if len(values) else math.nan for values in (pairs, alone)
        )
        numbers[f"distance_{name}"] = finite_or_none(distance - distance_alone)
        numbers[f"distance_{name}_alone"] = finite_or_none(distance_alone)
    numbers["response"] = ratio_or_none(mean, mean_alone)
    numbers["response_mean_alone"] = mean_alone
    return numbers
