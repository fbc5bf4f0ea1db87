"""Builds an atlas: what can be looked at first, then what takes longer.

    atlas/index.html                    front page
    atlas/layers/<name>/                a layer's page, its data and its wall of tiles
    atlas/runs/<digest>/                images and details of a run's units
    atlas/pictures/<digest>/            pictures of a measure of a run's units
    atlas/comparisons/<name>/           pages of comparisons

A digest names a content: what exists is complete and is not made again, and what no page names any
more is deleted at the end.
"""

from __future__ import annotations

import contextlib
import datetime
import multiprocessing
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from diversevis import __version__
from diversevis.atlas import texts
from diversevis.atlas.compared import comparison_page
from diversevis.atlas.front import front_page
from diversevis.atlas.layers import Layer, content_of, group
from diversevis.atlas.scan import Entry, Found, scan
from diversevis.atlas.strips import COLUMNS, ROWS, sheet, tile_of
from diversevis.errors import InputError, printable
from diversevis.runs.files import Damaged

UNITS_AT_ONCE = 16  # whose pictures are drawn by a work
FEW = 8  # units up to which no further processes are started: to start them takes 3 seconds
STATIC = ("atlas.css", "atlas.js")

Work = Callable[[], "str | None"]
Counted = tuple[Work, int]  # with the number of its units
Tell = Callable[[str, int, int], None]  # what is done; so many of so many units


@dataclass(kw_only=True)
class Atlas:
    """An atlas of a root, in a folder.

    command  as typed, for the front page
    draws    whether pictures of measures are drawn that are not there
    tell     called with progress
    """

    root: Path
    out: Path
    command: str
    tell: Tell
    draws: bool = True
    left_out: list[tuple[str, str]] = field(default_factory=list)
    layers: Sequence[Layer] = ()
    _walls: dict[str, list[str]] = field(default_factory=dict)  # sheets of a layer, by its slug

    def look(self) -> Path:
        """Write all pages, with images and numbers; returns the front page.

        Raises `InputError` where no run can be shown, or the folder cannot be written.
        """
        found = scan(self.root)
        self.left_out = list(found.left_out)
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"out={self.out}: the folder cannot be made ({error.strerror}). Choose one that "
                "can be written, out=/some/where."
            ) from error
        self._write_static()
        entries = self._write_runs(found.entries)
        if not entries:
            raise InputError(f"{self.root}: no run can be shown. " + self._reasons())
        self.layers = group(entries)
        for layer in self.layers:
            self._write_layer(layer)
        self._write_front(found)
        return self.out / "index.html"

    def complete(self) -> list[str]:
        """Draw the pictures that are missing, and compare images of units; returns what failed."""
        works = [*self._neighbours(), *(self._missing_pictures() if self.draws else ())]
        failures = [reason for _, reason in self._do("drawing", works) if reason]
        for layer in self.layers:
            self._write_data(layer)
        self._delete_outdated()
        return failures

    def _neighbours(self) -> Iterator[Counted]:
        for layer in self.layers:
            file = self.out / "layers" / layer.slug / f"neighbours-{layer.state}.js"
            if layer.key["n"] is None or file.is_file():
                continue
            units = [
                None if unit.entry.states[unit.row] else (unit.entry.path, unit.row)
                for unit in layer.units
            ]
            if any(units):
                from diversevis.atlas.later import NeighbourWork

                yield NeighbourWork(units=units, out=file), len(units)

    def _missing_pictures(self) -> Iterator[Counted]:
        for entry in (entry for layer in self.layers for entry in layer.entries):
            for measure, folder, rows in self._lacking(entry):
                for first in range(0, len(rows), UNITS_AT_ONCE):
                    from diversevis.atlas.later import PictureWork

                    part, out = rows[first : first + UNITS_AT_ONCE], self.out / folder
                    work = PictureWork(path=entry.path, measure=measure, rows=part, out=out)
                    yield work, len(part)

    def _lacking(self, entry: Entry) -> Iterator[tuple[str, str, list[int]]]:
        """Measure, folder of its pictures, and the rows of the units that have none yet."""
        for measure, folder in self._pictures(entry).items():
            out = self.out / folder
            done = {path.name for path in out.iterdir()} if out.is_dir() else set()
            rows = [
                row
                for row, unit in enumerate(entry.units)
                if measure in entry.measured[row] and f"unit{unit:04d}.png" not in done
            ]
            if rows:
                yield measure, folder, rows

    # -- runs -------------------------------------------------------------------------------------

    def _write_runs(self, entries: Sequence[Entry]) -> list[Entry]:
        """Write the files of runs that are new or have changed; returns the runs to be shown."""
        works: list[Counted] = []
        new: list[Entry] = []
        for entry in entries:
            out = self.out / "runs" / entry.digest
            if not out.is_dir():
                from diversevis.atlas.details import RunWork  # takes seconds, and is rarely needed

                new.append(entry)
                works.append((
                    RunWork(path=entry.path, name=entry.name,
                            pictures=self._pictures(entry), out=out),
                    len(entry.units),
                ))  # fmt: skip
        refused: set[Path] = set()
        for position, reason in self._do("images", works):
            if reason is not None:
                refused.add(new[position].path)
                self.left_out.append((new[position].name, reason))
        return [entry for entry in entries if entry.path not in refused]

    def _pictures(self, entry: Entry) -> dict[str, str]:
        """The folder of the pictures of every measure that has arrays."""
        return {
            measure: f"pictures/{entry.digest_of(measure)}"
            for measure in entry.measures
            if f"analysis/{measure}.safetensors" in entry.stamps
        }

    def _do(self, what: str, works: Sequence[Counted]) -> Iterator[tuple[int, str | None]]:
        """Position and answer of every work, as they come; tells how far it is."""
        total, done = sum(units for _, units in works), 0
        for position, answer in _answers(works):
            done += works[position][1]
            self.tell(what, done, total)
            yield position, answer

    # -- pages ------------------------------------------------------------------------------------

    def _write_static(self) -> None:
        for name in STATIC:
            content = (resources.files("diversevis.atlas") / "static" / name).read_bytes()
            texts.write(self.out / name, content)

    def _write_layer(self, layer: Layer) -> None:
        """Write the page of a layer, its wall and its data."""
        folder = self.out / "layers" / layer.slug
        (height, _), per = tile_of(tuple(layer.key["size"])), COLUMNS * ROWS
        wall = []
        for first in range(0, len(layer.units), per):
            units = [
                (self.out / "runs" / unit.entry.digest / "tiles.png", unit.row)
                for unit in layer.units[first : first + per]
            ]
            name = f"wall-{texts.digest([(str(path.parent.name), row) for path, row in units])}.png"
            wall.append(name)
            if not (folder / name).is_file():
                texts.write(folder / name, sheet(height, units))
        self._walls[layer.slug] = wall
        content = self._write_data(layer)
        page = {key: content[key] for key in ("model", "layer", "variant", "noun", "field", "n")}
        self._page(folder / "index.html", "layer.html", layer=page | {"count": len(layer.units)})

    def _write_data(self, layer: Layer) -> dict[str, Any]:
        """Write the numbers of a layer's units, and which files are not there yet."""
        folder = self.out / "layers" / layer.slug
        neighbours = f"neighbours-{layer.state}.js"
        content = content_of(layer, self._walls[layer.slug]) | {
            "neighbours": neighbours if (folder / neighbours).is_file() else None,
            "missing": {
                pictures: [entry.units[row] for row in rows]
                for entry in layer.entries
                for _, pictures, rows in self._lacking(entry)
            },
        }
        texts.write(folder / "layer.js", texts.script("layer", content))
        return content

    def _write_front(self, found: Found) -> None:
        pages = []
        for folder in found.comparisons:
            try:
                page = comparison_page(folder, self.layers)
            except Damaged as reason:
                self.left_out.append((str(folder), str(reason)))
                continue
            path = f"comparisons/{page['slug']}/index.html"
            self._page(self.out / path, "comparison.html", comparison=page)
            pages.append({"href": path, "title": page["title"], "pairs": len(page["pairs"])})
        front = front_page(self.layers, self._walls) | {
            "title": self.root.resolve().name, "version": __version__, "command": self.command,
            "made": f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d %H:%M} UTC",
            "comparisons": pages,
            "left_out": [{"folder": name, "reason": why} for name, why in sorted(self.left_out)],
        }  # fmt: skip
        self._page(self.out / "index.html", "front.html", front=front)

    def _page(self, path: Path, template: str, **content: Any) -> None:
        templates = jinja2.Environment(
            loader=jinja2.PackageLoader("diversevis.atlas"), autoescape=True,
            undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        )  # fmt: skip
        up = "../" * (len(path.relative_to(self.out).parts) - 1)
        text = templates.get_template(template).render(up=up, **texts.rounded(content))
        texts.write(path, text.encode("utf-8", "replace"))

    def _reasons(self) -> str:
        return " ".join(f"{printable(name)}: {why}." for name, why in self.left_out[:3])

    def _delete_outdated(self) -> None:
        """Delete what was made of runs that have changed or are gone."""
        entries = [entry for layer in self.layers for entry in layer.entries]
        known = {
            "runs": {entry.digest for entry in entries},
            "pictures": {
                Path(folder).name for entry in entries for folder in self._pictures(entry).values()
            },
            "layers": {layer.slug for layer in self.layers},
        }
        for name, wanted in known.items():
            for path in _folders(self.out / name):
                if path.name not in wanted:
                    shutil.rmtree(path, ignore_errors=True)
        for layer in self.layers:
            files = {*self._walls[layer.slug], f"neighbours-{layer.state}.js"}
            folder = self.out / "layers" / layer.slug
            for path in (*folder.glob("wall-*.png"), *folder.glob("neighbours-*.js")):
                if path.name not in files:
                    path.unlink(missing_ok=True)


def _folders(folder: Path) -> list[Path]:
    """The folders that an atlas has made there: nothing else is ever deleted."""
    pattern = re.compile(r"\.?[0-9a-f]{16}(\.[0-9]+)?|[A-Za-z0-9._-]+-[0-9a-f]{8}")
    with contextlib.suppress(FileNotFoundError):
        return [path for path in folder.iterdir() if pattern.fullmatch(path.name)]
    return []


# -- processes ------------------------------------------------------------------------------------


def _answers(works: Sequence[Counted]) -> Iterator[tuple[int, str | None]]:
    """Position and answer of every work, as they come."""
    processes = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity")
                    else os.cpu_count() or 1, len(works))  # fmt: skip
    if processes <= 1 or sum(units for _, units in works) <= FEW:
        for position, (work, _) in enumerate(works):
            yield position, work()
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=_alone) as pool:
        waiting: dict[Future[str | None], int] = {}
        try:
            for position, (work, _) in enumerate(works):
                waiting[pool.submit(work)] = position
                while len(waiting) > 4 * processes:
                    yield from _ended(waiting)
            while waiting:
                yield from _ended(waiting)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _ended(waiting: dict[Future[str | None], int]) -> Iterator[tuple[int, str | None]]:
    done, _ = wait(waiting, return_when=FIRST_COMPLETED)
    for future in done:
        yield waiting.pop(future), future.result()


def _alone() -> None:
    """One thread in a process that has others beside it; Ctrl-C is for the first process."""
    import signal

    import torch

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
