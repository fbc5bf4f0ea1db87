"""`diversevis view`: builds what an atlas lacks, and opens it in the browser."""

from __future__ import annotations

import os
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from diversevis.cli.atlas import SETTINGS, finish, look, open_atlas, sigterm_raises
from diversevis.config.arguments import folders_and_settings
from diversevis.config.log import note
from diversevis.errors import InputError


def view_command(arguments: Sequence[str]) -> None:
    """`diversevis view [ROOT] [out=FOLDER] [pictures=none]`: as `diversevis atlas`; the browser
    opens as soon as there are pages, while pictures are still drawn.

    Raises `InputError` as `atlas_command` does.
    """
    folders, settings = folders_and_settings(arguments, SETTINGS)
    if len(folders) > 1:
        raise InputError(
            f"view needs one folder, and was given {len(folders)}. Example: `diversevis view "
            "outputs`; see `diversevis view --help`."
        )
    atlas = open_atlas("view", folders[0] if folders else Path("outputs"), settings)
    with sigterm_raises():
        front = look(atlas)
        if not (_has_screen() and webbrowser.open(front.resolve().as_uri())):
            note(f"no browser can be opened here: open {front} in one, or copy {front.parent}")
        finish(atlas)
    print(front)


def _has_screen() -> bool:
    """Whether a browser has a window to open: else Python starts one that fills the terminal."""
    named = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    return sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in named)
