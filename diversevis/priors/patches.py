"""Gaussian mixture on 8 x 8 patches (Zoran & Weiss 2011: EPLL).

Every component is a factor analyser (Ghahramani & Hinton 1996) in a fixed orthonormal basis,
cosines by opponent colours, in which the variances of photographs are nearly independent: a
covariance `diag(d) + W W'`. The diagonal holds the fall of the spectrum, the few columns of W what
is aligned in phase, as edges are. That is a tenth of the numbers, and of the work, of full
covariances.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from diversevis.priors.spectrum import to_opponent

SIDE = 8  # pixels of a patch


class _Filters(NamedTuple):
    """Rows of filters with constants added: of the basis, of the factors, and of the means; and
    what the squares of the first two, and a constant, add to a component's log-likelihood."""

    rows: Float[Tensor, "row value"]
    shifts: Float[Tensor, " row"]
    sums: Float[Tensor, "component row"]
    constants: Float[Tensor, " component"]


class PatchMixture(nn.Module):
    """Images -> mean negative log-likelihood of their patches, nats per pixel and channel.

    It knows flat areas, gradients, edges and the fall of the spectrum within 8 pixels, with the
    colours of photographs. It says nothing about what lies further apart: a texture of patches that
    are all likely is likely, and flat patches are the likeliest of all.

    components  of the mixture
    factors     columns of W
    colors      3, or 1 for grey
    """

    basis: Tensor

    def __init__(self, *, colors: int, components: int, factors: int, stride: int = 2) -> None:
        super().__init__()
        size = colors * SIDE**2
        self.colors, self.stride = colors, stride
        self._known: _Filters | None = None
        self._marginals: dict[Any, tuple[Tensor, ...]] = {}
        self.sizes = {"colors": colors, "components": components, "factors": factors}
        self.register_buffer("basis", patch_basis(colors).float())
        self.weights = nn.Parameter(torch.zeros(components))  # logits
        self.means = nn.Parameter(torch.zeros(components, size))  # in the basis, as all below
        self.log_scales = nn.Parameter(torch.zeros(components, size))  # log sqrt d
        # W over sqrt d.
        self.loadings = nn.Parameter(torch.zeros(components, factors, size))

    def forward(self, x: Float[Tensor, "image color height width"]) -> Float[Tensor, " image"]:
        if min(x.shape[2:]) < SIDE:
            return self._small(x)
        patches = patches_of(x, self.stride)
        likelihood = self._log_likelihood(patches).mean(1)
        return -likelihood / patches.shape[1]

    def loss(
        self, patches: Float[Tensor, "image color 8 8"], generator: torch.Generator
    ) -> Float[Tensor, ""]:
        """What training minimises."""
        values = patches.flatten(1).T[None]  # as patches of one image: a single product
        return -self._log_likelihood(values).mean() / values.shape[1]

    @torch.no_grad()
    def begin(self, patches: Float[Tensor, "image color 8 8"]) -> None:
        """Start at Gaussians of the patches' variances, scaled from little to much contrast."""
        coefficients = self.basis @ patches.flatten(1).T
        scales = coefficients.std(1).log()
        contrast = torch.linspace(-3, 1, len(self.weights), device=patches.device)
        self.log_scales.copy_(scales + contrast[:, None])
        # The first coefficients, the mean of the patch, vary as much where contrast is low.
        self.log_scales[:, :: SIDE**2] = scales[:: SIDE**2]
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randn(self.loadings.shape, generator=generator) / len(scales) ** 0.5
        self.loadings.copy_(drawn.to(self.loadings))

    def grey(self) -> PatchMixture:
        """The mixture for the mean of the three colours, of grey patches: exactly the marginal."""
        size = SIDE**2
        marginal = PatchMixture(
            colors=1, components=len(self.weights), factors=self.loadings.shape[1],
            stride=self.stride,
        )  # fmt: skip
        marginal.to(self.means)
        with torch.no_grad():
            # The first axis of colour is their sum over sqrt(3).
            marginal.weights.copy_(self.weights)
            marginal.means.copy_(self.means[:, :size] / math.sqrt(3))
            marginal.log_scales.copy_(self.log_scales[:, :size] - math.log(3) / 2)
            marginal.loadings.copy_(self.loadings[:, :, :size])
        return marginal

    def folded(self) -> PatchMixture:
        """The same with its filters computed once; it is not trained any more."""
        with torch.no_grad():
            self._known = self._filters()
        return self

    def _log_likelihood(
        self, patches: Float[Tensor, "image value patch"]
    ) -> Float[Tensor, "image patch"]:
        """Products of patches with rows of filters, their squares, and a sum for each component."""
        filters = self._filters() if self._known is None else self._known
        answers = _product(filters.rows, patches, filters.shifts)
        squares, linear = answers.tensor_split([filters.sums.shape[1]], 1)
        sums = _product(filters.sums, squares.square(), filters.constants)
        return torch.logsumexp(sums + linear, 1)

    def _filters(self) -> _Filters:
        """`d + W W'` is inverted by way of `1 + W' W / d`, whose size is the number of factors."""
        components, factors, size = self.loadings.shape
        precision = torch.exp(-self.log_scales)  # 1 / sqrt d
        inner = self.loadings @ self.loadings.mT
        factor = torch.linalg.cholesky(inner + torch.eye(factors).to(inner))
        explained = torch.linalg.solve_triangular(factor, self.loadings, upper=False)
        explained = explained * precision[:, None]  # [component, factor, coefficient]
        linear = precision.square() * self.means
        log_determinants = self.log_scales.sum(1) + factor.diagonal(dim1=1, dim2=2).log().sum(1)
        of_component = torch.eye(components).to(inner).repeat_interleave(factors, 1)
        shifts = (explained @ self.means[:, :, None]).flatten()
        none = torch.zeros(max(size, components)).to(inner)
        return _Filters(
            rows=torch.cat([self.basis, explained.flatten(0, 1) @ self.basis, linear @ self.basis]),
            shifts=torch.cat([none[:size], -shifts, none[:components]]),
            sums=torch.cat([-precision.square(), of_component], 1) / 2,
            constants=(
                torch.log_softmax(self.weights, 0)
                - log_determinants
                - (linear * self.means).sum(1) / 2
                - size * math.log(2 * math.pi) / 2
            ),
        )

    def _small(self, x: Float[Tensor, "image color h w"]) -> Float[Tensor, " image"]:
        """Of images smaller than a patch in a direction: by the marginal of a part of the patch."""
        rows, columns = (min(side, SIDE) for side in x.shape[2:])
        whitening, shifts, constants = self._marginal(rows, columns, x.dtype, x.device)
        parts = [
            x[:, :, top : top + rows, left : left + columns].flatten(1)
            for top in range(x.shape[2] - rows + 1)
            for left in range(x.shape[3] - columns + 1)
        ]
        values = torch.stack(parts, 2)  # [image, value, patch]
        squares = _product(whitening, values, shifts).square()
        squares = squares.reshape(len(x), len(constants), values.shape[1], -1).sum(2)
        likelihood = torch.logsumexp(constants[:, None] - squares / 2, 1)
        return -likelihood.mean(1) / values.shape[1]

    def _marginal(
        self, rows: int, columns: int, dtype: torch.dtype, device: torch.device
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rows that whiten a corner of the patch, for all components; what is added to their
        answers; and a constant for each component. Made once, in float64: the variances of a
        component differ by nine orders of magnitude."""
        key = rows, columns, dtype, device
        if key not in self._marginals:
            kept = torch.zeros(self.colors, SIDE, SIDE, dtype=torch.bool)
            kept[:, :rows, :columns] = True
            with torch.no_grad():
                basis = patch_basis(self.colors).double()[:, kept.flatten()].T
                scales, loadings, means, weights = (
                    part.detach().cpu().double()
                    for part in (self.log_scales.exp(), self.loadings, self.means, self.weights)
                )
                spread = torch.cat([torch.diag_embed(scales), loadings * scales[:, None]], 1)
                spread = spread @ basis.T
                factor = torch.linalg.cholesky(spread.mT @ spread)
                identity = torch.eye(len(basis), dtype=torch.float64)
                whitening = torch.linalg.solve_triangular(factor, identity, upper=False)
                shifts = -(whitening @ (means @ basis.T)[:, :, None]).flatten()
                constants = (
                    torch.log_softmax(weights, 0)
                    - factor.diagonal(dim1=1, dim2=2).log().sum(1)
                    - len(basis) * math.log(2 * math.pi) / 2
                )
            made = whitening.flatten(0, 1), shifts, constants
            self._marginals[key] = tuple(part.to(device, dtype) for part in made)
        whitening, shifts, constants = self._marginals[key]
        return whitening, shifts, constants


def _product(
    matrix: Float[Tensor, "row value"],
    values: Float[Tensor, "image value patch"],
    constants: Float[Tensor, " row"],
) -> Float[Tensor, "image row patch"]:
    """`matrix @ values + constants`, a product for each image: a single one for all of them, and a
    convolution, round an image alone unlike one among others."""
    return torch.matmul(matrix, values) + constants[:, None]


def patches_of(
    x: Float[Tensor, "image color height width"], stride: int
) -> Float[Tensor, "image value patch"]:
    """Patches of 8 x 8 pixels every `stride` pixels, and along the last rows and columns."""
    rows, columns = (_slices(side, stride) for side in x.shape[2:])
    parts = [
        functional.unfold(x[:, :, row, column], SIDE, stride=stride)
        for row, column in itertools.product(rows, columns)
    ]
    return torch.cat(parts, 2) if parts[1:] else parts[0]


def _slices(side: int, stride: int) -> list[slice]:
    rest = (side - SIDE) % stride
    return [slice(None, side - rest), *([slice(side - SIDE, None)] if rest else [])]


def patch_basis(colors: int) -> Float[Tensor, "coefficient value"]:
    """Orthonormal rows: cosines over the patch (discrete cosine transform) by axis of colour."""
    steps = torch.arange(SIDE, dtype=torch.float64)
    cosines = torch.cos(math.pi / SIDE * (steps + 0.5) * steps[:, None])
    cosines *= torch.where(steps > 0, math.sqrt(2 / SIDE), math.sqrt(1 / SIDE))[:, None]
    plane = torch.kron(cosines, cosines)
    axes = to_opponent(torch.eye(colors, dtype=torch.float64)[:, :, None, None])[..., 0, 0].T
    return torch.kron(axes.contiguous(), plane)
