"""Natural exemplars: the crops of photographs that drive units most."""

import logging
import struct
import weakref
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from diversevis.errors import InputError
from diversevis.measures.natural import Exemplars
from diversevis.photographs import files as reading
from diversevis.photographs.crops import Scissors
from diversevis.photographs.survey import survey

LOG = logging.getLogger("diversevis")
MEAN = (128 / 255,) * 3  # lies on a grey level, so that crops are whole numbers
SIZE = (8, 9)
NORM = 500.0
ALL = 10**6  # positions: as many as there are


def pattern(seed, size=SIZE):
    """+-60 grey levels [3, h, w]."""
    signs = np.random.default_rng(seed).integers(0, 2, (3, *size))
    return (120 * signs - 60).astype(np.float32)


def filters(*patterns):
    """Linear units of filter norm 1: the response to their pattern is the images' norm. Image by
    image, so that rounding does not depend on the batch."""
    weights = torch.stack([torch.from_numpy(p / np.linalg.norm(p)) for p in patterns])
    return lambda x: torch.stack([(image * weights).sum((1, 2, 3)) for image in x])


def noise(seed, shape=(40, 50), contrast=30):
    """Pixels [rows, columns, 3]."""
    values = np.random.default_rng(seed).normal(128, contrast, (*shape, 3))
    return values.clip(0, 255).astype(np.uint8)


def paste(pixels, what, row, column):
    pixels[row : row + what.shape[1], column : column + what.shape[2]] = 128 + what.transpose(
        1, 2, 0
    )


def save(folder, name, pixels, **settings):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **settings)
    return path


def exemplars(**changes):
    settings = {"top": 3, "crops": 30, "side": 40, "least_contrast": 5.0, "refine": 0}
    return Exemplars(**(settings | changes))


def search(
    folder, respond, *, units, batch=64, seed=0, size=SIZE, progress=lambda *_: None, **changes
):
    settings = exemplars(**changes)
    cutter = Scissors(
        folder=folder, side=settings.side, mean=MEAN, size=size, norm=NORM,
        least_contrast=settings.least_contrast,
    )  # fmt: skip
    return settings(respond, cutter, seed=seed, batch=batch, units=units, progress=progress)


def every_crop(path, size=SIZE):
    """By another route: all crops of a photograph, at equal norm, [rows, columns, 3, h, w]."""
    x = np.asarray(Image.open(path), dtype=np.float64).transpose(2, 0, 1) - 128
    windows = np.lib.stride_tricks.sliding_window_view(x, size, axis=(1, 2)).transpose(
        1, 2, 0, 3, 4
    )
    return windows * (NORM / np.sqrt((windows**2).sum((2, 3, 4), keepdims=True)))


@pytest.fixture
def folder(tmp_path):
    """Six photographs of noise, one of them below."""
    for index in range(5):
        save(tmp_path, f"{index}.png", noise(index))
    save(tmp_path, "deep/er/5.PNG", noise(5))
    return tmp_path


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def log_messages(caplog):
    LOG.addHandler(caplog.handler)
    yield caplog
    LOG.removeHandler(caplog.handler)


def test_planted_pattern_is_the_best_crop(folder):
    """A linear unit responds to its own pattern with the images' norm, whatever the contrast."""
    first, second = pattern(0), pattern(1)
    pixels = noise(3)
    paste(pixels, first, 17, 30)
    save(folder, "3.png", pixels)
    pixels = noise(5)
    paste(pixels, second / 2, 0, 41)  # in the corner
    save(folder, "deep/er/5.PNG", pixels)
    found = search(folder, filters(first, second), units=2, crops=ALL)
    assert found.positions[0][0] == ("3.png", 17, 30)
    assert found.positions[1][0] == ("deep/er/5.PNG", 0, 41)
    assert found.responses[:, 0].tolist() == pytest.approx([NORM, NORM], rel=1e-5)
    assert found.responses[:, 1].max() < 0.8 * NORM
    expected = first * NORM / np.linalg.norm(first)
    assert np.allclose(found.images[0, 0], expected, rtol=1e-5)
    assert (found.photographs, found.crops) == (6, 6 * 33 * 42)


def test_best_crops_equal_an_exhaustive_search(folder):
    """Against all crops of all photographs: of each the best, the best first."""
    what = pattern(2)
    found = search(folder, filters(what), units=1, crops=ALL, top=9)
    names = ["0.png", "1.png", "2.png", "3.png", "4.png", "deep/er/5.PNG"]
    best = {}
    for name in names:
        answers = np.einsum("rcihw,ihw->rc", every_crop(folder / name), what / np.linalg.norm(what))
        best[name] = (answers.max(), *np.unravel_index(answers.argmax(), answers.shape))
    order = sorted(names, key=lambda name: -best[name][0])
    assert found.positions[0] == tuple((name, *best[name][1:]) for name in order)
    assert found.responses[0, :6].tolist() == pytest.approx([best[n][0] for n in order], rel=1e-5)
    assert found.images[0, :6].flatten(1).norm(dim=1).tolist() == pytest.approx([NORM] * 6)
    assert found.images[0, 6:].isnan().all()
    assert found.responses[0, 6:].isnan().all()


def same(first, second):
    return (
        torch.equal(first.images, second.images)
        and torch.equal(first.responses, second.responses)
        and first.positions == second.positions
        and (first.photographs, first.crops) == (second.photographs, second.crops)
    )


def test_batch_and_threads_change_no_result(folder, monkeypatch):
    respond, sizes = filters(pattern(0), pattern(1), pattern(2)), []

    def watched(x):
        sizes.append(len(x))
        return respond(x)

    first = search(folder, watched, units=3, refine=2, batch=70)
    assert max(sizes) <= 70
    assert sizes[:3] == [60, 60, 60]  # photographs share a batch
    assert same(first, search(folder, respond, units=3, refine=2, batch=70))
    for batch, threads in ((7, 1), (1000, 5)):
        monkeypatch.setattr(reading, "THREADS", threads)
        assert same(first, search(folder, respond, units=3, refine=2, batch=batch))
    assert not same(first, search(folder, respond, units=3, refine=2, seed=1))


def test_added_photograph_keeps_the_other_crops(folder):
    respond = filters(pattern(0))
    before = search(folder, respond, units=1, top=10)
    save(folder, "1a.png", noise(77))
    after = search(folder, respond, units=1, top=10)
    assert [place for place in after.positions[0] if place[0] != "1a.png"] == list(
        before.positions[0]
    )


def test_refinement_reaches_the_best_nearby_position(folder):
    """Against all positions within reach; one exemplar is at the edge."""
    what = pattern(4)
    respond = filters(what)
    rough = search(folder, respond, units=1, top=6, crops=4)
    fine = search(folder, respond, units=1, top=6, crops=4, refine=3)
    expected = {}
    for name, row, column in rough.positions[0]:
        answers = np.einsum("rcihw,ihw->rc", every_crop(folder / name), what / np.linalg.norm(what))
        near = np.full_like(answers, -np.inf)
        near_by = (slice(max(0, row - 3), row + 4), slice(max(0, column - 3), column + 4))
        near[near_by] = answers[near_by]
        expected[name] = (near.max(), *np.unravel_index(near.argmax(), near.shape))
    order = sorted(expected, key=lambda name: -expected[name][0])
    assert fine.positions[0] == tuple((name, *expected[name][1:]) for name in order)
    assert fine.responses[0].tolist() == pytest.approx([expected[n][0] for n in order], rel=1e-5)
    assert any(
        row < 3 or row > 29 or column < 3 or column > 38 for _, row, column in rough.positions[0]
    )
    assert fine.crops == rough.crops == 6 * 4


def test_refinement_reads_a_photograph_once(folder, monkeypatch):
    """For all units and exemplars; equal units need every crop only once, too."""
    opened, photograph, shown = [], Scissors.photograph, []

    def watched(self, file):
        opened.append(file)
        return photograph(self, file)

    monkeypatch.setattr(Scissors, "photograph", watched)
    respond = filters(*3 * [pattern(0)])

    def counted(x):
        shown.append(len(x))
        return respond(x)

    found = search(folder, counted, units=3, top=6, crops=4, refine=1, batch=1000)
    assert sorted(opened) == sorted(2 * [name for name, *_ in found.positions[0]])
    assert sum(shown) <= 6 * 4 + 6 * 9


def test_progress_is_reported_per_photograph(folder, log_messages):
    (folder / "broken.png").write_bytes(b"")
    told = []
    search(folder, filters(pattern(0)), units=1, refine=1, progress=lambda *x: told.append(x))
    assert told == [(done, 6) for done in range(1, 7)] + [(done, 9) for done in range(7, 10)]


def test_responses_not_finite_never_win(folder):
    def respond(x):
        answers = torch.full((len(x), 3), torch.nan)
        answers[:, 1] = torch.where(x[:, 0, 0, 0] > 0, torch.inf, x[:, 0, 0, 0])
        answers[:, 2] = -1
        return answers

    found = search(folder, respond, units=3)
    assert found.positions[0] == ()
    assert found.responses[0].isnan().all()
    assert found.images[0].isnan().all()
    assert found.responses[1].isfinite().all()
    assert (found.images[1, :, 0, 0, 0] <= 0).all()
    first = [photograph.file for photograph in survey(folder, "natural").photographs[:3]]
    assert [name for name, *_ in found.positions[2]] == first  # of equals the first


def huge(side):
    """A PNG that claims to be so large."""

    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def test_unreadable_photographs_are_counted_and_named(folder, log_messages):
    """In a single paragraph, however many: five by name, and as often as the folder is read."""
    whole = save(folder, "whole.jpg", noise(8, (200, 300))).read_bytes()
    bad = {
        "cut.jpg": whole[: len(whole) // 2], "text.png": b"hello", "empty.png": b"",
        "huge.png": huge(60_000), "header.png": huge(60_000)[:30], "cut.tif": b"II*\0\x08\0\0\0\xff",
    }  # fmt: skip
    for name, content in bad.items():
        (folder / name).write_bytes(content)
    Image.new("RGB", (1, 5000), "red").save(folder / "strip.png")
    for _ in range(2):
        assert search(folder, filters(pattern(0)), units=1, top=20).photographs == 7
    (said,) = {record.getMessage() for record in log_messages.records}
    assert "left out, unreadable (7): cut.jpg (" in said
    assert "huge.png (more than 178956970 pixels)" in said
    assert said.endswith(" and 2 more")
    for name in [*sorted(bad)[2:], *bad]:
        (folder / name).unlink(missing_ok=True)
    search(folder, filters(pattern(0)), units=1)
    assert "left out, unreadable (1): strip.png (a strip of 1 x 5000 pixels)" in log_messages.text


def test_photographs_of_every_mode_are_read(tmp_path, log_messages):
    """Each is read, and gives crops where it has contrast."""
    rgb = Image.fromarray(noise(0, contrast=60))
    rgb.convert("CMYK").save(tmp_path / "cmyk.jpg")
    rgb.convert("L").save(tmp_path / "grey.jpg")
    rgb.convert("1").save(tmp_path / "binary.png")
    rgb.convert("P").save(tmp_path / "palette.png", transparency=bytes(range(256)))
    rgb.convert("P").save(tmp_path / "one.png", transparency=3)
    rgb.convert("LA").save(tmp_path / "alpha.png")
    rgb.save(tmp_path / "webp.webp")
    Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257).save(tmp_path / "16.png")
    found = search(tmp_path, filters(pattern(0)), units=1, top=20)
    assert found.photographs == 8
    assert len(found.positions[0]) == 8
    (said,) = {record.getMessage() for record in log_messages.records}
    assert said.endswith("(1): palette.png")  # the others have transparency, but no such pixel
    Image.new("RGB", (1, 1), (128, 128, 128)).save(tmp_path / "dot.png")
    found = search(tmp_path, filters(pattern(0)), units=1, top=20)
    assert (found.photographs, len(found.positions[0])) == (9, 8)  # read, but without contrast


def scissors(folder, side=40):
    return Scissors(folder=folder, side=side, mean=MEAN, size=SIZE, norm=NORM, least_contrast=5.0)


def test_pixels_equal_the_files(tmp_path):
    grey = noise(0)[..., 0]
    save(tmp_path, "16.png", grey.astype(np.uint16) * 257)
    assert np.array_equal(scissors(tmp_path).photograph("16.png"), np.dstack([grey] * 3))
    pixels = np.dstack([noise(0), np.repeat([[0], [255]], 20, axis=0) + np.zeros((40, 50), int)])
    save(tmp_path, "alpha.png", pixels.astype(np.uint8))
    shown = scissors(tmp_path).photograph("alpha.png")
    assert (shown[:20] == 128).all()  # the network's mean
    assert np.array_equal(shown[20:], noise(0)[20:])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "jpg", "tif"])
def test_photographs_are_upright(tmp_path, orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    smooth = np.asarray(Image.fromarray(noise(0, (4, 5))).resize((50, 40)))
    stored = save(tmp_path, f"x.{kind}", smooth, exif=exif)
    with Image.open(stored) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    found = scissors(tmp_path).photograph(f"x.{kind}")
    assert np.array_equal(found, expected)
    if orientation == 6 and kind == "png":  # as a camera held upright writes it
        assert np.array_equal(found, np.rot90(smooth, -1))


def test_large_jpeg_equals_its_lossless_copy(tmp_path):
    """To the bit: results follow the pixels, not the format of the file."""
    small = Image.fromarray(noise(0, (12, 16)))
    save(tmp_path, "a.jpg", np.asarray(small.resize((1600, 1200))), quality=95)
    with Image.open(tmp_path / "a.jpg") as image:
        image.save(tmp_path / "a.png")
    first, second = (scissors(tmp_path, 60).photograph(f"a.{kind}") for kind in ("jpg", "png"))
    assert first.shape == (60, 80, 3)
    assert np.array_equal(first, second)


def test_small_photographs_are_enlarged(tmp_path):
    save(tmp_path, "a.png", noise(0, (5, 7)))
    found = search(tmp_path, filters(pattern(0, (50, 20))), units=1, size=(50, 20), side=40)
    assert found.positions[0][0][0] == "a.png"
    assert found.images.shape == (1, 3, 3, 50, 20)
    assert found.crops == 30  # of 1 x 51 positions


def test_flat_crops_are_left_out(tmp_path):
    """Half of the photograph has less contrast than asked for."""
    pixels = noise(0)
    pixels[:, :25] = 132  # 4 grey levels from the mean
    save(tmp_path, "a.png", pixels)
    found = search(tmp_path, lambda x: -x.var((1, 2, 3))[:, None], units=1, crops=ALL)
    assert found.positions[0][0][2] > 25 - SIZE[1]
    assert found.crops < 33 * 42
    pixels[:] = 132
    save(tmp_path, "a.png", pixels)
    assert search(tmp_path, filters(pattern(0)), units=1, least_contrast=3.9).crops == 30
    with pytest.raises(InputError, match=r"natural=.*no crop of 8 x 9 .*least_contrast=4.1 "):
        search(tmp_path, filters(pattern(0)), units=1, least_contrast=4.1)
    save(tmp_path, "a.png", np.full_like(pixels, 128))
    with pytest.raises(InputError, match="no crop"):
        search(tmp_path, filters(pattern(0)), units=1, least_contrast=0.0)


def test_folders_without_photographs_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"natural=.*none is not a folder"):
        search(tmp_path / "none", filters(pattern(0)), units=1)
    with pytest.raises(InputError, match=r"natural=.*holds no image"):
        survey(tmp_path, "natural")
    (tmp_path / "a.png").write_bytes(b"text")
    with pytest.raises(InputError, match=r"natural=.*none of its files could be read"):
        search(tmp_path, filters(pattern(0)), units=1)


def test_few_photographs_are_in_memory(tmp_path, monkeypatch):
    """However many there are; the ones that wait, and the one at hand."""
    for index in range(300):
        save(tmp_path, f"{index:03d}.png", noise(index, (20, 24)))
    monkeypatch.setattr(reading, "THREADS", 3)
    live, most, opened = 0, 0, Scissors.photograph

    def gone():
        nonlocal live
        live -= 1

    def counted(self, file):
        nonlocal live, most
        pixels = opened(self, file)
        live += 1
        weakref.finalize(pixels, gone)
        most = max(most, live)
        return pixels

    monkeypatch.setattr(Scissors, "photograph", counted)
    found = search(tmp_path, filters(pattern(0)), units=1, side=20, crops=2, refine=1)
    assert found.photographs == 300
    assert most <= reading.WAITING * 3 + 3
    assert live == 0


def test_error_ends_the_threads(folder):
    def respond(x):
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        search(folder, respond, units=1)
