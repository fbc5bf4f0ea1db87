"""F1/F0 on responses and units whose answer is known."""

import math

import pytest
import torch

from diversevis.measures import phase
from diversevis.measures.phase import Phase
from diversevis.measures.stimuli import COLOR_AXES, gratings, phases, soft_mask

SETTINGS = Phase(orientations=16, per_octave=3, phases=32)
SIZE = (12, 12)


def test_half_rectified_linear_unit_has_half_pi():
    """Closed form: F0 = 1/pi, F1 = 1/2; with K samples the 32nd harmonic is added, 0.3 %."""
    f0, f1 = phase.fourier(torch.cos(phases(32) - 0.4))
    assert f0.item() == pytest.approx(1 / math.pi, rel=4e-3)
    assert f1.item() == pytest.approx(1 / 2, rel=1e-6)
    many = phase.fourier(torch.cos(phases(1024)))
    assert (many[1] / many[0]).item() == pytest.approx(math.pi / 2, rel=1e-5)


def test_modulation_of_constant_and_noisy_responses():
    f0, f1 = phase.fourier(torch.full((16,), 3.0))
    assert f0.item() == pytest.approx(3)
    assert f1.item() == pytest.approx(0, abs=1e-6)
    # Of noise around a mean, F1 has the expected size sqrt(pi / K) * deviation, whatever its phases.
    f0, f1 = phase.fourier(10 + torch.randn(20000, 32))
    assert f1.mean().item() == pytest.approx(math.sqrt(math.pi / 32), rel=0.02)


def test_linear_responses_to_gratings_are_sinusoids():
    mask, given = soft_mask(SIZE), torch.tensor(list(COLOR_AXES.values()))
    shown = gratings(mask, torch.tensor([0.04, 0.2, 0.5]), torch.tensor([0.0, 30.0, 135.0]), given,
                     phases(8), 50.0)  # fmt: skip
    norms = shown.flatten(2).square().sum(2).mean(1).sqrt()
    assert torch.allclose(norms, torch.full((3,), 50.0), rtol=1e-5)
    template = torch.randn(3, *SIZE)
    responses = (shown * template).sum((2, 3, 4))
    spectrum = torch.fft.rfft(responses).abs()
    assert torch.all(spectrum[:, [0, 2, 3, 4]] < 1e-4 * spectrum[:, [1]])


def test_fixed_mask_is_the_published():
    """exp(-(r / (s/2.4))^4) at the middle of an edge and at a corner of a 25-pixel image."""
    mask = soft_mask((25, 25))
    assert mask[12, 12].item() == pytest.approx(1, abs=1e-6)
    assert mask[12, 0].item() == pytest.approx(math.exp(-((12 * 2.4 / 25) ** 4)), rel=1e-4)
    corner = math.hypot(12, 12) * 2.4 / 25
    assert mask[0, 0].item() == pytest.approx(math.exp(-(corner**4)), rel=1e-3)


def test_peak_between_two_phases():
    shifted = torch.cos(phases(8) - math.pi / 8)
    assert shifted.max().item() == pytest.approx(math.cos(math.pi / 8))
    assert phase.peak(shifted).item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("frequency", "orientation", "axis"), [
    (0.25, 45.0, "luminance"), (0.125, 0.0, "red-green"), (0.2, 112.5, "blue-yellow"),
])  # fmt: skip
def test_grating_is_recognized_in_an_image(frequency, orientation, axis):
    """Rows run downwards: an orientation of 45 degrees has its wave vector up and to the right."""
    color = torch.tensor([COLOR_AXES[axis]])
    at = torch.tensor([frequency]), torch.tensor([orientation])
    image = gratings(soft_mask((24, 24)), *at, color, torch.tensor([0.7]), 100.0)[:, 0]
    found, angle, found_color = phase.fit_grating(image)
    assert found.item() == pytest.approx(frequency, abs=0.011)  # bins of 1/96
    assert min(abs(angle.item() - orientation), 180 - abs(angle.item() - orientation)) < 4
    assert abs((found_color @ color[0]).item()) == pytest.approx(1, abs=1e-4)
    brighter_up = gratings(torch.ones(9, 9), torch.tensor([0.1]), torch.tensor([90.0]), color,
                           torch.tensor([math.pi / 2]), 1.0)[0, 0, color[0].abs().argmax()]  # fmt: skip
    assert brighter_up[0, 4] * color[0][color[0].abs().argmax()] > 0


def search(respond):
    return SETTINGS.search(respond, soft_mask(SIZE), 100.0, channels=3)


def test_best_grating_of_a_linear_unit():
    own = gratings(soft_mask(SIZE), torch.tensor([0.25]), torch.tensor([67.5]),
                   torch.tensor([COLOR_AXES["red-green"]]), torch.tensor([1.0]), 1.0)[0, 0]  # fmt: skip
    template = torch.stack([own, -own])
    found = search(lambda x: torch.einsum("ichw,uchw->iu", x, template))
    tuned = SETTINGS.curve(lambda x: torch.einsum("uichw,uchw->ui", x, template),
                           found.best(torch.tensor([0, 1])), soft_mask(SIZE), 100.0)  # fmt: skip
    step = 2 ** (1 / 3)  # between frequencies
    assert tuned.grating.orientation.tolist() == [67.5, 67.5]
    assert 0.25 / step < tuned.grating.frequency[0].item() < 0.25 * step
    for row in (0, 1):
        one = phase.numbers(tuned, row, found.largest[row].item(), bool(found.varies[row]))
        assert one["f1f0"] == pytest.approx(math.pi / 2, rel=4e-3)
        assert phase.color_name(one["color"]) == "red-green"
        assert not one["weak"]


def test_constant_unit_has_no_phase():
    """A constant unit would look perfectly phase invariant, a dead one divides 0 by 0."""
    found = search(lambda x: torch.stack([torch.full((len(x),), 7.0), torch.zeros(len(x))], 1))
    assert found.varies.tolist() == [False, False]
    tuned = SETTINGS.curve(lambda x: torch.full(x.shape[:2], 7.0),
                           found.best(torch.tensor([0, 1])), soft_mask(SIZE), 100.0)  # fmt: skip
    assert phase.numbers(tuned, 0, 7.0, False) is None
    assert phase.numbers(tuned, 1, 0.0, False) is None


def test_unit_hardly_driven_by_gratings_is_weak():
    curve = torch.cos(phases(32)) - 0.99
    grating = phase.Grating(torch.ones(1), torch.ones(1), torch.ones(1, 3))
    tuned = phase.Tuning(grating, curve[None], torch.zeros(1, 3, 4, 4))
    assert phase.numbers(tuned, 0, 1.99, True)["weak"]
    silent = tuned._replace(responses=curve[None] - 1)
    one = phase.numbers(silent, 0, 3.0, True)
    assert one["f1f0"] is None
    assert one["f0"] == 0
    assert one["weak"]


def test_whole_images_bound_the_search():
    """3 colours, 8 octaves and 8 phases: 9 frequencies x 16 orientations have 3456 images."""
    assert SETTINGS.bounded((64, 64), 3) == SETTINGS
    searched = SETTINGS.bounded((224, 224), 3)
    assert (searched.per_octave, searched.orientations) == (1, 16)
    assert len(searched.frequencies((224, 224))) == 9
    assert SETTINGS.bounded((1024, 1024), 3).orientations == 4
