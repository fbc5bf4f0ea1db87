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


class EnergyNetwork(nn.Module):
    """Layers `simple` (half-rectified linear), `complex`, `shift` and `bipartite` (energies).

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

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        linear = self.simple(image)
        energy = self.complex(torch.square(linear))
        return self.rectify(linear), self.shift(energy), self.bipartite(energy)
