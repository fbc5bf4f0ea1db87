"""`diversevis train-prior`: a prior of natural images, trained on a folder of photographs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from diversevis.config.arguments import check_words, split_flags
from diversevis.config.bind import bind
from diversevis.config.compose import compose_training
from diversevis.config.log import note, show_warnings
from diversevis.priors.training import TrainingSettings
from diversevis.runs import signals


def train_prior_command(arguments: Sequence[str]) -> None:
    """Print what the prior is worth, then its file.

    Raises `InputError` before anything is written.
    """
    flags, settings = split_flags(arguments)
    check_words(flags, settings, known=())
    # In conf/ the choices are a group of their own, beside those of `diversevis run`.
    words = [re.sub(r"^prior=", "training@prior=", word) for word in settings]
    training = bind(TrainingSettings, compose_training(words), "")
    show_warnings()
    from diversevis.experiment.train_prior import train_prior

    with signals.listening():
        path, record = train_prior(training, shlex.join(["diversevis", "train-prior", *arguments]))
    results = record["results"]
    note(
        f"{results['bits_per_dimension']:.3f} bits per dimension on photographs that were held "
        f"back; a Gaussian of the same covariance: {results['gaussian_bits_per_dimension']:.3f}."
    )
    print(path)
