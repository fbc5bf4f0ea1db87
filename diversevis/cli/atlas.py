"""`diversevis atlas`: its arguments, and its summary."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from diversevis.atlas.build import Atlas
from diversevis.config.arguments import folders_and_settings, named_folder
from diversevis.config.log import note
from diversevis.errors import InputError, printable
from diversevis.experiment.progress import ProgressDisplay
from diversevis.units import counted

MOST_NAMED = 20  # of what is left out; the front page lists all


def atlas_command(arguments: Sequence[str]) -> None:
    """`diversevis atlas ROOT [out=FOLDER]`: writes pages, prints the path of the front page.

    Raises `InputError` for unknown arguments, and where no run can be shown.
    """
    folders, settings = folders_and_settings(arguments, {"out": ""})
    if len(folders) != 1:
        raise InputError(
            f"atlas needs one folder, a run's or one above runs, and was given {len(folders)}. "
            "Example: `diversevis atlas outputs`; see `diversevis atlas --help`."
        )
    atlas = open_atlas("atlas", folders[0], settings["out"])
    front = look(atlas)
    finish(atlas)
    print(front)


def open_atlas(command: str, root: Path, out: str) -> Atlas:
    """The atlas of a root; `out` is empty for the folder `atlas` in it."""
    words = [str(root), *([f"out={out}"] if out else [])]
    return Atlas(
        root=root, out=named_folder(out) if out else root / "atlas",
        command=shlex.join(["diversevis", command, *words]), tell=ProgressDisplay(),
    )  # fmt: skip


def look(atlas: Atlas) -> Path:
    """Write the pages; names on stderr what was left out, and returns the front page."""
    front = atlas.look()
    for folder, reason in atlas.left_out[:MOST_NAMED]:
        note(f"left out: {printable(folder)}: {reason}")
    if (more := len(atlas.left_out) - MOST_NAMED) > 0:
        note(f"left out: {more} more; the front page names all")
    units = sum(len(layer.units) for layer in atlas.layers)
    print(f"{counted(units, 'unit')} of {counted(len(atlas.layers), 'layer')}")
    return front


def finish(atlas: Atlas) -> None:
    """Draw what is missing; names on stderr what failed."""
    for failure in atlas.complete()[:MOST_NAMED]:
        note(f"not drawn: {failure}")
