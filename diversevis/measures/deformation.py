"""Deformation: does a unit mind its images smoothly deformed as much as noise of the same size?

Relative stability `R = <(a(tau x) - a(x))^2> / <(a(x + eta) - a(x))^2>`, `|eta| = <|tau x - x|>`,
images brought back to their norm after either. Petrini, Favero, Geiger & Wyart 2021 (arXiv
2105.02468); docs/method.md, section 8.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from diversevis.errors import InputError
from diversevis.measures.subject import (
    BatchResult,
    Measured,
    Numbers,
    Progress,
    RespondOwn,
    Subject,
    check_least,
    finite_or_none,
    in_batches,
)

BYTES_AT_ONCE = 2**26  # of cosines, where a large image is resampled


@dataclass(frozen=True, kw_only=True)
class Deformed:
    """Results for every displacement; NaN where it is too large for the receptive field.

    kept                    mean response to deformed images over that to the images as they are
    stability, .._strict    R with white noise; with noise of the deformation's spectrum
    stability_.._error      standard error over deformations (jackknife)
    deformed                the unit's first image, deformed
    """

    kept: Float[Tensor, "unit delta"]
    stability: Float[Tensor, "unit delta"]
    stability_error: Float[Tensor, "unit delta"]
    stability_strict: Float[Tensor, "unit delta"]
    stability_strict_error: Float[Tensor, "unit delta"]
    deformed: Float[Tensor, "unit delta 3 height width"]


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

    def __call__(
        self,
        respond: RespondOwn,
        images: Float[Tensor, "unit image 3 height width"],
        generator: torch.Generator,
    ) -> Deformed:
        """The same deformations and noises for all units, so that they are compared on equal terms.

        generator  on the CPU: it draws the same on every device
        """
        units, n, _, height, width = images.shape
        curves = {
            field.name: torch.full((units, len(self.deltas)), torch.nan)
            for field in dataclasses.fields(Deformed)
        }
        curves["deformed"] = torch.full((units, len(self.deltas), 3, height, width), torch.nan)
        shape = (self.draws, n)
        fields = displacements((height, width), self.cutoff, shape, generator).to(images.device)
        noise = torch.randn(*shape, 3, height, width, generator=generator).to(images.device)
        before = respond(images)
        for column, delta in enumerate(self.deltas):
            if delta > self.largest((height, width)):
                continue
            kept, squares, deformed = self._at(respond, images, before, delta * fields, noise)
            curves["kept"][:, column], curves["deformed"][:, column] = kept, deformed.cpu()
            for name, control in (("stability", squares[1]), ("stability_strict", squares[2])):
                ratio, error = ratio_and_error(squares[0], control)
                curves[name][:, column], curves[f"{name}_error"][:, column] = ratio, error
        return Deformed(**curves)

    def _at(
        self,
        respond: RespondOwn,
        images: Float[Tensor, "unit image 3 height width"],
        before: Float[Tensor, "unit image"],
        fields: Float[Tensor, "draw image 2 height width"],
        noise: Float[Tensor, "draw image 3 height width"],
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        """Share of the response that stays [unit]; mean squared change by deformation, white noise
        and spectrum-matched noise, all [unit, draw]; the first image deformed."""
        norms = torch.linalg.vector_norm(images, dim=(2, 3, 4), keepdim=True)
        changes = [deform(images, field) - images for field in fields]
        sizes = torch.stack([torch.linalg.vector_norm(c, dim=(2, 3, 4)) for c in changes])
        eta = sizes.mean((0, 2))[:, None, None, None, None]  # one size per unit
        responses, squares = [], []
        for change, white in zip(changes, noise, strict=True):
            shown = [images + added for added in (change, *noises(change, white, eta))]
            shown = [
                x * (norms / torch.linalg.vector_norm(x, dim=(2, 3, 4), keepdim=True))
                for x in shown
            ]
            answers = torch.split(respond(torch.cat(shown, dim=1)), images.shape[1], dim=1)
            responses.append(answers[0])
            squares.append([(answer - before).square().mean(1).cpu() for answer in answers])
        kept = torch.stack(responses).mean((0, 2)) / before.mean(1)
        first = images[:, 0] + changes[0][:, 0]
        first = first * (norms[:, 0] / torch.linalg.vector_norm(first, dim=(1, 2, 3), keepdim=True))
        kept = torch.where(before.mean(1) > 0, kept, torch.nan).cpu()
        return kept, [torch.stack(draws, dim=1) for draws in zip(*squares, strict=True)], first


def displacements(
    size: tuple[int, int],
    cutoff: float,
    shape: tuple[int, ...],
    generator: torch.Generator,
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
    images: Float[Tensor, "unit image 3 height width"],
    displacement: Float[Tensor, "image 2 height width"],
) -> Float[Tensor, "unit image 3 height width"]:
    """Images resampled at the position of every pixel plus its displacement (pixels: row, column).

    An image is taken as the sum of cosines that passes through its pixels (its DCT-II), which is
    evaluated at the displaced positions: exact for what lies below Nyquist and is even at the
    borders, where cubic interpolation would blur. With displacement 0 it returns the image.
    """
    height, width = images.shape[3:]
    rows, columns = (_dct(side, images.device, images.dtype) for side in (height, width))
    spectrum = rows @ images @ columns.T  # [unit, image, 3, k, l]
    v = torch.arange(height, device=images.device)[:, None] + displacement[:, 0]
    u = torch.arange(width, device=images.device) + displacement[:, 1]
    moved = [
        _evaluate(spectrum[:, i], v[i].flatten(), u[i].flatten()) for i in range(images.shape[1])
    ]
    return torch.unflatten(torch.stack(moved, dim=1), -1, (height, width))


def noises(
    change: Float[Tensor, "unit image 3 height width"],
    noise: Float[Tensor, "image 3 height width"],
    size: Float[Tensor, "unit 1 1 1 1"],
) -> tuple[Tensor, Tensor]:
    """White noise, and noise of the spectrum of `change`, both of Euclidean norm `size`.

    noise  white, of any norm

    The second is the stricter control: resampling a small image also blurs it, which changes some
    frequencies more than others, as white noise does not.
    """
    white, matched = (
        x * (size / torch.linalg.vector_norm(x, dim=(2, 3, 4), keepdim=True))
        for x in (noise.expand_as(change), with_random_phases(change, noise))
    )
    return white, matched


def with_random_phases(
    change: Float[Tensor, "unit image 3 height width"],
    noise: Float[Tensor, "image 3 height width"],
) -> Float[Tensor, "unit image 3 height width"]:
    """`change` with random Fourier phases: every colour by the same amounts, so that the amplitude
    spectra and the relations between the colours stay.

    noise  white; the phases of its first channel are added
    """
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
    k = torch.arange(side, dtype=torch.float64)[:, None]
    x = torch.arange(side, dtype=torch.float64)
    matrix = torch.cos(math.pi * k * (x + 0.5) / side) * (2 / side)
    matrix[0] /= 2
    return matrix.to(device, dtype)


def _evaluate(
    spectrum: Float[Tensor, "unit 3 k l"],
    v: Float[Tensor, " point"],
    u: Float[Tensor, " point"],
) -> Float[Tensor, "unit 3 point"]:
    """Sums of cosines at rows v and columns u, for a part of the points at a time."""
    height, width = spectrum.shape[2:]
    parts = []
    points = max(1, BYTES_AT_ONCE // (4 * height * width))
    for rows, columns in zip(torch.split(v, points), torch.split(u, points), strict=True):
        down, across = (
            torch.cos(
                (math.pi / side) * (at[:, None] + 0.5) * torch.arange(side, device=spectrum.device)
            )
            for at, side in ((rows, height), (columns, width))
        )
        both = (down[:, :, None] * across[:, None, :]).flatten(1)  # [point, k l]
        parts.append(spectrum.flatten(2) @ both.T)
    return torch.cat(parts, dim=2)


def measure_deformation(subject: Subject, progress: Progress) -> Measured:
    """Relative stability of the units of the sample; their images are deformed best first."""
    settings: Deformation = subject.settings["deformation"]
    images, _ = subject.of_run()

    def measure_batch(batch: Subject) -> BatchResult:
        generator = batch.generator("deformation")
        with torch.no_grad():
            result = settings(batch.respond_own(), batch.best_first().to(batch.device), generator)
        return [_unit(result, row, settings) for row in range(len(batch.rows))], vars(result)

    curves = [field.name for field in dataclasses.fields(Deformed)]
    shapes = dict.fromkeys(curves, (len(settings.deltas),))
    shapes["deformed"] = (len(settings.deltas), *images.shape[2:])
    shown = 3 * images.shape[1]  # deformed, with white and with spectrum-matched noise
    numbers, arrays = in_batches(
        "deformation", subject, subject.living_sample, shown, shapes, measure_batch, progress
    )
    arrays |= {"deltas": torch.tensor(settings.deltas)}
    return Measured(numbers, arrays, dataclasses.asdict(settings))


def _unit(result: Deformed, row: int, settings: Deformation) -> Numbers:
    """Numbers of the unit at `row`: indices at `settings.delta`, and curves over all deltas."""
    at_delta = settings.deltas.index(settings.delta)

    def curve(values: Float[Tensor, "unit delta"]) -> Numbers:
        pairs = zip(settings.deltas, values[row].tolist(), strict=True)
        return {f"{delta:g}": finite_or_none(value) for delta, value in pairs}

    indices = "stability", "stability_error", "stability_strict", "stability_strict_error"
    return {
        **{name: finite_or_none(getattr(result, name)[row, at_delta].item()) for name in indices},
        "delta": settings.delta,
        "kept": curve(result.kept),
        "stability_at": curve(result.stability),
        "stability_strict_at": curve(result.stability_strict),
    }
