"""The most different crops of photographs that the unit accepts (docs/method.md, section 8)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from diversevis.pictures import graph, page
from diversevis.pictures.measures.spread import LayerPicture, spread
from diversevis.pictures.measures.view import NO_NUMBER, Layer, View, median, number, percent
from diversevis.pictures.panels import Graph, Panel, Tiles
from diversevis.units import counted

COLORS = graph.BLUE, graph.ORANGE, graph.GREEN
RATIO = "distance of the most different crops / synthetic"
OF_FRACTION = "crops", "share", "photographs", "images", "distance_mean", "of_synthetic_mean"


def picture(view: View) -> page.Block:
    """The chosen crops of every fraction above, the synthetic images below."""
    crops = [page.tiles(*shown) for shown in _crops(view)]
    return page.compose(view.title, lines(view), [*crops, *_batch(view)])


def panels(view: View) -> list[Panel]:
    """The same, for a paper."""
    parts = [
        Tiles(images=list(images), captions=captions, heading=heading)
        for images, captions, heading in _crops(view)
    ]
    batch = view.batch_panel("synthetic")
    return [*parts, *batch]


def lines(view: View) -> list[str]:
    """What the picture says in words."""
    shown = view.numbers.get("crops_shown")
    said = [
        f"Natural varied images. Of {_count(shown)} crops in "
        f"{_count(view.numbers.get('photographs_shown'))} photographs the best reaches "
        f"{percent(view.numbers.get('best_crop'))} of the best response"
    ]
    for name in _names(view.arrays["fractions"]):
        of = {key: (view.numbers.get(key) or {}).get(name) for key in OF_FRACTION}
        text = (
            f"Above {percent(float(name))}: {_count(of['crops'], 'crop')} ({_share(of['share'])}) "
            f"in {_count(of['photographs'], 'photograph')}"
        )
        if of["distance_mean"] is not None:
            text += (
                f"; mean distance of the {_count(of['images'])} most different "
                f"{number(of['distance_mean'])} RMS grey levels, {number(of['of_synthetic_mean'])} "
                "of the synthetic images'"
            )
        said.append(text)
    return said


def layer_picture(layer: Layer) -> LayerPicture | None:
    """How near to its best response photographs bring every unit; above, how different the crops
    that it accepts are, compared with the synthetic images."""
    best, names = layer.values("best_crop"), _names(layer.arrays["fractions"])
    ratios = {name: _values(layer, "of_synthetic_mean", name) for name in names}
    more = [_line(layer, name, ratios[name]) for name in names]
    has_ratio = any(np.isfinite(values).any() for values in ratios.values())
    draw = partial(_ratios, layer, best, ratios)

    def above() -> list[page.Block]:
        return (
            [page.titled(RATIO, graph.block(partial(draw, named=2), 900, 300, right=90))]
            if has_ratio
            else []
        )

    line = f"Natural varied images. Median of the best crops {number(median(best))}"
    marks = [(float(name), percent(float(name))) for name in names]
    return spread(
        layer, line, {"best crop": best}, label="response to the best crop / best response",
        marks=marks, limits=(0.0, 1.0), more=more, above=above,
        panels_above=[Graph(draw=draw, heading=RATIO)] if has_ratio else [],
    )  # fmt: skip


def _line(layer: Layer, name: str, ratios: Float[np.ndarray, " unit"]) -> str:
    """Of a fraction: the median share of crops, and the median ratio."""
    units = counted(int(np.isfinite(ratios).sum()), "unit")
    share = median(_values(layer, "share", name))
    return (
        f"Above {percent(float(name))}: median share of crops {_share(share)}; two or more such "
        f"photographs for {units}, their distance / synthetic images' {number(median(ratios))}"
    )


def _ratios(
    layer: Layer,
    best: Float[np.ndarray, " unit"],
    ratios: Mapping[str, Float[np.ndarray, " unit"]],
    axis: Any,
    named: int = 0,
) -> None:
    """Every unit at its best crop and its ratio; of each series the `named` lowest and highest
    units are named."""
    ends = []
    for (name, values), color in zip(ratios.items(), itertools.cycle(COLORS)):
        axis.scatter(best, values, s=16, color=color, alpha=0.6, linewidths=0)
        lowest, highest = layer.extremes(values, most=named)
        for row in (*lowest, *highest):
            axis.annotate(
                str(layer.units[row]), (best[row], values[row]), (6, 0), va="center", fontsize=9,
                textcoords="offset points",
            )  # fmt: skip
        if np.isfinite(values).any():
            ends.append((median(values), f"> {percent(float(name))}", color))
    axis.axhline(1, color=graph.FAINT, lw=1.2, ls="--")
    axis.set_ylim(0, 1.1 * max(1.0, *(np.nanmax(v, initial=1) for v in ratios.values())))
    axis.set(xlabel="response to the best crop / best response", ylabel="natural / synthetic")
    graph.label_ends(axis, ends)


def _values(layer: Layer, key: str, name: str) -> Float[np.ndarray, " unit"]:
    """A number of every unit for a fraction; NaN where a unit has none."""
    return np.array([((of or {}).get(key) or {}).get(name) for of in layer.numbers], dtype=float)


def _names(fractions: Float[Tensor, " fraction"]) -> list[str]:
    """The fractions as keys of numbers."""
    return [f"{fraction:g}" for fraction in fractions.tolist()]


def _crops(view: View) -> list[tuple[page.Pixels, list[str], str]]:
    """Of every fraction with any crop: the chosen crops, captions, and a heading."""
    shown = []
    for index, name in enumerate(_names(view.arrays["fractions"])):
        images, responses = (view.arrays[key][index] for key in ("images", "responses"))
        real = images.flatten(1).isfinite().all(1)
        if not real.any():
            continue
        captions = [_caption(view, response) for response in responses[real].tolist()]
        heading = f"natural: the most different crops above {percent(float(name))} of the best"
        shown.append((view.pixels(images[real]), captions, heading))
    return shown


def _batch(view: View) -> list[page.Block]:
    """The unit's images, with their responses as shares of the best."""
    if view.images is None or view.responses is None:
        return []
    captions = [_caption(view, response) for response in view.responses.tolist()]
    return [page.tiles(view.pixels(view.images), captions, "synthetic")]


def _caption(view: View, response: float) -> str:
    """A response as a share of the best response."""
    best = view.metrics.get("response_best")
    if view.responses is not None:
        best = max(best or 0, float(view.responses.nan_to_num(0).max()))
    return percent(response / best) if best else number(response)


def _count(count: int | None, noun: str = "") -> str:
    """`12 000`, or `1 crop`, `2 crops`."""
    said = NO_NUMBER if count is None else f"{count:,}".replace(",", " ")
    return said + (f" {noun}{'' if count == 1 else 's'}" if noun else "")


def _share(share: float | None) -> str:
    """A share of crops, which may be far below a percent."""
    return NO_NUMBER if share is None else f"{100 * share:.2g} %"
