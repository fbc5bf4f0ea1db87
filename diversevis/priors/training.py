"""Training of priors on photographs: their settings, the crops, and what they are judged by."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from diversevis.errors import InputError, printable
from diversevis.photographs.files import read_ahead, shown
from diversevis.photographs.survey import Photograph, survey

# Of ImageNet's photographs, in [0, 1]: the images of most networks are grey levels around it.
MEANS = {3: (0.485, 0.456, 0.406), 1: (0.449,)}
PART = 4096  # crops in memory at once
JUDGED = 2048  # crops of the photographs that were held back
PER_DIMENSION = 60  # crops per number of a crop for the Gaussian's covariance
LARGEST_CROP = 32  # pixels: the Gaussian's covariance of larger ones has many millions of numbers


@dataclass(frozen=True, kw_only=True)
class _Training:
    """What the training of all priors has."""

    crop: int
    batch: int
    steps: int
    learning_rate: float

    @property
    def sizes(self) -> dict[str, Any]:
        """Of the model: the settings that are not about its training."""
        of_training = {"kind", "crop", "batch", "steps", "learning_rate"}
        return {name: value for name, value in asdict(self).items() if name not in of_training}

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name != "kind" and not 0 < value < float("inf"):
                raise InputError(f"prior.{name}={value} must be above 0, and finite.")
        if self.crop > LARGEST_CROP:
            raise InputError(
                f"prior.crop={self.crop}: crops have at most {LARGEST_CROP} pixels. A prior that "
                "was trained on small crops scores images of any size."
            )


@dataclass(frozen=True, kw_only=True)
class PatchesTraining(_Training):
    kind: Literal["patches"]
    components: int
    factors: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.crop != 8:
            raise InputError(f"prior.crop={self.crop}: the patches of this prior have 8 pixels.")


@dataclass(frozen=True, kw_only=True)
class ScaleMixtureTraining(_Training):
    kind: Literal["mcgsm"]
    reach: int
    components: int
    scales: int
    features: int


@dataclass(frozen=True, kw_only=True)
class DenoiserTraining(_Training):
    kind: Literal["denoiser"]
    channels: int
    layers: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layers < 2:
            raise InputError(f"prior.layers={self.layers}: a denoiser has 2 layers or more.")
        if self.channels < 6:
            raise InputError(
                f"prior.channels={self.channels}: a denoiser has 6 channels or more, two for every "
                "colour."
            )


@dataclass(frozen=True, kw_only=True)
class PixelCNNTraining(_Training):
    kind: Literal["pixelcnn"]
    channels: int
    blocks: int
    mixtures: int
    stages: int


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """One training, as a person sets it."""

    prior: PatchesTraining | ScaleMixtureTraining | DenoiserTraining | PixelCNNTraining
    data: str
    colors: Literal[1, 3]
    side: int
    photographs: int
    validation: float
    seed: int
    device: str
    root: str
    checkpoint: float
    again: bool

    def __post_init__(self) -> None:
        for name in ("side", "photographs"):
            if (value := getattr(self, name)) < 1:
                raise InputError(f"{name}={value} must be 1 or more.")
        if not 0 < self.validation < 1:
            raise InputError(
                f"validation={self.validation} is a share of the photographs: it must be above 0 "
                "and below 1, such as 0.2."
            )
        if self.side < self.prior.crop:
            raise InputError(
                f"side={self.side} is less than the crops' prior.crop={self.prior.crop} pixels."
            )
        if not 0 <= self.seed < 2**63:
            raise InputError(f"seed={self.seed} must be a whole number from 0 to 2^63 - 1.")
        if not 0 <= self.checkpoint < float("inf"):
            raise InputError(f"checkpoint={self.checkpoint} must be seconds, 0 or more.")


@dataclass(frozen=True, kw_only=True)
class Photographs:
    """Photographs in memory, from which crops are drawn.

    whole  whether grey levels stay whole numbers, as models of discrete values need them; else a
           uniform random number fills the step of a level (Theis et al. 2016)
    """

    pixels: Sequence[UInt8[np.ndarray, "rows columns color"]]
    mean: tuple[float, ...]
    whole: bool

    def crops(
        self, count: int, side: int, generator: torch.Generator
    ) -> Float[Tensor, "crop color side side"]:
        """Random crops in grey levels around the mean, half of them as in a mirror."""
        drawn = torch.rand(4, count, generator=generator, dtype=torch.float64)
        which = (drawn[0] * len(self.pixels)).long().tolist()
        crops = np.empty((count, side, side, len(self.mean)), dtype=np.uint8)
        for i, (index, down, right, mirrored) in enumerate(
            zip(which, drawn[1].tolist(), drawn[2].tolist(), (drawn[3] < 0.5).tolist(), strict=True)
        ):
            pixels = self.pixels[index]
            top = int(down * (pixels.shape[0] - side + 1))
            left = int(right * (pixels.shape[1] - side + 1))
            crop = pixels[top : top + side, left : left + side]
            crops[i] = crop[:, ::-1] if mirrored else crop
        x = torch.from_numpy(crops).permute(0, 3, 1, 2).float()
        if not self.whole:
            x += torch.rand(x.shape, generator=generator) - 0.5
        return x - 255 * torch.tensor(self.mean)[:, None, None]


def open_photographs(settings: TrainingSettings) -> tuple[Photographs, Photographs, str]:
    """Photographs to train on, others to judge by, and the digest of all their pixels.

    Which photograph is on which side depends on its pixels and the seed alone. Raises `InputError`
    for a folder with fewer than two photographs.
    """
    folder = Path(settings.data).expanduser()
    held = survey(folder, "data")

    def place(photograph: Photograph) -> str:
        return hashlib.sha256(f"{settings.seed}/{photograph.digest}".encode()).hexdigest()

    drawn = sorted({one.digest: one for one in held.photographs}.values(), key=place)
    drawn = drawn[: settings.photographs]
    if len(drawn) < 2:
        raise InputError(
            f"data={printable(folder)} holds a single photograph: a prior is trained on some and "
            "judged by others. Give a folder with two or more, as different as possible."
        )
    count = min(len(drawn) - 1, max(1, round(settings.validation * len(drawn))))
    mean, whole = MEANS[settings.colors], settings.prior.kind == "pixelcnn"
    read = read_ahead(drawn, lambda one: shown(folder / one.file, side=settings.side, mean=mean))
    pixels = [of_photograph for _, of_photograph in read]
    judged, trained = (
        Photographs(pixels=part, mean=mean, whole=whole)
        for part in (pixels[:count], pixels[count:])
    )
    return trained, judged, held.digest


def generator_of(settings: TrainingSettings, purpose: object) -> torch.Generator:
    """A generator for one purpose, or for the number of a step."""
    digest = hashlib.sha256(f"{settings.seed}/{purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def learning_rate(settings: TrainingSettings, step: int) -> float:
    """Of a step, from 1 on: rises along the first hundredth, then falls along a half cosine."""
    steps, rate = settings.prior.steps, settings.prior.learning_rate
    rise = min(1.0, step / max(1, steps // 100))
    return rate * rise * (1 + math.cos(math.pi * (step - 1) / steps)) / 2


def gaussian_cost(
    trained: Photographs, side: int, generator: torch.Generator
) -> Callable[[Float[Tensor, "crop color side side"]], Float[Tensor, " crop"]]:
    """A function: crops -> negative log-likelihood under a Gaussian with the mean and covariance of
    the photographs' crops, nats per pixel and channel."""
    size = side**2 * len(trained.mean)
    parts = -(-max(20_000, PER_DIMENSION * size) // PART)
    total, squares = torch.zeros(size).double(), torch.zeros(size, size).double()
    for _ in range(parts):
        crops = trained.crops(PART, side, generator).flatten(1).double()
        total, squares = total + crops.sum(0), squares + crops.T @ crops
    mean = total / (parts * PART)
    covariance = squares / (parts * PART) - mean[:, None] * mean
    factor = torch.linalg.cholesky(covariance + 1e-6 * torch.eye(size))
    log_determinant = factor.diagonal().log().sum() + size * math.log(2 * math.pi) / 2

    def cost(x: Tensor) -> Tensor:
        centred = (x.flatten(1).double() - mean).T
        whitened = torch.linalg.solve_triangular(factor, centred, upper=False)
        return ((whitened.square().sum(0) / 2 + log_determinant) / size).float()

    return cost
