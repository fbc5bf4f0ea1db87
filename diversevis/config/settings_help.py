"""Help on the settings, read from the comments of the config files, so that it matches them.

Reads the YAML files line by line: a YAML parser drops comments, and Hydra takes a second to import.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

from diversevis.config.conf_dir import config_folder

WIDTH = 100
COLUMN = 32  # where comments begin
SETTING = re.compile(r"( *)(\w+): *(.*?)(?:\s+# (.*))?")
GROUP = re.compile(r"  - (\w+): (\w+)", re.MULTILINE)  # in the defaults list, with its default


def settings(file: str, prefix: str = "") -> str:
    """Return a line for every setting of conf/FILE.yaml: name=default and its comment.

    prefix  of the names, such as `objective.`
    """
    lines: list[str] = []
    parents: list[str] = []
    for line in _conf(f"{file}.yaml").read_text().splitlines():
        match = SETTING.fullmatch(line)
        if match is None:
            continue
        indentation, name, default, comment = match.groups()
        parents[len(indentation) // 2 :] = [name]
        if default and name != "kind":  # `kind` says which file it is, and nobody sets it
            lines += _entry(f"{prefix}{'.'.join(parents)}={_shown(default)}", comment or "")
    return "\n".join(lines)


def groups() -> str:
    """Return the choices of every group of settings: name=file and the file's first comment."""
    lines: list[str] = []
    for group, default in GROUP.findall(_conf("run.yaml").read_text()):
        for name, about in _choices(group):
            mark = " (default)" if name == default else ""
            lines += _entry(f"{group}={name}", f"{about}{mark}")
    return "\n".join(lines)


def _choices(group: str) -> Iterator[tuple[str, str]]:
    for path in sorted(_conf(group).glob("*.yaml")):
        comments = (line for line in path.read_text().splitlines() if line.startswith("# "))
        texts = (line[2:] for line in comments if not line.startswith("# @"))  # a Hydra directive
        yield path.stem, next(texts, "")


def _shown(default: str) -> str:
    """The default as it is typed; empty where another setting decides it."""
    return "" if default.startswith("${") or default == "???" else default.replace(", ", ",")


def _entry(name: str, comment: str) -> list[str]:
    """The name, and the comment beside it; long ones continue below."""
    first = f"  {name} ".ljust(COLUMN)
    indented = " " * COLUMN
    if len(first) > COLUMN and comment:  # no room beside the name
        return [first.rstrip(), *textwrap.wrap(comment, WIDTH, initial_indent=indented,
                                               subsequent_indent=indented)]  # fmt: skip
    wrapped = textwrap.wrap(comment, WIDTH, initial_indent=first, subsequent_indent=indented)
    return wrapped or [first.rstrip()]


def _conf(name: str) -> Path:
    return Path(config_folder(), name)
