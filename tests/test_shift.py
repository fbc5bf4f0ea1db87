"""The texture test on small units whose best textures have a closed form."""

import math

import pytest
import torch

from diversevis.measures import crop_model
from diversevis.measures.crop_model import CropModel, crops_remembered
from diversevis.measures.shift import Shift, TextureSearch, crops_of_a_step
from diversevis.measures.stimuli import soft_mask
from diversevis.measures.textures import Rolls, Windows

SIDE, NORM = 9, 10.0
PLAIN = {"optimizer": "sphere", "steps": 80, "minimum": 0.5, "softness": 1.0, "crops": None}


def gabor_pair():
    """Even and odd, orthonormal, of luminance alone."""
    at = torch.arange(SIDE) - SIDE // 2
    v, u = torch.meshgrid(at.float(), at.float(), indexing="ij")
    envelope = torch.exp(-(u**2 + v**2) / (2 * 1.8**2))
    waves = [envelope * torch.cos(math.pi / 2 * u), envelope * torch.sin(math.pi / 2 * u)]
    waves[0] = waves[0] - envelope * waves[0].sum() / envelope.sum()
    pair = torch.stack([wave.expand(3, -1, -1) for wave in waves])
    return pair / torch.linalg.vector_norm(pair, dim=(1, 2, 3), keepdim=True)


def noise(generator):
    return lambda count, size: torch.randn(1, count, 3, *size, generator=generator)


def texture_of(respond, best, learned=False, cut=Windows, **changes):
    draw = noise(torch.Generator().manual_seed(3))
    chooser = torch.Generator().manual_seed(4)
    search = TextureSearch(
        Shift(**PLAIN | changes), respond, best, draw, NORM, cut(*best.shape[2:])
    )
    return search(chooser, learned=learned)


def energy(x):
    return torch.einsum("uichw,fchw->uif", x, gabor_pair()).square().sum(2)


def linear(x):
    return torch.einsum("uichw,chw->ui", x, gabor_pair()[0])


def best_mean_energy():
    """Closed form: the mean energy of the masked crops over their mean square is a quotient of two
    quadratic forms in the texture; its maximum is the largest generalized eigenvalue."""
    side = 2 * SIDE - 2
    mask, pair = soft_mask((SIDE, SIDE)), gabor_pair().sum(1) / math.sqrt(3)  # luminance
    rows, weights = [], torch.zeros(side, side)
    for down in range(SIDE - 1):
        for right in range(SIDE - 1):
            window = slice(down, down + SIDE), slice(right, right + SIDE)
            weights[window] += mask.square()
            for wave in pair:
                filters = torch.zeros(side, side)
                filters[window] = mask * wave
                rows.append(filters.flatten())
    scaled = torch.stack(rows).double() / weights.flatten().double().sqrt()
    return torch.linalg.svdvals(scaled)[0].item() ** 2 * NORM**2


def test_texture_of_complex_cell_reaches_the_optimum():
    """Its best texture is a grating of every phase; under a mask wider than the cell it cannot
    reach the best image, and how much of it is the eigenvalue."""
    optimum = best_mean_energy()
    best = NORM * gabor_pair()[:1]
    found = texture_of(energy, best, minimum=0.0, steps=150)
    mean = found["map"].mean().item()
    assert 0.97 * optimum < mean < 1.001 * optimum
    assert optimum < 0.95 * NORM**2  # the best single image's energy
    assert 0.97 * NORM**2 < found["best_masked"].item() < 1.0001 * NORM**2


def test_simple_cell_is_not_shift_invariant():
    best = NORM * gabor_pair()[:1]
    simple = texture_of(linear, best)["map"].min().item() / NORM
    fixed = texture_of(energy, best)["map"].min().item() / NORM**2
    learned = texture_of(energy, best, learned=True)
    assert simple < 0.5 * fixed
    assert fixed < learned["map"].min().item() / NORM**2
    p, q, sigma = learned["parameters"][0].tolist()
    assert sigma < 1 / 2.4  # it finds the cell's own, narrower envelope
    assert p >= 2
    assert q >= 1


def test_pooling_unit_is_shift_invariant():
    """Energy at one frequency, wherever in the masked field it is: a grating has it at any shift."""
    at = torch.arange(SIDE).float()
    wave = torch.exp(1j * math.pi / 2 * at)

    def respond(x):
        return (x.sum((2, 3)) @ wave.real).square() + (x.sum((2, 3)) @ wave.imag).square()

    grating = torch.cos(math.pi / 2 * at).expand(1, 3, SIDE, SIDE) * soft_mask((SIDE, SIDE))
    best = NORM * grating / torch.linalg.vector_norm(grating)
    found = texture_of(respond, best)
    assert found["map"].mean().item() / found["best_masked"].item() > 0.95
    assert found["map"].min().item() / found["best_masked"].item() > 0.9


def test_crops_have_the_norm_together():
    found = texture_of(energy, NORM * gabor_pair()[:1], steps=3)
    texture, mask = found["texture"][0], found["mask"][0]
    assert texture.shape == (3, 2 * SIDE - 1, 2 * SIDE - 1)
    assert texture[:, -1].abs().max() == texture[:, :, -1].abs().max() == 0
    squares = []
    for down in range(SIDE - 1):
        for right in range(SIDE - 1):
            crop = texture[:, down : down + SIDE, right : right + SIDE] * mask
            squares.append(crop.square().sum().item())
            response = energy(crop[None, None]).item()
            assert found["map"][0, down, right].item() == pytest.approx(response, rel=1e-4)
    assert math.sqrt(sum(squares) / len(squares)) == pytest.approx(NORM, rel=1e-4)
    assert torch.linalg.vector_norm(found["masked"][0]).item() == pytest.approx(NORM, rel=1e-4)


def test_sphere_is_as_good_as_published_optimizer():
    best = NORM * gabor_pair()[:1]

    def reached(**changes):
        responses = texture_of(energy, best, **changes)["map"]
        return (responses.mean() + responses.min()).item() / 2

    assert reached() > 0.99 * reached(optimizer="adam", steps=700)


def test_random_crops_have_the_given_number():
    generator = torch.Generator().manual_seed(0)
    draw, pair = noise(generator), gabor_pair()[:1]
    work = TextureSearch(
        Shift(**PLAIN | {"crops": 10}), energy, pair, draw, NORM, Windows(SIDE, SIDE)
    )
    first, second = work.draw_corners(generator), work.draw_corners(generator)
    assert len(first) == len({tuple(place) for place in first.tolist()}) == 10
    assert not torch.equal(first, second)
    pair = torch.zeros(1, 3, 70, 70)
    published = Shift(**PLAIN | {"optimizer": "adam"})
    large = TextureSearch(published, energy, pair, draw, NORM, Windows(70, 70))
    assert len(large.draw_corners(generator)) == 1024


def test_step_shows_a_tenth_of_crops():
    """Of large fields a tenth of 1024, of whole images no more than a step's cost allows."""
    settings = Shift(**PLAIN)
    counts = [
        crops_of_a_step(settings, cut)
        for cut in (Windows(14, 14), Windows(70, 70), Rolls(16, 16), Rolls(224, 224))
    ]
    assert counts == [17, 103, 26, 8]
    assert crops_of_a_step(Shift(**PLAIN | {"crops": 5}), Windows(14, 14)) == 5
    assert crops_of_a_step(Shift(**PLAIN | {"optimizer": "adam"}), Windows(14, 14)) == 169


# -- predicted responses --------------------------------------------------------------------------


def model_of(respond, texture, masks, cut, count=None):
    model = CropModel(respond, cut, masks, 3)
    for corners in torch.split(cut.corners[:count], 7):
        model.show(texture, corners)
    return model


@pytest.mark.parametrize("cut", [Windows(SIDE, SIDE), Rolls(SIDE, SIDE)])
def test_predictions_are_exact_for_linear_units(cut):
    """Responses, their mean after a climb, and what a pixel of the mask adds to them."""
    texture = torch.randn(2, 3, *cut.texture_size)
    masks = soft_mask((SIDE, SIDE)).repeat(2, 1, 1)
    model = model_of(linear, texture, masks, cut)

    def responses(other):
        pixels = cut.pixels(cut.corners).flatten()
        crops = other.flatten(2)[:, :, pixels].reshape(2, 3, -1, SIDE, SIDE).transpose(1, 2)
        return linear(crops * masks[:, None, None])

    x = model.whitened(texture)
    assert torch.allclose(model.texture(x), texture, atol=1e-5)
    by_mask = (model.by_mask(texture) * masks.flatten(1)[:, None]).sum(2)
    assert torch.allclose(by_mask, responses(texture), atol=1e-4)
    for minimum in (0.0, 0.7):
        moved = model.climb(x, [0.1] * 40, [0.1] * 40, minimum)
        assert torch.allclose(moved.norm(dim=1), x.norm(dim=1), rtol=1e-4)
        before, after = responses(texture), responses(model.texture(moved))
        assert (after.mean(1) > before.mean(1)).all()
        if minimum:
            assert (after.amin(1) > before.amin(1)).all()


def test_predictions_follow_changed_masks():
    texture, cut = torch.randn(1, 3, 2 * SIDE - 2, 2 * SIDE - 2), Windows(SIDE, SIDE)
    wide, narrow = (soft_mask((SIDE, SIDE), sigma=s)[None] for s in (0.5, 0.3))
    changed = model_of(linear, texture, wide, cut)
    changed.look_through(narrow)
    made = model_of(linear, texture, narrow, cut)
    x = made.whitened(texture)
    arguments = x, [0.1] * 5, [0.2] * 5, 0.5
    assert torch.allclose(changed.climb(*arguments), made.climb(*arguments), atol=1e-4)


def test_learned_masks_keep_the_norm():
    norms = []

    def respond(x):
        norms.append(x.detach().square().sum((2, 3, 4)).mean().sqrt().item())
        return energy(x)

    texture_of(respond, NORM * gabor_pair()[:1], learned=True, steps=160, softness=0.4, crops=20)
    assert 0.85 * NORM < min(norms) <= max(norms) < 1.15 * NORM


def test_oldest_crops_are_forgotten(monkeypatch):
    monkeypatch.setattr(crop_model, "MOST_CROPS", 16)
    texture, cut = torch.randn(1, 3, 2 * SIDE - 2, 2 * SIDE - 2), Windows(SIDE, SIDE)
    model = model_of(linear, texture, soft_mask((SIDE, SIDE))[None], cut, 30)
    assert (model.count, model.next) == (16, 30 % 16)
    assert crops_remembered(cut, 3) == 16
    shown = {tuple(row) for row in model.pixels.tolist()}
    expected = model._pixels(cut.corners[14:30])
    assert shown == {tuple(row) for row in expected.tolist()}


@pytest.mark.parametrize(("p", "q"), [(2.0, 1.0), (20.0, 4.0), (64.0, 64.0)])
def test_masks_have_finite_gradients(p, q):
    """At the middle of an odd field r is 0, of which p-th powers leave nothing."""
    shape = torch.tensor([[p, q, 0.3]], requires_grad=True)
    mask = soft_mask((SIDE, SIDE), *shape.unbind(1))
    (gradient,) = torch.autograd.grad(mask.sum(), shape)
    assert gradient.isfinite().all()
    assert mask[0, SIDE // 2, SIDE // 2].item() == pytest.approx(1, abs=1e-4)


# -- units that see the whole image ---------------------------------------------------------------

CANVAS = 16
FIXED = soft_mask((CANVAS, CANVAS))


def energies(x):
    """Energy of a quadrature pair at every position of the periodic image."""
    pair = torch.nn.functional.pad(gabor_pair().sum(1), (0, CANVAS - SIDE, 0, CANVAS - SIDE))
    spectra = torch.fft.fft2(x.sum(2))[:, :, None] * torch.fft.fft2(pair).conj()
    return torch.fft.ifft2(spectra).real.square().sum(2)


def reached(respond):
    """Mean and smallest response to all circular shifts, of the best image under the same mask."""
    best = torch.randn(1, 3, CANVAS, CANVAS, generator=torch.Generator().manual_seed(1))
    best = NORM * best / torch.linalg.vector_norm(best)
    found = texture_of(respond, best, cut=Rolls)
    assert found["map"].shape == (1, CANVAS, CANVAS)
    return found, (found["map"].mean() / found["best_masked"]).item()


def test_globally_pooled_energy_accepts_every_shift():
    """A grating of whole cycles has the same energy under the mask at every circular shift."""
    found, mean = reached(lambda x: energies(x).mean((2, 3)))
    assert mean > 0.97
    assert (found["map"].min() / found["best_masked"]).item() > 0.95


def test_unit_of_one_position_misses_shifts():
    def linear_at_middle(x):
        middle = (CANVAS - SIDE) // 2
        window = slice(middle, middle + SIDE)
        return linear(x[..., window, window])

    found, mean = reached(linear_at_middle)
    assert mean < 0.5
    assert found["map"].min().item() < 0.3 * NORM


def test_map_holds_responses_to_rolled_textures():
    def respond(x):
        return energies(x)[:, :, 3, 5]

    best = torch.randn(1, 3, CANVAS, CANVAS)
    found = texture_of(respond, best, cut=Rolls, steps=3)
    texture, squares = found["texture"], []
    for down in range(CANVAS):
        for right in range(CANVAS):
            crop = texture.roll((-down, -right), (2, 3)) * found["mask"]
            squares.append(crop.square().sum().item())
            response = respond(crop[None]).item()
            assert found["map"][0, down, right].item() == pytest.approx(response, rel=1e-4)
    assert math.sqrt(sum(squares) / len(squares)) == pytest.approx(NORM, rel=1e-4)


def test_large_images_have_fewer_shifts():
    """The cost of a step and of the map is bounded; the map's step is odd."""
    assert Rolls(64, 64).step == 1
    assert Rolls(64, 64).of_a_step == 64
    large = Rolls(224, 224)
    assert large.of_a_step == 8
    assert large.step % 2 == 1
    assert large.step > 1
    rows, columns = large.map_shape
    assert len(large.map_corners) == rows * columns
    assert rows * columns * 224 * 224 <= 2**24
    assert large.map_corners.amax().item() == (rows - 1) * large.step
    assert len(large.corners) == 224 * 224
