"""Folders of photographs: whatever the file, the same pixels give the same numbers."""

import logging
import os
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from test_visualize import setup_of

from diversevis.errors import InputError
from diversevis.experiment.measure import possible
from diversevis.measures.natural import Exemplars
from diversevis.photographs import cache, files
from diversevis.photographs import survey as surveys
from diversevis.photographs.crops import Scissors
from diversevis.photographs.files import Unreadable, decoded, read
from diversevis.photographs.means import mean_activations
from diversevis.photographs.survey import survey
from diversevis.runs.identity import measure_settings_hash, science

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
        Image.fromarray(np.dstack([PIXELS, np.full((300, 400), 255, np.uint8)])).save(
            folder / "a.png"
        )
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

    def of(folder):
        vgg = ["model=vgg19", "layer=conv1_2", "unit=0"]
        setup = setup_of(*vgg, "objective.scale=natural", f"objective.photographs={folder}")
        return (1 / setup.channel_gain).tolist()

    same = write(tmp_path, "grey" if kind == "png-16" else "png")
    assert of(write(tmp_path, kind)) == pytest.approx(of(same), rel=0.01)


def picture(path):
    return np.asarray(read(path, decoded))


def png_of(values):
    """A PNG of 16 bits [rows, columns, color], written by hand: RGB, RGBA, or grey with alpha."""

    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    height, width, channels = values.shape
    kind = {2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*parts) for parts in chunks)


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_deep_colour_becomes_eight_bits(tmp_path, channels):
    values = np.dstack([PIXELS, PIXELS[::-1, :, :1]])
    values = values[..., [0, 3]] if channels == 2 else values[..., :channels]
    (tmp_path / "a.png").write_bytes(png_of(values.astype(np.uint16) * 257))
    expected = values[..., [0, 0, 0, 1]] if channels == 2 else values
    assert np.array_equal(picture(tmp_path / "a.png"), expected)


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


def cmyk_profile():
    """A profile whose every colour is L*a*b* (60, 0, 0) without black, and black with black."""
    table = bytes([153, 128, 128, 0, 128, 128]) * 2**3
    curves = bytes(range(256))
    unit = 65536 * np.eye(3, dtype=int)
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + struct.pack(">9i", *unit.flat)
    lut += 4 * curves + table + 3 * curves
    head = struct.pack(">4s4s4s4s", b"\x02\x10\0\0", b"prtr", b"CMYK", b"Lab ")
    head = bytes(4) + head + bytes(12) + b"acsp" + bytes(28)
    head += struct.pack(">iii", 63190, 65536, 54061) + bytes(48)
    tags = struct.pack(">I4sII", 1, b"A2B0", 144, len(lut))
    return struct.pack(">I", 144 + len(lut)) + (head + tags)[:140] + lut


def test_cmyk_follows_its_profile(tmp_path):
    """The L* of every pixel is 60, which is 145 in sRGB; a damaged profile counts as none."""
    cmyk = Image.fromarray(PIXELS).convert("CMYK")
    cmyk.save(tmp_path / "a.jpg", icc_profile=cmyk_profile())
    assert (picture(tmp_path / "a.jpg") == 145).mean() > 0.99  # but for paper white
    cmyk.save(tmp_path / "b.jpg", icc_profile=b"damaged")
    cmyk.save(tmp_path / "c.jpg")
    assert np.array_equal(picture(tmp_path / "b.jpg"), picture(tmp_path / "c.jpg"))
    assert picture(tmp_path / "c.jpg").std() > 20


def test_animated_files_show_their_first_frame(tmp_path, said):
    frames = [Image.fromarray(like_a_photograph((20, 30), seed)) for seed in range(3)]
    settings = {"save_all": True, "append_images": frames[1:]}
    for name in ("a.png", "a.webp", "a.tif"):
        frames[0].save(
            tmp_path / name, **settings, **({"lossless": True} if "webp" in name else {})
        )
    for name in ("a.png", "a.webp", "a.tif"):
        assert np.array_equal(picture(tmp_path / name), np.asarray(frames[0]))
    cut = [frame.convert("P") for frame in frames]
    cut[0].save(
        tmp_path / "a.gif", save_all=True, append_images=cut[1:], transparency=7, disposal=2
    )
    pages = [frames[0], frames[1].resize((9, 7))]
    pages[0].save(tmp_path / "b.tif", save_all=True, append_images=pages[1:])
    assert len(survey(tmp_path, "natural").photographs) == 5
    (words,) = said
    assert "(5): a.gif, a.png, a.tif, a.webp, b.tif" in words


def save(path, seed=0, **settings):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(like_a_photograph((60, 80), seed)).save(path, **settings)
    return path


def digest(folder):
    return survey(folder, "natural").digest


def test_replaced_photograph_is_another_work(tmp_path, new_process):
    """Of the same name, size and time."""
    path = tmp_path / "a.bmp"
    save(path, 0)
    before, means, facts = digest(tmp_path), calibration(tmp_path), path.stat()
    save(path, 1)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert path.stat().st_size == facts.st_size
    assert digest(tmp_path) != before
    assert not torch.equal(calibration(tmp_path), means)


def test_replaced_photograph_changes_the_run(tmp_path, new_process):
    """The hash of the work by which a finished run is recognised; renamed, it is the same work."""

    def photographs_in_science():
        natural = ["objective.scale=natural", f"objective.photographs={tmp_path}"]
        return science(setup_of("model=energy", "layer=simple", "unit=8", *natural))["photographs"]

    save(tmp_path / "a.png", 0)
    first = photographs_in_science()
    (tmp_path / "a.png").rename(tmp_path / "b.png")
    assert photographs_in_science() == first
    save(tmp_path / "b.png", 1)
    assert photographs_in_science() != first


def test_replaced_photograph_is_measured_again(tmp_path, new_process):
    """A folder that was moved is not."""
    config = {"measure": {}, "natural": str(tmp_path / "a")}
    save(tmp_path / "a/1.png", 0)
    before = measure_settings_hash(config, ["phase", "natural"])
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    moved = config | {"natural": str(tmp_path / "b")}
    assert measure_settings_hash(moved, ["natural"]) == before
    save(tmp_path / "b/1.png", 1)
    assert measure_settings_hash(moved, ["natural"]) != before
    assert measure_settings_hash(moved, ["phase"]) == measure_settings_hash(config, ["phase"])


def exemplars(folder):
    settings = Exemplars(top=2, crops=9, side=40, least_contrast=1.0, refine=1)
    cut = Scissors(
        folder=folder, side=40, mean=(0.5,) * 3, size=(8, 9), norm=500.0, least_contrast=1.0
    )
    weights = torch.randn(3, 3, 8, 9, generator=torch.Generator().manual_seed(0))

    def respond(x):
        return torch.stack([(image * weights).sum((1, 2, 3)) for image in x])

    return settings(respond, cut, seed=0, batch=64, units=3)


def test_names_and_formats_change_nothing(tmp_path, new_process):
    """Renamed, moved, touched, saved again without loss: the same work, to the bit."""
    first, second = tmp_path / "first", tmp_path / "second"
    for seed in range(4):
        save(first / f"{seed}.png", seed)
        save(second / f"deep/{9 - seed}.{('tif', 'bmp', 'webp', 'png')[seed]}", seed,
             **({"lossless": True} if seed == 2 else {}))  # fmt: skip
    os.utime(second / "deep/9.tif", (0, 0))
    assert digest(first) == digest(second)
    best, others = exemplars(first), exemplars(second)
    assert torch.equal(best.images, others.images)
    assert torch.equal(best.responses, others.responses)
    means = calibration(first)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "read", lambda name: None)
        assert torch.equal(calibration(second), means)


def test_linked_files_count_once(tmp_path, said):
    """Links to folders and files are followed; those that lead back, or nowhere, end."""
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "photographs"
    save(elsewhere / "deep/0.png", 0)
    save(elsewhere / "1.png", 1)
    save(folder / "2.png", 2)
    save(folder / ".hidden/3.png", 3)
    save(folder / ".hidden.png", 4)
    (folder / "linked").symlink_to(elsewhere)
    (folder / "again").symlink_to(elsewhere / "deep")
    (folder / "again.png").symlink_to(elsewhere / "1.png")
    (elsewhere / "parent").symlink_to(elsewhere)
    (folder / "dead.png").symlink_to(tmp_path / "nothing")
    (folder / "self.png").symlink_to(folder / "self.png")
    held = [photograph.file for photograph in survey(folder, "natural").photographs]
    assert sorted(held) == ["2.png", "again.png", "again/0.png"]
    (words,) = said
    assert "(2): dead.png (a link to nothing), self.png (Too many levels" in words


def test_left_out_is_said_once(tmp_path, said, monkeypatch):
    """A run names its folder as typed, and later by its full path."""
    save(tmp_path / "photographs/a.png")
    (tmp_path / "photographs/notes.txt").touch()
    monkeypatch.chdir(tmp_path)
    for folder in (Path("photographs"), tmp_path / "photographs"):
        assert len(survey(folder, "natural").photographs) == 1
    (words,) = said
    assert words == "photographs: left out, of other kinds (1): notes.txt"


def test_other_files_are_named(tmp_path, said):
    """Nothing hangs, and no file breaks the line."""
    save(tmp_path / "photo.jpg/a.png")
    save(tmp_path / "b\n.png", 1)
    save(tmp_path / os.fsdecode(b"c\xff.png"), 2)
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "notes\n.txt").write_text("x")
    (tmp_path / "portrait.heic").write_text("x")
    (tmp_path / "program.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    (tmp_path / "empty.jpg").touch()
    assert len(survey(tmp_path, "natural").photographs) == 3
    (words,) = said
    assert "(3): empty.jpg (no image, or a damaged one), pipe.png (no regular file), progr" in words
    assert r"left out, of other kinds (2): notes\n.txt, portrait.heic" in words
    assert "\n" not in words


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_forbidden_files_are_named(tmp_path, said):
    save(tmp_path / "a.png")
    save(tmp_path / "b.png").chmod(0)
    save(tmp_path / "closed/c.png").parent.chmod(0)
    assert len(survey(tmp_path, "natural").photographs) == 1
    (tmp_path / "closed").chmod(0o700)
    (words,) = said
    assert "(2): b.png (Permission denied), closed (Permission denied)" in words


def test_huge_photographs_give_a_plain_sentence(tmp_path):
    """Above Pillow's limit for errors it is left out, above that for warnings read: no other text
    is printed."""
    save(tmp_path / "read.png")
    Image.new("RGB", (200, 200)).save(tmp_path / "huge.png")
    code = (
        "from PIL import Image; Image.MAX_IMAGE_PIXELS = 4000\n"
        "from pathlib import Path\n"
        "from diversevis.photographs.survey import survey\n"
        f"held = survey(Path({str(tmp_path)!r}), 'natural')\n"
        "print([photograph.file for photograph in held.photographs], held.words)"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    words = "left out, unreadable (1): huge.png (more than 8000 pixels)"
    assert process.stdout == f"['read.png'] {words}\n"
    assert process.stderr == f"{tmp_path}: {words}\n"


def test_second_start_decodes_nothing(tmp_path, new_process, cache_folder, monkeypatch):
    for seed in range(3):
        save(tmp_path / f"{seed}.png", seed)
    decodings = []
    seen = surveys._see_image
    monkeypatch.setattr(surveys, "_see_image", lambda image: decodings.append(1) or seen(image))
    first = survey(tmp_path, "natural")
    assert survey(tmp_path, "objective.photographs") is first
    new_process()
    (tmp_path / "2.png").rename(tmp_path / "renamed.png")
    assert digest(tmp_path) == first.digest
    assert len(decodings) == 3
    (file,) = cache_folder.glob("pixels-*")
    whole = file.read_bytes()
    for damaged in (b"", whole[:-1], whole.replace(b'"', b"'"), b"\0" * len(whole)):
        file.write_bytes(damaged)
        new_process()
        assert digest(tmp_path) == first.digest
        assert file.read_bytes() == whole
    assert len(decodings) == 3 * 5


def test_damaged_means_are_computed_again(tmp_path, new_process, cache_folder):
    save(tmp_path / "a.png")
    means = calibration(tmp_path)
    (file,) = cache_folder.glob("means-*")
    whole = file.read_bytes()
    file.write_bytes(whole[:-4] + bytes(4))
    assert torch.equal(calibration(tmp_path), means)
    assert file.read_bytes() == whole


def test_without_home_there_is_no_cache(tmp_path, said, monkeypatch):
    save(tmp_path / "photographs/a.png")
    monkeypatch.delenv("XDG_CACHE_HOME")

    def homeless():
        raise RuntimeError("no home")

    monkeypatch.setattr(cache.Path, "home", homeless)
    means = calibration(tmp_path / "photographs")
    assert torch.equal(calibration(tmp_path / "photographs"), means)
    (words,) = said
    assert "there is no home folder" in words


def test_names_that_are_no_text_are_drawn():
    """In captions; the name of a file may be any bytes, with line breaks."""
    from diversevis.pictures.measures.natural import _caption_name

    assert _caption_name(os.fsdecode(b"deep/c\n\xff.png"), 200) == r"c\n\udcff.png"


def test_cache_that_cannot_be_written_is_told(tmp_path, said, monkeypatch):
    save(tmp_path / "photographs/a.png")
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    calibration(tmp_path / "photographs")
    (words,) = said
    assert "cannot be written (Not a directory)" in words


def test_vanished_photograph_ends_the_reading(tmp_path, new_process, monkeypatch):
    save(tmp_path / "a.png")
    held = survey(tmp_path, "natural")
    monkeypatch.setattr("diversevis.photographs.means.survey", lambda folder, setting: held)
    (tmp_path / "a.png").unlink()
    with pytest.raises(InputError, match="a.png could be read at the start, and cannot now"):
        calibration(tmp_path)


def test_natural_without_its_measure_is_told(tmp_path, said):
    assert possible(["phase"], str(tmp_path)) == ["phase"]
    assert possible(["phase"], str(tmp_path)) == ["phase"]
    (words,) = said
    assert words.startswith(f"natural={tmp_path} is not used")


def test_unreadable_folder_is_refused_early(tmp_path, said):
    (tmp_path / "a.png").write_bytes(b"text")
    with pytest.raises(InputError, match=r"none of its files could be read.*a.png \(no image"):
        possible(["natural"], str(tmp_path))


def test_large_photographs_are_decoded_alone(tmp_path, new_process, monkeypatch):
    monkeypatch.setattr(files, "LARGE", 60 * 80 - 1)
    monkeypatch.setattr(files, "THREADS", 4)
    at_once, most, seen = [], [], surveys._see_image

    def watched(image):
        at_once.append(1)
        most.append(len(at_once))
        result = seen(image)
        at_once.pop()
        return result

    monkeypatch.setattr(surveys, "_see_image", watched)
    for seed in range(12):
        save(tmp_path / f"{seed}.png", seed)
    survey(tmp_path, "natural")
    assert most == [1] * 12
