"""Denoiser: the likelihood by its errors against Gaussians in closed form, and what is homogeneous."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal

from diversevis.errors import InputError
from diversevis.priors.denoiser import TRAINED, Denoiser, cost_by_denoising

SMALL = {"channels": 6, "layers": 3}


def linear(matrix):
    """A denoiser: the noisy images times a matrix that depends on the level of noise."""

    def denoise(noisy, sigma):
        return (noisy.flatten(1) @ matrix(sigma).T).reshape(noisy.shape)

    return denoise


@pytest.mark.parametrize("highest", [64.0, 1e5])
def test_cost_is_that_of_a_white_gaussian(highest):
    """The best denoiser is known, and so is the rest above `highest`: they need not be integrated.

    Below `lowest` the error is taken as s^2, and is less by `(s^4 (2 v - q) + s^6) / (v + s^2)^2`,
    with q the mean square of the image: the integral over log s from 0 to `lowest` is added.
    """
    variance, lowest = 40.0**2, 4.0
    x = 40 * torch.randn(5, 3, 4, 6, dtype=torch.float64)
    denoise = linear(lambda sigma: variance / (variance + sigma**2) * torch.eye(72).double())
    cost = cost_by_denoising(
        x, denoise, torch.tensor(variance), levels=200, lowest=lowest, highest=highest, draws=1
    )
    total = variance + lowest**2
    exact = -Normal(0, math.sqrt(variance)).log_prob(x).mean((1, 2, 3))
    squares = x.square().mean((1, 2, 3))
    more = math.log(total / variance) + lowest**2 / total * (1 - squares / variance)
    assert torch.allclose(cost, exact + more / 2, atol=1e-6)


def test_cost_is_that_of_a_gaussian_texture():
    """Neighbours alike: the exact likelihood of every image, within 0.5 % of a nat."""
    places = torch.cartesian_prod(torch.arange(5.0), torch.arange(5.0)).double()
    covariance = 50**2 * torch.exp(-torch.cdist(places, places) / 4)
    gaussian = MultivariateNormal(torch.zeros(25).double(), covariance)
    x = gaussian.sample((6,)).reshape(6, 1, 5, 5)
    denoise = linear(
        lambda sigma: torch.linalg.solve(covariance + sigma**2 * torch.eye(25).double(), covariance)
    )
    cost = cost_by_denoising(
        x, denoise, covariance[0, 0], levels=300, lowest=0.05, highest=1e5, draws=20
    )
    exact = -gaussian.log_prob(x.flatten(1)) / 25
    assert torch.allclose(cost, exact, atol=0.005)
    assert exact.std() > 0.05


def random_denoiser(colors=3):
    """All of its weights drawn at random."""
    torch.manual_seed(1)
    denoiser = Denoiser(colors=colors, **SMALL)
    for value in denoiser.network.parameters():
        value.data = torch.randn_like(value) / 9
    return denoiser


def test_denoiser_begins_by_halving():
    x = 40 * torch.randn(2, 3, 9, 7)
    assert torch.allclose(Denoiser(colors=3, **SMALL).denoised(x), x / 2)


@pytest.mark.parametrize("sizes", [{"channels": 5, "layers": 3}, {"channels": 6, "layers": 1}])
def test_too_few_channels_or_layers_are_refused(sizes):
    with pytest.raises(InputError, match="at least 6 channels and 2 layers"):
        Denoiser(colors=3, **sizes)


def test_denoiser_is_homogeneous():
    denoiser = random_denoiser().double()
    x = torch.randn(2, 3, 9, 7, dtype=torch.float64)
    once = denoiser.denoised(x)
    assert not torch.allclose(denoiser.denoised(-x), -once)  # nor linear
    for factor in (1e-3, 0.5, 40.0):
        assert torch.allclose(denoiser.denoised(factor * x), factor * once, rtol=1e-9)


def test_gradients_equal_finite_differences():
    denoiser = random_denoiser(colors=1).double()
    x = 40 * torch.randn(2, 1, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(denoiser, (x,), eps=1e-5, atol=1e-7)


def test_cost_is_the_same_alone_and_among_others():
    """To the bit, with the gradients; and again."""
    denoiser = random_denoiser()
    x = 40 * torch.randn(9, 3, 13, 11)

    def found(part):
        part = part.clone().requires_grad_(True)
        costs = denoiser(part)
        return costs.detach(), torch.autograd.grad(costs.sum(), part)[0]

    many = found(x)
    for chosen in (slice(0, 1), slice(3, 9), slice(7, 9)):
        for few, all_of_them in zip(found(x[chosen]), many, strict=True):
            assert torch.equal(few, all_of_them[chosen])


def test_bits_per_dimension_are_a_finer_cost():
    denoiser = random_denoiser()
    x = 40 * torch.randn(3, 3, 8, 8)
    cost = denoiser(x).detach() / math.log(2)
    same = denoiser.bits_per_dimension(x, levels=4, lowest=4.0, highest=64.0, draws=1)
    assert torch.allclose(same, cost, rtol=1e-5)
    assert torch.allclose(denoiser.exact(x), denoiser.bits_per_dimension(x) * math.log(2))


def stars(count):
    """One pixel in fifty is bright or dark."""
    drawn = torch.rand(count, 1, 10, 10) < 0.02
    return 100 * drawn * torch.randn(count, 1, 10, 10)


def test_training_beats_the_best_linear_denoiser():
    """Closed form: the best linear denoiser multiplies by `v / (v + s^2)`, and its error over s^2
    is the same number, v the variance: the mean over log s is known."""
    torch.manual_seed(0)
    variance, (lowest, highest) = 0.02 * 100**2, TRAINED
    widths = [math.log(1 + variance / level**2) / 2 for level in TRAINED]
    of_linear = (widths[0] - widths[1]) / math.log(highest / lowest)
    denoiser, generator = Denoiser(colors=1, **SMALL), torch.Generator().manual_seed(0)
    x = stars(64)
    denoiser.begin(x)
    assert denoiser.variance.item() == pytest.approx(x.square().mean().item())
    adam = torch.optim.Adam(denoiser.parameters(), lr=0.01)
    falling = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 0.0, total_iters=300)
    for _ in range(300):
        adam.zero_grad()
        denoiser.loss(stars(64), generator).backward()
        adam.step()
        falling.step()
    judged = stars(2000)
    with torch.no_grad():
        begun = Denoiser(colors=1, **SMALL).loss(judged, generator)
        assert denoiser.loss(judged, generator).item() < 0.8 * of_linear < of_linear < begun.item()
