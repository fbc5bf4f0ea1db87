"""Alignment: maps and families by hand, and units of the analytic network that are known."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_visualize import setup_of

from diversevis.errors import InputError
from diversevis.experiment.measure import flat, spread
from diversevis.experiment.subject import subject_of
from diversevis.measures.affine import Maps, grid_of_maps, limited, matrices, resample
from diversevis.measures.align import numbers_of
from diversevis.measures.catalogue import measure
from diversevis.measures.families import (
    adjusted_rand,
    families_of,
    silhouettes,
    similarities,
    structure_of,
)
from diversevis.measures.matching import LeftOut, match
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
    assert structure_of(families.divisions[0, 0]) == "strong"
    in_order = families.labels[families.order]
    assert (np.diff(in_order) != 0).sum() == 2  # families stand together


def test_alike_parts_are_not_cut_apart():
    """Pairs that agree perfectly, 0.9 alike within a block and 0 between blocks: the clearest cut
    is that into pairs, but the families are the blocks."""
    block, pair = np.arange(24) // 8, np.arange(24) // 2
    shares = np.where(block[:, None] == block, 0.9, 0.0)
    shares[pair[:, None] == pair] = 1
    families = families_of(shares)
    assert families.members() == [list(range(first, first + 8)) for first in (0, 8, 16)]


def test_random_shares_have_no_families():
    shares = np.random.default_rng(0).uniform(0.2, 0.8, (40, 40))
    families = families_of(shares)
    assert structure_of(families.divisions[0, 0]) == "none"
    assert set(families.labels) == {1}


def test_two_units_are_no_families():
    families = families_of(np.array([[1.0, 0.2], [0.1, 1.0]]))
    assert families.labels.tolist() == [1, 1]
    assert len(families.divisions) == 0


def test_odd_units_do_not_hide_families():
    """Two units apart from all: a single division would leave the two blocks together."""
    shares, labels = blocks([8, 8, 2], within=0.9, between=0.7)
    shares[16:, :16] = shares[:16, 16:] = 0
    families = families_of(shares)
    assert adjusted_rand(families.labels, labels) == 1
    (whole, _), *parts = families.divisions.tolist()
    assert whole > 0.4
    assert len(parts) == 3  # of the 16, and of both blocks, in which all distances are equal


def test_units_that_align_are_not_divided():
    """Parts that align to 0.9: clear as they are, they are a family."""
    shares, _ = blocks([8, 8], within=0.999, between=0.9)
    families = families_of(shares)
    assert set(families.labels) == {1}
    assert families.divisions[0, 0] > 0.9


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


def test_units_share_at_least_their_own_images(axes):
    shares = measure(axes, "align").arrays["shares"]
    own = axes.responses.mean(1) / axes.best_responses()
    assert (shares.diagonal() >= own - 1e-4).all()
    first = measure(axes, "align").arrays["first_pass"]
    assert (shares >= first).all()


def test_simple_images_drive_complex_units_only():
    """A simple unit's images lie at an angle t around its filter, and a linear response to them is
    cos t: the energy is cos^2 t or more. The n phases of a complex unit's images cancel in a linear
    response: their mean is 0, however they are moved."""
    simple, complexes = subject("layer=simple", "unit=0"), subject("layer=complex", "unit=0")
    settings = simple.settings["align"]
    there = match(simple.images, complexes, settings, lambda done: None).shares.item()
    back = match(complexes.images, simple, settings, lambda done: None).shares.item()
    cosine = (simple.responses.mean() / simple.best_responses()).item()
    assert cosine**2 - 0.01 < there < 1.001
    assert there > 0.9
    assert abs(back) < 0.15


def test_shuffled_images_align_with_nothing(axes):
    """Pixels in another order hold all frequencies: little of them is a unit's."""
    pixels = torch.randperm(21 * 21, generator=torch.Generator().manual_seed(0))
    shuffled = axes.images.flatten(3)[..., pixels].unflatten(3, (21, 21))
    matches = match(shuffled, axes, axes.settings["align"], lambda done: None)
    assert matches.shares.max() < 0.3


def test_hopeless_pairs_are_counted(axes):
    """Colour axes never meet: 32 of 64 pairs are left out, and none of the sample was lost. What is
    left out keeps the share of the first pass."""
    settings = axes.settings["align"]
    assert match(axes.images, axes, settings, lambda done: None).left_out[:3] == (0, 4, 32)
    nothing = match(axes.images, axes, replace(settings, hopeful=1.0), lambda done: None)
    left_out = nothing.left_out
    assert left_out[1:3] == (4, 64 - int(nothing.refined.sum()))
    assert left_out.gained > 0.01
    assert torch.equal(nothing.shares, nothing.first)


def test_no_pair_need_go_on(axes):
    settings = replace(axes.settings["align"], hopeful=1.0, checked=0)
    matches = match(axes.images[:1], axes.take([4]), settings, lambda done: None)
    assert not matches.refined.any()
    assert matches.left_out[:3] == (0, 0, 1)


def test_shares_count_from_zero_to_one():
    """A unit that others' images suppress to -7 times its best response is only unlike them."""
    shares = np.array([[1.0, -7.0], [0.25, 1.4]])
    assert similarities(shares)[0, 1] == pytest.approx(0.125)
    assert similarities(shares)[1, 1] == 1
    maps = Maps(torch.zeros(2, 2, 6), torch.zeros(2, 2, dtype=torch.bool), torch.ones(2, 2))
    numbers = numbers_of(shares, maps, families_of(shares), [{"unit": 0}, {"unit": 1}])
    assert numbers[0]["asymmetry"] == pytest.approx(-0.25)
    assert numbers[0]["nearest"][0]["there"] == -7


def test_what_blocks_left_out_is_joined():
    joined = LeftOut.joined([
        LeftOut(1, 4, 30, 0.1), LeftOut(0, 0, 0, math.nan), LeftOut(3, 12, 20, 0.3)
    ])  # fmt: skip
    assert joined[:3] == (4, 16, 50)
    assert joined.gained == pytest.approx(0.25)
    assert math.isnan(LeftOut.joined([LeftOut(0, 0, 0, math.nan)]).gained)


def test_numbers_of_a_unit(axes):
    measured = measure(axes, "align")
    numbers, arrays = measured.numbers, measured.arrays
    shares = arrays["shares"].double().numpy()
    first = numbers[0]
    assert first["family_size"] == 4
    assert sum(of_unit["typical"] for of_unit in numbers) == 2  # one in a family
    likeness = (shares + shares.T) / 2
    assert first["to_family"] == pytest.approx(likeness[0, 1:4].mean().clip(0, 1), abs=1e-6)
    assert first["to_others"] == pytest.approx(0, abs=1e-3)
    assert first["to_nearest"] == pytest.approx(likeness[0, 1:].max(), abs=1e-6)
    assert first["asymmetry"] == pytest.approx((shares[0] - shares[:, 0])[1:].mean(), abs=1e-6)
    nearest = first["nearest"][0]
    row = list(axes.units).index(nearest["unit"])
    assert nearest["there"] == pytest.approx(shares[0, row])
    assert nearest["back"] == pytest.approx(shares[row, 0])
    # families are labels: their mean over seeds would mean nothing
    (entry,) = spread([[dict(flat("align", first))]])
    assert "align.to_family" in entry
    assert not {"align.family", "align.typical"} & {*entry}


def test_shown_images_drive_the_unit(axes):
    """The nearest unit's best image, moved, is at the norm and drives the unit about as told."""
    measured = measure(axes, "align")
    shown = measured.arrays["images"]
    assert torch.equal(shown[:, 0], axes.best_images())
    lengths = torch.linalg.vector_norm(shown[:, :4].flatten(2), dim=2)
    assert torch.allclose(lengths, torch.tensor(axes.norm), rtol=1e-4)
    answers = axes.respond_own()(shown[:, 1:2])[:, 0] / axes.best_responses()
    told = torch.tensor([of_unit["nearest"][0]["back"] for of_unit in measured.numbers])
    assert (answers - told).abs().max() < 0.05


def test_units_left_out_have_no_numbers(axes):
    dead = replace(axes, alive=(False, *axes.alive[1:]), sampled=(*axes.sampled[:-1], False))
    measured = measure(dead, "align")
    taken = [of_unit is not None for of_unit in measured.numbers]
    assert taken == [False, *[True] * 6, False]
    for name in ("shares", "maps", "sign", "images"):
        assert measured.arrays[name][0].isnan().all(), name
        assert len(measured.arrays[name]) == 8
    assert measured.arrays["shares"][1:7, 1:7].isfinite().all()
    assert sorted(measured.arrays["order"].tolist()) == [*range(1, 7)]


def test_single_unit_is_refused(axes):
    with pytest.raises(InputError, match=r"and 1 of 1 can be compared\. Make a run of several"):
        measure(axes.take([0]), "align")
    below = replace(axes, best=-torch.ones(8), responses=-torch.ones_like(axes.responses))
    with pytest.raises(InputError, match="and 0 of 8 can be compared"):
        measure(below, "align")


def test_alignment_does_not_depend_on_batches(axes):
    """A batch smaller than a unit's images, and than the maps of a grid."""
    few = axes.take([0, 2, 4])
    numbers = [measure(replace(few, batch=batch), "align").arrays["shares"] for batch in (7, 1000)]
    assert torch.allclose(*numbers, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rotations": 0}, r"measure\.align\.rotations=0 must be 1 or more"),
        ({"scales": [0.7, 1.4]}, "with 1 among them"),
        ({"scales": [0.3, 1.0]}, "must be from 0.5 to 2"),
        ({"shifts": [0.6]}, "must be above 0 and at most 0.5"),
        ({"hopeful": 1.5}, r"measure\.align\.hopeful=1\.5 must be from 0 to 1"),
        ({"steps": -1}, r"measure\.align\.steps=-1 must be 0 or more"),
    ],
)
def test_settings_are_checked(axes, change, message):
    with pytest.raises(InputError, match=message):
        replace(axes.settings["align"], **change)


@pytest.mark.slow
def test_families_of_complex_layer_are_colour_axes():
    complexes = subject("layer=complex", "unit=all")
    measured = measure(complexes, "align")
    families = np.array([int(of_unit["family"]) for of_unit in measured.numbers])
    assert adjusted_rand(families, np.arange(72) // 24) == 1
