"""Whether the networks of runs still give the responses to the runs' images that were recorded.

Only networks that can be opened here, without a download and without code that is not trusted.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from diversevis.compare.runs import Run
from diversevis.config.bind import bind
from diversevis.errors import InputError
from diversevis.method.answers import (
    Answers,
    Misfit,
    answers_by,
    in_words,
    largest_change,
    opened,
)
from diversevis.method.settings import Experiment
from diversevis.models.architectures import TimmModel, TorchvisionModel
from diversevis.models.load import Network
from diversevis.models.view import View
from diversevis.models.weights import is_at_hand
from diversevis.runs.folder import RunFolder
from diversevis.runs.trust import code_of, is_trusted

MOST_IMAGES = 64  # of a run
HERE: dict[str, Any] = {"device": "cpu", "precision": "float32", "algorithms": "same",
                        "natural": None, "analysis": []}  # fmt: skip


class NotChecked(Exception):
    """Why the network of a run cannot be asked here."""


def check_networks(runs: Iterable[Run]) -> list[str]:
    """Notes about runs whose networks cannot be asked here.

    Raises `InputError` for a run whose network gives other responses to the run's images now.
    """
    unchecked: dict[str, list[Run]] = {}
    last = _Last()
    for run in sorted(runs, key=lambda run: (run.record["model"], run.record["layer"])):
        try:
            words = _difference(run, last)
        except NotChecked as reason:
            unchecked.setdefault(str(reason), []).append(run)
            continue
        if words is not None:
            raise InputError(
                f"{run.path}: {run.record['model']} as it is here is not the network that made "
                f"the run; {words}. Its weights, its code or a library have changed. Make the run "
                "anew, give the network what it had, or compare the numbers as they were measured: "
                "network=skip."
            )
    return [_note(reason, those) for reason, those in unchecked.items()]


def _note(reason: str, runs: list[Run]) -> str:
    others = f" and {len(runs) - 1} more" if len(runs) > 1 else ""
    return f"{runs[0].path}{others}: not checked against the network that made it: {reason}"


class _Last:
    """The network that was opened last: runs of one layer share it."""

    def __init__(self) -> None:
        self._key: tuple[Any, ...] = ()
        self._opened: tuple[Network, View] | None = None

    def answers(self, experiment: Experiment) -> Answers:
        """Raises `InputError` where the network cannot be opened."""
        key = repr(experiment.model), experiment.layer, experiment.reading
        if self._opened is None or key != self._key:
            self._opened = None  # free the memory of the last
            self._key, self._opened = key, opened(experiment)
        return answers_by(*self._opened, experiment)


def _difference(run: Run, last: _Last) -> str | None:
    """How the responses differ, in words; None where they are the same. Raises `NotChecked`."""
    if run.record["n"] is None:
        raise NotChecked("it has no images.")
    experiment = _experiment(run)
    try:
        arrays = RunFolder(run.path).read_images()
        units = arrays["units"].tolist()
        answers = last.answers(experiment)
    except (InputError, OSError, SafetensorError, KeyError) as error:
        raise NotChecked(str(error)) from error
    return _compared(answers, arrays, units)


def _compared(answers: Answers, arrays: dict[str, Tensor], units: list[int]) -> str | None:
    try:
        change = largest_change(
            answers, arrays["images"], arrays["responses"], units, most=MOST_IMAGES
        )
    except Misfit as reason:
        return f"the run's own images do not fit it: {reason}"
    return in_words(change) if change else None


def _experiment(run: Run) -> Experiment:
    """The run's settings; raises `NotChecked` where its network cannot be opened here."""
    config = run.record.get("config")
    if not isinstance(config, dict) or not isinstance(config.get("model"), dict):
        raise NotChecked("its run.json has no config.")
    kind, code = config["model"].get("kind"), code_of(config["model"])
    if kind == "memory":
        raise NotChecked("it was a module in a Python program.")
    if not is_trusted(run.path, code, run.record.get("made_by")):
        assert code is not None  # noqa: S101  (no code is trusted)
        raise NotChecked(
            f"the record that names its code, {code['target']!a}, was not made by this "
            "account here."
        )
    try:
        experiment = bind(Experiment, {**config, **HERE}, "")
    except InputError:
        from diversevis.config.compose import completed  # of another version; imports Hydra

        try:
            experiment = bind(Experiment, {**completed(config), **HERE}, "")
        except InputError as error:
            raise NotChecked(f"its config is not one of this version ({error})") from error
    model = experiment.model
    if isinstance(model, TimmModel) and model.weights == "pretrained":
        raise NotChecked("timm may ask the internet for its weights.")
    if isinstance(model, TorchvisionModel) and not is_at_hand(model):
        raise NotChecked("its weights are not on this machine.")
    return experiment
