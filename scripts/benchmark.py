"""How close to the machine's ceiling, and how much faster than others; one table, one JSON file.

    DIVERSEVIS_WEIGHTS=weights python scripts/benchmark.py [--parts share,growth] [--device cpu]

Rows are medians and ranges, and ratios of times measured in this one run: over the repeats; over
units where the row is about single units; of one run where it takes minutes (quality, the published
protocol for each unit, peers). Counted are the floating-point operations of the unpadded, truncated
network's convolutions alone, forward and backward to the input; the rest of a step is overhead.
Peers come with `pip install 'diversevis[benchmark]'`; those that are missing are said to be.

Parts: those in PARTS, and on a GPU `layer` (all 256 units of conv3_1).
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from bench import (
    Bench,
    ceiling,
    kind_of_numbers,
    operations_per_image,
    seconds_per_step,
    whole_network,
)
from peers import Work, run_peers
from published import published
from torch import Tensor

from diversevis.experiment.batches import visualize_in_batches
from diversevis.method import images
from diversevis.method.device import keep_pages
from diversevis.method.objective import Objective, pairwise_distances
from diversevis.method.setup import Setup
from diversevis.method.visualize import Visualization, visualize
from diversevis.models.architectures import import_torchvision_models
from diversevis.runs import provenance

LAYERS = (("vgg19", "conv2_2"), ("vgg19", "conv3_1"), ("vgg19", "conv3_3"),
          ("resnet50", "layer1.2"))  # fmt: skip
PARTS = "ceiling,share,diversity,quality,published,growth,published_setting,peers"
SHARED_UNITS = 48
QUALITY = (("vgg19", "conv1_2", 64), ("vgg19", "conv2_2", 128), ("vgg19", "conv3_1", 256),
           ("resnet50", "layer1.0", 256), ("resnet50", "layer1.2", 256))  # fmt: skip
FIELDS = ("conv2_1", "conv2_2", "conv3_1", "conv3_2", "conv3_3", "conv3_4")


def collect(setup: Setup, rows: Sequence[int]) -> list[Visualization]:
    return [one.visualization for one in visualize_in_batches(setup, rows)]


def share(bench: Bench, measure: Callable[[], float]) -> None:
    for model, layer in LAYERS:
        each, words = operations_per_image(model, layer), [f"model={model}", f"layer={layer}"]
        shares, rates = [], []
        for repeat in range(bench.options.repeats + 1):
            top = measure()
            step = seconds_per_step(bench, words, SHARED_UNITS)
            if repeat:  # the first warms up
                rates.append(6 * SHARED_UNITS / step)
                shares.append(100 * rates[-1] * each / ((top + measure()) / 2))
        what = f"{model} {layer}, {SHARED_UNITS} units of 6 images"
        bench.row("share", f"{what}: of the convolution ceiling", shares, "%")
        bench.row("share", f"{what}: image-steps", rates, "/s", megaflop_per_image=each / 1e6)


def diversity(bench: Bench, n: int = 64, units: int = 8) -> None:
    """The distance term, forward and backward, against a whole step."""
    words = ["model=vgg19", "layer=conv3_1"]
    setup = bench.setup(*words, f"unit=0-{units - 1}", f"n={n}")
    one = torch.ones(units, device=bench.device)
    with_distance = Objective(
        diversity=0.1 * one, response_scale=one, distance_scale=one, enough=None
    )
    raw = torch.randn(units, n, 3, *setup.field.size, device=bench.device)
    x = images.render(raw, setup.norm)
    responses = torch.randn(units, n, device=bench.device)

    def term() -> None:
        features = x.detach().requires_grad_(True)
        terms = with_distance(responses, features.flatten(2), 1.0, 0.1)
        torch.autograd.grad(terms["descent"].sum(), features)

    shares = []
    for _ in range(bench.options.repeats + 1):
        step = seconds_per_step(bench, [*words, f"n={n}"], units)
        shares.append(100 * statistics.median(bench.seconds(term) for _ in range(5)) / step)
    bench.row("diversity", f"distances of n={n}, conv3_1: of a step", shares[1:], "%")


def against_published(bench: Bench) -> None:
    """All units of conv2_2 against the published protocol on a sample of them, one at a time."""
    layer, units, count = "conv2_2", 128, bench.options.published_units
    words = ["model=vgg19", f"layer={layer}", f"unit=0-{units - 1}"]
    setup = bench.setup(*words)
    visualize(setup, range(8))
    seconds = [bench.seconds(partial(collect, setup, range(units))) for _ in bench.repeats()]
    sample = [units * place // count for place in range(count)]
    found = collect(setup, range(units))
    network = whole_network(setup).to(bench.device)
    theirs = []
    for unit in sample:
        generator = torch.Generator().manual_seed(unit)
        raw = images.noise((6, 3, *setup.field.size), generator).to(bench.device)
        noise = images.render(raw[None], setup.norm).flatten(2)
        noise_distance = pairwise_distances(noise).mean().item()
        theirs.append(
            published(
                network, raw, unit, norm=setup.norm, std=setup.network.weights.std,
                response_scale=abs(found[unit].metrics["response_best"]),
                distance_scale=noise_distance,
                diversity=setup.experiment.objective.diversity,
            )
        )  # fmt: skip
    mine, plain = (
        [statistics.mean(values) for values in zip(*pairs, strict=True)]
        for pairs in (
            [(found[unit].metrics["response_mean"], found[unit].metrics["distance_min"])
             for unit in sample],
            [(one.response, one.distance) for one in theirs],
        )
    )  # fmt: skip
    each = [one.seconds for one in theirs]
    bench.row("published", f"{layer}: plain, one unit ({count} of {units})", each, "s",
              steps=[one.steps for one in theirs],
              response=plain[0], distance=plain[1])  # fmt: skip
    bench.row("published", f"{layer}: diversevis, one of {units} units, search included",
              [value / units for value in seconds], "s",
              response=mine[0], distance=mine[1])  # fmt: skip
    mean = statistics.mean(each)
    bench.row("published", f"{layer}: times faster, all {units} units",
              [mean * units / value for value in seconds], "x")  # fmt: skip
    for place, name in enumerate(("mean response", "smallest distance")):
        ratios = [
            found[unit].metrics[("response_mean", "distance_min")[place]] / one[place]
            for unit, one in zip(sample, theirs, strict=True)
        ]
        bench.row("published", f"{layer}: {name}, ours over theirs, unit by unit", ratios, "x",
                  of_means=mine[place] / plain[place])  # fmt: skip
    sooner(bench, words, sample, plain, mean)


def sooner(
    bench: Bench, words: list[str], sample: list[int], plain: list[float], seconds: float
) -> None:
    """The fewest steps that reach what the plain protocol reaches, and the time they take."""
    what = "conv2_2: times faster to the same response and distance"
    for steps in (20, 30, 40, 60, 80):
        setup = bench.setup(*words, f"optimizer.steps={steps}")
        found = [one.metrics for one in collect(setup, sample)]
        response = statistics.mean(one["response_mean"] for one in found)
        distance = statistics.mean(one["distance_min"] for one in found)
        if response < plain[0] or distance < plain[1]:
            continue
        work = partial(collect, setup, sample)
        faster = [seconds * len(sample) / bench.seconds(work) for _ in bench.repeats()]
        bench.row("published", f"{what} ({steps} steps)", faster, "x", response=response,
                  distance=distance)  # fmt: skip
        return
    bench.row("published", f"{what}: not reached", [0.0], "x")


def quality(bench: Bench) -> None:
    """The default optimizer against `optimizer=paper`, both batched, on units picked evenly."""
    for model, layer, units in QUALITY:
        count = bench.options.quality_units
        chosen = ",".join(str(units * place // count) for place in range(count))
        words = [f"model={model}", f"layer={layer}", f"unit=[{chosen}]"]
        found, seconds = dict[str, list[Visualization]](), dict[str, float]()
        for name in ("sphere", "paper"):
            setup = bench.setup(*words, f"optimizer={name}")
            began = time.perf_counter()
            found[name] = collect(setup, range(count))
            seconds[name] = time.perf_counter() - began
        for key, what in (("response_mean", "mean response"), ("distance_min", "distance")):
            ours, theirs = ([one.metrics[key] for one in found[n]] for n in ("sphere", "paper"))
            ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
            bench.row("quality", f"{model} {layer}: {what}, sphere over paper", ratios, "x",
                      of_means=sum(ours) / sum(theirs))  # fmt: skip
            print(f"| | ... of means | {sum(ours) / sum(theirs):.4g} x | |", flush=True)
        bench.row("quality", f"{model} {layer}: times faster, {count} units",
                  [seconds["paper"] / seconds["sphere"]], "x")  # fmt: skip


def whole_layer(bench: Bench, measure: Callable[[], float]) -> None:
    """All 256 units of conv3_1, six images each, at the default quality; minutes on a CPU."""
    words = ["model=vgg19", "layer=conv3_1", "unit=all"]
    collect(bench.setup(*words, "optimizer.steps=2", "optimizer.search_steps=2"), range(256))
    setup = bench.setup(*words)
    experiment = setup.experiment
    optimizer = experiment.optimizer
    seconds = [bench.seconds(partial(collect, setup, range(256))) for _ in bench.repeats()]
    image_steps = 256 * (
        experiment.n * optimizer.steps + experiment.objective.restarts * optimizer.search_steps
    )
    least = image_steps * operations_per_image("vgg19", "conv3_1") / measure()
    bench.row("layer", "conv3_1, all 256 units, search included", seconds, "s")
    bench.row("layer", "conv3_1, all 256 units: of the convolution ceiling",
              [100 * least / value for value in seconds], "%", least_seconds=least)  # fmt: skip


def slope(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Exponent of the least-squares line through the logarithms."""
    x, y = ([math.log(value) for value in values] for values in (sizes, seconds))
    middle_x, middle_y = statistics.mean(x), statistics.mean(y)
    over = sum((a - middle_x) * (b - middle_y) for a, b in zip(x, y, strict=True))
    return over / sum((a - middle_x) ** 2 for a in x)


def growth(bench: Bench) -> None:
    """Seconds of whole runs against the number of units, of images, and the receptive field."""
    short = ["model=vgg19", "optimizer.steps=8", "optimizer.search_steps=4"]

    def measured(units: int, *words: str) -> tuple[float, float]:
        setup = bench.setup(*short, *words, f"unit=0-{units - 1}")
        work = partial(collect, setup, range(units))
        work()
        seconds = statistics.median(bench.seconds(work) for _ in bench.repeats())
        return seconds, setup.field.size[0]

    kinds = {
        "units (K)": [(k, measured(k, "layer=conv3_1")[0]) for k in (1, 4, 16, 64, 256)],
        "images (n)": [(n, measured(8, "layer=conv3_1", f"n={n}", "objective.restarts=1")[0])
                       for n in (2, 4, 8, 16, 32, 64)],
        "receptive field": [measured(8, f"layer={layer}")[::-1] for layer in FIELDS],
    }  # fmt: skip
    for what, pairs in kinds.items():
        sizes, seconds = zip(*pairs, strict=True)
        bench.row("growth", f"seconds against {what}: exponent", [slope(sizes, seconds)], "",
                  sizes=sizes, seconds=seconds)  # fmt: skip
        last = slope(sizes[-3:], seconds[-3:])
        bench.row("growth", f"seconds against {what}: exponent of the three largest", [last], "")


def published_setting(bench: Bench) -> None:
    """The paper's example over five seeds."""
    found, steps = [], 0.0
    for seed in range(5):
        setup = bench.setup("experiment=cadena2018", f"seed={seed}")
        (one,) = visualize(setup, [0])
        found.append(one.metrics["response_mean"])
        experiment = setup.experiment
        searched = experiment.objective.restarts * experiment.optimizer.search_steps
        # Beside the steps: each start is looked at once for its gradient.
        each = one.metrics["steps"] + 1 + (searched + experiment.objective.restarts) / experiment.n
        steps = max(steps, each)
    bench.row("published_setting", "experiment=cadena2018, seeds 0 to 4: mean response", found, "",
              mean=statistics.mean(found), steps_worth_of_computation=steps)  # fmt: skip


def peers(bench: Bench) -> None:
    """One unit of conv3_1, six images, by everyone."""
    words = ["model=vgg19", "layer=conv3_1", "unit=21", "norm=paper"]
    setup = bench.setup(*words)
    visualize(setup, [0])
    ours: list[Any] = []
    seconds = [bench.seconds(lambda: ours.append(visualize(setup, [0]))) for _ in bench.repeats()]
    metrics = ours[0][0].metrics
    bench.row("peers", "diversevis, 24 px, search and 80 steps", seconds, "s",
              response=metrics["response_mean"], distance=metrics["distance_min"])  # fmt: skip
    network = whole_network(setup).to(bench.device)
    std = setup.network.weights.std

    def response(x: Tensor) -> Tensor:
        with torch.no_grad():
            return network(images.to_network_input(x, std))[0][:, 21].flatten()

    features = import_torchvision_models().vgg19(weights=None).features[:11]
    state = {name: value for name, value in network.state_dict().items() if "features." in name}
    features.load_state_dict({k.removeprefix("features."): v for k, v in state.items()})
    work = Work(
        features.to(bench.device), unit=21, steps=bench.options.peer_steps, response=response,
        mean=torch.tensor(setup.network.weights.mean, device=bench.device),
        std=torch.tensor(std, device=bench.device),
        budget=bench.options.peer_budget,
    )  # fmt: skip
    for one in run_peers(work):
        what = f"{one.name} {one.version or ''}, {one.size} px, {work.steps} steps: {one.note}"
        if one.seconds is None:
            print(f"| peers | {what} | | |", flush=True)
            bench.rows.append({"part": "peers", "what": what, **asdict(one)})
            continue
        bench.row("peers", what, [one.seconds], "s", distance=one.distance_min,
                  response=statistics.mean(one.responses))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parts", default=PARTS)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="float32", choices=["float32", "tf32"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--published-units", type=int, default=16)
    parser.add_argument("--quality-units", type=int, default=16)
    parser.add_argument("--peer-steps", type=int, default=80)
    parser.add_argument("--peer-budget", type=float, default=60.0, help="seconds for each")
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmark"))
    bench = Bench(parser.parse_args())
    parts = bench.options.parts.split(",")
    if unknown := set(parts) - {*PARTS.split(","), "layer"}:
        parser.error(f"unknown parts: {', '.join(sorted(unknown))}. Choose from: {PARTS},layer")
    keep_pages()
    facts = provenance.device_facts(bench.device) | provenance.versions()
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    print(f"{facts['device_name']}, {facts['threads']} threads, torch {facts['torch']}, {now}")
    print("\n| part | what | median | from, to |\n|---|---|---|---|", flush=True)
    if bench.device.type == "cuda" and bench.options.parts == PARTS:
        parts.append("layer")
    try:
        with kind_of_numbers(bench.options.precision):
            measure_parts(bench, parts)
    finally:
        write(bench, facts, now)


def measure_parts(bench: Bench, parts: Sequence[str]) -> None:
    if {"ceiling", "share", "layer"} & set(parts):
        measure = ceiling(bench)
        if "layer" in parts:
            whole_layer(bench, measure)
        if "share" in parts:
            share(bench, measure)
    later: dict[str, Callable[[Bench], None]] = {
        "diversity": diversity,
        "quality": quality,
        "published": against_published,
        "growth": growth,
        "published_setting": published_setting,
        "peers": peers,
    }
    for name, work in later.items():
        if name in parts:
            work(bench)


def write(bench: Bench, facts: dict[str, Any], now: str) -> None:
    bench.options.out.mkdir(parents=True, exist_ok=True)
    path = bench.options.out / f"{now.replace(':', '')}.json"
    path.write_text(
        json.dumps({"machine": facts, "time": now, "rows": bench.rows}, indent=2) + "\n"
    )
    print(f"\n{path}")


if __name__ == "__main__":
    main()
