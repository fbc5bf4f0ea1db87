"""The front page: networks and their layers, with every index on one scale."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diversevis.atlas.layers import Layer, describe, noun_of, order_of
from diversevis.atlas.strips import COLUMNS, ROWS, tile_of

BINS = 24
THUMBS = 6  # units of a layer that are shown
TAIL = 1.0  # percent of all units beyond either end of a scale


def front_page(layers: Sequence[Layer], walls: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Networks with their layers; the main indices, and the further ones.

    walls  file names of the sheets of every layer, by its slug
    """
    scales = _scales(layers)
    networks: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for layer in layers:
        networks[layer.key["model"]].append(_layer(layer, scales, walls[layer.slug]))
    return {
        "networks": [{"model": model, "layers": rows} for model, rows in networks.items()],
        "indices": [scale for scale in scales.values() if scale["main"]],
        "further": sorted(
            (scale for scale in scales.values() if not scale["main"]),
            key=lambda scale: order_of(scale["key"]),
        ),
    }


def _scales(layers: Sequence[Layer]) -> dict[str, dict[str, Any]]:
    """Every index with a scale that holds the units of all layers, by its address."""
    described: dict[str, dict[str, Any]] = {}
    values: dict[str, list[float]] = defaultdict(list)
    for layer in layers:
        for index in layer.indices:
            about = describe(layer, index)
            described.setdefault(about["id"], about)
            values[about["id"]] += layer.counting(about["id"])
    scales = {}
    for name, about in described.items():
        if values[name]:
            edges = edges_of(values[name], is_log=about["log"])
            scales[name] = about | {"low": edges[0], "high": edges[-1], "edges": edges}
    return scales


def edges_of(values: Sequence[float], *, is_log: bool) -> list[float]:
    """Edges of `BINS` bins from low to high; the few values beyond are in the outermost bins."""
    known = np.array(values, dtype=float)
    known = known[known > 0] if is_log else known
    if not len(known):
        known = np.array([1.0])
    low, high = np.percentile(known, [TAIL, 100 - TAIL])
    if high - low <= 1e-9 * max(1, abs(high)):
        low, high = (low / 2, high * 2) if is_log else (low - 0.5, high + 0.5)
    return (np.geomspace if is_log else np.linspace)(low, high, BINS + 1).tolist()


def histogram(values: Sequence[float], edges: Sequence[float]) -> dict[str, Any] | None:
    """Counts, median and quartiles of some units; None without any."""
    if not values:
        return None
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    low, median, high = np.percentile(values, [25, 50, 75]).tolist()
    return {
        "counts": counts.tolist(), "median": median, "low": low, "high": high,
        "count": len(values),
    }  # fmt: skip


def _layer(
    layer: Layer, scales: Mapping[str, Mapping[str, Any]], wall: Sequence[str]
) -> dict[str, Any]:
    plots = {
        name: histogram(layer.counting(name), scale["edges"])
        for name, scale in scales.items()
        if name in layer.columns
    }
    return {
        "slug": layer.slug, "href": f"layers/{layer.slug}/index.html",
        "layer": layer.key["layer"], "variant": layer.variant,
        "noun": noun_of(layer.key),
        "units": len(layer.units), "dead": _dead(layer), "field": layer.key["size"],
        "n": layer.key["n"], "runs": len(layer.entries),
        "measures": list(dict.fromkeys(name for e in layer.entries for name in e.measures)),
        "thumbs": _thumbs(layer, wall), "plots": {k: plot for k, plot in plots.items() if plot},
    }  # fmt: skip


def _dead(layer: Layer) -> int:
    return sum(unit.entry.states[unit.row] == "dead" for unit in layer.units)


def _thumbs(layer: Layer, wall: Sequence[str]) -> dict[str, Any]:
    """Tiles of some living units of the first sheet, spread evenly."""
    height, width = tile_of(tuple(layer.key["size"]))
    first = layer.units[: COLUMNS * ROWS]
    living = [row for row, unit in enumerate(first) if not unit.entry.states[unit.row]]
    chosen = dict.fromkeys(
        living[round(at)] for at in np.linspace(0, len(living) - 1, THUMBS) if living
    )
    rows = -(-len(first) // COLUMNS)
    return {
        "sheet": f"layers/{layer.slug}/{wall[0]}", "width": width, "height": height,
        "sheet_width": width * COLUMNS, "sheet_height": height * rows,
        "positions": [[row % COLUMNS * width, row // COLUMNS * height] for row in chosen],
        "units": [first[row].number for row in chosen],
    }  # fmt: skip
