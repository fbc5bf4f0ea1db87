"""Alignment: maps and families by hand, and units of the analytic network that are known."""

import math

import numpy as np
import pytest
import torch
from test_visualize import setup_of

from diversevis.errors import InputError
from diversevis.experiment.measure import spread
from diversevis.experiment.subject import subject_of
from diversevis.measures.affine import Maps, grid_of_maps, limited, matrices, resample
from diversevis.measures.catalogue import measure
from diversevis.measures.families import adjusted_rand, families_of, silhouettes
from diversevis.measures.matching import Align, match
from diversevis.method.visualize import visualize

QUICK = ("measure.align.steps=20", "measure.align.shifts=[0.08]", "measure.align.checked=4", "n=4",
         "optimizer.steps=40", "optimizer.search_steps=30")  # fmt: skip


def one_map(*, right=0.0, down=0.0, degrees=0.0, scale=1.0, b=0.0, c=0.0, mirrored=False):
    parameters = [right, down, math.radians(degrees), math.log(scale), b, c]
    return Maps(torch.tensor([parameters]), torch.tensor([mirrored]), torch.ones(1))


def moved(image, size=None, **map_):
    """An image [h, w] under a map."""
    return resample(image[None, None, None], one_map(**map_), size or tuple(image.shape))[0, 0, 0]


@pytest.fixture
def image():
    return torch.randn(10, 10)


# -- maps -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(10, 10), (7, 12), (1, 5), (1, 1)])
def test_identity_returns_the_image(size):
    image = torch.randn(size)
    assert torch.allclose(moved(image), image, atol=1e-5)


def test_quarter_turns_and_mirrors_are_exact(image):
    assert torch.allclose(moved(image, degrees=90), image.rot90(1), atol=1e-4)
    assert torch.allclose(moved(image, degrees=180), image.rot90(2), atol=1e-4)
    assert torch.allclose(moved(image, mirrored=True), image.flip(1), atol=1e-4)
    # the mirror comes first, then the turn
    both = moved(image, mirrored=True, degrees=90)
    assert torch.allclose(both, image.flip(1).rot90(1), atol=1e-4)


def test_shifts_leave_grey_behind(image):
    shifted = moved(image, right=0.2, down=-0.1)  # of 10 pixels: 2 to the right, 1 up
    assert torch.allclose(shifted[:-1, 2:], image[1:, :-2], atol=1e-4)
    assert shifted[-1].abs().max() < 1e-4
    assert shifted[:, :2].abs().max() < 1e-4


def test_shrinking_turns_fine_patterns_grey():
    """Columns +1, -1: at half the size they lie beyond Nyquist."""
    stripes = torch.tensor([1.0, -1.0]).repeat(21, 11)[:, :21]
    small = moved(stripes, scale=0.5)
    assert small[8:13, 8:13].abs().max() < 0.1
    assert moved(torch.ones(21, 21), scale=0.5)[8:13, 8:13].sub(1).abs().max() < 1e-4


def test_other_grids_are_centre_on_centre(image):
    larger = moved(image, size=(14, 16))
    assert torch.allclose(larger[2:12, 3:13], image, atol=1e-4)
    assert larger[:2].abs().max() < 1e-4
    assert torch.allclose(moved(larger, size=(10, 10)), image, atol=1e-4)


def test_matrices_say_where_points_go():
    """A point to the right goes up under a quarter turn: counter-clockwise for the eye."""
    matrix = matrices(one_map(degrees=90, scale=2, right=0.1), (10, 20))[0]
    assert torch.allclose(matrix @ torch.tensor([1.0, 0, 1]), torch.tensor([2.0, -2]), atol=1e-5)
    stretched = matrices(one_map(b=math.log(2), mirrored=True), (10, 10))[0]
    expected = torch.tensor([[-2.0, 0, 0], [0, 0.5, 0]])
    assert torch.allclose(stretched, expected, atol=1e-5)


def test_limits_hold_in_all_directions():
    wild = 5 * torch.randn(200, 6)
    kept = limited(wild)
    maps = Maps(kept, torch.zeros(200, dtype=torch.bool), torch.ones(200))
    parts = torch.linalg.svdvals(matrices(maps, (10, 10))[..., :2])
    assert parts.max() < 2.001
    assert parts.min() > 0.499
    assert kept[:, :2].abs().max() <= 0.5
    inside = 0.2 * torch.ones(1, 6)
    assert torch.allclose(limited(inside), inside)


def test_grid_holds_the_identity():
    grid = grid_of_maps(16, [0.7, 1.0, 1.4], [0.1])
    assert grid.parameters.shape == (3, 2, 16, 5, 6)
    identity = (grid.parameters.abs().sum(-1) == 0) & ~grid.reflected
    assert identity.sum() == 1


def test_gradients_are_finite_at_the_identity(image):
    maps = one_map()
    parameters = maps.parameters.requires_grad_(True)
    x = resample(image[None, None, None], maps._replace(parameters=parameters), (10, 10))
    (gradient,) = torch.autograd.grad(x.square().sum(), parameters)
    assert gradient.isfinite().all()


# -- families -------------------------------------------------------------------------------------


def test_silhouettes_by_hand():
    """Points 0, 1 and 4 on a line, the first two a family: a = 1, b = 4 and 3; alone: 0."""
    distances = np.abs(np.subtract.outer([0.0, 1, 4], [0.0, 1, 4]))
    values = silhouettes(distances, np.array([1, 1, 2]))
    assert values.tolist() == pytest.approx([3 / 4, 2 / 3, 0])


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([1, 1, 2, 2], [2, 2, 1, 1], 1.0),
        ([1, 1, 2, 2], [1, 1, 1, 2], 0.0),
        # Hubert & Arabie's formula: 2 pairs together, 4 and 6 in the partitions, of 15
        ([1, 1, 1, 2, 2, 3], [1, 1, 2, 2, 2, 3], (2 - 16 / 15) / (4 - 16 / 15)),
        ([1, 1, 1], [1, 1, 1], None),
    ],
)
def test_adjusted_rand_by_hand(first, second, expected):
    value = adjusted_rand(np.array(first), np.array(second))
    assert value is None if expected is None else value == pytest.approx(expected)


def test_shuffled_families_do_not_agree():
    generator = np.random.default_rng(0)
    labels = np.repeat([1, 2, 3], 24)
    values = [adjusted_rand(labels, generator.permutation(labels)) for _ in range(50)]
    assert abs(np.mean(values)) < 0.02


def blocks(sizes, within=0.9, between=0.1):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return np.where(labels[:, None] == labels, within, between), labels


def test_families_are_the_blocks():
    shares, labels = blocks([5, 9, 3])
    order = np.random.default_rng(1).permutation(17)
    families = families_of(shares[np.ix_(order, order)])
    assert adjusted_rand(families.labels, labels[order]) == 1
    assert np.bincount(families.labels)[1:].tolist() == [9, 5, 3]  # the largest is the first
    assert families.structure == "strong"
    in_order = families.labels[families.order]
    assert (np.diff(in_order) != 0).sum() == 2  # families stand together


def test_random_shares_have_no_families():
    shares = np.random.default_rng(0).uniform(0.2, 0.8, (40, 40))
    families = families_of(shares)
    assert families.structure == "none"
    assert set(families.labels) == {1}


def test_two_units_are_no_families():
    families = families_of(np.array([[1.0, 0.2], [0.1, 1.0]]))
    assert families.labels.tolist() == [1, 1]
    assert len(families.means) == 0


# -- units that are known -------------------------------------------------------------------------


def subject(*words):
    setup = setup_of(*QUICK, *words)
    return subject_of(setup, visualize(setup, range(len(setup.targets.units))))


@pytest.fixture(scope="module")
def axes():
    """Complex units of wavelengths 4, 6, 9 of two colour axes, two orientations: pair p has the
    axis p // 24, the wavelength p // 8 % 3 and the orientation p % 8."""
    return subject("layer=complex", "unit=[0,3,8,16,24,27,32,40]")


def test_complex_units_align_within_their_axis(axes):
    measured = measure(axes, "align")
    shares = measured.arrays["shares"]
    assert shares[:4, 4:].abs().max() < 1e-3  # luminance and red-green never meet
    assert shares[4:, :4].abs().max() < 1e-3
    near = [[0, 1, 2], [2, 3]]  # wavelengths 4 and 6, 6 and 9: a scale of 1.5
    for part in (np.ix_(rows, rows) for rows in near):
        assert shares[part].min() > 0.97
    assert 0.85 < shares[0, 3] < 0.985  # 4 and 9: 2.25 is beyond the largest scale, 2
    assert 0.85 < shares[3, 0] < 0.985
    families = [numbers["family"] for numbers in measured.numbers]
    assert families == ["1"] * 4 + ["2"] * 4
    assert all(numbers["silhouette"] > 0.9 for numbers in measured.numbers)
