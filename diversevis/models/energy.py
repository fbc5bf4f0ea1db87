"""The analytic network: Gabor quadrature pairs whose invariances are known exactly.

Adelson & Bergen 1985 (energy model), docs/method.md, section 9. Weights are computed, not stored.
Every channel pair (even, odd) is orthonormal, so over all images of one norm the energy
`even^2 + odd^2` is largest, and constant, on a circle: all phases of one Gabor.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

KERNEL = 21  # pixels; odd, so that even and odd Gabors are exactly orthogonal
WAVELENGTHS = (4.0, 6.0, 9.0)  # pixels
ORIENTATIONS = 8
ENVELOPE = 0.45  # standard deviation of the Gaussian envelope, in wavelengths (about 1.3 octaves)
SHIFT_POOL = 9  # positions, per axis, over which `shift` averages the energy
BIPARTITE_SPAN = 13  # positions, per axis, that `bipartite` looks at
BIPARTITE_COLUMNS = 3  # of these, the columns on the right that make its pooled subfield
SHARES = 0.25, 0.5, 0.75  # of the free subfields of `bipartite25`, `bipartite50`, `bipartite75`
SIDES = 8  # directions in which a free subfield may lie
SMALLEST = 1e-12  # energy: the square root's derivative at 0 is infinite
POOL_STRIDE, POOL_SPAN = 3, 9  # pixels between the positions of energies, and their number
FREE_DISTANCE, FIXED_DISTANCE = 9, 12  # pixels from the centre of the field to the subfields'

# Orthonormal colour axes (rows): luminance, red-green, blue-yellow.
COLOR_AXES = (
    (1 / math.sqrt(3), 1 / math.sqrt(3), 1 / math.sqrt(3)),
    (1 / math.sqrt(2), -1 / math.sqrt(2), 0.0),
    (-1 / math.sqrt(6), -1 / math.sqrt(6), 2 / math.sqrt(6)),
)


def gabor_pairs() -> Float[Tensor, "filter 3 kernel kernel"]:
    """Even and odd Gabors, interleaved (even_0, odd_0, even_1, ...), all of unit Euclidean norm.

    Pair `p` has colour axis `p // 24`, wavelength `p // 8 % 3` and orientation `p % 8`
    (times pi/8; the wave vector's angle from the horizontal). Even filters have no DC response.
    """
    radius = KERNEL // 2
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    v, u = torch.meshgrid(offsets, offsets, indexing="ij")
    filters = []
    for axis in torch.tensor(COLOR_AXES, dtype=torch.float64):
        for wavelength in WAVELENGTHS:
            envelope = torch.exp(-(u**2 + v**2) / (2 * (ENVELOPE * wavelength) ** 2))
            for index in range(ORIENTATIONS):
                angle = math.pi * index / ORIENTATIONS
                phase = 2 * math.pi / wavelength * (u * math.cos(angle) + v * math.sin(angle))
                even = envelope * phase.cos()
                even = even - envelope * even.sum() / envelope.sum()
                odd = envelope * phase.sin()
                for wave in (even, odd):
                    filters.append(axis[:, None, None] * (wave / wave.norm()))
    return torch.stack(filters).float()


def free_side(pair: int) -> float:
    """Direction, from the centre of the field, of the free subfield of a unit of `bipartite25` to
    `bipartite75`: degrees, counter-clockwise from the horizontal as one looks at the image."""
    return 360.0 * (pair % SIDES) / SIDES


def subfield_centers(pair: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Centres (row, column) of the fixed and of the free subfield, pixels from the field's centre.

    They are 21 pixels apart, more than five standard deviations of the widest envelope.
    """
    angle = math.radians(free_side(pair))
    down, right = -math.sin(angle), math.cos(angle)

    def on_grid(distance: float) -> tuple[int, int]:
        steps = distance / POOL_STRIDE
        return POOL_STRIDE * round(steps * down), POOL_STRIDE * round(steps * right)

    return on_grid(-FIXED_DISTANCE), on_grid(FREE_DISTANCE)


class Bipartite(nn.Module):
    """`sqrt(1-q) relu(<w, x>) + sqrt(q) sqrt(E(x) / E_best)`: q is the share of the best image's
    energy in the free subfield.

    w is an even Gabor, E the mean energy of its pair at 3 x 3 positions on the other side of the
    field, E_best the largest E of images of norm 1: either part alone reaches at most 1.
    """

    def __init__(self, filters: Float[Tensor, "filter 3 kernel kernel"], share: float) -> None:
        super().__init__()
        pairs = len(filters) // 2
        self.fixed = nn.Conv2d(2 * pairs, pairs, POOL_SPAN, groups=pairs, bias=False)
        self.free = nn.Conv2d(pairs, pairs, POOL_SPAN, groups=pairs, bias=False)
        fixed = torch.zeros(pairs, 2, POOL_SPAN, POOL_SPAN)
        free = torch.zeros(pairs, 1, POOL_SPAN, POOL_SPAN)
        for pair, best in enumerate(_best_pooled_energies(filters)):
            (row, column), (down, right) = (
                [POOL_SPAN // 2 + at // POOL_STRIDE for at in center]
                for center in subfield_centers(pair)
            )
            fixed[pair, 0, row, column] = math.sqrt(1 - share)  # of the even filter
            free[pair, 0, down - 1 : down + 2, right - 1 : right + 2] = share / (9 * best)
        self.fixed.weight.data, self.free.weight.data = fixed, free

    def forward(self, linear: Tensor, energy: Tensor) -> Tensor:
        return torch.relu(self.fixed(linear)) + torch.sqrt(self.free(energy) + SMALLEST)


def _best_pooled_energies(filters: Float[Tensor, "filter 3 kernel kernel"]) -> list[float]:
    """Largest mean energy of every pair over 3 x 3 positions, of images of norm 1.

    The largest eigenvalue of the mean of `f f^T` over the 18 filters f, which their Gram matrix
    has too. The three colour axes have the same filters.
    """
    pairs = len(filters) // 2 // len(COLOR_AXES)
    waves = filters[: 2 * pairs].sum(1).double() / math.sqrt(3)  # along the luminance axis
    side = KERNEL + 2 * POOL_STRIDE
    shifted = torch.zeros(pairs, 2, 3, 3, side, side, dtype=torch.float64)
    for down in range(3):
        for right in range(3):
            top, left = down * POOL_STRIDE, right * POOL_STRIDE
            at = slice(top, top + KERNEL), slice(left, left + KERNEL)
            shifted[:, :, down, right, at[0], at[1]] = waves.reshape(pairs, 2, KERNEL, KERNEL)
    flat = shifted.reshape(pairs, 18, -1)
    best = torch.linalg.eigvalsh(flat @ flat.mT / 9)[:, -1]
    return best.tolist() * len(COLOR_AXES)


class EnergyNetwork(nn.Module):
    """Layers `simple` (half-rectified linear), `complex`, `shift` and `bipartite` (energies);
    `bipartite25`, `bipartite50` and `bipartite75` (`Bipartite`, of degree 1 in contrast).

    `complex` is the energy of a filter pair; `shift` its mean over 9 x 9 positions; `bipartite` the
    energy at a fixed position on the left plus the mean energy over a column band on the right.
    """

    def __init__(self) -> None:
        super().__init__()
        filters = gabor_pairs()
        pairs = len(filters) // 2
        self.simple = nn.Conv2d(3, 2 * pairs, KERNEL, bias=False)
        self.simple.weight.data = filters
        self.rectify = nn.ReLU()
        self.complex = nn.Conv2d(2 * pairs, pairs, 1, groups=pairs, bias=False)
        self.complex.weight.data = torch.ones(pairs, 2, 1, 1)
        self.shift = nn.AvgPool2d(SHIFT_POOL, stride=1)
        self.bipartite = nn.Conv2d(pairs, pairs, BIPARTITE_SPAN, groups=pairs, bias=False)
        subfields = torch.zeros(BIPARTITE_SPAN, BIPARTITE_SPAN)
        subfields[BIPARTITE_SPAN // 2, 0] = 0.5
        subfields[:, -BIPARTITE_COLUMNS:] = 0.5 / (BIPARTITE_SPAN * BIPARTITE_COLUMNS)
        self.bipartite.weight.data = subfields.expand(pairs, 1, -1, -1).clone()
        # At few positions: the layers below need a large field.
        self.sparse = nn.Conv2d(3, 2 * pairs, KERNEL, stride=POOL_STRIDE, bias=False)
        self.sparse.weight.data = filters
        self.sparse_energy = nn.Conv2d(2 * pairs, pairs, 1, groups=pairs, bias=False)
        self.sparse_energy.weight.data = torch.ones(pairs, 2, 1, 1)
        self.bipartite25, self.bipartite50, self.bipartite75 = (
            Bipartite(filters, share) for share in SHARES
        )

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        linear = self.simple(image)
        energy = self.complex(torch.square(linear))
        answers = self.rectify(linear), self.shift(energy), self.bipartite(energy)
        linear = self.sparse(image)
        energy = self.sparse_energy(torch.square(linear))
        parts = self.bipartite25, self.bipartite50, self.bipartite75
        return *answers, *(part(linear, energy) for part in parts)
