"""The priors as a person sets them: a dataclass for each choice of the group `prior`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from diversevis.errors import InputError

Reduce = Literal["mean", "sum"]


@dataclass(frozen=True, kw_only=True)
class NoPrior:
    """The objective has no term for natural images."""

    kind: Literal["none"]


@dataclass(frozen=True, kw_only=True)
class _Settings:
    """What all priors have in common."""

    weight: float  # of the cost in the objective
    # `mean` over pixels, channels and images, as a person compares fields of any size; `sum` over
    # them all, as published.
    reduce: Reduce
    photographs: str | None  # folder of photographs whose crops the images are compared with
    # A prior that is not optimized: a kind, a file of `train-prior`, or `auto`.
    check: str | None

    def __post_init__(self) -> None:
        if not 0 <= self.weight < float("inf"):
            raise InputError(
                f"prior.weight={self.weight} must be 0 or more: the weight of the prior's cost."
            )


@dataclass(frozen=True, kw_only=True)
class TotalVariation(_Settings):
    kind: Literal["tv"]


@dataclass(frozen=True, kw_only=True)
class Spectrum(_Settings):
    kind: Literal["spectrum"]
    # Without photographs: amplitudes fall with frequency to this power (1: as in photographs).
    exponent: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.exponent <= 4:
            raise InputError(
                f"prior.exponent={self.exponent} must be from 0 (white) to 4; photographs have "
                "about 1."
            )


@dataclass(frozen=True, kw_only=True)
class Patches(_Settings):
    kind: Literal["patches"]
    file: str | None  # of `diversevis train-prior`; None: the one that comes with this program
    stride: int  # pixels between patches

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.stride <= 8:
            raise InputError(
                f"prior.stride={self.stride} must be from 1 to 8 pixels: the patches have 8, and "
                "none may be left out between them."
            )


@dataclass(frozen=True, kw_only=True)
class ScaleMixture(_Settings):
    kind: Literal["mcgsm"]
    file: str | None  # of `diversevis train-prior`; None: the one that comes with this program


@dataclass(frozen=True, kw_only=True)
class Denoiser(_Settings):
    kind: Literal["denoiser"]
    file: str  # of `diversevis train-prior`


@dataclass(frozen=True, kw_only=True)
class PixelCNN(_Settings):
    kind: Literal["pixelcnn"]
    file: str  # of `diversevis train-prior`, or a checkpoint of the common PyTorch port


PriorSettings = NoPrior | TotalVariation | Spectrum | Patches | ScaleMixture | Denoiser | PixelCNN
