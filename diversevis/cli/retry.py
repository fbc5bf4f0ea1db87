"""`diversevis retry`: the unfinished work below a root, again with the config that it had."""

from __future__ import annotations

import json
import shlex
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diversevis.config import arguments as command_line
from diversevis.config.compose import completed
from diversevis.config.log import note, show_warnings
from diversevis.errors import InputError, SweepUnfinished
from diversevis.runs.folder import RunFolder
from diversevis.runs.states import DAMAGED, UNFINISHED
from diversevis.runs.trust import (
    check_typed,
    code_of,
    distrust,
    is_trusted,
    typed_targets,
    why_unsigned,
)
from diversevis.sweep.launch import launch
from diversevis.sweep.record import Planned, share_jobs
from diversevis.sweep.status import State, states

SHOWN = 3  # reasons why work is left out
UNITS_PER_JOB = 64  # small works of one layer share a job, up to this many units


def retry_command(arguments: Sequence[str]) -> None:
    """Print the folders of runs that are now finished; raises SweepUnfinished if some are not."""
    root, launcher, targets = _parse(arguments)
    show_warnings()
    all_work = states(root)
    if not all_work:
        raise InputError(
            f"{root} has no runs and no record of a sweep. Name the folder given as root=..."
        )
    unknown = [s for s in all_work if s.state == DAMAGED and s.hash is None]
    for state in unknown:
        remedy = "remove it, and type its command again"
        note(f"{state.folder} does not say what it was ({state.error}): {remedy}.")
    unfinished = [s for s in all_work if s.state in (*UNFINISHED, DAMAGED) and s.hash is not None]
    if not unfinished:
        note(f"nothing{' else' if unknown else ''} to retry in {root}.")
    trusted = _trusted(_works(unfinished, root), launcher, targets)
    left_out = len(unfinished) - len(trusted)
    try:
        _launch(trusted, launcher, shlex.join(["diversevis", "retry", *arguments]))
    except SweepUnfinished as error:
        raise SweepUnfinished(f"{error} {_left_out(left_out)}".rstrip()) from error
    if left_out:
        raise (SweepUnfinished if trusted else InputError)(_left_out(left_out))


def _parse(arguments: Sequence[str]) -> tuple[Path, list[str], list[str]]:
    """The root, Hydra's overrides that choose a launcher, and the targets that are trusted."""
    targets, arguments = typed_targets(arguments)
    folders = [word for word in arguments if command_line.is_folder(word)]
    rest = [word for word in arguments if word not in folders]
    flags, overrides = command_line.split_flags(rest)
    command_line.check_words(flags, overrides, known=())
    settings, launcher = command_line.split_hydra_overrides(overrides)
    if settings or len(folders) > 1:
        raise InputError(
            f"{' '.join(settings or folders)}: `diversevis retry` takes one folder and where to "
            "run, hydra/launcher=... hydra.launcher....=...; all other settings stay as they were "
            "(model.target=... only says that code which a record names is trusted)."
        )
    return command_line.named_folder(*folders or ["outputs"]), launcher, targets


@dataclass(frozen=True, kw_only=True)
class Unfinished:
    """Work to be done again.

    planned   with its original config, for the root where its folder is now
    root      that root
    launcher  as its sweep recorded it
    source    the folder of the record that has the config: a sweep's, else the run's
    signed    whether this account made that record
    """

    planned: Planned
    root: Path
    launcher: tuple[str, ...]
    source: Path
    signed: bool

    @classmethod
    def of(cls, state: State, root: Path) -> Unfinished:
        its_root = state.folder.resolve().parents[3] if state.folder else root.resolve()
        sweep, record = state.sweep, None
        if state.planned is None:
            # Work without a plan has a folder, and the caller leaves out what has no hash.
            assert state.folder is not None  # noqa: S101
            record = _record_of(state.folder)
            source, code = state.folder, code_of(record["config"].get("model"))
            signed = is_trusted(source, code, record.get("made_by"))
        else:
            assert sweep is not None  # noqa: S101  (it has planned the work)
            source, signed = sweep.folder, sweep.is_signed
            _ = state.planned.config["model"]
        return cls(
            planned=_planned(state, its_root, record),
            root=its_root,
            launcher=sweep.launcher if sweep else (),
            source=source,
            signed=signed,
        )

    def distrust(self, launcher: Sequence[str], targets: Collection[str]) -> str | None:
        """Why this work is left out, in a paragraph; None where it may be done."""
        if self.signed:
            return None
        code = code_of(self.planned.config["model"])
        if code is not None and code["target"] not in targets:
            return distrust(str(self.source), code)
        if self.launcher and not launcher:
            words = json.dumps(shlex.join(self.launcher))[1:-1]
            return (
                f"{self.source} was launched with {words}. Launchers run commands, and its record "
                f"does not show that this account made it here ({why_unsigned()}). Say where to "
                "run it: these words, if you trust them, or hydra/launcher=basic for here."
            )
        return None


def _works(unfinished: Sequence[State], root: Path) -> list[Unfinished]:
    """The works whose records say with which config they were begun; names the others."""
    works = []
    for state in unfinished:
        try:
            works.append(Unfinished.of(state, root))
        except InputError as error:
            note(str(error))
        except (LookupError, TypeError, AttributeError) as error:
            record = state.sweep.folder if state.sweep else state.folder
            what = f"{type(error).__name__}: {error}"
            note(f"{record}: its record is damaged ({what}). Type its command again.")
    return works


def _trusted(
    works: Sequence[Unfinished], launcher: Sequence[str], targets: Collection[str]
) -> list[Unfinished]:
    """The works that may be done; says of the others why they may not."""
    if works:
        check_typed(targets, [code_of(work.planned.config["model"]) for work in works])
    reasons = [work.distrust(launcher, targets) for work in works]
    distinct = [reason for reason in dict.fromkeys(reasons) if reason is not None]
    for reason in distinct[:SHOWN]:
        note(reason)
    if len(distinct) > SHOWN:
        note(f"the same holds for {len(distinct) - SHOWN} further records.")
    return [work for work, reason in zip(works, reasons, strict=True) if reason is None]


def _left_out(count: int) -> str:
    runs = "1 run was" if count == 1 else f"{count} runs were"
    return f"{runs} left out, for the reasons above." if count else ""


def _launch(unfinished: Sequence[Unfinished], launcher: Sequence[str], typed: str) -> None:
    """A sweep for every root and launcher: runs may have been moved here from several roots."""
    groups: dict[tuple[Path, tuple[str, ...]], list[Planned]] = defaultdict(list)
    for work in unfinished:
        groups[work.root, tuple(launcher) or work.launcher].append(work.planned)
    errors = []
    for (_, its_launcher), works in groups.items():
        works.sort(key=lambda work: work.where[:2])  # for `share_jobs`
        jobs = share_jobs((work, UNITS_PER_JOB) for work in works)
        try:
            launch(jobs, its_launcher, typed)
        except SweepUnfinished as error:  # the other launchers do their work all the same
            errors.append(str(error))
    if errors:
        raise SweepUnfinished(" ".join(errors))


def _record_of(folder: Path) -> dict[str, Any]:
    """The run's record; raises `InputError` where it has no config."""
    try:
        record = RunFolder(folder).read_record()
        record["config"]["model"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder} does not say with which config it was begun ({error}). Remove it, "
            "and type its command again."
        ) from error
    return record


def _planned(state: State, root: Path, record: Mapping[str, Any] | None) -> Planned:
    """The work with its original config, as planned or recorded, for the root where its folder is
    now."""
    planned = state.planned
    if planned is None:
        assert state.folder and state.hash and record  # noqa: S101, PT018
        model, layer, units = state.folder.resolve().parts[-4:-1]
        planned = Planned(
            hash=state.hash,
            model=state.model,
            layer=state.layer,
            units=state.units,
            where=(model, layer, units),
            config=record["config"],
        )
    # A version that was begun is continued, even if again=true made it.
    again = not state.folder and planned.config.get("again", False)
    config = {**completed(planned.config), "root": str(root), "again": again}
    return replace(planned, config=config)
