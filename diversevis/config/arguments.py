"""The words of a command line: Hydra's flags apart from settings, and paths quoted for it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from diversevis.errors import InputError, suggest

FLAGS_WITH_VALUE = (
    "--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp", "--cfg", "-c",
    "--package", "-p",
)  # fmt: skip
FLAGS = (
    *FLAGS_WITH_VALUE, "--multirun", "-m", "--run", "-r", "--info", "-i", "--resolve",
    "--hydra-help", "--shell-completion", "-sc",
)  # fmt: skip


PATHS = r"root|natural|model\.weights|objective\.(?:direction|photographs)"  # settings


def split_flags(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Hydra's flags with their values, and the overrides; Hydra's parser wants them apart."""
    flags: list[str] = []
    overrides: list[str] = []
    before = ""
    for word in words:
        is_value = before in FLAGS_WITH_VALUE or (before in ("--info", "-i") and "=" not in word)
        (flags if word.startswith("-") or is_value else overrides).append(word)
        before = word
    return flags, overrides


def check_words(
    flags: Sequence[str], overrides: Sequence[str], known: Sequence[str] = FLAGS
) -> None:
    """Raises `InputError` for a flag that is none, and for a word that sets nothing."""
    for position, flag in enumerate(flags):
        follower = flags[position + 1] if position + 1 < len(flags) else ""
        name = flag.partition("=")[0]
        if flag.startswith("-") and name not in known:
            raise InputError(
                f"There is no flag {name}. Settings are written key=value, without dashes "
                "(model=vgg19); `diversevis run --help` shows them."
            )
        if flag in FLAGS_WITH_VALUE and (not follower or follower.startswith("-")):
            raise InputError(f"The flag {flag} needs a value after it.")
    for word in overrides:
        if not word.startswith("~") and not re.match(r"\+{0,2}[\w./@-]+=", word):
            hint = "model=vgg19 layer=conv2_1 unit=12"
            raise InputError(f"{word!r} sets nothing: settings are written key=value, as {hint}.")


def quoted(word: str) -> str:
    """An override that names a path, quoted where Hydra's grammar would stumble over it."""
    match = re.fullmatch(rf"({PATHS})=(.+)", word)
    if match is None or re.fullmatch(r"[\w./:${}\-+%@,\[\]]+", match[2], re.ASCII):
        return word
    if match[2][0] in "\"'":
        return word
    return f"{match[1]}={in_quotes(match[2])}"


def in_quotes(value: str) -> str:
    """As Hydra's grammar takes any value for a single string.

    It reads a backslash as one unless a quote or the end follows.
    """
    escaped = re.sub(r'(\\+)(?="|$)', r"\1\1", value).replace('"', '\\"')
    return f'"{escaped}"'


def with_home(word: str) -> str:
    """`root=~/x` with the home folder in place of `~`: shells leave it alone after `=`."""
    key, equals, value = word.partition("=")
    if key != "root" or not value.startswith("~"):
        return word
    return f"{key}{equals}{named_folder(value)}"


def named_folder(word: str) -> Path:
    """The folder that a word names; raises `InputError` where it names none."""
    if not word:
        raise InputError("An empty word names no folder: write its name.")
    try:
        return Path(word).expanduser()
    except RuntimeError as error:  # ~nobody
        raise InputError(f"{word}: there is no such home folder ({error}).") from error


def is_folder(word: str) -> bool:
    """Whether a word of a command line names a folder, which may have `=` in its name or begin with
    a dash; of two meanings it is the folder that is there."""
    if word.startswith("-") or re.match(r"[+~]*[\w.@/]+=", word):
        return Path(word).is_dir()
    return True


def folders_and_settings(
    arguments: Sequence[str], defaults: Mapping[str, str]
) -> tuple[list[Path], dict[str, str]]:
    """The words of `diversevis COMMAND FOLDER... [key=value ...]`, for commands without Hydra.

    defaults  of every setting there is

    Raises `InputError` for a flag, a setting that is none, and one without a value.
    """
    settings, folders = dict(defaults), []
    for word in arguments:
        key, _, value = word.partition("=")
        if key not in settings and is_folder(word):
            folders.append(named_folder(word))
        elif word.startswith("-"):
            raise InputError(f"There is no flag {key}: settings are written key=value.")
        elif key not in settings:
            raise InputError(f"{word}: there is no setting {key}. {suggest(key, settings)}")
        elif not value:
            raise InputError(f"{word} says nothing: leave it out, or give it a value.")
        else:
            settings[key] = value
    return folders, settings
