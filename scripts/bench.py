"""Parts of the benchmark: table rows, timing, the machine's ceiling, counts of operations."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from diversevis.config.compose import compose_config, experiment_of
from diversevis.experiment.workers import visualize_units
from diversevis.method.device import pick_device, precision
from diversevis.method.setup import Setup, prepare
from diversevis.models.cpu import FirstConvolution
from diversevis.models.load import load
from diversevis.models.network import OpenNetwork
from diversevis.models.receptive_field import unpad

# (Input channels, output channels, side of the input) of the 3 x 3 convolutions of conv3_1.
CONVOLUTIONS = ((64, 64, 22), (64, 128, 10), (128, 128, 8))
# Batch sizes to try for the ceiling; the fastest counts.
BATCHES = {"cpu": (64, 128, 256), "cuda": (256, 1024, 4096)}
ORDERS = {"cpu": (torch.channels_last,), "cuda": (torch.contiguous_format, torch.channels_last)}


class Peak(NamedTuple):
    """The best convolution in a precision: operations per second, and what measures it again."""

    rate: float
    measure: Callable[[], float]


class Bench:
    """Collects the rows of the table, and times work on a device."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.device = pick_device(options.device)
        self.rows: list[dict[str, Any]] = []
        self.overrides = [f"device={options.device}", f"precision={options.precision}"]

    def row(self, part: str, what: str, values: Sequence[float], unit: str, **more: Any) -> None:
        """Add and print a row of the table: median and range of `values`."""
        middle = statistics.median(values)
        self.rows.append(
            {"part": part, "what": what, "median": middle, "least": min(values),
             "most": max(values), "unit": unit, **more}
        )  # fmt: skip
        print(f"| {part} | {what} | {middle:.4g} {unit} | {min(values):.4g} to {max(values):.4g} |",
              flush=True)  # fmt: skip

    def setup(self, *overrides: str) -> Setup:
        return prepare(experiment_of(compose_config([*self.overrides, *overrides])))

    def seconds(self, work: Callable[[], Any]) -> float:
        """Seconds that `work` takes, until a GPU has really finished it."""
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


def convolution(
    bench: Bench, shape: tuple[int, int, int], batch: int, order: torch.memory_format
) -> Callable[[], float]:
    """Return a function that measures a 3 x 3 convolution, forward and backward to its input.

    The function returns floating-point operations per second.
    """
    inputs, outputs, side = shape
    x = torch.randn(batch, inputs, side, side, device=bench.device)
    weight = torch.randn(outputs, inputs, 3, 3, device=bench.device)
    x, weight = (t.contiguous(memory_format=order) for t in (x, weight))
    x.requires_grad_(True)
    upstream = torch.randn_like(functional.conv2d(x, weight))
    # Multiplications and additions (2), forward and backward (2).
    operations = 2 * 2 * batch * inputs * outputs * 9 * (side - 2) ** 2
    enough = {"cpu": 2e10, "cuda": 1e12}[bench.device.type]  # work for the clock
    calls = 1 if bench.options.quick else max(1, round(enough / operations))

    def work() -> None:
        for _ in range(calls):
            torch.autograd.grad(functional.conv2d(x, weight), x, upstream)

    work()  # warms up
    return lambda: calls * operations / bench.seconds(work)


def product(bench: Bench, side: int = 4096) -> Callable[[], float]:
    """Return a function that measures a matrix product, in operations per second."""
    a = torch.randn(side, side, device=bench.device)
    return lambda: 2 * side**3 / bench.seconds(lambda: a @ a)


@contextmanager
def precision_of_products(name: str) -> Iterator[None]:
    """Compute products in float32, tf32 or bf16 within the block."""
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


def ceiling(bench: Bench) -> dict[str, Peak]:
    """Add rows on what the machine can do; return its best convolution in each precision."""
    peaks: dict[str, Peak] = {}
    for name in ("float32", "tf32", "bf16") if bench.device.type == "cuda" else ("float32",):
        with precision_of_products(name):
            side = 256 if bench.options.quick else 4096
            measure = product(bench, side)
            rates = [measure() / 1e9 for _ in bench.repeats()]
            bench.row("ceiling", f"matrix product {side}, {name}", rates, "GFLOP/s")
            for shape in CONVOLUTIONS:
                rate, measure = _best_convolution(bench, shape, name)
                if name not in peaks or rate > peaks[name].rate:
                    peaks[name] = Peak(rate, measure)
    return peaks


def _best_convolution(bench: Bench, shape: tuple[int, int, int], name: str) -> Peak:
    """The best batch and order in memory for a shape, as a row."""
    kind, trials = bench.device.type, []
    for batch in (4,) if bench.options.quick else BATCHES[kind]:
        for order in ORDERS[kind]:
            measure = convolution(bench, shape, batch, order)
            rates = [measure() / 1e9 for _ in bench.repeats()]
            trials.append((rates, batch, order, measure))
    rates, batch, order, measure = max(trials, key=lambda trial: statistics.median(trial[0]))
    what = "convolution {} to {}, side {}".format(*shape)
    bench.row("ceiling", f"{what}, {name}", rates, "GFLOP/s", batch=batch, order=str(order))
    return Peak(1e9 * statistics.median(rates), measure)


def operations_per_image(model: str, layer: str, extra: Sequence[str] = ()) -> float:
    """Floating-point operations of an image in a step.

    Counts the convolutions of the unpadded, truncated network, forward and backward to the input.
    The target layer does not count: an image needs only a single filter of it.
    """
    overrides = [f"model={model}", f"layer={layer}", "unit=0", "device=cpu", *extra]
    setup = prepare(experiment_of(compose_config(overrides)))
    forward: list[float] = []

    def count(module: nn.Conv2d | FirstConvolution, _: Any, output: Tensor) -> None:
        forward.append(2.0 * output[0].numel() * module.weight[0].numel())

    for module in setup.readout.modules():
        if isinstance(module, (nn.Conv2d, FirstConvolution)):
            module.register_forward_hook(count)
    z = torch.zeros(1, 3, *setup.field.size)
    setup.readout(z, torch.tensor([0]))
    return 2 * sum(forward)


def whole_network(setup: Setup) -> nn.Module:
    """The truncated network with all channels of the target layer, as in a plain program."""
    opened = OpenNetwork(model=setup.experiment.model)
    network = load(opened, opened.layer(setup.network.layer.name))
    assert network.fast is not None  # noqa: S101
    return unpad(network.fast)


def seconds_per_step(bench: Bench, overrides: Sequence[str], units: int) -> float:
    """Seconds of a step of the joint optimization.

    A long run less a short run: the difference leaves out search and preparation.
    """
    few, many = 3, 13
    settings = [
        bench.setup(*overrides, f"unit=0-{units - 1}", "optimizer.search_steps=1",
                      "objective.restarts=1", f"optimizer.steps={steps}")
        for steps in (few, many)
    ]  # fmt: skip
    short, long = (bench.seconds(partial(_optimize, setup)) for setup in settings)
    return (long - short) / (many - few)


def _optimize(setup: Setup) -> None:
    for _ in visualize_units(setup):
        pass
