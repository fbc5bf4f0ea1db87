"""`diversevis atlas`: its arguments, and its summary."""

from __future__ import annotations

import contextlib
import shlex
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

from diversevis.atlas.build import Atlas
from diversevis.config.arguments import folders_and_settings, named_folder
from diversevis.config.log import note
from diversevis.errors import InputError, Stopped, printable
from diversevis.experiment.progress import ProgressDisplay
from diversevis.units import counted

SETTINGS = {"out": "", "pictures": "all"}
MOST_NAMED = 20  # of what is left out; the front page lists all


def atlas_command(arguments: Sequence[str]) -> None:
    """`diversevis atlas ROOT [out=FOLDER] [pictures=none]`: writes pages, prints the first one's
    path.

    Raises `InputError` for unknown arguments, and where no run can be shown.
    """
    folders, settings = folders_and_settings(arguments, SETTINGS)
    if len(folders) != 1:
        raise InputError(
            f"atlas needs one folder, a run's or one above runs, and was given {len(folders)}. "
            "Example: `diversevis atlas outputs`; see `diversevis atlas --help`."
        )
    atlas = open_atlas("atlas", folders[0], settings)
    with sigterm_raises():
        front = look(atlas)
        finish(atlas)
    print(front)


def open_atlas(command: str, root: Path, settings: Mapping[str, str]) -> Atlas:
    """The atlas of a root, by default in its folder `atlas`."""
    if settings["pictures"] not in ("all", "none"):
        raise InputError(f"pictures={settings['pictures']} must be all or none.")
    out = named_folder(settings["out"]) if settings["out"] else root / "atlas"
    if not settings["out"] and out.is_symlink():  # a link in a folder from somebody else
        raise InputError(
            f"{out} is a link to {out.readlink()}. To have pages written there, say so: "
            f"out={shlex.quote(str(out.readlink()))}."
        )
    given = [f"{key}={value}" for key, value in settings.items() if value != SETTINGS[key]]
    return Atlas(
        root=root, out=out,
        command=shlex.join(["diversevis", command, str(root), *given]), tell=ProgressDisplay(),
        draws=settings["pictures"] == "all",
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


@contextlib.contextmanager
def sigterm_raises() -> Iterator[None]:
    """SIGTERM raises `Stopped` within the `with` block, so that other processes end in order."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
