"""Panels laid out as a figure for a paper: exact width, text of one size, images pixel by pixel.

Lengths are in dots, 600 to an inch, unless they say mm or points. Every pixel of an image is a
square of whole dots: sharp in a PNG file, and in viewers of PDF that smooth what they enlarge.
"""

from __future__ import annotations

import contextlib
import io
import math
import string
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import diversevis
from diversevis.errors import InputError
from diversevis.pictures import graph, page
from diversevis.pictures.arrange import Arranged, arranged
from diversevis.pictures.panels import DPI, LINE, MM, POINT, TEXT, Dots, Graph, Panel, Tiles

WIDTHS = {1: 85, 2: 180}  # mm of a figure over one or two columns of a page
LETTER = 8  # points of the panels' letters
THINNER = 0.7  # lines and dots, relative to those of a screen's page with its 10 points
GAP, RIM = 5 * MM, round(0.5 * MM)  # between panels; around all
MARGINS = 30 * POINT, 6 * POINT, 24 * POINT, 4 * POINT  # left, right, bottom, top: a first guess
PASSES = 4  # at most: margins are fitted to labels, whose line breaks depend on the margins
SLACK = 0.5 * POINT  # by which margins may miss what labels need; they have twice as much
NARROWEST = 15 * MM  # axes
HIGHEST = 2**16 - 1  # dots that matplotlib can draw
STYLE = {
    "font.family": "DejaVu Sans", "font.size": TEXT, "axes.linewidth": 0.6, "axes.labelpad": 2,
    "xtick.major.pad": 2, "ytick.major.pad": 2, "xtick.major.size": 2.5, "ytick.major.size": 2.5,
    "xtick.major.width": 0.6, "ytick.major.width": 0.6, "text.parse_math": False,
    "image.composite_image": False,  # or the images would be drawn anew, as one
    "pdf.fonttype": 42, "svg.fonttype": "path", "svg.hashsalt": "diversevis",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A panel, and where it stands in its row."""

    panel: Panel
    letter: str
    left: int
    width: int

    @property
    def header(self) -> int:
        """Height of the letter, the heading and the legend."""
        lines = len(self.panel.legend) if isinstance(self.panel, Graph) else 0
        if self.panel.heading:  # else the legend begins beside the letter
            return (1 + lines) * LINE
        return max(lines, bool(self.letter)) * LINE


Margins = tuple[Dots, Dots, Dots, Dots]  # left, right, bottom, top


@dataclass(frozen=True, kw_only=True)
class Row:
    """Panels side by side.

    tiles   the images of the panels that have images, by letter
    header  height of the letters, headings and legends
    above   margin between these and the axes of graphs
    height  of the row with its header
    """

    cells: Sequence[Cell]
    tiles: Mapping[str, Arranged]
    header: int
    above: Dots
    height: int


def saved(panels: Sequence[Panel], columns: int, kind: str, title: str, mark: str) -> bytes:
    """The content of a PDF, SVG or PNG file; the same panels give the same bytes.

    columns      1 or 2
    kind         pdf, svg or png
    title, mark  are written into the file, where they are not seen

    Raises `InputError` where the images do not fit.
    """
    program = f"diversevis {diversevis.__version__}"
    metadata: dict[str, dict[str, Any]] = {
        "pdf": {"Title": title, "Creator": program, "Keywords": mark, "CreationDate": None},
        "svg": {"Title": title, "Creator": program, "Keywords": [mark], "Date": None},
        "png": {"Title": title, "Software": program, "Comment": mark},
    }
    content = io.BytesIO()
    with style():
        laid_out(panels, columns).savefig(content, format=kind, dpi=DPI, metadata=metadata[kind])
    return content.getvalue()


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Matplotlib's settings for a paper; those of a user come back at the end."""
    with graph.first_import_quiet():
        import matplotlib.style

    with matplotlib.style.context(["default", STYLE]):
        yield


def laid_out(panels: Sequence[Panel], columns: int) -> Any:
    """The matplotlib figure; it is drawn again until its margins fit its labels."""
    width = math.floor(WIDTHS[columns] * MM)
    rows = _rows(panels, width - 2 * RIM)
    margins = {cell.letter: MARGINS for row in rows for cell in row}
    for _ in range(PASSES):
        figure, needed = _compose(rows, WIDTHS[columns] / 25.4, margins)
        pairs = ((margins[key], needed[key]) for key in margins)
        if all(abs(a - b) < SLACK for now, new in pairs for a, b in zip(now, new, strict=True)):
            break
        margins = needed
    return figure


def _rows(panels: Sequence[Panel], room: int) -> list[list[Cell]]:
    """Panels from left to right as long as the row has room for them."""
    rows: list[list[Panel]] = []
    free = 0.0
    for panel in panels:
        needed = room if panel.width is None else min(room, panel.width * MM)
        if not rows or needed + GAP > free:
            rows.append([])
            free = room + GAP
        rows[-1].append(panel)
        free -= needed + GAP
    letters = iter(string.ascii_lowercase if len(panels) > 1 else " ")
    return [_row(row, room, letters) for row in rows]


def _row(panels: Sequence[Panel], room: int, letters: Iterator[str]) -> list[Cell]:
    needed = [panel.width or room / MM for panel in panels]
    share = (room - GAP * (len(panels) - 1)) / sum(needed)
    cells, left = [], float(RIM)
    for panel, part in zip(panels, needed, strict=True):
        letter = next(letters, "").strip()
        width = math.floor(share * part)
        cells.append(Cell(panel=panel, letter=letter, left=round(left), width=width))
        left += share * part + GAP
    return cells


def _compose(
    rows: Sequence[Sequence[Cell]], width: float, margins: Mapping[str, Margins]
) -> tuple[Any, dict[str, Margins]]:
    """The figure, `width` inches wide, with these margins around the axes of the panels, by letter;
    and the margins that its labels need."""
    measured = [_measured(row, margins) for row in rows]
    gap = round(GAP / 2)
    height = 2 * RIM + sum(row.height for row in measured) + gap * (len(rows) - 1)
    if height > HIGHEST:
        raise InputError(
            f"The figure would be {height / MM:.0f} mm high, higher than any page: its images are "
            "too many. Two columns hold more of them: columns=2."
        )
    figure = graph.blank(width, height / DPI, DPI)
    needed, top = dict(margins), RIM
    for row in measured:
        for cell in row.cells:
            _write_header(figure, cell, top)
            if isinstance(cell.panel, Tiles):
                _draw_tiles(figure, cell, top + row.header, row.tiles[cell.letter])
            else:
                left, right, below, _ = margins[cell.letter]
                sides = left, right, below, row.above
                drawn = _draw_graph(figure, cell, cell.panel, top + row.header, sides)
                needed[cell.letter] = drawn
        top += row.height + gap
    return figure, needed


def _measured(cells: Sequence[Cell], margins: Mapping[str, Margins]) -> Row:
    """A row, as high as its highest panel; the axes of its graphs begin side by side."""
    tiles, heights, above = {}, [], 0.0
    for cell in cells:
        if isinstance(cell.panel, Graph):
            above = max(above, margins[cell.letter][3])
    for cell in cells:
        if isinstance(cell.panel, Tiles):
            tiles[cell.letter] = arranged(cell.panel, cell.width)
            heights.append(tiles[cell.letter].height)
        else:
            below = margins[cell.letter][2]
            heights.append(math.ceil(above + cell.panel.height * MM + below))
    header = max(cell.header for cell in cells)
    return Row(cells=cells, tiles=tiles, header=header, above=above, height=header + max(heights))


def _write_header(figure: Any, cell: Cell, top: int) -> None:
    at, indent = _from_top(figure), 11 * POINT if cell.letter else 0.0
    at(cell.left, top, cell.letter, fontsize=LETTER, fontweight="bold")
    at(cell.left + indent, top + round(0.7 * POINT), cell.panel.heading)
    if isinstance(cell.panel, Graph):
        first = top + cell.header - LINE * len(cell.panel.legend)
        for row, (text, color) in enumerate(cell.panel.legend):
            at(cell.left + indent, first + row * LINE, f"● {text}", color=color)


def _from_top(figure: Any) -> Any:
    """Writes text at dots from the left and upper edge."""
    width, height = figure.get_size_inches() * DPI

    def at(left: Dots, top: Dots, text: str, **look: Any) -> None:
        if text:
            figure.text(left / width, 1 - top / height, text, va="top", **look)

    return at


# -- images ---------------------------------------------------------------------------------------


def _draw_tiles(figure: Any, cell: Cell, top: int, tiles: Arranged) -> None:
    """All images in axes whose units are dots."""
    axis = _axes_at(figure, cell.left, top, cell.width, tiles.height)
    for tile in tiles.tiles:
        pixels = page.enlarge(tile.image, tiles.zoom)
        height, width = pixels.shape[:2]
        extent = (tile.left, tile.left + width, tile.top + height, tile.top)
        axis.imshow(pixels, interpolation="none", aspect="auto", extent=extent)
        if tile.frame is not None:
            row, column, *sides = (side * tiles.zoom for side in tile.frame)
            _draw_frame(axis, tile.left + column, tile.top + row, *sides)
        axis.text(tile.left + width / 2, tile.top + height + POINT, tile.caption,
                  ha="center", va="top", linespacing=1.15)  # fmt: skip
    axis.set(xlim=(0, cell.width), ylim=(tiles.height, 0))
    axis.set_axis_off()


def _draw_frame(axis: Any, left: int, top: int, height: int, width: int) -> None:
    from matplotlib.patches import Rectangle

    for color, line in (("white", 1.4), ("black", 0.6)):
        axis.add_patch(Rectangle((left, top), width, height, fill=False, ec=color, lw=line))


def _axes_at(figure: Any, left: Dots, top: Dots, width: Dots, height: Dots) -> Any:
    across, down = figure.get_size_inches() * DPI
    return figure.add_axes(
        (left / across, 1 - (top + height) / down, width / across, height / down)
    )


# -- graphs ---------------------------------------------------------------------------------------


def _draw_graph(figure: Any, cell: Cell, panel: Graph, top: int, margins: Margins) -> Margins:
    """Draw it with these margins; returns the margins that its labels need."""
    left, right, _, above = margins
    width, height = cell.width - left - right, panel.height * MM
    if width < NARROWEST:
        raise ValueError(f"no room for a graph: its labels take {left + right:.0f} dots")
    axes = _graph_axes(figure, panel, cell.left + left, top + above, width, height)
    before = len(figure.axes) - (len(axes) if panel.subplots else 1)
    panel.draw(axes)
    drawn = figure.axes[before:]
    for axis in drawn:
        axis.apply_aspect()  # what is measured next depends on it
        _make_smaller(axis)
        _break_labels(axis)
        _thin_out(axis)
    boxes = [axis.get_tightbbox() for axis in drawn]
    bottom = figure.bbox.height - top - above - height
    needed = (
        cell.left + left - min(box.x0 for box in boxes),
        max(box.x1 for box in boxes) - cell.left - left - width,
        bottom - min(box.y0 for box in boxes),
        max(box.y1 for box in boxes) - bottom - height,
    )
    first, second, third, fourth = (max(0.0, float(side)) + POINT for side in needed)
    return first, second, third, fourth


def _graph_axes(figure: Any, panel: Graph, left: Dots, top: Dots, width: Dots, height: Dots) -> Any:
    if not panel.subplots:
        axis = _axes_at(figure, left, top, width, height)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_anchor("NW")
        return axis
    across, down = figure.get_size_inches() * DPI
    grid = figure.add_gridspec(
        panel.subplots["nrows"], height_ratios=panel.subplots["height_ratios"], hspace=0.2,
        left=left / across, right=(left + width) / across,
        top=1 - top / down, bottom=1 - (top + height) / down,
    )  # fmt: skip
    axes = grid.subplots(sharex=panel.subplots["sharex"])
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return axes


def _make_smaller(axis: Any) -> None:
    """All text in the size of the figure's; lines and dots in proportion to it."""
    from matplotlib.text import Text

    for text in axis.findobj(Text):
        text.set_fontsize(TEXT)
    for line in axis.lines:
        line.set(
            linewidth=THINNER * line.get_linewidth(), markersize=THINNER * line.get_markersize()
        )
    for patch in axis.patches:
        patch.set_linewidth(THINNER * patch.get_linewidth())
    for collection in axis.collections:
        collection.set_linewidths([THINNER * width for width in collection.get_linewidths()])
        if hasattr(collection, "get_sizes"):
            collection.set_sizes(THINNER**2 * collection.get_sizes())


def _break_labels(axis: Any) -> None:
    """An axis's name longer than the axis goes on in the next line."""
    for label, across in ((axis.xaxis.label, True), (axis.yaxis.label, False)):
        box, room = label.get_window_extent(), axis.get_window_extent()
        length, most = (box.width, room.width) if across else (box.height, room.height)
        if length > most:
            text, lines = label.get_text(), math.ceil(length / most)
            letters = min(math.ceil(len(text) / lines) + 3, math.floor(len(text) * most / length))
            label.set_text(textwrap.fill(text, max(1, letters), break_long_words=False))


def _thin_out(axis: Any) -> None:
    """Leave out the numbers of an axis that would touch the number before."""
    for labels, across in ((axis.get_xticklabels(), True), (axis.get_yticklabels(), False)):
        end = -math.inf
        seen = [label for label in labels if label.get_visible() and label.get_text()]
        boxes = [(label.get_window_extent(), label) for label in seen]
        for box, label in sorted(boxes, key=lambda entry: entry[0].x0 if across else entry[0].y0):
            first, last = (box.x0, box.x1) if across else (box.y0, box.y1)
            if first < end + (2 * POINT if across else 0):
                label.set_visible(False)
            else:
                end = last
