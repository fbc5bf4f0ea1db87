"""The pictures of a run's images: each alone, sheets, the trace of the optimization, and fronts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from diversevis.errors import FolderLost
from diversevis.method.images import display
from diversevis.pictures import graph, page, prior
from diversevis.pictures.grid import MOST_IN_ROW, SMALLEST, Grid, grid_of
from diversevis.runs.folder import RunFolder
from diversevis.units import counted

FEW = 6  # up to this number of units have a curve each; more are shown as median and quartiles
LABEL_GAP = 0.035  # of the largest distance: labels of points nearer than this would touch
ROWS = 6  # the number of weights whose images are shown
SHEET = 3840  # pixels: the largest height and width of a sheet's images
FRONT_LEGEND = (
    ("mean of the batch, at every weight", graph.BLUE),
    ("smallest", graph.FAINT),
)
Drawn = Mapping[int | None, list[str]]  # a unit, or None for what shows all -> what failed
Columns = dict[str, Float[np.ndarray, " row"]]  # of trace.csv
CAPTIONED = page.GAP + 23  # pixels between the rows of images with captions


def draw_images(folder: RunFolder, tell: Callable[[int, int], None], drawn: Drawn) -> list[str]:
    """Write every image in its own size, and a sheet of every unit; then the graphs.

    tell   called with the numbers of units drawn and of all; may raise
    drawn  what another process has drawn

    Returns what failed.
    """
    failures: list[str] = []
    record, metrics, arrays = folder.read_record(), folder.read_metrics(), folder.read_images()
    references = arrays.get("reference")
    for done, entry in enumerate(metrics):
        tell(done, len(metrics))
        if entry["unit"] in drawn:
            failures += drawn[entry["unit"]]
            continue
        reference = None if references is None else references[done]
        failures += draw_unit(
            folder, record, entry, arrays["images"][done], arrays["responses"][done], reference
        )
    return failures + (drawn[None] if None in drawn else draw_graphs(folder))


def draw_graphs(folder: RunFolder) -> list[str]:
    """Write the trace of the optimization, the fronts of units, and costs under priors; returns
    what failed."""
    failures: list[str] = []
    with noted(failures, "prior"):
        if (drawn := prior.picture(folder.read_record(), folder.read_metrics())) is not None:
            folder.write_prior_figure(page.png(drawn))
    with noted(failures, "trace"):
        _draw_trace(folder)
    with noted(failures, "front"):
        _draw_fronts(folder)
    return failures


def draw_unit(
    folder: RunFolder,
    record: dict[str, Any],
    entry: dict[str, Any],
    images: Float[Tensor, "image color h w"],
    responses: Float[Tensor, " image"],
    reference: Float[Tensor, "color h w"] | None,
) -> list[str]:
    """Write a unit's images and its sheet; returns what failed.

    record, entry  run.json, and what metrics.json holds of the unit
    reference      of metamers, the photograph
    """
    failures: list[str] = []
    with noted(failures, f"unit {entry['unit']}"):
        for index, image in enumerate(display(images, tuple(record["weights"]["mean"]))):
            folder.write_image(entry["unit"], index, page.png(image))
        shown, captions = captioned(images, responses.tolist(), reference, record)
        folder.write_sheet(entry["unit"], page.png(sheet(shown, captions, record, entry)))
    return failures


@contextlib.contextmanager
def noted(failures: list[str], what: str) -> Iterator[None]:
    """Note an error of the drawing in the `with` block, but not one of writing."""
    try:
        yield
    except (OSError, FolderLost):
        raise
    except Exception as error:
        failures.append(f"{what}: {type(error).__name__}: {error}")


def captioned(
    images: Float[Tensor, "shown color h w"],
    responses: list[float],
    reference: Float[Tensor, "color h w"] | None,
    record: dict[str, Any],
) -> tuple[page.Pixels, list[str]]:
    """A unit's images for display, with the responses under them; of metamers, the photograph
    `reference` before them, errors and distances to it under them."""
    mean = tuple(record["weights"]["mean"])
    if reference is None:
        return display(images, mean), [f"{response:.4g}" for response in responses]
    away = (images - reference).square().mean((1, 2, 3)).sqrt().tolist()
    captions = [
        f"error {-100 * response:.1f} %\ndistance {distance:.3g}"
        for response, distance in zip(responses, away, strict=True)
    ]
    return display(torch.cat([reference[None], images]), mean), ["photograph\n", *captions]


def sheet(
    pixels: page.Pixels, captions: Sequence[str], record: dict[str, Any], metrics: dict[str, Any]
) -> page.Block:
    """The picture a person looks at first; its images are reduced only where all of them, in
    their size, are more than `SHEET` pixels high and wide."""
    n, size = len(pixels), pixels.shape[1:3]
    grid = grid_of(n, size, page.TILE, (SHEET, SHEET), (CAPTIONED, page.GAP))
    if grid is None:
        grid = Grid(MOST_IN_ROW, 1, max(1, max(size) // SMALLEST))
    shown = page.enlarge(page.reduced(pixels, grid.reduction), grid.zoom)
    images = page.gallery(list(shown), captions, columns=grid.columns)
    lines = sheet_lines(record, metrics)
    if grid.reduction > 1:
        lines.append(f"(shown at 1/{grid.reduction} size; images/ has them in full)")
    return page.compose(page.title_of(record, [metrics["unit"]]), lines, [images])


def sheet_lines(record: dict[str, Any], metrics: dict[str, Any]) -> list[str]:
    """What a sheet says in words: response and distances."""
    if metrics["stop"] == "dead":
        return ["dead: its response has no gradient in any of the noise drawn; noise is shown"]
    if metrics["response_mean"] is None:
        return [f"{metrics['stop']}: the response is not a finite number"]
    response = f"response {metrics['response_mean']:.4g}"
    best = metrics["response_best"]
    if best is not None and best > 0:  # `mse` has negative responses: a ratio would mislead
        response += f"  ({100 * metrics['response_mean'] / best:.0f} % of best {best:.4g})"
    lines = [response]
    if "error_max" in metrics:
        lines = _lines_of_metamers(metrics)
    if metrics["distance_min"] is not None:
        smallest, mean = metrics["distance_pixels_min"], metrics["distance_pixels_mean"]
        what = "distance between images, RMS grey levels"
        lines.append(f"{what}: smallest {smallest:.3g}, mean {mean:.3g}")
        if (where := _distance_as_optimized(record)) is not None:
            smallest, mean = metrics["distance_min"], metrics["distance_mean"]
            lines.append(f"{where}: smallest {smallest:.3g}, mean {mean:.3g}")
    return lines


def _lines_of_metamers(metrics: dict[str, Any]) -> list[str]:
    mean, largest = (f"{100 * metrics[f'error_{name}']:.1f} %" for name in ("mean", "max"))
    nearest, away = (metrics[f"distance_pixels_to_reference_{name}"] for name in ("min", "mean"))
    over = metrics.get("error_over")
    above = f"; {counted(over, 'image')} above the tolerance" if over else ""
    return [
        f"error of the layer's responses, relative: mean {mean}, largest {largest}{above}",
        f"distance to the photograph, RMS grey levels: smallest {nearest:.3g}, mean {away:.3g}",
    ]


# -- trace: at every step -------------------------------------------------------------------------


def _draw_trace(folder: RunFolder) -> None:
    """Write `trace.png` from `trace.csv`, if that has any rows."""
    names, rows = folder.read_trace()
    if not rows:
        return
    record, columns = folder.read_record(), trace_columns(names, rows)
    units = np.unique(columns["unit"]).astype(int).tolist()
    draws = trace_graphs(columns, record)
    blocks = [graph.block(draw, 900, 300, right=60, top=20) for draw in draws]
    picture = page.compose(page.title_of(record, units), [trace_line(columns)], blocks)
    folder.write_trace_figure(page.png(picture))


def trace_columns(names: Sequence[str], rows: Sequence[Sequence[float]]) -> Columns:
    """The columns of `trace.csv` by name."""
    return dict(zip(names, np.array(rows).T, strict=True))


def trace_line(columns: Columns) -> str:
    """What the picture of the trace shows."""
    what = "Response, smallest distance and cost under the prior"
    line = what if "prior_cost" in columns else "Response and smallest distance"
    line += " at every step of the optimization"
    is_summary = len(np.unique(columns["unit"])) > FEW
    return line + (": median and quartiles of the units" if is_summary else "")


def trace_graphs(columns: Columns, record: dict[str, Any]) -> list[Callable[[Any], None]]:
    """What draws the response and, where there is more than one image, the smallest distance."""
    draws: list[Callable[[Any], None]]
    draws = [partial(_trace, columns, "response_mean", "mean response", graph.BLUE)]
    if record.get("references"):
        errors = columns | {"error_mean": -columns["response_mean"]}
        draws = [partial(_trace, errors, "error_mean", "mean relative error", graph.BLUE)]
    if "distance_min" in columns:
        label = _distance_label(record)
        draws.append(partial(_trace, columns, "distance_min", label, graph.ORANGE))
    if "prior_cost" in columns:
        draws.append(partial(_trace, columns, "prior_cost", "cost under the prior", graph.GREEN))
    return draws


def _trace(columns: Columns, name: str, label: str, color: str, axis: Any) -> None:
    curves = {}
    for unit in np.unique(columns["unit"]):
        rows = columns["unit"] == unit
        curves[f"{unit:.0f}"] = columns["step"][rows], columns[name][rows]
    if len(curves) > FEW:
        last = max(len(values) for _, values in curves.values())
        padded = [  # a unit that stopped keeps its last value
            np.pad(values, (0, last - len(values)), mode="edge") for _, values in curves.values()
        ]
        low, middle, high = np.percentile(padded, [25, 50, 75], axis=0)
        steps = np.arange(1, last + 1)
        axis.fill_between(steps, low, high, color=color, alpha=0.2, lw=0)
        axis.plot(steps, middle, color=color, lw=1.2)
    else:
        for steps, values in curves.values():
            axis.plot(steps, values, color=color, lw=1.2, alpha=0.8)
    axis.margins(x=0.02)
    axis.set(xlabel="step", ylabel=label)
    axis.ticklabel_format(axis="y", scilimits=graph.POWERS)
    if 1 < len(curves) <= FEW:
        ends = [(float(values[-1]), unit, graph.FAINT) for unit, (_, values) in curves.items()]
        graph.label_ends(axis, ends)


# -- front: at every weight (docs/method.md, section 9) -------------------------------------------


def _draw_fronts(folder: RunFolder) -> None:
    """Write `front_unit0012.png` of every unit whose front was traced and has finite numbers."""
    front = folder.read_front()
    if front is None:
        return
    record = folder.read_record()
    metrics = {entry["unit"]: entry for entry in folder.read_metrics()}
    for unit, images in zip(front["units"].tolist(), front["images"], strict=True):
        rows = metrics[unit]["front"]
        if all(value is not None for row in rows for value in row.values()):
            folder.write_front_figure(unit, page.png(_front(record, metrics[unit], images)))


def _front(record: dict[str, Any], metrics: dict[str, Any], images: Tensor) -> page.Block:
    """Response against smallest distance, above images [weight, image, c, h, w] of some weights."""
    batches = [
        page.tiles(pixels, [""] * len(pixels), heading)
        for heading, pixels in front_batches(record, metrics, images)
    ]
    curve = graph.block(partial(front_graph, record, metrics), 640, 360, right=50, top=24)
    blocks = [page.stacked([page.legend(FRONT_LEGEND), curve], 6), page.stacked(batches, 4)]
    title = page.title_of(record, [metrics["unit"]])
    return page.compose(title, [front_line(metrics)], blocks)


def front_line(metrics: dict[str, Any]) -> str:
    """What the picture of a front says in words."""
    rows, knee = metrics["front"], metrics["knee"]
    at_knee = _at_knee(metrics)
    return (
        f"Front of response against diversity over {counted(len(rows), 'weight')}. "
        f"Knee at weight {knee:g}: "
        f"mean response {at_knee['response_mean']:.4g}, "
        f"smallest distance {at_knee['distance_min']:.3g}"
    )


def front_batches(
    record: dict[str, Any], metrics: dict[str, Any], images: Tensor
) -> list[tuple[str, page.Pixels]]:
    """Headings and images of some weights, the knee among them."""
    knee, weights = metrics["knee"], [row["diversity"] for row in metrics["front"]]
    equal_steps = {round(i * (len(weights) - 1) / (ROWS - 1)) for i in range(ROWS)}
    batches = []
    for index in sorted(equal_steps | {weights.index(knee)}):
        heading = f"weight {weights[index]:g}" + (" (knee)" if weights[index] == knee else "")
        batches.append((heading, display(images[index], tuple(record["weights"]["mean"]))))
    return batches


def _at_knee(metrics: dict[str, Any]) -> dict[str, Any]:
    return next(row for row in metrics["front"] if row["diversity"] == metrics["knee"])


def front_graph(record: dict[str, Any], metrics: dict[str, Any], axis: Any) -> None:
    """Draw response against smallest distance."""
    rows, at_knee = metrics["front"], _at_knee(metrics)
    distances = [row["distance_min"] for row in rows]
    means, smallest = ([row[f"response_{kind}"] for row in rows] for kind in ("mean", "min"))
    axis.plot(distances, means, "o-", color=graph.BLUE, lw=1.2, ms=4)
    axis.plot(distances, smallest, color=graph.FAINT, lw=1, ls="--")
    axis.plot(at_knee["distance_min"], at_knee["response_mean"], "o", color=graph.ORANGE, ms=8)
    labelled: list[float] = []
    for row in (at_knee, *rows):
        x = row["distance_min"]
        if all(abs(x - other) >= LABEL_GAP * max(distances) for other in labelled):
            labelled.append(x)
            text, look = f"{row['diversity']:g}", {"xytext": (4, 5), "color": graph.FAINT}
            if row is at_knee:  # below its point, where the labels of its neighbours are not
                text += " knee"
                look = {"xytext": (-6, -6), "color": graph.ORANGE, "ha": "right", "va": "top"}
            point = x, row["response_mean"]
            axis.annotate(text, point, textcoords="offset points", fontsize=9, **look)
    axis.set(xlabel=_distance_label(record), ylabel="response")
    axis.margins(0.06, 0.1)
    axis.ticklabel_format(axis="y", scilimits=graph.POWERS)


def _distance_label(record: dict[str, Any]) -> str:
    is_cosine, where = record.get("metric") == "cosine", record["distance"]
    unit = "RMS grey levels" if where == "pixels" else f"RMS, {where}"
    return f"smallest distance ({f'cosine, {where}' if is_cosine else unit})"


def _distance_as_optimized(record: dict[str, Any]) -> str | None:
    """Where the distances of the objective were measured, in words; None: in grey levels."""
    where = record["distance"]
    if record.get("metric") == "cosine":
        return f"cosine distance in {where}"
    return None if where == "pixels" else f"in {where}"
