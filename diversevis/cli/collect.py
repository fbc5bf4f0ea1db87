"""`diversevis collect`: its arguments, its files, and its summary."""

from __future__ import annotations

import csv
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diversevis.config.arguments import folders_and_settings, named_folder
from diversevis.errors import InputError, plain, printable
from diversevis.runs.files import replacing
from diversevis.runs.states import DAMAGED, LOST
from diversevis.table.table import collect_runs
from diversevis.units import counted

if TYPE_CHECKING:
    import pyarrow as pa

LeftOut = Sequence[tuple[str, str]]  # folders with the reason

MOST_NAMED = 20  # damaged runs that are named on stderr; left_out.csv names all
FILES = "table.parquet", "table.csv", "left_out.csv"
LEFT_OUT = "running", "interrupted", "failed", LOST  # the other reasons are kinds of damage


def collect_command(arguments: Sequence[str]) -> None:
    """`diversevis collect ROOT [out=FOLDER]`: writes the table, prints a summary and its path.

    Raises `InputError` for unknown arguments, and where there is no run.
    """
    folders, settings = folders_and_settings(arguments, {"out": ""})
    if len(folders) != 1:
        raise InputError(
            f"collect needs one folder, above the runs, and was given {len(folders)}. Example: "
            "`diversevis collect outputs`; see `diversevis collect --help`."
        )
    out = named_folder(settings["out"]) if settings["out"] else folders[0]
    table, left_out = collect_runs(folders[0])
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"out={out}: the folder cannot be made ({error.strerror}). Choose one that can be "
            "written, out=/some/where."
        ) from error
    write(table, left_out, out)
    _print_summary(table, left_out, out)
    print(out / FILES[0])


def write(table: pa.Table, left_out: LeftOut, out: Path) -> None:
    """Write the table as Parquet and CSV, and the list of what was left out: all three or none."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv
    from pyarrow import parquet

    paths = [out / name for name in FILES]
    with replacing(paths[0]) as binary, replacing(paths[1]) as text, replacing(paths[2]) as rest:
        # a dictionary saves space where texts repeat; the numbers of units hardly repeat
        texts = [field.name for field in table.schema if field.type == pa.string()]
        parquet.write_table(table, binary, compression="zstd", use_dictionary=texts)
        arrow_csv.write_csv(table, text)
        with rest.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerows([("folder", "reason"), *left_out])


def _print_summary(table: pa.Table, left_out: LeftOut, out: Path) -> None:
    """Counts go to stdout, the names of damaged runs to stderr."""
    damaged = [(folder, reason) for folder, reason in left_out if reason not in LEFT_OUT]
    for folder, reason in damaged[:MOST_NAMED]:
        print(f"diversevis: {printable(folder)}: {reason}", file=sys.stderr)
    if len(damaged) > MOST_NAMED:
        more = len(damaged) - MOST_NAMED
        print(f"diversevis: and {more} more: {out / FILES[2]} names all", file=sys.stderr)
    layers = table.group_by(["model", "layer"], use_threads=False).aggregate([])
    models = Counter(layers["model"].to_pylist()).items()
    listed = "; ".join(f"{model}: {counted(number, 'layer')}" for model, number in models)
    rows, columns = counted(table.num_rows, "unit"), counted(table.num_columns, "column")
    runs = counted(len(table["folder"].unique()), "run")
    print(plain(f"{rows} of {runs}, {columns}" + (f" ({listed})" if listed else "")))
    counts = Counter(reason for _, reason in left_out if reason in LEFT_OUT)
    counts[DAMAGED] = len(damaged)
    parts = [f"{counts[name]} {name}" for name in (*LEFT_OUT, DAMAGED) if counts[name]]
    if parts:
        print(f"left out: {', '.join(parts)}")
