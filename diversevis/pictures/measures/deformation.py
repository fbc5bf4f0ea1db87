"""Deformation: does a smooth displacement of its image change the response? (docs/method.md,
section 8; Petrini et al. 2021, arXiv 2105.02468)"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from diversevis.pictures import graph, page
from diversevis.pictures.measures.spread import LayerPicture, spread
from diversevis.pictures.measures.view import Layer, View, median, number, percent
from diversevis.pictures.panels import Graph, Panel, Tiles

HEIGHT = 270  # pixels of a graph
CONTROLS = (  # array, name, colour
    ("stability", "white noise", graph.BLUE),
    ("stability_strict", "noise of the same spectrum", graph.ORANGE),
)


def picture(view: View) -> page.Block:
    """The response to deformed images, its comparison with noise, and what they look like."""
    kept, ratio = partial(_kept, *_of_unit(view), ()), partial(_ratio, view)
    graphs = [
        page.titled("response kept", graph.block(kept, 460, HEIGHT, top=28)),
        page.titled("relative stability R", graph.block(ratio, 620, HEIGHT, right=180, top=28)),
    ]
    blocks = [page.beside(graphs, 30)]
    if shown := _examples(view):
        heading = "the best image, deformed once at each displacement"
        blocks.append(page.tiles(*zip(*shown, strict=True), heading=heading))
    return page.compose(view.title, lines(view), blocks)


def panels(view: View) -> list[Panel]:
    """The same, for a paper."""
    parts: list[Panel] = [Graph(draw=partial(_kept, *_of_unit(view), ()))]
    parts.append(Graph(draw=partial(_ratio, view)))
    if shown := _examples(view):
        images, captions = zip(*shown, strict=True)
        parts.append(Tiles(images=images, captions=captions))
    return parts


def lines(view: View) -> list[str]:
    """What the picture says in words."""
    delta = view.numbers.get("delta")
    share = None if delta is None else (view.numbers.get("kept") or {}).get(f"{delta:g}")
    white, strict = (_with_error(view, name) for name, *_ in CONTROLS)
    said = [
        f"Deformation. Displaced by {_pixels(delta)}, {percent(share)} of the response is kept; "
        f"R = {white} against white noise, {strict} against noise of the same spectrum",
        "R: what the deformation changes, relative to what noise of the same size changes",
    ]
    deltas, fits = view.array("deltas"), _fits(view.array("kept")[None])
    too_large = deltas[np.flatnonzero(fits)[-1] + 1 :]
    if len(too_large):
        said.append(f"{_pixels(too_large[0])} and more is too large for this receptive field")
    return said


def layer_picture(layer: Layer) -> LayerPicture | None:
    """The response that every unit keeps, and their relative stability."""
    series = {name: layer.values(key) for key, name, _ in CONTROLS}
    delta = next((entry["delta"] for entry in layer.numbers if entry and entry.get("delta")), None)
    above: list[Callable[[Any], None]] = []
    if np.isfinite(layer.array("kept")).any():
        above.append(partial(_kept, *_of_layer(layer)))
    middle = number(median(layer.values("stability")))
    line = f"Deformation by {_pixels(delta)}. Median R = {middle} against white noise"
    label = f"relative stability R at {_pixels(delta)}"
    marks = [(1.0, "minds less than noise  ←  1  →  minds more than noise")]
    heading = "response kept (median, quartiles, every unit)"

    def blocks() -> list[page.Block]:
        graphs = [graph.block(draw, 900, HEIGHT, right=100, top=28) for draw in above]
        return [page.titled(heading, block) for block in graphs]

    return spread(
        layer, line, series, label=label, limits=(0.5, 2.0), marks=marks, is_log=True,
        above=blocks, panels_above=[Graph(draw=draw, heading=heading) for draw in above],
    )  # fmt: skip


def _of_unit(
    view: View,
) -> tuple[Float[np.ndarray, " delta"], Float[np.ndarray, "1 delta"]]:
    """Displacements that the receptive field is large enough for, and the response kept."""
    shares = view.array("kept")[None]
    fits = _fits(shares)
    return view.array("deltas")[fits], shares[:, fits]


def _kept(
    deltas: Float[np.ndarray, " delta"],
    shares: Float[np.ndarray, "unit delta"],
    ends: Sequence[tuple[float, str, str]],
    axis: Any,
) -> None:
    """The response kept, of a unit, or of many: then median, quartiles and every unit."""
    middle = shares[0]
    if len(shares) > 1:
        low, middle, high = np.nanpercentile(shares, [25, 50, 75], axis=0)
        graph.faint_curves(axis, deltas, shares)
        axis.fill_between(deltas, low, high, color=graph.BLUE, alpha=0.25, lw=0)
    axis.plot(deltas, middle, "o-", color=graph.BLUE, ms=5)
    axis.axhline(1, color=graph.FAINT, lw=1, ls="--")
    axis.axhline(0, color=graph.FAINT, lw=0.8)
    shown = [0.0, 1.0, *shares[np.isfinite(shares)]]
    axis.set(ylim=(min(shown) - 0.04, max(shown) + 0.08), ylabel="part of the response")
    graph.displacement_axis(axis, deltas)
    graph.label_ends(axis, ends)


def _of_layer(
    layer: Layer,
) -> tuple[
    Float[np.ndarray, " delta"],
    Float[np.ndarray, "unit delta"],
    list[tuple[float, str, str]],
]:
    """Displacements, the response that every living unit keeps, and curves to be named."""
    shares = layer.array("kept")
    fits, alive = _fits(shares), np.isfinite(shares).any(axis=1)
    shares, units = shares[alive][:, fits], np.array(layer.units)[alive]
    lowest, highest = layer.extremes(shares[:, -1], most=1)
    ends = [(float(np.nanmedian(shares[:, -1])), "median", graph.BLUE)]
    for row in (*lowest, *highest):
        ends.append((float(shares[row, -1]), f"unit {units[row]}", graph.GREEN))
    return layer.array("deltas")[fits], shares, ends


def _ratio(view: View, axis: Any) -> None:
    deltas, fits = view.array("deltas"), _fits(view.array("kept")[None])
    ratios = [view.array(key)[fits] for key, *_ in CONTROLS]
    for x, values, (key, name, color) in zip((0.0, 0.4), ratios, CONTROLS, strict=True):
        error = np.nan_to_num(view.array(f"{key}_error"))[fits]
        axis.errorbar(deltas[fits], values, error, fmt="o-", color=color, ms=5, capsize=3)
        axis.text(x, 1.04, name, color=color, transform=axis.transAxes)
    limits = np.concatenate([[0.5, 2.0], *ratios])  # 1/2 to 2 is always shown
    limits = limits[np.isfinite(limits) & (limits > 0)]
    graph.log_axis(axis, "y", limits.min() / 1.3, limits.max() * 1.3)
    graph.displacement_axis(axis, deltas[fits])
    axis.axhline(1, color=graph.FAINT, lw=1, ls="--")
    axis.set_ylabel("R")
    at_line = {"color": graph.FAINT, "transform": axis.get_yaxis_transform()}
    axis.text(1.02, 1.05, "↑ minds more", va="bottom", **at_line)
    axis.text(1.02, 0.95, "↓ minds less than noise", va="top", **at_line)


def _examples(view: View) -> list[tuple[page.Block, str]]:
    """The best image, then deformed ever more, with captions."""
    shown = view.best_image()
    for image, delta in zip(view.arrays.get("deformed", ()), view.array("deltas"), strict=False):
        if bool(image.isfinite().all()):  # NaN where the field is too small for it
            shown.append((view.pixels(image)[0], f"{delta:g} px"))
    return shown


def _fits(shares: Float[np.ndarray, "unit delta"]) -> Bool[np.ndarray, " delta"]:
    """The displacements that the receptive field is large enough for; all if it is for none."""
    fits = np.isfinite(shares).any(axis=0)
    return fits if fits.any() else ~fits


def _with_error(view: View, name: str) -> str:
    error = view.numbers.get(f"{name}_error")
    is_known = error is not None and math.isfinite(error)
    return view.text(name) + (f" ± {error:.2g}" if is_known else "")


def _pixels(delta: float | None) -> str:
    return "an unknown number of px" if delta is None else f"{delta:g} px"
