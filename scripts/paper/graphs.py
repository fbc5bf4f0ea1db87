"""Graphs of the claims over layers, ordered by receptive field: VGG-19 blue, ResNet-50 orange."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diversevis.pictures.graph import BLUE, FAINT, ORANGE, drawn
from diversevis.pictures.page import png
from paper.runs import EXAMPLE, Run

COLORS = {"vgg19": BLUE, "resnet50": ORANGE}
NAMES = {"vgg19": "VGG-19", "resnet50": "ResNet-50"}
INK = "#202020"
WIDTH, HEIGHT, DPI = 11.5, 3.9, 150
DELTAS = 0.5, 1.0, 2.0
Numbers = dict[str, Any]


def gain_figure(numbers: Numbers) -> bytes:
    """Claim 1: gains in distance, response kept, dimensions."""
    figure, axes = _panels(4)
    layers = numbers["layers"]
    parts = [("gain_smallest", "gain in smallest distance\n(RMS grey levels)", 0.0),
             ("gain_mean", "gain in mean distance\n(RMS grey levels)", 0.0),
             ("response", "response, batch / alone", 1.0),
             ("dimensions", "participation ratio (dimensions)", None)]  # fmt: skip
    for axis, (key, label, line) in zip(axes, parts, strict=True):
        if line is not None:
            axis.axhline(line, color=FAINT, lw=0.8)
        _medians(axis, layers, key)
        if key == "dimensions":
            _medians(axis, layers, "dimensions_alone", hollow=True)
            _note(axis, "open: made alone")
        _layer_axis(axis, layers)
        axis.set_ylabel(label)
    return _finished(figure)


def phase_figure(numbers: Numbers, runs: Mapping[str, Run]) -> bytes:
    """Claim 2: shares of phase-invariant units, and every unit's F1/F0."""
    figure, axes = _panels(3, ratios=(1, 1, 1.7))
    layers = numbers["layers"]
    for axis, key, limit in ((axes[0], "below_1", "1"), (axes[1], "near_perfect", "0.2")):
        for model, color in COLORS.items():
            for kind, face in (("best", color), ("fitted", "white")):
                points = [(x, layers[name][kind][key]) for x, name in _positions(layers, model)
                          if layers[name][kind][key] is not None]  # fmt: skip
                line = "-" if kind == "best" else ":"
                _line(axis, points, color, face=face, line=line)
            random = [
                (x, control["best"][key]) for x, name in _positions(layers, model)
                if (control := numbers["controls"].get(f"{name} random weights"))
                and control["best"][key] is not None
            ]  # fmt: skip
            axis.plot(*_columns(random), "x", color=color, ms=7, mew=2, zorder=4)
        axis.set_ylabel(f"share of units with F1/F0 < {limit}")
        axis.set_ylim(bottom=-0.02)
        _layer_axis(axis, layers)
    _dots(axes[2], layers, runs)
    return _finished(figure, more=[("random weights", "x", INK), ("fitted grating", "open", INK)])


def _dots(axis: Any, layers: Mapping[str, Numbers], runs: Mapping[str, Run]) -> None:
    """F1/F0 of every unit, a column of dots per layer."""
    generator = np.random.default_rng(0)  # for the horizontal jitter only
    for x, name in enumerate(_ordered(layers)):
        run = runs[name]
        f1f0 = np.where(run.values("phase.weak") == 0, run.values("phase.f1f0"), np.nan)
        f1f0 = f1f0[np.isfinite(f1f0)]
        jitter = generator.uniform(-0.3, 0.3, len(f1f0))
        color = COLORS.get(name.split()[0], FAINT)
        axis.scatter(x + jitter, f1f0, s=7, color=color, alpha=0.5, lw=0)
        if len(f1f0):
            axis.plot([x - 0.35, x + 0.35], [np.median(f1f0)] * 2, color=INK, lw=1.6)
    for limit in (0.2, 1.0, math.pi / 2):
        axis.axhline(limit, color=FAINT, lw=0.8, zorder=0)
    _layer_axis(axis, layers)
    axis.set_ylim(-0.03, 2.05)
    axis.set_ylabel("F1/F0, best grating")


def deformation_figure(numbers: Numbers, runs: Mapping[str, Run]) -> bytes:
    """Claim 3: stable units, R, and the response kept against displacement."""
    figure, axes = _panels(3, ratios=(1.15, 1.15, 1.2))
    layers = {
        name: layer for name, layer in numbers["layers"].items() if layer["delta"] is not None
    }
    kinds = (("white", "white noise", "-", "o"), ("strict", "same spectrum", "--", "s"))
    for model, color in COLORS.items():
        of_model = [(x, layers[name]) for x, name in _positions(layers, model)]
        hollow = [layer["delta"] < 1 for _, layer in of_model]
        for kind, _, line, marker in kinds:
            shares = [(x, layer[f"below_1_{kind}"]["share"]) for x, layer in of_model]
            medians = [(x, layer[f"median_{kind}"]["median"]) for x, layer in of_model]
            for axis, points in ((axes[0], shares), (axes[1], medians)):
                known = [(p, h) for p, h in zip(points, hollow, strict=True) if p[1] is not None]
                _line(axis, [p for p, _ in known], color, line=line, marker=marker,
                      faces=["white" if h else color for _, h in known])  # fmt: skip
    axes[1].axhline(1, color=FAINT, lw=0.8)
    for axis, label in zip(axes, ("share of units with R < 1 by 2 SE", "median R"), strict=False):
        axis.set_ylabel(label)
        _layer_axis(axis, layers)
    axes[0].set_ylim(-0.03, 1.03)
    axes[1].set_yscale("log")
    _plain_log(axes[1])
    _response_kept(axes[2], numbers, layers)
    more = [(f"against {label}", marker, INK) for _, label, _, marker in kinds]
    return _finished(figure, more=more)


def _plain_log(axis: Any) -> None:
    """Label a logarithmic axis with plain numbers at 1, 2, 5, 10, ..., without powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _response_kept(axis: Any, numbers: Numbers, layers: Mapping[str, Numbers]) -> None:
    """Median response kept by layer, labelled at the right end, and that of the paper's unit."""
    ends = []
    for name, layer in layers.items():
        points = [(delta, value) for delta in DELTAS
                  if (value := layer["kept"][f"{delta:g}"]["median"]) is not None]  # fmt: skip
        if len(points) > 1:
            color = COLORS.get(name.split()[0], FAINT)
            axis.plot(*_columns(points), "o-", color=color, ms=4, lw=1.2, alpha=0.8)
            ends.append((*points[-1], layer["layer"], color))
    indices = numbers.get("example", {}).get("indices", {})
    points = [(delta, value) for delta in DELTAS if (value := indices.get(
        f"deformation.kept.{delta:g}", {}).get("value")) is not None]  # fmt: skip
    if points:
        axis.plot(*_columns(points), "D-", color="black", ms=5, lw=1.6)
        ends.append((*points[-1], f"unit {EXAMPLE[1]}", "black"))
    axis.set_xscale("log", base=2)
    axis.set_xticks(DELTAS, [f"{delta:g}" for delta in DELTAS])
    axis.set_xlim(0.45, 3.3)
    low = min([0.0, *(y for _, y, _, _ in ends)])
    axis.set_ylim(low - 0.02, 1.03)
    furthest = max([end[0] for end in ends], default=0)
    for x in {end[0] for end in ends}:  # labels at the same x must not overlap
        last = -math.inf
        for _, y, name, color in sorted((e for e in ends if e[0] == x), key=lambda e: e[1]):
            last = max(y, last + 0.055)
            side, va = ("left", "center") if x == furthest else ("right", "top")
            axis.annotate(f"  {name}  ", (x, last), color=color, fontsize=7, ha=side, va=va)
    axis.set_xlabel("typical displacement (px)")
    axis.set_ylabel("share of response kept")


def difference_figure(numbers: Numbers) -> bytes:
    """Claim 4: effect size of every index in every pair."""
    pairs = [*numbers["pairs"], *([numbers["other_side"]] if numbers["other_side"] else [])]
    titles = list(dict.fromkeys(index["title"] for pair in pairs for index in pair["indices"]
                                if index["cliffs_delta"] is not None))  # fmt: skip
    figure, axes = _panels(1, height=1.6 + 0.24 * len(titles))
    axis, colors = (
        axes[0],
        ("#56B4E9", "#009E73", "#CC79A7", "#E69F00"),
    )  # the other colours of Okabe and Ito
    legend = []
    for number, (pair, color) in enumerate(zip(pairs, colors, strict=False)):
        for index in pair["indices"]:
            if index["cliffs_delta"] is None:
                continue
            y = titles.index(index["title"]) + 0.17 * (number - (len(pairs) - 1) / 2)
            axis.plot(index["cliffs_delta"], y, "o", color=color, ms=6,
                      mfc=color if index["differs"] else "white")  # fmt: skip
        a, b = (f"{pair[s]['layer']} ({pair[s]['receptive_field']} px)" for s in "ab")
        legend.append((f"{a} and {b}", "o", color))
    for row in range(0, len(titles), 2):
        axis.axhspan(row - 0.5, row + 0.5, color="#f4f4f4", lw=0, zorder=0)
    axis.axvline(0, color=FAINT, lw=0.8)
    axis.set_yticks(range(len(titles)), titles)
    axis.set_ylim(len(titles) - 0.5, -0.5)
    axis.set_xlim(-1.05, 1.05)
    axis.set_xlabel("Cliff's delta:  ResNet-50 higher  <  0  <  VGG-19 higher")
    return _finished(figure, more=legend, networks=False)


# -- parts of figures ------------------------------------------------------------------------------


def _panels(count: int, *, ratios: Sequence[float] = (), height: float = HEIGHT) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, count, squeeze=False, width_ratios=ratios or None)[0]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    return figure, axes


def _medians(axis: Any, layers: Mapping[str, Numbers], key: str, *, hollow: bool = False) -> None:
    """Medians of layers joined by a line, and quartiles as bars."""
    for model, color in COLORS.items():
        spreads = [(x, layers[name][key]) for x, name in _positions(layers, model)
                   if layers[name][key]["median"] is not None]  # fmt: skip
        for x, spread in () if hollow else spreads:
            axis.plot([x, x], spread["quartiles"], color=color, lw=3, alpha=0.3)
        points = [(x, spread["median"]) for x, spread in spreads]
        _line(axis, points, color, face="white" if hollow else color, line=":" if hollow else "-")


def _line(
    axis: Any, points: Sequence[tuple[float, float]], color: str, *, face: str | None = None,
    line: str = "-", marker: str = "o", faces: Sequence[str] = (),
) -> None:  # fmt: skip
    if not points:
        return
    points, faces = list(points), faces or [face or color] * len(points)
    axis.plot(*_columns(points), line, color=color, lw=1.3, zorder=2)
    axis.scatter(*_columns(points), s=26, facecolors=list(faces), edgecolors=color, zorder=3,
                 marker=marker)  # fmt: skip


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _ordered(layers: Mapping[str, Numbers]) -> list[str]:
    return sorted(layers, key=lambda name: layers[name]["receptive_field"])


def _positions(layers: Mapping[str, Numbers], model: str) -> list[tuple[int, str]]:
    """Layers of a network, with their positions among all layers ordered by receptive field."""
    return [(i, name) for i, name in enumerate(_ordered(layers)) if name.split()[0] == model]


def _layer_axis(axis: Any, layers: Mapping[str, Numbers]) -> None:
    """Label the x axis with the layers, evenly spaced, in the colours of their networks."""
    order = _ordered(layers)
    axis.set_xticks(range(len(order)), [_tick(name, layers[name]) for name in order], rotation=60,
                    ha="right", rotation_mode="anchor")  # fmt: skip
    axis.set_xlim(-0.6, len(order) - 0.4)
    for label, name in zip(axis.get_xticklabels(), order, strict=True):
        label.set_color(COLORS.get(name.split()[0], INK))


def _tick(name: str, layer: Numbers) -> str:
    return f"{name.split()[-1]}  {layer['receptive_field']} px"


def _note(axis: Any, text: str) -> None:
    axis.text(0.03, 0.97, text, transform=axis.transAxes, fontsize=8, color="#404040", va="top")


def _finished(
    figure: Any, more: Sequence[tuple[str, str, str]] = (), *, networks: bool = True
) -> bytes:
    """PNG of the figure, with a legend of the networks and of `more` (text, marker, colour)."""
    from matplotlib.lines import Line2D

    entries = [(NAMES[model], "o", color) for model, color in COLORS.items()] if networks else []
    handles = [
        Line2D([], [], lw=0, marker="o" if marker == "open" else marker, color=color,
               mfc="white" if marker == "open" else color, label=text)
        for text, marker, color in (*entries, *more)
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside upper left", ncols=4, frameon=False, fontsize=9)
    return png(drawn(figure))
