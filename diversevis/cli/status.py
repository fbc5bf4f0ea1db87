"""`diversevis status`: a table by model and layer, then what runs, and what went wrong.

What the states are called, and their explanations, are in `diversevis.runs.states`.
"""

from __future__ import annotations

import os
import re
import shlex
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from diversevis.config.arguments import is_folder, named_folder
from diversevis.errors import InputError, plain
from diversevis.runs.holder import Sign
from diversevis.runs.states import DAMAGED, DIED, LOST, MEANINGS, MISSING, NEVER_BEGUN, UNFINISHED
from diversevis.sweep.status import State, states
from diversevis.units import units_text

DEFAULT = "outputs"
NAMED = 20  # runs of a state that are listed; --failed lists all
LONGEST = 200  # characters of an error
WRONG = "failed", LOST, MISSING, DAMAGED
SPANS = ("day", 86400), ("h", 3600), ("min", 60), ("s", 1)


def status_command(arguments: Sequence[str]) -> None:
    """Print the state of all work below a root; raises InputError if there is none."""
    folders = [word for word in arguments if word != "--failed"]
    for word in folders:
        if word.startswith("-") and not is_folder(word):
            raise InputError(f"There is no flag {word}: `diversevis status ROOT --failed`.")
    if len(folders) > 1:
        raise InputError(f"status takes one folder, above the runs, and was given {len(folders)}.")
    root = named_folder(*folders or [DEFAULT])
    work = states(root) if root.is_dir() else []
    if not work:
        problem = "there is no run and no sweep" if root.is_dir() else "there is no such folder"
        raise InputError(
            f"{root}: {problem}. Name the folder that holds the runs (root=... of `diversevis "
            f"run`), as in `diversevis status {DEFAULT}`."
        )
    for line in report(work, root, in_full="--failed" in arguments):
        print(plain(line))


def report(work: Sequence[State], root: Path, *, in_full: bool) -> Iterator[str]:
    """Yield the lines; `in_full`, everything that went wrong has its logs and no limit of lines."""
    by_state: dict[str, list[State]] = defaultdict(list)
    for state in work:
        by_state[state.state].append(state)
    yield from table(work)
    if running := by_state["running"]:
        yield from ("", "running")
        yield from _first(f"  {name(s)}: {_progress_of(s.sign)}" for s in running if s.sign)
    wrong = [state for kind in WRONG for state in by_state[kind]]
    quoted_root = shlex.quote(str(root))
    if in_full:
        yield from _in_full(wrong)
    elif wrong:
        for kind in ("failed", LOST, DAMAGED):  # of what is missing there is nothing to say
            if by_state[kind]:
                yield from ("", kind)
                yield from _first(f"  {name(state)}: {reason(state)}" for state in by_state[kind])
        yield from ("", f"All of these, with their logs: diversevis status {quoted_root} --failed")
    repeatable = [kind for kind in UNFINISHED if by_state[kind]]
    repeatable += [DAMAGED] if any(state.hash for state in by_state[DAMAGED]) else []
    if repeatable:
        yield from ("", f"To repeat what is {_join(repeatable)}:")
        yield f"  diversevis retry {quoted_root}"


def table(work: Sequence[State]) -> Iterator[str]:
    """Return a row for every model and layer, and a row for all; empty states are left out."""
    layers: dict[tuple[str, str], list[State]] = defaultdict(list)
    for state in work:
        layers[plain(state.model), plain(state.layer)].append(state)
    present = {state.state for state in work} | {"finished"}
    columns = [state for state in MEANINGS if state in present]
    rows = [("model", "layer", "units", "runs", *columns)]
    rows += [(model, layer, *_counts(of, columns)) for (model, layer), of in layers.items()]
    if len(layers) > 1:
        rows.append(("all", "", *_counts(work, columns)))
    return aligned(rows, right=range(2, len(rows[0])))


def aligned(rows: Sequence[Sequence[str]], right: Container[int]) -> Iterator[str]:
    """Yield the rows as lines of a table; the columns `right` have their text at the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def _counts(work: Sequence[State], columns: Sequence[str]) -> list[str]:
    """Units as finished/all; runs; and runs in every state."""
    finished = sum(len(state.units) for state in work if state.state == "finished")
    units = f"{finished}/{sum(len(state.units) for state in work)}"
    numbers = [sum(state.state == column for state in work) for column in columns]
    return [units, *(str(number or "-") for number in [len(work), *numbers])]


def _first(lines: Iterable[str]) -> Iterator[str]:
    lines = list(lines)
    yield from lines[:NAMED]
    if len(lines) > NAMED:
        yield f"  and {len(lines) - NAMED} more"


def _in_full(wrong: Sequence[State]) -> Iterator[str]:
    if not wrong:
        yield from ("", f"Nothing is {_join(WRONG)}.")
    for state in wrong:
        yield from ("", f"{state.state} {name(state)}")
        facts = [
            ("because", reason(state)),
            ("attempts", (state.record or {}).get("attempts")),
            ("sweep", state.sweep.folder if state.sweep else None),
            *(("log", path) for path in logs(state)),
        ]
        yield from (f"  {key:8}  {value}" for key, value in facts if value is not None)


def logs(state: State) -> list[Path]:
    """Return the log files: the run's, its job's, and the launcher's of the newest sweep."""
    paths = [state.folder / "run.log"] if state.folder else []
    job_log = (state.record or {}).get("job_log")
    if isinstance(job_log, str):
        paths.append(Path(job_log))
    if state.launched is not None and state.hash is not None:
        paths += state.launched.logs(state.hash)
    files: dict[str, Path] = {}  # real path -> path: the launcher's log may be the job's
    for path in paths:
        if os.path.isfile(path):  # noqa: PTH113  (False for any name; a damaged record may hold any)
            files.setdefault(os.path.realpath(path), path)
    return list(files.values())


def name(state: State) -> str:
    """Return the run folder, or where there is none, model, layer and units."""
    if state.folder is not None:
        return str(state.folder)
    return f"{state.model} {state.layer} {units_text(state.units)}"


def reason(state: State) -> str:
    """Return in a line why the work is not finished."""
    ended = state.sweep.read_end() if state.sweep else None
    record = state.record or {}
    if state.state == MISSING:
        return NEVER_BEGUN + ("" if ended is None else plain(f"; its launcher ended: {ended}"))
    if state.state == LOST and record.get("status") == "interrupted":
        return f"ended by {record.get('ended_by')}, and its job is gone: cancelled"
    if state.state == LOST:
        why = "killed when its sweep was ended by Ctrl-C" if ended == "Ctrl-C" else DIED
        age = state.sign.age if state.sign else None
        return why if age is None else f"{why}, its last sign of life {_ago(age)}"
    error = plain(last_words(state.error or ""))
    if len(error) > LONGEST:
        error = error[: LONGEST - 3] + "..."
    return error or "its error could not be written: the disk may have been full"


def last_words(error: str) -> str:
    """Return a traceback's exception, without the lines that explain it; else the last line."""
    lines = [line for line in error.split("\n") if line.strip()]
    frames = [index for index, line in enumerate(lines) if re.match(r'\s+File "', line)]
    rest = lines[frames[-1] + 1 :] if frames else lines[-1:]
    exception = [line for line in rest if not line.startswith((" ", "\t"))]  # others are source
    return (exception or lines[-1:] or [""])[0].strip()


def _progress_of(sign: Sign) -> str:
    """How far the run is, when that was, and which process works on it."""
    parts = progress(sign.holder.progress)
    parts += [f"sign of life {_ago(sign.age)}"] if sign.age is not None else []
    return f"{', '.join(parts)} ({sign.holder.words})"


def progress(claim: Mapping[str, Any]) -> list[str]:
    """Return the progress in a claim as words: `12/64 units`, `diverse step 40/80`."""
    done, units, phase, step = (claim.get(key) for key in ("done", "units", "phase", "step"))
    count = f"{done}/{units} units" if _are_numbers(done, units) else ""
    if not isinstance(phase, str):
        return [count or "beginning"]
    if not _are_numbers(step):  # a measure, which has no steps
        return [f"{phase} of {count}" if count else phase]
    steps = claim.get("steps")
    last = steps.get(phase) if isinstance(steps, Mapping) else None
    at = f"{phase} step {step}" + (f"/{last}" if _are_numbers(last) else "")
    return [count, at] if count else [at]


def _are_numbers(*values: Any) -> bool:
    return all(type(value) is int for value in values)


def _ago(seconds: float) -> str:
    for unit, length in SPANS:
        if seconds >= length:
            number = int(seconds // length)
            return f"{number} {unit}{'s' if unit == 'day' and number > 1 else ''} ago"
    return "just now"


def _join(words: Sequence[str]) -> str:
    """`a, b or c`."""
    return " or ".join(", ".join(words).rsplit(", ", 1))
