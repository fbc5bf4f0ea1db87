"""Folders of photographs: whatever the file, the same pixels give the same numbers."""

import logging
import os
import struct
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageOps

from diversevis.errors import InputError
from diversevis.experiment.measure import possible
from diversevis.measures.natural import Exemplars
from diversevis.photographs import cache, files
from diversevis.photographs import survey as surveys
from diversevis.photographs.crops import Scissors
from diversevis.photographs.files import Unreadable, decoded, read
from diversevis.photographs.means import mean_activations
from diversevis.photographs.survey import survey

LOG = logging.getLogger("diversevis")
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "diversevis"


@pytest.fixture
def new_process(monkeypatch):
    """Called: this process forgets what it knows of folders and has said of them."""

    def forget():
        monkeypatch.setattr(surveys, "_surveys", {})
        monkeypatch.setattr(cache, "_warned", set())

    forget()
    return forget


@pytest.fixture
def said(new_process):
    """The messages for the user."""
    messages = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())
    LOG.addHandler(handler)
    yield messages
    LOG.removeHandler(handler)


def like_a_photograph(shape=(300, 400), seed=0):
    """Noise [rows, columns, 3] with amplitudes 1/f in colours that resemble each other."""
    generator = np.random.default_rng(seed)
    rows, columns = (np.fft.fftfreq(edge) * edge for edge in shape)
    frequency = np.hypot(rows[:, None], columns)[..., None]
    frequency[0, 0] = np.inf
    noise = generator.normal(size=(*shape, 1)) + 0.3 * generator.normal(size=(*shape, 3))
    x = np.fft.ifft2(np.fft.fft2(noise, axes=(0, 1)) / frequency, axes=(0, 1)).real
    return (118 + 50 * x / x.std()).clip(0, 255).astype(np.uint8)


PIXELS = like_a_photograph()
GREY = PIXELS[..., 1]


def tiff_of(values, *, bits=16, order="<", inverted=False, sample_format=1):
    """An uncompressed grey TIFF [rows, columns], written by hand."""
    height, width = values.shape
    if bits == 12:
        pairs = values.astype(int).reshape(-1, 2)
        first, second = pairs.T
        packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=1)
        data = packed.astype(np.uint8).tobytes()
    else:
        data = values.astype(f"{order}{'fi'[sample_format != 3]}{bits // 8}").tobytes()
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, 0 if inverted else 1),
            (273, 8), (277, 1), (278, height), (279, len(data)), (339, sample_format)]  # fmt: skip
    directory = struct.pack(f"{order}H", len(tags))
    for tag, value in tags:
        directory += struct.pack(f"{order}HHII", tag, 4, 1, value)
    head = b"II*\0" if order == "<" else b"MM\0*"
    return head + struct.pack(f"{order}I", 8 + len(data)) + data + directory + bytes(4)


def write(folder, kind):
    """The photograph in a file of this kind, in a folder of its own; returns the folder."""
    folder = folder / kind
    folder.mkdir()
    colour, deep = Image.fromarray(PIXELS), GREY.astype(np.uint16) * 257
    turned = Image.Exif()
    turned[0x0112] = 6
    by_hand = {
        "tiff-16-II": {}, "tiff-16-MM": {"order": ">"},
        "tiff-16-white-is-zero": {"inverted": True}, "tiff-12": {"bits": 12},
    }  # fmt: skip
    if kind in by_hand:
        values = {"tiff-12": np.rint(GREY * (4095 / 255)), "tiff-16-white-is-zero": 65535 - deep}
        (folder / "a.tif").write_bytes(tiff_of(values.get(kind, deep), **by_hand[kind]))
    elif kind.startswith("exif"):
        settings = {"exif-jpg": {"quality": 97, "subsampling": 0}, "exif-webp": {"lossless": True},
                    "exif-lzw.tif": {"compression": "tiff_lzw"}}  # fmt: skip
        stored = Image.fromarray(np.ascontiguousarray(np.rot90(PIXELS)))
        suffix = kind.split("-")[1].split(".")[-1]
        stored.save(folder / f"a.{suffix}", exif=turned, **settings.get(kind, {}))
    elif kind == "cmyk":
        colour.convert("CMYK").save(folder / "a.jpg", quality=97, subsampling=0)
    elif kind == "palette":
        Image.fromarray(GREY).convert("P").save(folder / "a.png")
    elif kind == "grey":
        Image.fromarray(GREY).save(folder / "a.png")
    elif kind == "png-16":
        Image.fromarray(deep).save(folder / "a.png")
    elif kind == "tiff-16-lzw":
        Image.fromarray(deep).save(folder / "a.tif", compression="tiff_lzw")
    elif kind == "pgm-16":
        head = b"P5 400 300 65535\n"
        (folder / "a.pgm").write_bytes(head + deep.astype(">u2").tobytes())
    elif kind == "pgm-10":
        head = b"P5 400 300 1023\n"
        (folder / "a.pgm").write_bytes(head + np.rint(GREY * (1023 / 255)).astype(">u2").tobytes())
    elif kind == "jp2-16":
        Image.fromarray(deep).save(folder / "a.jp2", irreversible=False)
    elif kind == "alpha":
        Image.fromarray(np.dstack([PIXELS, np.full((300, 400), 255, np.uint8)])).save(folder / "a.png")
    else:
        colour.save(folder / f"a.{kind}", **({"lossless": True} if kind == "webp" else {}))
    return folder


COLOUR = ["tif", "bmp", "ppm", "jp2", "webp", "cmyk", "alpha",
          "exif-jpg", "exif-png", "exif-webp", "exif-tif", "exif-lzw.tif"]  # fmt: skip
IN_GREY = ["png-16", "tiff-16-II", "tiff-16-MM", "tiff-16-white-is-zero", "tiff-16-lzw", "tiff-12",
           "pgm-16", "pgm-10", "jp2-16", "palette"]  # fmt: skip


def calibration(folder, **changes):
    """Means of eight random filters."""
    weights = torch.randn(8, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    settings = {"identity": "x", "crop": (226, 226), "device": torch.device("cpu"), **IMAGENET}
    respond = lambda z: [torch.relu(torch.conv2d(z, weights))]  # noqa: E731
    return mean_activations(respond, folder, **(settings | changes))[0]


@pytest.mark.parametrize("kind", COLOUR + IN_GREY)
def test_calibration_depends_on_no_file_format(tmp_path, kind):
    same = write(tmp_path, "png" if kind in COLOUR else "grey")
    other = write(tmp_path, kind)
    assert calibration(other).tolist() == pytest.approx(calibration(same).tolist(), rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tif", "cmyk", "exif-jpg", "png-16"])
def test_real_calibration_depends_on_no_format(tmp_path, kind, real_weights):
    """conv1_2 of VGG-19; every channel."""
    from test_visualize import setup_of

    def of(folder):
        vgg = ["model=vgg19", "layer=conv1_2", "unit=0", f"model.weights={real_weights}"]
        setup = setup_of(*vgg, "objective.scale=natural", f"objective.photographs={folder}")
        return (1 / setup.channel_gain).tolist()

    same = write(tmp_path, "grey" if kind == "png-16" else "png")
    assert of(write(tmp_path, kind)) == pytest.approx(of(same), rel=0.01)


def picture(path):
    return np.asarray(read(path, decoded))


def test_deep_colour_is_scaled_to_eight_bits(tmp_path):
    """RGB and RGBA PNGs of 16 bits, and an RGB TIFF, written without Pillow's help."""
    from imageio.v3 import imwrite  # noqa: F401  (it needs further packages for 16 bits)


def test_sixteen_bit_transparency_is_seen(tmp_path):
    values = np.full((20, 30), 300, np.uint16)
    values[:, :10] = 301  # of the same 8 bits
    Image.fromarray(values).save(tmp_path / "a.png", transparency=301)
    shown = picture(tmp_path / "a.png")
    assert (shown[:, :10, 3] == 0).all()
    assert (shown[:, 10:, 3] == 255).all()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [({"bits": 32}, "integers of 32 bits"), ({"sample_format": 2}, "signed"),
     ({"bits": 32, "sample_format": 3}, "fractional numbers")],
)  # fmt: skip
def test_numbers_without_white_are_refused(tmp_path, settings, reason):
    (tmp_path / "a.tif").write_bytes(tiff_of(GREY.astype(float), **settings))
    with pytest.raises(Unreadable, match=reason):
        picture(tmp_path / "a.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_pictures_are_turned_once(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    compressed = {"compression": "tiff_lzw"} if suffix == "tif" else {}
    Image.fromarray(PIXELS[:30, :40]).save(tmp_path / f"a.{suffix}", exif=exif, **compressed)
    with Image.open(tmp_path / f"a.{suffix}") as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(picture(tmp_path / f"a.{suffix}"), expected)
