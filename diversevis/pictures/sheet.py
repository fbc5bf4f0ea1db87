"""Sheets: all images of a unit, enlarged without smoothing, response under each."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from diversevis.method.images import display
from diversevis.runs.folder import RunFolder

TILE = 168  # pixels: an image is enlarged by the whole number that brings it nearest to this
MARGIN, GAP, TITLE, SUBTITLE, CAPTION = 24, 14, 20, 14, 14
INK, FAINT, PAPER = (24, 24, 24), (105, 105, 105), (255, 255, 255)


def make_sheets(folder: RunFolder, tell: Callable[[int, int], None]) -> None:
    """Native images and a sheet for every unit of a run.

    tell  told of how many of how many units are drawn; may raise
    """
    record, arrays = folder.read_record(), folder.read_images()
    units = arrays["units"].tolist()
    rows = zip(
        units,
        folder.read_metrics(),
        arrays["images"],
        arrays["responses"].tolist(),
        strict=True,
    )
    for done, (unit, metrics, images, responses) in enumerate(rows):
        tell(done, len(units))
        pixels = display(images, tuple(record["weights"]["mean"]))
        for index, image in enumerate(pixels):
            folder.write_image(unit, index, png(image))
        folder.write_sheet(unit, png(sheet(pixels, responses, record, metrics)))


def sheet(
    pixels: UInt8[np.ndarray, "image height width 3"],
    responses: list[float],
    record: dict[str, Any],
    metrics: dict[str, Any],
) -> UInt8[np.ndarray, "rows columns 3"]:
    """The picture a person looks at first."""
    n, height, width = pixels.shape[:3]
    zoom = max(1, round(TILE / max(height, width)))
    tile_h, tile_w = height * zoom, width * zoom
    columns = min(n, max(1, math.ceil(math.sqrt(2 * n))) if n > 6 else n)
    rows = math.ceil(n / columns)
    title = f"{record['model']}  {record['layer']}  {noun(record)} {metrics['unit']}"
    lines = _subtitle(record, metrics)
    fonts = {size: ImageFont.load_default(size) for size in {TITLE, SUBTITLE, CAPTION}}
    text_width = max(
        fonts[TITLE].getlength(title), *(fonts[SUBTITLE].getlength(line) for line in lines)
    )
    sheet_width = 2 * MARGIN + max(columns * tile_w + (columns - 1) * GAP, math.ceil(text_width))
    top = MARGIN + TITLE + 10 + len(lines) * (SUBTITLE + 6) + 10
    cell = tile_h + CAPTION + 8 + GAP
    canvas = Image.new("RGB", (sheet_width, top + rows * cell - GAP + MARGIN), PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((MARGIN, MARGIN), title, INK, fonts[TITLE])
    for number, line in enumerate(lines):
        y = MARGIN + TITLE + 10 + number * (SUBTITLE + 6)
        draw.text((MARGIN, y), line, FAINT, fonts[SUBTITLE])
    for index, (image, response) in enumerate(zip(pixels, responses, strict=True)):
        left = MARGIN + index % columns * (tile_w + GAP)
        y = top + index // columns * cell
        canvas.paste(Image.fromarray(enlarge(image, zoom)), (left, y))
        caption = f"{response:.4g}"
        inset = (tile_w - fonts[CAPTION].getlength(caption)) / 2
        draw.text((left + inset, y + tile_h + 5), caption, INK, fonts[CAPTION])
    return np.asarray(canvas)


def noun(record: dict[str, Any]) -> str:
    """What the numbers of a run count: units, or directions of a file."""
    return f"{record['direction']}, direction" if record["direction"] else "unit"


def enlarge(image: UInt8[np.ndarray, "... 3"], zoom: int) -> UInt8[np.ndarray, "... 3"]:
    """Every pixel becomes `zoom` x `zoom` pixels."""
    return image.repeat(zoom, axis=-3).repeat(zoom, axis=-2)


def png(image: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """The image as a PNG file."""
    content = io.BytesIO()
    Image.fromarray(image).save(content, "png")
    return content.getvalue()


def _subtitle(record: dict[str, Any], metrics: dict[str, Any]) -> list[str]:
    if metrics["stop"] == "dead":
        return ["dead: its response has no gradient in any of the noise drawn; noise is shown"]
    if metrics["response_mean"] is None:
        return [f"{metrics['stop']}: the response is not a finite number"]
    response = f"response {metrics['response_mean']:.4g}"
    best = metrics["response_best"]
    if best is not None and best > 0:  # a share of a negative response (`mse`) says nothing
        share = metrics["response_mean"] / best
        response += f"  ({share:.0%} of best {best:.4g})"
    lines = [response]
    if metrics["distance_min"] is not None:
        smallest, mean = metrics["distance_pixels_min"], metrics["distance_pixels_mean"]
        distances = (
            f"distance between images, RMS grey levels: smallest {smallest:.3g}, mean {mean:.3g}"
        )
        lines.append(distances)
        if record["distance"] != "pixels":
            lines.append(
                f"in {record['distance']}: smallest {metrics['distance_min']:.3g}, "
                f"mean {metrics['distance_mean']:.3g}"
            )
    return lines
