"""One run as a person describes it: which units of which layer of which network, and how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from diversevis.errors import InputError
from diversevis.images import Precondition
from diversevis.models import Model
from diversevis.objective import ResponseKind
from diversevis.optimize import Adam

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
    search_steps most steps of that search
    """

    diversity: float
    distance: str
    response: ResponseKind
    direction: str | None
    scale: Literal["best", "natural", "none"]
    photographs: str | None
    restarts: int
    search_steps: int


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One run: which units of which layer of which network, and how.

    n         images per unit
    norm      `contrast` (RMS, grey levels) or `paper` (its table for VGG-19)
    record    also film the optimization: `none`, `gif` or `mp4`
    """

    model: Model
    layer: str | int
    unit: int | str | list[int | str]
    n: int
    seed: int
    device: str
    root: str
    norm: Literal["contrast", "paper"]
    contrast: float
    precondition: Precondition
    record: Literal["none", "gif", "mp4"]
    objective: ObjectiveSettings
    optimizer: Adam

    def __post_init__(self) -> None:
        positive = {
            "contrast": self.contrast,
            "optimizer.steps": self.optimizer.steps,
            "optimizer.patience": self.optimizer.patience,
            "optimizer.learning_rate": self.optimizer.learning_rate,
            "objective.restarts": self.objective.restarts,
            "objective.search_steps": self.objective.search_steps,
        }
        for key, value in positive.items():
            if not 0 < value < float("inf"):
                raise InputError(f"{key}={value} must be above 0.")
        if self.contrast > HIGHEST_CONTRAST:
            raise InputError(
                f"contrast={self.contrast}: the RMS contrast of an image, in grey levels, is at "
                f"most {HIGHEST_CONTRAST:g}; natural images have 31 to 34."
            )
        for name in ("beta1", "beta2", "smoothing"):
            if not 0 <= (value := getattr(self.optimizer, name)) < 1:
                raise InputError(f"optimizer.{name}={value} must be at least 0 and below 1.")
        if not 0 <= self.optimizer.epsilon < float("inf"):
            raise InputError(f"optimizer.epsilon={self.optimizer.epsilon} must be 0 or more.")
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
