"""`diversevis view`: builds what an atlas lacks, and opens it in the browser."""

from __future__ import annotations

import webbrowser
from collections.abc import Sequence
from pathlib import Path

from diversevis.cli.atlas import finish, look, open_atlas
from diversevis.config.arguments import folders_and_settings
from diversevis.config.log import note
from diversevis.errors import InputError


def view_command(arguments: Sequence[str]) -> None:
    """`diversevis view [ROOT] [out=FOLDER]`: as `diversevis atlas`; the browser opens as soon as
    there are pages, while pictures are still drawn.

    Raises `InputError` as `atlas_command` does.
    """
    folders, settings = folders_and_settings(arguments, {"out": ""})
    if len(folders) > 1:
        raise InputError(
            f"view needs one folder, and was given {len(folders)}. Example: `diversevis view "
            "outputs`; see `diversevis view --help`."
        )
    atlas = open_atlas("view", folders[0] if folders else Path("outputs"), settings["out"])
    front = look(atlas)
    if not webbrowser.open(front.resolve().as_uri()):
        note(f"there is no browser here: open {front} in one")
    finish(atlas)
    print(front)
