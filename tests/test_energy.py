import math

import pytest
import torch
from conftest import open_model

from diversevis.models.energy import (
    EnergyNetwork,
    free_side,
    gabor_pairs,
    subfield_centers,
)
from diversevis.models.load import load
from diversevis.models.receptive_field import unpad


def test_gabor_pairs_are_orthonormal_without_mean():
    pairs = gabor_pairs().double().reshape(72, 2, -1)
    products = pairs @ pairs.mT
    assert torch.allclose(products, torch.eye(2).double().expand(72, 2, 2), atol=1e-6)
    assert gabor_pairs().double().sum((2, 3)).abs().max() < 1e-5


def test_colour_axes_are_orthogonal():
    filters = gabor_pairs().double().reshape(3, 24, 2, 3, -1)
    for a, b in [(0, 1), (0, 2), (1, 2)]:
        same_shape = (filters[a] * filters[b]).sum((2, 3))
        assert same_shape.abs().max() < 1e-6


def test_energy_is_constant_over_phases():
    """Closed form: a mix of the pair with norm r has energy r^2, whatever the phase."""
    even, odd = gabor_pairs().reshape(72, 2, 3, 21, 21)[5]
    phases = torch.arange(12) * 2 * math.pi / 12
    images = 3.0 * (
        phases.cos()[:, None, None, None] * even + phases.sin()[:, None, None, None] * odd
    )
    network = EnergyNetwork()
    energy = network.complex(network.simple(images).square())[:, 5, 0, 0]
    assert torch.allclose(energy, torch.full((12,), 9.0), rtol=1e-4)
    linear = network.simple(images)[:, 10, 0, 0]
    assert torch.allclose(linear, 3 * phases.cos(), atol=1e-5)


def test_pooled_layers_are_means_of_energies(energy):
    opened = open_model(energy)
    sizes = {layer.name: opened.field(layer) for layer in opened.traced.layers}
    assert {name: field.size[0] for name, field in sizes.items()} == {
        "simple": 21, "complex": 21, "shift": 29, "bipartite": 33,
        "sparse": 21, "sparse_energy": 21,
        **{f"bipartite{share}{part}": 45 for share in (25, 50, 75) for part in ("", ".fixed", ".free")},
    }  # fmt: skip
    image = torch.randn(1, 3, 33, 33)
    maps = unpad(load(opened, opened.layer("complex")).fast)(image)[0]
    assert maps.shape[2:] == (13, 13)
    shift = unpad(load(opened, opened.layer("shift")).fast)(image)[0]
    assert torch.allclose(shift[0, :, 1, 2], maps[0, :, 1:10, 2:11].mean((1, 2)), rtol=1e-4)
    both = unpad(load(opened, opened.layer("bipartite")).fast)(image)[0]
    expected = 0.5 * maps[0, :, 6, 0] + 0.5 * maps[0, :, :, 10:].mean((1, 2))
    assert torch.allclose(both[0, :, 0, 0], expected, rtol=1e-4)


@pytest.mark.parametrize("share", [25, 50, 75])
def test_subfields_share_the_best_image(energy, share):
    """Closed form: `sqrt(1-q) w + sqrt(q) v`, v the best image of the free subfield, is the best
    image of norm 1, and the response to it is 1."""
    opened = open_model(energy)
    respond = unpad(load(opened, opened.layer(f"bipartite{share}")).fast)
    for pair in (0, 9, 23, 70):
        filters = gabor_pairs()[2 * pair : 2 * pair + 2]
        fixed, free = (shifted(filters, at) for at in subfield_centers(pair))
        near = torch.stack([
            shifted(free, (down, right)).flatten(1) for down in (-3, 0, 3) for right in (-3, 0, 3)
        ]).flatten(0, 1).double()  # fmt: skip
        best = torch.linalg.svd(near, full_matrices=False).Vh[0].float().reshape(3, 45, 45)
        assert abs((best * fixed[0]).sum()) < 0.01
        q = share / 100
        mixed = math.sqrt(1 - q) * fixed[0] + math.sqrt(q) * best
        images = torch.stack([mixed / mixed.norm(), fixed[0], best, -fixed[0]])
        found = respond(images)[0][:, pair, 0, 0]
        expected = torch.tensor([1.0, math.sqrt(1 - q), math.sqrt(q), 0.0])
        assert torch.allclose(found, expected, atol=0.01)


def test_free_subfields_lie_on_eight_sides():
    for pair in range(16):
        (down, right), (free_down, free_right) = subfield_centers(pair)
        side = math.degrees(math.atan2(down - free_down, free_right - right))
        assert side % 360 == pytest.approx(free_side(pair))


def shifted(images, by):
    """The images in the middle of 45 x 45 pixels, moved down and right."""
    rim = (45 - images.shape[-1]) // 2
    return torch.roll(torch.nn.functional.pad(images, (rim,) * 4), by, (-2, -1))


def test_simple_units_are_rectified_linear(energy):
    opened = open_model(energy)
    assert opened.layer("simple").response == "convolution, before its ReLU"
    assert opened.layer("simple").features.name == "rectify"
