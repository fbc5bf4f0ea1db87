"""The files of a run folder: written completely or not at all, and read without trusting them.

A folder may be half copied, cut off by a full disk, edited by hand, or still be written to.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import stat
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from types import NoneType
from typing import Any

LARGEST = 256 * 2**20  # bytes; a layer of 4096 units with all measures and seeds has 50 MiB
RECORD = 16 * 2**20  # bytes of run.json; with the fields of 4096 model neurons it has 1 MiB
CONTAINERS = dict, list
SYNCED_AT_ONCE = 16  # files that share the disk's trips; with more a disk gains nothing
DEEPEST = 30  # levels of JSON; settings have 4, arguments of a network's function some more
LONGEST = 2**16  # characters of a setting
LONGEST_NAME = 500  # characters of a model's or a layer's name
STATUSES = "running", "finished", "interrupted", "failed"
KINDS: dict[str, Any] = {  # what every record says
    "status": str, "model": str, "layer": str, "units": list, "n": (int, NoneType),
}  # fmt: skip
OPTIONAL: dict[str, Any] = {  # what records of other versions may lack
    "optimized": bool, "drawn": list, "not_measured": dict, "measuring": (str, NoneType),
    "attempts": int, "seconds": (int, float, NoneType), "start": str,
    "sweep": (str, NoneType), "origin": (str, NoneType), "rerun": (str, NoneType),
    "direction": (str, NoneType), "distance": (str, NoneType),
    "metric": (str, NoneType),
    "diversity": (int, float, NoneType), "fraction": (int, float, NoneType),
    "front": (list, NoneType), "prior": (dict, NoneType),
}  # fmt: skip


# Files whose syncing waits for the end of a block of `synced_together`; None outside.
_unsynced: ContextVar[list[Path] | None] = ContextVar("unsynced", default=None)


class Damaged(ValueError):
    """Why a folder or a file in it cannot be used, in one line."""


class Missing(Damaged, FileNotFoundError):
    """There is no such file."""


@contextlib.contextmanager
def synced_together() -> Iterator[None]:
    """Files that are written in the `with` block are brought safely to disk at its end, many at
    once: for a thousand pictures one after the other, a disk takes seconds.

    For files that nobody counts on before the end: after a power cut they may be empty.
    """
    from concurrent.futures import ThreadPoolExecutor

    paths = list[Path]()
    before = _unsynced.set(paths)
    try:
        yield
    finally:
        _unsynced.reset(before)
    with ThreadPoolExecutor(SYNCED_AT_ONCE) as pool:
        list(pool.map(_sync_if_there, dict.fromkeys(paths)))


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _sync_if_there(path: Path) -> None:
    try:
        with contextlib.suppress(FileNotFoundError):  # somebody has deleted it
            _sync(path)
    except OSError as error:
        error.filename = str(path)
        raise


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to, which replaces `path` once it is safely on disk
    (in a block of `synced_together`: before).

    Makes no folder: one that was deleted must not come back.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    unsynced = _unsynced.get()
    try:
        yield beside
        if unsynced is None:
            _sync(beside)
        else:
            unsynced.append(path)
        try:
            beside.replace(path)
        except IsADirectoryError:
            path.rmdir()  # raises where the folder holds something
            beside.replace(path)
    except OSError as error:
        if error.errno is not None and error.filename is None:  # a full disk: no path is given
            error.filename = str(path)
        raise
    finally:
        beside.unlink(missing_ok=True)


def read_record(folder: Path | str) -> tuple[dict[str, Any], float]:
    """The content of run.json, and when it was last written (seconds since the epoch); raises
    `Damaged` as `read_json` does, and where it lacks what every record has."""
    content, changed = read_file(folder, "run.json", RECORD)
    record = parse_json(content, "run.json")
    check_depth(record, "run.json")
    check_kinds(record, KINDS)
    check_kinds(record, {name: kind for name, kind in OPTIONAL.items() if name in record})
    for name in ("model", "layer"):
        if len(record[name]) > LONGEST_NAME:
            raise Damaged(f"run.json: {name} is {shown(record[name])}")
    if record["status"] not in STATUSES:
        raise Damaged(f"run.json: status is {shown(record['status'])}")
    if not record["units"] or not all(map(is_whole, record["units"])):
        raise Damaged(f"run.json: units is {shown(record['units'])}")
    return record, changed


def check_kinds(record: Mapping[str, Any], kinds: Mapping[str, Any]) -> None:
    """Raises `Damaged` where run.json lacks one of these names, or has a value of another type."""
    for name, kind in kinds.items():
        if name not in record:
            raise Damaged(f"run.json lacks {name}")
        value = record[name]
        if not _is_of(value, kind) or (kind is str and not 0 < len(value) <= LONGEST):
            raise Damaged(f"run.json: {name} is {shown(value)}")


def _is_of(value: Any, kind: Any) -> bool:
    """Whether it is of one of these types; a truth value is no number."""
    return isinstance(value, kind) and (type(value) is not bool or kind is bool)


def read_json(folder: Path | str, file: str, largest: int = LARGEST) -> dict[str, Any]:
    """The object in a JSON file; raises `Damaged` as `read_file` and `parse_json` do."""
    return parse_json(read_file(folder, file, largest)[0], file)


def read_file(folder: Path | str, file: str, largest: int = LARGEST) -> tuple[bytes, float]:
    """The bytes of a file, and when it was last written (seconds since the epoch).

    Raises `Damaged` where it cannot be read, is no regular file, larger than `largest` bytes,
    empty, or changes meanwhile; `Missing` where it is not there.
    """
    with opened(folder, file) as (descriptor, facts):
        if facts.st_size > largest:
            raise Damaged(f"{file} has {facts.st_size} bytes, more than any run writes")
        content = os.read(descriptor, facts.st_size + 1)
    if len(content) != facts.st_size:
        raise Damaged(f"{file} changed while it was read")
    if not content:
        raise Damaged(f"{file} is empty")
    return content, facts.st_mtime


@contextlib.contextmanager
def opened(folder: Path | str, file: str) -> Iterator[tuple[int, os.stat_result]]:
    """The file's descriptor, for reading, and its facts; raises `Damaged` where it cannot be read
    or is no regular file, `Missing` where it is not there.

    By the system's functions: Python's file objects make three times as many calls, at every one of
    which threads wait for each other.
    """
    descriptor = None
    try:
        # Opened as usual, a pipe would wait for its writer.
        descriptor = os.open(f"{folder}/{file}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        facts = os.fstat(descriptor)
        if stat.S_ISDIR(facts.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(facts.st_mode):
            raise Damaged(f"{file} is no file")
        yield descriptor, facts
    except Damaged:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Missing(f"{file} is not there") from error
    except OSError as error:
        raise Damaged(f"{file} cannot be read ({error.strerror})") from error
    except MemoryError as error:
        raise Damaged(f"{file} is too large for the memory") from error
    finally:
        if descriptor is not None:
            os.close(descriptor)


def parse_json(content: bytes, file: str) -> dict[str, Any]:
    """The object in a JSON file; raises `Damaged` where there is none."""
    try:
        value = DECODER.decode(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise Damaged(f"{file} is not UTF-8 text") from error
    except ValueError as error:  # no JSON, or an integer of thousands of digits
        raise Damaged(f"{file} is not JSON ({error})") from error
    except (RecursionError, MemoryError) as error:
        raise Damaged(f"{file} is nested too deeply or too large for the memory") from error
    if not isinstance(value, dict):
        raise Damaged(f"{file} holds no object")
    return value


def check_depth(content: Mapping[str, Any], file: str) -> None:
    """Raises `Damaged` for JSON that is nested deeper than any that was written."""
    level = [value for value in content.values() if type(value) in CONTAINERS]
    for _ in range(DEEPEST):
        if not level:
            return
        inner = (value.values() if type(value) is dict else value for value in level)
        level = [value for values in inner for value in values if type(value) in CONTAINERS]
    raise Damaged(f"{file} is nested deeper than {DEEPEST} levels")


def scalar(file: str, name: str, value: Any) -> float | int | str | bool:
    """A number, text or truth value of JSON as a table can hold it; raises `Damaged` for one that
    is too large."""
    kind = type(value)
    if kind is str:
        if len(value) > LONGEST:
            raise Damaged(f"{file}: {name[:99]} has {len(value)} characters")
        return legible(value)
    if kind is bool or (kind is int and -(2**63) <= value < 2**63):
        return value
    with contextlib.suppress(OverflowError):
        if math.isfinite(value):
            return float(value)
    raise Damaged(f"{file}: {name[:99]} is too large a number")


def legible(text: str) -> str:
    """The text with lone surrogates escaped: file names and JSON may hold them, tables may not."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def is_whole(value: Any) -> bool:
    """Whether it is a number that can be a unit's: 0 or more, and no larger than int64 holds."""
    return type(value) is int and 0 <= value < 2**63


def shown(value: Any) -> str:
    """A value of JSON, shortened, for messages."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _no_number(token: str) -> float:
    raise ValueError(f"{token} is no number")


DECODER = json.JSONDecoder(parse_constant=_no_number)  # refuses NaN and Infinity
