"""The config files in conf/: where they are, and help on the settings from their comments.

Reads the YAML files line by line: a YAML parser drops comments, and Hydra takes a second to import.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

WIDTH = 100
COLUMN = 32  # where comments begin
SETTING = re.compile(r"( *)(\w+): *(.*?)(?:\s+# (.*))?")
GROUP = re.compile(r"  - (\w+): (\w+)", re.MULTILINE)  # in the defaults list, with its default


def config_folder() -> str:
    """Return conf/: inside the installed package, or at the top of the repository."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "conf"
    return str(inside if inside.is_dir() else package.parent / "conf")


def settings(file: str, prefix: str = "") -> str:
    """Return a line for every setting of conf/FILE.yaml: prefix, name=default, and its comment."""
    lines: list[str] = []
    parents: list[str] = []
    for line in Path(config_folder(), f"{file}.yaml").read_text().splitlines():
        match = SETTING.fullmatch(line)
        if match is None:
            continue
        indentation, name, default, comment = match.groups()
        parents[len(indentation) // 2 :] = [name]
        if default and name != "kind":  # `kind` says which file it is, and nobody sets it
            decided_elsewhere = default.startswith("${") or default == "???"
            shown = "" if decided_elsewhere else default.replace(", ", ",")
            lines += _entry(f"{prefix}{'.'.join(parents)}={shown}", comment or "")
    return "\n".join(lines)


def group_names() -> list[str]:
    """Return the names of the groups of settings."""
    text = Path(config_folder(), "run.yaml").read_text()
    return [group for group, _ in GROUP.findall(text)]


def groups() -> str:
    """Return the choices of every group of settings: name=file and the file's first comment."""
    lines: list[str] = []
    for group, default in GROUP.findall(Path(config_folder(), "run.yaml").read_text()):
        for path in sorted(Path(config_folder(), group).glob("*.yaml")):
            about = re.search("^# (?!@)(.*)", path.read_text(), re.MULTILINE)  # `# @` is for Hydra
            mark = " (default)" if path.stem == default else ""
            lines += _entry(f"{group}={path.stem}", f"{about[1] if about else ''}{mark}")
    return "\n".join(lines)


def _entry(name: str, comment: str) -> list[str]:
    """The name, and the comment beside it; long ones continue below."""
    first = f"  {name} ".ljust(COLUMN)
    texts = textwrap.wrap(comment, WIDTH - COLUMN)
    if len(first) > COLUMN or not texts:
        texts.insert(0, "")  # no room beside the name
    return [(first + texts[0]).rstrip(), *(" " * COLUMN + text for text in texts[1:])]
