"""`diversevis figure`: figures of a run for a paper."""

import io
import itertools
import json
import re
import shutil
import struct
import zlib

import matplotlib
import numpy as np
import pytest
import torch
from conftest import QUICK
from matplotlib.text import Text
from PIL import Image
from test_measure_pictures import (
    NAMES,
    RECORD,
    as_seen,
    batch,
    contains,
    entries,
    entry,
    make_measure,
)

from diversevis.cli.main import main
from diversevis.errors import InputError
from diversevis.pictures.draw import MEASURES, layer_of, view_of
from diversevis.pictures.panels import Tiles
from diversevis.pictures.paper import laid_out, saved, style

MM = 600 / 25.4  # pixels of a PNG file
WIDTHS = {1: 85, 2: 180}


def unit_panels(name, *, size=(24, 24), n=6):
    measures, arrays = make_measure(name, units=2, n=n, size=size)
    images, responses = batch(n, *size), torch.linspace(8000, 7500, n)
    return MEASURES[name][0].panels(
        view_of(name, RECORD, entry(name, measures[0]), arrays, 0, images, responses)
    )


def layer_panels(name, units):
    measures, arrays = make_measure(name, units=units)
    layer = layer_of(name, RECORD, entries(name, measures), arrays)
    return MEASURES[name][0].layer_picture(layer).panels


def texts_of(figure):
    """All texts that are seen, with their boxes in points."""
    figure.draw_without_rendering()
    per_point = figure.dpi / 72
    hidden = {text for axis in figure.axes for line in (axis.xaxis, axis.yaxis)
              for text in unseen(line, axis.axison)}  # fmt: skip
    texts = [text for text in figure.findobj(Text)
             if text.get_visible() and text.get_text().strip() and text not in hidden]  # fmt: skip
    return [(text, np.array(text.get_window_extent().extents) / per_point) for text in texts]


def faults(figure):
    """Texts that are too small, leave the figure, or cover one another by more than their rims."""
    texts = texts_of(figure)
    right, top = figure.get_size_inches() * 72
    for text, (x0, y0, x1, y1) in texts:
        if text.get_fontsize() < 7:
            yield f"{text.get_text()!r} is of {text.get_fontsize()} points"
        if x0 < 0 or y0 < 0 or x1 > right or y1 > top:
            yield f"{text.get_text()!r} is cut off"
    for (one, a), (other, b) in itertools.combinations(texts, 2):
        across, down = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
        if across > 0.5 and down > 1.5:
            yield f"{one.get_text()!r} and {other.get_text()!r} touch"


def unseen(line, is_on):
    """Texts of an axis that is off, or of ticks outside its range: matplotlib leaves them out."""
    if not is_on:
        return line.findobj(Text)
    low, high = sorted(line.get_view_interval())
    rim = 1e-9 * (high - low)
    ticks = [*line.get_major_ticks(), *line.get_minor_ticks()]
    beyond = [tick for tick in ticks if not low - rim <= tick.get_loc() <= high + rim]
    return [label for tick in beyond for label in (tick.label1, tick.label2)]


# -- layout ---------------------------------------------------------------------------------------

SLOW = [pytest.param(*odd, marks=pytest.mark.slow)
        for odd in [((24, 24), 6, 2), ((3, 60), 1, 1), ((5, 5), 20, 1), ((5, 5), 20, 2)]]  # fmt: skip


@pytest.mark.parametrize(("size", "n", "columns"), [((24, 24), 6, 1), *SLOW])
@pytest.mark.parametrize("name", NAMES)
def test_texts_of_units_are_readable(name, size, n, columns):
    with style():
        assert not [*faults(laid_out(unit_panels(name, size=size, n=n), columns))]


SLOW = [pytest.param(*odd, marks=pytest.mark.slow) for odd in [(40, 2), (2, 1), (2, 2), (512, 1)]]


@pytest.mark.parametrize(("units", "columns"), [(40, 1), *SLOW])
@pytest.mark.parametrize("name", NAMES)
def test_texts_of_layers_are_readable(name, units, columns):
    with style():
        assert not [*faults(laid_out(layer_panels(name, units), columns))]


def test_all_indices_stand_side_by_side():
    panels = [*layer_panels("diversity", 40), *layer_panels("dimension", 40)]
    with style():
        narrow, wide = (laid_out(panels, columns).get_size_inches() for columns in (1, 2))
    assert wide[1] < 0.6 * narrow[1]
    assert [narrow[0] * 25.4, wide[0] * 25.4] == pytest.approx([85, 180])


def test_too_many_images_are_refused():
    image = np.zeros((9, 9, 3), np.uint8)
    tiles = Tiles(images=[image] * 4000, captions=["1.0"] * 4000)
    with style(), pytest.raises(InputError, match="mm high"):
        laid_out([tiles], 1)


def test_image_wider_than_column_is_refused():
    tiles = Tiles(images=[np.zeros((9, 2100, 3), np.uint8)], captions=["1.0"])
    with style():
        with pytest.raises(InputError, match="2100 pixels do not fit into 84 mm"):
            laid_out([tiles], 1)
        laid_out([tiles], 2)


# -- files ----------------------------------------------------------------------------------------


def file_of(panels, columns, kind):
    return saved(panels, columns, kind, "vgg19 conv2_1 unit 12", "mark-of-the-figure")


@pytest.fixture(scope="module")
def measured_pdf():
    return {columns: file_of(unit_panels("diversity"), columns, "pdf") for columns in (1, 2)}


@pytest.mark.parametrize("columns", [1, 2])
def test_pdf_is_as_wide_as_columns(measured_pdf, columns):
    (box,) = re.findall(rb"/MediaBox \[([^\]]*)\]", measured_pdf[columns])
    left, _, right, _ = map(float, box.split())
    assert (right - left) / 72 * 25.4 == pytest.approx(WIDTHS[columns], abs=0.1)


def test_pdf_embeds_its_fonts(measured_pdf):
    pdf = measured_pdf[1]
    names = set(re.findall(rb"/BaseFont /(?:[A-Z]{6}\+)?([\w-]+)", pdf))
    assert names == {b"DejaVuSans", b"DejaVuSans-Bold"}
    assert pdf.count(b"/FontFile2") == pdf.count(b"/Type /FontDescriptor") >= 2
    assert b"/Type3" not in pdf


def test_pdf_holds_pixels_as_squares():
    """The image is in the file in dots, of which every pixel of the run has a square: a viewer that
    smooths what it enlarges blurs a thousandth of an inch."""
    image = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    pdf = file_of([Tiles(images=[image], captions=["8.2"])], 1, "pdf")
    (entry,) = re.findall(
        rb"<<([^>]*/Subtype /Image[^>]*(?:>>[^>]*)?)>>\s*stream\n(.*?)\nendstream", pdf, re.DOTALL
    )
    facts, stream = entry
    side = 24 * 27  # dots: as many as there are in 28 mm, for 24 pixels
    assert b"/Width %d" % side in facts
    assert b"/Height %d" % side in facts
    assert b"/Interpolate true" not in facts
    rows = decoded(stream, side)[::-1]  # matplotlib writes them from the lowest up
    assert np.array_equal(rows, image.repeat(27, 0).repeat(27, 1))


def decoded(stream, side):
    """Pixels of a stream with the filters of PNG files, by a reader of PNG files."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", stream), (b"IEND", b"")]
    parts = [struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
             for name, data in chunks]  # fmt: skip
    with Image.open(io.BytesIO(b"\x89PNG\r\n\x1a\n" + b"".join(parts))) as file:
        return np.asarray(file)


def test_svg_needs_no_other_file():
    svg = file_of(unit_panels("phase"), 1, "svg").decode()
    width = float(re.search(r'<svg[^>]* width="([\d.]+)pt"', svg)[1])
    assert width / 72 * 25.4 == pytest.approx(85, abs=0.1)
    links = re.findall(r'(?:href|src)="([^"]*)"', svg) + re.findall(r"url\(([^)]*)\)", svg)
    assert links
    assert {link[:1] for link in links if not link.startswith("data:image/png;base64,")} == {"#"}
    assert "<text" not in svg  # letters are outlines
    assert "@font-face" not in svg


@pytest.mark.parametrize("columns", [1, 2])
def test_png_shows_every_pixel_exactly(columns):
    images = [as_seen(image) for image in batch(6, 24, 20)]
    tiles = Tiles(images=images, captions=["8.2"] * 6)
    with Image.open(io.BytesIO(file_of([tiles], columns, "png"))) as file:
        assert file.width == int(WIDTHS[columns] * MM)
        assert file.info["dpi"] == pytest.approx((600, 600), abs=0.1)
        pixels = np.asarray(file.convert("RGB"))
    zoom = 15 if columns == 1 else 27  # six of 20 pixels fill 84 mm; 24 pixels are at most 28 mm
    for image in images:
        assert contains(pixels, image.repeat(zoom, 0).repeat(zoom, 1))


@pytest.mark.parametrize("kind", ["pdf", "svg", "png"])
def test_same_figure_has_same_bytes(kind):
    panels = [*unit_panels("dimension")]
    assert file_of(panels, 1, kind) == file_of(panels, 1, kind)
    assert b"mark-of-the-figure" in file_of(panels, 1, kind)


def test_figure_leaves_matplotlib_unchanged():
    before = dict(matplotlib.rcParams)
    file_of(unit_panels("gain"), 1, "png")
    assert dict(matplotlib.rcParams) == before


# -- the command ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder above a run of two units."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("DIVERSEVIS_WEIGHTS", raising=False)
        words = ["unit=0-1", "analysis=[phase,diversity]", "images=tensor", *QUICK]
        assert main(["run", *words]) == 0
    return folder / "outputs"


@pytest.fixture
def run_folder(finished, current_folder):
    shutil.copytree(finished, "outputs")
    return "outputs/energy/complex/0-1/v001"


def made(capsys, *words):
    """The lines of stdout of a figure that is made."""
    capsys.readouterr()
    assert main(["figure", *words]) == 0
    return capsys.readouterr()


def refused(capsys, *words):
    capsys.readouterr()
    assert main(["figure", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.strip().splitlines()) == 1
    return err


def test_command_writes_what_it_names(run_folder, current_folder, capsys):
    dashed = made(capsys, run_folder, "--unit", "1", "--kind=sheet", "--columns", "2")
    name = "energy_complex_unit1_sheet_2columns.pdf"
    assert dashed.out == f"{name}\n"
    assert "For the caption: energy  complex  unit 1\nresponse" in dashed.err
    content = (current_folder / name).read_bytes()
    assert content.startswith(b"%PDF")
    assert made(capsys, run_folder, "unit=1", "kind=sheet", "columns=2").out == dashed.out
    assert (current_folder / name).read_bytes() == content
    assert sorted(path.name for path in current_folder.iterdir()) == [name, "outputs"]


def test_command_shows_units_together(run_folder, capsys):
    for kind in ("phase", "diversity", "layer", "trace"):
        name = f"energy_complex_units0-1_{kind}_1column.png"
        out = made(capsys, run_folder, f"kind={kind}", "format=png").out
        assert out == f"{name}\n"
    assert made(capsys, run_folder, "kind=phase", "unit=0", "out=a.svg").out == "a.svg\n"


def test_other_files_are_never_replaced(run_folder, current_folder, capsys):
    made(capsys, run_folder, "kind=phase", "unit=0", "out=a.png")
    kept = (current_folder / "a.png").read_bytes()
    for words in (["kind=phase", "unit=1"], ["kind=sheet", "unit=0"], ["kind=phase"],
                  ["kind=phase", "unit=0", "columns=2"]):  # fmt: skip
        assert "is not this figure" in refused(capsys, run_folder, *words, "out=a.png")
    assert (current_folder / "a.png").read_bytes() == kept


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "has: sheet, trace, phase, diversity, layer"),
        (["kind=fase"], "Did you mean phase?"),
        (["kind=shift"], "`diversevis analyze outputs/energy/complex/0-1/v001 analysis=shift`"),
        (["kind=front"], "objective=path"),
        (["kind=sheet"], "has the units 0-1"),
        (["kind=sheet", "unit=7"], "there is no such unit"),
        (["kind=layer", "unit=1"], "leave out unit=1"),
        (["kind=phase", "columns=3"], "85 mm"),
        (["kind=phase", "format=jpg"], "pdf, svg, png"),
        (["kind=phase", "out=a.jpg"], ".pdf, .svg, .png"),
        (["kind=phase", "out=a.png", "format=svg"], ".svg"),
        (["kind=phase", "out=no/a.png"], "there is no folder no"),
        (["--kind"], "--kind needs a value"),
        (["--king", "phase"], "--king"),
    ],
)
def test_command_says_what_is_wrong(run_folder, capsys, words, says):
    assert says in refused(capsys, run_folder, *words)


def test_dead_units_have_no_figure(run_folder, current_folder, capsys):
    path = current_folder / run_folder / "metrics.json"
    metrics = json.loads(path.read_text())
    dead = {"stop": "dead", "response_mean": None, "phase": None, "diversity": None}
    metrics["units"][1] |= dead
    path.write_text(json.dumps(metrics))
    for kind in ("sheet", "phase"):
        assert "dead" in refused(capsys, run_folder, "unit=1", f"kind={kind}")


def test_damaged_runs_are_refused(run_folder, current_folder, capsys):
    arrays = current_folder / run_folder / "analysis" / "phase.safetensors"
    arrays.write_bytes(arrays.read_bytes()[:-9])
    assert "cut off" in refused(capsys, run_folder, "kind=phase")
    arrays.unlink()
    assert "`diversevis analyze outputs" in refused(capsys, run_folder, "kind=phase")
    made(capsys, run_folder, "kind=sheet", "unit=0")
