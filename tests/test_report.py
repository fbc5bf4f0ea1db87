import io

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from PIL import Image

from diversevis.errors import InputError
from diversevis.pictures.film import (
    FRAMES_PER_SECOND,
    check_film,
    is_film_step,
    recorded,
    write_film,
)
from diversevis.pictures.images import draw_images, sheet
from diversevis.pictures.page import enlarge, png
from diversevis.runs.folder import RunFolder

RECORD = {"model": "vgg19", "layer": "conv3_1", "distance": "conv2_2", "direction": None}
METRICS = {
    "unit": 21, "response_mean": 3.0, "response_best": 4.0, "distance_min": 1.0, "stop": "converged",
    "distance_mean": 2.0, "distance_pixels_min": 1.0, "distance_pixels_mean": 2.0,
}  # fmt: skip


def test_enlarging_only_repeats_pixels():
    image = np.random.default_rng(0).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    large = enlarge(image, 5)
    assert large.shape == (15, 20, 3)
    assert np.array_equal(large[::5, ::5], image)
    assert np.array_equal(large[4::5, 4::5], image)


@pytest.mark.parametrize(
    ("n", "size"),
    [(1, (7, 7)), (6, (24, 24)), pytest.param(16, (60, 60), marks=pytest.mark.slow), (5, (9, 13))],
)
def test_sheet_shows_every_image_exactly(n, size):
    pixels = np.random.default_rng(0).integers(0, 256, (n, *size, 3), dtype=np.uint8)
    canvas = sheet(pixels, ["1"] * n, RECORD, METRICS)
    zoom = max(1, round(160 / max(size)))
    height, width = size[0] * zoom, size[1] * zoom
    large = enlarge(pixels, zoom)
    for image in large:  # found where its first row of pixels stands
        rows = np.lib.stride_tricks.sliding_window_view(canvas, (1, width, 3))[..., 0, 0, :, :]
        top, left = np.argwhere((rows == image[0]).all((-1, -2)))[0]
        assert np.array_equal(canvas[top : top + height, left : left + width], image)


def test_sheets_of_dead_and_single_units():
    dead = METRICS | {"stop": "dead", "response_mean": None, "distance_min": None}
    pixels = np.zeros((2, 5, 5, 3), np.uint8)
    assert sheet(pixels, ["0", "0"], RECORD, dead).shape[2] == 3
    lost = METRICS | {"stop": "diverged", "response_mean": None, "response_best": None}
    assert sheet(pixels, ["0", "nan"], RECORD, lost).shape[2] == 3
    assert sheet(pixels[:1], ["0"], RECORD, METRICS | {"distance_min": None}).shape[2] == 3


def test_grey_images_of_a_run_are_drawn(tmp_path):
    """Each alone, pixel by pixel; in the sheet and at every weight enlarged twice."""
    images, weights = 40 * torch.randn(1, 2, 1, 36, 64), [0.0, 0.1, 0.2]
    numbers = {"response_mean": 3.0, "response_min": 2.0, "distance_min": 4.0}
    front = [{"diversity": weight} | numbers for weight in weights]
    record = RECORD | {"weights": {"mean": [0.5]}}
    folder = RunFolder(tmp_path)
    folder.write_record(record)
    folder.write_metrics([METRICS | {"knee": 0.1, "front": front}])
    folder.write_images(images, torch.ones(1, 2), torch.tensor([21]))
    folder.write_trace(["response_mean"], [[1, 21, 2.0], [2, 21, 3.0]])
    at_weights = images[:, None].repeat(1, 3, 1, 1, 1, 1)
    folder.write_front(at_weights, torch.tensor(weights), torch.tensor([21]), ["unit"], [[21]])
    draw_images(folder, lambda done, total: None, {})
    shown = (images[0, :, 0] + 127.5).clamp(0, 255).round().byte().numpy()
    for index, image in enumerate(shown):
        pixels = np.asarray(Image.open(tmp_path / f"images/unit0021/{index:02d}.png"))
        assert np.array_equal(pixels, np.dstack([image] * 3))
    for name, count in (("sheet_unit0021.png", 1), ("front_unit0021.png", 3)):
        picture = np.asarray(Image.open(tmp_path / name))[..., 0]
        first = shown[0].repeat(2, 0).repeat(2, 1)
        rows = np.lib.stride_tricks.sliding_window_view(picture, (1, 128))[:, :, 0]
        found = np.argwhere((rows == first[0]).all(-1))[::2]  # every row of pixels stands twice
        assert len(found) == count
        for top, left in found:
            assert np.array_equal(picture[top : top + 72, left : left + 128], first)


def test_film_of_oblong_images_has_them_whole(tmp_path):
    """36 x 64: a tile of 120 is nearest to twice as large, with rims of 8 and 4."""
    frames = [np.full((3, 36, 64, 3), shade, np.uint8) for shade in (0, 200)]
    write_film(RunFolder(tmp_path), 3, "gif", frames)
    with Image.open(tmp_path / "optimization_unit0003.gif") as film:
        assert film.size == (3 * (128 + 8), 72 + 16)


def test_film_steps_thin_out():
    steps = [step for step in range(1, 2001) if is_film_step(step)]
    assert steps[:24] == list(range(1, 25))
    assert 80 < len(steps) < 120
    assert max(np.diff(steps)) < 150


def test_gif_holds_the_frames(tmp_path):
    frames = [np.full((2, 5, 5, 3), shade, np.uint8) for shade in (0, 90, 200)]
    write_film(RunFolder(tmp_path), 3, "gif", frames)
    content = (tmp_path / "optimization_unit0003.gif").read_bytes()
    with Image.open(io.BytesIO(content)) as film:
        shades = []
        for index in range(film.n_frames):
            film.seek(index)
            shades.append(film.convert("RGB").getpixel((20, 20))[0])
            duration = film.info["duration"]
    assert list(dict.fromkeys(shades)) == [0, 90, 200]
    assert duration == pytest.approx(1000 / FRAMES_PER_SECOND, abs=10) or duration > 500


def test_mp4_has_even_sizes(tmp_path):
    pytest.importorskip("av", reason="PyAV (the extra `video`) is not installed")
    write_film(RunFolder(tmp_path), 3, "mp4", [np.full((3, 7, 7, 3), 120, np.uint8)] * 5)
    film = iio.imread(tmp_path / "optimization_unit0003.mp4", plugin="pyav")
    assert film.shape[1] % 2 == film.shape[2] % 2 == 0
    assert abs(int(film[0, film.shape[1] // 2, 60, 0]) - 120) < 4


def test_mp4_without_pyav_is_refused_early(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="record=gif"):
        check_film("mp4", 6, (24, 24))
    check_film("gif", 6, (24, 24))


@pytest.mark.parametrize("kind", ["gif", "mp4"])
@pytest.mark.parametrize(("n", "size"), [(9, (40, 40)), (500, (24, 24)), (130, (200, 224))])
def test_films_of_many_images_wrap(tmp_path, kind, n, size):
    """Ended in an encoder's traceback (mp4 of 128 images) or an ImportError (gif of 500)."""
    if kind == "mp4":
        pytest.importorskip("av", reason="PyAV (the extra `video`) is not installed")
    shades = np.linspace(0, 200, n).astype(np.uint8)
    images = np.broadcast_to(shades[:, None, None, None], (n, *size, 3))
    check_film(kind, n, size)
    write_film(RunFolder(tmp_path), 3, kind, [recorded(images)] * 2)
    film = iio.imread(tmp_path / f"optimization_unit0003.{kind}")
    height, width = film.shape[1:3]
    assert height <= 1080
    assert width <= 1920
    assert width > height
    dark, light = film[-1].min(), np.sort(film[-1][film[-1] < 225])[-40:].mean()
    assert dark < 12
    assert abs(light - 200) < 12


def test_frames_are_remembered_as_shown():
    images = np.random.default_rng(0).integers(0, 256, (130, 224, 224, 3), dtype=np.uint8)
    small = recorded(images)
    assert small.shape == (130, 112, 112, 3)
    assert abs(small[0, 0, 0].astype(float) - images[0, :2, :2].mean((0, 1))).max() <= 1
    assert np.array_equal(recorded(images[:6]), images[:6])


def test_impossible_film_is_refused_early():
    check_film("none", 10**6, (224, 224))
    with pytest.raises(InputError, match="smaller n, or record=none"):
        check_film("gif", 20_000, (224, 224))
    with pytest.raises(InputError, match="1920 x 1080"):
        check_film("gif", 10**6, (3, 3))


def test_failing_encoder_costs_only_the_film(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("diversevis.pictures.film._gif", lambda film: 1 / 0)
    write_film(RunFolder(tmp_path), 3, "gif", [np.zeros((2, 5, 5, 3), np.uint8)])
    assert "unit 3 has no film: ZeroDivisionError" in caplog.text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("n", "size"), [(128, (224, 224)), (500, (224, 224)), (500, (3, 3)), (2000, (8, 50))]
)
def test_sheets_of_many_images_are_bounded(n, size):
    """500 images of 224 x 224 made a sheet of 7616 x 4200 pixels."""
    picture = sheet(np.zeros((n, *size, 3), np.uint8), ["1.25"] * n, RECORD, METRICS)
    assert max(picture.shape) < 4400


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (40, 700)])
def test_png_files_hold_every_pixel(shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    for block in (pixels, pixels[::-1, ::-1]):  # the second is not contiguous
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(png(block)))), block)
        assert np.array_equal(iio.imread(png(block), extension=".png"), block)
