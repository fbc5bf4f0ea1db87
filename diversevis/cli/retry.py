"""`diversevis retry`: what failed, was lost or never began, again with the config it had."""

from __future__ import annotations

import shlex
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf
from yaml import YAMLError

from diversevis.cli.sweep import apart
from diversevis.config.arguments import check_words, is_folder, named_folder, split_flags
from diversevis.config.compose import plain
from diversevis.config.log import speak
from diversevis.errors import InputError, SweepUnfinished
from diversevis.sweep.launch import launch
from diversevis.sweep.record import Planned

if TYPE_CHECKING:
    from diversevis.sweep.status import State

UNFINISHED = "failed", "lost", "interrupted", "missing", "damaged"
UNITS_AT_LEAST = 64  # small works of one layer share a job up to so many units


def retry_command(arguments: Sequence[str]) -> None:
    """`diversevis retry [ROOT] [hydra/launcher=... hydra.launcher....=...]`.

    Raises `InputError` where there is nothing of the kind, `SweepUnfinished` where some of it is
    unfinished again.
    """
    folders = [word for word in arguments if is_folder(word)]
    flags, words = split_flags([word for word in arguments if word not in folders])
    check_words(flags, words, known=())
    others, launcher = apart(words)
    if others or len(folders) > 1:
        raise InputError(
            f"{' '.join(others or folders)}: `diversevis retry` takes one folder and where to run, "
            "hydra/launcher=... hydra.launcher....=...; the rest is as it was."
        )
    speak()
    from diversevis.sweep.status import states

    root = named_folder(*folders or ["outputs"])
    every = states(root)
    if not every:
        raise InputError(
            f"{root} has no runs and no record of a sweep. Name the folder given as root=..."
        )
    found = [one for one in every if one.state in UNFINISHED and one.hash is not None]
    groups: dict[tuple[Path, tuple[str, ...]], list[Planned]] = defaultdict(list)
    for one in found:
        place = one.folder.resolve().parents[3] if one.folder else root.resolve()
        own = tuple(launcher) or (one.sweep.launcher if one.sweep else ())
        groups[place, own].append(_as_planned(one, place))
    unknown = [one for one in every if one.state == "damaged" and one.hash is None]
    for one in unknown:
        print(
            f"diversevis: {one.folder} does not say what it was ({one.error}): remove it, and type "
            "its command again.",
            file=sys.stderr,
        )
    if not groups:
        rest = " else" if unknown else ""
        print(f"diversevis: nothing{rest} to retry in {root}.", file=sys.stderr)
    typed = shlex.join(["diversevis", "retry", *arguments])
    unfinished = []
    for (place, own), works in groups.items():
        try:
            launch(place, works, _jobs(works), own, typed)
        except SweepUnfinished as error:  # the other launchers' share all the same
            unfinished.append(str(error))
    if unfinished:
        raise SweepUnfinished(" ".join(unfinished))


def _as_planned(one: State, root: Path) -> Planned:
    """The work with its original config, for the root where its folder is now."""
    if one.planned is not None:
        config: Mapping[str, Any] = one.planned.config
        where = one.planned.where
    else:
        assert one.folder is not None  # noqa: S101  (no plan, then a folder)
        config = _config_of(one)
        where = tuple(one.folder.resolve().parts[-4:-1])  # type: ignore[assignment]
    assert one.hash is not None  # noqa: S101  (others are left out)
    return Planned(
        hash=one.hash,
        model=one.model,
        layer=one.layer,
        units=one.units,
        where=where,
        # A version that was begun is gone on with; of one that was not, a new one may be wanted.
        config={
            **config,
            "root": str(root),
            "again": not one.folder and config.get("again", False),
        },
    )


def _config_of(one: State) -> Mapping[str, Any]:
    """From the run's record; an older one has it as YAML alone."""
    if one.record and isinstance(one.record.get("config"), Mapping):
        return one.record["config"]
    try:
        return plain(OmegaConf.load(one.folder / "config.yaml"))  # type: ignore[arg-type,operator]
    except (OSError, ValueError, YAMLError) as error:
        raise InputError(
            f"{one.folder} does not say with which config it was begun ({error}). Remove it, and "
            "type its command again."
        ) from error


def _jobs(works: Sequence[Planned]) -> list[list[int]]:
    """Works of one layer share a job, as long as they are small."""
    jobs: list[list[int]] = []
    layer, room = None, 0
    order = sorted(range(len(works)), key=lambda place: works[place].where[:2])
    for place in order:
        work = works[place]
        if work.where[:2] != layer or len(work.units) > room:
            jobs.append([])
            layer, room = work.where[:2], UNITS_AT_LEAST
        jobs[-1].append(place)
        room -= len(work.units)
    return jobs
