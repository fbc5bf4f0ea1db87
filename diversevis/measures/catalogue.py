"""The measures by their names, as `analysis=` takes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from diversevis.errors import InputError, suggest
from diversevis.measures.align import measure_align
from diversevis.measures.bipartite import measure_bipartite
from diversevis.measures.deformation import measure_deformation
from diversevis.measures.dimension import measure_dimension
from diversevis.measures.diversity import measure_diversity
from diversevis.measures.gain import measure_gain
from diversevis.measures.metamers import measure_metamers
from diversevis.measures.natural import measure_natural
from diversevis.measures.phase import measure_phase
from diversevis.measures.selectivity import measure_selectivity
from diversevis.measures.shift import measure_shift
from diversevis.measures.subject import Measured, Progress, Subject
from diversevis.measures.varied import measure_varied

MEASURES: dict[str, Callable[[Subject, Progress], Measured]] = {
    "gain": measure_gain,
    "phase": measure_phase,
    "shift": measure_shift,
    "deformation": measure_deformation,
    "diversity": measure_diversity,
    "dimension": measure_dimension,
    "natural": measure_natural,
    "bipartite": measure_bipartite,
    "selectivity": measure_selectivity,
    "align": measure_align,
    "varied": measure_varied,
    "metamers": measure_metamers,
}
OF_METAMERS = ("metamers",)  # of runs with objective=metamers, which take no other
WITHOUT_IMAGES = ("phase", "natural")
# Of the folder natural=; they are not repeated with further seeds.
OF_PHOTOGRAPHS = ("natural", "varied")


def chosen(
    names: str | Sequence[str], *, with_images: bool = True, metamers: bool = False
) -> list[str]:
    """The measures that `analysis=` names, in the order of docs/method.md, section 8.

    metamers  whether the run is of metamers: `all` are then those of metamers

    Raises `InputError` for an unknown name, and for a measure of a run's images without a run.
    """
    possible = [name for name in MEASURES if with_images or name in WITHOUT_IMAGES]
    words = [names] if isinstance(names, str) else list(names)
    if "all" in words:  # and of metamers the others cannot be taken
        return [name for name in possible if (name in OF_METAMERS) == metamers]
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
    """The measure `name` of all units; its arrays, if any, also say which units these are."""
    if subject.control is not None and name not in OF_METAMERS:
        raise InputError(
            "it is measured on units, and a run of metamers has photographs in their place: it "
            "takes analysis=metamers"
        )
    measured = MEASURES[name](subject, progress)
    units = {"units": torch.tensor(subject.units)}
    return measured._replace(arrays=units | measured.arrays) if measured.arrays else measured
