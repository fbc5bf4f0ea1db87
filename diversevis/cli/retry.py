"""`diversevis retry`: the unfinished work below a root, again with the config that it had."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from diversevis.config import arguments as command_line
from diversevis.config.compose import completed
from diversevis.config.log import note, show_warnings
from diversevis.errors import InputError, SweepUnfinished
from diversevis.runs.folder import RunFolder
from diversevis.runs.states import DAMAGED, UNFINISHED
from diversevis.sweep.launch import launch
from diversevis.sweep.record import Planned, share_jobs
from diversevis.sweep.status import State, states

UNITS_PER_JOB = 64  # small works of one layer share a job, up to this many units


def retry_command(arguments: Sequence[str]) -> None:
    """Print the folders of runs that are now finished; raises SweepUnfinished if some are not."""
    root, launcher = _parse(arguments)
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
    _launch(unfinished, root, launcher, shlex.join(["diversevis", "retry", *arguments]))


def _parse(arguments: Sequence[str]) -> tuple[Path, list[str]]:
    """The root, and Hydra's overrides that choose a launcher."""
    folders = [word for word in arguments if command_line.is_folder(word)]
    rest = [word for word in arguments if word not in folders]
    flags, overrides = command_line.split_flags(rest)
    command_line.check_words(flags, overrides, known=())
    settings, launcher = command_line.split_hydra_overrides(overrides)
    if settings or len(folders) > 1:
        raise InputError(
            f"{' '.join(settings or folders)}: `diversevis retry` takes one folder and where to "
            "run, hydra/launcher=... hydra.launcher....=...; all other settings stay as they were."
        )
    return command_line.named_folder(*folders or ["outputs"]), launcher


def _launch(unfinished: Sequence[State], root: Path, launcher: Sequence[str], typed: str) -> None:
    """A sweep for every root and launcher: runs may have been moved here from several roots."""
    groups: dict[tuple[Path, tuple[str, ...]], list[Planned]] = defaultdict(list)
    for state in unfinished:
        its_root = state.folder.resolve().parents[3] if state.folder else root.resolve()
        its_launcher = tuple(launcher) or (state.sweep.launcher if state.sweep else ())
        groups[its_root, its_launcher].append(_planned(state, its_root))
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


def _planned(state: State, root: Path) -> Planned:
    """The work with its original config, for the root where its folder is now."""
    planned = state.planned
    if planned is None:
        # Work without a plan has a folder, and the caller leaves out what has no hash.
        assert state.folder and state.hash  # noqa: S101, PT018
        model, layer, units = state.folder.resolve().parts[-4:-1]
        try:
            config = RunFolder(state.folder).read_record()["config"]
        except (OSError, ValueError, KeyError) as error:
            raise InputError(
                f"{state.folder} does not say with which config it was begun ({error}). Remove it, "
                "and type its command again."
            ) from error
        planned = Planned(
            hash=state.hash,
            model=state.model,
            layer=state.layer,
            units=state.units,
            where=(model, layer, units),
            config=config,
        )
    # A version that was begun is continued, even if again=true made it.
    again = not state.folder and planned.config.get("again", False)
    config = {**completed(planned.config), "root": str(root), "again": again}
    return replace(planned, config=config)
