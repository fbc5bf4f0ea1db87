"""The file of a trained prior: tensors, and the record of how it was made (safetensors)."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module, resources
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from diversevis.errors import InputError, printable

Trained = Literal["patches", "mcgsm", "denoiser", "pixelcnn"]
CLASSES = {  # kind -> module and class in this room
    "patches": ("patches", "PatchMixture"),
    "mcgsm": ("mcgsm", "ScaleMixture"),
    "denoiser": ("denoiser", "Denoiser"),
    "pixelcnn": ("pixelcnn", "PixelCNN"),
}
FORMAT = 1
# Of a file's sizes: enough for ten times the published PixelCNN++.
LARGEST_SIZE, LARGEST_PRODUCT, LARGEST_REACH = 1024, 10**6, 16


@dataclass(frozen=True, kw_only=True)
class TrainedPrior:
    """A prior as its file has it.

    mean    of the photographs' colours that images are taken around, in [0, 1]; None: images are
            taken around the network's own
    record  how it was made
    digest  SHA-256 (hex) of its kind, sizes and tensors
    """

    kind: Trained
    model: nn.Module
    mean: tuple[float, ...] | None
    record: Mapping[str, Any]
    digest: str


def model_of(kind: str, sizes: Mapping[str, Any], mean: Sequence[float]) -> Any:
    """A model without training, for images around a mean in [0, 1]."""
    module, name = CLASSES[kind]
    model = getattr(import_module(f"diversevis.priors.{module}"), name)(**sizes)
    if hasattr(model, "offset"):  # of discrete grey levels: black is -1 and white 1
        model.offset.copy_(255 * torch.tensor(mean)[:, None, None] - 127.5)
    return model


def serialize(
    kind: str, model: Any, mean: tuple[float, ...], record: Mapping[str, Any],
    dtype: torch.dtype = torch.float32,
) -> bytes:  # fmt: skip
    """The bytes of the file; numbers rounded to `dtype`."""
    about = {"format": FORMAT, "kind": kind, "sizes": model.sizes, "mean": mean, "record": record}
    tensors = {
        name: value.detach().cpu().to(dtype).contiguous()
        for name, value in model.named_parameters()
    }
    return save(tensors, {"prior": json.dumps(about)})


def shipped(kind: str) -> Path | None:
    """The file that comes with this program; None where there is none."""
    path = Path(str(resources.files("diversevis.priors"))) / "trained" / f"{kind}.safetensors"
    return path if path.is_file() else None


def read_prior(path: Path, setting: str) -> TrainedPrior:
    """The prior in a file of `diversevis train-prior`, or in a checkpoint of the PyTorch port of
    PixelCNN++ (.pth), which is read without running code.

    setting  in which the user gave the file: named in errors

    Raises `InputError` for files that are missing, damaged or of another kind.
    """
    given = f"{setting}={printable(path)}"
    if not path.is_file():
        raise InputError(f"{given} is not a file. `diversevis train-prior` makes one.")
    if path.suffix in (".pth", ".pt"):
        return _read_port(path, given)
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["prior"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if about["format"] != FORMAT or about["kind"] not in CLASSES:
            raise ValueError(f"format {about['format']}, kind {about['kind']}")
        record = dict(about["record"])
        _check(about["kind"], about["sizes"], tensors)
        mean = tuple(float(value) for value in about["mean"])
        if len(mean) != about["sizes"]["colors"] or not all(map(math.isfinite, mean)):
            raise ValueError(f"mean {mean}")
        model = model_of(about["kind"], about["sizes"], mean)
        model.load_state_dict(
            {k: v.float() for k, v in tensors.items()} | dict(model.named_buffers())
        )
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{given} is no prior of `diversevis train-prior` ({type(error).__name__}: {reason})."
        ) from error
    return TrainedPrior(
        kind=about["kind"], model=model, mean=mean, record=record,
        digest=_digest({"kind": about["kind"], "sizes": about["sizes"], "mean": mean}, tensors),
    )  # fmt: skip


def _check(kind: str, sizes: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Raises `ValueError` where sizes would take more memory than the file's tensors have, and for
    numbers that are not finite."""
    for name, value in sizes.items():
        if type(value) is not int or not 1 <= value <= LARGEST_SIZE:
            raise ValueError(f"{name} is {printable(value)[:40]}")
    if math.prod(sizes.values()) > LARGEST_PRODUCT or sizes.get("reach", 0) > LARGEST_REACH:
        raise ValueError("its sizes are too large")
    if kind in ("denoiser", "pixelcnn"):
        with torch.device("meta"):
            model = getattr(
                import_module(f"diversevis.priors.{CLASSES[kind][0]}"), CLASSES[kind][1]
            )(**sizes)
        if sum(value.numel() for value in model.parameters()) != _numbers(tensors):
            raise ValueError("its sizes are not those of its tensors")
    if not all(bool(value.isfinite().all()) for value in tensors.values()):
        raise ValueError("a number is not finite")


def _numbers(tensors: Mapping[str, Tensor]) -> int:
    return sum(value.numel() for value in tensors.values())


def _read_port(path: Path, given: str) -> TrainedPrior:
    from diversevis.priors.pixelcnn_port import from_port

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise anything
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{given} cannot be read as tensors alone ({reason}).") from error
    are_tensors = isinstance(state, Mapping) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    )
    if not are_tensors or _numbers(state) > path.stat().st_size:  # a number has bytes of its own
        raise InputError(f"{given} holds no state of a model: tensors by name were expected.")
    return TrainedPrior(
        kind="pixelcnn", model=from_port(state), mean=None, record={"file": path.name},
        digest=_digest({"kind": "pixelcnn", "port": True}, state),
    )  # fmt: skip


def _digest(facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name in sorted(tensors):
        value = tensors[name].contiguous().flatten()
        digest.update(f"/{name} {value.dtype} {tuple(tensors[name].shape)}/".encode())
        digest.update(value.view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return digest.hexdigest()
