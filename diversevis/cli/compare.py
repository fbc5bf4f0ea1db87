"""`diversevis compare`: its arguments."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from diversevis.cli.out import name_of, next_version
from diversevis.compare import files
from diversevis.compare.comparison import compare
from diversevis.config.arguments import folders_and_settings, named_folder
from diversevis.config.log import note
from diversevis.errors import InputError, plain_lines
from diversevis.runs.files import replacing


def compare_command(arguments: Sequence[str]) -> None:
    """`diversevis compare A B [out=FOLDER] [resamples=10000] [seed=0] [network=skip]`: prints a
    table for every pair of runs, then the folder with all files.

    Raises `InputError` for unknown arguments, and for runs that `compare` refuses.
    """
    defaults = {"out": "", "resamples": "10000", "seed": "0", "network": "check"}
    folders, settings = folders_and_settings(arguments, defaults)
    if len(folders) != 2:
        raise InputError(
            f"compare needs two folders, A and B, and was given {len(folders)}. Example: "
            "`diversevis compare outputs/vgg19 outputs/resnet50`; see `diversevis compare --help`."
        )
    a, b = folders
    resamples = _whole_number("resamples", settings["resamples"], 100, 1_000_000)
    seed = _whole_number("seed", settings["seed"], 0, 2**63 - 1)
    if settings["network"] not in ("check", "skip"):
        raise InputError(f"network={settings['network']} must be check or skip.")
    networks = settings["network"] == "check"
    result = compare(a, b, resamples=resamples, seed=seed, networks=networks)
    for text in result["notes"]:
        note(text)
    default = Path("outputs", "compare", f"{name_of(a)}_vs_{name_of(b)}")
    out = next_version(named_folder(settings["out"]) if settings["out"] else default)
    for name, content in files.files(result).items():
        with replacing(out / name) as beside:
            beside.write_bytes(content)
    for pair in result["pairs"]:
        print(plain_lines(files.table(pair)), end="\n\n")
    print(out)


def _whole_number(key: str, text: str, least: int, most: int) -> int:
    if not re.fullmatch(r"[0-9]{1,19}", text) or not least <= int(text) <= most:
        raise InputError(f"{key}={text} must be a whole number from {least} to {most}.")
    return int(text)
