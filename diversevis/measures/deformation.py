"""Deformation: does a unit mind its images smoothly deformed as much as noise of the same size?

Relative stability `R = <(a(tau x) - a(x))^2> / <(a(x + eta) - a(x))^2>`, `|eta| = <|tau x - x|>`,
images brought back to their norm after either. Petrini, Favero, Geiger & Wyart 2021 (arXiv
2105.02468); docs/method.md, section 8.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from diversevis.errors import InputError
from diversevis.measures.checks import check_least, finite_or_none
from diversevis.measures.stimuli import at_norm
from diversevis.measures.subject import Measured, Numbers, Progress, RespondOwn, Subject, in_batches

BYTES_AT_ONCE = 2**26  # of cosines, where a large image is resampled


CURVES = "kept", "stability", "stability_error", "stability_strict", "stability_strict_error"


@dataclass(frozen=True, kw_only=True)
class Deformation:
    """Relative stability R and the share of the response that stays, against displacement.

    deltas  typical displacements, in pixels
    delta   of them, the one whose R is the unit's index
    draws   random deformations of an image, every one with its noise
    cutoff  c: highest spatial frequency of a deformation, half cycles per image, above 1
    """

    deltas: list[float]
    delta: float
    draws: int
    cutoff: float

    def __post_init__(self) -> None:
        check_least("measure.deformation", self, draws=1)
        if not 1 < self.cutoff < math.inf:
            raise InputError(f"measure.deformation.cutoff={self.cutoff} must be above 1.")
        if not self.deltas or sorted(set(self.deltas)) != self.deltas or self.deltas[0] <= 0:
            raise InputError(
                f"measure.deformation.deltas={self.deltas} must be displacements in pixels, above "
                "0, ascending: [0.25,0.5,1,2,4]."
            )
        if self.delta not in self.deltas:
            raise InputError(
                f"measure.deformation.delta={self.delta} is not one of "
                f"measure.deformation.deltas={self.deltas}."
            )

    def largest(self, size: tuple[int, int]) -> float:
        """Largest displacement, in pixels, at which deformations are still one to one
        (`T_max = 4 / (pi^3 c^2 ln c)`)."""
        return min(size) / (math.pi * self.cutoff)

    def shapes(self, image_shape: tuple[int, int, int]) -> dict[str, tuple[int, ...]]:
        """Of one unit's entry in every array of the results."""
        count = len(self.deltas)
        return dict.fromkeys(CURVES, (count,)) | {"deformed": (count, *image_shape)}

    def __call__(
        self,
        respond: RespondOwn,
        images: Float[Tensor, "unit image color height width"],
        generator: torch.Generator,
        *,
        by_rows: bool = False,
    ) -> dict[str, Tensor]:
        """Arrays [unit, delta, ...]; NaN where delta is too large for the receptive field.

        by_rows  resample images faster, with other rounding (see `deform`)

        kept                    mean response to deformed images over that to the images as they are
        stability, .._strict    R with white noise; with noise of the deformation's spectrum
        stability_.._error      standard error over deformations (jackknife)
        deformed                the unit's first image, deformed

        All units see the same deformations and noises, so that they are compared on equal terms.
        The generator is on the CPU, where it draws the same for every device.
        """
        units, n, channels, height, width = images.shape
        size, drawn = (height, width), (self.draws, n)
        shapes = self.shapes((channels, height, width))
        arrays = {name: torch.full((units, *shapes[name]), torch.nan) for name in shapes}
        fields = displacements(size, self.cutoff, drawn, generator).to(images.device)
        noise = torch.randn(*drawn, channels, *size, generator=generator).to(images.device)
        before = respond(images)
        for column, delta in enumerate(self.deltas):
            if delta > self.largest(size):
                continue
            changes = [deform(images, delta * field, by_rows=by_rows) - images for field in fields]
            for name, values in _compare(respond, images, before, changes, noise).items():
                arrays[name][:, column] = values
        return arrays


def _compare(
    respond: RespondOwn,
    images: Float[Tensor, "unit image color height width"],
    before: Float[Tensor, "unit image"],
    changes: Sequence[Float[Tensor, "unit image color height width"]],
    noise: Float[Tensor, "draw image color height width"],
) -> dict[str, Tensor]:
    """Arrays [unit, ...] of deformation, which brings `changes` (one per draw), compared with both
    noises of its size."""
    norms = torch.linalg.vector_norm(images, dim=(2, 3, 4), keepdim=True)
    sizes = torch.stack([torch.linalg.vector_norm(c, dim=(2, 3, 4)) for c in changes])
    eta = sizes.mean((0, 2))[:, None, None, None, None]  # one size per unit
    responses, squares = [], []
    for change, white in zip(changes, noise, strict=True):
        shown = [at_norm(images + x, norms) for x in (change, *noises(change, white, eta))]
        answers = torch.split(respond(torch.cat(shown, dim=1)), images.shape[1], dim=1)
        responses.append(answers[0])
        squares.append(torch.stack([(x - before).square().mean(1).cpu() for x in answers]))
    by_deformation, by_white, by_matched = torch.stack(squares, dim=2)  # [unit, draw]
    kept = torch.stack(responses).mean((0, 2)) / before.mean(1)
    stability, error = ratio_and_error(by_deformation, by_white)
    strict, strict_error = ratio_and_error(by_deformation, by_matched)
    return {
        "kept": torch.where(before.mean(1) > 0, kept, torch.nan).cpu(),
        "stability": stability,
        "stability_error": error,
        "stability_strict": strict,
        "stability_strict_error": strict_error,
        "deformed": at_norm(images[:, 0] + changes[0][:, 0], norms[:, 0]).cpu(),
    }


def displacements(
    size: tuple[int, int], cutoff: float, shape: tuple[int, ...], generator: torch.Generator
) -> Float[Tensor, "*shape 2 height width"]:
    """Smooth random fields whose typical displacement is one pixel: rows first, then columns.

    `tau(u, v) = s sqrt(T) sum C_ij sin(i pi u) sin(j pi v)` over `i, j >= 1`,
    `sqrt(i^2 + j^2) < c + 1/2`, `C_ij ~ N(0, 1 / (i^2 + j^2))`, u and v from 0 at the first pixel
    to 1 at the last; T follows from `delta = (s/2) sqrt(pi T ln c)`. The border does not move.
    """
    most = math.ceil(cutoff + 0.5)
    index = torch.arange(1, most + 1, dtype=torch.float64)
    squares = index[:, None] ** 2 + index**2
    spread = torch.where(squares.sqrt() < cutoff + 0.5, 1 / squares.sqrt(), 0)
    amplitude = 2 / math.sqrt(math.pi * math.log(cutoff))  # s sqrt(T) at delta = 1
    drawn = torch.randn((*shape, 2, most, most), generator=generator, dtype=torch.float64)
    rows, columns = (
        torch.sin(math.pi * index * torch.linspace(0, 1, side, dtype=torch.float64)[:, None])
        for side in size
    )
    return (amplitude * (rows @ (drawn * spread) @ columns.T)).float()


def deform(
    images: Float[Tensor, "unit image color height width"],
    displacement: Float[Tensor, "image 2 height width"],
    *,
    by_rows: bool = False,
) -> Float[Tensor, "unit image color height width"]:
    """Images resampled at the position of every pixel plus its displacement (pixels: row, column).

    An image is taken as the sum of cosines that passes through its pixels (its DCT-II), which is
    evaluated at the displaced positions: exact for what lies below Nyquist and is even at the
    borders, where cubic interpolation would blur. With displacement 0 it returns the image.

    by_rows  sum over the rows' cosines first: 20 times as fast for 224 x 224, rounded otherwise
    """
    evaluate = _evaluate_by_rows if by_rows else _evaluate
    height, width = images.shape[3:]
    rows, columns = (_dct(side, images.device, images.dtype) for side in (height, width))
    spectrum = rows @ images @ columns.T  # [unit, image, color, k, m]
    v = torch.arange(height, device=images.device)[:, None] + displacement[:, 0]
    u = torch.arange(width, device=images.device) + displacement[:, 1]
    moved = [
        evaluate(spectrum[:, i], v[i].flatten(), u[i].flatten()) for i in range(images.shape[1])
    ]
    return torch.unflatten(torch.stack(moved, dim=1), -1, (height, width))


def noises(
    change: Float[Tensor, "unit image color height width"],
    noise: Float[Tensor, "image color height width"],
    size: Float[Tensor, "unit 1 1 1 1"],
) -> tuple[Tensor, Tensor]:
    """`noise` (white), and noise of the spectrum of `change`, both at Euclidean norm `size`.

    The second is the stricter control: resampling a small image also blurs it, which changes some
    frequencies more than others, as white noise does not.
    """
    return at_norm(noise.expand_as(change), size), at_norm(with_random_phases(change, noise), size)


def with_random_phases(
    change: Float[Tensor, "unit image color height width"],
    noise: Float[Tensor, "image color height width"],
) -> Float[Tensor, "unit image color height width"]:
    """`change`, its Fourier phases shifted by those of the first channel of white noise: every
    colour by the same amounts, so that the amplitude spectra and the relations between the colours
    stay."""
    size = change.shape[-2], change.shape[-1]
    phases = torch.fft.rfft2(noise[:, :1])
    turns = phases / phases.abs().clamp(min=torch.finfo(noise.dtype).tiny)
    return torch.fft.irfft2(torch.fft.rfft2(change) * turns, s=size)


def ratio_and_error(
    above: Float[Tensor, "unit draw"], below: Float[Tensor, "unit draw"]
) -> tuple[Float[Tensor, " unit"], Float[Tensor, " unit"]]:
    """Ratio of the means over draws, and its standard error (jackknife over draws; NaN for one)."""
    draws = above.shape[1]
    ratio = above.mean(1) / below.mean(1)
    if draws == 1:
        return ratio, torch.full_like(ratio, torch.nan)
    without = (above.sum(1, keepdim=True) - above) / (below.sum(1, keepdim=True) - below)
    spread = (without - without.mean(1, keepdim=True)).square().sum(1)
    return ratio, (spread * (draws - 1) / draws).sqrt()


def _dct(side: int, device: torch.device, dtype: torch.dtype) -> Float[Tensor, "side side"]:
    """Pixels -> amplitudes of `cos(pi k (x + 1/2) / side)`."""
    numbers = torch.arange(side, dtype=torch.float64)
    matrix = torch.cos(math.pi * numbers[:, None] * (numbers + 0.5) / side) * (2 / side)
    matrix[0] /= 2
    return matrix.to(device, dtype)


def _evaluate(
    spectrum: Float[Tensor, "unit color k m"],
    v: Float[Tensor, " point"],
    u: Float[Tensor, " point"],
) -> Float[Tensor, "unit color point"]:
    """Sums of cosines at rows v and columns u, for a part of the points at a time."""
    height, width = spectrum.shape[2:]
    k = torch.arange(height, device=spectrum.device)
    m = torch.arange(width, device=spectrum.device)
    parts = []
    points = max(1, BYTES_AT_ONCE // (4 * height * width))
    for rows, columns in zip(torch.split(v, points), torch.split(u, points), strict=True):
        down = torch.cos((math.pi / height) * (rows[:, None] + 0.5) * k)
        across = torch.cos((math.pi / width) * (columns[:, None] + 0.5) * m)
        both = (down[:, :, None] * across[:, None, :]).flatten(1)  # [point, k m]
        parts.append(spectrum.flatten(2) @ both.T)
    return torch.cat(parts, dim=2)


def _evaluate_by_rows(
    spectrum: Float[Tensor, "unit color k m"],
    v: Float[Tensor, " point"],
    u: Float[Tensor, " point"],
) -> Float[Tensor, "unit color point"]:
    """The same sums: a point's row times the spectrum, weighted by its column."""
    units, colors, height, width = spectrum.shape
    k = torch.arange(height, device=spectrum.device)
    m = torch.arange(width, device=spectrum.device)
    parts = []
    points = max(1, BYTES_AT_ONCE // (4 * units * colors * width))
    for rows, columns in zip(torch.split(v, points), torch.split(u, points), strict=True):
        down = torch.cos((math.pi / height) * (rows[:, None] + 0.5) * k)
        across = torch.cos((math.pi / width) * (columns[:, None] + 0.5) * m)
        parts.append(((down @ spectrum) * across).sum(-1))
    return torch.cat(parts, dim=2)


def measure_deformation(subject: Subject, progress: Progress) -> Measured:
    """Relative stability of the units of the sample; their images are deformed best first."""
    settings: Deformation = subject.settings["deformation"]

    def measure_batch(batch: Subject) -> tuple[list[Numbers | None], dict[str, Tensor]]:
        images, responses = batch.of_run()
        best_first = responses.argsort(dim=1, descending=True)
        images = images[torch.arange(len(images))[:, None], best_first].to(batch.device)
        with torch.no_grad():
            generator, by_rows = batch.generator("deformation"), batch.whole_image
            arrays = settings(batch.respond_own(), images, generator, by_rows=by_rows)
        return [_unit(arrays, row, settings) for row in range(len(batch.rows))], arrays

    shown = 3 * subject.of_run()[0].shape[1]  # deformed, with white and with matched noise
    shapes = settings.shapes(subject.image_shape)
    measured = in_batches(
        "deformation", subject, subject.living_sample, shown, shapes, measure_batch, progress
    )
    measured.arrays["deltas"] = torch.tensor(settings.deltas)
    return measured


def _unit(arrays: dict[str, Tensor], row: int, settings: Deformation) -> Numbers:
    """Numbers of the unit at `row`: indices at `settings.delta`, and curves over all deltas."""
    at_delta = settings.deltas.index(settings.delta)
    deltas = [f"{delta:g}" for delta in settings.deltas]
    values = {name: [finite_or_none(x) for x in arrays[name][row].tolist()] for name in CURVES}
    return {
        **{name: values[name][at_delta] for name in CURVES[1:]},
        "delta": settings.delta,
        "kept": dict(zip(deltas, values["kept"], strict=True)),
        "stability_at": dict(zip(deltas, values["stability"], strict=True)),
        "stability_strict_at": dict(zip(deltas, values["stability_strict"], strict=True)),
    }
