"""One run as a person describes it: which units of which layer of which network, and how."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from diversevis.errors import InputError
from diversevis.measures.bipartite import Bipartite
from diversevis.measures.deformation import Deformation
from diversevis.measures.dimension import Dimension
from diversevis.measures.matching import Align
from diversevis.measures.natural import Exemplars
from diversevis.measures.phase import Phase
from diversevis.measures.shift import Shift
from diversevis.measures.varied import Varied
from diversevis.method.checks import check_at_least, check_positive
from diversevis.method.device import Algorithms, Precision
from diversevis.method.images import Precondition
from diversevis.method.objective import Metric
from diversevis.method.optimize.adam import Adam
from diversevis.method.optimize.annealed import Annealed
from diversevis.method.optimize.sphere import Sphere
from diversevis.models.architectures import Model
from diversevis.models.layer import Reading
from diversevis.models.targets import ResponseKind
from diversevis.priors.settings import PriorSettings

HIGHEST_CONTRAST = 255.0  # no image with grey levels from 0 to 255 has more
MOST_SEEDS = 1000
MOST_IMAGES = 4096  # all pairs are compared at once: 0.1 GB of distances


class Settled(NamedTuple):
    """A resolved config, as plain Python and as YAML."""

    content: dict[str, Any]
    text: str


# Values of settings by name -> the config with these in place of what a person typed.
Config = Callable[[Mapping[str, str]], Settled]


@dataclass(frozen=True, kw_only=True)
class ObjectiveSettings:
    """The objective (docs/method.md, section 4), as a person sets it."""

    diversity: float  # weight of the smallest pairwise distance
    # `pixels`, or an earlier layer in whose activations distances are measured; the target layer
    # itself: the responses of all units but the target
    distance: str
    metric: Metric  # of distances
    response: ResponseKind
    direction: str | None  # file with directions in channel space; None: units are channels
    scale: Literal["best", "natural", "none"]  # what calibrates responses and distances
    photographs: str | None  # folder for `scale=natural`
    restarts: int  # images in the search for the unit's best response
    # Share of the unit's best response: no image is rewarded for more (threshold objective).
    fraction: float | None
    # Metamers: photographs (a file, files, or a folder) that the layer's responses are matched to.
    reference: str | list[str] | None
    crop: list[int] | None  # row and column at which it begins in the photograph; None: the centre
    side: int  # to which the shorter side of the photograph is scaled, pixels
    tolerance: float | None  # relative error of the match below which nothing is gained
    # Noise in the images that are begun with, relative to the photograph; None: noise alone.
    start: float | None
    default_unit: int | str  # what `unit` is where nobody says
    # Ascending diversity weights, in place of `diversity`, at which the front is traced.
    front: list[float] | None

    @property
    def weights(self) -> list[float]:
        """The diversity weights: several where a front is traced."""
        return [self.diversity] if self.front is None else self.front

    def __post_init__(self) -> None:
        check_at_least(0, {"objective.diversity": self.diversity})
        check_positive({"objective.restarts": self.restarts})
        self._check_fraction()
        self._check_front()
        self._check_reference()
        if self.response == "mse" and self.direction is None:
            raise InputError(
                "objective.response=mse compares with a target vector: "
                "give objective.direction=FILE."
            )
        if (self.scale == "natural") != (self.photographs is not None):
            raise InputError(
                "objective.scale=natural and objective.photographs=FOLDER belong together: the "
                "scale is measured on those photographs."
            )

    def _check_fraction(self) -> None:
        if self.fraction is None:
            return
        if not 0 < self.fraction < 1:
            raise InputError(
                f"objective.fraction={self.fraction} is a share of the best response: it must "
                "be above 0 and below 1, such as 0.85."
            )
        if self.scale != "best":
            raise InputError(
                f"objective.fraction={self.fraction} is a share of the unit's best response, "
                f"so it goes with objective.scale=best, not {self.scale}."
            )

    def _check_reference(self) -> None:
        if (self.response == "match") != (self.reference is not None):
            raise InputError(
                "objective=metamers and objective.reference belong together: give the photograph "
                "to which the layer's responses are matched, objective=metamers "
                "objective.reference=photo.jpg."
            )
        if self.reference is None:
            return
        for name, value in {"direction": self.direction, "fraction": self.fraction}.items():
            if value is not None:
                raise InputError(
                    f"objective.{name}={value} does not go with metamers, whose images answer to a "
                    "photograph. Leave it out."
                )
        if self.scale == "natural":
            raise InputError(
                "objective.scale=natural scales units; the error of metamers is relative already. "
                "Use objective.scale=best."
            )
        check_at_least(1, {"objective.side": self.side})
        if self.start is not None:
            check_positive({"objective.start": self.start})
        if self.crop is not None and not is_pair(self.crop, least=0):
            raise InputError(
                f"objective.crop={self.crop} must be the row and column of the photograph at which "
                "the crop begins: objective.crop=[40,100]."
            )
        if self.tolerance is not None and not 0 < self.tolerance < 1:
            raise InputError(
                f"objective.tolerance={self.tolerance} is a relative error: it must be above 0 and "
                "below 1, such as 0.05, or null for none."
            )

    def _check_front(self) -> None:
        weights = self.front
        if weights is None:
            return
        ascending = len(weights) > 1 and sorted(set(weights)) == weights
        if not ascending or weights[0] < 0 or weights[-1] == float("inf"):
            raise InputError(
                f"objective.front={weights} must be two or more weights, ascending from 0 or "
                "above: [0,0.05,0.1,0.2,0.4]."
            )


@dataclass(frozen=True, kw_only=True)
class Measures:
    """The measures (docs/method.md, sections 6 and 8), as a person sets them."""

    phase: Phase
    shift: Shift
    deformation: Deformation
    dimension: Dimension
    natural: Exemplars
    bipartite: Bipartite
    align: Align
    varied: Varied
    # Number of units, drawn at random, for the slow measures (shift, deformation, bipartite,
    # align). None: all.
    sample: int | None
    # Number of units that get pictures: half have the lowest index, half the highest.
    pictures: int | Literal["all"]

    def __post_init__(self) -> None:
        if self.pictures != "all":
            check_at_least(0, {"measure.pictures": self.pictures})
        if self.sample is not None:
            check_at_least(1, {"measure.sample": self.sample})


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One run: which units of which layer of which network, and how."""

    model: Model
    layer: str
    unit: int | str | list[int | str]
    size: int | list[int] | None  # rows and columns of the image where units see the whole image
    position: list[int] | None  # row and column of the map that are read; None: the centre
    token: str | int | None  # `cls`, `centre`, `mean` or a number; None: cls if there is one
    n: int  # images per unit
    seed: int
    device: str | list[str | int]  # one device, or several that share the units
    batch: int | Literal["auto"]  # images that go through the network at once; auto: as many as fit
    precision: Precision  # of the computation on CUDA devices; results are measured in float32
    algorithms: Algorithms  # of convolutions on CUDA devices
    cuda_graphs: bool  # record a step of the optimization on CUDA devices, and repeat it
    root: str
    norm: Literal["contrast", "paper"]  # from `contrast`, or from the paper's table for VGG-19
    contrast: float  # RMS, in grey levels
    precondition: Precondition
    record: Literal["none", "gif", "mp4"]  # also film the optimization
    objective: ObjectiveSettings
    prior: PriorSettings  # natural images: the objective's third term
    optimizer: Adam | Annealed | Sphere
    analysis: str | list[str]  # names of the measures of invariance to take, or `all`
    natural: str | None  # folder of photographs for natural exemplars and varied images
    seeds: int  # number of seeds, from `seed` on, for the indices' mean and spread
    measure: Measures
    images: Literal["png", "tensor"]  # pictures beside the tensors, or the tensors alone
    again: bool  # make a new version of a run that is finished already
    checkpoint: float | None  # seconds between two checkpoints of a batch; None: no checkpoints
    units_per_job: int | Literal["auto"]  # units per run in a sweep; auto: as many as fill a device

    @property
    def reading(self) -> Reading:
        """Where units that see the whole image are read."""
        position = (self.position[0], self.position[1]) if self.position else None
        return Reading(checked_size(self.size), position, self.token)

    @property
    def images_per_unit(self) -> int:
        """Upper bound on one unit's images in a batch."""
        return max(self.n * len(self.objective.weights), self.objective.restarts)

    def __post_init__(self) -> None:
        self._check_images()
        self._check_front()
        self._check_reading()
        if not 1 <= self.seeds <= MOST_SEEDS:
            raise InputError(f"seeds={self.seeds} must be from 1 to {MOST_SEEDS}.")
        if self.checkpoint is not None and not 0 <= self.checkpoint < float("inf"):
            raise InputError(
                f"checkpoint={self.checkpoint} must be seconds, 0 or more; null for no checkpoints."
            )
        for name in ("units_per_job", "batch"):
            if (value := getattr(self, name)) != "auto" and value < 1:
                raise InputError(f"{name}={value} must be 1 or more, or auto.")
        seeds = {"seed": self.seed, "model.seed": getattr(self.model, "seed", 0)}
        for name, value in seeds.items():
            if not 0 <= value < 2**63:
                raise InputError(f"{name}={value} must be a whole number from 0 to 2^63 - 1.")
        if self.root == "":
            raise InputError("root= names no folder. Leave it out, or say root=outputs.")

    def _check_images(self) -> None:
        check_positive({"contrast": self.contrast})
        if self.contrast > HIGHEST_CONTRAST:
            raise InputError(
                f"contrast={self.contrast}: the RMS contrast of an image, in grey levels, is at "
                f"most {HIGHEST_CONTRAST:g}; natural images have 31 to 34."
            )
        if self.n > MOST_IMAGES:
            raise InputError(
                f"n={self.n}: at most {MOST_IMAGES} images of a unit are compared with one another."
            )
        if self.n < 1:
            raise InputError(f"n={self.n}: a unit needs at least one image.")

    def _check_reading(self) -> None:
        checked_size(self.size)
        if self.position is not None and not is_pair(self.position, least=0):
            raise InputError(
                f"position={self.position} must be a row and a column of the layer's map, from 0 "
                "on: position=[7,7]."
            )

    def _check_front(self) -> None:
        """What `n` and `record` must be for the objective."""
        front, diversity = self.objective.front, self.objective.diversity
        if front is not None and self.n < 2:
            raise InputError(f"n={self.n} leaves nothing to be diverse: a front needs n=2.")
        if front is not None and self.record != "none":
            raise InputError(
                f"record={self.record}: which images are at the knee of the front is not known "
                "before its end, so they cannot be filmed. Film a run with objective=diverse."
            )
        if self.n == 1 and diversity > 0 and self.objective.reference is None:
            raise InputError(
                f"n=1 leaves nothing to be diverse: objective.diversity={diversity} needs n=2 or "
                "more, or set objective.diversity=0."
            )


def checked_size(size: int | list[int] | None) -> tuple[int, int] | None:
    """Rows and columns of the network's images; raises `InputError` for what is no size."""
    sides = [size, size] if isinstance(size, int) else size
    if sides is None:
        return None
    if not is_pair(sides, least=1):
        raise InputError(
            f"size={size} must be the side of the network's images in pixels, size=224, or their "
            "rows and columns, size=[36,64]."
        )
    return sides[0], sides[1]


def is_pair(value: Any, least: int) -> bool:
    return isinstance(value, list) and len(value) == 2 and min(value) >= least
