"""Local diffeomorphisms: does a unit mind being shown its pattern smoothly deformed?

Petrini, Favero, Geiger & Wyart 2021 (arXiv 2105.02468); METHOD.md section 8.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

# images [unit, image, 3, h, w] -> responses of every unit to its own, [unit, image]
RespondOwn = Callable[[Tensor], Tensor]

BYTES_AT_ONCE = 2**26  # of cosines, where a large image is resampled


@dataclass(frozen=True, kw_only=True)
class Deformed:
    """Of every unit, for every displacement; NaN where it is too large for the receptive field.

    kept              mean response to deformed images over that to the images as they are
    stability         R with white noise of the same size; strict: with noise of the same spectrum
    ..._error         standard error over deformations (jackknife)
    examples          the unit's first image, deformed
    """

    kept: Float[Tensor, "unit delta"]
    stability: Float[Tensor, "unit delta"]
    stability_error: Float[Tensor, "unit delta"]
    strict: Float[Tensor, "unit delta"]
    strict_error: Float[Tensor, "unit delta"]
    examples: Float[Tensor, "unit delta 3 height width"]


@dataclass(frozen=True, kw_only=True)
class Deformation:
    """Relative stability R and the response kept, against displacement.

    deltas  typical displacements, in pixels
    delta   of them, the one whose R is the unit's index
    draws   random deformations of each image, each with its noise
    cutoff  c: highest spatial frequency of a deformation, half cycles per image, above 1
    """

    deltas: list[float]
    delta: float
    draws: int
    cutoff: float

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

        generator  on the CPU: what is drawn is the same on every device
        """
        units, n, _, height, width = images.shape
        count = len(self.deltas)
        nothing = torch.full((units, count), torch.nan)
        found = {name: nothing.clone() for name in Deformed.__annotations__ if name != "examples"}
        examples = torch.full((units, count, 3, height, width), torch.nan)
        shape = (self.draws, n)
        fields = displacements((height, width), self.cutoff, shape, generator).to(images.device)
        noise = torch.randn(*shape, 3, height, width, generator=generator).to(images.device)
        before = respond(images)
        for place, delta in enumerate(self.deltas):
            if delta > self.largest((height, width)):
                continue
            kept, squares, first = self._at(respond, images, before, delta * fields, noise)
            found["kept"][:, place] = kept
            for name, against in (("stability", 1), ("strict", 2)):
                r, error = ratio_and_error(squares[0], squares[against])
                found[name][:, place], found[f"{name}_error"][:, place] = r, error
            examples[:, place] = first.cpu()
        return Deformed(**found, examples=examples)

    def _at(
        self,
        respond: RespondOwn,
        images: Float[Tensor, "unit image 3 height width"],
        before: Float[Tensor, "unit image"],
        fields: Float[Tensor, "draw image 2 height width"],
        noise: Float[Tensor, "draw image 3 height width"],
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        """Share of the response kept [unit]; mean squared change by deformation, white noise and
        spectrum-matched noise, each [unit, draw]; the first image deformed."""
        norms = torch.linalg.vector_norm(images, dim=(2, 3, 4), keepdim=True)
        changes = [deform(images, own) - images for own in fields]
        sizes = torch.stack([torch.linalg.vector_norm(c, dim=(2, 3, 4)) for c in changes])
        eta = sizes.mean((0, 2))[:, None, None, None, None]  # one size per unit
        responses, squares = [], []
        for change, own in zip(changes, noise, strict=True):
            shown = [images + one for one in (change, *noises(change, own, eta))]
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
        return kept, [torch.stack(one, dim=1) for one in zip(*squares, strict=True)], first


def displacements(
    size: tuple[int, int],
    cutoff: float,
    shape: tuple[int, ...],
    generator: torch.Generator,
) -> Float[Tensor, "*shape 2 height width"]:
    """Smooth random fields whose typical displacement is one pixel: rows first, then columns.

    `tau(u, v) = s sqrt(T) sum C_ij sin(i pi u) sin(j pi v)` over `i, j >= 1`,
    `sqrt(i^2 + j^2) < c + 1/2`, `C_ij ~ N(0, 1 / (i^2 + j^2))`, u and v from 0 at the first pixel
    to 1 at the last; T follows from `delta = (s/2) sqrt(pi T ln c)`. The border stays where it is.
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
    """Images resampled at every pixel's place plus its displacement (in pixels: rows, columns).

    An image is taken as the sum of cosines that passes through its pixels (its DCT-II), which is
    evaluated at the new places: exact for what lies below Nyquist and even at the borders, where
    cubic interpolation would blur. With displacement 0 it returns the image.
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
    """
    white, matched = (
        one * (size / torch.linalg.vector_norm(one, dim=(2, 3, 4), keepdim=True))
        for one in (noise.expand_as(change), with_random_phases(change, noise))
    )
    return white, matched


def with_random_phases(
    change: Float[Tensor, "unit image 3 height width"],
    noise: Float[Tensor, "image 3 height width"],
) -> Float[Tensor, "unit image 3 height width"]:
    """`change` with its Fourier phases randomized: every colour by the same amounts, so that the
    amplitude spectra and the relations between the colours stay.

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
    """Sums of cosines at rows v and columns u."""
    height, width = spectrum.shape[2:]
    found = []
    points = max(1, BYTES_AT_ONCE // (4 * height * width))
    for rows, columns in zip(torch.split(v, points), torch.split(u, points), strict=True):
        down, across = (
            torch.cos(
                (math.pi / side) * (at[:, None] + 0.5) * torch.arange(side, device=spectrum.device)
            )
            for at, side in ((rows, height), (columns, width))
        )
        both = (down[:, :, None] * across[:, None, :]).flatten(1)  # [point, k l]
        found.append(spectrum.flatten(2) @ both.T)
    return torch.cat(found, dim=2)
