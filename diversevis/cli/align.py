"""`diversevis align`: units of several runs aligned with one another, and their families."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diversevis.cli.analyze import check_code, config_of
from diversevis.cli.out import name_of, next_version
from diversevis.config.arguments import is_folder, named_folder, split_flags
from diversevis.config.bind import bind
from diversevis.config.compose import compose_config, plain
from diversevis.config.log import show_warnings
from diversevis.errors import InputError, plain_lines
from diversevis.method.settings import Experiment
from diversevis.runs.files import replacing
from diversevis.runs.folder import RunFolder
from diversevis.runs.trust import typed_targets

FREE = ("measure.align", "measure.sample", "device", "batch")
EXAMPLE = "`diversevis align outputs/vgg19/conv2_1/0-127/v001 outputs/vgg19/conv2_2/0-127/v001`."


def align_command(arguments: Sequence[str]) -> None:
    """Print a table of families, then the folder with all files.

    Raises `InputError` before anything is written.
    """
    folders = [word for word in arguments if is_folder(word)]
    targets, settings = typed_targets([word for word in arguments if word not in folders])
    outs = [word for word in settings if word.startswith("out=")]
    settings = [word for word in settings if word not in outs]
    if not folders:
        raise InputError(f"align needs run folders. Example: {EXAMPLE}")
    _check_settings(settings)
    out = outs[-1].removeprefix("out=") if outs else ""
    above = named_folder(out) if out else Path("outputs", "align", _name(folders))
    config = plain(compose_config(settings))
    runs = [(Path(folder), config_of(Path(folder), [], EXAMPLE)) for folder in folders]
    check_code(runs, targets)
    experiments = [(RunFolder(path), _experiment(made, config)) for path, made in runs]
    show_warnings()
    from diversevis.experiment.align import align_runs
    from diversevis.experiment.align_files import files, table

    align = bind(Experiment, config, "").measure.align
    groups, agreement = align_runs(experiments, align)
    contents = files(groups, align, agreement)
    folder = next_version(above)
    for name, content in contents.items():
        with replacing(folder / name) as beside:
            beside.write_bytes(content)
    print(plain_lines(table(groups, agreement)))
    print(folder)


def _check_settings(settings: Sequence[str]) -> None:
    for word in split_flags(settings)[1]:
        key = word.split("=")[0].lstrip("+")
        if not any(key == free or key.startswith(f"{free}.") for free in FREE):
            raise InputError(
                f"{word}: what a run is made of is fixed in its folder. `diversevis align` takes "
                "folders of runs, out=FOLDER, measure.align.KEY=..., measure.sample=..., "
                "device=..., batch=..., and model.target=... for a custom network whose code you "
                "trust."
            )


def _experiment(made: Mapping[str, Any], config: Mapping[str, Any]) -> Experiment:
    """The run's, with the settings that are typed now, and without what aligning does not need."""
    today = {key: config[key] for key in ("measure", "device", "batch")}
    return bind(Experiment, {**made, **today, "analysis": [], "natural": None, "seeds": 1}, "")


def _name(folders: Sequence[str]) -> str:
    more = f"_and_{len(folders) - 1}_more" if folders[1:] else ""
    return name_of(Path(folders[0])) + more
