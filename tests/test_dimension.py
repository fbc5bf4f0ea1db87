"""Dimension, paths, diversity index and the front's knee, all against closed forms."""

import itertools
import math

import pytest
import torch

from diversevis.measures import diversity
from diversevis.measures.dimension import Dimension, great_circle, participation
from diversevis.method.result import knee, undominated

SETTINGS = Dimension(points=7, connected=0.8)


def circle(n, norm=5.0, start=0.0):
    """n equally spaced images on a circle in the plane of two orthogonal ones."""
    basis = torch.linalg.qr(torch.randn(3 * 6 * 6, 2)).Q
    angles = start + torch.arange(n) * (2 * math.pi / n)
    flat = norm * torch.stack([angles.cos(), angles.sin()], 1) @ basis.T
    return flat.reshape(1, n, 3, 6, 6), basis


def test_participation_counts_directions():
    one = torch.randn(1, 1, 3, 6, 6).expand(-1, 5, -1, -1, -1)
    assert participation(one)[0].item() == pytest.approx(1)
    assert participation(circle(6)[0])[0].item() == pytest.approx(2, rel=1e-5)
    ratio, shares = participation(torch.eye(108)[:7].reshape(1, 7, 3, 6, 6))
    assert ratio.item() == pytest.approx(7)
    assert torch.allclose(shares, torch.full((1, 7), 1 / 7))
    noise = torch.randn(4, 6, 3, 30, 30)  # calls nothing one pattern: nearly as many as images
    assert (participation(noise)[0] > 5.9).all()


def test_great_circles_keep_the_norm():
    first, second = torch.randn(2, 3, 3, 5, 5)
    first = first / torch.linalg.vector_norm(first, dim=(1, 2, 3), keepdim=True)
    second = second / torch.linalg.vector_norm(second, dim=(1, 2, 3), keepdim=True)
    between, unique = great_circle(first, second, 3)
    assert unique.all()
    assert torch.allclose(between.square().sum((2, 3, 4)), torch.ones(3, 3), atol=1e-5)
    middle = first + second
    middle = middle / torch.linalg.vector_norm(middle, dim=(1, 2, 3), keepdim=True)
    assert torch.allclose(between[:, 1], middle, atol=1e-5)
    assert not great_circle(first, -first, 3)[1].any()
    same, unique = great_circle(first, first, 3)
    assert unique.all()
    assert torch.allclose(same, first[:, None].expand_as(same), atol=1e-5)


def test_energy_unit_has_one_group():
    images, basis = circle(6)

    def energy(x):
        return (x.flatten(2) @ basis).square().sum(2)

    paths = SETTINGS.paths(energy, images)
    smallest = paths[0].amin(1)
    assert smallest.isnan().sum().item() == 3
    assert smallest[~smallest.isnan()] == pytest.approx(1, rel=1e-4)
    assert SETTINGS.groups(paths[0], 6) == 1


def test_two_islands_are_two_groups():
    """A unit that wants either of two orthogonal patterns: half way, at 45 degrees, it has half."""
    islands = torch.eye(108)[:2]
    images = islands.repeat_interleave(2, 0).reshape(1, 4, 3, 6, 6)

    def respond(x):
        return (x.flatten(2) @ islands.T).amax(2).square()

    paths = SETTINGS.paths(respond, images)
    assert SETTINGS.groups(paths[0], 4) == 2
    assert paths[0].amin().item() == pytest.approx(0.5, rel=1e-4)
    silent = SETTINGS.paths(lambda x: torch.zeros(x.shape[:2]), images)
    assert silent.amin(2).isnan().all()
    assert SETTINGS.groups(silent[0], 4) == 4


@pytest.mark.parametrize("n", [2, 3, 6, 16])
def test_ends_of_the_diversity_index(n):
    """Both by brute force: a circle's chords, and a simplex around a pattern."""
    images, _ = circle(n, norm=1.0)
    pairs = list(itertools.combinations(range(n), 2))
    chords = [torch.linalg.vector_norm(images[0, i] - images[0, j]).item() for i, j in pairs]
    found = diversity.ends(n, diversity=0.1, fraction=None)
    assert found.complex == pytest.approx(sum(chords) / len(pairs), rel=1e-5)
    simplex = torch.eye(n, dtype=torch.float64) - 1 / n
    simplex = simplex / torch.linalg.vector_norm(simplex[0])
    apart = torch.linalg.vector_norm(simplex[0] - simplex[1]).item()
    angles = torch.linspace(0, math.pi / 2, 200001, dtype=torch.float64)
    total = angles.cos() + 0.1 * angles.sin() * apart / math.sqrt(2)
    best = angles[total.argmax()].sin().item() * apart
    assert found.simple == pytest.approx(best, rel=1e-4)
    kept = diversity.ends(n, diversity=0.3, fraction=0.8)
    assert kept.simple == pytest.approx(0.6 * apart)
    assert diversity.ends(n, diversity=None, fraction=None).simple == 0


def test_diversity_index_at_its_ends():
    found = diversity.ends(6, diversity=0.1, fraction=None)
    assert diversity.index(found.simple, found) == 0
    assert diversity.index(found.complex, found) == 1
    assert diversity.index(0.0, found) < 0  # images that are all one: a dead optimization
    assert diversity.index(math.sqrt(2), found) < 1  # noise is no circle
    heavy = diversity.ends(6, diversity=50.0, fraction=None)
    assert diversity.index(1.0, heavy) is None


def test_distances_in_grey_levels():
    images = torch.zeros(1, 2, 3, 4, 5)
    images[0, 1] = 6.0
    matrix = diversity.distance_matrix(images)
    assert matrix[0].tolist() == [[0, 6], [6, 0]]


def test_knee_of_a_front():
    """A unit with a circle of images loses nothing until they are all apart, then much."""
    responses, distances = [1.0, 1.0, 0.99, 0.6, 0.2], [0.0, 20.0, 32.0, 36.0, 40.0]
    assert knee(responses, distances) == 2
    assert undominated(responses, distances) == [1, 2, 3, 4]
    assert undominated([1.0, 0.9, 0.95], [1.0, 2.0, 3.0]) == [0, 2]  # the second is beaten twice
    assert knee([0.5, 1.0], [3.0, 3.0]) == 1  # one point is left
    sagging = [1.0, 0.5, 0.45, 0.4]  # nothing stands out: the end with the larger sum of shares
    assert knee(sagging, [0.0, 10.0, 20.0, 30.0]) == 3
    assert knee(sagging, [29.0, 29.2, 29.5, 30.0]) == 0
