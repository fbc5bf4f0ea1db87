"""Which code a record may name: what a person types, and what this account's own records name.

A custom network is a function that is imported and called, and a launcher's settings hold commands
for a shell. A record therefore carries a signature: an HMAC, with a secret key of this account, of
the code that it names and of its folder's inode number. The inode is the same after a rename, and
another one after a copy or in an unpacked archive; the number of the device is left out, since
nodes of a cluster see one disk under several.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import re
import secrets
import shlex
import stat
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from diversevis.errors import InputError

BYTES = 32  # of the key, as of the hash
TARGET = re.compile(r"\+{0,2}model\.target=(.*)", re.DOTALL)
LONGEST = 500  # characters of arguments in a message
WHY = "it was copied, unpacked or edited, or another account made it"


def code_of(model: Any) -> dict[str, Any] | None:
    """The part of a config's `model` that decides which code runs; None for networks of packages.

    Weights are left out: reading them runs no code.
    """
    if not isinstance(model, Mapping) or model.get("kind") != "custom":
        return None
    return {"target": model.get("target"), "arguments": model.get("arguments") or {}}


def signature(folder: Path, code: Any) -> str | None:
    """The signature of `code`, as JSON has it, in an existing folder; None without a key."""
    try:
        return _signature(_key(make=True), folder, code)
    except OSError:
        return None


def signed(record: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A run's record with the signature of the code in its config, for the folder it lies in."""
    code = code_of(record["config"]["model"])
    return {**record, "made_by": None if code is None else signature(folder, code)}


def is_signed(folder: Path, code: Any, signature: Any) -> bool:
    """Whether this account signed this code in this very folder."""
    if not isinstance(signature, str):
        return False
    try:
        expected = _signature(_key(make=False), folder, code)
    except (OSError, RecursionError):
        return False
    return hmac.compare_digest(expected.encode(), signature.encode())


def mark(purpose: str) -> str:
    """A text that no other account can foresee, always the same; empty without a key."""
    try:
        return hmac.new(_key(make=True), purpose.encode(), hashlib.sha256).hexdigest()
    except OSError:
        return ""


def typed_targets(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The targets that the words `model.target=...` name, and the other words."""
    matches = [TARGET.fullmatch(word) for word in words]
    targets = [match[1].strip("'\"") for match in matches if match]
    return targets, [word for word, match in zip(words, matches, strict=True) if not match]


def check_typed(typed: Collection[str], codes: Collection[Mapping[str, Any] | None]) -> None:
    """Raises `InputError` for a typed target that no record names."""
    named = {str(code["target"]) for code in codes if code is not None}
    for target in typed:
        if target not in named:
            others = ", ".join(map(_ascii, sorted(named))) or "no code at all"
            raise InputError(
                f"model.target={target}: the records that were named have {others}. This word says "
                "that the code which a record names is trusted; it cannot choose other code."
            )


def is_trusted(
    folder: Path, code: Mapping[str, Any] | None, signature: Any, typed: Collection[str] = ()
) -> bool:
    """Whether this code may be imported: it is typed, or this account signed it in this folder."""
    return code is None or code["target"] in typed or is_signed(folder, code, signature)


def distrust(where: str, code: Mapping[str, Any]) -> str:
    """A paragraph for the user about code that is not trusted.

    where  the folder that names it
    """
    arguments = json.dumps(code["arguments"], default=str)
    if len(arguments) > LONGEST:
        arguments = f"{arguments[:LONGEST]} ..."
    word = shlex.quote(f"model.target={_ascii(code['target'])}")
    return (
        f"{where} names code to run: model.target={_ascii(code['target'])} with the arguments "
        f"{arguments}. Its record does not show that this account made it here ({why_unsigned()}), "
        "so nothing was imported. Look at that function; if you trust it with these arguments, add "
        f"its name to the command: {word}"
    )


def why_unsigned() -> str:
    """Why a record may lack a valid signature of this account."""
    try:
        _key(make=False)
    except OSError as error:
        return f"{WHY}; or it has no signature, since {error}"
    return WHY


def _ascii(text: Any) -> str:
    """The text without characters that a terminal takes for commands."""
    return json.dumps(str(text))[1:-1]


def _signature(key: bytes, folder: Path, code: Any) -> str:
    plain = json.loads(json.dumps(code, default=str))  # as a record gives it back
    signed = json.dumps([folder.stat().st_ino, plain], sort_keys=True)
    return hmac.new(key, signed.encode(), hashlib.sha256).hexdigest()


def _key(*, make: bool) -> bytes:
    """The secret key of this account; raises `OSError`, with a reason in words, without one."""
    path = _state_folder() / "key"
    with contextlib.suppress(FileNotFoundError):
        return _read(path)
    if not make:
        raise OSError(f"there is no key {path}")
    try:
        _make(path)
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(f"the key {path} cannot be made ({error.strerror})") from error
    return _read(path)


def _state_folder() -> Path:
    """The folder for this program's state, as the XDG base directory specification says."""
    given = os.environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(given):  # noqa: PTH117  (relative paths must be ignored)
        return Path(given, "diversevis")
    try:
        home = Path.home()
    except RuntimeError as error:
        raise OSError("this account has no home folder") from error
    if not home.is_dir():
        raise OSError(f"the home folder {home} does not exist")
    return home / ".local" / "state" / "diversevis"


def _read(path: Path) -> bytes:
    """The key in a file; raises `OSError` where others could read or write it."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise OSError(f"the key {path} cannot be read ({error.strerror})") from error
    with os.fdopen(file, "rb") as stream:
        facts = os.fstat(file)
        key = stream.read(BYTES + 1) if stat.S_ISREG(facts.st_mode) else b""
    if facts.st_uid != os.getuid() or facts.st_mode & 0o077:
        raise OSError(f"the key {path} is not this account's alone (chmod 600 it, or delete it)")
    if len(key) != BYTES:
        raise OSError(f"the key {path} is damaged (delete it)")
    return key


def _make(path: Path) -> None:
    """Make the key complete, in one step; of several processes that try, one succeeds."""
    nearest = next(folder for folder in path.parents if folder.exists())
    if nearest.stat().st_uid != os.getuid():  # as with sudo: the file would be of another account
        raise OSError(f"the folder {nearest} for its key belongs to another account")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    beside = path.with_name(f".key-{secrets.token_hex(8)}")
    file = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(file, "wb") as stream:
            stream.write(secrets.token_bytes(BYTES))
            stream.flush()
            os.fsync(stream.fileno())
        with contextlib.suppress(FileExistsError):  # another process has just made it
            os.link(beside, path)
    finally:
        beside.unlink(missing_ok=True)
