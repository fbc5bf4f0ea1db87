"""Find, check and load weights: only the tensors that the target layer needs."""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import logging
import os
import urllib.error
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diversevis.errors import InputError
from diversevis.models.architectures import Color, TorchvisionModel
from diversevis.models.packages import import_torchvision_models
from diversevis.models.weight_choice import choose
from diversevis.models.weight_formats import Container, read_containers

LOG = logging.getLogger("diversevis")

WITH_CONFIG = ("vgg19", "resnet50")  # networks that have a file in conf/model/
WEIGHTS_FOLDER = "DIVERSEVIS_WEIGHTS"  # environment variable: a folder searched before a download


@dataclass(frozen=True, kw_only=True)
class WeightsFile:
    """An opened weights file: its tensor names, its metadata, and tensors on demand.

    `open` gives the names as they stand in the file's outermost dictionary of tensors; `fitted_to`
    those of a network, wherever the file has its tensors.

    url     where it was downloaded from
    read    a tensor by name
    chosen  container and prefix of the tensors, in words; None: the names are the file's own
    """

    path: Path
    url: str | None
    names: frozenset[str]
    metadata: Mapping[str, str]
    read: Callable[[str], Tensor]
    containers: tuple[Container, ...]
    chosen: str | None = None

    @classmethod
    def open(cls, path: Path, url: str | None = None) -> WeightsFile:
        """Open a file of safetensors or torch.save, with any suffix; raises `InputError` if it
        cannot be read."""
        if not path.is_file():
            raise InputError(
                f"model.weights={path} is not a file. Give a .safetensors or .pth file, or one of "
                "`imagenet` and `random`."
            )
        containers, metadata = read_containers(path)
        return cls(
            path=path,
            url=url,
            names=containers[0].names,
            metadata=metadata,
            read=containers[0].read,
            containers=containers,
        )

    def fitted_to(self, wanted: Mapping[str, Tensor], container: str | None = None) -> WeightsFile:
        """This file with the names of a network, and a line in the log if that takes a choice.

        wanted     tensors of the right shapes, by the network's names: all that it has, or those
                   that a layer needs. The file may lack some of them
        container  `model.container`: where in the file they are (`ema`, `state_dict.module`)

        Raises `InputError` if the file has several such sets of tensors, with different values.
        """
        choice = choose(self.path, self.containers, wanted, container)
        if choice.words is not None:
            LOG.warning("weights of %s: %s", self.path, choice.words)
        return replace(self, names=choice.names(), read=choice.read, chosen=choice.words)

    def shortfall(self, wanted: Mapping[str, Tensor]) -> str:
        """How many of the wanted tensors the file has, and the first that does not fit, in words.

        For a message about a file that has not all of them.
        """
        there = sum(name in self.names for name in wanted)
        within = f" ({self.chosen})" if self.chosen else ""
        for name, expected in wanted.items():
            if name not in self.names:
                misfit = f"{name} is missing"
                break
            if (shape := self.read(name).shape) != expected.shape:
                misfit = f"{name} has shape {list(shape)} instead of {list(expected.shape)}"
                break
        return f"it has {there} of {len(wanted)} needed tensors by name{within}; first, {misfit}"

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
    """Finite numbers, one per channel; raises `InputError` naming `what`."""
    is_mean = what.endswith("mean")
    fits = [0 <= value <= 1 if is_mean else 0 < value < float("inf") for value in values]
    if not fits or not all(fits):
        legal = "in [0, 1]" if is_mean else "above 0, for pixels in [0, 1]"
        raise InputError(
            f"{what} must be numbers {legal}, one per channel (three for RGB), not {list(values)}."
        )
    return tuple(float(value) for value in values)


def checked_colors(mean: Any, std: Any, where: str, channels: int) -> tuple[Color, Color]:
    """Mean and std of an input of so many channels; raises `InputError` naming `where` they are."""
    if not len(mean) == len(std) == channels:
        raise InputError(
            f"{where}mean={list(mean)} and {where}std={list(std)} must have {channels} numbers "
            f"each, one per channel of the network's input, not {len(mean)} and {len(std)}."
        )
    return checked_color(mean, f"{where}mean"), checked_color(std, f"{where}std")


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
    url, path = _published(model)
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


def is_at_hand(model: TorchvisionModel) -> bool:
    """Whether its weights are on this machine, so that nothing is downloaded."""
    if model.weights != "imagenet":
        return True
    folder = os.environ.get(WEIGHTS_FOLDER)
    local = _in_folder(Path(folder).expanduser(), model.name) if folder else None
    return local is not None or _published(model)[1].exists()


def _published(model: TorchvisionModel) -> tuple[str, Path]:
    """URL of torchvision's official weights, and their file in its hub cache."""
    url = model.published_weights().url
    return url, Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


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
    """The tensors as float32, and in their own type where the network's are whole numbers.

    wanted  tensors of the right shapes and kinds of numbers, by name

    Raises `InputError`, which names `source`, for a wrong shape or type, NaN or infinite values.
    """
    tensors, others = {}, set[str]()
    for name, expected in wanted.items():
        tensor = read(name).detach()
        if tensor.shape != expected.shape:
            raise InputError(
                f"{source}: {name} has shape {list(tensor.shape)}, the network needs "
                f"{list(expected.shape)}. The file belongs to another network."
            )
        tensors[name] = _checked_numbers(tensor, expected, f"{source}: {name}")
        if tensor.dtype != tensors[name].dtype:
            others.add(str(tensor.dtype).removeprefix("torch."))
    if others:
        LOG.warning("%s: its %s weights are taken as float32", source, " and ".join(sorted(others)))
    return tensors


def _checked_numbers(tensor: Tensor, expected: Tensor, what: str) -> Tensor:
    """`tensor` in the type that the network computes with."""
    if not expected.is_floating_point():  # an index, as Swin's relative positions
        if tensor.dtype != expected.dtype:
            raise InputError(
                f"{what} holds {tensor.dtype}, the network needs {expected.dtype}. "
                "The file belongs to another network."
            )
        return tensor
    if not tensor.is_floating_point():
        raise InputError(f"{what} holds {tensor.dtype}, not floating-point numbers.")
    single = tensor.float()  # a float64 may be too large for it
    if not bool(torch.isfinite(single).all()):
        raise InputError(
            f"{what} holds NaN or infinite values, so responses would be wrong. "
            "The file is damaged: copy or download it again."
        )
    return single


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
