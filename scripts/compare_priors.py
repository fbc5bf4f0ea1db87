"""The same units under every prior: responses, distances, costs, time, and pictures side by side.

    DIVERSEVIS_WEIGHTS=weights python scripts/compare_priors.py --photographs photos --out FOLDER \
        [--units 21,5,64,100,200] [--priors FOLDER] [--weights 0,0.03,0.1,0.3]

Prints a table for docs/priors.md: medians over the units, at every weight, and writes for every
unit a picture with a row of images per prior at its default weight. `--priors` names a folder with
files of `train-prior` (denoiser.safetensors, pixelcnn.safetensors): those kinds are left out
without it. Costs are those of `metrics.json`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from diversevis.config.compose import compose_config, experiment_of
from diversevis.method import images
from diversevis.method.images import display
from diversevis.method.response import respond
from diversevis.method.result import Visualization
from diversevis.method.setup import Setup, prepare
from diversevis.method.visualize import visualize
from diversevis.pictures import page

KINDS = "none", "tv", "spectrum", "patches", "mcgsm", "denoiser", "pixelcnn"
WITH_FILE = "denoiser", "pixelcnn"
REPEATS = 7


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="vgg19")
    parser.add_argument("--layer", default="conv3_1")
    parser.add_argument("--units", default="21,5,64,100,200")
    parser.add_argument("--photographs", required=True)
    parser.add_argument("--priors", type=Path)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--weights", default="", help="of every prior; default: its own")
    parser.add_argument("--more", default="", help="further settings, separated by spaces")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(words)
    options.out.mkdir(parents=True, exist_ok=True)
    units = [int(unit) for unit in options.units.split(",")]
    shown: dict[int, list[tuple[str, Visualization]]] = {unit: [] for unit in units}
    rows = []
    print("| prior | weight | response | smallest distance | cost of the images | of photographs | "
          "of noise | other prior: images | photographs | step, times that of none |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    for kind in options.kinds.split(","):
        for weight in weights_of(kind, options.weights):
            setup = setup_of(options, kind, weight)
            if setup is None:
                continue
            results = visualize(setup, range(len(units)))
            step = 1.0 if kind == "none" else steps_of_prior(setup)
            rows.append(row_of(kind, setup, results) | {"step": step})
            print(line_of(rows[-1]), flush=True)
            default = weight is None or not options.weights
            for result in results:
                name = kind if default else f"{kind}, weight {weight}"
                shown[result.unit].append((name, result))
    (options.out / "priors.json").write_text(json.dumps(rows, indent=2) + "\n")
    for unit, of_unit in shown.items():
        (options.out / f"unit{unit:04d}.png").write_bytes(picture(options, unit, of_unit))


def weights_of(kind: str, words: str) -> list[str | None]:
    return [None] if kind == "none" or not words else [*words.split(",")]


def setup_of(options: Any, kind: str, weight: str | None) -> Setup | None:
    """None for a kind whose file is missing."""
    words = [f"model={options.model}", f"layer={options.layer}", f"unit=[{options.units}]",
             f"prior={kind}"]  # fmt: skip
    words += [word for word in options.more.split() if kind != "none" or "prior." not in word]
    if kind != "none":
        words.append(f"prior.photographs={options.photographs}")
    if weight is not None:
        words.append(f"prior.weight={weight}")
    if kind in WITH_FILE:
        file = options.priors / f"{kind}.safetensors" if options.priors else Path("/missing")
        if not file.is_file():
            print(f"{kind}: left out, {file} is not there")
            return None
        words.append(f"prior.file={file}")
    return prepare(experiment_of(compose_config(words)))


def row_of(kind: str, setup: Setup, results: Sequence[Visualization]) -> dict[str, Any]:
    """Medians over the units."""
    names = ["distance_min", *(name for name in results[0].metrics if "cost" in name)]
    medians: dict[str, Any] = {
        "prior": kind,
        "weight": getattr(setup.experiment.prior, "weight", None),
    }
    medians["response"] = statistics.median(
        result.metrics["response_mean"] / result.metrics["response_best"] for result in results
    )
    for name in names:
        values = [result.metrics[name] for result in results]
        medians[name] = None if None in values else statistics.median(values)
    return medians


def line_of(row: dict[str, Any]) -> str:
    names = ("prior_cost_images", "prior_cost_photographs", "prior_cost_noise",
             "prior_check_cost_images", "prior_check_cost_photographs")  # fmt: skip
    costs = [row.get(name) for name in names]
    weight = "" if row["weight"] is None else f"{row['weight']:g}"
    share, distance = f"{100 * row['response']:.1f} %", f"{row['distance_min']:.1f}"
    texts = ["" if cost is None else f"{cost:.3g}" for cost in costs]
    cells = [row["prior"], weight, share, distance, *texts, f"{row['step']:.2f}"]
    return f"| {' | '.join(cells)} |"


def steps_of_prior(setup: Setup) -> float:
    """Time of a forward and a backward pass of all units' images with the prior, over that without:
    ratio of medians, one pass after the other in turn."""
    rows = torch.arange(len(setup.targets.units), device=setup.device).repeat(8)
    raw = torch.randn(len(rows), setup.experiment.n, *setup.image_shape, device=setup.device)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for repeat in range(REPEATS + 1):
        for with_prior in seconds:
            began = time.perf_counter()
            x = images.render(raw, setup.norm).requires_grad_(True)
            total = respond(setup, x, rows).responses.sum()
            if with_prior and setup.prior is not None:
                total = total + setup.prior.cost(x).sum()
            torch.autograd.grad(total, x)
            if repeat:  # the first warms up
                seconds[with_prior].append(time.perf_counter() - began)
    return statistics.median(seconds[True]) / statistics.median(seconds[False])


def picture(options: Any, unit: int, of_unit: Sequence[tuple[str, Visualization]]) -> bytes:
    """A row of images for every prior."""
    blocks = []
    mean = (0.485, 0.456, 0.406)
    for name, result in of_unit:
        metrics = result.metrics
        share = 100 * metrics["response_mean"] / metrics["response_best"]
        heading = f"{name}: response {share:.0f} %, smallest distance {metrics['distance_min']:.0f}"
        blocks.append(
            page.tiles(display(result.images, mean), [""] * len(result.images), heading, side=96)
        )
    title = f"{options.model} {options.layer} unit {unit} under each prior"
    return page.png(page.compose(title, [], blocks))


if __name__ == "__main__":
    main()
