"""`diversevis status`: a table by model and layer, then who is at work, and what went wrong."""

from __future__ import annotations

import os
import re
import shlex
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from diversevis.config.arguments import is_folder, named_folder
from diversevis.errors import InputError
from diversevis.sweep.queue import Launched, read_launched
from diversevis.sweep.status import STATES, UNDONE, State, states
from diversevis.units import units_text

DEFAULT = "outputs"
NAMED = 20  # runs of a kind that are named; --failed names all
LONGEST = 200  # characters of an error
WRONG = "failed", "lost", "missing", "damaged"
SPANS = ("day", 86400), ("h", 3600), ("min", 60), ("s", 1)
ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # colours, the cursor
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f]).*?(?:\x07|\x1b\\|\x9c|$)"  # titles, links, commands
    r"|\x1b[ -/]*.?",
    re.DOTALL,
)


def status_command(arguments: Sequence[str]) -> None:
    """`diversevis status [ROOT] [--failed]`: on stdout.

    Raises `InputError` for words it does not know, and where there is nothing to tell of.
    """
    root, every = _parse(arguments)
    if not root.is_dir():
        raise InputError(
            f"{root} is no folder. Give the one that the runs went to (root=... of `diversevis "
            f"run`), as in `diversevis status {DEFAULT}`."
        )
    found = states(root)
    if not found:
        raise InputError(
            f"{root}: there is no run and no sweep. Give the folder that the runs went to "
            f"(root=... of `diversevis run`), as in `diversevis status {DEFAULT}`."
        )
    for line in report(found, root, every=every):
        print(plain(line))


def report(found: Sequence[State], root: Path, *, every: bool) -> Iterator[str]:
    """The lines.

    every  all that went wrong, with its logs, instead of the first few
    """
    by_state: dict[str, list[State]] = defaultdict(list)
    for one in found:
        by_state[one.state].append(one)
    yield from table(found)
    if running := by_state["running"]:
        yield from ("", "running")
        yield from _some(f"  {name(one)}: {_at_work(one)}" for one in running)
    wrong = {state: by_state[state] for state in WRONG if by_state[state]}
    if every:
        yield from _in_full(wrong)
    else:
        for state, those in wrong.items():
            if state != "missing":  # of which there is nothing to tell
                yield from ("", state)
                yield from _some(f"  {name(one)}: {reason(one)}" for one in those)
        if wrong:
            where = shlex.quote(str(root))
            yield from ("", f"All of these, with their logs: diversevis status {where} --failed")
    undone = [state for state in UNDONE if by_state[state]]
    undone += ["damaged"] if any(one.hash for one in by_state["damaged"]) else []
    if undone:
        yield from ("", f"To do again what is {_or(undone)}:")
        yield f"  diversevis retry {shlex.quote(str(root))}"


def table(found: Sequence[State]) -> Iterator[str]:
    """A row for every model and layer, and for all; states that nothing is in are left out."""
    layers: dict[tuple[str, str], list[State]] = defaultdict(list)
    for one in found:
        layers[plain(one.model), plain(one.layer)].append(one)
    there = {one.state for one in found} | {"finished"}
    shown = [state for state in STATES if state in there]
    rows = [("model", "layer", "units", "runs", *shown)]
    rows += [(model, layer, *_counts(those, shown)) for (model, layer), those in layers.items()]
    if len(layers) > 1:
        rows.append(("all", "", *_counts(found, shown)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def _counts(found: Sequence[State], shown: Sequence[str]) -> list[str]:
    """Units that are finished, of how many; runs; and runs in every state."""
    done = sum(len(one.units) for one in found if one.state == "finished")
    numbers = [sum(one.state == state for one in found) for state in shown]
    units = f"{done}/{sum(len(one.units) for one in found)}"
    return [units, *(str(number or "-") for number in [len(found), *numbers])]


def _some(lines: Iterable[str]) -> Iterator[str]:
    lines = list(lines)
    yield from lines[:NAMED]
    if len(lines) > NAMED:
        yield f"  and {len(lines) - NAMED} more"


def _in_full(wrong: Mapping[str, Sequence[State]]) -> Iterator[str]:
    launched: dict[Path, Launched] = {}
    if not wrong:
        yield from ("", "Nothing has failed, was lost, is missing or damaged.")
    for state, those in wrong.items():
        for one in those:
            yield from ("", f"{state} {name(one)}")
            record: Mapping[str, Any] = one.record or {}
            facts = [
                ("because", reason(one)),
                ("attempts", record.get("attempts")),
                ("sweep", one.sweep.folder if one.sweep else None),
                *(("log", path) for path in logs(one, launched)),
            ]
            yield from (f"  {key:8}  {value}" for key, value in facts if value is not None)


def logs(state: State, launched: dict[Path, Launched]) -> list[Path]:
    """Files with what was said: the run's own, its job's, and the launcher's of the newest sweep.

    launched  those that have been read, by their folders; more are added
    """
    found: list[Path] = []
    if state.folder is not None:
        found.append(state.folder / "run.log")
    job = state.record.get("job_log") if state.record else None
    if isinstance(job, str):
        found.append(Path(job))
    if state.sweep is not None and state.hash is not None:
        folder = state.sweep.folder
        if folder not in launched:
            launched[folder] = read_launched(state.sweep)
        found += launched[folder].logs(state.hash)
    files: dict[str, Path] = {}
    for path in filter(_is_file, found):
        files.setdefault(os.path.realpath(path), path)
    return list(files.values())


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def name(state: State) -> str:
    """Its run folder, or what it was to be."""
    if state.folder is not None:
        return str(state.folder)
    return f"{state.model} {state.layer} {units_text(state.units)}"


def reason(state: State) -> str:
    """Why it is not there, in one line."""
    ended = state.sweep.read_end() if state.sweep else None
    if state.state == "missing":
        nothing = "its job is gone, and has left nothing"
        return nothing if ended is None else plain(f"{nothing}; its launcher ended: {ended}")
    if state.state == "lost" and (state.record or {}).get("status") == "interrupted":
        return f"ended by {(state.record or {}).get('ended_by')}, and its job is gone: cancelled"
    if state.state == "lost":
        last = "" if state.age is None else f", its last sign of life {_ago(state.age)}"
        if ended == "Ctrl-C":
            return f"killed when its sweep was ended by Ctrl-C{last}"
        return f"killed without a word (out of memory, or the machine went down){last}"
    found = plain(last_words(state.error or ""))
    if len(found) > LONGEST:
        found = found[: LONGEST - 3] + "..."
    return found or "no error was kept: the disk may have been full"


def last_words(error: str) -> str:
    """The exception of a traceback, without what further lines explain; else the last line."""
    lines = [line for line in error.split("\n") if line.strip()]
    frames = [place for place, line in enumerate(lines) if re.match(r'\s+File "', line)]
    rest = lines[frames[-1] + 1 :] if frames else lines[-1:]
    exception = [line for line in rest if not line.startswith((" ", "\t"))]
    return (exception or lines[-1:] or [""])[0].strip()


def _at_work(state: State) -> str:
    """How far it has come, when that was, and who is at it."""
    holder = state.holder
    parts = progress(holder.progress) if holder else []
    parts += [f"sign of life {_ago(state.age)}"] if state.age is not None else []
    return ", ".join(parts) + (f" ({holder.words})" if holder else "")


def progress(said: Mapping[str, Any]) -> list[str]:
    """What a claim says, in words: `12/64 units`, `diverse step 40/80`."""
    done, units, phase, step = (said.get(key) for key in ("done", "units", "phase", "step"))
    counted = f"{done}/{units} units" if _all_numbers(done, units) else ""
    if not isinstance(phase, str):
        return [counted or "beginning"]
    if not _all_numbers(step):  # a measure
        return [f"{phase} of {counted}" if counted else phase]
    steps = said.get("steps")
    most = steps.get(phase) if isinstance(steps, Mapping) else None
    at = f"{phase} step {step}" + (f"/{most}" if _all_numbers(most) else "")
    return [counted, at] if counted else [at]


def _all_numbers(*values: Any) -> bool:
    return all(type(value) is int for value in values)


def _ago(seconds: float) -> str:
    for unit, length in SPANS:
        if seconds >= length:
            number = int(seconds // length)
            return f"{number} {unit}{'s' if unit == 'day' and number > 1 else ''} ago"
    return "just now"


def _or(words: Sequence[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def plain(text: str) -> str:
    """On one line, without what would change a terminal's colours, title or direction."""
    text = ESCAPES.sub("", text).replace("\t", " ").replace("\n", " ")
    return "".join(one for one in text if one.isprintable())


def _parse(arguments: Sequence[str]) -> tuple[Path, bool]:
    folders = [word for word in arguments if word != "--failed"]
    for word in folders:
        if not is_folder(word) and word.startswith("-"):
            raise InputError(f"There is no flag {word}: `diversevis status ROOT --failed`.")
    if len(folders) > 1:
        raise InputError(
            f"status takes one folder, above the runs, and was given {len(folders)}, as in "
            f"`diversevis status {DEFAULT}`."
        )
    return named_folder(*folders or [DEFAULT]), "--failed" in arguments
