"""Is the network that a run's images are shown to now the network that made them?"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from diversevis.errors import InputError
from diversevis.experiment.results import UnitResult
from diversevis.method.answers import Misfit, answers_of, in_words, largest_change
from diversevis.method.setup import Setup
from diversevis.runs.folder import RunFolder

ANEW = "Make the run anew: again=true makes a new version"


def check_network(setup: Setup, folder: RunFolder) -> None:
    """Raises `InputError` where the network of the setup is not that of the run: other weights,
    other computation, or other responses to the run's images."""
    record = folder.read_record()
    source, sha256 = (record["weights"].get(name) for name in ("source", "sha256"))
    network = setup.network
    computed = record.get("computation")
    same_code = computed is None or computed == setup.computation
    if record["n"] is None:
        changed, words = False, "it has no images to compare responses to"
    else:
        arrays = folder.read_images()
        units = arrays["units"].tolist()
        changed, words = _compared(setup, arrays["images"], arrays["responses"], units)
    if sha256 != network.weights.sha256:
        raise InputError(
            f"{folder.path}: its images were made with other weights ({source}) than "
            f"{network.weights.source} holds; {words}. Give the same weights. Else: {ANEW}."
        )
    if not same_code:
        raise InputError(
            f"{folder.path}: its images were made with a network that computed something else "
            f"than {network.name} does now; {words}. Since then its code has changed, or a "
            f"library. {ANEW}."
        )
    if changed:
        raise InputError(
            f"{folder.path}: its images were made with a network that gave other responses than "
            f"{network.name} does now; {words}. Since then a library or the network's code has "
            f"changed, or the file of images. {ANEW}."
        )


def check_results(setup: Setup, results: Sequence[UnitResult]) -> None:
    """Raises `InputError` where the network gives other responses than those of the results, which
    an earlier process saved."""
    if not results:
        return
    units = [result.visualization for result in results]
    images = torch.stack([unit.images for unit in units])
    responses = torch.stack([unit.responses for unit in units])
    changed, words = _compared(setup, images, responses, [unit.unit for unit in units])
    if changed:
        raise InputError(
            f"{setup.network.name} gives other responses than when this run was begun; {words}. "
            f"Since then a library or the network's code has changed. {ANEW}."
        )


def _compared(
    setup: Setup, images: torch.Tensor, responses: torch.Tensor, units: Sequence[int]
) -> tuple[bool, str]:
    """Whether the responses have changed, and in words by how much."""
    try:
        change = largest_change(answers_of(setup), images, responses, units)
    except Misfit as reason:
        return True, f"the run's own images do not fit it: {reason}"
    return bool(change), in_words(change)
