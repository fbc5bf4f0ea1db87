"""Config files of a user: checked before Hydra reads them; and which line sets what.

Imports yaml and Hydra when a file is read, so that a command that reads none starts at once.
"""

from __future__ import annotations

import contextlib
import re
from codecs import BOM_UTF8
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from diversevis.config.conf_files import config_folder
from diversevis.errors import InputError

LARGEST = 100_000  # bytes: YAML is read at about 100 kB in a second
DEEPEST = 20  # levels of nesting
MOST = 10_000  # values, with all aliases written out
PACKAGE = re.compile(r"^#\s*@package\s+(\S+)", re.MULTILINE)
# How a message begins that is about a setting, or about a group in a defaults list.
ABOUT = re.compile(r"(?:There is no setting |The setting )?([\w.]+)")

# Of the files read last.
_lines: dict[str, list[str]] = {}  # dotted setting -> FILE, line N
_left_open: set[str] = set()  # settings that a file leaves to others: `layer: ???`
_given: set[str] = set()  # settings to which a file gives a value


def forget() -> None:
    """Forget the files read so far: another command line begins."""
    for known in (_lines, _left_open, _given):
        known.clear()


def check_left_open(words: Sequence[str]) -> None:
    """Raises InputError for a setting that is ??? in a file, and given neither in another file nor
    among `words`, the command line: it would be the default, without a word."""
    typed = _typed(words)
    for setting in sorted(_left_open - _given - typed):
        raise InputError(f"{setting} is left open (???): add {setting}=... to the command.")
    _left_open.clear()  # given: what is read from now on does not know the command line


def located(message: str, words: Sequence[str]) -> str:
    """Return the message, and the line that sets what it is about, if a file does.

    words  the command line: what is typed there replaces what files say
    """
    about = ABOUT.match(message)
    name = about[1].strip(".") if about else ""
    typed = _typed(words)
    lines = _lines.get(name) if name not in typed else None
    return f"{message.rstrip()} ({' and '.join(lines)})" if lines else message


def _typed(words: Sequence[str]) -> set[str]:
    return {word.partition("=")[0].lstrip("+~") for word in words}


@contextlib.contextmanager
def user_files_checked() -> Iterator[None]:
    """Within the `with` block, files outside conf/ are checked before Hydra takes them.

    Raises InputError that names file and line.
    """
    from hydra.core.plugins import Plugins

    Plugins.instance()  # imports the class of the next line anew when it is made
    from hydra._internal.core_plugins.file_config_source import FileConfigSource

    load = FileConfigSource.load_config

    def checked(source: Any, config_path: str) -> Any:
        path = Path(source.path, f"{config_path.removesuffix('.yaml')}.yaml")
        if not path.is_file() or path.resolve().is_relative_to(config_folder()):
            return load(source, config_path)
        _read(path, config_path)
        with _named(path):
            return load(source, config_path)

    setattr(FileConfigSource, "load_config", checked)  # noqa: B010  (mypy: it is a method)
    try:
        yield
    finally:
        setattr(FileConfigSource, "load_config", load)  # noqa: B010


def _read(path: Path, config_path: str) -> None:
    """Check a file, and remember which line sets what."""
    import yaml

    name, size = _shown(path), path.stat().st_size
    if size > LARGEST:
        raise InputError(
            f"{name} has {size} bytes, more than a file of settings needs ({LARGEST} at most). "
            "Give another one."
        )
    text = _decoded(path)
    with _named(path):
        depth = 0
        for event in yaml.parse(text, yaml.SafeLoader):
            depth += isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent))
            depth -= isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent))
            if depth > DEEPEST:
                raise _refused(path, event, f"it is nested more than {DEEPEST} levels deep")
        root = yaml.compose(text, yaml.SafeLoader)
    if config_path.startswith("experiment/") and not PACKAGE.search(text[:512]):
        raise InputError(f"{name}, line 1: an experiment begins with `# @package _global_`.")
    if root is None:
        return
    if not isinstance(root, yaml.MappingNode):
        raise _refused(path, root, "settings are written as `name: value`")
    _weigh(root, path, {})
    _check_defaults(root, path)
    for setting, node, value in _settings(root, _package(text, config_path)):
        _remember(setting, f"{name}, line {node.start_mark.line + 1}")
        (_left_open if value == "???" else _given).add(setting)


def _decoded(path: Path) -> str:
    content = path.read_bytes()
    if content.startswith(BOM_UTF8):
        raise InputError(f"{_shown(path)} begins with a byte order mark: save it without.")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{_shown(path)}, line {line}: the byte {content[error.start]:#04x} is not UTF-8. Save "
            "the file as UTF-8."
        ) from error


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn YAML's errors into an InputError that names file and line."""
    import yaml

    try:
        yield
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = "; ".join(part for part in (error.context, error.problem) if part)
        if "'\\t'" in problem:
            problem = "there is a tab: indent with spaces"
        line = "" if mark is None else f", line {mark.line + 1}"
        raise InputError(f"{_shown(path)}{line} cannot be read as YAML: {problem}.") from error
    except yaml.YAMLError as error:  # a character that YAML excludes
        reason = " ".join(str(error).split())
        raise InputError(f"{_shown(path)} cannot be read as YAML: {reason}.") from error


def _weigh(node: Any, path: Path, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Values and levels below a node, all aliases written out: Hydra copies what they refer to.

    Raises InputError for too many of them, for a node within itself, and for a repeated name.
    """
    if id(node) in known:
        size, depth = known[id(node)]
        if not size:
            raise _refused(path, node, "an alias refers to what it is a part of")
        return size, depth
    known[id(node)] = 0, 0
    children = node.value if isinstance(node.value, list) else []
    if children and isinstance(children[0], tuple):
        _check_names([key for key, _ in children], path)
        children = [value for _, value in children]
    elif not children and "${" in node.value:
        _check_interpolation(node, path)
    below = [_weigh(child, path, known) for child in children]
    size = 1 + sum(size for size, _ in below)
    depth = 1 + max((depth for _, depth in below), default=0)
    if size > MOST or depth > DEEPEST:
        raise _refused(
            path, node, f"with its aliases written out it has more than {MOST} values or "
            f"{DEEPEST} levels",
        )  # fmt: skip
    known[id(node)] = size, depth
    return size, depth


def _check_names(keys: Sequence[Any], path: Path) -> None:
    seen = set()
    for key in keys:
        if not key.tag.endswith((":str", ":merge")):
            raise _refused(path, key, "the name of a setting is text")
        if key.value in seen:
            raise _refused(path, key, f"{key.value} is set a second time")
        seen.add(key.value)


def _check_interpolation(node: Any, path: Path) -> None:
    from omegaconf.errors import GrammarParseError
    from omegaconf.grammar_parser import parse

    try:
        parse(node.value)
    except GrammarParseError as error:
        reason = f"{node.value} is no complete reference to a setting, as ${{n}} is"
        raise _refused(path, node, reason) from error


def _check_defaults(root: Any, path: Path) -> None:
    """Raises InputError for a defaults list that is none, or has items of another kind."""
    for key, value in root.value:
        if key.value != "defaults":
            continue
        for item in value.value if value.tag.endswith(":seq") else [value]:
            is_group = item.tag.endswith(":map") and len(item.value) == 1
            if item is value or not (is_group or item.tag.endswith(":str")):
                reason = "`defaults` is a list of `group: file` and of names of files"
                raise _refused(path, item, reason)


def _settings(root: Any, prefix: str) -> Iterator[tuple[str, Any, Any]]:
    """Dotted names, the nodes of their keys, and their values; of a defaults list the groups."""
    for key, value in root.value:
        name = f"{prefix}{key.value}"
        if key.value == "defaults":
            for item in value.value:
                for group, _ in item.value if isinstance(item.value, list) else ():
                    last = str(group.value).split()[-1]
                    yield last.partition("@")[0].strip("/").replace("/", "."), group, None
            continue
        yield name, key, value.value
        if isinstance(value.value, list) and value.value and isinstance(value.value[0], tuple):
            yield from _settings(value, f"{name}.")


def _package(text: str, config_path: str) -> str:
    """What the names of a file's settings begin with: its folder, unless its head says else."""
    group = config_path.rpartition("/")[0].replace("/", ".")
    match = PACKAGE.search(text[:512])
    package = match[1] if match else "_group_"
    package = package.replace("_global_", "").replace("_group_", group).strip(".")
    return f"{package}." if package else ""


def _remember(setting: str, line: str) -> None:
    lines = _lines.setdefault(setting, [])
    if line not in lines:
        lines.append(line)


def _refused(path: Path, node: Any, reason: str) -> InputError:
    return InputError(f"{_shown(path)}, line {node.start_mark.line + 1}: {reason}.")


def _shown(path: Path) -> str:
    """The path relative to the current folder, if it lies below it."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
