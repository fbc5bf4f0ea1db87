"""What the benchmark's parts are made of: rows, times, the machine's ceiling, operations."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from diversevis.config.compose import compose_config, experiment_of
from diversevis.experiment.batches import visualize_in_batches
from diversevis.method.device import pick_device, precision
from diversevis.method.setup import Setup, prepare
from diversevis.models.cpu import FirstConvolution
from diversevis.models.network import load, open_model
from diversevis.models.receptive_field import unpad

# Input and output channels and side of the input: the 3 x 3 convolutions of conv3_1's field.
CONVOLUTIONS = ((64, 64, 22), (64, 128, 10), (128, 128, 8))
BATCHES = {"cpu": (64, 128, 256), "cuda": (256, 1024, 4096)}


class Bench:
    """The rows so far, and how they are timed."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.device = pick_device(options.device)
        self.rows: list[dict[str, Any]] = []
        self.words = [f"device={options.device}", f"precision={options.precision}"]

    def row(self, part: str, what: str, values: Sequence[float], unit: str, **more: Any) -> None:
        """One line of the table: median and range of `values`."""
        middle = statistics.median(values)
        self.rows.append(
            {"part": part, "what": what, "median": middle, "least": min(values),
             "most": max(values), "unit": unit, **more}
        )  # fmt: skip
        print(f"| {part} | {what} | {middle:.4g} {unit} | {min(values):.4g} to {max(values):.4g} |",
              flush=True)  # fmt: skip

    def setup(self, *words: str) -> Setup:
        return prepare(experiment_of(compose_config([*self.words, *words])))

    def seconds(self, work: Callable[[], Any]) -> float:
        self.wait()
        began = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - began

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def repeats(self) -> Iterator[int]:
        yield from range(self.options.repeats)


def convolution(bench: Bench, shape: tuple[int, int, int], batch: int) -> Callable[[], float]:
    """Measures FLOP/s of a 3 x 3 convolution, forward and backward to its input."""
    inputs, outputs, side = shape
    x = torch.randn(batch, inputs, side, side, device=bench.device)
    weight = torch.randn(outputs, inputs, 3, 3, device=bench.device)
    if torch.backends.cudnn.allow_tf32 or bench.device.type == "cpu":  # as the program has it
        x, weight = (t.contiguous(memory_format=torch.channels_last) for t in (x, weight))
    x.requires_grad_(True)
    outer = torch.randn_like(functional.conv2d(x, weight))
    operations = 2 * 2 * batch * inputs * outputs * 9 * (side - 2) ** 2
    times = max(1, round(2e10 / operations))

    def once() -> None:
        for _ in range(times):
            torch.autograd.grad(functional.conv2d(x, weight), x, outer)

    once()
    return lambda: times * operations / bench.seconds(once)


def product(bench: Bench, side: int = 4096) -> Callable[[], float]:
    a = torch.randn(side, side, device=bench.device)
    return lambda: 2 * side**3 / bench.seconds(lambda: a @ a)


@contextmanager
def kind_of_numbers(name: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
    try:
        with precision("tf32" if name == "tf32" else "float32"):
            if name == "bf16":
                with torch.autocast("cuda", torch.bfloat16):
                    yield
            else:
                yield
    finally:
        torch.set_float32_matmul_precision(before)


def ceiling(bench: Bench) -> Callable[[], float]:
    """Rows on what the machine can do; returns a measurement of its best convolution, in FLOP/s."""
    best: tuple[float, Callable[[], float]] | None = None
    for name in ("float32", "tf32", "bf16") if bench.device.type == "cuda" else ("float32",):
        with kind_of_numbers(name):
            measure = product(bench)
            rates = [measure() / 1e9 for _ in bench.repeats()]
            bench.row("ceiling", f"matrix product 4096, {name}", rates, "GFLOP/s")
            for shape in CONVOLUTIONS:
                tried = []
                for batch in BATCHES[bench.device.type]:
                    each = convolution(bench, shape, batch)
                    tried.append(([each() / 1e9 for _ in bench.repeats()], batch, each))
                rates, batch, each = max(tried, key=lambda one: statistics.median(one[0]))
                what = "convolution {} to {}, side {}".format(*shape)
                bench.row("ceiling", f"{what}, {name}", rates, "GFLOP/s", batch=batch)
                middle = statistics.median(rates)
                if name == bench.options.precision and (best is None or middle > best[0]):
                    best = middle, each
    assert best is not None  # noqa: S101
    return best[1]


def operations_per_image(model: str, layer: str, more: Sequence[str] = ()) -> float:
    """Of the unpadded, truncated network's convolutions, forward and backward to the input; of the
    target layer nothing is counted, since an image meets only one of its filters."""
    words = [f"model={model}", f"layer={layer}", "unit=0", "device=cpu", *more]
    setup = prepare(experiment_of(compose_config(words)))
    found: list[float] = []

    def count(module: nn.Conv2d | FirstConvolution, _: Any, output: Tensor) -> None:
        found.append(2.0 * output[0].numel() * module.weight[0].numel())

    for module in setup.readout.modules():
        if isinstance(module, (nn.Conv2d, FirstConvolution)):
            module.register_forward_hook(count)
    z = torch.zeros(1, 3, *setup.field.size)
    setup.readout(z, torch.tensor([0]))
    return 2 * sum(found)


def whole_network(setup: Setup) -> nn.Module:
    """The truncated network with every channel of the target, as a plain program has it."""
    traced = open_model(setup.experiment.model)
    layer = traced.layer(str(setup.experiment.layer))
    return unpad(load(setup.experiment.model, traced, layer).module)


def seconds_per_step(bench: Bench, words: Sequence[str], units: int) -> float:
    """Of the diverse optimization as it runs, by the difference of a long and a short run."""
    few, many = 3, 13
    settings = [
        bench.setup(*words, f"unit=0-{units - 1}", "optimizer.search_steps=1",
                      "objective.restarts=1", f"optimizer.steps={steps}")
        for steps in (few, many)
    ]  # fmt: skip
    short, long = (bench.seconds(partial(_exhaust, setup, range(units))) for setup in settings)
    return (long - short) / (many - few)


def _exhaust(setup: Setup, rows: Sequence[int]) -> None:
    for _ in visualize_in_batches(setup, rows):
        pass
