"""The prior that a run asks for: images of the run -> their cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from diversevis.errors import InputError, printable, suggest
from diversevis.photographs.crops import Scissors
from diversevis.photographs.files import check_channels, read_ahead
from diversevis.photographs.survey import survey
from diversevis.priors.model_file import TrainedPrior, read_prior, shipped
from diversevis.priors.settings import NoPrior, PriorSettings, Spectrum, TotalVariation
from diversevis.priors.spectrum import SpectrumDistance, one_over_f, power
from diversevis.priors.tv import total_variation

SIDE = 256  # to which the shorter side of a photograph is scaled, pixels
LEAST_CONTRAST = 8.0  # RMS grey levels: flatter crops are left out, as for the natural measure
CROPS = 4096  # of photographs, for the mean spectrum; fewer of large fields
CROPS_BYTES = 2**27
LEAST_POWER = 1e-5  # of the mean over frequencies
COMPARED = 192  # crops of photographs that images are compared with
WITHOUT_FILE = "tv", "spectrum", "patches", "mcgsm"

Cost = Callable[[Float[Tensor, "set image color height width"]], Float[Tensor, "set image"]]


@dataclass(frozen=True, kw_only=True)
class View:
    """The images that a prior is shown: grey levels around a network's mean, at one norm."""

    shape: tuple[int, int, int]  # channels, rows and columns
    mean: tuple[float, ...]  # of the network's input, in [0, 1]
    norm: float
    device: torch.device

    @property
    def contrast(self) -> float:
        """RMS, in grey levels."""
        return self.norm / math.sqrt(math.prod(self.shape))


@dataclass(frozen=True, kw_only=True)
class Prior:
    """What the objective and the comparison with photographs need.

    cost      sets of images -> the cost of every image, lower for more natural ones: in nats per
              pixel and channel, but for total variation
    check     the kind and the cost of a prior that is not optimized; None: none was asked for
    crops     of photographs at the run's norm; None: no folder was given
    identity  what the costs depend on, without paths
    """

    kind: str
    cost: Cost
    check: tuple[str, Cost] | None
    crops: Float[Tensor, "crop color height width"] | None
    identity: Mapping[str, Any]


def open_prior(settings: PriorSettings, view: View) -> Prior | None:
    """The prior, ready for images of `view`; None for `prior=none`.

    Raises `InputError` for a file or a folder that cannot be used, and for a prior of other
    channels than the images'.
    """
    if isinstance(settings, NoPrior):
        return None
    crops, digest = None, None
    if settings.photographs is not None:
        folder = Path(settings.photographs).expanduser()
        digest = survey(folder, "prior.photographs").digest
        crops = _crops(folder, view)
    file = getattr(settings, "file", None)
    _, cost, of_file = _open(settings.kind, file, "prior.file", view, crops, settings)
    check, of_check = None, None
    wanted = _auto(settings.kind, view.shape[0]) if settings.check == "auto" else settings.check
    if wanted is not None:
        check_kind = wanted if wanted in WITHOUT_FILE else "file"
        path = wanted if check_kind == "file" else None
        if path is not None and not Path(path).expanduser().exists():
            raise InputError(
                f"prior.check={printable(path)} is neither a file nor a prior that needs none. "
                + suggest(path, WITHOUT_FILE)
            )
        kind, check_cost, of_check = _open(check_kind, path, "prior.check", view, crops, None)
        check = kind, check_cost
    _try(cost, "prior", settings.kind, view)
    if check is not None:
        _try(check[1], "prior.check", check[0], view)
    own = {
        name: value
        for name, value in vars(settings).items()
        if name not in ("file", "photographs", "check")
        and not (name == "exponent" and crops is not None)  # the spectrum is measured
    }
    return Prior(
        kind=settings.kind, cost=cost, check=check,
        crops=None if crops is None else crops[:: max(1, len(crops) // COMPARED)][:COMPARED],
        identity={**own, "file": of_file, "photographs": digest, "check": check and check[0],
                  "check_file": of_check},
    )  # fmt: skip


def _try(cost: Cost, setting: str, kind: str, view: View) -> None:
    """Raises `InputError`, before any work is done, where images of `view` have no finite cost."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 2, *view.shape, generator=generator).to(view.device)
    x = x * (view.norm / torch.linalg.vector_norm(x, dim=(2, 3, 4), keepdim=True))
    with torch.no_grad():
        finite = bool(cost(x).isfinite().all())
    if not finite:
        raise InputError(
            f"{setting}={kind} gives noise of the run's norm no finite cost. Use another prior, or "
            "another file of it."
        )


def _auto(kind: str, colors: int) -> str:
    """The prior to compare with, another than `kind`, that images of so many channels can have."""
    possible = {3: ("patches", "mcgsm"), 1: ("patches", "tv")}.get(colors, ("tv", "spectrum"))
    return possible[1] if kind == possible[0] else possible[0]


def _open(
    kind: str, file: str | None, setting: str, view: View, crops: Tensor | None,
    settings: PriorSettings | None,
) -> tuple[str, Cost, str | None]:  # fmt: skip
    """Kind, cost, and the digest of the file."""
    if kind == "tv" or isinstance(settings, TotalVariation):
        return kind, _per_image(lambda x: total_variation(x, view.contrast)), None
    if kind == "spectrum":
        exponent = settings.exponent if isinstance(settings, Spectrum) else 1.0
        return kind, SpectrumDistance(expected=_expected(view, crops, exponent)), None
    path = shipped(kind) if file is None else Path(file).expanduser()
    if path is None:
        raise InputError(
            f"{setting}: no {kind} prior comes with this program. Train one, `diversevis "
            f"train-prior prior={kind} data=FOLDER`, and give its file."
        )
    trained = read_prior(path, setting)
    if setting == "prior.file" and trained.kind != kind:
        raise InputError(
            f"{setting}={printable(path)} is a prior of kind {trained.kind}: use "
            f"prior={trained.kind}."
        )
    cost = _per_image(_model(trained, setting, path, view, settings))
    return trained.kind, cost, trained.digest


def _model(
    trained: TrainedPrior, setting: str, path: Path, view: View, settings: PriorSettings | None
) -> Callable[[Tensor], Tensor]:
    """The model for images around the network's mean instead of the prior's own."""
    colors, mean = view.shape[0], trained.mean
    model: Any = trained.model
    if hasattr(model, "stride"):
        model.stride = getattr(settings, "stride", model.stride)
    of_model = model.sizes["colors"]
    if colors == 1 and of_model == 3 and hasattr(model, "grey"):
        model, of_model = model.grey(), 1
        mean = None if mean is None else (sum(mean) / 3,)
    if of_model != colors:
        raise InputError(
            f"{setting}={printable(path)} is for images of {of_model} channels, and the network's "
            f"have {colors}. " + (
                f"`diversevis train-prior colors={colors}` trains one for it."
                if colors in (1, 3) else "Use prior=tv or prior=spectrum."
            )
        )  # fmt: skip
    model.requires_grad_(False).eval().to(view.device)
    model = getattr(model, "folded", lambda: model)()
    if mean is None:
        return model
    shift = 255 * (torch.tensor(view.mean) - torch.tensor(mean))
    shift = shift[:, None, None].to(view.device)
    return lambda x: model(x + shift.to(x.dtype))


def _per_image(cost: Callable[[Tensor], Tensor]) -> Cost:
    """For sets of images; an image alone is shown twice, since convolutions round it unlike
    several."""

    def of_sets(x: Tensor) -> Tensor:
        flat = x.flatten(0, 1)
        costs = cost(torch.cat([flat, flat]))[:1] if len(flat) == 1 else cost(flat)
        return costs.reshape(x.shape[:2])

    return of_sets


def _crops(folder: Path, view: View) -> Float[Tensor, "crop color height width"]:
    """Random crops of the photographs, at the norm; of every photograph equally many. Of more
    photographs than are needed, some, by their digests: a random choice."""
    given = f"prior.photographs={printable(folder)}"
    check_channels(view.shape[0], given, "leave it out")
    photographs = survey(folder, "prior.photographs").photographs
    scissors = Scissors(
        folder=folder, side=SIDE, mean=view.mean, size=view.shape[1:], norm=view.norm,
        least_contrast=LEAST_CONTRAST,
    )  # fmt: skip
    fitting = CROPS_BYTES // (4 * math.prod(view.shape))
    count = max(COMPARED, min(CROPS, fitting))
    photographs = photographs[:count]
    of_each = -(-count // len(photographs))
    drawn = read_ahead(
        photographs, lambda photograph: scissors.draw(photograph, crops=of_each, seed=0)
    )
    crops = torch.cat([scissors(sheet).x for _, sheet in drawn])
    if not len(crops):
        raise InputError(
            f"{given}: none of the crops has a contrast of "
            f"{LEAST_CONTRAST:g} RMS grey levels. Give other photographs."
        )
    return crops.to(view.device)


def _expected(view: View, crops: Tensor | None, exponent: float) -> Tensor:
    colors, height, width = view.shape
    if crops is None:
        spectrum = one_over_f(height, width, exponent, total=view.norm**2 / colors)
    else:
        spectrum = torch.stack([power(part).mean(0) for part in torch.split(crops, 1024)]).mean(0)
    # Grey photographs have no power along the axes of colour.
    return spectrum.clamp(min=LEAST_POWER * spectrum.mean()).float().to(view.device)
