"""Smooth deformations: their size, the resampling's own error, and units whose R is known."""

import math

import pytest
import torch
from torch.nn import functional

from diversevis.measures import deformation
from diversevis.measures.deformation import Deformation, deform, displacements, ratio_and_error


def settings(**changes):
    plain = {"deltas": [0.5, 1.0, 2.0], "delta": 1.0, "draws": 8, "cutoff": 3.0}
    return Deformation(**plain | changes)


def smooth(*shape):
    """Natural-looking images of norm 1."""
    x = functional.avg_pool2d(torch.randn(*shape).flatten(0, 1), 3, 1, 1).reshape(shape)
    return x / torch.linalg.vector_norm(x, dim=(2, 3, 4), keepdim=True)


def test_zero_deformation_returns_the_image():
    images = torch.randn(2, 3, 3, 17, 24)
    same = deform(images, torch.zeros(3, 2, 17, 24))
    assert (same - images).abs().max().item() < 3e-5 * images.abs().max().item()


def test_displacement_of_one_pixel_moves_pixels():
    """Exact for an image that is flat where its mirrored continuation would matter."""
    images = torch.zeros(1, 1, 3, 32, 32, dtype=torch.float64)
    v, u = torch.meshgrid(*[torch.arange(32.0, dtype=torch.float64)] * 2, indexing="ij")
    images[..., :, :] = torch.exp(-((v - 15) ** 2 + (u - 14) ** 2) / 8)
    step = torch.zeros(1, 2, 32, 32, dtype=torch.float64)
    step[:, 1] = 1.0
    moved = deform(images, step)
    assert torch.allclose(moved[..., 4:-4, 4:-4], images[..., 4:-4, 5:-3], atol=1e-6)


@pytest.mark.parametrize(("frequency", "error"), [(0.1, 0.005), (0.3, 0.015), (0.45, 0.04)])
def test_resampling_is_sharper_than_cubic_interpolation(frequency, error):
    """Gratings at displaced places have a closed form."""
    side, fields = 24, 2 * displacements((24, 24), 3.0, (8,), torch.Generator().manual_seed(1))
    v, u = torch.meshgrid(*[torch.arange(side).float()] * 2, indexing="ij")

    def wave(down, right):
        return torch.cos(2 * math.pi * frequency * (0.8 * right + 0.6 * down))

    image = wave(v, u).expand(1, 8, 3, side, side)
    expected = wave(v + fields[:, 0], u + fields[:, 1])[None, :, None]
    places = torch.stack([u + fields[:, 1], v + fields[:, 0]], -1) * 2 / (side - 1) - 1
    cubic = functional.grid_sample(image[0], places, "bicubic", "reflection", True)[None]
    inside = (..., slice(4, -4), slice(4, -4))
    ours, theirs = (
        ((found - expected)[inside].square().mean() / expected[inside].square().mean()).sqrt()
        for found in (deform(image, fields), cubic)
    )
    assert ours.item() < error
    assert ours.item() < theirs.item() / 2


def test_displacements_have_size_and_fixed_border():
    """Closed form of the mean square: each mode has variance 1/(i^2 + j^2), and sin^2 a mean of
    half on either axis."""
    fields = displacements((33, 33), 3.0, (4000,), torch.Generator().manual_seed(0))
    modes = sum(
        1 / (i**2 + j**2) for i in range(1, 4) for j in range(1, 4) if math.hypot(i, j) < 3.5
    )
    expected = 4 / (math.pi * math.log(3)) * modes / 4 * (32 / 33) ** 2
    assert fields.square().mean().item() == pytest.approx(expected, rel=0.03)
    border = torch.cat([fields[..., 0, :], fields[..., -1, :], fields[..., 0], fields[..., -1]])
    assert border.abs().max().item() < 1e-5
    assert settings().largest((33, 40)) == pytest.approx(33 / (3 * math.pi))


def test_random_phases_keep_spectrum_and_colours():
    change, noise = torch.randn(2, 4, 3, 9, 12), torch.randn(4, 3, 9, 12)
    found = deformation.with_random_phases(change, noise)
    before, after = (torch.fft.rfft2(x) for x in (change, found))
    inner = (..., slice(1, None), slice(1, 6))  # the others are real for a real image
    assert torch.allclose(after.abs()[inner], before.abs()[inner], rtol=1e-3, atol=1e-3)
    ratios = [(x[:, :, 1] / x[:, :, 0])[inner] for x in (before, after)]
    assert torch.allclose(*ratios, rtol=1e-2, atol=1e-2)
    assert (found - change).abs().mean() > 0.5


def test_stimuli_have_equal_norm():
    shown = []

    def respond(x):
        shown.append(x)
        return x.flatten(2).sum(2)

    images = 7 * smooth(2, 3, 3, 16, 16)
    settings(deltas=[1.0], draws=2)(respond, images, torch.Generator().manual_seed(0))
    for x in shown:
        norms = torch.linalg.vector_norm(x, dim=(2, 3, 4))
        assert torch.allclose(norms, torch.full_like(norms, 7.0), rtol=1e-4)
    _, white, matched = torch.split(shown[1], 3, dim=1)
    assert not torch.allclose(white, matched)
    change, own = torch.randn(2, 3, 3, 16, 16), torch.randn(3, 3, 16, 16)
    eta = torch.rand(2, 1, 1, 1, 1)
    for noise in deformation.noises(change, own, eta):
        sizes = torch.linalg.vector_norm(noise, dim=(2, 3, 4))
        assert torch.allclose(sizes, eta[:, :, 0, 0, 0].expand_as(sizes), rtol=1e-5)


def test_random_projection_has_stability_one():
    """Both changes have the same norm, and a random filter knows no direction: R is 1, where they
    are small. (Bringing large noise back to the norm takes a part of it: R is larger.)"""
    filters = torch.randn(400, 3, 16, 16)
    images = smooth(1, 3, 3, 16, 16).expand(400, -1, -1, -1, -1)

    def respond(x):
        return torch.einsum("uichw,uchw->ui", x, filters)

    small = settings(deltas=[0.25], delta=0.25, draws=16)
    found = small(respond, images, torch.Generator().manual_seed(0))
    assert found["stability"].median().item() == pytest.approx(1, abs=0.15)
    assert found["stability_strict"].median().item() == pytest.approx(1, abs=0.15)


def test_large_displacements_and_silent_units_are_nan():
    images = smooth(2, 2, 3, 8, 8)  # at most 8 / (3 pi) = 0.85 pixels

    def respond(x):
        return torch.stack([x[0].sum((1, 2, 3)), torch.zeros(x.shape[1])])

    found = settings()(respond, images, torch.Generator().manual_seed(0))
    assert found["stability"][0].isfinite().tolist() == [True, False, False]
    assert found["stability"][1].isnan().all()  # a constant or dead unit: 0 / 0
    assert found["kept"][1].isnan().all()
    assert found["deformed"][:, 1:].isnan().all()


def test_error_equals_the_jackknife():
    above, below = torch.rand(1, 6), torch.rand(1, 6)
    ratio, error = ratio_and_error(above, below)
    without = [(above.sum() - above[0, i]) / (below.sum() - below[0, i]) for i in range(6)]
    mean = sum(without) / 6
    expected = math.sqrt(5 / 6 * sum((one - mean) ** 2 for one in without))
    assert ratio.item() == pytest.approx((above.mean() / below.mean()).item())
    assert error.item() == pytest.approx(expected, rel=1e-4)
    assert ratio_and_error(above[:, :1], below[:, :1])[1].isnan().all()


def test_both_sums_of_cosines_agree():
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(2, 3, 3, 17, 24, generator=generator)
    fields = 2 * displacements((17, 24), 3.0, (3,), generator)
    assert torch.allclose(deform(images, fields), deform(images, fields, by_rows=True), atol=1e-4)
