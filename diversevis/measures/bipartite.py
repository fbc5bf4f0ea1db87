"""Bipartite fields: how much of a unit's best image may be exchanged for a shifting texture?

Ding et al. 2026 (Nature Neuroscience, s41593-026-02213-3) describe units with a fixed subfield and
one that accepts any crop of a texture. How the curve is measured here is ours: docs/method.md,
section 10.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from diversevis.errors import InputError
from diversevis.measures.checks import check_least
from diversevis.measures.half_planes import (
    PARTIAL,
    SHARES,
    TENTHS,
    at_least,
    boundary_of,
    fitted_share,
    index_of,
    knee_of,
    middle_of_best,
    side_of,
)
from diversevis.measures.partial_images import COARSE, COARSE_TURNS, Choice, PartialImages
from diversevis.measures.stimuli import at_norm
from diversevis.measures.subject import Measured, Numbers, Progress, Subject, in_batches
from diversevis.measures.textures import Torus

ARRAYS = (
    "curve", "contrast", "best_image", "mask", "fixed", "texture", "examples",
    "example_responses", "best",
)  # fmt: skip
LEAST_SHARE, MOST_SHARE = 0.05, 0.9  # beyond, a side has no meaning
EXAMPLES = 8  # images of the boundary that are kept
LEAST_MEANING = 0.02  # of a side: below, the opposite side would do as well
MISFIT = 0.08  # of the model of a bipartite unit, above which its share says little


@dataclass(frozen=True, kw_only=True)
class Bipartite:
    """The curve of response against the share of the best image's energy that varies.

    steps       of the texture under the whole envelope; half as many improve it at the boundary
    crops       of the texture in a step
    shown       crops of which the curve is the mean
    directions  of the half-planes, over a turn; even
    """

    steps: int
    crops: int
    shown: int
    directions: int

    def __post_init__(self) -> None:
        check_least("measure.bipartite", self, steps=2, crops=2, shown=EXAMPLES, directions=4)
        if self.directions % 2:
            raise InputError(
                f"measure.bipartite.directions={self.directions} must be even: every side is "
                "compared with the opposite side."
            )


def measure_bipartite(subject: Subject, progress: Progress) -> Measured:
    """How much of the best image may vary, and on which side, of the units of the sample."""
    settings: Bipartite = subject.settings["bipartite"]
    if math.prod(subject.size) < 2:  # a single pixel has no sides
        return Measured([None] * len(subject.rows), {}, asdict(settings))
    height, width = subject.size
    rows, columns = Torus(height, width).texture_size
    kept = min(EXAMPLES, rows * columns)  # crops, of which the smallest fields have few
    shapes: dict[str, tuple[int, ...]] = {
        "curve": (len(SHARES),), "contrast": (len(SHARES),), "best_image": subject.image_shape,
        "mask": subject.size, "fixed": subject.size, "texture": (len(subject.mean), rows, columns),
        "examples": (kept, *subject.image_shape), "example_responses": (kept,),
        "best": (),
    }  # fmt: skip

    def measure_batch(batch: Subject) -> tuple[list[Numbers | None], dict[str, Tensor]]:
        return _measure(batch, settings)

    at_once = max(settings.shown, COARSE * len(COARSE_TURNS) * settings.directions)
    measured = in_batches(
        "bipartite", subject, subject.living_sample, at_once, shapes, measure_batch, progress
    )
    measured.arrays["energy_shares"] = torch.tensor(SHARES)
    return measured


class Search:
    """Finds the textures, and for every share the images with the highest mean response."""

    def __init__(self, settings: Bipartite, images: PartialImages) -> None:
        self.settings, self.images = settings, images

    def __call__(self, noise: Callable[[tuple[int, int]], Tensor]) -> dict[str, Tensor]:
        """Arrays [unit, ...]; `noise` as for `PartialImages.full_texture`.

        curve         mean response to images with every share of `SHARES`, relative to the best
        contrast      response to the best image with its energy reduced by these shares, likewise
        by_direction  the same by the direction of the half-plane, for the shares of `TENTHS`, of
                      fewer images
        share         of the boundary: of the fitted share and all larger ones, that with the
                      highest response
        direction     of its half-plane: index
        fixed         what stays there; texture, and responses to its crops; examples: images
        """
        images, settings = self.images, self.settings
        first = images.full_texture(noise, settings.steps)
        with torch.no_grad():
            by_direction = images.by_direction(first)
            directions = middle_of_best(by_direction)
            tenths = [
                images.choose(first, 0, share, directions[:, at]) for at, share in enumerate(TENTHS)
            ]
            contrast = images.contrast(torch.tensor(SHARES)) / images.best[:, None]
            values = [one.value for one in tenths]
            share, choice = self._boundary(TENTHS, tenths, values, contrast[:, ::2])
        second = images.improve(first, share, choice, max(1, settings.steps // 2))
        with torch.no_grad():
            # In the boundary's direction: far above its share, few crops do not tell the direction.
            choices = [images.choose(second, 1, k, choice.direction) for k in PARTIAL]
            for at, tenth in enumerate(tenths):
                choices[2 * at + 1] = choices[2 * at + 1].better(tenth)
            textures = torch.stack([first, second], dim=1)
            means = [
                self._mean(textures, share, choice)
                for share, choice in zip(PARTIAL, choices, strict=True)
            ]
            share, choice = self._boundary(PARTIAL, choices, means, contrast)
            responses, shown = images.chosen(textures, share, choice, settings.shown)
        rows = torch.arange(images.units, device=share.device)
        return {
            "curve": torch.stack([images.best, *means], dim=1) / images.best[:, None],
            "contrast": contrast,
            "by_direction": by_direction / images.best[:, None, None],
            "share": share, "direction": choice.direction, "responses": responses,
            "fixed": images.half_planes(choice.direction, share)[:, 0],
            "texture": self._at_contrast(textures[rows, choice.texture]),
            "examples": shown[:, :EXAMPLES],
        }  # fmt: skip

    def _at_contrast(self, texture: Tensor) -> Tensor:
        """The texture with the RMS contrast of an image of the norm."""
        pixels = texture[0].numel() / self.images.x[0].numel()
        return at_norm(texture, self.images.norm * math.sqrt(pixels))

    def _mean(self, textures: Tensor, share: float, choice: Choice) -> Float[Tensor, " unit"]:
        """Mean response to many crops, none counted as more than the best, or the response without
        a variable part if it is higher."""
        responses, _ = self.images.chosen(textures, share, choice, self.settings.shown)
        mean = torch.minimum(responses, self.images.best[:, None]).mean(1)
        return (
            mean if share == 1 else torch.maximum(mean, self.images.alone(share, choice.direction))
        )

    def _boundary(
        self,
        shares: Sequence[float],
        choices: Sequence[Choice],
        means: Sequence[Tensor],
        contrast: Float[Tensor, "unit share"],
    ) -> tuple[Float[Tensor, " unit"], Choice]:
        """For every unit, of the share that the model of a bipartite unit fits best and all larger
        ones, that with the highest response; and the choice."""
        curves = torch.stack([self.images.best, *means], dim=1) / self.images.best[:, None]
        grid, indices = torch.tensor([0.0, *shares]), []
        for curve, of_contrast in zip(curves.cpu(), contrast.cpu(), strict=True):
            fitted, *_ = fitted_share(grid, at_least(curve), of_contrast)
            near = int((grid[1:] - fitted).abs().argmin())
            indices.append(near + int(curve[1 + near :].argmax()))
        at, rows = torch.tensor(indices), range(len(indices))
        chosen = [
            torch.stack([values[at[row]][row] for row in rows])
            for values in zip(*choices, strict=True)
        ]
        return torch.tensor(shares)[at].to(self.images.x.device), Choice(*chosen)


def _measure(batch: Subject, settings: Bipartite) -> tuple[list[Numbers | None], dict[str, Tensor]]:
    """Numbers and arrays of the units of a batch."""

    def noise(size: tuple[int, int]) -> Tensor:
        return torch.cat([batch.noise(unit, "bipartite", 1, size) for unit in batch.units])

    images = PartialImages(
        batch.respond_own(), batch.best_images().to(batch.device), batch.norm,
        directions_of_half_planes=settings.directions, crops=settings.crops,
        generator=batch.generator("bipartite"),
    )  # fmt: skip
    arrays = {name: values.cpu() for name, values in Search(settings, images)(noise).items()}
    arrays |= {"best": images.best.cpu(), "best_image": images.x.cpu(), "mask": images.mask.cpu()}
    arrays["example_responses"] = arrays["responses"][:, :EXAMPLES]
    numbers = [
        _unit({name: values[row] for name, values in arrays.items()}, images.angles)
        for row in range(images.units)
    ]
    for row, unit in enumerate(numbers):
        if unit is None:
            for name in ARRAYS:
                arrays[name][row] = torch.nan
    return numbers, {name: arrays[name] for name in ARRAYS}


def _unit(arrays: dict[str, Tensor], angles: Float[Tensor, " direction"]) -> Numbers | None:
    """Numbers of a unit; None where its best response is not above 0."""
    shares, curve, by_direction = torch.tensor(SHARES), arrays["curve"], arrays["by_direction"]
    if not arrays["best"] > 0 or not bool(curve.isfinite().all()):
        return None
    falling = at_least(curve)
    share, kept, misfit = fitted_share(shares, falling, arrays["contrast"])
    at, direction = SHARES.index(round(20 * arrays["share"].item()) / 20), int(arrays["direction"])
    meaning = _meaning(by_direction, (at - 1) // 2, direction)
    angle = angles[direction].item()
    side = side_of(arrays["best_image"], arrays["fixed"])
    two_sided = side is not None and meaning >= LEAST_MEANING and LEAST_SHARE < share < MOST_SHARE
    half = TENTHS.index(0.5)
    return {
        "index": index_of(shares, curve),
        "index_at_least": index_of(shares, falling),
        "index_contrast": index_of(shares, arrays["contrast"]),
        "share": share,
        "kept": kept,
        "boundary": SHARES[at],
        "misfit": misfit,
        "knee": knee_of(shares, falling),
        "dip": (falling - curve).max().item(),
        "full": curve[-1].item(),
        "side": side if two_sided else None,
        "position": boundary_of(arrays["fixed"], angle) if two_sided else None,
        "side_meaning": meaning,
        "side_meaning_half": _meaning(by_direction, half, int(by_direction[half].argmax())),
        "mean": (arrays["responses"].clamp(max=arrays["best"]).mean() / arrays["best"]).item(),
        "min": (arrays["responses"].min() / arrays["best"]).item(),
        "weak": misfit > MISFIT,
    }


def _meaning(by_direction: Float[Tensor, "share direction"], at: int, direction: int) -> float:
    """Response to half-planes in a direction minus that in the opposite, relative to the best."""
    values = by_direction[at]
    opposite = (direction + len(values) // 2) % len(values)
    return (values[direction] - values[opposite]).item()
