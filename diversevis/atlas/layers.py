"""The units that stand on a page: those of a layer, whose images were made in the same way."""

from __future__ import annotations

import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from diversevis.atlas.scan import Entry, Number, address_of
from diversevis.atlas.strips import COLUMNS, ROWS, UNITS_PER_FILE, strip_facts, tile_of
from diversevis.atlas.texts import digest, slug
from diversevis.compare.indices import INDICES, Index
from diversevis.compare.report import MAIN
from diversevis.compare.same import differences
from diversevis.compare.words import STATES
from diversevis.units import counted

RESPONSE = Index(
    "response", "response", "share of best",
    meaning="mean response to the images / best response to a single image; 1: diversity costs "
            "no response",
)  # fmt: skip
DISTANCE = Index(
    "distance", "smallest distance", "RMS grey levels",
    meaning="root mean square difference of the two most similar images; images of noise: {:.0f}",
)  # fmt: skip
ORDER = {index.key.removesuffix("*"): at for at, index in enumerate(INDICES)}
LOGARITHMIC = "deformation.stability", "deformation.stability_strict"  # ratios
# Settings in which pages of a layer may differ, with their names for a person.
SETTINGS = {
    "size": "size", "n": "n", "contrast": "contrast", "diversity": "diversity",
    "distance": "distance", "fraction": "fraction", "front": "front", "prior": "prior",
    "seed": "seed", "weights": "weights", "computation": "computation", "photographs": "settings",
}  # fmt: skip


def order_of(key: str) -> tuple[bool, int, float]:
    """Where an index stands among others: the main ones of measures first, the rest as compared."""
    main = [*MAIN.values()]
    if key in main:
        return False, main.index(key), 0.0
    listed = next((name for name in ORDER if name.endswith(".") and key.startswith(name)), None)
    if listed is not None:  # deformation.kept.0.5
        return True, ORDER[listed], float(key.removeprefix(listed))
    return True, ORDER.get(key, -1), 0.0


class Unit(NamedTuple):
    """A unit of a layer: its number, its run, and its row in that run."""

    number: int
    entry: Entry
    row: int


@dataclass(frozen=True, kw_only=True)
class Layer:
    """The units of a page, ascending; every unit counts once, with its newest run.

    variant  the settings that set the page apart from other pages of the same layer, in words
    """

    key: Mapping[str, Any]
    variant: str
    units: Sequence[Unit]
    notes: Sequence[str]

    @cached_property
    def entries(self) -> list[Entry]:
        """The runs of these units."""
        return list({unit.entry.path: unit.entry for unit in self.units}.values())

    @property
    def slug(self) -> str:
        return slug(self.key["model"], self.key["layer"], key=self.key)

    @cached_property
    def state(self) -> str:
        """Names the wall and the neighbours as they are now."""
        return digest([(unit.entry.digest, unit.row) for unit in self.units])

    @cached_property
    def indices(self) -> list[Index]:
        """Response and distance, then the indices of all runs, the main ones of measures first."""
        known = {index.key: index for entry in self.entries for index in entry.indices}
        return [RESPONSE, DISTANCE, *sorted(known.values(), key=lambda index: order_of(index.key))]

    def address(self, index: Index) -> str:
        return index.key if index in (RESPONSE, DISTANCE) else address_of(index)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The settings of every measure with which most units were measured."""
        settings: dict[str, Any] = {}
        for measure in dict.fromkeys(name for entry in self.entries for name in entry.measures):
            counts = Counter[str]()
            by_text = {}
            for entry in self.entries:
                if measure in entry.measures:
                    text = repr(entry.measures[measure])
                    by_text[text] = entry.measures[measure]
                    counts[text] += len(entry.units)
            settings[measure] = by_text[counts.most_common(1)[0][0]]
        return settings

    @cached_property
    def columns(self) -> dict[str, list[Number]]:
        """Of every index the number of every unit; None where it was measured in another way."""
        columns: dict[str, list[Number]] = {}
        for index in self.indices:
            name = self.address(index)
            comparable = {entry.path for entry in self.entries if self._is_comparable(entry, index)}
            columns[name] = [
                _at(unit.entry.columns.get(name), unit.row)
                if unit.entry.path in comparable else None
                for unit in self.units
            ]  # fmt: skip
        return columns

    @cached_property
    def weak(self) -> dict[str, list[int]]:
        """The rows of units whose number says little, by index."""
        weak: dict[str, list[int]] = defaultdict(list)
        rows_of = {
            (id(entry), name): set(rows)
            for entry in self.entries
            for name, rows in entry.weak.items()
        }
        for row, unit in enumerate(self.units):
            for name in unit.entry.weak:
                if unit.row in rows_of[id(unit.entry), name]:
                    weak[name].append(row)
        return dict(weak)

    def counting(self, name: str) -> list[float]:
        """The numbers of an index that count: not those of dead units, and not weak ones."""
        weak = {*self.weak.get(name, [])}
        values = enumerate(self.columns[name])
        return [value for row, value in values if value is not None and row not in weak]

    def _is_comparable(self, entry: Entry, index: Index) -> bool:
        measure = index.measure
        return measure not in entry.measures or not any(
            differences(self.settings[measure], entry.measures[measure], measure)
        )


def _at(values: Sequence[Number] | None, row: int) -> Number:
    return None if values is None else values[row]


def group(entries: Iterable[Entry]) -> list[Layer]:
    """The pages of all runs, by network and size of the receptive field."""
    by_key: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        by_key[digest(entry.layer)].append(entry)
    groups = sorted(by_key.values(), key=lambda entries: _order(entries[0].layer))
    same_layer: dict[tuple[str, str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for entries in groups:
        same_layer[_layer(entries[0].layer)].append(entries[0].layer)
    return [
        _page(entries, _variant(entries[0].layer, same_layer[_layer(entries[0].layer)]))
        for entries in groups
    ]


def _order(key: Mapping[str, Any]) -> tuple[Any, ...]:
    height, width = key["size"]
    return key["model"], height * width, key["layer"], str(key)


def _layer(key: Mapping[str, Any]) -> tuple[str, str, str]:
    return key["model"], key["layer"], str(key["direction"])


def noun_of(key: Mapping[str, Any]) -> str:
    """What a row of the page is: a unit, a direction, or a photograph of metamers."""
    if "photographs" in key:
        return "photograph"
    return "direction" if key["direction"] else "unit"


def _variant(key: Mapping[str, Any], keys: Sequence[Mapping[str, Any]]) -> str:
    """What sets this page apart from the others of its layer, in words."""
    parts = [key["direction"]] if key["direction"] else []
    for name, word in SETTINGS.items():
        if len({digest(other.get(name)) for other in keys}) > 1:
            value = key.get(name)
            if name in ("weights", "computation", "photographs"):
                value = str(value)[:8]
            elif name == "size":
                value = " x ".join(map(str, key["size"]))
            parts.append(f"{word} {value if value is not None else 'none'}")
    return ", ".join(parts)


def _page(entries: Sequence[Entry], variant: str) -> Layer:
    newest: dict[int, Unit] = {}
    for entry in sorted(entries, key=lambda entry: (entry.facts["made"], entry.name)):
        for row, number in enumerate(entry.units):
            newest[number] = Unit(number, entry, row)
    units = [newest[number] for number in sorted(newest)]
    shown = {unit.entry.path for unit in units}
    older = [entry for entry in entries if entry.path not in shown]
    notes = []
    if older:
        notes.append(
            f"{counted(len(older), 'run')} of the same units and settings, made earlier, "
            f"{'is' if len(older) == 1 else 'are'} not shown: "
            + ", ".join(entry.name for entry in older[:5])
            + (", ..." if len(older) > 5 else "")
        )
    layer = Layer(key=entries[0].layer, variant=variant, units=units, notes=notes)
    notes += _measured_otherwise(layer)
    return layer


def _measured_otherwise(layer: Layer) -> list[str]:
    notes = []
    for measure, settings in layer.settings.items():
        other = [
            entry for entry in layer.entries
            if measure in entry.measures
            and any(differences(settings, entry.measures[measure], measure))
        ]  # fmt: skip
        if other:
            notes.append(
                f"{measure}: {counted(len(other), 'run')} measured it with other settings than "
                "most units; its numbers there are left out"
            )
    return notes


def content_of(layer: Layer, wall: Sequence[str]) -> dict[str, Any]:
    """What layer.js holds; `wall` lists the file names of the sheets."""
    entry, key = layer.entries[0], layer.key
    at = {entry.path: position for position, entry in enumerate(layer.entries)}
    size = tuple(key["size"])
    height, width = tile_of(size)
    return {
        "slug": layer.slug, "model": key["model"], "layer": key["layer"],
        "variant": layer.variant, "noun": noun_of(key),
        "field": key["size"], "stride": entry.facts["stride"], "n": key["n"],
        "contrast": key["contrast"], "noise_distance": noise_distance(layer),
        "response": entry.facts["response"],
        "indices": [describe(layer, index) for index in layer.indices],
        "units": [unit.number for unit in layer.units],
        "state": [unit.entry.states[unit.row] for unit in layer.units], "states": STATES,
        "columns": layer.columns, "weak": layer.weak,
        "runs": [_run(entry) for entry in layer.entries],
        "run": [at[unit.entry.path] for unit in layer.units],
        "row": [unit.row for unit in layer.units], "units_per_file": UNITS_PER_FILE,
        "wall": {"height": height, "width": width, "columns": COLUMNS, "per": COLUMNS * ROWS,
                 "sheets": list(wall)},
        "strip": strip_facts(key["n"], size) if key["n"] and key["n"] > 1 else None,
        "neighbours": f"neighbours-{layer.state}.js", "notes": list(layer.notes),
    }  # fmt: skip


def noise_distance(layer: Layer) -> float:
    """Distance of two images of noise, RMS grey levels."""
    return float(2**0.5 * layer.key["contrast"])


def describe(layer: Layer, index: Index) -> dict[str, Any]:
    """An index, for a person."""
    return {
        "id": layer.address(index), "key": index.key, "title": index.title, "unit": index.unit,
        "name": name_of(index), "measure": index.measure, "log": index.key in LOGARITHMIC,
        "main": index in (RESPONSE, DISTANCE) or index.key in MAIN.values(),
        "meaning": index.meaning.format(noise_distance(layer)),
        "words": index.words, "threshold": 1 if index.words else None,
    }  # fmt: skip


def name_of(index: Index) -> str:
    """The title behind the name of its measure: `phase: F1/F0, best grating`."""
    if index in (RESPONSE, DISTANCE):
        return index.title
    of_measure = (f"{index.measure}, ", f"{index.measure} ")
    rest = index.title.removeprefix(of_measure[0]).removeprefix(of_measure[1])
    return f"{index.measure}: {rest}"


def _run(entry: Entry) -> dict[str, Any]:
    keys = "command", "rerun", "made", "version", "device", "weights", "not_measured"
    return {
        "digest": entry.digest, "folder": entry.name, "quoted": shlex.quote(entry.name),
        "measures": [*entry.measures],
        **{key: entry.facts[key] for key in keys},
    }  # fmt: skip
