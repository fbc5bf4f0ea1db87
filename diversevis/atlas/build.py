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
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from diversevis import __version__
from diversevis.atlas import place, texts
from diversevis.atlas.compared import comparison_page
from diversevis.atlas.front import front_page
from diversevis.atlas.layers import Layer, Unit, content_of, group
from diversevis.atlas.processes import Answer, Counted, answers
from diversevis.atlas.scan import Entry, Found, scan
from diversevis.atlas.strips import COLUMNS, ROWS, sheet, tile_at, tile_of
from diversevis.errors import InputError, WorkFailed, printable
from diversevis.runs.files import Damaged

UNITS_AT_ONCE = 16  # whose pictures are drawn by a work
STATIC = (place.STYLE, "atlas.js")  # the style first: it tells that the folder is an atlas's

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
    _compared: list[str] = field(default_factory=list)  # folders of the pages of comparisons
    _claim: place.Claim | None = None

    def look(self) -> Path:
        """Write all pages, with images and numbers; returns the front page.

        Raises `InputError` where no run can be shown, or the folder cannot be written.
        """
        found = scan(self.root)
        place.prepare(self.out)
        self._claim = place.Claim(self.out)
        if self._claim.waited:
            found = scan(self.root)
        self.left_out = list(found.left_out)
        self._write_static()
        self.layers = self._shown(found.entries)
        if not self.layers:
            raise InputError(f"{self.root}: no run can be shown. " + self._reasons())
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
        if self._claim:
            self._claim.leave()
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

    def _shown(self, entries: Sequence[Entry]) -> list[Layer]:
        """The layers, once the files of their runs are written.

        Only of the runs that stand on a page: an older run takes a refused one's units.
        """
        while True:
            layers = group(entries)
            refused = self._write_runs([entry for layer in layers for entry in layer.entries])
            if not refused:
                return layers
            entries = [entry for entry in entries if entry.path not in refused]

    def _write_runs(self, entries: Sequence[Entry]) -> set[Path]:
        """Write the files of runs that are new or have changed; returns the runs that cannot be
        shown."""
        works: list[Counted] = []
        new: list[Entry] = []
        for entry in entries:
            out = self.out / "runs" / entry.digest
            if not out.is_dir():
                from diversevis.atlas.details import RunWork  # takes seconds, and is rarely needed

                new.append(entry)
                work = RunWork(path=entry.path, pictures=self._pictures(entry), out=out)
                works.append((work, len(entry.units)))
        refused: set[Path] = set()
        for position, reason in self._do("images", works):
            if reason is not None:
                refused.add(new[position].path)
                self.left_out.append((new[position].name, reason))
        return refused

    def _pictures(self, entry: Entry) -> dict[str, str]:
        """The folder of the pictures of every measure that has arrays."""
        return {
            measure: f"pictures/{entry.digest_of(measure)}"
            for measure in entry.measures
            if f"analysis/{measure}.safetensors" in entry.stamps
        }

    def _do(self, what: str, works: Sequence[Counted]) -> Iterator[Answer]:
        """Position and answer of every work, as they come; tells how far it is."""
        total, done = sum(units for _, units in works), 0
        with contextlib.closing(answers(works)) as answered:
            for position, answer in answered:
                done += works[position][1]
                self.tell(what, done, total)
                yield position, answer

    # -- pages ------------------------------------------------------------------------------------

    def _write_static(self) -> None:
        for name in STATIC:
            content = (resources.files("diversevis.atlas") / "static" / name).read_bytes()
            texts.write(self.out / name, place.MARK + content)

    def _write_layer(self, layer: Layer) -> None:
        """Write the page of a layer, its wall and its data."""
        folder = self.out / "layers" / layer.slug
        (height, _), per = tile_of(tuple(layer.key["size"])), COLUMNS * ROWS
        wall = []
        for first in range(0, len(layer.units), per):
            units = layer.units[first : first + per]
            name = f"wall-{texts.digest([(unit.entry.digest, unit.row) for unit in units])}.png"
            wall.append(name)
            if not (folder / name).is_file():
                texts.write(folder / name, self._sheet(height, units))
        self._walls[layer.slug] = wall
        content = self._write_data(layer)
        page = {key: content[key] for key in ("model", "layer", "variant", "noun", "field", "n")}
        self._page(folder / "index.html", "layer.html", layer=page | {"count": len(layer.units)})

    def _sheet(self, height: int, units: Sequence[Unit]) -> bytes:
        """The tiles of units, height pixels high, in a PNG file."""
        places = []
        for unit in units:
            name, row = tile_at(unit.row)
            places.append((self.out / "runs" / unit.entry.digest / name, row))
        try:
            return sheet(height, places)
        except (OSError, ValueError) as error:
            raise WorkFailed(
                f"{self.out}: an image that was made before is gone or damaged ({error}). Delete "
                "this folder, and the same command makes all anew."
            ) from error

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
                key = os.path.relpath(folder.resolve(), self.root.resolve())
                page = comparison_page(folder, self.layers, key)
            except Damaged as reason:
                self.left_out.append((str(folder), str(reason)))
                continue
            self._compared.append(page["slug"])
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
        wanted = {
            "runs": {entry.digest for entry in entries},
            "pictures": {
                Path(folder).name for entry in entries for folder in self._pictures(entry).values()
            },
            "layers": {layer.slug for layer in self.layers},
            "comparisons": {*self._compared},
        }
        alone = self._claim is not None and self._claim.alone
        place.delete_outdated(self.out, wanted, alone=alone)
        for layer in self.layers:
            files = {*self._walls[layer.slug], f"neighbours-{layer.state}.js"}
            folder = self.out / "layers" / layer.slug
            for path in (*folder.glob("wall-*.png"), *folder.glob("neighbours-*.js")):
                if path.name not in files:
                    path.unlink(missing_ok=True)
