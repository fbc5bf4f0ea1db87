"""Where the files of a command go that looks at several runs: its name, a new version."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from diversevis.errors import InputError
from diversevis.runs.versions import versions_in


def name_of(folder: Path) -> str:
    """A file name for a folder; for a run folder it is model-layer-units-version."""
    parts = folder.resolve().parts
    name = "-".join(parts[-4:]) if (folder / "run.json").is_file() else parts[-1]
    return re.sub(r"[^A-Za-z0-9._,-]", "_", name).strip(".")[:80] or "_"


def next_version(above: Path) -> Path:
    """A new folder v001, v002, ... in `above`; never an existing folder."""
    try:
        above.mkdir(parents=True, exist_ok=True)
        version = max((number for number, _ in versions_in(above)), default=0)
        while True:
            version += 1
            path = above / f"v{version:03d}"
            with contextlib.suppress(FileExistsError):  # another process has just made it
                path.mkdir()
                return path
    except OSError as error:
        raise InputError(
            f"out={above}: no folder can be made there ({error.strerror}). Choose one that can be "
            "written, out=/some/where."
        ) from error
