"""Sheets: all images of a unit, enlarged without smoothing, the response under each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diversevis.method.images import display
from diversevis.pictures import page
from diversevis.runs.folder import RunFolder


def make_sheets(folder: RunFolder, tell: Callable[[int, int], None]) -> None:
    """Write every image in its own size, and a sheet of every unit.

    tell  called with the numbers of units drawn and of all; may raise
    """
    record, arrays = folder.read_record(), folder.read_images()
    batches = zip(arrays["images"], arrays["responses"].tolist(), strict=True)
    rows = list(zip(folder.read_metrics(), batches, strict=True))
    for done, (metrics, (images, responses)) in enumerate(rows):
        tell(done, len(rows))
        pixels = display(images, tuple(record["weights"]["mean"]))
        for index, image in enumerate(pixels):
            folder.write_image(metrics["unit"], index, page.png(image))
        sheet_file = page.png(sheet(pixels, responses, record, metrics))
        folder.write_sheet(metrics["unit"], sheet_file)


def sheet(
    pixels: page.Pixels, responses: list[float], record: dict[str, Any], metrics: dict[str, Any]
) -> page.Block:
    """The picture a person looks at first; its images are never reduced, whatever their size."""
    zoom = max(1, round(page.TILE / max(pixels.shape[1:3])))
    captions = [f"{response:.4g}" for response in responses]
    images = page.gallery(list(page.enlarge(pixels, zoom)), captions)
    return page.compose(page.title_of(record, [metrics["unit"]]), _lines(record, metrics), [images])


def _lines(record: dict[str, Any], metrics: dict[str, Any]) -> list[str]:
    if metrics["stop"] == "dead":
        return ["dead: its response has no gradient in any of the noise drawn; noise is shown"]
    if metrics["response_mean"] is None:
        return [f"{metrics['stop']}: the response is not a finite number"]
    response = f"response {metrics['response_mean']:.4g}"
    best = metrics["response_best"]
    if best is not None and best > 0:  # `mse` has negative responses: a ratio would mislead
        response += f"  ({metrics['response_mean'] / best:.0%} of best {best:.4g})"
    lines = [response]
    if metrics["distance_min"] is not None:
        smallest, mean = metrics["distance_pixels_min"], metrics["distance_pixels_mean"]
        lines.append(
            f"distance between images, RMS grey levels: smallest {smallest:.3g}, mean {mean:.3g}"
        )
        if record["distance"] != "pixels":
            lines.append(
                f"in {record['distance']}: smallest {metrics['distance_min']:.3g}, "
                f"mean {metrics['distance_mean']:.3g}"
            )
    return lines
