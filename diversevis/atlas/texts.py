"""What the pages are written with: scripts that hold data, file names, files that are whole.

All that comes from run folders is data: it is escaped here, or by jinja2, before it is in a page.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DIGITS = 7  # of a number: ranks need 1e-5, as `show` gives them
LONGEST = 60  # characters of a name within a file's name
ESCAPED = {"<": r"\u003c", ">": r"\u003e", "&": r"\u0026"}  # JSON has line separators escaped


def script(key: str, content: Any) -> bytes:
    """A classic script that assigns `content` to `ATLAS[key]`.

    >>> script("a", {"b": "</script>"})[-28:]
    b'{"b":"\\\\u003c/script\\\\u003e"};\\n'
    """
    text = json.dumps(rounded(content), separators=(",", ":"), allow_nan=False)
    for character, escape in ESCAPED.items():
        text = text.replace(character, escape)
    return f"(window.ATLAS = window.ATLAS || {{}})[{json.dumps(key)}] = {text};\n".encode()


def rounded(content: Any) -> Any:
    """The content with numbers of few digits, and None in place of those that are not finite."""
    if isinstance(content, float):
        return float(f"{content:.{DIGITS}g}") if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {str(key): rounded(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [rounded(value) for value in content]
    return content


def slug(*names: str, key: Any) -> str:
    """A file name from names of data, of letters that all systems allow; another for another key.

    >>> slug("vgg19", "a/b", key=1)
    'vgg19-a_b-6b86b273'
    """
    text = re.sub(r"[^A-Za-z0-9._-]", "_", "-".join(names)).strip(".")[:LONGEST]
    return f"{text}-{digest(key)[:8]}"


def digest(content: Any) -> str:
    """16 hexadecimal digits that tell this content from another."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def write(path: Path, content: bytes) -> None:
    """Write a file such that no reader sees half of it; an equal file stays as it is."""
    if path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(content)
        beside.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk names none
        raise
    finally:
        beside.unlink(missing_ok=True)
