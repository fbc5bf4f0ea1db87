"""One run as a person describes it: which units of which layer of which network, and how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from diversevis.errors import InputError
from diversevis.images import Precondition
from diversevis.models import Model
from diversevis.objective import ResponseKind
from diversevis.optimize import Adam, Sphere

Precision = Literal["float32", "tf32"]

HIGHEST_CONTRAST = 255.0
MOST_IMAGES = 4096  # all pairs are measured at once: 0.1 GB of distances


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
    """

    diversity: float
    distance: str
    response: ResponseKind
    direction: str | None
    scale: Literal["best", "natural", "none"]
    photographs: str | None
    restarts: int


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One run: which units of which layer of which network, and how.

    n         images per unit
    device    one, or several that share the units
    batch     images that go through the network at once; `auto`: as fit
    precision of the computation on CUDA devices; results are measured in float32
    norm      `contrast` (RMS, grey levels) or `paper` (its table for VGG-19)
    record    also film the optimization: `none`, `gif` or `mp4`
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

    def __post_init__(self) -> None:
        _check_optimizer(self.optimizer)
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


def _positive(values: dict[str, float]) -> None:
    for key, value in values.items():
        if not 0 < value < float("inf"):
            raise InputError(f"{key}={value} must be above 0.")
