"""The words of a command line: flags, settings (Hydra's overrides) and folders.

Not argparse: a folder may have `=` in its name or begin with a dash, `key=value` is no option to
argparse, and its messages neither suggest the nearest name nor stay in one paragraph.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
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
OTHER_SWEEPER = re.compile(
    r"[+~]*hydra(/sweeper=(?!basic$)|\.sweeper\.(?!max_batch_size=)|\.mode=)"
)
PATHS = (  # settings
    r"root|natural|data|model\.weights|objective\.(?:direction|photographs)|prior\.(?:file|photographs|check)"
)


def split_flags(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return (Hydra's flags with their values, overrides): Hydra's parser wants flags first."""
    flags: list[str] = []
    overrides: list[str] = []
    before = ""
    for word in words:
        is_value = before in FLAGS_WITH_VALUE or (before in ("--info", "-i") and "=" not in word)
        (flags if word.startswith("-") or is_value else overrides).append(word)
        before = word
    return flags, overrides


def split_hydra_overrides(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return (task overrides, Hydra overrides): the latter choose and set the launcher.

    Raises InputError for what chooses or sets another sweeper.
    """
    of_hydra = [word for word in overrides if re.match(r"[+~]*hydra[./]", word)]
    for word in of_hydra:
        if OTHER_SWEEPER.match(word):
            raise InputError(
                f"{word}: a sweep is planned here, before it begins, and no run returns a number "
                "that another sweeper could optimize. Leave it out, and list the values: "
                "`diversevis run -m objective.diversity=0.05,0.1,0.2`."
            )
    return [word for word in overrides if word not in of_hydra], of_hydra


def check_words(
    flags: Sequence[str], overrides: Sequence[str], known: Sequence[str] = FLAGS
) -> None:
    """Raises InputError for an unknown flag, and for a word that is not key=value."""
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


def quoted(override: str) -> str:
    """Return the override, its value in quotes if it is a path that Hydra's grammar refuses."""
    match = re.fullmatch(rf"({PATHS})=([^\"'].*)", override)
    if match is None or re.fullmatch(r"[\w./:${}\-+%@,\[\]]+", match[2], re.ASCII):
        return override
    return f"{match[1]}={in_quotes(match[2])}"


def in_quotes(value: str) -> str:
    """Return the value in quotes, as Hydra's grammar takes any text for a single string."""
    # The grammar reads a backslash as itself unless a quote or the end follows.
    escaped = re.sub(r'(\\+)(?="|$)', r"\1\1", value).replace('"', '\\"')
    return f'"{escaped}"'


def with_home(override: str) -> str:
    """Return `root=~/x` with the home folder for `~`, which shells leave alone after `=`."""
    if not override.startswith("root=~"):
        return override
    return f"root={named_folder(override.removeprefix('root='))}"


def named_folder(word: str) -> Path:
    """Return the folder, with the home folder for `~`; raises InputError if there is no such."""
    if not word:
        raise InputError("An empty word names no folder: write its name.")
    try:
        return Path(word).expanduser()
    except RuntimeError as error:  # ~nobody
        raise InputError(f"{word}: there is no such home folder ({error}).") from error


def is_folder(word: str) -> bool:
    """Whether a word names a folder. What looks like a flag or a setting does if it exists."""
    if word.startswith("-") or re.match(r"[+~]*[\w.@/]+=", word):
        return Path(word).is_dir()
    return True


def without_dashes(arguments: Sequence[str], names: Iterable[str]) -> list[str]:
    """Return the words with `key=value` for `--key value` and for `--key=value` of these names.

    Raises InputError for a name without a value.
    """
    known, words, rest = {f"--{name}" for name in names}, [], list(arguments)
    while rest:
        word = rest.pop(0)
        flag, equals, _ = word.partition("=")
        if flag in known and not equals:
            if not rest or rest[0].startswith("--"):
                raise InputError(f"{flag} needs a value after it.")
            word = f"{word}={rest.pop(0)}"
        words.append(word.removeprefix("--") if flag in known else word)
    return words


def folders_and_settings(
    arguments: Sequence[str], defaults: Mapping[str, str]
) -> tuple[list[Path], dict[str, str]]:
    """Return the folders and settings of `diversevis COMMAND FOLDER... [key=value ...]`.

    Raises InputError for a flag, for a setting not in `defaults`, and for one without a value.
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
