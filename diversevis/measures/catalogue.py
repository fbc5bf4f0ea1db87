"""Measures of invariance of all units of a run: the leaves of `analyze` joined to its network.

Units are measured side by side in batches; what is drawn for a unit depends on the seed and the
unit alone, so that its numbers do not depend on the others. METHOD.md sections 6 to 8.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from diversevis.errors import InputError, suggest
from diversevis.measures.gain import measure_gain
from diversevis.measures.run_deformation import measure_deformation
from diversevis.measures.run_dimension import measure_dimension
from diversevis.measures.run_diversity import measure_diversity
from diversevis.measures.run_natural import measure_natural
from diversevis.measures.run_phase import measure_phase
from diversevis.measures.run_shift import measure_shift
from diversevis.measures.subject import Measured, Progress, Subject
from diversevis.method.device import precision

__all__ = ["MEASURES", "Measured", "Subject", "chosen", "measure"]

MEASURES: dict[str, Callable[[Subject, Progress], Measured]] = {
    "gain": measure_gain,
    "phase": measure_phase,
    "shift": measure_shift,
    "deformation": measure_deformation,
    "diversity": measure_diversity,
    "dimension": measure_dimension,
    "natural": measure_natural,
}
WITHOUT_IMAGES = ("phase", "natural")


def chosen(names: str | Sequence[str], *, with_images: bool = True) -> list[str]:
    """The measures that `analysis=` names, in the order of METHOD.md.

    Raises `InputError` for a name that is none, and for one that needs a run's images without them.
    """
    possible = [name for name in MEASURES if with_images or name in WITHOUT_IMAGES]
    words = [names] if isinstance(names, str) else list(names)
    if "all" in words:
        return possible
    for word in words:
        if word not in MEASURES:
            raise InputError(f"analysis={word} is no measure. {suggest(word, ['all', *MEASURES])}")
        if word not in possible:
            raise InputError(
                f"analysis={word} is measured on the images of a run: give the run's folder, or "
                f"leave it to those that need none: analysis=[{','.join(possible)}]."
            )
    return [name for name in MEASURES if name in words]


def measure(subject: Subject, name: str, progress: Progress = lambda *_: None) -> Measured:
    """One measure of all units, in plain float32."""
    with precision("float32"):
        found = MEASURES[name](subject, progress)
    units = {"units": torch.tensor(subject.units)}
    return found._replace(arrays=units | found.arrays) if found.arrays else found
