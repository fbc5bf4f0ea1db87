"""Pictures of the page: a graph over layers for every claim, and examples of units."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from diversevis.method.images import display
from diversevis.pictures.draw import picture
from diversevis.pictures.images import captioned, sheet
from diversevis.pictures.page import enlarge, png
from paper.graphs import (
    deformation_figure,
    difference_figure,
    gain_figure,
    phase_figure,
)
from paper.runs import EXAMPLE, Run

TILE, GAP = 72, 6  # pixels: an image in a strip, enlarged without smoothing; the space between
SHOWN_LAYERS = 4  # layers of which the most stable units are shown
SHOWN_UNITS = 2  # per layer
MIN_RESPONSE = 0.9  # response relative to images made alone, of units shown for their gain
FOR_GAIN = "vgg19 conv2_2", "vgg19 conv3_1", "resnet50 layer1.0"
FOR_PHASE = ("vgg19 conv1_2", "vgg19 conv2_1", "vgg19 conv2_2", "vgg19 conv3_1",
             "resnet50 layer1.0", "resnet50 layer1.1")  # fmt: skip
Numbers = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A PNG file of the page."""

    file: str  # relative to the page's folder
    png: bytes
    caption: str
    link: str | None = None  # target of a click, relative to the page's folder
    wide: bool = False  # takes a full row


def pictures_of(
    claims: Sequence[Numbers], runs: Mapping[str, Run], out: Path
) -> dict[int, list[Picture]]:
    """Pictures of all claims, by claim number."""
    makers: dict[int, Callable[[Numbers, Mapping[str, Run], Path], list[Picture]]] = {
        1: _gain, 2: _phase, 3: _deformation, 4: _difference,
    }  # fmt: skip
    return {
        claim["number"]: makers[claim["number"]](claim["numbers"], runs, out) for claim in claims
    }


def _gain(numbers: Numbers, runs: Mapping[str, Run], out: Path) -> list[Picture]:
    pictures = [
        _wide("claim1", gain_figure(numbers), "Median and quartiles over the units of each layer: "
              "gain in distance of a batch over images made alone, response of the batch relative "
              "to images made alone, and number of dimensions of both sets."),
    ]  # fmt: skip
    for run in (runs[name] for name in FOR_GAIN if name in runs):
        gain = np.where(
            run.values("gain.response") >= MIN_RESPONSE, run.values("gain.distance_min"), -1
        )
        order = np.argsort(gain)[::-1]
        order = order[gain[order] > 0]  # largest gain first
        if not len(order):
            continue
        arrays, together = run.arrays("gain"), run.images()["images"]
        for row, label in ((order[0], "largest gain"), (order[len(order) // 2], "median gain")):
            above = np.pad(
                strip(run, together[row]), ((0, GAP), (0, 0), (0, 0)), constant_values=255
            )
            both = np.concatenate([above, strip(run, arrays["images"][row])])
            unit = run.units[row]
            pictures.append(_card(run, out, f"gain_{_file(run, row)}", both, row, (
                f"{run.name} unit {unit['unit']}, {label}: the batch (above) "
                f"and images made alone (below). Smallest distance "
                f"{gain[row] + unit['gain']['distance_min_alone']:.0f} against "
                f"{unit['gain']['distance_min_alone']:.0f} RMS grey levels, response "
                f"{unit['gain']['response']:.0%}.")))  # fmt: skip
    return pictures


def _phase(numbers: Numbers, runs: Mapping[str, Run], out: Path) -> list[Picture]:
    pictures = [
        _wide("claim2", phase_figure(numbers, runs), "Left: share of units below 1 and below 0.2, "
              "with the best grating (filled) and the grating fitted to the unit's best image "
              "(open); crosses: random weights. Right: F1/F0 of every unit (dots); lines at 0.2, 1 "
              "and pi/2 (a half-rectified linear unit)."),
    ]  # fmt: skip
    chosen = numbers["example"]
    if chosen["unit"] is not None:
        run = runs[chosen["layer"]]
        row = run.row(chosen["unit"])
        verdict = "satisfies the rule" if chosen["satisfied"] else "does not satisfy the rule"
        about = (
            f"{run.name} unit {chosen['unit']} {verdict}: its images have the same orientation "
            f"({chosen['orientation']:.0f} degrees, agreement {chosen['alike']:.2f}) at phases of "
            f"{', '.join(f'{p:.0f}' for p in sorted(chosen['phases']))} degrees. F1/F0 "
            f"{chosen['f1f0']:.3f}, of the fitted grating {chosen['fitted_f1f0']:.3f}."
        )
        pictures.append(_wide("example_sheet", _sheet(run, row), about))
        pictures.append(_wide("example_phase", measure_picture(run, "phase", row),
                           f"{run.name} unit {chosen['unit']}: responses to phases."))  # fmt: skip
    for run in (runs[name] for name in FOR_PHASE if name in runs):
        for unit in numbers["layers"][run.name]["most_invariant"][:SHOWN_UNITS]:
            row = run.row(unit["unit"])
            fitted = "none" if unit["fitted"] is None else f"{unit['fitted']:.2f}"
            pictures.append(_card(run, out, f"phase_{_file(run, row)}", strip(
                run, run.images()["images"][row]), row, f"{run.name} unit {unit['unit']}: F1/F0 "
                f"{unit['f1f0']:.2g}, fitted {fitted}."))  # fmt: skip
    return pictures


def _deformation(numbers: Numbers, runs: Mapping[str, Run], out: Path) -> list[Picture]:
    pictures = [
        _wide("claim3", deformation_figure(numbers, runs), "Left: share of units with R two "
              "standard errors below 1, against white noise and noise of the same spectrum (open: "
              "at 0.25 or 0.5 px, because the receptive field is too small for 1 px). Middle: "
              "median R at that displacement. Right: median response kept, and that of conv3_1 "
              "unit 21."),
    ]  # fmt: skip
    example = runs.get(" ".join(map(str, EXAMPLE)))
    if example is not None:
        pictures.append(_wide("unit21_sheet", _sheet(example, 0), f"{example.name} unit "
                              f"{EXAMPLE[1]}, the paper's unit for clusters of dots: its "
                              "batch."))  # fmt: skip
        pictures += [
            _wide(f"unit21_{name}", measure_picture(example, name, 0), f"The same unit: {name}.")
            for name in ("deformation", "shift")
            if example.units[0].get(name)
        ]
    layers = sorted((runs[name] for name, v in numbers["layers"].items() if v["delta"] == 1),
                    key=lambda run: run.record["model"], reverse=True)  # fmt: skip
    for run in layers[:SHOWN_LAYERS]:
        arrays = run.arrays("deformation")
        columns = [
            i for i, delta in enumerate(arrays["deltas"].tolist()) if delta in (0.5, 1.0, 2.0)
        ]
        for unit in numbers["layers"][run.name]["most_stable"][:SHOWN_UNITS]:
            row = run.row(unit["unit"])
            best = run.images()["images"][row][int(run.images()["responses"][row].argmax())]
            shown = [best, *(x for x in arrays["deformed"][row][columns] if x.isfinite().all())]
            name, pixels = f"deformation_{_file(run, row)}", strip(run, shown)
            pictures.append(_card(run, out, name, pixels, row, (
                f"{run.name} unit {unit['unit']}: its best image, and this image deformed by "
                f"{', '.join(['0.5', '1', '2'][: len(shown) - 1])} px. Keeps {unit['kept']:.0%} at "
                f"1 px; R + 2 SE (same spectrum) {unit['strict_and_errors']:.2f}"
                + ("." if unit["accepts"] else ": not counted as accepting."))))  # fmt: skip
    return pictures


def _difference(numbers: Numbers, runs: Mapping[str, Run], out: Path) -> list[Picture]:
    from diversevis.compare.files import pair_figure
    from paper.differences import OTHER_SIDE, PAIRS, compared

    pictures = [_wide("claim4", difference_figure(numbers), "Effect size of every index (Cliff's "
                      "delta: share of pairs of units in which VGG-19 is higher, minus the share "
                      "in which ResNet-50 is). Filled: p < 0.05 after Holm's "
                      "correction.")]  # fmt: skip
    for number, names in enumerate((*PAIRS, OTHER_SIDE), start=1):
        if (pair := compared(runs, *names)) is not None:
            more = " (here VGG-19 has the larger receptive field)" if names == OTHER_SIDE else ""
            pictures.append(_wide(f"pair{number}", pair_figure(pair), f"A, {names[0]}, and B, "
                               f"{names[1]}{more}: a dot per unit."))  # fmt: skip
    return pictures


# -- pixels ---------------------------------------------------------------------------------------


def strip(run: Run, images: Sequence[Tensor] | Tensor) -> np.ndarray:
    """Images side by side, enlarged without smoothing, with a white margin below."""
    mean = tuple(run.record["weights"]["mean"])
    tiles = []
    for image in images:
        pixels = enlarge(display(image[None], mean)[0], max(1, round(TILE / image.shape[-1])))
        tiles.append(np.pad(pixels, ((0, GAP), (0, GAP), (0, 0)), constant_values=255))
    return np.concatenate(tiles, axis=1)[:, :-GAP]


def measure_picture(run: Run, name: str, row: int) -> bytes:
    """PNG of a measure of a unit, as `diversevis run` makes it."""
    arrays = run.images()
    return picture(name, run.record, run.units[row], run.arrays(name), row,
                   arrays["images"][row], arrays["responses"][row])  # fmt: skip


def _sheet(run: Run, row: int) -> bytes:
    arrays = run.images()
    responses = arrays["responses"][row].tolist()
    shown = captioned(arrays["images"][row], responses, None, run.record)
    return png(sheet(*shown, run.record, run.units[row]))


def _card(run: Run, out: Path, name: str, pixels: np.ndarray, row: int, caption: str) -> Picture:
    """A small picture with a link to the unit's sheet, if there is a sheet."""
    sheet_file = run.path / f"sheet_unit{run.units[row]['unit']:04d}.png"
    link = sheet_file.relative_to(out).as_posix() if sheet_file.is_file() else None
    return Picture(file=f"figures/{name}.png", png=png(pixels), caption=caption, link=link)


def _wide(name: str, content: bytes, caption: str) -> Picture:
    return Picture(file=f"figures/{name}.png", png=content, caption=caption, wide=True)


def _file(run: Run, row: int) -> str:
    """File name of a unit. A layer's name may hold characters that a file name must not."""
    safe = "".join(c if c.isalnum() or c in "._-" else "_" for c in run.name)
    return f"{safe}_{run.units[row]['unit']}"
