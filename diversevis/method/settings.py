"""One run as a person describes it: which units of which layer of which network, and how."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from diversevis.errors import InputError
from diversevis.measures.deformation import Deformation
from diversevis.measures.dimension import Dimension
from diversevis.measures.natural import Exemplars
from diversevis.measures.phase import Phase
from diversevis.measures.shift import Shift
from diversevis.method.device import Precision
from diversevis.method.images import Precondition
from diversevis.method.objective import ResponseKind
from diversevis.method.optimize.adam import Adam
from diversevis.method.optimize.sphere import Sphere
from diversevis.models.architectures import Model

HIGHEST_CONTRAST = 255.0
MOST_SEEDS = 1000
MOST_IMAGES = 4096  # all pairs are measured at once: 0.1 GB of distances


class Settled(NamedTuple):
    """A resolved config, as plain Python and as YAML."""

    content: dict[str, Any]
    text: str


# The config, with the given settings in place of what was typed.
Config = Callable[[Mapping[str, str]], Settled]


@dataclass(frozen=True, kw_only=True)
class ObjectiveSettings:
    """METHOD.md section 4, as a person sets it.

    diversity    weight of the smallest pairwise distance
    distance     `pixels`, or an earlier layer in whose activations distances are measured
    response     `max`, `cos` or `mse`
    direction    file with directions in channel space; None: units are channels
    scale        what calibrates responses and distances: `best`, `natural` or `none`
    photographs  folder for `scale=natural`
    restarts     images of the search for the unit's best response
    fraction     of the unit's best response: no image needs more (threshold objective); None:
                 the more the better
    front        weights at which the front of response against diversity is traced, ascending, in
                 place of `diversity`; None: no front
    """

    diversity: float
    distance: str
    response: ResponseKind
    direction: str | None
    scale: Literal["best", "natural", "none"]
    photographs: str | None
    restarts: int
    fraction: float | None
    front: list[float] | None

    @property
    def weights(self) -> list[float]:
        """Of the smallest distance: several where the front is traced."""
        return [self.diversity] if self.front is None else self.front


@dataclass(frozen=True, kw_only=True)
class Measures:
    """METHOD.md sections 6 and 8, as a person sets them.

    sample    units that the slow measures, shift and deformation, take, drawn at random; None: all
    pictures  units that get pictures of their own: `all`, or so many, half of them with the lowest
              and half with the highest index
    """

    phase: Phase
    shift: Shift
    deformation: Deformation
    dimension: Dimension
    natural: Exemplars
    sample: int | None
    pictures: int | Literal["all"]


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One run: which units of which layer of which network, and how.

    n         images per unit
    device    one, or several that share the units
    batch     images that go through the network at once; `auto`: as fit
    precision of the computation on CUDA devices; results are measured in float32
    norm      `contrast` (RMS, grey levels) or `paper` (its table for VGG-19)
    record    also film the optimization: `none`, `gif` or `mp4`
    analysis  measures of invariance to take: their names, or `all`
    natural   folder of photographs for natural exemplars
    seeds     how many seeds, from `seed` on: the indices' mean and spread over them
    measure   how measures are taken
    images    what is written of them: `png`, pictures beside the tensors, or the `tensor` alone
    again     make a new version of work that is there already
    checkpoint     seconds between two checkpoints of a batch of units; None: none
    units_per_job  of a sweep: so many units of a layer make one run; `auto`: as fill a device
    """

    model: Model
    layer: str | int
    unit: int | str | list[int | str]
    n: int
    seed: int
    device: str | list[str | int]
    batch: int | Literal["auto"]
    precision: Precision
    root: str
    norm: Literal["contrast", "paper"]
    contrast: float
    precondition: Precondition
    record: Literal["none", "gif", "mp4"]
    objective: ObjectiveSettings
    optimizer: Adam | Sphere
    analysis: str | list[str]
    natural: str | None
    seeds: int
    measure: Measures
    images: Literal["png", "tensor"]
    again: bool
    checkpoint: float | None
    units_per_job: int | Literal["auto"]

    @property
    def images_per_unit(self) -> int:
        """At most, at once."""
        return max(self.n * len(self.objective.weights), self.objective.restarts)

    def __post_init__(self) -> None:
        _check_optimizer(self.optimizer)
        _check_front(self)
        _check_measures(self.measure)
        if not 1 <= self.seeds <= MOST_SEEDS:
            raise InputError(f"seeds={self.seeds} must be from 1 to {MOST_SEEDS}.")
        if self.checkpoint is not None and not 0 <= self.checkpoint < float("inf"):
            raise InputError(
                f"checkpoint={self.checkpoint} must be seconds, 0 or more; null for no checkpoints."
            )
        if isinstance(self.units_per_job, int) and self.units_per_job < 1:
            raise InputError(f"units_per_job={self.units_per_job} must be 1 or more, or auto.")
        positive = {"contrast": self.contrast, "objective.restarts": self.objective.restarts}
        _positive(positive)
        if isinstance(self.batch, int) and self.batch < 1:
            raise InputError(f"batch={self.batch} must be 1 or more, or auto.")
        if self.contrast > HIGHEST_CONTRAST:
            raise InputError(
                f"contrast={self.contrast}: the RMS contrast of an image, in grey levels, is at "
                f"most {HIGHEST_CONTRAST:g}; natural images have 31 to 34."
            )
        if self.n > MOST_IMAGES:
            raise InputError(
                f"n={self.n}: at most {MOST_IMAGES} images of a unit are compared with one another."
            )
        seeds = {"seed": self.seed, "model.seed": getattr(self.model, "seed", 0)}
        for key, value in seeds.items():
            if not 0 <= value < 2**63:
                raise InputError(f"{key}={value} must be a whole number from 0 to 2^63 - 1.")
        if self.root == "":
            raise InputError("root= names no folder. Leave it out, or say root=outputs.")
        if self.n < 1:
            raise InputError(f"n={self.n}: a unit needs at least one image.")
        if not 0 <= self.objective.diversity < float("inf"):
            raise InputError(f"objective.diversity={self.objective.diversity} must be 0 or more.")
        if self.n == 1 and self.objective.diversity > 0:
            raise InputError(
                f"n=1 leaves nothing to be diverse: objective.diversity="
                f"{self.objective.diversity} needs n=2 or more, or set objective.diversity=0."
            )
        if self.objective.response == "mse" and self.objective.direction is None:
            raise InputError(
                "objective.response=mse compares with a target vector: "
                "give objective.direction=FILE."
            )
        if (self.objective.scale == "natural") != (self.objective.photographs is not None):
            raise InputError(
                "objective.scale=natural and objective.photographs=FOLDER belong together: the "
                "scale is measured on those photographs."
            )


def _check_optimizer(optimizer: Adam | Sphere) -> None:
    names = {"steps", "search_steps", "learning_rate", "patience", "tolerance"}
    values = {k: v for k, v in vars(optimizer).items() if k in names}
    _positive({f"optimizer.{name}": value for name, value in values.items()})
    for name in ("beta1", "beta2", "smoothing", "momentum"):
        if not 0 <= (value := getattr(optimizer, name, 0)) < 1:
            raise InputError(f"optimizer.{name}={value} must be at least 0 and below 1.")
    for name, least in (("epsilon", 0), ("softness", 0), ("emphasis", 1)):
        if not least <= (value := getattr(optimizer, name, least)) < float("inf"):
            raise InputError(f"optimizer.{name}={value} must be {least} or more.")


def _check_front(experiment: Experiment) -> None:
    objective = experiment.objective
    if objective.fraction is not None:
        if not 0 < objective.fraction < 1:
            raise InputError(
                f"objective.fraction={objective.fraction} is a share of the best response: it must "
                "be above 0 and below 1, such as 0.85."
            )
        if objective.scale != "best":
            raise InputError(
                f"objective.fraction={objective.fraction} is a share of the unit's best response, "
                f"so it goes with objective.scale=best, not {objective.scale}."
            )
    if (weights := objective.front) is None:
        return
    ascending = len(weights) > 1 and sorted(set(weights)) == weights
    if not ascending or weights[0] < 0 or weights[-1] == float("inf"):
        raise InputError(
            f"objective.front={weights} must be two or more weights, ascending from 0 or above: "
            "[0,0.05,0.1,0.2,0.4]."
        )
    if experiment.n < 2:
        raise InputError(f"n={experiment.n} leaves nothing to be diverse: a front needs n=2.")
    if experiment.record != "none":
        raise InputError(
            f"record={experiment.record}: which images are at the knee of the front is not known "
            "before its end, so they cannot be filmed. Film a run with objective=diverse."
        )


def _check_measures(measure: Measures) -> None:
    phase, shift, deformation = measure.phase, measure.shift, measure.deformation
    least = {
        "pictures": (0 if measure.pictures == "all" else measure.pictures, 0),
        "sample": (1 if measure.sample is None else measure.sample, 1),
        "phase.orientations": (phase.orientations, 1),
        "phase.per_octave": (phase.per_octave, 1),
        "phase.phases": (phase.phases, 8),  # METHOD.md section 8
        "shift.steps": (shift.steps, 1),
        "shift.softness": (shift.softness, 0),
        "shift.crops": (1 if shift.crops is None else shift.crops, 1),
        "deformation.draws": (deformation.draws, 1),
        "dimension.points": (measure.dimension.points, 1),
        "natural.top": (measure.natural.top, 1),
        "natural.crops": (measure.natural.crops, 1),
        "natural.side": (measure.natural.side, 1),
        "natural.least_contrast": (measure.natural.least_contrast, 0),
        "natural.refine": (measure.natural.refine, 0),
    }
    for name, (value, smallest) in least.items():
        if not smallest <= value < float("inf"):
            raise InputError(f"measure.{name}={value} must be {smallest} or more.")
    if not 0 <= shift.minimum <= 1:
        raise InputError(f"measure.shift.minimum={shift.minimum} must be from 0 to 1.")
    if not 0 < measure.dimension.connected <= 1:
        raise InputError(
            f"measure.dimension.connected={measure.dimension.connected} must be above 0, at most 1."
        )
    if not 1 < deformation.cutoff < float("inf"):
        raise InputError(f"measure.deformation.cutoff={deformation.cutoff} must be above 1.")
    deltas = deformation.deltas
    if not deltas or sorted(set(deltas)) != deltas or deltas[0] <= 0:
        raise InputError(
            f"measure.deformation.deltas={deltas} must be displacements in pixels, above 0, "
            "ascending: [0.25,0.5,1,2,4]."
        )
    if deformation.delta not in deltas:
        raise InputError(
            f"measure.deformation.delta={deformation.delta} is not one of "
            f"measure.deformation.deltas={deltas}."
        )


def _positive(values: dict[str, float]) -> None:
    for key, value in values.items():
        if not 0 < value < float("inf"):
            raise InputError(f"{key}={value} must be above 0.")
