import io
import itertools
import math
import sys

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from diversevis.measures.families import families_of
from diversevis.pictures import graph
from diversevis.pictures.draw import layer_picture, picture
from diversevis.pictures.measures.phase import verdict
from diversevis.pictures.measures.shift import _extent
from diversevis.pictures.measures.view import Layer, number
from diversevis.pictures.page import CAPTION, fitted, font, shortened, wrapped

RECORD = {
    "model": "vgg19", "layer": "conv2_1", "direction": None, "distance": "pixels",
    "weights": {"mean": [0.485, 0.456, 0.406]},
}  # fmt: skip
NAMES = ["gain", "phase", "shift", "deformation", "diversity", "dimension", "natural",
         "bipartite", "selectivity", "align", "varied"]  # fmt: skip
MEAN = 255 * np.array(RECORD["weights"]["mean"])


def gabor(height, width, phase, frequency=None, orientation=30.0, x0=0.0):
    """One Gabor patch [3, h, w] with an RMS contrast of 32 grey levels."""
    longest = max(height, width)
    frequency = frequency or 2.5 / longest
    y, x = np.mgrid[:height, :width].astype(float)
    x, y = x - (width - 1) / 2 - x0, (height - 1) / 2 - y
    turn = math.radians(orientation)
    along = x * math.cos(turn) + y * math.sin(turn)
    patch = np.exp(-(x**2 + y**2) / (2 * (longest / 5) ** 2))
    patch = patch * np.cos(2 * math.pi * frequency * along + phase)
    image = np.stack([patch, 0.9 * patch, 0.7 * patch])
    return torch.from_numpy(32 * image / np.sqrt((image**2).mean() + 1e-12)).float()


def batch(n, height, width):
    return torch.stack([gabor(height, width, 2 * math.pi * i / n) for i in range(n)])


def repeated(units, value):
    return value[None].repeat(units, *[1] * value.ndim)


def make_measure(name, *, units=3, n=6, size=(24, 24), seed=0):
    """Measures of each unit and the arrays of one measure, as formats.md asks for them."""
    h, w = size
    rng = np.random.default_rng(seed)
    return MAKERS[name](rng, units, n, h, w)


def make_gain(rng, units, n, h, w):
    alone = batch(n, h, w) + 8 * torch.from_numpy(rng.standard_normal((n, 3, h, w))).float()
    arrays = {
        "images": repeated(units, alone),
        "responses": torch.from_numpy(rng.normal(8, 0.3, (units, n))).float(),
    }
    measures = []
    for _ in range(units):
        low, mean = rng.uniform(0, 30), rng.uniform(30, 40)
        measures.append({
            "distance_min": rng.uniform(-3, 45 - low), "distance_mean": 45 - mean,
            "response": rng.uniform(0.9, 1.01), "distance_min_alone": low,
            "distance_mean_alone": mean, "response_mean_alone": 8.1,
        })  # fmt: skip
    return measures, arrays


def make_phase(rng, units, n, h, w):
    phases = torch.arange(16) * 2 * math.pi / 16
    frequencies = torch.from_numpy(
        np.geomspace(1 / max(h, w), 0.45, 8 if max(h, w) > 5 else 1)
    ).float()
    orientations = torch.arange(12) * 15.0
    depth = torch.from_numpy(rng.uniform(0, 3, units)).float()[:, None]
    tuning = 4 * (1 - depth / 3) + 4 * depth / 3 * torch.cos(phases - 1)
    f, o = torch.meshgrid(frequencies.log2(), orientations, indexing="ij")
    away = (o - 30 + 90) % 180 - 90
    one = 4 * torch.exp(-((f - math.log2(2.5 / max(h, w))) ** 2) - (away / 25) ** 2)
    best = gabor(h, w, 1, orientation=30)
    arrays = {
        "phases": phases, "tuning": tuning, "fitted_tuning": 0.9 * tuning.roll(2, 1),
        "grating": repeated(units, best), "fitted_grating": repeated(units, gabor(h, w, 0.4)),
        "map": repeated(units, torch.stack([one, 0.3 * one, 0.2 * one])),
        "frequencies": frequencies, "orientations": orientations,
    }  # fmt: skip
    measures = []
    for row in tuning.numpy():
        rectified = row.clip(min=0)
        f0 = rectified.mean()
        f1 = 2 / 16 * abs((rectified * np.exp(-1j * phases.numpy())).sum())
        found = {
            "f1f0": float(f1 / f0), "f0": float(f0), "orientation": 30.0, "response": float(row.max()),
            "frequency": float(frequencies[len(frequencies) // 3]), "weak": False,
        }  # fmt: skip
        fitted = found | {"color": [0.6, 0.6, 0.5], "f1f0": found["f1f0"] * 0.9}
        measures.append(found | {"color": "luminance", "fitted": fitted})
    return measures, arrays


def make_shift(rng, units, n, h, w):
    r = np.hypot(*np.meshgrid(np.linspace(-1, 1, h), np.linspace(-1, 1, w), indexing="ij"))
    mask = torch.from_numpy(np.exp(-((r * 1.2) ** 4))).float()
    texture = gabor(2 * h - 1, 2 * w - 1, 0, frequency=2.5 / max(h, w)) * 1.0
    wave = torch.from_numpy(5 + np.cos(0.8 * np.arange(w - 1))[None] * np.ones((h - 1, 1))).float()
    arrays = {
        "mask_fixed": mask,
        "mask_learned": repeated(units, mask.sqrt()),
        "best": torch.full((units,), 8.0),
    }
    for which in ("fixed", "learned"):
        arrays |= {
            f"texture_{which}": repeated(units, texture), f"map_{which}": repeated(units, wave),
            f"masked_{which}": repeated(units, gabor(h, w, 0) * mask),
            f"best_masked_{which}": torch.full((units,), 6.6),
        }  # fmt: skip
    shares = [float(share) for share in rng.uniform(0.2, 0.95, units)]
    measures = [
        {"mean": s * 0.8, "min": s * 0.6, "mean_masked": s, "min_masked": s * 0.7,
         "learned": {"mean": s * 0.85, "min": s * 0.6, "mean_masked": s, "min_masked": s * 0.7,
                     "p": 2.4, "q": 5.1, "sigma": 0.45}}
        for s in shares
    ]  # fmt: skip
    return measures, arrays


def make_deformation(rng, units, n, h, w):
    deltas = torch.tensor([0.25, 0.5, 1, 2, 4])
    fall = torch.from_numpy(rng.uniform(0.02, 0.3, (units, 1))).float()
    kept = 1 - fall * deltas
    stability = 4 * fall * deltas.sqrt() + 0.05
    if max(h, w) < 20:
        kept[:, 3:] = stability[:, 3:] = math.nan
    deformed = torch.stack(
        [gabor(h, w, 0, orientation=30 + 5 * float(d), x0=float(d)) for d in deltas]
    )
    deformed[kept[0].isnan()] = math.nan
    arrays = {
        "deltas": deltas, "kept": kept, "stability": stability, "stability_error": 0.1 * stability,
        "stability_strict": 2.5 * stability, "stability_strict_error": 0.2 * stability,
        "deformed": repeated(units, deformed),
    }  # fmt: skip

    def by_delta(values):
        return {
            f"{d:g}": None if math.isnan(v) else v
            for d, v in zip(deltas.tolist(), values.tolist(), strict=True)
        }

    measures = [
        {"stability": stability[u, 2].item(), "stability_error": 0.02, "delta": 1.0,
         "stability_strict": 2.5 * stability[u, 2].item(), "stability_strict_error": 0.05,
         "kept": by_delta(kept[u]), "stability_at": by_delta(stability[u]),
         "stability_strict_at": by_delta(2.5 * stability[u])}
        for u in range(units)
    ]  # fmt: skip
    return measures, arrays


def make_diversity(rng, units, n, h, w):
    flat = batch(n, h, w).flatten(1)
    distances = torch.cdist(flat, flat) / math.sqrt(flat.shape[1])
    measures = [
        {
            "index": float(index),
            "distance_mean": 38.2,
            "distance_simple": 21.0,
            "distance_complex": 45.1,
        }
        for index in rng.normal(0.5, 0.3, units)
    ]
    return measures, {"distances": repeated(units, distances)}


def make_dimension(rng, units, n, h, w):
    spectrum = np.sort(rng.dirichlet(np.ones(n) / 2, units), axis=1)[:, ::-1]
    pairs = list(itertools.combinations(range(n), 2))
    at = np.sin(np.pi * np.arange(1, 16) / 16)
    depth = rng.uniform(0, 0.6, (units, len(pairs), 1))
    paths = 1 - depth * at
    for pair, (one, other) in enumerate(pairs):
        if other - one == n / 2:  # opposite images have no one great circle between them
            paths[:, pair] = math.nan
    arrays = {
        "spectrum": torch.from_numpy(spectrum.copy()).float(), "paths": torch.from_numpy(paths).float(),
        "pairs": torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2),
    }  # fmt: skip
    measures = [
        {"participation": float(1 / (s**2).sum()), "groups": 1 + u % 2,
         "path_min": float(np.nanmin(p, initial=1)), "path_mean": 0.7}
        for u, (s, p) in enumerate(zip(spectrum, paths, strict=True))
    ]  # fmt: skip
    return measures, arrays


def make_natural(rng, units, n, h, w):
    top = 9
    smooth = torch.from_numpy(rng.standard_normal((top, 3, h, w))).float().cumsum(2).cumsum(3)
    smooth = smooth - smooth.mean((2, 3), keepdim=True)
    smooth = 32 * smooth / smooth.flatten(1).std(1)[:, None, None, None]
    arrays = {
        "images": repeated(units, smooth),
        "responses": repeated(units, torch.linspace(4, 3, top)),
    }
    exemplars = [
        {
            "file": f"ILSVRC2012_val_{i:08d}.JPEG",
            "row": 12 * i,
            "column": 7 * i,
            "response": 4 - i / 8,
        }
        for i in range(top)
    ]
    measures = [
        {"response_max": 4.0, "response_mean": 3.5, "of_synthetic": float(share), "photographs": 1000,
         "crops": 256000, "exemplars": exemplars}
        for share in rng.uniform(0.3, 0.9, units)
    ]  # fmt: skip
    return measures, arrays


def make_bipartite(rng, units, n, h, w):
    fixed = torch.ones(h, w)
    fixed[:, w // 2 :] = 0
    shares, free = torch.linspace(0, 1, 21), rng.uniform(0, 1, units)
    curve = torch.stack([(1 - shares + q).clamp(0, 1).sqrt() for q in free])
    arrays = {
        "curve": curve.float(), "best_image": repeated(units, gabor(h, w, 0)),
        "mask": torch.rand(units, h, w), "fixed": repeated(units, fixed),
        "texture": repeated(units, gabor(max(1, 2 * h - 2), max(1, 2 * w - 2), 0)),
        "examples": repeated(units, batch(8, h, w)), "example_responses": torch.full((units, 8), 7.0),
        "best": torch.full((units,), 8.0), "energy_shares": shares,
        "contrast": repeated(units, (1 - shares).sqrt()),
    }  # fmt: skip
    measures = [
        {"index": float(3 * q - 2 * q**1.5), "index_at_least": 0.9,
         "index_contrast": 0.0, "share": float(q), "kept": 0.97, "misfit": 0.02,
         "knee": 0.5, "dip": 0.1, "full": 0.6, "boundary": 0.5, "side": 12.0, "position": -1.5,
         "side_meaning": 0.2, "side_meaning_half": 0.2, "mean": 0.9, "min": 0.8, "weak": False}
        for q in free
    ]  # fmt: skip
    return measures, arrays


def make_selectivity(rng, units, n, h, w):
    matrix = torch.from_numpy(rng.uniform(-0.4, 0.6, (units, units))).float().fill_diagonal_(0.95)
    few = min(5, units - 1)
    others = torch.tensor([[u for u in range(units) if u != row] for row in range(units)])
    others = others.reshape(units, units - 1)[:, :few]
    arrays = {"matrix": matrix, "confused": others, "drivers": others.flip(1),
              "best_images": batch(units, h, w)}  # fmt: skip
    measures = [
        {"rank": 1, "own": 0.95, "mean_others": float(rng.uniform(0, 0.3)), "units": units,
         "mean_by_others": float(rng.uniform(0, 0.3)), "above_half": 1, "share_above_half": 0.5,
         "confused": [{"unit": 12 + u, "value": 0.4} for u in others[row].tolist()],
         "driven_by": [{"unit": 12 + u, "value": 0.3} for u in others[row].flip(0).tolist()]}
        for row in range(units)
    ]  # fmt: skip
    return measures, arrays


def make_align(rng, units, n, h, w):
    """Two families, of even and odd units, as far as there are so many."""
    near, labels = min(5, units - 1), np.arange(units) % 2
    shares = np.where(labels[:, None] == labels, 0.9, 0.2) + rng.uniform(-0.05, 0.05, (units,) * 2)
    shown = torch.stack([gabor(h, w, i) for i in range(1 + near)])
    families = families_of(shares) if units > 1 else None
    arrays = {
        "images": repeated(units, shown), "shares": torch.from_numpy(shares).float(),
        "order": torch.arange(units) if families is None else torch.from_numpy(families.order),
        "linkage": torch.zeros(0, 4) if families is None else torch.from_numpy(families.linkage),
        "divisions": torch.zeros(0, 2) if families is None else torch.from_numpy(families.divisions),
        "left_out": torch.tensor([1, 20, 30, 0.1]),
    }  # fmt: skip
    measures = [
        {"family": str(labels[row] + 1), "family_size": int((labels == labels[row]).sum()),
         "typical": row < 2, "to_family": 0.9, "to_others": 0.2, "to_nearest": 0.93,
         "silhouette": 0.8, "asymmetry": 0.01,
         "nearest": [{"unit": other, "there": 0.9, "back": 0.8, "rotation": 177.3, "scale": 1.2,
                      "reflected": bool(other % 2), "sign": -1} for other in range(near)]}
        for row in range(units)
    ]  # fmt: skip
    return measures, arrays


def make_varied(rng, units, n, h, w):
    arrays = {
        "images": repeated(units, torch.stack([batch(n, h, w), batch(n, h, w)])),
        "responses": repeated(units, torch.linspace(6, 4, n).repeat(2, 1)),
        "fractions": torch.tensor([0.5, 0.75]),
    }
    arrays["images"][:, 1, 1:] = arrays["responses"][:, 1, 1:] = math.nan  # a single crop
    measures = [
        {"best_crop": float(best), "photographs_shown": 65, "crops_shown": 25986,
         "crops": {"0.5": 40, "0.75": 1}, "share": {"0.5": 40 / 25986, "0.75": 1 / 25986},
         "photographs": {"0.5": 9, "0.75": 1}, "images": {"0.5": n, "0.75": 1},
         "distance_min": {"0.5": 30.0, "0.75": None}, "distance_mean": {"0.5": 38.0, "0.75": None},
         "of_synthetic_min": {"0.5": 1.2, "0.75": None},
         "of_synthetic_mean": {"0.5": float(best) + 0.4, "0.75": None},
         "chosen": {"0.5": [], "0.75": []}}
        for best in rng.uniform(0.5, 0.9, units)
    ]  # fmt: skip
    return measures, arrays


MAKERS = {
    "gain": make_gain, "phase": make_phase, "shift": make_shift, "deformation": make_deformation,
    "diversity": make_diversity, "dimension": make_dimension, "natural": make_natural,
    "bipartite": make_bipartite, "selectivity": make_selectivity, "align": make_align,
    "varied": make_varied,
}  # fmt: skip


def entry(name, measure, unit=12):
    return {
        "unit": unit, "stop": "converged", "response_mean": 7.9, "response_best": 8.4,
        "distance_pixels_min": 41.2, "distance_pixels_mean": 45.0, "distance_min": 41.2,
        "distance_mean": 45.0, name: measure,
    }  # fmt: skip


def pixels_of(png):
    """The picture's pixels; raises where it is no whole PNG."""
    with Image.open(io.BytesIO(png)) as file:
        assert file.format == "PNG"
        pixels = np.asarray(file.convert("RGB"))
    assert min(pixels.shape[:2]) > 100
    return pixels


def made_picture(name, *, size=(24, 24), n=6, row=0, alone=False, **changes):
    """One unit's picture, with `changes` in what its measure found."""
    measures, arrays = make_measure(name, units=2, n=n, size=size)
    images = None if alone else batch(n, *size)
    responses = None if alone else torch.linspace(8, 7.5, n)
    measure = measures[row] | changes
    return picture(name, RECORD, entry(name, measure), arrays, row, images, responses)


def contains(pixels, block):
    """Whether `block` stands somewhere in the picture, pixel by pixel."""
    height, width = block.shape[:2]
    starts = np.argwhere((pixels[: -height + 1, : -width + 1] == block[0, 0]).all(-1))
    return any(np.array_equal(pixels[y : y + height, x : x + width], block) for y, x in starts)


def as_seen(image, zoom=1):
    """An image [3, h, w] in grey levels as a person sees it, enlarged."""
    shown = np.clip(image.permute(1, 2, 0).numpy() + MEAN.astype(np.float32), 0, 255)
    return np.rint(shown).astype(np.uint8).repeat(zoom, 0).repeat(zoom, 1)


def entries(name, measures):
    return [entry(name, measure, unit) for unit, measure in enumerate(measures)]


# The sizes, counts and shapes that networks have: tiny, usual, deep, oblong; one image, many.
SLOW = [pytest.param(*odd, marks=pytest.mark.slow) for odd in [((9, 31), 2), ((250, 250), 2)]]
ODD = [((3, 3), 64), ((24, 24), 1), ((3, 60), 9), *SLOW]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("size", "n"), ODD)
def test_every_measure_has_a_unit_picture(name, size, n):
    pixels_of(made_picture(name, size=size, n=n))


def texts_outside(figure):
    """Names of axes and texts beside curves that reach out of the figure."""
    figure.draw_without_rendering()
    width, height = figure.canvas.get_width_height()
    texts = [text for axis in figure.axes
             for text in (axis.xaxis.label, axis.yaxis.label, *axis.texts)]  # fmt: skip
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts if text.get_text()]
    return [text for text, box in boxes
            if box.x0 < 0 or box.y0 < 0 or box.x1 > width or box.y1 > height]  # fmt: skip


@pytest.fixture
def outside(monkeypatch):
    """Texts that reach out of the graphs drawn from now on."""
    outside, drawn = [], graph.drawn
    monkeypatch.setattr(
        graph, "drawn", lambda figure: (outside.extend(texts_outside(figure)), drawn(figure))[1]
    )
    return outside


@pytest.mark.parametrize("name", NAMES)
def test_no_text_leaves_its_graph(name, outside):
    made_picture(name)
    measures, arrays = make_measure(name, units=40, size=(5, 5))
    layer_picture(name, RECORD, entries(name, measures), arrays)
    assert outside == []


@pytest.mark.parametrize("name", ["selectivity", "align"])
def test_long_unit_numbers_stay_in_graphs(name, outside):
    measures, arrays = make_measure(name, units=6)
    numbered = [entry(name, measure, 9990 + row) for row, measure in enumerate(measures)]
    layer_picture(name, RECORD, numbered, arrays)
    assert outside == []


@pytest.mark.parametrize("name", NAMES)
def test_picture_without_the_runs_images(name):
    pixels_of(made_picture(name, alone=True))


@pytest.mark.parametrize("name", NAMES)
def test_missing_numbers_are_drawn_as_dashes(name):
    measures, arrays = make_measure(name, units=1)
    nothing = dict.fromkeys(measures[0])
    everything = torch.full((6,), math.nan)
    lost = {"response_mean": None, "distance_pixels_min": None, "distance_pixels_mean": None}
    pixels_of(
        picture(name, RECORD, entry(name, nothing) | lost, arrays, 0, batch(6, 24, 24), everything)
    )


@pytest.mark.parametrize("name", NAMES)
def test_negative_responses_are_drawn(name):
    measures, arrays = make_measure(name, units=1)
    for key in {
        "tuning",
        "fitted_tuning",
        "responses",
        "map_fixed",
        "map_learned",
        "best",
        "kept",
    } & set(arrays):
        arrays[key] = -arrays[key].abs()
    pixels_of(
        picture(name, RECORD, entry(name, measures[0]), arrays, 0, batch(6, 24, 24), -torch.ones(6))
    )


def test_direction_is_named_by_its_file():
    measures, arrays = make_measure("natural", units=1)
    record = RECORD | {"direction": "directions.npy"}
    named = pixels_of(
        picture("natural", record, entry("natural", measures[0]), arrays, 0, None, None)
    )
    assert not np.array_equal(named[:60], pixels_of(made_picture("natural", alone=True))[:60])


COLORED = ("images", "best_images", "grating", "fitted_grating", "texture_fixed", "texture_learned",
           "masked_fixed", "masked_learned", "deformed", "best_image", "texture",
           "examples")  # fmt: skip


def with_channels(x, channels):
    """RGB images as images of so many equal channels."""
    return x.mean(-3, keepdim=True).repeat_interleave(channels, dim=-3)


def other_picture(name, channels, size=(36, 64)):
    """One unit's picture, its network taking images with so many channels; and their batch."""
    (measure, *_), arrays = make_measure(name, size=size)
    arrays = {key: with_channels(x, channels) if key in COLORED else x for key, x in arrays.items()}
    if name == "phase":
        arrays["map"] = arrays["map"][:, :1].repeat_interleave(channels, dim=1)
        measure = measure | {"color": "luminance" if channels == 1 else "axis 2"}
    record, images = RECORD | {"weights": {"mean": [0.5] * channels}}, batch(6, *size)
    shown = with_channels(images, channels)
    png = picture(name, record, entry(name, measure), arrays, 0, shown, torch.linspace(8, 7.5, 6))
    grey = np.rint(np.clip(shown.mean(1).numpy() + np.float32(127.5), 0, 255)).astype(np.uint8)
    return pixels_of(png), grey[..., None].repeat(3, -1)


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("name", NAMES)
def test_pictures_of_other_channels_are_grey(name, channels):
    pixels, grey = other_picture(name, channels)
    if name not in ("shift", "dimension", "bipartite"):  # these show other images than the batch
        assert contains(pixels, grey[0].repeat(2, 0).repeat(2, 1))  # 2 * 64 is below a tile of 160


@pytest.mark.parametrize("size", [(36, 64), (64, 36), (12, 40)])
def test_no_text_leaves_oblong_maps(size, outside):
    other_picture("shift", 1, size)
    assert outside == []


def test_gain_shows_both_batches_exactly():
    pixels, (_, arrays) = pixels_of(made_picture("gain")), make_measure("gain", units=2)
    for image in (*batch(6, 24, 24), *arrays["images"][0]):
        assert contains(pixels, as_seen(image, 7))  # 7 * 24 is nearest to a tile of 160


def test_many_large_images_are_reduced():
    large = pixels_of(made_picture("gain", size=(250, 250), n=9))
    plain = batch(9, 250, 250)[0]
    assert not contains(large, as_seen(plain)[:40, :40])
    # 9 images in 5 columns: at most 1.4 * 160 wide, so squares of 2 x 2 are one pixel
    square = as_seen(plain)[100:102, 100:102].reshape(4, 3).mean(0)
    assert (np.abs(large.astype(float) - square).max(-1) <= 1).any()


def test_shift_shows_texture_and_crop_frame():
    measures, arrays = make_measure("shift", units=1, size=(3, 3))
    pixels = pixels_of(picture("shift", RECORD, entry("shift", measures[0]), arrays, 0, None, None))
    zoom = 48  # of 5 pixels, towards 240
    texture = as_seen(arrays["texture_fixed"][0])
    for row, column in ((0, 0), (1, 3), (2, 2), (4, 1)):
        assert contains(
            pixels, texture[row : row + 1, column : column + 1].repeat(44, 0).repeat(44, 1)
        )
    left = texture[1, 0].astype(int)
    ys, xs = np.nonzero((pixels == left).all(-1))
    x, y = xs[0] + zoom, ys[0] + zoom // 2  # the first pixel of the frame's own column
    assert pixels[y, x].tolist() == [255] * 3
    assert pixels[y, x + 1].tolist() == [0] * 3


def test_shift_of_whole_image_shows_all():
    """The texture has the image's size: no frame lies on it. Its map begins at shift 0."""
    measures, arrays = make_measure("shift", units=1, size=(5, 5))
    for which in ("fixed", "learned"):
        arrays[f"texture_{which}"] = gabor(5, 5, 0)[None]
        arrays[f"map_{which}"] = arrays[f"map_{which}"][:, :3, :3]
    numbers = entry("shift", measures[0] | {"step": 2})
    pixels = pixels_of(picture("shift", RECORD, numbers, arrays, 0, None, None))
    assert contains(pixels, as_seen(arrays["texture_fixed"][0], 48))  # 48 * 5 is 240
    assert _extent(3, 4, step=2) == (-1, 7, 5, -1)
    assert _extent(3, 4, step=None) == (-2.5, 1.5, 1.5, -1.5)


def test_deformation_omits_too_large_displacements():
    _, arrays = make_measure("deformation", units=2, size=(9, 9))
    pixels = pixels_of(made_picture("deformation", size=(9, 9)))
    shown = [
        contains(pixels, as_seen(image.nan_to_num(), 18)) for image in arrays["deformed"][0]
    ]  # 160 / 9
    assert shown == [True, True, True, False, False]


def test_dimension_shows_middle_of_worst_path():
    _, arrays = make_measure("dimension", units=2)
    worst = arrays["paths"][0].nan_to_num(math.inf).min(1).values.argmin()
    one, other = batch(6, 24, 24)[arrays["pairs"][worst]]
    middle = one + other
    middle = middle * one.norm() / middle.norm()
    assert contains(pixels_of(made_picture("dimension")), as_seen(middle, 6))


def test_phase_shows_gratings_and_best_image():
    _, arrays = make_measure("phase", units=2)
    pixels = pixels_of(made_picture("phase"))
    for image in (arrays["grating"][0], batch(6, 24, 24)[0], arrays["fitted_grating"][0]):
        assert contains(pixels, as_seen(image, 6))


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"f1f0": math.pi / 2, "weak": False}, "above 1, simple-like"),
        ({"f1f0": 0.0, "weak": False}, "below 1, complex-like"),
        ({"f1f0": 1.9, "weak": True}, "weak: F0 near zero"),
        ({"f1f0": None, "weak": True}, "no value"),
    ],
)
def test_phase_in_words(found, words):
    assert words in verdict(found)


def test_layer_picture_omits_weak_units():
    measures, arrays = make_measure("phase", units=6)
    plain = layer_picture("phase", RECORD, entries("phase", measures), arrays)
    measures = [measure | {"weak": True} for measure in measures]
    assert layer_picture("phase", RECORD, entries("phase", measures), arrays) is None
    pixels_of(plain)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("units", [2, 512])
def test_every_measure_has_a_layer_picture(name, units):
    measures, arrays = make_measure(name, units=units, size=(5, 5))
    if units > 2:  # dead
        measures[1] = None
        for key in ("kept", "stability"):
            if key in arrays:
                arrays[key][1] = math.nan
    pixels_of(layer_picture(name, RECORD, entries(name, measures), arrays))


@pytest.mark.parametrize("name", NAMES)
def test_layer_picture_needs_two_values(name):
    measures, arrays = make_measure(name, units=2, size=(5, 5))
    assert layer_picture(name, RECORD, entries(name, measures[:1]), arrays) is None
    assert layer_picture(name, RECORD, entries(name, [None, None]), arrays) is None
    nothing = [dict.fromkeys(measure) for measure in measures]
    assert layer_picture(name, RECORD, entries(name, nothing), arrays) is None


def test_natural_layer_picture_without_a_run():
    measures, arrays = make_measure("natural", units=4)
    without = [measure | {"of_synthetic": None} for measure in measures]
    assert pixels_of(layer_picture("natural", RECORD, entries("natural", without), arrays)).size


def test_layer_picture_of_equal_values():
    measures, arrays = make_measure("diversity", units=4)
    same = [measure | {"index": 0.5} for measure in measures]
    pixels_of(layer_picture("diversity", RECORD, entries("diversity", same), arrays))


def test_extremes_are_lowest_and_highest_units():
    layer = Layer(record=RECORD, units=[4, 5, 6, 7, 8], numbers=[None] * 5, arrays={})
    lowest, highest = layer.extremes(np.array([3.0, np.nan, 1.0, 2.0, 5.0]), most=2)
    assert [layer.units[at] for at in lowest] == [6, 7]
    assert [layer.units[at] for at in highest] == [8, 4]
    alone = layer.extremes(np.array([np.nan, np.nan, 1.0, np.nan, np.nan]))
    assert alone == ([2], [])  # never the same unit twice


def test_images_are_fitted_by_whole_factors():
    small, note = fitted(np.zeros((2, 3, 5, 3), np.uint8), 160)
    assert (small.shape, note) == ((2, 96, 160, 3), "")
    large, note = fitted(np.full((1, 500, 250, 3), 7, np.uint8), 160)
    assert (large.shape, note.strip()) == (
        (1, 167, 84, 3),
        "(shown at 1/3 size)",
    )  # 500 / 224, rounded up
    assert (large == 7).all()


def test_long_file_names_keep_their_ends():
    name = "a_very_long_name_of_a_photograph_0001.jpg"
    short = shortened(name, CAPTION, 150)
    assert font(CAPTION).getlength(short) <= 150
    start, end = short.split("…")
    assert name.startswith(start)
    assert name.endswith(end)
    assert shortened("a.jpg", CAPTION, 150) == "a.jpg"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (math.nan, "-"),
        (0.0, "0.00"),
        (8.0, "8.00"),
        (-0.12345, "-0.123"),
        (8123.4, "8123"),
        (100.0, "100"),
    ],
)
def test_numbers_have_three_digits(value, text):
    assert number(value) == text


def test_captions_break_between_words():
    lines = wrapped(["one two three four five six"], CAPTION, 80)
    assert " ".join(lines) == "one two three four five six"
    assert all(font(CAPTION).getlength(line) <= 80 for line in lines)


def test_drawing_leaves_matplotlib_unchanged():
    before = dict(matplotlib.rcParams)
    made_picture("dimension")
    assert dict(matplotlib.rcParams) == before
    assert "matplotlib.pyplot" not in sys.modules or not matplotlib.pyplot.get_fignums()
