"""A denoiser as a prior: an image is likely where noise can be told from it.

Guo, Shamai & Verdu 2005; for a single image Kong, Brekelmans & Ver Steeg 2023, section 2. Let
`K(s)` be the divergence of p(z), z = x + s n of all images x with Gaussian noise n, from p(z | x)
of this image. Then

    dK / d log s = -e(s) / s^2,    e(s) = E_n |x - D(x + s n)|^2,    D(z) = E[x | z].

With d numbers in an image, K(s) nears `-log p(x) - d/2 log(2 pi e s^2)` as s falls to 0, where
e(s) = d s^2: p is smooth at the scale of so little noise. Taking e(s) = d s^2 below `lowest`,

    -log p(x) = d/2 log(2 pi e lowest^2) + integral of e(s) / s^2 d log s + K(highest),

the integral from `lowest` to `highest`. K(highest) is that of a Gaussian p of the photographs'
variance v: d/2 (log(1 + v/s^2) - v/(v + s^2)) + |x|^2 / 2(v + s^2) at s = highest. For any D this
is the variational bound of a diffusion model (Kingma, Salimans, Poole & Ho 2021): no less than the
negative log-likelihood of a normalized density, and comparable with that of other models.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diversevis.errors import InputError

LEVELS, LOWEST, HIGHEST = 4, 4.0, 64.0  # of `forward`; grey levels
# Of `exact`. Below 1 grey level little noise can be told from photographs of 8 bits, and a small
# network does worse than to leave it; above 2000 nothing is left of them.
EXACT_LEVELS, EXACT_LOWEST, EXACT_HIGHEST, EXACT_DRAWS = 32, 1.0, 2000.0, 2
TRAINED = 1.0, 500.0  # grey levels of noise; further levels follow, as D(c x) = c D(x)
CONTRAST = 60.0  # grey levels: about the standard deviation of photographs, before `begin`

Images = Float[Tensor, "image color height width"]


class Denoiser(nn.Module):
    """Images -> negative log-likelihood between two levels of noise, nats per pixel and channel.

    It favours what it can tell from noise: smooth areas and long smooth contours. Fine texture and
    single points look like noise to it, and cost more than photographs show them. The cost grows
    with the square of what it takes for noise: white noise costs about ten times what photographs
    of its contrast do.

    A convolutional network without constants (Mohan et al. 2020; Kadkhodaie & Simoncelli 2021), so
    that it serves all levels of noise: D(c x) = c D(x) for c > 0.

    colors    3, or 1 for grey
    channels  of the inner convolutions, at least two per colour
    layers    convolutions of 3 x 3 pixels, at least 2
    levels    of noise in `forward`, from `lowest` to `highest` grey levels

    Raises `InputError` for fewer channels or layers. Weights are drawn from torch's global
    generator.
    """

    def __init__(
        self, *, colors: int, channels: int, layers: int,
        levels: int = LEVELS, lowest: float = LOWEST, highest: float = HIGHEST,
    ) -> None:  # fmt: skip
        super().__init__()
        if channels < 2 * colors or layers < 2:
            raise InputError(
                f"channels={channels}, layers={layers}: a denoiser of {colors} colours has at "
                f"least {2 * colors} channels and 2 layers."
            )
        self.sizes = {"colors": colors, "channels": channels, "layers": layers}
        self.levels, self.lowest, self.highest = levels, lowest, highest
        widths = [colors, *[channels] * (layers - 1), colors]
        convolutions = [
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
            for inputs, outputs in itertools.pairwise(widths)
        ]
        self.network = nn.Sequential(convolutions[0])
        for convolution in convolutions[1:]:
            self.network.append(nn.ReLU()).append(convolution)
        with torch.no_grad():
            _halve(convolutions)
        # Mean square of the photographs' grey levels around their mean; fixed after `begin`.
        self.variance = nn.Parameter(torch.tensor(CONTRAST**2), requires_grad=False)

    def denoised(self, x: Images) -> Images:
        """The images without their noise, whatever its level: less what the network takes for it.

        Homogeneous: `denoised(c * x)` is `c * denoised(x)` for c > 0.
        """
        return x - self.network(x)

    def forward(self, x: Images) -> Float[Tensor, " image"]:
        """Negative log-likelihood with an integral over a few levels of noise.

        x  grey levels around the mean colour of photographs
        """
        return self._cost(x, self.levels, self.lowest, self.highest, 1)

    @torch.no_grad()
    def bits_per_dimension(
        self, x: Images, *, levels: int = EXACT_LEVELS, lowest: float = EXACT_LOWEST,
        highest: float = EXACT_HIGHEST, draws: int = EXACT_DRAWS,
    ) -> Float[Tensor, " image"]:  # fmt: skip
        """Negative log-likelihood in bits per pixel and channel, with finer levels and more noise.

        levels, lowest, highest  of the noise, grey levels
        draws                    pairs of noise and its negative per level
        """
        return self._cost(x, levels, lowest, highest, draws) / math.log(2)

    def exact(self, x: Images) -> Float[Tensor, " image"]:
        """`bits_per_dimension` in nats."""
        return self.bits_per_dimension(x) * math.log(2)

    def loss(self, x: Images, generator: torch.Generator) -> Float[Tensor, ""]:
        """What training minimizes: the mean of e(s) / s^2, s drawn log-uniformly for every image.

        Times the width of the range of log s it is the integral in the likelihood.
        """
        drawn = torch.rand(len(x), generator=generator, device=generator.device)
        noise = torch.randn(x.shape, generator=generator, device=generator.device).to(x)
        # One image in each equal part of the range: the levels vary less from step to step.
        places = ((torch.arange(len(x), device=drawn.device) + drawn) / len(x)).to(x)
        lowest, highest = TRAINED
        sigma = (lowest * (highest / lowest) ** places)[:, None, None, None]
        errors = (x - self.denoised(x + sigma * noise)) / sigma
        return errors.square().mean()

    @torch.no_grad()
    def begin(self, x: Images) -> None:
        """Take the variance from crops of photographs."""
        self.variance.copy_(x.square().mean())

    def _cost(self, x: Images, levels: int, lowest: float, highest: float, draws: int) -> Tensor:
        return cost_by_denoising(
            x, lambda noisy, _: self.denoised(noisy), self.variance,
            levels=levels, lowest=lowest, highest=highest, draws=draws,
        )  # fmt: skip


def cost_by_denoising(
    x: Images,
    denoise: Callable[[Images, float], Images],
    variance: Float[Tensor, ""],
    *,
    levels: int,
    lowest: float,
    highest: float,
    draws: int,
) -> Float[Tensor, " image"]:
    """Negative log-likelihood, nats per number of an image; the formula is that of this module.

    denoise   noisy images and the standard deviation of their noise -> the images
    variance  of the data: its mean square
    levels    at the middle of equal steps of log s between `lowest` and `highest`
    draws     pairs of noise and its negative per level, the same for all images
    """
    step = math.log(highest / lowest) / levels
    noises = _noise(tuple(x.shape[1:]), levels, draws, x.dtype, x.device)
    integral = torch.zeros_like(x[:, 0, 0, 0])
    for index, noise in enumerate(noises):
        sigma = lowest * math.exp(step * (index + 0.5))
        noisy = (x + sigma * noise[:, None]).flatten(0, 1)
        errors = (x - torch.unflatten(denoise(noisy, sigma), 0, (len(noise), len(x)))) / sigma
        integral = integral + step * errors.square().flatten(2).mean(2).mean(0)
    total = variance + highest**2
    above = torch.log(total / highest**2) - variance / total + x.square().mean((1, 2, 3)) / total
    return math.log(2 * math.pi * math.e * lowest**2) / 2 + integral + above / 2


def _halve(convolutions: Sequence[nn.Conv2d]) -> None:
    """Let a denoiser begin as `x / 2`: two channels take a colour and its negative through all
    layers; the others are drawn at random and not used yet.

    From weights that are all random the network does not learn within minutes to remove noise that
    is stronger than the image.
    """
    first, *inner, last = (convolution.weight for convolution in convolutions)
    colors = first.shape[1]
    for weight in (first, *inner):
        nn.init.kaiming_normal_(weight, nonlinearity="relu")
        weight.mul_(0.5)
        weight[: 2 * colors] = 0
    last.zero_()
    for color in range(colors):
        for channel, sign in ((2 * color, 1.0), (2 * color + 1, -1.0)):
            first[channel, color, 1, 1] = sign
            for weight in inner:
                weight[channel, channel, 1, 1] = 1
            last[color, channel, 1, 1] = sign / 2


@functools.cache  # never emptied: CUDA graphs that were captured go on reading it
def _noise(
    shape: tuple[int, ...], levels: int, draws: int, dtype: torch.dtype, device: torch.device
) -> Float[Tensor, "level draw color height width"]:
    """Noise of mean square 1 and its negative, drawn on the CPU.

    With its norm fixed the mean error of a linear denoiser is as with Gaussian noise, and varies
    less; with pairs the error's part that is odd in the noise vanishes.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(levels, draws, *shape, generator=generator, dtype=torch.float64)
    noise = noise / noise.square().mean((2, 3, 4), keepdim=True).sqrt()
    return torch.cat([noise, -noise], 1).to(device=device, dtype=dtype)
