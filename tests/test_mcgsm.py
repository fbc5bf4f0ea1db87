"""Scale mixture: its density against the formula written out, Gaussians, and what it may look at."""

import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import norm
from torch.distributions import MultivariateNormal

from diversevis.priors.mcgsm import CONTRAST, ScaleMixture

SIZES = {"reach": 2, "components": 3, "scales": 2, "features": 4}
GAUSSIAN = {"reach": 2, "components": 1, "scales": 1, "features": 1}


def random_mixture(colors=3, gain=1.0, **sizes):
    """In float64, all of its parameters drawn at random."""
    torch.manual_seed(1)
    mixture = ScaleMixture(colors=colors, **sizes).double()
    for value in mixture.parameters():
        value.data = 0.4 * torch.randn_like(value)
    mixture.whitening.data = mixture.whitening.tril(-1) + torch.diag(
        0.5 + torch.rand(len(mixture.whitening)).double()
    )
    mixture.weights.data *= gain
    return mixture


def predictions(mixture, x, row, column, color):
    """Log weights, means and standard deviations of a grey level, from those read before it.

    The formula of the paper, with h put together number by number.
    """
    p = {name: value.detach().numpy() for name, value in mixture.named_parameters()}
    reach, (colors, height, width) = mixture.reach, x.shape
    steps = [(-up, right) for up in range(reach, 0, -1) for right in range(-reach, reach + 1)]
    steps += [(0, -left) for left in range(reach, 0, -1)]
    places = [(row + down, column + right) for down, right in steps]
    inside = [0 <= r < height and 0 <= c < width for r, c in places]
    h = [1.0, *(1.0 - known for known in inside)]
    for (r, c), known in zip(places, inside, strict=True):
        h += [x[k, r, c] / CONTRAST if known else 0.0 for k in range(colors)]
    h = np.array([*h, *(x[k, row, column] / CONTRAST for k in range(color))])
    known = len(h)
    white = p["whitening"][:known, :known] @ h
    unit = p["whitening"][known, known]
    energies = (p["features"][color, :, :known] @ white) ** 2
    found = []
    for c, s in np.ndindex(p["biases"].shape[1:]):
        energy = p["weights"][color, c] ** 2 @ energies
        weight = p["biases"][color, c, s] - np.exp(p["log_gains"][color, c, s]) / 2 * energy
        mean = p["predictors"][color, c, :known] @ white - p["whitening"][known, :known] @ h
        spread = np.exp(-p["log_precisions"][color, c, s] / 2)
        found.append((weight, CONTRAST * mean / unit, CONTRAST * spread / unit))
    weights, means, spreads = np.array(found).T
    return weights - logsumexp(weights), means, spreads


@pytest.mark.parametrize(("colors", "size"), [(3, (4, 3)), (1, (5, 6)), (3, (1, 1)), (3, (1, 5))])
def test_density_is_that_of_the_formula(colors, size):
    mixture = random_mixture(colors=colors, **SIZES)
    x = 60 * torch.randn(2, colors, *size, dtype=torch.float64)
    expected = np.zeros(x.shape)
    for index, color, row, column in np.ndindex(x.shape):
        image = x[index].numpy()
        weights, means, spreads = predictions(mixture, image, row, column, color)
        logs = norm.logpdf(image[color, row, column], means, spreads)
        expected[index, color, row, column] = -logsumexp(weights + logs)
    for model in (mixture, mixture.folded()):
        assert np.allclose(model.by_value(x).detach(), expected, rtol=1e-9)
        assert np.allclose(model(x).detach(), expected.mean((1, 2, 3)), rtol=1e-9)


def test_one_component_of_one_scale_is_a_gaussian():
    """Every grey level is linear in earlier ones plus independent noise: the precision matrix is
    `(1 - B)' D (1 - B)`."""
    mixture = random_mixture(gain=0.0, **GAUSSIAN)
    shape = (3, 3, 4)
    size = math.prod(shape)
    mixing, offset, spreads = np.zeros((size, size)), np.zeros(size), np.zeros(size)
    for at, (color, row, column) in enumerate(np.ndindex(shape)):
        _, (offset[at],), (spreads[at],) = predictions(mixture, np.zeros(shape), row, column, color)
        for one in range(size):
            unit = np.eye(size)[one].reshape(shape)
            mixing[at, one] = predictions(mixture, unit, row, column, color)[1][0] - offset[at]
    rest = np.eye(size) - mixing
    gaussian = MultivariateNormal(
        torch.tensor(np.linalg.solve(rest, offset)),
        precision_matrix=torch.tensor(rest.T @ np.diag(spreads**-2) @ rest),
    )
    x = 60 * torch.randn(4, *shape, dtype=torch.float64)
    assert torch.allclose(mixture(x), -gaussian.log_prob(x.flatten(1)) / size, rtol=1e-6)


@pytest.mark.parametrize("sizes", [SIZES, GAUSSIAN])
def test_density_integrates_to_one(sizes):
    """Of an image of 1 x 2 grey pixels, and of the second pixel whatever the first."""
    mixture = random_mixture(colors=1, **sizes).folded()
    levels, step = np.linspace(-1000, 1000, 101, retstep=True)
    first, second = np.meshgrid(levels, levels, indexing="ij")
    x = torch.tensor(np.stack([first, second], -1)).reshape(-1, 1, 1, 2)
    with torch.no_grad():
        density = torch.exp(-mixture.by_value(x)).reshape(101, 101, 2)
    assert density.prod(2).sum().item() * step**2 == pytest.approx(1, abs=1e-3)
    assert (density[40:61, :, 1].sum(1) * step - 1).abs().max().item() < 1e-3


def test_grey_levels_depend_on_earlier_neighbours_alone():
    mixture = random_mixture(**SIZES)
    x = 60 * torch.randn(1, 3, 7, 8, dtype=torch.float64, requires_grad=True)
    costs = mixture.by_value(x)
    for color, row, column in [(0, 3, 4), (1, 3, 4), (2, 6, 7), (2, 0, 0), (1, 2, 0)]:
        (gradient,) = torch.autograd.grad(costs[0, color, row, column], x, retain_graph=True)
        for k, r, c in np.ndindex(x.shape[1:]):
            above = r < row and row - r <= 2 and abs(c - column) <= 2
            left = r == row and 0 < column - c <= 2
            same = (r, c) == (row, column) and k <= color
            assert (gradient[0, k, r, c] != 0) == (above or left or same)


def test_gradients_equal_finite_differences():
    """With respect to the images, as in a run; to the parameters too, as in training."""
    mixture = random_mixture(**SIZES)
    x = 60 * torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    trained = [value for value in mixture.parameters() if value.requires_grad]

    def cost(x, *values):
        names = [name for name, value in mixture.named_parameters() if value.requires_grad]
        return torch.func.functional_call(mixture, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(cost, (x, *trained), eps=1e-5, atol=1e-6, fast_mode=True)
    assert torch.autograd.gradcheck(mixture.folded(), (x,), eps=1e-4, atol=1e-7)


def test_cost_is_the_same_alone_and_among_others():
    """To the bit, with the gradients."""
    mixture = ScaleMixture(colors=3, **SIZES).folded()
    x = 60 * torch.randn(9, 3, 13, 11)

    def found(part):
        part = part.clone().requires_grad_(True)
        costs = mixture(part)
        return costs.detach(), torch.autograd.grad(costs.sum(), part)[0]

    many = found(x)
    for chosen in (slice(0, 2), slice(3, 9), slice(7, 9)):
        for few, all_of_them in zip(found(x[chosen]), many, strict=True):
            assert torch.equal(few, all_of_them[chosen])
    assert torch.equal(found(x)[1], many[1])


def test_cost_stays_finite_far_from_photographs():
    mixture = ScaleMixture(colors=3, **SIZES)
    x = torch.stack([torch.zeros(3, 9, 9), 1e5 * torch.randn(3, 9, 9)]).requires_grad_(True)
    costs = mixture(x)
    (gradient,) = torch.autograd.grad(costs.sum(), x)
    assert costs.isfinite().all()
    assert gradient.isfinite().all()


def textures(count):
    """Random walks along rows with Laplacian steps, each with a contrast of its own, and noise."""
    uniform = torch.rand(count, 1, 10, 10) - 0.5
    steps = -uniform.sign() * torch.log1p(-2 * uniform.abs())
    contrasts = torch.exp(torch.randn(count, 1, 1, 1))
    return 8 * contrasts * steps.cumsum(3) + torch.rand(count, 1, 10, 10)


def test_mixture_begins_as_linear_prediction():
    """Closed form: `log(2 pi e r) / 2`, r the mean square that least squares leave."""
    torch.manual_seed(0)
    mixture = ScaleMixture(colors=1, **GAUSSIAN)
    x = textures(300)
    mixture.begin(x)
    for value in (mixture.predictors, mixture.weights):
        value.data.zero_()
    seen = np.pad(x[:, 0].numpy(), [(0, 0), (2, 0), (2, 2)])
    outside = np.pad(np.zeros((1, 10, 10)), [(0, 0), (2, 0), (2, 2)], constant_values=1)
    windows = [
        np.broadcast_to(values[:, r : r + 10, c : c + 10], (300, 10, 10)).ravel()
        for values in (seen, outside)
        for r, c in np.ndindex(3, 5)
        if (r, c) < (2, 2)
    ]
    h, y = np.stack([*windows, np.ones(30_000)], 1), x.flatten().numpy()
    rest = y - h @ np.linalg.lstsq(h, y, rcond=None)[0]
    expected = math.log(2 * math.pi * math.e * np.mean(rest**2)) / 2
    assert mixture(x).mean().item() == pytest.approx(expected, abs=1e-3)


def test_training_beats_a_gaussian():
    """On other images of the same source than those that either has seen."""
    torch.manual_seed(0)
    trained, judged = textures(4000), textures(500)
    flat = trained.flatten(1)
    gaussian = MultivariateNormal(flat.mean(0), torch.cov(flat.T))
    of_gaussian = -gaussian.log_prob(judged.flatten(1)).mean().item() / 100
    mixture = ScaleMixture(colors=1, **SIZES)
    mixture.begin(trained[:1000])
    begun = mixture(judged).mean().item()
    adam = torch.optim.Adam(mixture.parameters(), lr=0.02)
    for step in range(60):
        adam.zero_grad()
        mixture.loss(trained[64 * step :][:64], torch.Generator()).backward()
        adam.step()
    assert begun < of_gaussian
    assert mixture(judged).mean().item() < begun - 0.05
