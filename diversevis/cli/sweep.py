"""`diversevis run -m`: the combinations of a sweep's settings, planned before any is launched."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from diversevis.config.arguments import in_quotes, quoted
from diversevis.config.compose import experiment_of, plain
from diversevis.config.conf_dir import config_folder
from diversevis.config.log import speak
from diversevis.config.messages import plain_errors
from diversevis.errors import InputError
from diversevis.method.settings import Experiment
from diversevis.sweep.jobs import shown
from diversevis.sweep.launch import launch


def is_sweep(flags: Sequence[str], overrides: Sequence[str]) -> bool:
    """Whether a sweep is to be planned here: not if only configs are shown, or by a sweeper that
    chooses as it goes."""
    asked = {"-m", "--multirun"} & set(flags)
    shows = {"--cfg", "-c", "--info", "-i", "--hydra-help", "--shell-completion", "-sc"}
    chooses = any(re.match(r"\+?hydra/sweeper=(?!basic$)", word) for word in overrides)
    return bool(asked) and not shows & set(flags) and not chooses


def sweep_command(flags: Sequence[str], overrides: Sequence[str], typed: str) -> None:
    """Plan, launch, and say what came of it.

    Raises `InputError` for anything in it that cannot be had, before anything is begun;
    `SweepUnfinished` where not all of it is finished in the end.
    """
    speak()
    ours, launcher = apart(overrides)
    from diversevis.sweep.plan import Combination, plan

    combinations = [
        Combination(experiment_of(config), plain(config)) for config in _combinations(flags, ours)
    ]
    roots = {Path(one.experiment.root).expanduser().resolve() for one in combinations}
    if len(roots) > 1:
        raise InputError(
            f"root={','.join(map(str, sorted(roots)))}: a sweep has one root. Type one command "
            "after the other."
        )
    kinds = [_kind_of_device(one.experiment, launcher) for one in combinations]
    planned = plan(combinations, kinds)
    for folder, units in planned.found.items():
        print(f"{shown(folder)} has {units} of these units, finished: skipped", file=sys.stderr)
    if planned.works:
        launch(roots.pop(), planned.works, planned.jobs, launcher, typed)
    else:
        print("diversevis: all of it is finished. again=true makes new versions.", file=sys.stderr)
    for folder in planned.found:
        print(shown(folder), flush=True)


def _combinations(flags: Sequence[str], overrides: Sequence[str]) -> Iterator[DictConfig]:
    """The config of every combination of swept values, all units of a sweep over them in one."""
    parser = OverridesParser.create()
    with plain_errors(overrides):
        parsed = parser.parse_overrides([quoted(word) for word in overrides])
    axes: dict[str, list[str]] = {}
    for override in parsed:
        key = override.get_key_element()
        axes[key] = [f"{key}={value}" for value in _values(override)]
    folder, name = _config_flags(flags)
    extra = [f"hydra.searchpath=[{in_quotes(str(folder))}]"] if folder else []
    with plain_errors(overrides), initialize_config_dir(config_folder(), version_base="1.3"):
        for words in itertools.product(*axes.values()):
            yield compose(name, overrides=[*words, *extra])


def _values(override: Override) -> list[str]:
    """What an override says, value by value if it sweeps; of a sweep over units, all in one."""
    if not override.is_sweep_override():
        return [override.get_value_element_as_str()]
    if not override.is_discrete_sweep():
        raise InputError(
            f"{override.input_line}: a range without steps needs another sweeper "
            "(hydra/sweeper=...). Write a list, key=1,2,3, or range(start,stop,step)."
        )
    values = list(override.sweep_string_iterator())
    if override.get_key_element() != "unit":
        return values
    parts = [part for value in values for part in value.strip("[]").split(",")]
    return ["all"] if "all" in parts else [f"[{','.join(parts)}]"]


def apart(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """What is Hydra's own (the launcher and its settings), and the rest."""
    hydras = [word for word in overrides if re.match(r"[+~]*hydra[./]", word)]
    return [word for word in overrides if word not in hydras], hydras


def _config_flags(flags: Sequence[str]) -> tuple[Path | None, str]:
    """The folder and name of a config given instead of ours."""
    folder, name = None, "run"
    words = list(itertools.chain.from_iterable(flag.split("=", 1) for flag in flags))
    for flag, value in itertools.pairwise(words):
        if flag in ("--config-dir", "-cd"):
            folder = Path(value).resolve()
        if flag in ("--config-name", "-cn"):
            name = value
    return folder, name


def _kind_of_device(experiment: Experiment, launcher: Sequence[str]) -> str:
    """What the jobs will run on: `cpu` or `cuda`, told by the settings; else by this machine."""
    words = str(experiment.device)
    if words != "auto":
        return "cuda" if "cuda" in words else "cpu"
    if "hydra/launcher=slurm" in launcher:
        none = {f"hydra.launcher.gpus_per_node={value}" for value in ("0", "null")}
        return "cpu" if none & set(launcher) else "cuda"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
