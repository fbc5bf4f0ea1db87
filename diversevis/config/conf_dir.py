"""The folder of the config files, conf/."""

from __future__ import annotations

from pathlib import Path


def config_folder() -> str:
    """Return conf/: inside the installed package, or at the top of the repository."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "conf"
    return str(inside if inside.is_dir() else package.parent / "conf")
