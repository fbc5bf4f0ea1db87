"""What a folder holds: photographs, identified by their pixels, and what is said of other files.

Names, places and times of files change nothing: results over photographs follow their pixels.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import PIL
from PIL import Image

from diversevis.errors import InputError, printable
from diversevis.photographs import cache
from diversevis.photographs.files import (
    SUFFIXES,
    Unreadable,
    decoded,
    read,
    read_ahead,
)
from diversevis.photographs.listing import Listing, list_files

LOG = logging.getLogger("diversevis")
NAMED = 5  # files, in what is said about many
MANY = 1000  # photographs: reading them takes so long that it is said
READER = f"1, Pillow {PIL.__version__}"  # to be raised with every change of `decoded`
ROWS = 256  # of pixels that are hashed at once
NOTES = {  # what is said of photographs that are shown
    "transparent": "transparent, shown over mid-grey (the network's mean)",
    "frames": "of several frames or pages, the first is shown",
}

Made = TypeVar("Made")


@dataclass(frozen=True)
class Photograph:
    """digest: of its pixels when upright (SHA-256, hex); file: relative to the folder."""

    digest: str
    file: str


@dataclass(frozen=True)
class Survey:
    """What a folder holds.

    photographs  those that can be read, in the order of their digests
    digest       of the pixels of all photographs
    words        what else the folder holds, and what is done with it: a paragraph, or empty
    """

    photographs: tuple[Photograph, ...]
    digest: str
    words: str


class Pixels(NamedTuple):
    """A single photograph: SHA-256 (hex) of its pixels when upright, and its sides."""

    digest: str
    rows: int
    columns: int


@dataclass(frozen=True)
class _Seen:
    """Digest of a photograph's pixels, and which of `NOTES` hold."""

    digest: str
    notes: tuple[str, ...]


_surveys: dict[str, tuple[str, Survey]] = {}  # folder -> its state, and what it held then


def survey(folder: Path, setting: str) -> Survey:
    """What the folder holds. Its files are read once in a process, unless they change, and what is
    left out is said once.

    setting  in which the user gave the folder: named in errors

    Raises `InputError` where no photograph can be read.
    """
    given = f"{setting}={printable(folder)}"
    if not folder.is_dir():
        raise InputError(
            f"{given} is not a folder. Give one that holds photographs "
            "(JPEG, PNG, ..., also in folders below it)."
        )
    listing, key = list_files(folder), str(folder.absolute())
    state, known = _surveys.get(key, ("", None))
    if known is None or state != listing.state:
        known = _survey(folder, given, listing)
        _surveys[key] = listing.state, known
        if known.words:  # not again for the same folder, written as a full path
            cache.warn_once(f"{printable(folder)}: {known.words}")
    return known


def pixels_in(file: Path) -> Pixels:
    """Raises `Unreadable`."""

    def make(image: Image.Image) -> Pixels:
        columns, rows = decoded(image).size
        return Pixels(_see_image(image).digest, rows, columns)

    return read(file, make)


def _survey(folder: Path, given: str, listing: Listing) -> Survey:
    contents, reasons = _of_all(folder, listing.files, _content_digest)
    seen, undecodable = _see(folder, contents)
    words = _words({**listing.unreadable, **reasons, **undecodable}, listing.others, seen)
    if not seen:
        what = "none of its files could be read" if listing.files else "holds no image"
        raise InputError(
            f"{given}: {what}{f' ({words})' if words else ''}. Give a folder with photographs "
            f"({', '.join(SUFFIXES)})."
        )
    photographs = sorted((photograph.digest, name) for name, photograph in seen.items())
    digest = hashlib.sha256("/".join(digest for digest, _ in photographs).encode()).hexdigest()
    return Survey(tuple(Photograph(*pair) for pair in photographs), digest, words)


def _see(folder: Path, contents: Mapping[str, str]) -> tuple[dict[str, _Seen], dict[str, str]]:
    """The photographs among the files, and the reasons for the others.

    contents  name -> digest of the file's bytes. What was seen is remembered for the next command:
              decoding takes many times as long as reading bytes.
    """
    first = {content: name for name, content in contents.items()}  # a file of these bytes
    key = hashlib.sha256("/".join([READER, *sorted(first)]).encode()).hexdigest()
    file, known = f"pixels-{key[:24]}.json", dict[str, _Seen]()
    if (stored := cache.read(file)) is not None:
        rows = json.loads(stored)
        known = {content: _Seen(digest, tuple(notes)) for content, (digest, *notes) in rows.items()}
    missing = [name for content, name in first.items() if content not in known]
    if len(missing) >= MANY:
        LOG.warning("%s: reading %d photographs for the first time", folder, len(missing))
    made, failed = _of_all(folder, missing, lambda path: read(path, _see_image))
    if made:
        known |= {contents[name]: photograph for name, photograph in made.items()}
        rows = {
            content: [photograph.digest, *photograph.notes] for content, photograph in known.items()
        }
        cache.write(file, json.dumps(rows).encode())
    seen = {name: known[content] for name, content in contents.items() if content in known}
    return seen, {
        name: failed[first[content]] for name, content in contents.items() if content not in known
    }


def _of_all(
    folder: Path, names: Sequence[str], make: Callable[[Path], Made]
) -> tuple[dict[str, Made], dict[str, str]]:
    """What `make` makes of the files, by name; and the reasons where it raises `Unreadable`."""

    def attempt(name: str) -> tuple[Made | None, str]:
        try:
            return make(folder / name), ""
        except Unreadable as error:
            return None, str(error)

    made, failed = dict[str, Made](), dict[str, str]()
    for name, (result, reason) in read_ahead(names, attempt):
        if result is None:
            failed[name] = reason
        else:
            made[name] = result
    return made, failed


def _content_digest(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    except OSError as error:
        raise Unreadable(error.strerror or str(error)) from error
    return digest.hexdigest()


def _see_image(image: Image.Image) -> _Seen:
    picture = decoded(image)
    width, height = picture.size
    digest = hashlib.sha256(f"{picture.mode} {width} {height}/".encode())
    for top in range(0, height, ROWS):
        digest.update(picture.crop((0, top, width, min(height, top + ROWS))).tobytes())
    notes = []
    if picture.mode == "RGBA":
        notes.append("transparent")
    if getattr(image, "is_animated", False) and image.format != "MPO":  # a camera's JPEG
        notes.append("frames")
    return _Seen(digest.hexdigest(), tuple(notes))


def _words(unreadable: Mapping[str, str], others: Sequence[str], seen: Mapping[str, _Seen]) -> str:
    """A sentence that counts and names what is not simply shown; empty if there is nothing."""
    reasons = [f"{name} ({reason})" for name, reason in sorted(unreadable.items())]
    kinds = {"left out, unreadable": reasons, "left out, of other kinds": others}
    for note, text in NOTES.items():
        kinds[text] = sorted(name for name, photograph in seen.items() if note in photograph.notes)
    parts = []
    for kind, names in kinds.items():
        if names:
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            listed = ", ".join(printable(name) for name in names[:NAMED])
            parts.append(f"{kind} ({len(names)}): {listed}{more}")
    return "; ".join(parts)
