"""Times the measures of a finished run of a layer, and counts images that go through the network.

    DIVERSEVIS_WEIGHTS=weights python scripts/benchmark_measures.py RUN [measure.shift.steps=80 ...]
        [--units 24] [--threads 1] [--measures shift,natural] [--photographs FOLDER]

Prints a row for every measure: processor seconds, images with and without gradient for a unit,
those shown to all units, and the share of the time (percent) that plain passes of as many images
take. With `--against measure.shift.steps=40,measure.shift.crops=32` also the ratios of the shift
indices of these settings to those of the typed settings, in the same run. Gains are made by the
run's optimizer and not counted. docs/measures.md has results.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from diversevis.cli.analyze import FREE, config_of
from diversevis.config.bind import bind
from diversevis.config.compose import compose_config, plain
from diversevis.experiment.subject import subject_of_folder
from diversevis.measures.catalogue import measure
from diversevis.measures.subject import Measured, RespondOwn, Subject
from diversevis.method.device import keep_pages, precision
from diversevis.method.settings import Experiment
from diversevis.method.setup import prepare
from diversevis.photographs.crops import Respond
from diversevis.runs.folder import RunFolder

SEVEN = "gain,phase,shift,deformation,diversity,dimension,natural"


class Counted:
    """A subject whose network is watched: images forward, with gradient, and shown to all units."""

    def __init__(self, subject: Subject) -> None:
        self.forward = self.gradients = self.to_all = 0
        self.subject = replace(subject, respond=self._respond, respond_all=self._respond_all)
        self.plain = subject

    def _respond(self, rows: Sequence[int], batch: int) -> RespondOwn:
        respond = self.plain.respond(rows, batch)

        def counted(x: torch.Tensor) -> torch.Tensor:
            count = x.shape[0] * x.shape[1]
            if x.requires_grad and torch.is_grad_enabled():
                self.gradients += count
            else:
                self.forward += count
            return respond(x)

        return counted

    def _respond_all(self, batch: int) -> Respond:
        respond = self.plain.respond_all(batch)

        def counted(x: torch.Tensor) -> torch.Tensor:
            self.to_all += len(x)
            return respond(x)

        return counted


def subject_of(run: Path, words: Sequence[str], units: int | None) -> Subject:
    config = plain(compose_config([*words, "analysis=all"]))
    made = config_of(run, "all")
    free = {key: config[key] for key in FREE if key != "natural" or config[key] is not None}
    experiment = bind(Experiment, {**made, **free, "seeds": 1}, "")
    subject = subject_of_folder(prepare(experiment), RunFolder(run))
    return subject.take(range(min(units or len(subject.rows), len(subject.rows))))


def plain_seconds(subject: Subject, gradient: bool) -> float:
    """Processor seconds of an image of a plain pass in full batches."""
    rows = range(len(subject.rows))
    count = max(1, subject.batch // len(rows))
    respond = subject.respond_own()
    x = torch.randn(len(rows), count, *subject.image_shape, requires_grad=gradient)
    seconds = []
    for _ in range(5):
        began = time.process_time()
        with torch.set_grad_enabled(gradient):
            responses = respond(x)
        if gradient:
            torch.autograd.grad(responses.sum(), x)
        seconds.append(time.process_time() - began)
    return statistics.median(seconds) / (len(rows) * count)


def timed(subject: Subject, name: str) -> Measured:
    """The measure, after a row of the table."""
    watched = Counted(subject)
    began = time.process_time()
    measured = measure(watched.subject, name)
    seconds = time.process_time() - began
    forward, gradient = (plain_seconds(subject, kind) for kind in (False, True))
    passes = watched.forward * forward + watched.gradients * gradient
    units = len(subject.rows)
    share = f"{100 * passes / seconds:.0f}" if passes else "-"
    print(
        f"| {name} | {seconds:.2f} | {seconds / units:.3f} | {watched.gradients / units:.0f} "
        f"| {watched.forward / units:.0f} | {watched.to_all} | {share} |",
        flush=True,
    )
    return measured


def compare(name: str, ours: Measured, theirs: Measured) -> None:
    """Ratios of the shift indices: median over units, and ratio of the means."""
    for kind in ("fixed", "learned"):
        for key in ("mean", "min"):
            values = [
                torch.tensor([(unit[kind] if kind == "learned" else unit)[key] for unit in units])
                for units in ([u for u in m.numbers if u is not None] for m in (theirs, ours))
            ]
            ratio = (values[0] / values[1]).median().item()
            of_means = (values[0].mean() / values[1].mean()).item()
            print(f"| {name} | {kind} {key} | {ratio:.4f} | {of_means:.4f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("run", type=Path)
    parser.add_argument("words", nargs="*", help="settings, such as measure.shift.steps=80")
    parser.add_argument("--units", type=int)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--measures", default=SEVEN)
    parser.add_argument("--photographs")
    parser.add_argument("--against", help="settings of shift to compare, separated by commas")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_pages()
    words = [*options.words, *([f"natural={options.photographs}"] if options.photographs else [])]
    subject = subject_of(options.run, words, options.units)
    print("| measure | seconds | a unit | gradients a unit | forward a unit | to all | share |")
    print("|---|---|---|---|---|---|---|")
    with precision("float32"):
        measured = {name: timed(subject, name) for name in options.measures.split(",")}
        if options.against:
            words = [*words, *options.against.split(",")]
            other = timed(subject_of(options.run, words, options.units), "shift")
            compare(options.against, measured["shift"], other)


if __name__ == "__main__":
    main()
