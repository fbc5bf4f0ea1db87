"""What a weights file holds: its format told by its content, its dictionaries of tensors."""

from __future__ import annotations

import pickle
import re
import shlex
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from diversevis.errors import InputError

DEPTH = 3  # dictionaries that may lie around a container
LONGEST_HEADER = 100_000_000  # bytes; safetensors itself refuses longer ones


@dataclass(frozen=True, kw_only=True)
class Container:
    """A dictionary of tensors in a weights file.

    path   the keys that lead to it, joined by dots; empty at the top level
    names  of its tensors
    read   a tensor by its name
    """

    path: str
    names: frozenset[str]
    read: Callable[[str], Tensor]


def read_containers(path: Path) -> tuple[tuple[Container, ...], dict[str, str]]:
    """All dictionaries of tensors in a file, the top level first; and the file's metadata.

    The suffix says nothing: a safetensors file, a zip archive of `torch.save` and the pickle that
    it wrote before are told by their first bytes. No code of the file is run. Raises `InputError`
    for files of other kinds, damaged ones, and pickles that hold more than plain data and tensors.
    """
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise InputError(f"model.weights={path} cannot be read ({error}).") from error
    if head.endswith(b"{") and int.from_bytes(head[:8], "little") <= LONGEST_HEADER:
        return _safetensors(path)
    if head.startswith(b"PK\x03\x04"):
        _check_archive(path)
    elif not head.startswith(b"\x80"):  # a pickle's first byte
        raise InputError(
            f"model.weights={path} holds no weights: neither safetensors nor what torch.save "
            "writes. Its name need not end in .safetensors or .pth, but it must be one of these."
        )
    content = _unpickled(path)
    containers = tuple(_containers(content)) if isinstance(content, Mapping) else ()
    if not containers:
        raise InputError(
            f"model.weights={path} holds no dictionary of tensors (a state_dict), at its top level "
            f"or in dictionaries up to {DEPTH} deep. It holds a {type(content).__name__}."
        )
    return containers, {}


def _safetensors(path: Path) -> tuple[tuple[Container, ...], dict[str, str]]:
    try:
        file: Any = safe_open(path, "pt")
        names, metadata = frozenset(file.keys()), file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"model.weights={path} cannot be read as a safetensors file ({error}). "
            "It is damaged or cut short: copy or download it again."
        ) from error
    return (Container(path="", names=names, read=file.get_tensor),), metadata


def _check_archive(path: Path) -> None:
    """Raises `InputError` for TorchScript, and for a zip archive that torch.save did not write."""
    try:
        with zipfile.ZipFile(path) as archive:
            files = {name.rpartition("/")[2] for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise _damaged(path, error) from error
    if "constants.pkl" in files:
        line = _python(
            f"import torch; file = torch.jit.load({str(path)!r}, map_location='cpu'); "
            "torch.save(file.state_dict(), 'weights.pth')"
        )
        raise InputError(
            f"model.weights={path} is a TorchScript archive: a program with its weights. This line "
            f"takes the weights out of it: {line}"
        )
    if "data.pkl" not in files:
        raise InputError(
            f"model.weights={path} is a zip archive, but not one that torch.save wrote. Give a "
            ".safetensors file or a state_dict() that was saved with torch.save."
        )


def _unpickled(path: Path) -> Any:
    """The content of a file of torch.save, without running code."""
    try:
        with warnings.catch_warnings():  # about pickle protocols; the errors below say enough
            warnings.simplefilter("ignore")
            return torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        more = f" ({found[1]})" if found else ""
        line = _python(
            f"import torch; file = torch.load({str(path)!r}, map_location='cpu', "
            "weights_only=False); torch.save(file['state_dict'], 'weights.pth')"
        )
        raise InputError(
            f"model.weights={path} is refused: it is damaged, or a pickle that holds more than "
            f"tensors{more} and could run code. Save only its state_dict(), best as .safetensors. "
            f"On a machine where you trust the file, this line takes it out: {line} (the key may "
            "have another name; of a whole model, save file.state_dict())."
        ) from error
    except Exception as error:  # a damaged pickle can raise anything
        raise _damaged(path, error) from error


def _python(code: str) -> str:
    """The shell's command for a line of Python."""
    plain = not set(code) & set('"$`\\!')
    return f'python -c "{code}"' if plain else f"python -c {shlex.quote(code)}"


def _damaged(path: Path, error: Exception) -> InputError:
    why = next(iter(str(error).splitlines()), type(error).__name__)
    return InputError(
        f"model.weights={path} cannot be read as a PyTorch file ({why}). "
        "It is damaged or cut short: copy or download it again."
    )


def _containers(content: Mapping[Any, Any], keys: tuple[str, ...] = ()) -> Iterator[Container]:
    """The dictionaries of tensors in a dictionary, the outer before the inner ones.

    An optimizer's state is not among them: its keys are numbers.
    """
    named = {key: value for key, value in content.items() if isinstance(key, str)}
    tensors = {key: value for key, value in named.items() if isinstance(value, Tensor)}
    if tensors:
        yield Container(path=".".join(keys), names=frozenset(tensors), read=tensors.__getitem__)
    for key, value in named.items():
        if isinstance(value, Mapping) and len(keys) < DEPTH:
            yield from _containers(value, (*keys, key))
