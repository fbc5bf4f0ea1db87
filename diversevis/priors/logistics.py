"""The discretized mixture of logistics of PixelCNN++ (Salimans et al. 2017, section 2)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

# Outputs per component of the mixture: a logit, a mean and a log scale; for three colours a logit,
# and of every colour a mean, a log scale and a coefficient (section 2.2).
OUTPUTS = {1: 3, 3: 10}
HALF_BIN = 1 / 255  # half a grey level, where black is -1 and white 1
EDGE = 0.999  # values beyond it are black or white: their bins have no outer end
LOG_SCALES = -7.0, 30.0  # -7 as the authors have it; wider bins are lost in float32

Images = Float[Tensor, "image color height width"]
Outputs = Float[Tensor, "image output height width"]
OfComponents = Float[Tensor, "image color mixture height width"]


def log_likelihood(values: Images, outputs: Outputs) -> Float[Tensor, "image height width"]:
    """Log-probability of every pixel, all its colours together, given earlier pixels; nats."""
    logits, logs = log_components(values, outputs)
    return torch.logsumexp(logits + logs.sum(1), 1) - torch.logsumexp(logits, 1)


def log_components(
    values: Images, outputs: Outputs
) -> tuple[Float[Tensor, "image mixture height width"], OfComponents]:
    """Logits of the mixture's components, and the log-probability of every colour under each.

    Under a component the mean of green depends on red, and that of blue on both (section 2.2).
    """
    colors = values.shape[1]
    mixtures = outputs.shape[1] // OUTPUTS[colors]
    of_colors = torch.unflatten(outputs[:, mixtures:], 1, (colors, -1, mixtures))
    means, log_scales = of_colors[:, :, 0], of_colors[:, :, 1].clamp(*LOG_SCALES)
    if colors == 3:
        first, second, third = torch.tanh(of_colors[:, :, 2]).unbind(1)
        red, green = values[:, 0, None], values[:, 1, None]
        shifts = [torch.zeros_like(first), first * red, second * red + third * green]
        means = means + torch.stack(shifts, 1)
    return outputs[:, :mixtures], log_bin(values[:, :, None], means, log_scales)


def log_bin(
    values: Float[Tensor, "image color 1 height width"],
    means: OfComponents,
    log_scales: OfComponents,
) -> OfComponents:
    """Log-probability of the grey level around each value, under a logistic distribution.

    With `z` the standardized value and `t` half the bin, it is the logarithm of
    `sigmoid(z + t) - sigmoid(z - t) = sigmoid(z + t) sigmoid(t - z) (1 - exp(-2t))`, whose factors
    have finite logarithms and gradients however improbable the value. (The authors take the density
    at the bin's middle where the difference is below 1e-5.) The bins of black and white lack one
    end, and with it the factors that have it.
    """
    precisions = torch.exp(-log_scales)
    z, t = (values - means) * precisions, HALF_BIN * precisions
    black, white = values < -EDGE, values > EDGE
    below = functional.logsigmoid(z + t).masked_fill(white, 0)
    above = functional.logsigmoid(t - z).masked_fill(black, 0)
    return below + above + torch.log(-torch.expm1(-2 * t)).masked_fill(black | white, 0)
