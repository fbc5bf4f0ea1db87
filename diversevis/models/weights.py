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
from collections.abc import Iterable, Mapping
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
class WeightsRecord:
    """The origin of a network's weights, as run.json records it.

    source  path, `random` with its seed, `analytic` or `own`
    url     where a downloaded file came from
    sha256  of the file, or of the tensors used where there is no file
    mean, std          of the network's input, RGB in [0, 1]
    mean_std_source    their source: `weights file`, `config` or `torchvision`
    """

    source: str
    is_file: bool
    url: str | None
    sha256: str
    mean: Color
    std: Color
    mean_std_source: str


@dataclass(frozen=True, kw_only=True)
class WeightsFile:
    """An opened weights file: its tensor names, its metadata, and tensors on demand."""

    path: Path
    names: frozenset[str]
    metadata: Mapping[str, str]
    _state: Mapping[str, Tensor] | None

    @classmethod
    def open(cls, path: Path) -> WeightsFile:
        """Open a `.safetensors`, `.pth` or `.pt` file; raises `InputError` if it cannot be read."""
        if not path.is_file():
            raise InputError(
                f"model.weights={path} is not a file. Give a .safetensors or .pth file, or one of "
                "`imagenet` and `random`."
            )
        if path.suffix == ".safetensors":
            try:
                with safe_open(path, "pt") as file:
                    return cls(
                        path=path,
                        names=frozenset(file.keys()),
                        metadata=file.metadata() or {},
                        _state=None,
                    )
            except (SafetensorError, OSError) as error:
                raise InputError(
                    f"model.weights={path} cannot be read as a safetensors file ({error}). "
                    "It is damaged or cut short: copy or download it again."
                ) from error
        if path.suffix in (".pth", ".pt"):
            state = _read_pth(path)
            return cls(path=path, names=frozenset(state), metadata={}, _state=state)
        raise InputError(
            f"model.weights={path}: files end in .safetensors, .pth or .pt, not {path.suffix!r}."
        )

    def tensors(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Tensors by name; the file must have all of them."""
        if self._state is not None:
            return {name: self._state[name] for name in names}
        with safe_open(self.path, "pt") as file:
            return {name: file.get_tensor(name) for name in names}

    def color(self, key: str) -> Color | None:
        """`mean` or `std` from the metadata; None if the file does not have it."""
        if key not in self.metadata:
            return None
        try:
            values = tuple(float(value) for value in json.loads(self.metadata[key]))
        except (ValueError, TypeError) as error:
            raise InputError(
                f"{self.path}: its metadata {key}={self.metadata[key]!r} is not a list of numbers."
            ) from error
        return checked_color(values, f"{self.path}: its metadata {key}")


def checked_color(values: Any, what: str) -> Color:
    """Three finite numbers; raises `InputError` naming `what`."""
    is_mean = what.endswith("mean")
    fits = [0 <= value <= 1 if is_mean else 0 < value < float("inf") for value in values]
    if len(values) != 3 or not all(fits):
        legal = "in [0, 1]" if is_mean else "above 0, for pixels in [0, 1]"
        raise InputError(f"{what} must be three numbers (RGB, {legal}), not {list(values)}.")
    return values[0], values[1], values[2]


def find_weights_file(model: TorchvisionModel) -> tuple[Path, str | None]:
    """Path (and URL, if downloaded) of the weights that `model.weights` names.

    `imagenet` looks first for `<model>*.safetensors` in the folder that DIVERSEVIS_WEIGHTS names,
    then in torchvision's own hub cache, and downloads them into that cache if they are
    missing (the hash is checked).
    """
    if model.weights != "imagenet":
        return Path(model.weights).expanduser(), None
    folder = os.environ.get(WEIGHTS_FOLDER)
    if folder:
        local = _in_folder(Path(folder).expanduser(), model.name)
        if local is not None:
            return local, None
    return download(model)


def download(model: TorchvisionModel) -> tuple[Path, str]:
    """Path and URL of torchvision's official weights in its hub cache, downloaded if missing.

    Raises `InputError` if the download fails or its hash is wrong.
    """
    url = model.published_weights().url
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    prefix = path.stem.rpartition("-")[2]  # torchvision's file names end in the hash's first digits
    if not path.exists():
        try:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(
                    f"torchvision's cache {path.parent} cannot be made ({error.strerror}). Set "
                    "TORCH_HOME to a folder that can be written, or give model.weights=FILE."
                ) from error
            torch.hub.download_url_to_file(url, str(path), hash_prefix=prefix, progress=True)
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            reason = getattr(error, "reason", error)
            raise InputError(
                f"The weights of model {model.name} could not be downloaded from {url} ({reason})"
                f"{_folder_searched(model.name)}. Three remedies: run `diversevis weights "
                f"{_as_typed(model.name)}` on a machine with internet and copy {path} here; give a "
                f"file with model.weights=FILE (or a folder with {WEIGHTS_FOLDER}); or use "
                "model=energy, which needs no weights."
            ) from error
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise
            raise InputError(
                f"The weights of model {model.name} could not be stored as {path} ({error}). Set "
                "TORCH_HOME to a folder that can be written, or give model.weights=FILE."
            ) from error
        except RuntimeError as error:  # torch.hub found a wrong hash
            raise InputError(
                f"The download of {url} does not have the published hash ({error}). Try again; if "
                "that happens twice, a proxy or the disk changes the file."
            ) from error
    if not sha256_of_file(path).startswith(prefix):
        raise InputError(
            f"The cached weights {path} are damaged (their hash does not begin with {prefix}). "
            "Delete that file and run the command again."
        )
    return path, url


def check_and_load(
    file: WeightsFile,
    wanted: Mapping[str, Tensor],
    *,
    layer: str,
    served: Iterable[tuple[str, Iterable[str]]],
    architecture: str,
) -> dict[str, Tensor]:
    """The tensors `wanted` (name -> tensor of the right shape) from `file`, as float32.

    layer   the target, for error messages
    served  (layer name, tensor names) in order of depth, to name a partial file's deepest layer

    Raises `InputError` for a file of another network, and for a tensor that is missing, has the
    wrong shape, or holds NaN or infinite values.
    """
    in_file = file.metadata.get("architecture", "")
    if in_file and in_file.rpartition(".")[2] != architecture:
        raise InputError(
            f"{file.path} holds weights of {in_file}, not of {architecture}. "
            f"Give the right file with model.weights=FILE, or choose the model of this file."
        )
    missing = next((name for name in wanted if name not in file.names), None)
    if missing is not None:
        deepest = None
        for name, needs in served:
            if all(need in file.names for need in needs):
                deepest = name
        if deepest is None:
            raise InputError(
                f"{file.path} is not a weights file of {architecture}: it lacks {missing} and "
                f"has weights for none of the network's layers (its first tensors: "
                f"{', '.join(sorted(file.names)[:3]) or 'none'})."
            )
        raise InputError(
            f"layer={layer} needs {missing}, which {file.path} does not hold. The deepest layer "
            f"that it has weights for is {deepest}; for deeper layers give another file with "
            "model.weights=FILE."
        )
    return check_tensors(file.tensors(wanted), wanted, source=str(file.path))


def check_tensors(
    tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], *, source: str
) -> dict[str, Tensor]:
    """The tensors as float32; raises `InputError` for a wrong shape or type, NaN or
    infinite values."""
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            raise InputError(
                f"{source}: {name} has shape {list(tensor.shape)}, the network needs "
                f"{list(wanted[name].shape)}. The file belongs to another network."
            )
        if not tensor.is_floating_point():
            raise InputError(f"{source}: {name} holds {tensor.dtype}, not floating-point numbers.")
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(
                f"{source}: {name} holds NaN or infinite values, so responses would be wrong. "
                "The file is damaged: copy or download it again."
            )
    return {name: tensor.float() for name, tensor in tensors.items()}


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
    """`<name>*.safetensors` in `folder`; not the file of another network whose name
    begins with the same letters (resnet50 and resnet50_32x4d).
    """
    if not folder.is_dir():
        raise InputError(f"{WEIGHTS_FOLDER}={folder} is not a folder.")
    longer = [
        n for n in import_torchvision_models().list_models() if n.startswith(name) and n != name
    ]
    files = [
        path
        for path in sorted(folder.glob(f"{name}*.safetensors"))
        if not any(path.name.startswith(other) for other in longer)
    ]
    if len(files) > 1:
        raise InputError(
            f"{WEIGHTS_FOLDER}={folder} holds several files for {name}: "
            f"{', '.join(path.name for path in files)}. Say which with model.weights=FILE."
        )
    return files[0] if files else None


def _folder_searched(name: str) -> str:
    folder = os.environ.get(WEIGHTS_FOLDER)
    return f", and {WEIGHTS_FOLDER}={folder} holds no {name}*.safetensors" if folder else ""


def _as_typed(name: str) -> str:
    return f"model={name}" if name in WITH_CONFIG else f"model=torchvision model.name={name}"


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
