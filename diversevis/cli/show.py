"""`diversevis show`: what a run says about its units, or about a unit and its layer."""

from __future__ import annotations

import json
import shlex
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from diversevis.cli.run_folder import open_given, unit_given
from diversevis.cli.status import aligned
from diversevis.cli.summary import full_table
from diversevis.compare.answers import number, percent, rank_of
from diversevis.compare.ranks import FEWEST
from diversevis.compare.report import measured_indices, table_report, unit_report
from diversevis.compare.runs import Run
from diversevis.compare.words import (
    ERROR,
    STATES,
    how_made,
    lacking,
    noun_of,
    seeds_text,
    unfinished,
    value_text,
    word_text,
)
from diversevis.config.arguments import folders_and_settings
from diversevis.errors import InputError, plain
from diversevis.units import counted

WIDTH = 80  # characters of a line, but for paths and commands
EXAMPLE = "Example: `diversevis show outputs/vgg19/conv3_1/21/v001`; see `diversevis show --help`."
Report = Mapping[str, Any]


def show_command(arguments: Sequence[str]) -> None:
    """`diversevis show RUN [unit=21] [--json]`: print a table of a run's units, or a unit.

    Raises `InputError` for unknown arguments, units, and for what is no run folder.
    """
    as_json = "--json" in arguments
    words = [word for word in arguments if word != "--json"]
    folders, settings = folders_and_settings(words, {"unit": ""})
    if len(folders) != 1:
        raise InputError(
            f"show needs one run folder, and was given {len(folders)}. {EXAMPLE} To compare runs: "
            "`diversevis compare A B`."
        )
    run = open_given(folders[0], "diversevis show", EXAMPLE)
    unit = unit_given(run, settings["unit"])
    report = table_report(run) if unit is None else unit_report(run, unit)
    if as_json:
        print(json.dumps(report, indent=2, allow_nan=False))
        return
    for line in _of_run(run, report) if unit is None else _of_unit(run, report):
        print(plain(line))


# -- all units of a run ---------------------------------------------------------------------------


def _of_run(run: Run, report: Report) -> Iterator[str]:
    count = len(report["units"])
    rows = counted(count, "photograph" if report["references"] else "unit")
    yield f"{report['model']} {report['layer']}, {rows}{how_made(report)}"
    yield str(run.path)
    yield from _state(run)
    if not count:
        return
    yield ""
    yield from full_table(report)
    yield ""
    if report["n"] is not None:
        noise = f"{2**0.5 * report['contrast']:.0f}"
        if report["references"]:
            yield from _explained("error", "mean relative error of the match")
        else:
            yield from _explained("response", "mean response / best response to a single image")
        what = "smallest distance of two images, RMS grey levels; images of noise"
        yield from _explained("distance", f"{what}: {noise}")
    by_key = {index.key: index for index in measured_indices(run)}
    for key in report["indices"]:
        yield from _explained(key.partition(".")[0], by_key[key].meaning)
    yield from _unmeasured(run, report)
    first = f"diversevis show {_quoted(run)} unit={report['units'][0]['unit']}"
    in_full = "A photograph" if report["references"] else "A unit"
    rank = "" if report["references"] else ", and its rank in its layer"
    yield f"{in_full} in full{rank}: {first}"


def _explained(name: str, meaning: str) -> Iterator[str]:
    yield from textwrap.wrap(
        meaning, WIDTH, initial_indent=f"{name:13}", subsequent_indent=" " * 13
    )


# -- a unit in full -------------------------------------------------------------------------------


def _of_unit(run: Run, report: Report) -> Iterator[str]:
    name = f"{noun_of(report)} {report['unit']}"
    of = f" of {report['direction']}" if report["direction"] else ""
    if report["references"]:
        of = f" ({report['references'][report['unit']]}), metamers"
    yield f"{report['model']} {report['layer']} {name}{of}{how_made(report)}"
    yield str(run.path)
    yield from _state(run)
    yield ""
    if report["state"] == "dead":
        yield STATES["dead"]
        return
    yield from _images(report)
    if report["indices"]:
        yield ""
        yield from _indices(report)
        yield ""
        yield from _layer(report)
    yield from _unmeasured(run, report)
    if report["pictures"]:
        yield from ("", "Pictures", *(f"  {path}" for path in report["pictures"]))
    if report["answers"]:
        yield from ("", f"Is {name} invariant?")
        width = max(map(len, report["answers"])) + 4
        for name, sentence in report["answers"].items():
            yield from textwrap.wrap(
                sentence, WIDTH, initial_indent=f"  {name:{width - 2}}",
                subsequent_indent=" " * width, break_on_hyphens=False,
            )  # fmt: skip


def _images(report: Report) -> Iterator[str]:
    """Response, distances, and the best grating."""
    response, distance, grating = report["response"], report["distance"], report["grating"]
    if report["state"] == "diverged":
        yield STATES["diverged"]
    if report["n"] is not None:
        means = f"mean {number(response['mean'], 4)}, best {number(response['best'], 4)}"
        if response["error"] is not None:
            means = f"relative error of the match {percent(response['error'])}, on average"
        elif response["of_best"] is not None:
            share = f"{percent(response['of_best'])} of the best response to a single image"
            means = f"{share} ({means})"
        yield f"response   {means}"
    if distance["min"] is not None:
        what = f"smallest {number(distance['min'])}, mean {number(distance['mean'])}"
        noise = f"images of noise are {distance['of_noise']:.0f} apart"
        yield f"distance   {what} RMS grey levels ({noise})"
    if grating and grating["frequency"] is not None:
        share = "" if grating["of_best"] is None else f", {percent(grating['of_best'])} of the best"
        yield from textwrap.wrap(
            f"grating    best at {number(grating['frequency'])} cycles/px, "
            f"{number(grating['orientation'])}° (wave vector), {grating['color']}: "
            f"response {number(grating['response'], 4)}{share}",
            WIDTH, subsequent_indent=" " * 11,
        )  # fmt: skip


def _indices(report: Report) -> Iterator[str]:
    """A line for every index, and its meaning below the last index that has this meaning."""
    indices = report["indices"]
    ranks = [rank_of(index, "units") for index in indices]
    head = f"among other units of {report['layer']}" if any(ranks) else ""
    rows = [("index", "value", "", head)]
    for index, rank in zip(indices, ranks, strict=True):
        among = rank or ("-" if head else "")
        rows.append((index["title"], value_text(index), word_text(index), among))
    head, *lines = aligned(rows, right=())
    yield head
    for line, (index, following) in zip(lines, pairwise([*indices, None]), strict=True):
        yield line
        if following is None or following["meaning"] != index["meaning"]:
            yield from textwrap.wrap(
                index["meaning"], WIDTH, initial_indent="    ", subsequent_indent="    "
            )
        if spread := seeds_text(index):
            yield f"    {spread}"
    if any(index["error"] is not None for index in indices):
        yield ERROR


def _layer(report: Report) -> Iterator[str]:
    """Which other units were compared, and which runs were left out."""
    others, layer = report["others"], report["layer"]
    ranked = [
        index["rank"]["percentile"] is not None for index in report["indices"] if index["rank"]
    ]
    if any(ranked):
        units, runs = counted(others["units"], "other unit"), counted(others["runs"], "run")
        yield f"Compared with {units} of {layer}, from {runs}."
        if not all(ranked):
            yield f"-: measured in fewer than {FEWEST} other units."
    else:
        yield from textwrap.wrap(
            f"No ranks: they need {FEWEST} other units of {layer} that were measured with the same "
            f"settings; beside this run, there {'is' if others['units'] == 1 else 'are'} "
            f"{others['units'] or 'none'}. To have more, run more of the layer, as in unit=0-31.",
            WIDTH,
        )  # fmt: skip
    if others["left_out"]:
        reasons = (f"{count} {reason}" for reason, count in others["left_out"].items())
        yield from textwrap.wrap(f"Runs of the layer left out: {'; '.join(reasons)}.", WIDTH)


# -- both -----------------------------------------------------------------------------------------


def _state(run: Run) -> Iterator[str]:
    """Where the run is not finished: what that means for the numbers."""
    if sentence := unfinished(run):
        yield sentence


def _unmeasured(run: Run, report: Report) -> Iterator[str]:
    """What was not measured, and the command that measures it."""
    unmeasured = [] if report["references"] else lacking(report)
    command = f"diversevis analyze {_quoted(run)}"
    if not report["measures"]:
        yield ""
        of_metamers = "how random weights compare"
        what = of_metamers if report["references"] else "how invariant it is"
        yield f"No measures were taken: {what} cannot be said. To measure: {command}"
    elif unmeasured and report["n"] is not None:
        yield f"Not measured: {', '.join(unmeasured)}. To measure:"
        yield f"  {command} 'analysis=[{','.join(unmeasured)}]'"
    for name, reason in report["not_measured"].items():
        yield f"{name}: not measured. {reason}"


def _quoted(run: Run) -> str:
    return shlex.quote(str(run.path))
