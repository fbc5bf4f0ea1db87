"""Part `options` of benchmark.py: whole layers with every option of a GPU, within a budget of time.

The defaults of both precisions come first, for all layers; what the budget does not hold is named.
Seconds are those of computing: from noise to final responses, without preparation and pictures. The
first run of a layer also sets libraries up, and is told apart.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from bench import Bench, Peak, operations_per_image
from torch import Tensor

from diversevis.config.compose import compose_config, experiment_of
from diversevis.method.device import Algorithms, Precision
from diversevis.method.result import Visualization
from diversevis.method.setup import Setup, prepare
from diversevis.method.visualize import visualize
from diversevis.runs import tensor_file

LONG = 6.0  # seconds after which a work is not repeated
REPEATS = 3


class Work(NamedTuple):
    """Units of a layer, and settings for options that need fewer steps to be compared."""

    words: tuple[str, ...]
    brief: tuple[str, ...] = ()


class Option(NamedTuple):
    name: str
    precision: Precision
    algorithms: Algorithms = "same"
    graphs: bool = True
    is_default: bool = False


WORKS = (
    Work(("model=vgg19", "layer=conv2_2", "unit=all")),
    Work(("model=vgg19", "layer=conv3_1", "unit=all")),
    Work(("model=resnet50", "layer=layer1.2", "unit=all")),
    # The weights in this repository's tests end at conv3_4.
    Work(("model=vgg19", "model.weights=random", "layer=conv5_4", "unit=0-15"),
         ("optimizer.steps=20", "optimizer.search_steps=12")),
)  # fmt: skip
QUICK = (Work(("model=vgg19", "model.weights=random", "layer=conv1_2", "unit=0-1",
               "optimizer.steps=6", "optimizer.search_steps=6", "objective.restarts=2"),
              ("optimizer.steps=4",)),)  # fmt: skip
OPTIONS = (
    Option("float32, as set", "float32", is_default=True),
    Option("tf32, as set", "tf32", is_default=True),
    Option("float32, no graphs", "float32", graphs=False),
    Option("tf32, no graphs", "tf32", graphs=False),
    Option("tf32, fastest algorithms", "tf32", "fastest"),
    Option("float32, fastest algorithms", "float32", "fastest"),
)


class Phases:
    """Progress of a batch of units: when its phases begin, and how many images all steps saw."""

    def __init__(self, bench: Bench) -> None:
        self._bench, self._began = bench, time.perf_counter()
        self.seconds, self._phase = {"noise": 0.0, "search": 0.0, "diverse": 0.0}, "noise"
        self.image_steps = 0

    def begin(self, phase: str) -> None:
        self._bench.wait()
        now = time.perf_counter()
        self.seconds[self._phase] += now - self._began
        self._phase, self._began = phase, now

    def step(
        self, step: int, rows: Sequence[int], images: Tensor, terms: dict[str, Tensor]
    ) -> None:
        self.image_steps += images.shape[0] * images.shape[1]


def measure_options(bench: Bench, peaks: dict[str, Peak], budget: float) -> None:
    """Add a row for every work with every option.

    budget  seconds; a work that took too long before is left out, and said so
    """
    end, took = time.perf_counter() + budget, dict[Work, float]()
    cuda = bench.device.type == "cuda"
    for option in OPTIONS:
        if not cuda and (option.precision != "float32" or option.algorithms != "same"):
            continue
        for work in QUICK if bench.options.quick else WORKS:
            what = f"{' '.join(work.words)}: {option.name}"
            began = time.perf_counter()
            if began + 1.2 * took.get(work, 0.0) > end:
                bench.rows.append({"part": "options", "what": what, "left_out": "no time left"})
                print(f"| options | {what} | left out: no time left | |", flush=True)
                continue
            try:
                _measure(bench, work, option, peaks, what)
            except (RuntimeError, NotImplementedError) as error:
                text = " ".join(str(error).split())[:300]
                bench.rows.append({"part": "options", "what": what, "failed": text})
                print(f"| options | {what} | failed: {text} | |", flush=True)
            took[work] = time.perf_counter() - began


def _measure(bench: Bench, work: Work, option: Option, peaks: dict[str, Peak], what: str) -> None:
    words = [*work.words, *(() if option.is_default else work.brief)]
    setup = _prepared(bench.options.device, tuple(words), option.precision)
    experiment = setup.experiment
    chosen = replace(experiment, algorithms=option.algorithms, cuda_graphs=option.graphs)
    setup, warnings = replace(setup, experiment=chosen), list[str]()
    if bench.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(bench.device)
    seconds: list[float] = []
    with _collecting(warnings):
        while len(seconds) <= REPEATS and (len(seconds) < 2 or sum(seconds) < LONG):
            results, phases = _run(bench, setup)
            seconds.append(sum(phases.seconds.values()))
            if sum(seconds) > 2 * LONG:
                break
    later = seconds[1:] or seconds
    operations = _operations(setup.network.name, setup.network.layer.name, *work.words[1:2])
    rate = phases.image_steps / statistics.median(later)
    bench.row(
        "options", what, later, "s", words=words, first_seconds=seconds[0], phases=phases.seconds,
        image_steps=phases.image_steps, image_steps_a_second=rate, batch=setup.batch,
        share_of_ceiling=100 * rate * operations / peaks[option.precision].rate,
        way=setup.way, response_mean=_mean(results, "response_mean"),
        distance_min=_mean(results, "distance_min"), images=_digest(results),
        memory=_memory(bench.device), checkpoint=_checkpoint(bench, setup), warnings=warnings,
    )  # fmt: skip
    share = bench.rows[-1]["share_of_ceiling"]
    print(f"| | ... {rate:.4g} image-steps/s, {share:.3g} % of the ceiling | | |", flush=True)


@functools.cache
def _prepared(device: str, words: tuple[str, ...], precision: str) -> Setup:
    config = compose_config([*words, f"device={device}", f"precision={precision}"])
    return prepare(experiment_of(config))


@functools.cache
def _operations(model: str, layer: str, word: str) -> float:
    extra = [word] if word.startswith("model.weights") else []
    return operations_per_image(model, layer, extra)


def _run(bench: Bench, setup: Setup) -> tuple[list[Visualization], Phases]:
    results: list[Visualization] = []
    bench.wait()
    phases = Phases(bench)
    for rows in setup.batches(range(len(setup.targets.units))):
        results += visualize(setup, rows, progress=phases)
        phases.begin("noise")
    return results, phases


@contextlib.contextmanager
def _collecting(messages: list[str]) -> Iterator[None]:
    """Take down what the program warns of, such as a step that could not be recorded."""
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    log = logging.getLogger("diversevis")
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


def _checkpoint(bench: Bench, setup: Setup) -> dict[str, float]:
    """Seconds that the state of a full batch takes to the bytes of a checkpoint, and its size."""
    units = len(setup.batches(range(len(setup.targets.units)))[0])
    shape = units, setup.experiment.n, *setup.image_shape
    state = {name: torch.randn(shape, device=bench.device) for name in ("raw", "velocity", "best")}
    seconds = []
    for _ in range(2):  # the first reserves pinned memory
        bench.wait()
        began = time.perf_counter()
        size = len(tensor_file.serialize(state, {}))
        seconds.append(time.perf_counter() - began)
    return {"first_seconds": seconds[0], "seconds": seconds[1], "bytes": size}


def _memory(device: torch.device) -> dict[str, int] | None:
    if device.type != "cuda":
        return None
    return {"allocated": torch.cuda.max_memory_allocated(device),
            "reserved": torch.cuda.max_memory_reserved(device)}  # fmt: skip


def _mean(results: Sequence[Visualization], name: str) -> float:
    return statistics.mean(result.metrics[name] for result in results)


def _digest(results: Sequence[Visualization]) -> str:
    """The same for two options whose images are equal to the bit."""
    digest = hashlib.sha256()
    for result in results:
        digest.update(result.images.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
