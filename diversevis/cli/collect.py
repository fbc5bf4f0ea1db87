"""`diversevis collect`: what is typed, where the files go, and what is said about them."""

from __future__ import annotations

import csv
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from diversevis.config.arguments import folders_and_settings, named_folder
from diversevis.errors import InputError
from diversevis.runs.files import replacing
from diversevis.table.table import Collected, check_libraries, collect_runs, one_line

NAMED = 20  # damaged runs that are named on stderr; left_out.csv names all
FILES = "table.parquet", "table.csv", "left_out.csv"
UNFINISHED = "running", "interrupted", "failed", "lost"


def collect_command(arguments: Sequence[str]) -> None:
    """`diversevis collect ROOT [out=FOLDER]`: what is in the table, and the path of its file.

    Raises `InputError` for words it does not know, and where there is no run.
    """
    root, out = _parse(arguments)
    check_libraries()
    found = collect_runs(root)
    if out != root:
        _make(out)
    write(found, out)
    _say(found, out)
    print(out / FILES[0])


def write(found: Collected, out: Path) -> None:
    """The table as Parquet and CSV, and what was left out; all three are there, or none is new."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv
    from pyarrow import parquet

    paths = [out / name for name in FILES]
    with replacing(paths[0]) as whole, replacing(paths[1]) as plain, replacing(paths[2]) as rest:
        words = [one.name for one in found.table.schema if one.type == pa.string()]
        parquet.write_table(found.table, whole, compression="zstd", use_dictionary=words)
        arrow_csv.write_csv(found.table, plain)
        with rest.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerows([("folder", "reason"), *found.left_out])


def _say(found: Collected, out: Path) -> None:
    """A summary on stdout, damaged runs on stderr."""
    damaged = [(folder, reason) for folder, reason in found.left_out if reason not in UNFINISHED]
    for folder, reason in damaged[:NAMED]:
        print(f"diversevis: {one_line(folder)}: {reason}", file=sys.stderr)
    if len(damaged) > NAMED:
        more = len(damaged) - NAMED
        print(f"diversevis: and {more} more: {out / FILES[2]} names all", file=sys.stderr)
    models = Counter(model for model, _ in found.layers)
    layers = "; ".join(f"{model}: {_count(number, 'layer')}" for model, number in models.items())
    rows, columns = _count(found.table.num_rows, "unit"), _count(found.table.num_columns, "column")
    print(f"{rows} of {_count(found.runs, 'run')}, {columns}" + (f" ({layers})" if layers else ""))
    counts = Counter(reason for _, reason in found.left_out if reason in UNFINISHED)
    parts = [f"{counts[status]} {status}" for status in UNFINISHED if counts[status]]
    parts += [f"{len(damaged)} damaged"] if damaged else []
    if parts:
        print(f"left out: {', '.join(parts)}")


def _parse(arguments: Sequence[str]) -> tuple[Path, Path]:
    folders, settings = folders_and_settings(arguments, {"out": ""})
    if len(folders) != 1:
        raise InputError(
            f"collect needs one folder, above the runs, and was given {len(folders)}, as in "
            "`diversevis collect outputs`; `diversevis collect --help` tells more."
        )
    return folders[0], named_folder(settings["out"]) if settings["out"] else folders[0]


def _make(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"out={out}: the folder cannot be made ({error.strerror}). Choose one that can be "
            "written, out=/some/where."
        ) from error


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
