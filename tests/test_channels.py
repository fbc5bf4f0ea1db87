"""Grey images that are wider than high, and other numbers of channels, through all measures."""

import math
import signal

import numpy as np
import pytest
import torch
from PIL import Image

from diversevis.errors import InputError, Stopped
from diversevis.measures.catalogue import measure
from diversevis.measures.deformation import Deformation
from diversevis.measures.dimension import Dimension
from diversevis.measures.natural import Exemplars
from diversevis.measures.phase import Phase
from diversevis.measures.shift import Shift
from diversevis.measures.stimuli import COLOR_AXES, color_axes, color_table, soft_mask
from diversevis.measures.subject import Subject
from diversevis.measures.varied import Varied
from diversevis.method.images import norm_of_contrast
from diversevis.photographs.crops import Scissors
from diversevis.photographs.files import pixels_of
from diversevis.photographs.means import mean_activations

SIZE, CONTRAST, N, WEIGHT = (12, 20), 32.0, 4, 0.1
NORM = norm_of_contrast(CONTRAST, SIZE, channels=1)
GREY = (128 / 255,)  # a whole number of grey levels
PHASE = Phase(orientations=12, per_octave=3, phases=16)
SHIFT = Shift(optimizer="sphere", steps=150, minimum=0.0, softness=1.0, crops=None)
DEFORMATION = Deformation(deltas=[0.25, 1.0, 2.0], delta=0.25, draws=8, cutoff=3.0)
NATURAL = Exemplars(top=2, crops=10**6, side=30, least_contrast=5.0, refine=0)


def gabor_pair():
    """Even and odd [2, 12, 20], orthonormal: waves of 0.2 cycles per pixel to the right."""
    v, u = (torch.arange(side) - (side - 1) / 2 for side in SIZE)
    envelope = torch.exp(-(u**2 + v[:, None] ** 2) / (2 * 2.5**2))
    even, odd = (envelope * wave(0.4 * math.pi * u) for wave in (torch.cos, torch.sin))
    even = even - envelope * (even.sum() / envelope.sum())
    return torch.stack([x / x.norm() for x in (even, odd)])


def respond(x, colors=((1.0,),)):
    """Linear units, one for each colour, then an energy unit: [.., c, h, w] -> [.., unit]."""
    found = torch.einsum("...chw,fhw->...cf", x, gabor_pair())
    linear = found[..., 0] @ torch.tensor(colors).T
    return torch.cat([linear, found.square().sum((-1, -2))[..., None]], dim=-1)


def images_of_linear_unit():
    """As far apart as the weight allows: around the filter, in the corners of a tetrahedron."""
    corners = torch.eye(N) - 1 / N
    corners = corners / torch.linalg.vector_norm(corners[0])
    flat = gabor_pair()[0].flatten()
    others = torch.linalg.qr(torch.cat([flat[:, None], torch.randn(len(flat), N)], dim=1)).Q[:, 1:]
    angle = math.atan(WEIGHT * math.sqrt(N / (N - 1)))
    x = math.cos(angle) * flat + math.sin(angle) * corners @ others.T
    return NORM * x.reshape(N, 1, *SIZE), angle


def images_of_energy_unit():
    """Equally spaced phases."""
    turns = torch.arange(N) * (2 * math.pi / N)
    waves = torch.stack([turns.cos(), turns.sin()])
    return NORM * torch.einsum("fi,fhw->ihw", waves, gabor_pair())[:, None]


def noise(unit, purpose, count, size):
    return torch.randn(count, 1, *size, generator=torch.Generator().manual_seed(unit))


def grey_subject(**changes):
    """A linear unit and an energy unit; images alone are all the even filter."""
    images = torch.stack([images_of_linear_unit()[0], images_of_energy_unit()])
    alone = NORM * gabor_pair()[0].expand(N, 1, *SIZE)
    objective = {
        "distance": "pixels",
        "metric": "rms",
        "scale": "best",
        "response": "max",
        "fraction": None,
    }
    settings = {
        "phase": PHASE, "shift": SHIFT, "deformation": DEFORMATION, "natural": NATURAL,
        "varied": Varied(fractions=[0.5], crops=4, side=40, least_contrast=0.0),
        "dimension": Dimension(points=5, connected=0.8), "diversity": objective, "gain": {},
    }  # fmt: skip
    rows = torch.arange(2)

    def respond_own(rows, batch):
        return lambda x: torch.stack([respond(x[i])[:, row] for i, row in enumerate(rows)])

    facts = {
        "respond": respond_own, "respond_all": lambda batch: respond,
        "images_alone": lambda rows, batch: [(alone, respond(alone)[:, row]) for row in rows],
        "noise": noise, "generator": lambda purpose: torch.Generator().manual_seed(0),
        "rows": (0, 1), "units": (0, 1), "alive": (True, True), "sampled": (True, True),
        "images": images, "responses": respond(images)[rows, :, rows], "best": None,
        "weights": (WEIGHT, WEIGHT), "settings": settings, "norm": NORM, "size": SIZE, "mean": GREY, "whole_image": False,
        "device": torch.device("cpu"), "batch": 1000, "seed": 0, "photographs": None,
    }  # fmt: skip
    return Subject(**facts | changes)


# -- colours --------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6])
def test_color_axes_are_orthonormal(channels):
    axes = color_table(channels).double()
    assert torch.allclose(axes @ axes.T, torch.eye(channels).double(), atol=1e-6)
    assert next(iter(color_axes(channels))) == "luminance"
    assert axes[0].tolist() == pytest.approx([1 / math.sqrt(channels)] * channels)


def test_color_axes_have_names():
    assert color_axes(1) == {"luminance": (1.0,)}
    assert color_axes(3) is COLOR_AXES
    four = color_axes(4)
    assert list(four) == ["luminance", "axis 2", "axis 3", "axis 4"]
    assert four["axis 3"] == pytest.approx(
        (1 / math.sqrt(6), 1 / math.sqrt(6), -2 / math.sqrt(6), 0)
    )


@pytest.mark.parametrize("channels", [2, 4])
def test_best_grating_has_its_color_axis(channels):
    """A linear unit for each axis: its best grating lies along it."""
    axes = color_axes(channels)
    subject = grey_subject(
        mean=(0.5,) * channels, images=None, responses=None, alive=(True,) * (channels + 1),
        rows=tuple(range(channels + 1)), units=tuple(range(channels + 1)),
        sampled=(True,) * (channels + 1), weights=(WEIGHT,) * (channels + 1),
        norm=norm_of_contrast(CONTRAST, SIZE, channels=channels),
        respond_all=lambda batch: lambda x: respond(x, list(axes.values())),
        respond=lambda rows, batch: lambda x: torch.stack(
            [respond(x[i], list(axes.values()))[:, row] for i, row in enumerate(rows)]
        ),
    )  # fmt: skip
    found = measure(subject, "phase")
    assert [one["color"] for one in found.numbers[:channels]] == list(axes)
    for one in found.numbers[:channels]:
        assert one["f1f0"] == pytest.approx(math.pi / 2, rel=0.02)
    assert found.arrays["grating"].shape == (channels + 1, channels, *SIZE)
    assert found.arrays["map"].shape[1] == channels


# -- measures of grey images ----------------------------------------------------------------------


def test_phase_of_grey_units():
    found = measure(grey_subject(), "phase")
    linear, energy = found.numbers
    for one in (linear, linear["fitted"]):
        assert one["f1f0"] == pytest.approx(math.pi / 2, rel=0.02)
    for one in (energy, energy["fitted"]):
        assert one["f1f0"] < 0.02
    assert linear["color"] == energy["color"] == "luminance"
    assert energy["fitted"]["color"] == [pytest.approx(1)]
    assert (linear["orientation"], energy["orientation"]) == (0, 0)
    assert energy["fitted"]["frequency"] == pytest.approx(0.2, abs=1 / 80)  # bins of 1/80
    assert found.arrays["grating"].shape == (2, 1, *SIZE)
    assert found.arrays["frequencies"][0].item() == pytest.approx(0.5 / 20)


def best_means():
    """The largest mean responses of masked crops, linear and energy: of a linear and a quadratic
    form over textures whose crops have the norm, which is another quadratic form."""
    (height, width), mask = SIZE, soft_mask(SIZE)
    weights, rows = torch.zeros(2 * height - 2, 2 * width - 2), []
    for down in range(height - 1):
        for right in range(width - 1):
            window = slice(down, down + height), slice(right, right + width)
            weights[window] += mask.square()
            for wave in gabor_pair():
                filters = torch.zeros_like(weights)
                filters[window] = mask * wave
                rows.append(filters.flatten())
    scaled = torch.stack(rows).double() / weights.flatten().double().sqrt()
    count = len(rows) / 2
    linear = scaled[::2].sum(0).norm().item() / math.sqrt(count)
    return NORM * linear, NORM**2 * torch.linalg.svdvals(scaled)[0].item() ** 2


def test_shift_of_grey_units():
    found = measure(grey_subject(), "shift")
    responses, best = found.arrays["map_fixed"], best_means()
    assert responses.shape == (2, 11, 19)
    assert found.arrays["texture_fixed"].shape == (2, 1, 23, 39)
    for mean, optimum in zip(responses.mean((1, 2)).tolist(), best, strict=True):
        assert 0.97 * optimum < mean < 1.001 * optimum
    # The best masked image has the energy of the best image.
    assert found.numbers[1]["mean_masked"] == pytest.approx(best[1] / NORM**2, rel=0.05)
    norms = torch.linalg.vector_norm(found.arrays["masked_learned"], dim=(1, 2, 3))
    assert norms.tolist() == pytest.approx([NORM, NORM], rel=1e-4)


def test_mask_is_in_sides_of_image():
    """36 x 64: along either axis exp(-(2.4 u)^4) at u sides from the centre."""
    mask = soft_mask((36, 64))
    for side, along in ((36, mask[:, 31]), (64, mask[17])):
        away = (torch.arange(side) - (side - 1) / 2) / side
        assert torch.allclose(along, torch.exp(-((2.4 * away) ** 4)), atol=5e-3)


def test_deformation_of_grey_images():
    """Random filters do not know a deformation from noise; 2 pixels exceed 12 / (3 pi) = 1.3."""
    filters = torch.randn(400, 1, *SIZE)
    images = images_of_energy_unit()[None].expand(400, -1, -1, -1, -1)

    def answer(x):
        return torch.einsum("uichw,uchw->ui", x, filters)

    found = DEFORMATION(answer, images, torch.Generator().manual_seed(0))
    assert found["stability"][:, 0].median().item() == pytest.approx(1, abs=0.15)
    assert found["deformed"].shape == (400, 3, 1, *SIZE)
    norms = torch.linalg.vector_norm(found["deformed"][0], dim=(1, 2, 3))
    assert norms[:2].tolist() == pytest.approx([NORM, NORM], rel=1e-4)
    assert norms[2].isnan()
    kept = measure(grey_subject(), "deformation").numbers[1]["kept"]
    assert 0.9 < kept["0.25"] <= 1.0001  # the images are the best there are
    assert kept["2"] is None


def test_dimension_of_grey_units():
    linear, energy = measure(grey_subject(), "dimension").numbers
    angle = images_of_linear_unit()[1]
    ratio = 1 / (math.cos(angle) ** 4 + math.sin(angle) ** 4 / (N - 1))
    assert linear["participation"] == pytest.approx(ratio, rel=1e-4)
    assert energy["participation"] == pytest.approx(2, rel=1e-4)
    assert energy["path_min"] == pytest.approx(1, rel=1e-3)
    assert (linear["groups"], energy["groups"]) == (1, 1)


def test_diversity_of_grey_units():
    linear, energy = measure(grey_subject(), "diversity").numbers
    assert linear["index"] == pytest.approx(0, abs=1e-4)
    assert energy["index"] == pytest.approx(1, abs=1e-4)
    chords = (4 * math.sqrt(2) + 2 * 2) / 6
    assert energy["distance_mean"] == pytest.approx(CONTRAST * chords, rel=1e-4)


def test_gain_of_grey_units():
    found = measure(grey_subject(), "gain")
    energy = found.numbers[1]
    assert energy["distance_min"] == pytest.approx(CONTRAST * math.sqrt(2), rel=1e-4)
    assert energy["distance_min_alone"] == pytest.approx(0, abs=1e-4)
    assert energy["response"] == pytest.approx(1, rel=1e-4)
    assert found.arrays["images"].shape == (2, N, 1, *SIZE)


# -- photographs ----------------------------------------------------------------------------------


def save(folder, name, pixels):
    Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8)).save(folder / name)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Coloured noise, and the even filter, at 9 rows and 21 columns of a grey photograph."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "photographs"
    folder.mkdir()
    values = np.random.default_rng(0).normal(128, 20, (30, 50, 3))
    save(folder, "colour.png", values)
    grey = values.mean(2, keepdims=True).repeat(3, 2)
    pattern = gabor_pair()[0].numpy()
    grey[9:21, 21:41] = 128 + 120 * (pattern / abs(pattern).max())[..., None]
    save(folder, "grey.png", grey)
    return folder


def test_natural_exemplars_of_grey_units(folder):
    """The planted filter is the best crop; of the other photograph every crop is tried by hand."""
    found = measure(grey_subject(photographs=folder), "natural")
    linear = found.numbers[0]
    first, second = linear["exemplars"]
    assert (first["file"], first["row"], first["column"]) == ("grey.png", 9, 21)
    assert first["response"] == pytest.approx(NORM, rel=1e-3)
    assert found.arrays["images"].shape == (2, 2, 1, *SIZE)
    with Image.open(folder / "colour.png") as image:
        grey = np.asarray(image).astype(float) @ [0.299, 0.587, 0.114]
    windows = np.lib.stride_tricks.sliding_window_view(np.floor(grey + 0.5) - 128, SIZE)
    answers = (windows * gabor_pair()[0].numpy()).sum((2, 3)) / np.sqrt((windows**2).sum((2, 3)))
    assert second["response"] == pytest.approx(NORM * answers.max(), rel=1e-3)
    at = np.unravel_index(answers.argmax(), answers.shape)
    assert (second["row"], second["column"]) == at


def test_pictures_become_grey_by_luma():
    """ITU-R 601: 0.299 red, 0.587 green, 0.114 blue."""
    primaries = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]]], np.uint8)
    picture = Image.fromarray(primaries)
    assert pixels_of(picture, 1)[..., 0].tolist() == [[76, 150, 29, 9]]
    assert np.array_equal(pixels_of(picture, 3), primaries)


def test_mean_activations_of_grey_network(folder):
    """Closed form: the luma of (51, 102, 204) is 98, so that z is (98 / 255 - 0.2) / 0.5."""
    for path in folder.iterdir():
        path.unlink()
    Image.new("RGB", (400, 300), (51, 102, 204)).save(folder / "a.png")
    settings = {"crop": (224, 252), "device": torch.device("cpu"), "identity": "x"}
    shapes = []

    def activations(z):
        shapes.append(z.shape[:2])
        return [z]

    (found,) = mean_activations(activations, folder, mean=(0.2,), std=(0.5,), **settings)
    assert found.tolist() == pytest.approx([(98 / 255 - 0.2) / 0.5], rel=1e-5)
    assert shapes == [(1, 1)]
    four = (0.5,) * 4
    with pytest.raises(InputError, match=r"1 or 3 channels; this network takes 4\..*scale=best"):
        mean_activations(activations, folder, mean=four, std=four, **settings)


@pytest.mark.parametrize("name", ["phase", "shift", "deformation", "dimension"])
def test_measures_can_stop_within_a_batch(name):
    calls = []

    def progress(*call):
        calls.append(call)
        if len(calls) == 2:
            raise Stopped(signal.SIGTERM)

    with pytest.raises(Stopped):
        measure(grey_subject(), name, progress)
    assert calls == [(name, 0, 2)] * 2


@pytest.mark.parametrize("name", ["natural", "varied"])
def test_photographs_have_no_four_channels(folder, name):
    with pytest.raises(InputError, match=r"natural=.*1 or 3 channels; this network takes 4\."):
        measure(grey_subject(photographs=folder, mean=(0.5,) * 4), name)


def test_selectivity_of_grey_units():
    """A linear unit and the energy of the same pair: each over its best, by hand."""
    subject = grey_subject()
    taken = measure(subject, "selectivity")
    shown = torch.stack([respond(subject.images[row]).mean(0) for row in range(2)])
    best = subject.responses.amax(1)
    assert torch.allclose(taken.arrays["matrix"], shown / best, rtol=1e-4)


def test_varied_crops_of_grey_units(folder):
    """Their luma, at equal norm; the best crop is that of an exhaustive search."""
    settings = {"varied": Varied(fractions=[0.01], crops=10**6, side=40, least_contrast=0.0)}
    subject = grey_subject(photographs=folder, settings=settings)
    taken = measure(subject, "varied")
    images = taken.arrays["images"]
    assert images.shape == (2, 1, N, 1, *SIZE)
    assert torch.allclose(images[:, 0, 0].flatten(1).norm(dim=1), torch.tensor(NORM))
    for row, unit in enumerate(taken.numbers):
        best = respond(images[row, 0, :1])[0, row] / subject.responses[row].max()
        assert unit["best_crop"] == pytest.approx(best.item(), rel=1e-4)


def test_grey_ground_behind_transparent_pixels(tmp_path):
    Image.new("RGBA", (70, 40), (255, 0, 0, 0)).save(tmp_path / "a.png")
    cut = Scissors(
        folder=tmp_path, side=36, mean=GREY, size=(36, 64), norm=NORM, least_contrast=0.0
    )
    pixels = cut.photograph("a.png")
    assert pixels.shape == (64, 112, 1)  # the shorter side holds the crop's longer one
    assert (pixels == 128).all()
