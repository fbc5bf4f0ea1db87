"""A result as a notebook shows it: HTML with sheets, indices, and the call or command behind it.

All text is escaped: names, folders and commands of a run may be from somebody else. No colour is
set for text, so that it can be read in light and in dark notebooks.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import numpy as np

from diversevis.compare.layer import Unit
from diversevis.compare.report import measured_indices, run_facts, table_report, unit_facts
from diversevis.compare.runs import Run
from diversevis.compare.words import (
    ERROR,
    STATES,
    columns_of_images,
    how_made,
    lacking,
    noun_of,
    seeds_text,
    table_rows,
    unfinished,
    value_text,
    word_text,
)
from diversevis.errors import printable
from diversevis.units import counted

if TYPE_CHECKING:
    from diversevis.interface.visualized import Visualized

SHEETS = 3  # units that are shown with their images
LARGE = 2**18  # values of a unit's images (6 of 120 x 120 px): of larger ones, one unit is shown
ROWS = 64  # further units, in a table
SCROLLED = "max-height:20em;overflow:auto;margin-bottom:1em"
Report = Mapping[str, Any]


def as_html(result: Visualized) -> str:
    """The result in HTML. Never raises: a part that cannot be shown is a sentence that says so."""
    run = Run(
        path=result.path or Path(),  # of a module in memory; nothing is read there
        record=result.record,
        measures={name: {"settings": settings} for name, settings in result.settings.items()},
        units=result.metrics,
    )
    shown = SHEETS if result.images.shape[1:].numel() <= LARGE else 1
    units = [
        _part(f"Unit {unit.get('unit')}", _unit, result, run, unit) for unit in run.units[:shown]
    ]
    parts = [
        _part("The head", _head, run),
        *units,
        _part("The table of further units", _others, run, shown),
        _part("What was not measured", _unmeasured, result, run),
        _part("The command", _command, result),
    ]
    return f"<div>{''.join(parts)}</div>"


def _part(what: str, html: Callable[..., str], *given: Any) -> str:
    try:
        return html(*given)
    except Exception as error:
        return _paragraph(f"{what} cannot be shown ({type(error).__name__}: {error}).")


def _head(run: Run) -> str:
    report = run_facts(run)
    units = counted(len(run.units), noun_of(report))
    if report["direction"] and not report["references"]:
        units += f" of {report['direction']}"
    name = f"{report['model']} {report['layer']}"
    head = f"<p><b>{_text(name)}</b>, {_text(units + how_made(report))}</p>"
    sentence = unfinished(run)
    return head + (_paragraph(sentence) if sentence else "")


# -- a unit ---------------------------------------------------------------------------------------


def _unit(result: Visualized, run: Run, unit: Unit) -> str:
    report = unit_facts(run, unit, measured_indices(run), None)
    name = f"{noun_of(report)} {report['unit']}"
    parts = [_part(f"The sheet of {name}", _sheet, result, report, name)]
    if report["state"]:
        parts.append(_paragraph(f"{name}: {STATES[report['state']]}"))
    if report["indices"] and report["state"] != "dead":
        parts.append(_indices(report["indices"], name))
    return "".join(parts)


def _sheet(result: Visualized, report: Report, name: str) -> str:
    from diversevis.pictures.page import png

    content = base64.b64encode(png(np.asarray(result.sheet(report["unit"])))).decode()
    told = [f"images of {report['model']} {report['layer']} {name}"]
    told += [report["state"]] if report["state"] else []
    told += [f"{index['title']} {value_text(index)}" for index in report["indices"]]
    return (
        f'<img alt="{_text("; ".join(told))}" style="max-width:100%;background:#ffffff" '
        f'src="data:image/png;base64,{content}">'
    )


def _indices(indices: Sequence[Report], name: str) -> str:
    """A row for every index; a meaning that several in a row share stands at the first of them."""
    rows, above = [_row([f"index of {name}", "value", "", "meaning"], "th")], ""
    for index in indices:
        meaning, spread = index["meaning"], seeds_text(index)
        explained = [*([meaning] if meaning != above else []), *([spread] if spread else [])]
        rows.append(
            _row([index["title"], value_text(index), word_text(index), "; ".join(explained)])
        )
        above = meaning
    note = any(index["error"] is not None for index in indices)
    return _table(rows) + (_paragraph(ERROR) if note else "")


# -- the whole result -----------------------------------------------------------------------------


def _others(run: Run, shown: int) -> str:
    """A row for every further unit, and how to see more of it."""
    report = table_report(run)
    units = report["units"][shown:]
    if not units:
        return ""
    head, *rows = table_rows(units[:ROWS], [*columns_of_images(report), *report["indices"]])
    listed = _table([_row(head, "th"), *map(_row, rows)])
    more = f"; {len(units) - ROWS} of them are not in this table" if units[ROWS:] else ""
    said = (
        f"{counted(len(units), 'further unit')}{more}. .sheet({units[0]['unit']}) shows the images "
        "of one, .metrics has all numbers."
    )
    return f'{_paragraph(said)}<div tabindex="0" style="{SCROLLED}">{listed}</div>'


def _unmeasured(result: Visualized, run: Run) -> str:
    """What would be measured by which `analysis`, and what could not be measured."""
    report = run_facts(run)
    parts, names = [], lacking(report)
    if names:
        if result.path is None:
            how = f"analysis={names}"
        else:
            how = f"diversevis analyze {quote(str(result.path))} 'analysis=[{','.join(names)}]'"
        said = (
            "" if run.measures else "No measures were taken: how invariant it is cannot be said. "
        )
        parts.append(f"<p>{said}Not measured: {', '.join(names)}. To measure: {_code(how)}</p>")
    for name, reason in report["not_measured"].items():
        parts.append(_paragraph(f"{name}: not measured. {reason}"))
    return "".join(parts)


def _command(result: Visualized) -> str:
    where = "" if result.path is None else f" in {_code(str(result.path))}"
    return f"<p>Made by {_code(result.record['command'])}{where}</p>"


# -- HTML -----------------------------------------------------------------------------------------


def _text(text: object) -> str:
    return escape(printable(text), quote=True)


def _paragraph(text: str) -> str:
    return f"<p>{_text(text)}</p>"


def _code(text: object) -> str:
    return f"<code>{_text(text)}</code>"


def _table(rows: Sequence[str]) -> str:
    return f"<table>{''.join(rows)}</table>"


def _row(cells: Sequence[str], tag: str = "td") -> str:
    """A row, in which only the last cell may break into lines."""
    looks = ["text-align:left;white-space:nowrap"] * (len(cells) - 1) + ["text-align:left"]
    pairs = zip(cells, looks, strict=True)
    inner = "".join(f'<{tag} style="{look}">{_text(cell)}</{tag}>' for cell, look in pairs)
    return f"<tr>{inner}</tr>"
