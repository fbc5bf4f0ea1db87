"""Metamers of the trained network beside those of one with random weights."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch

from diversevis.pictures import graph, page
from diversevis.pictures.measures.spread import LayerPicture
from diversevis.pictures.measures.view import Layer, View, median, number, percent
from diversevis.pictures.panels import Graph, Panel, Tiles


def picture(view: View) -> page.Block:
    """The photograph and the trained network's metamers above, the other's below."""
    blocks = [page.tiles(part.images, part.captions, part.heading, 100) for part in panels(view)]
    return page.compose(view.title, lines(view), blocks)


def panels(view: View) -> list[Tiles]:
    """The same, for a paper."""
    reference = view.arrays["reference"]
    random = view.arrays["images"], view.arrays["errors"], view.arrays["errors_of_random"]
    rows = [("random weights", "trained", *random)]
    if view.images is not None and view.responses is not None:
        crossed = view.arrays["errors_of_trained"]
        rows.insert(0, ("trained", "random", view.images, -view.responses, crossed))
    parts = []
    for name, other, images, errors, crossed in rows:
        captions = [
            f"{100 * own:.1f} %\n{other} {percent(there)}"
            for own, there in zip(errors.tolist(), crossed.tolist(), strict=True)
        ]
        tiles = list(view.pixels(torch.cat([reference[None], images])))
        heading = f"{name}: error of the match, and in the other network"
        parts.append(Tiles(images=tiles, captions=["photograph\n", *captions], heading=heading))
    return parts


def lines(view: View) -> list[str]:
    """What the picture says in words."""
    away, random = view.metrics["distance_pixels_to_reference_mean"], view.numbers
    return [
        f"Metamers. Mean distance to the photograph {number(away)} RMS grey levels; with random "
        f"weights {number(random.get('distance_to_reference_mean'))} (error "
        f"{view.text('error_mean')})",
        f"The trained network's metamers have an error of {view.text('error_of_trained')} with "
        f"random weights; those of random weights {view.text('error_of_random')} in the trained "
        "network",
    ]


def layer_picture(layer: Layer) -> LayerPicture | None:
    """Errors of either network's metamers in the other, a point per photograph."""
    there, back = layer.values("error_of_trained"), layer.values("error_of_random")
    if not np.isfinite(there).any():
        return None
    draw = partial(_scatter, there, back)
    lines = [
        f"Metamers. Those of the trained network have a median error of {number(median(there))} "
        f"in the random network; those of the random network, {number(median(back))} in the "
        "trained network"
    ]
    panels: list[Panel] = [Graph(draw=draw, height=55)]
    return LayerPicture(lines=lines, blocks=lambda: [graph.block(draw, 490, 452)], panels=panels)


def _scatter(there: Any, back: Any, axis: Any) -> None:
    axis.scatter(there, back, s=18, color=graph.BLUE, alpha=0.6, linewidths=0)
    axis.set(xlabel="trained network's metamers: error in the random one")
    axis.set(ylabel="random network's metamers: error in the trained one")
    axis.set(xlim=(0, None), ylim=(0, None))
