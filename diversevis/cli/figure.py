"""`diversevis figure`: a figure of a run for a paper."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from diversevis.cli.run_folder import open_given, unit_given, units_of
from diversevis.compare.runs import Run
from diversevis.config.arguments import folders_and_settings, named_folder, without_dashes
from diversevis.errors import InputError, plain, suggest
from diversevis.measures.catalogue import OF_PHOTOGRAPHS
from diversevis.pictures.figure import KINDS, LAYER, OF_IMAGES, OF_UNIT, content_of, kinds_of
from diversevis.pictures.paper import WIDTHS, saved
from diversevis.runs.files import Damaged, replacing
from diversevis.runs.folder import RunFolder
from diversevis.runs.tensors import check_arrays
from diversevis.units import units_text

FORMATS = "pdf", "svg", "png"
DEFAULTS = {"unit": "", "kind": "", "columns": "1", "format": "", "out": ""}
EXAMPLE = (
    "Example: `diversevis figure outputs/vgg19/conv3_1/21/v001 kind=phase`; see "
    "`diversevis figure --help`."
)
LONGEST_NAME = 150  # characters of a file's name, without its ending


def figure_command(arguments: Sequence[str]) -> None:
    """`diversevis figure RUN kind=KIND [unit=21] [columns=1] [format=pdf] [out=FILE]`: write a
    figure, say on stderr what belongs in its caption, and print its path.

    Raises `InputError` for unknown arguments, and for a figure that the run has no data for.
    """
    folders, settings = folders_and_settings(without_dashes(arguments, DEFAULTS), DEFAULTS)
    if len(folders) != 1:
        raise InputError(f"figure needs one run folder, and was given {len(folders)}. {EXAMPLE}")
    if settings["columns"] not in map(str, WIDTHS):
        raise InputError(
            f"columns={settings['columns']}: a figure stands over 1 column of a page (85 mm) or "
            "2 columns (180 mm)."
        )
    ending, out = _format(settings["format"], settings["out"])
    run = open_given(folders[0], "diversevis figure", EXAMPLE)
    columns, folder = int(settings["columns"]), RunFolder(run.path)
    kind = _kind(run, kinds_of(folder) if run.units else [], settings["kind"])
    unit = _unit(run, kind, settings["unit"])
    path = out / _name(run, kind, unit, columns, ending) if out.is_dir() else out
    mark = _mark(run, kind, unit, columns)
    _check_path(path, mark)
    try:
        check_arrays(run.path, run.measures)
        content = content_of(folder, kind, unit)
    except Damaged as reason:
        raise InputError(f"{run.path} is damaged: {reason}.") from reason
    except FileNotFoundError as reason:
        raise InputError(
            f"{run.path} is damaged: a file of kind={kind} is missing. `diversevis analyze "
            f"{shlex.quote(str(run.path))}` makes the files of measures anew."
        ) from reason
    figure = saved(content.panels, columns, ending, plain(content.title), mark)
    with replacing(path) as beside:
        beside.write_bytes(figure)
    for line in (f"For the caption: {content.title}", *content.lines):
        print(plain(line), file=sys.stderr)
    print(path)


def _format(wanted: str, out: str) -> tuple[str, Path]:
    """The file's ending, and the file or folder that is written to."""
    if wanted and wanted not in FORMATS:
        raise InputError(f"format={wanted}: choose from {', '.join(FORMATS)}.")
    if not out:
        return wanted or FORMATS[0], Path()
    path = named_folder(out)
    if path.is_dir():
        return wanted or FORMATS[0], path
    ending = path.suffix.lower().removeprefix(".")
    if ending not in FORMATS or (wanted and wanted != ending):
        endings = ", ".join(f".{name}" for name in ([wanted] if wanted else FORMATS))
        raise InputError(
            f"out={out} is no folder, and as a file it must end in {endings}: the ending says in "
            "which format it is written."
        )
    if not path.parent.is_dir():
        raise InputError(
            f"out={out}: there is no folder {path.parent}. Make it, or choose another."
        )
    return ending, path


def _kind(run: Run, has: Sequence[str], kind: str) -> str:
    """The kind of figure; raises `InputError` where the run lacks what it shows."""
    can = f"{run.path} has: {', '.join(has)}" if has else f"{run.path} has nothing to show yet"
    if not kind:
        raise InputError(f"Say what the figure shows: kind=KIND. {can}. {EXAMPLE}")
    if kind not in KINDS:
        raise InputError(f"kind={kind}: there is no such figure. {suggest(kind, KINDS)} {can}.")
    if kind in has:
        return kind
    if kind == LAYER:
        raise InputError(f"kind=layer needs a run of several units with measures. {can}.")
    if kind == "front":
        raise InputError(
            f"kind=front: no front was traced. {can}. `diversevis run objective=path ...` traces "
            "a front."
        )
    if kind in OF_IMAGES:
        raise InputError(
            f"kind={kind}: the run has no images. {can}. `diversevis run` makes images."
        )
    quoted = shlex.quote(str(run.path))
    photographs = " natural=FOLDER" if kind in OF_PHOTOGRAPHS else ""
    raise InputError(
        f"kind={kind}: it was not measured. {can}. To measure it: `diversevis analyze {quoted} "
        f"analysis={kind}{photographs}`."
    )


def _unit(run: Run, kind: str, text: str) -> int | None:
    """The unit that is shown; None for all units of the run."""
    if kind == LAYER:
        if text:
            raise InputError(f"kind=layer shows all units of a run: leave out unit={text}.")
        return None
    unit = unit_given(run, text)
    if unit is None and kind in OF_UNIT:
        raise InputError(f"kind={kind} shows a unit: add unit=NUMBER. {units_of(run)}.")
    return None if unit is None else int(unit["unit"])


def _name(run: Run, kind: str, unit: int | None, columns: int, ending: str) -> str:
    """`vgg19_conv3_1_unit21_phase_1column.pdf`."""
    noun = "direction" if run.record["direction"] else "unit"
    units = [entry["unit"] for entry in run.units]
    shown = f"{noun}s{units_text(units)}" if unit is None else f"{noun}{unit}"
    width = f"{columns}column" + ("" if columns == 1 else "s")
    of = f"{run.record['model']}_{run.record['layer']}"[: LONGEST_NAME - 70]
    name = re.sub(r"[^A-Za-z0-9._,-]", "_", f"{of}_{shown}_{kind}_{width}").lstrip(".-")
    return f"{name}.{ending}"


def _mark(run: Run, kind: str, unit: int | None, columns: int) -> str:
    """What the file says of itself, where it is not seen: the same for the same figure only."""
    record: Mapping[str, object] = run.record
    facts = [record.get("config_hash"), record.get("start"), kind, unit, columns]
    return f"diversevis-figure-{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]}"


def _check_path(path: Path, mark: str) -> None:
    """Raises `InputError` where there is a file other than an earlier version of the figure."""
    if path.is_dir():
        raise InputError(f"{path} is a folder: choose a file, out=FILE.")
    if path.exists() and mark.encode() not in path.read_bytes():
        raise InputError(
            f"{path} exists, and is not this figure of this run: it stays as it is. Choose another "
            "file, out=FILE, or remove it."
        )
