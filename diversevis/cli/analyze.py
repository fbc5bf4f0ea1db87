"""`diversevis analyze`: measures of finished runs, or of units without a run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diversevis.cli.summary import say_findings
from diversevis.config.arguments import is_folder, split_flags
from diversevis.config.bind import bind
from diversevis.config.compose import completed, compose_config, plain, settled
from diversevis.config.log import show_warnings
from diversevis.errors import InputError
from diversevis.measures.catalogue import OF_PHOTOGRAPHS, chosen
from diversevis.method.settings import Experiment
from diversevis.runs import files
from diversevis.runs.check import check, read_rest
from diversevis.runs.files import Damaged
from diversevis.runs.folder import RunFolder
from diversevis.runs.tensors import check_arrays
from diversevis.runs.trust import check_typed, code_of, distrust, is_trusted, typed_targets

# Settings that may differ from those of the run; the images were made with all others.
FREE = ("analysis", "measure", "natural", "device", "batch", "images")
EXAMPLES = "outputs/vgg19/conv2_1/12/v001, or units: model=vgg19 layer=conv2_1 unit=all."


def analyze_command(arguments: Sequence[str]) -> None:
    """Print each run's folder once it is measured; raises InputError before anything is begun."""
    folders = [word for word in arguments if is_folder(word)]
    settings = [word for word in arguments if word not in folders]
    targets, others = typed_targets(settings)
    settings = others if folders else settings
    if not folders and not any(word.startswith(("model=", "layer=")) for word in settings):
        raise InputError(f"analyze needs run folders, such as {EXAMPLES}")
    if not any(word.startswith("analysis=") for word in settings):
        settings.append("analysis=all")
    if folders:
        _analyze_runs(folders, settings, targets)
        return
    config = plain(compose_config(settings))
    show_warnings()
    from diversevis.experiment.analyze import analyze_units

    typed = shlex.join(["diversevis", "analyze", *arguments])
    made = analyze_units(bind(Experiment, config, ""), command=typed, config=settled(config))
    say_findings(made)
    print(made)


def _analyze_runs(folders: Sequence[str], settings: Sequence[str], targets: Sequence[str]) -> None:
    for word in split_flags(settings)[1]:
        if word.split("=")[0].split(".")[0].lstrip("+") not in FREE:
            raise InputError(
                f"{word}: what a run is made of is fixed in its folder. With folders, "
                f"`diversevis analyze` takes {', '.join(f'{key}=...' for key in FREE)}, and "
                "model.target=... for a custom network whose code you trust."
            )
    config = plain(compose_config(settings))
    runs = [(Path(folder), config_of(Path(folder), config["analysis"])) for folder in folders]
    check_code(runs, targets)
    free = {key: config[key] for key in FREE if key != "natural" or config[key] is not None}
    asked = bind(Experiment, config, "").analysis
    if not {"all", *OF_PHOTOGRAPHS} & {*([asked] if isinstance(asked, str) else asked)}:
        free["natural"] = config["natural"]  # not the run's: nobody has typed it here
    experiments = [bind(Experiment, {**made, **free, "seeds": 1}, "") for _, made in runs]
    show_warnings()
    from diversevis.experiment.analyze import analyze_run

    for (run, _), experiment in zip(runs, experiments, strict=True):
        analyze_run(RunFolder(run), experiment)
        if len(runs) == 1:
            say_findings(run)
        print(run, flush=True)


def check_code(runs: Sequence[tuple[Path, Mapping[str, Any]]], targets: Sequence[str]) -> None:
    """Raises `InputError` for a run whose network's code is neither typed nor this account's."""
    codes = [code_of(config["model"]) for _, config in runs]
    check_typed(targets, codes)
    for (path, _), code in zip(runs, codes, strict=True):
        made_by = RunFolder(path).read_record().get("made_by")
        if code is not None and not is_trusted(path, code, made_by, targets):
            raise InputError(distrust(str(path), code))


def config_of(path: Path, asked: str | Sequence[str], example: str = EXAMPLES) -> Mapping[str, Any]:
    """The config of the run at `path`, with defaults for settings that it lacks; raises InputError
    if its files do not fit together.

    asked    the measures to be taken, as `analysis=` names them; their arrays may be damaged
    example  what to name instead
    """
    try:
        record, changed = files.read_record(path)
        anew = chosen(asked, metamers=bool(record.get("references")))
        if record["status"] == "running":
            raise InputError(f"{path}: this run is running, not finished. Run it again first.")
        # Metrics are written once all images are made: what failed then was a measure or a picture.
        measured = check(read_rest(path, record, changed, thorough=True)).measures
        check_arrays(path, [name for name in measured if name not in anew])
        if not isinstance(model := record["config"].get("model"), dict):
            raise Damaged(f"run.json: config.model is {files.shown(model)}")
    except Damaged as reason:
        raise InputError(
            f"{path} cannot be measured: {reason}. Name folders of finished runs, such as "
            f"{example} `diversevis retry` repeats what is damaged."
        ) from reason
    if model.get("kind") == "memory":
        raise InputError(
            f"{path}: its network was a module in a Python program, which no command can open. "
            "Measure there: diversevis.visualize(..., analysis=[...])."
        )
    config = completed(record["config"])
    bind(Experiment, config, "")  # of what it says, nothing may be of another kind
    return config
