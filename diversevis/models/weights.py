"""Find, check and load weights: only the tensors that the target layer needs."""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import os
import pickle
import urllib.error
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from diversevis.errors import InputError
from diversevis.models.architectures import Color, TorchvisionModel, import_torchvision_models

WITH_CONFIG = ("vgg19", "resnet50")  # networks that have a file in conf/model/
WEIGHTS_FOLDER = "DIVERSEVIS_WEIGHTS"  # environment variable: a folder searched before a download


@dataclass(frozen=True, kw_only=True)
class WeightsFile:
    """An opened weights file: its tensor names, its metadata, and tensors on demand."""

    path: Path
    url: str | None  # where it was downloaded from
    names: frozenset[str]
    metadata: Mapping[str, str]
    read: Callable[[str], Tensor]  # a tensor by name

    @classmethod
    def open(cls, path: Path, url: str | None = None) -> WeightsFile:
        """Open a `.safetensors`, `.pth` or `.pt` file; raises `InputError` if it cannot be read."""
        if not path.is_file():
            raise InputError(
                f"model.weights={path} is not a file. Give a .safetensors or .pth file, or one of "
                "`imagenet` and `random`."
            )
        if path.suffix in (".pth", ".pt"):
            state = _read_pth(path)
            names = frozenset(state)
            return cls(path=path, url=url, names=names, metadata={}, read=state.__getitem__)
        if path.suffix != ".safetensors":
            raise InputError(
                f"model.weights={path}: files end in .safetensors, .pth or .pt, not "
                f"{path.suffix!r}."
            )
        try:
            file: Any = safe_open(path, "pt")
            names, metadata = frozenset(file.keys()), file.metadata() or {}
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"model.weights={path} cannot be read as a safetensors file ({error}). "
                "It is damaged or cut short: copy or download it again."
            ) from error
        return cls(path=path, url=url, names=names, metadata=metadata, read=file.get_tensor)

    def color(self, key: str) -> tuple[float, ...] | None:
        """`mean` or `std` from the metadata, unchecked; None if the file does not have it."""
        if key not in self.metadata:
            return None
        try:
            return tuple(float(value) for value in json.loads(self.metadata[key]))
        except (ValueError, TypeError) as error:
            raise InputError(
                f"{self.path}: its metadata {key}={self.metadata[key]!r} is not a list of numbers."
            ) from error


def checked_color(values: Any, what: str) -> Color:
    """Three finite numbers; raises `InputError` naming `what`."""
    is_mean = what.endswith("mean")
    fits = [0 <= value <= 1 if is_mean else 0 < value < float("inf") for value in values]
    if len(values) != 3 or not all(fits):
        legal = "in [0, 1]" if is_mean else "above 0, for pixels in [0, 1]"
        raise InputError(f"{what} must be three numbers (RGB, {legal}), not {list(values)}.")
    return values[0], values[1], values[2]


def find_weights_file(model: TorchvisionModel) -> tuple[Path, str | None]:
    """Path (and URL, if downloaded) of the weights of `model` trained on ImageNet.

    Looks first for `<model>*.safetensors` in the folder that DIVERSEVIS_WEIGHTS names, then in
    torchvision's own hub cache, and downloads them into that cache if they are missing.
    """
    folder = os.environ.get(WEIGHTS_FOLDER)
    local = _in_folder(Path(folder).expanduser(), model.name) if folder else None
    return (local, None) if local is not None else download(model)


def download(model: TorchvisionModel) -> tuple[Path, str]:
    """Path and URL of torchvision's official weights in its hub cache, downloaded if missing.

    Raises `InputError` if the download fails or its hash is wrong.
    """
    url = model.published_weights().url
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    prefix = path.stem.rpartition("-")[2]  # torchvision's file names end in the hash's first digits
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), hash_prefix=prefix, progress=True)
        except (OSError, RuntimeError) as error:
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise
            raise InputError(_why_no_download(error, model.name, url, path)) from error
    if not sha256_of_file(path).startswith(prefix):
        raise InputError(
            f"The cached weights {path} are damaged (their hash does not begin with {prefix}). "
            "Delete that file and run the command again."
        )
    return path, url


def _why_no_download(error: OSError | RuntimeError, name: str, url: str, path: Path) -> str:
    if isinstance(error, RuntimeError):  # torch.hub found a wrong hash
        return (
            f"The download of {url} does not have the published hash ({error}). Try again; if "
            "that happens twice, a proxy or the disk changes the file."
        )
    if not isinstance(error, (urllib.error.URLError, TimeoutError, ConnectionError)):
        return (
            f"The weights of model {name} could not be stored as {path} ({error}). Set "
            "TORCH_HOME to a folder that can be written, or give model.weights=FILE."
        )
    folder = os.environ.get(WEIGHTS_FOLDER)
    searched = f", and {WEIGHTS_FOLDER}={folder} holds no {name}*.safetensors" if folder else ""
    words = f"model={name}" if name in WITH_CONFIG else f"model=torchvision model.name={name}"
    return (
        f"The weights of model {name} could not be downloaded from {url} "
        f"({getattr(error, 'reason', error)}){searched}. Three remedies: run `diversevis weights "
        f"{words}` on a machine with internet and copy {path} here; give a file with "
        f"model.weights=FILE (or a folder with {WEIGHTS_FOLDER}); or use model=energy, which needs "
        "no weights."
    )


def read_tensors(
    read: Callable[[str], Tensor], wanted: Mapping[str, Tensor], source: str
) -> dict[str, Tensor]:
    """The tensors as float32; `wanted` has tensors of the right shapes, by name.

    Raises `InputError`, which names `source`, for a wrong shape or type, NaN or infinite values.
    """
    tensors = {}
    for name, expected in wanted.items():
        tensor = read(name)
        if tensor.shape != expected.shape:
            raise InputError(
                f"{source}: {name} has shape {list(tensor.shape)}, the network needs "
                f"{list(expected.shape)}. The file belongs to another network."
            )
        if not tensor.is_floating_point():
            raise InputError(f"{source}: {name} holds {tensor.dtype}, not floating-point numbers.")
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(
                f"{source}: {name} holds NaN or infinite values, so responses would be wrong. "
                "The file is damaged: copy or download it again."
            )
        tensors[name] = tensor.float()
    return tensors


def sha256_of_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read in pieces; cached until its size or time changes."""
    facts = path.stat()
    return _sha256_of_file(path, facts.st_size, facts.st_mtime_ns)


@functools.lru_cache
def _sha256_of_file(path: Path, size: int, changed: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            digest.update(piece)
    return digest.hexdigest()


def sha256_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Hexadecimal SHA-256 of tensors that do not come from a file."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + b"\0")
        digest.update(tensors[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _in_folder(folder: Path, name: str) -> Path | None:
    """`<name>*.safetensors` in `folder`, but not resnet50_32x4d where resnet50 is wanted."""
    if not folder.is_dir():
        raise InputError(f"{WEIGHTS_FOLDER}={folder} is not a folder.")
    models = import_torchvision_models().list_models()
    longer = tuple(model for model in models if model.startswith(name) and model != name)
    paths = sorted(folder.glob(f"{name}*.safetensors"))
    files = [path for path in paths if not path.name.startswith(longer)]
    if len(files) > 1:
        raise InputError(
            f"{WEIGHTS_FOLDER}={folder} holds several files for {name}: "
            f"{', '.join(path.name for path in files)}. Say which with model.weights=FILE."
        )
    return files[0] if files else None


def _read_pth(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():  # about pickle protocols; the errors below say enough
            warnings.simplefilter("ignore")
            state: Any = torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except pickle.UnpicklingError as error:
        raise InputError(
            f"model.weights={path} is refused: it is damaged, or a pickle that holds more than "
            "tensors and could run code. Save only its state_dict(), best as .safetensors."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError) as error:
        raise InputError(
            f"model.weights={path} cannot be read as a PyTorch file ({error}). "
            "It is damaged or cut short: copy or download it again."
        ) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    items = state.items() if isinstance(state, dict) else ()
    # Training on several devices puts `module.` before every name.
    tensors = {k.removeprefix("module."): v for k, v in items if isinstance(v, Tensor)}
    if not tensors:
        raise InputError(f"model.weights={path} holds no dictionary of tensors (a state_dict).")
    return tensors
