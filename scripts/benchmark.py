"""Measures speed against the machine's ceiling, the published protocol and other packages.

    DIVERSEVIS_WEIGHTS=weights python scripts/benchmark.py [--parts share,growth] [--device cpu]

Prints a table and writes a JSON file; docs/benchmarks.md has results. A row has the median and the
range: over repeats; over units where the row is about single units; of one run where it takes
minutes (quality, the published protocol for a unit, peers). Ratios compare times of the same run.
Counted are the floating-point operations of the convolutions of the unpadded, truncated network,
forward and backward to the input; the rest of a step is overhead. `pip install
'diversevis[benchmark]'` installs the peers; rows name those that are missing.

Parts: those in PARTS; on a GPU by default those in ON_GPU. Part `options` compares all options of a
GPU on whole layers, within `--budget` seconds (gpu_options.py).
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
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
    operations_per_image,
    precision_of_products,
    seconds_per_step,
    whole_network,
)
from gpu_options import measure_options
from peers import Work, run_peers
from published import Published, published
from torch import Tensor

from diversevis.experiment.batches import visualize_in_batches
from diversevis.method import images
from diversevis.method.device import keep_pages
from diversevis.method.objective import Objective, pairwise_distances
from diversevis.method.optimize.descend import steps_of_rivals
from diversevis.method.result import Visualization
from diversevis.method.setup import Setup
from diversevis.method.visualize import visualize
from diversevis.models.packages import import_torchvision_models
from diversevis.runs import provenance

LAYERS = (("vgg19", "conv2_2"), ("vgg19", "conv3_1"), ("vgg19", "conv3_3"),
          ("resnet50", "layer1.2"))  # fmt: skip
PARTS = "ceiling,share,diversity,quality,published,growth,published_setting,peers"
ON_GPU = "ceiling,options"
SHARED_UNITS = 48
QUALITY = (("vgg19", "conv1_2", 64), ("vgg19", "conv2_2", 128), ("vgg19", "conv3_1", 256),
           ("resnet50", "layer1.0", 256), ("resnet50", "layer1.2", 256))  # fmt: skip
FIELDS = ("conv2_1", "conv2_2", "conv3_1", "conv3_2", "conv3_3", "conv3_4")


def collect(setup: Setup, rows: Sequence[int]) -> list[Visualization]:
    return [result.visualization for result in visualize_in_batches(setup, rows)]


def share(bench: Bench, measure: Callable[[], float]) -> None:
    """Share of the convolution ceiling that the joint optimization reaches."""
    for model, layer in LAYERS:
        operations = operations_per_image(model, layer)
        overrides = [f"model={model}", f"layer={layer}"]
        shares, rates = [], []
        for repeat in range(bench.options.repeats + 1):
            before = measure()
            step = seconds_per_step(bench, overrides, SHARED_UNITS)
            if repeat:  # the first warms up
                # The machine's speed drifts, so the ceiling is measured before and after.
                peak = (before + measure()) / 2
                rates.append(6 * SHARED_UNITS / step)
                shares.append(100 * rates[-1] * operations / peak)
        what = f"{model} {layer}, {SHARED_UNITS} units of 6 images"
        bench.row("share", f"{what}: of the convolution ceiling", shares, "%")
        bench.row("share", f"{what}: image-steps", rates, "/s", megaflop_per_image=operations / 1e6)


def diversity(bench: Bench, n: int = 64, units: int = 8) -> None:
    """Share of a step that the distances take, forward and backward."""
    overrides = ["model=vgg19", "layer=conv3_1"]
    setup = bench.setup(*overrides, f"unit=0-{units - 1}", f"n={n}")
    ones = torch.ones(units, device=bench.device)
    with_distance = Objective(
        diversity=0.1 * ones, response_scale=ones, distance_scale=ones, enough=None
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
        step = seconds_per_step(bench, [*overrides, f"n={n}"], units)
        shares.append(100 * statistics.median(bench.seconds(term) for _ in range(5)) / step)
    bench.row("diversity", f"distances of n={n}, conv3_1: of a step", shares[1:], "%")


def against_published(bench: Bench) -> None:
    """All units of conv2_2, typed to finished, against the published protocol, unit by unit.

    The published protocol makes a sample of the units one by one, with the same objective and
    with the response alone; it is given the network, the noise and both scales.
    """
    units, count = 128, bench.options.published_units
    words = ["model=vgg19", "layer=conv2_2", f"unit=0-{units - 1}", "n=6"]
    sample = [units * index // count for index in range(count)]
    setup = bench.setup(*words)
    network = whole_network(setup).to(bench.device)
    kinds = {"same objective": setup.experiment.objective.diversity, "response alone": 0.0}
    typed: list[float] = []
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}  # of a unit
    for _ in bench.repeats():
        took, ours = typed_run([*bench.overrides, *words])
        typed.append(took)
        theirs = {
            kind: [_published(bench, setup, network, ours[unit], diversity) for unit in sample]
            for kind, diversity in kinds.items()
        }
        for kind, results in theirs.items():
            seconds[kind].append(statistics.mean(result.seconds for result in results))
    bench.row("published", f"conv2_2: all {units} units, typed to finished", typed, "s")
    for kind, results in theirs.items():
        what = f"conv2_2, published, {kind}"
        bench.row("published", f"{what}: a unit ({count} of {units})", seconds[kind], "s",
                  steps=[result.steps for result in results])  # fmt: skip
        faster = [units * one / whole for one, whole in zip(seconds[kind], typed, strict=True)]
        bench.row("published", f"{what}: times faster, all {units} units", faster, "x")
        for index, name in enumerate(("response_mean", "distance_min")):
            pairs = zip(sample, results, strict=True)
            ratios = [ours[unit][name] / result[index] for unit, result in pairs]
            bench.row("published", f"{what}: our {name} over its, unit by unit", ratios, "x")


def typed_run(words: Sequence[str]) -> tuple[float, list[dict[str, Any]]]:
    """Seconds from the typed command to its end, and the metrics of all units."""
    with tempfile.TemporaryDirectory() as root:
        command = [sys.executable, "-m", "diversevis", "run", *words, f"root={root}"]
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        took = time.perf_counter() - began
        (file,) = Path(root).rglob("metrics.json")
        return took, json.loads(file.read_text())["units"]


def _published(
    bench: Bench, setup: Setup, network: Any, ours: dict[str, Any], diversity: float
) -> Published:
    generator = torch.Generator().manual_seed(ours["unit"])
    raw = images.noise((6, 3, *setup.field.size), generator).to(bench.device)
    noise = images.render(raw[None], setup.norm).flatten(2)
    return published(
        network, raw, ours["unit"], norm=setup.norm, std=setup.network.weights.std,
        response_scale=abs(ours["response_best"]), diversity=diversity,
        distance_scale=pairwise_distances(noise).mean().item(),
    )  # fmt: skip


def quality(bench: Bench) -> None:
    """The default optimizer against `optimizer=paper`, both in batches, on evenly spaced units."""
    for model, layer, units in QUALITY:
        count = bench.options.quality_units
        chosen = ",".join(str(units * index // count) for index in range(count))
        overrides = [f"model={model}", f"layer={layer}", f"unit=[{chosen}]"]
        results, seconds = dict[str, list[Visualization]](), dict[str, float]()
        for name in ("sphere", "paper"):
            setup = bench.setup(*overrides, f"optimizer={name}")
            began = time.perf_counter()
            results[name] = collect(setup, range(count))
            seconds[name] = time.perf_counter() - began
        for key, what in (("response_mean", "mean response"), ("distance_min", "distance")):
            ours, theirs = (
                [result.metrics[key] for result in results[n]] for n in ("sphere", "paper")
            )
            ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
            bench.row("quality", f"{model} {layer}: {what}, sphere over paper", ratios, "x",
                      of_means=sum(ours) / sum(theirs))  # fmt: skip
            print(f"| | ... of means | {sum(ours) / sum(theirs):.4g} x | |", flush=True)
        bench.row("quality", f"{model} {layer}: times faster, {count} units",
                  [seconds["paper"] / seconds["sphere"]], "x")  # fmt: skip


def slope(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Exponent of the least-squares line through the logarithms."""
    x, y = ([math.log(value) for value in values] for values in (sizes, seconds))
    middle_x, middle_y = statistics.mean(x), statistics.mean(y)
    covariance = sum((a - middle_x) * (b - middle_y) for a, b in zip(x, y, strict=True))
    return covariance / sum((a - middle_x) ** 2 for a in x)


def growth(bench: Bench) -> None:
    """How a run's seconds grow with the number of units, of images, and the receptive field."""
    short = ["model=vgg19", "optimizer.steps=8", "optimizer.search_steps=4"]

    def run_seconds(units: int, *overrides: str) -> tuple[float, float]:
        """Return the median seconds, and the side of the receptive field."""
        setup = bench.setup(*short, *overrides, f"unit=0-{units - 1}")
        work = partial(collect, setup, range(units))
        work()  # warms up
        seconds = statistics.median(bench.seconds(work) for _ in bench.repeats())
        return seconds, setup.field.size[0]

    kinds = {
        "units (K)": [(k, run_seconds(k, "layer=conv3_1")[0]) for k in (1, 4, 16, 64, 256)],
        "images (n)": [(n, run_seconds(8, "layer=conv3_1", f"n={n}", "objective.restarts=1")[0])
                       for n in (2, 4, 8, 16, 32, 64)],
        "receptive field": [run_seconds(8, f"layer={layer}")[::-1] for layer in FIELDS],
    }  # fmt: skip
    for what, pairs in kinds.items():
        sizes, seconds = zip(*pairs, strict=True)
        bench.row("growth", f"seconds against {what}: exponent", [slope(sizes, seconds)], "",
                  sizes=sizes, seconds=seconds)  # fmt: skip
        last = slope(sizes[-3:], seconds[-3:])
        bench.row("growth", f"seconds against {what}: exponent of the three largest", [last], "")


def published_setting(bench: Bench) -> None:
    """The paper's example over five seeds."""
    responses, steps = [], 0.0
    for seed in range(5):
        setup = bench.setup("experiment=cadena2018", f"seed={seed}")
        (result,) = visualize(setup, [0])
        responses.append(result.metrics["response_mean"])
        experiment = setup.experiment
        restarts, search_steps = experiment.objective.restarts, experiment.optimizer.search_steps
        searched = steps_of_rivals(restarts, search_steps)
        # In steps of n images. Both optimizations also evaluate their start once, for its gradient.
        evaluations = searched + experiment.objective.restarts
        steps = max(steps, result.metrics["steps"] + 1 + evaluations / experiment.n)
    bench.row("published_setting", "experiment=cadena2018, seeds 0 to 4: mean response",
              responses, "", mean=statistics.mean(responses),
              steps_worth_of_computation=steps)  # fmt: skip


def peers(bench: Bench) -> None:
    """The same unit of conv3_1, six images, in diversevis and in other packages."""
    overrides = ["model=vgg19", "layer=conv3_1", "unit=21", "norm=paper"]
    setup = bench.setup(*overrides)
    visualize(setup, [0])
    results: list[Any] = []
    seconds = [
        bench.seconds(lambda: results.append(visualize(setup, [0]))) for _ in bench.repeats()
    ]
    metrics = results[0][0].metrics
    bench.row("peers", "diversevis, 24 px, search included", seconds, "s",
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
    for peer in run_peers(work):
        what = f"{peer.name} {peer.version or ''}, {peer.size} px, {work.steps} steps: {peer.note}"
        if peer.seconds is None:
            print(f"| peers | {what} | | |", flush=True)
            bench.rows.append({"part": "peers", "what": what, **asdict(peer)})
            continue
        bench.row("peers", what, [peer.seconds], "s", distance=peer.distance_min,
                  response=statistics.mean(peer.responses))  # fmt: skip


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parts", help=f"default: {PARTS}; on a GPU: {ON_GPU}")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="float32", choices=["float32", "tf32"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--published-units", type=int, default=8)
    parser.add_argument("--quality-units", type=int, default=16)
    parser.add_argument("--peer-steps", type=int, default=80)
    parser.add_argument(
        "--peer-budget", type=float, default=60.0, help="seconds per peer and image size"
    )
    parser.add_argument("--budget", type=float, default=400.0, help="seconds for part options")
    parser.add_argument("--quick", action="store_true", help="sizes for a test of the script")
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmark"))
    bench = Bench(parser.parse_args(words))
    default = ON_GPU if bench.device.type == "cuda" else PARTS
    parts = (bench.options.parts or default).split(",")
    if unknown := set(parts) - {*PARTS.split(","), "options"}:
        parser.error(f"unknown parts: {', '.join(sorted(unknown))}. Choose from: {PARTS},options")
    keep_pages()
    facts = provenance.device_facts(bench.device) | provenance.versions()
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    print(f"{facts['device_name']}, {facts['threads']} threads, torch {facts['torch']}, {now}")
    print("\n| part | what | median | from, to |\n|---|---|---|---|", flush=True)
    try:
        with precision_of_products(bench.options.precision):
            measure_parts(bench, parts)
    finally:
        write(bench, facts, now)


def measure_parts(bench: Bench, parts: Sequence[str]) -> None:
    if {"ceiling", "share", "options"} & set(parts):
        began = time.perf_counter()
        peaks = ceiling(bench)
        if "options" in parts:
            measure_options(bench, peaks, bench.options.budget - (time.perf_counter() - began))
        if "share" in parts:
            share(bench, peaks[bench.options.precision].measure)
    other_parts: dict[str, Callable[[Bench], None]] = {
        "diversity": diversity,
        "quality": quality,
        "published": against_published,
        "growth": growth,
        "published_setting": published_setting,
        "peers": peers,
    }
    for name, work in other_parts.items():
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
