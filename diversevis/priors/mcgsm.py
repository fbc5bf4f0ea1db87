"""Mixture of conditional Gaussian scale mixtures (Theis, Hosseini & Bethge 2012): an image's exact
likelihood, as a product over its pixels in reading order, and over the colours of a pixel.

A grey level y follows, given all that was read before it, section 2.2 of the paper:

    p(y | h) = sum_cs p(c, s | h) N(y; a_c h, 1 / lambda_cs)
    p(c, s | h) ~ exp(eta_cs - exp(alpha_cs) / 2 * sum_i beta_ci^2 (b_i h)^2)

h is a constant 1, whether each pixel of the neighbourhood lies outside of the image, the grey
levels of the neighbourhood, 0 outside, and those of the earlier colours of the same pixel. The
parameters hold a and b for whitened h, and lambda for y in units of what remains after linear
prediction: so they train well with Adam, and begin as a Gaussian scale mixture.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

CONTRAST = 50.0  # grey levels: about the standard deviation of photographs
RIDGE = 1e-5  # added to the mean squares of h, in CONTRAST^2: no direction is without variance
SPREAD = math.log(16)  # standard deviations between 1/4 and 4: log precision from -SPREAD to SPREAD
NEGLIGIBLE = -50.0  # logits this far below the largest: numbers near underflow are slow
PART = 64  # crops whose neighbourhoods are in memory at once


class _Filters(NamedTuple):
    """Filters of the image, and what their squared answers add to the logits of all components and
    scales: first to those of p(c, s | h) p(y | c, s, h), then to those of p(c, s | h)."""

    pixels: Float[Tensor, "filter color rows columns"]
    outside: Float[Tensor, "filter 1 rows columns"]
    shifts: Float[Tensor, " filter"]
    squares: Float[Tensor, "color logit answer"]
    constants: Float[Tensor, "color logit 1"]
    units: Float[Tensor, "color 1"]  # log grey levels: one in which y is measured


class ScaleMixture(nn.Module):
    """Images -> negative log-likelihood, nats per pixel and channel.

    It sees neighbours a few pixels away: smooth areas, edges and the contrast around a pixel, and
    nothing of objects. Flat images are the likeliest of all.

    colors      3, or 1 for grey
    reach       pixels to the left, to the right and above that a pixel depends on
    components  with a linear prediction each
    scales      precisions of a component
    features    filters whose energies choose among components and scales
    """

    def __init__(
        self, *, colors: int, reach: int, components: int, scales: int, features: int
    ) -> None:
        super().__init__()
        self.sizes = {
            "colors": colors, "reach": reach, "components": components, "scales": scales,
            "features": features,
        }  # fmt: skip
        self.colors, self.reach = colors, reach
        self.neighbors = 2 * reach * (reach + 1)
        self._known: _Filters | None = None
        # Of h and of the pixel itself.
        size = 1 + self.neighbors + (self.neighbors + 1) * colors
        # Rows turn h into independent values of mean square 1; fixed after `begin`.
        self.whitening = nn.Parameter(torch.eye(size), requires_grad=False)
        generator = torch.Generator().manual_seed(0)

        def drawn(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        # a and b: what lies at or after the predicted value is masked.
        self.predictors = nn.Parameter(0.02 * drawn(colors, components, size))
        self.features = nn.Parameter(drawn(colors, features, size) / size**0.5)
        self.weights = nn.Parameter(1 + 0.1 * drawn(colors, components, features))  # beta
        spread = torch.linspace(-SPREAD, SPREAD, scales) if scales > 1 else torch.zeros(1)
        spread = spread.expand(colors, components, scales)
        self.log_gains = nn.Parameter(spread.clone())  # alpha
        self.log_precisions = nn.Parameter(spread.clone())  # log lambda
        # As in a Gaussian scale mixture, where the features are Gaussian with these precisions too.
        self.biases = nn.Parameter(features / 2 * spread)  # eta

    def forward(self, x: Float[Tensor, "image color height width"]) -> Float[Tensor, " image"]:
        """Mean over pixels and channels of `-log p(its grey level | all earlier ones)`.

        x  grey levels around the mean colour of photographs
        """
        return self.by_value(x).mean((1, 2, 3))

    def by_value(
        self, x: Float[Tensor, "image color height width"]
    ) -> Float[Tensor, "image color height width"]:
        """The terms of `forward`: each depends on its own and earlier grey levels alone."""
        filters = self._filters() if self._known is None else self._known
        reach = self.reach
        padded = functional.pad(x, (reach, reach, reach, 0))
        outside = functional.pad(torch.zeros_like(x[:1, :1]), (reach, reach, reach, 0), value=1.0)
        shifts = functional.conv2d(outside, filters.outside, filters.shifts)
        # The columns as channels: the convolution of so few colours has a slow gradient.
        columns = torch.cat([padded[..., i : i + x.shape[3]] for i in range(2 * reach + 1)], 1)
        kernel = filters.pixels.permute(0, 3, 1, 2).flatten(1, 2)[..., None]
        answers = functional.conv2d(columns, kernel) + shifts
        answers = torch.unflatten(answers.flatten(2), 1, (self.colors, -1))
        costs = _Mixture.apply(answers, filters.squares, filters.constants)
        return torch.unflatten(costs + filters.units, 2, x.shape[2:])

    def loss(
        self, x: Float[Tensor, "image color height width"], generator: torch.Generator
    ) -> Float[Tensor, ""]:
        """What training minimizes: the mean over images."""
        return self(x).mean()

    @torch.no_grad()
    def begin(self, x: Float[Tensor, "image color height width"]) -> None:
        """Start at the best linear prediction of these crops of photographs."""
        size = len(self.whitening)
        squares = RIDGE * torch.eye(size, dtype=torch.float64, device=x.device)
        for part in torch.split(x, PART):
            h = self._neighborhoods(part).double()
            squares += h.mT @ h / (len(x) * x.shape[2] * x.shape[3])
        factor = torch.linalg.cholesky(squares)
        identity = torch.eye(size, dtype=torch.float64, device=x.device)
        # Row by row, a value less its prediction from those before it, over what remains.
        inverse = torch.linalg.solve_triangular(factor, identity, upper=False)
        self.whitening.copy_(inverse)

    def folded(self) -> ScaleMixture:
        """The same with its filters computed once; it is not trained any more."""
        with torch.no_grad():
            self._known = self._filters()
        return self

    def _neighborhoods(
        self, x: Float[Tensor, "image color height width"]
    ) -> Float[Tensor, "value size"]:
        """h of every pixel of the images, and the pixel."""
        reach, count = self.reach, self.neighbors
        sides = reach, reach, reach, 0
        outside = functional.pad(torch.zeros_like(x[:, :1]), sides, value=1.0)
        seen = torch.cat([outside, functional.pad(x / CONTRAST, sides)], 1)
        seen = functional.unfold(seen, (reach + 1, 2 * reach + 1))
        seen = torch.unflatten(seen, 1, (1 + self.colors, -1)).permute(0, 3, 2, 1)
        outside, pixels = seen[:, :, :count, 0], seen[:, :, : count + 1, 1:].flatten(2)
        h = torch.cat([torch.ones_like(outside[..., :1]), outside, pixels], 2)
        return h.flatten(0, 1)

    def _filters(self) -> _Filters:
        size, count, colors = len(self.whitening), self.neighbors, self.colors
        index = torch.arange(size, device=self.whitening.device)
        own = index[size - colors :]
        earlier = (index < own[:, None])[:, None]  # [color, 1, size]
        errors = (index == own[:, None])[:, None].to(self.whitening) - self.predictors * earlier
        rows = torch.cat([errors, self.features * earlier], 1).flatten(0, 1) @ self.whitening
        constant, outside, pixels = torch.split(rows, [1, count, (count + 1) * colors], 1)
        pixels = torch.unflatten(pixels, 1, (-1, colors)).mT / CONTRAST

        def windows(values: Tensor) -> Tensor:
            # What comes after the pixel in its row is not looked at.
            after = self.reach + count + 1 - values.shape[-1]
            window = self.reach + 1, 2 * self.reach + 1
            return torch.unflatten(functional.pad(values, (0, after)), -1, window)

        gains, precisions = self.log_gains.exp(), self.log_precisions.exp()
        components, scales = gains.shape[1:]
        energies = (gains[..., None] * self.weights.square()[:, :, None]).flatten(1, 2)
        of_error = torch.eye(components).to(gains).repeat_interleave(scales, 0)
        precise = precisions.flatten(1)[..., None] * of_error
        joint = torch.cat([precise, energies], 2)
        gate = torch.cat([torch.zeros_like(precise), energies], 2)
        likelihood = self.biases + (self.log_precisions - math.log(2 * math.pi)) / 2
        constants = torch.stack([likelihood.flatten(1), self.biases.flatten(1)], 1)
        return _Filters(
            pixels=windows(pixels),
            outside=windows(outside[:, None]),
            shifts=constant[:, 0],
            squares=-torch.cat([joint, gate], 1) / 2,
            constants=constants.flatten(1)[..., None],
            units=math.log(CONTRAST) - self.whitening.diagonal()[own, None].log(),
        )


class _Mixture(torch.autograd.Function):
    """`-log sum_cs p(c, s | h) p(y | c, s, h)`, from the answers [image, color, answer, pixel].

    One image after the other on the CPU: its logits then stay in the processor's cache, and an
    image alone is rounded as among others. What is needed of them later is kept.
    """

    @staticmethod
    def forward(ctx, answers: Tensor, squares: Tensor, constants: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        trained = ctx.needs_input_grad[1]
        costs, slopes, kept = [], [], []
        for part in torch.split(answers, 1 if answers.device.type == "cpu" else len(answers)):
            logits = (squares @ part.square()).add_(constants)
            logits = torch.unflatten(logits, 2, (2, -1))
            largest = logits.amax(3, keepdim=True)
            shares = logits.sub_(largest).clamp_(min=NEGLIGIBLE).exp_()
            sums = shares.sum(3, keepdim=True)
            joint, gate = sums.log().add_(largest).squeeze(3).unbind(2)
            costs.append(gate - joint)
            sums[:, :, 0].neg_()
            shares = shares.div_(sums).flatten(2, 3)
            slopes.append((squares.mT @ shares).mul_(part).mul_(2))
            if trained:
                kept.append(shares)
        ctx.save_for_backward(torch.cat(slopes), *((answers, torch.cat(kept)) if trained else ()))
        return torch.cat(costs)

    @staticmethod
    def backward(ctx, outer: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:  # type: ignore[no-untyped-def]
        slopes, *trained = ctx.saved_tensors
        outer = outer[:, :, None]
        of_squares = of_constants = None
        if trained:
            answers, shares = trained
            weighted = shares * outer
            of_squares = (weighted @ answers.square().mT).sum(0)
            of_constants = weighted.sum((0, 3))[..., None]
        return slopes * outer, of_squares, of_constants
