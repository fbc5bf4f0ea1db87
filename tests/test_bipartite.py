"""Partly varying images, and the measure bipartite on units whose share and side are known."""

import math
from dataclasses import replace

import pytest
import torch
from test_measure_pictures import RECORD, entry, make_measure
from test_visualize import setup_of

import diversevis
from diversevis.experiment.subject import subject_of
from diversevis.measures.catalogue import measure
from diversevis.measures.half_planes import (
    SHARES,
    at_least,
    directions,
    envelope,
    fitted_share,
    fixed_parts,
    index_of,
    knee_of,
    model_curve,
    side_of,
)
from diversevis.measures.textures import Torus
from diversevis.method.visualize import visualize
from diversevis.models.energy import free_side, gabor_pairs, subfield_centers
from diversevis.pictures.draw import MEASURES, view_of

GRID = torch.tensor(SHARES)
LINEAR = (1 - GRID).sqrt()  # response of a linear unit to its best image with less energy
FEW = ("measure.bipartite.shown=32", "measure.bipartite.steps=40", "measure.bipartite.crops=24")
QUICK = ("n=2", "objective.diversity=0", "optimizer.steps=60")


def measured(layer, *units, words=FEW, through=None):
    """Numbers and curves of units of the analytic network.

    through  takes the response's place: a function of the response over the best one
    """
    listed = ",".join(map(str, units))
    setup = setup_of("model=energy", f"layer={layer}", f"unit=[{listed}]", *QUICK, *words)
    subject = subject_of(setup, visualize(setup, range(len(units))))
    if through is not None:
        best, plain = subject.best_responses(), subject.respond

        def respond(rows, batch):
            of_units = best[list(rows)][:, None]
            return lambda x: through(plain(rows, batch)(x) / of_units)

        subject = replace(subject, respond=respond)
    result = measure(subject, "bipartite")
    return result.numbers, result.arrays


def turned(a, b):
    """Degrees between two directions."""
    return abs((a - b + 180) % 360 - 180)


def test_linear_units_lose_exactly_their_share():
    """`|<w, g w>| / |g w| |w| = sqrt(1 - k)` in every direction, for any filter."""
    x = torch.randn(3, 3, 11, 8)
    for share in (0.05, 0.3, 0.5, 0.95):
        fixed = fixed_parts(x, directions(16)[None], share)
        kept = x[:, None] * fixed[:, :, None]
        along = (kept * x[:, None]).sum((2, 3, 4))
        found = (
            along / kept.square().sum((2, 3, 4)).sqrt() / x.square().sum((1, 2, 3)).sqrt()[:, None]
        )
        assert torch.allclose(found, torch.tensor(math.sqrt(1 - share)), atol=1e-4)
        assert ((fixed > 0) & (fixed < 1)).sum((2, 3)).max() <= 1


def test_everything_or_nothing_varies():
    x = torch.randn(1, 3, 5, 5)
    assert fixed_parts(x, directions(4)[None], 0.0).min() == 1
    assert fixed_parts(x, directions(4)[None], 1.0).max() == 0


def test_half_planes_point_counterclockwise():
    fixed = fixed_parts(torch.ones(1, 3, 9, 9), directions(4)[None], 4 / 9)[0]
    assert fixed[0, :, -1].max() == fixed[1, 0].max() == 0  # 0: right, 90: up
    assert fixed[2, :, 0].max() == fixed[3, -1].max() == 0
    for angle, part in zip(directions(4).tolist(), fixed, strict=True):
        assert turned(side_of(torch.ones(3, 9, 9), part), angle) < 5


def test_every_pixel_of_crops_has_mean_zero():
    """So a linear unit's mean response is 0, for any texture and choice of crops."""
    torus, texture = Torus(7, 5), torch.rand(2, 3, 12, 8)
    for count in (8, 30, 1000):
        corners = torus.corners(count, (0.3, 0.7))
        assert len(corners) == min(count, 96)
        assert torus.cut(texture, corners).mean(1).abs().max() < 1e-6
    assert len({tuple(corner) for corner in corners.tolist()}) == 96


def test_envelope_of_gabors_is_their_gaussian():
    """Whatever the phase; wavelength 9: a standard deviation of 4.05 pixels."""
    even, odd = gabor_pairs()[32:34]
    across = torch.arange(21) - 10.0
    expected = torch.exp(-(across[:, None] ** 2 + across**2) / (2 * 4.05**2))
    for wave in (even, odd, (even + odd) / math.sqrt(2)):
        assert (envelope(wave[None])[0] - expected).abs().mean() < 0.04


@pytest.mark.parametrize(
    ("q", "index"), [(0.0, 0.0), (0.25, 0.5), (0.5, 0.793), (0.75, 0.951), (1.0, 1.0)]
)
def test_model_has_its_closed_forms(q, index):
    """Index `3 q - 2 q^1.5`, knee `q + 0.2775`."""
    curve = model_curve(GRID, q, LINEAR)
    assert index_of(GRID, curve) == pytest.approx(index, abs=0.004)
    assert knee_of(GRID, curve) == pytest.approx(min(1, q + 0.2775), abs=0.002)
    share, kept, misfit = fitted_share(GRID, curve, LINEAR)
    assert (share, kept) == (pytest.approx(q), pytest.approx(1))
    assert misfit < 1e-6


def test_complex_curve_counts_the_largest_free_share():
    """`max(k, 1 - k)`: two halves of a Gabor, of which a half shifts, add without interference."""
    curve = torch.maximum(GRID, 1 - GRID)
    assert at_least(curve).tolist() == [1] * len(SHARES)
    assert index_of(GRID, curve) == pytest.approx(0.25, abs=0.004)
    assert index_of(GRID, at_least(curve)) == pytest.approx(1, abs=0.004)


def test_simple_units_have_index_zero():
    numbers, arrays = measured("simple", 0, 27, 100)
    for unit, curve in zip(numbers, arrays["curve"], strict=True):
        assert unit["index"] == pytest.approx(0, abs=0.003)
        assert unit["share"] == pytest.approx(0, abs=0.01)
        assert unit["side"] is None
        assert torch.allclose(curve, (1 - GRID).sqrt(), atol=0.003)


def test_complex_units_are_free_everywhere():
    numbers, _ = measured("complex", 3, 13, 21, words=())
    for unit in numbers:
        assert unit["index"] == pytest.approx(0.25, abs=0.06)  # closed form, of the ideal texture
        assert unit["index_at_least"] > 0.8
        assert unit["share"] > 0.9
        assert unit["dip"] > 0.3  # closed form: 0.5, of the ideal texture
        assert unit["side"] is None


def check_bipartite(layer, share, units, words=FEW):
    numbers, arrays = measured(layer, *units, words=words)
    for row, (unit, found) in enumerate(zip(units, numbers, strict=True)):
        assert found["share"] == pytest.approx(share, abs=0.1), unit
        assert turned(found["side"], free_side(unit)) < 20, unit
        assert 0.3 < found["index"] <= found["index_at_least"] < 1, unit
        assert found["mean"] > 0.85, unit
        (down, right), (free_down, free_right) = subfield_centers(unit)
        fixed = arrays["fixed"][row]
        assert fixed[22 + down, 22 + right] == 1, unit
        assert fixed[22 + free_down, 22 + free_right] == 0, unit
        assert not found["weak"], unit


def test_bipartite_unit_has_its_share_and_side():
    check_bipartite("bipartite50", 0.5, [13])


def threshold(response):
    return (response - 0.3).relu()


def square(response):
    return response * response.abs()


@pytest.mark.parametrize(("through", "index"), [(threshold, -0.39), (square, -0.5)])
def test_growth_with_contrast_alone_is_no_bipartite_field(through, index):
    """A filter behind a function f keeps `f(sqrt(1 - k)) / f(1)` without any crops; where f is
    convex, crops that drive it more count more than those that drive it less."""
    (unit,), arrays = measured("simple", 27, through=through)
    assert unit["index_contrast"] == pytest.approx(index, abs=0.01)
    assert 0 <= unit["index"] - unit["index_contrast"] < 0.1
    assert unit["share"] < 0.2
    assert (arrays["curve"] >= arrays["contrast"] - 1e-3).all()


@pytest.mark.parametrize("through", [threshold, square])
def test_bipartite_unit_behind_a_function_has_its_share_and_side(through):
    (unit,), _ = measured("bipartite50", 13, through=through)
    assert unit["share"] == pytest.approx(0.5, abs=0.1)
    assert turned(unit["side"], free_side(13)) < 20
    assert unit["index"] > unit["index_contrast"] + 0.5
    assert not unit["weak"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layer", "share"), [("bipartite25", 0.25), ("bipartite50", 0.5), ("bipartite75", 0.75)]
)
def test_bipartite_units_have_share_and_side(layer, share):
    """All sides and orientations, wavelengths and colours; about two minutes a layer."""
    check_bipartite(layer, share, [*range(0, 72, 9)], words=())


def test_numbers_do_not_depend_on_other_units():
    words = (*FEW, "measure.bipartite.steps=5")
    together, arrays = measured("complex", 3, 13, words=words)
    (alone,), single = measured("complex", 13, words=words)
    assert torch.allclose(arrays["curve"][1], single["curve"][0], atol=1e-5)
    assert together[1]["share"] == alone["share"]


def test_units_without_positive_response_have_no_numbers():
    setup = setup_of("model=energy", "layer=simple", "unit=[4]", *QUICK, *FEW)
    subject = subject_of(setup, visualize(setup, [0]))
    below = replace(subject, respond=lambda rows, batch: lambda x: -1 - x.square().mean((2, 3, 4)))
    found = measure(below, "bipartite")
    assert found.numbers == [None]
    assert found.arrays["curve"].isnan().all()


@pytest.mark.parametrize("size", [(2, 2), (1, 3), (1, 1)])
def test_smallest_fields_have_as_many_crops_as_there_are(size):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, size, bias=False))
    few = {"optimizer": {"steps": 5, "search_steps": 5}, "objective": {"restarts": 1}}
    seen = diversevis.visualize(
        network, layer="0", unit=[0, 1], n=2, mean=[0.5] * 3, std=[1.0] * 3, device="cpu",
        analysis="bipartite", **few,
    )  # fmt: skip
    numbers = [unit["bipartite"] for unit in seen.metrics]
    assert all(size == (1, 1) or 0 <= unit["share"] <= 1 for unit in numbers)


@pytest.mark.parametrize("side", [7, 21, 224])
def test_figure_has_parts_at_one_scale(side):
    measures, arrays = make_measure("bipartite", units=1, size=(side, side))
    view = view_of("bipartite", RECORD, entry("bipartite", measures[0]), arrays, 0, None, None)
    best, boundary, zones, texture = MEASURES["bipartite"][0].panels(view)[0].images
    assert best.shape == boundary.shape == zones.shape
    assert len(texture) / len(best) == pytest.approx((2 * side - 2) / side)
