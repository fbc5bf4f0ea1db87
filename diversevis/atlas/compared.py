"""The page of a comparison: what `diversevis compare` wrote, beside the units it is about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diversevis.atlas.front import edges_of, histogram
from diversevis.atlas.layers import LOGARITHMIC, Layer, Unit
from diversevis.atlas.scan import checked_comparison, no_comparison
from diversevis.atlas.strips import strip_facts
from diversevis.atlas.texts import slug
from diversevis.compare.answers import number
from diversevis.compare.files import interval
from diversevis.compare.indices import INDICES

QUARTILES = (25, 50, 75)
SIDES = ("a", "b")

Places = Mapping[tuple[str, str, int], tuple[Layer, Unit]]  # config's hash, version, unit


def comparison_page(folder: Path, layers: Sequence[Layer], key: str) -> dict[str, Any]:
    """What a comparison's page shows; raises `Damaged` where comparison.json cannot be used.

    key  tells the comparison from others of the atlas: its path from the root
    """
    result = checked_comparison(folder)
    try:
        return _page(folder, result, layers) | {
            "slug": slug(folder.parent.name, folder.name, key=key)
        }
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise no_comparison(error) from error


def _page(folder: Path, result: Mapping[str, Any], layers: Sequence[Layer]) -> dict[str, Any]:
    places = {
        (unit.entry.facts["config_hash"], unit.entry.path.name, unit.number): (layer, unit)
        for layer in layers
        for unit in layer.units
    }
    a, b = (str(result.get(side, "")) for side in SIDES)
    title = f"{Path(a).name} and {Path(b).name}"
    if len(result["pairs"]) == 1:
        title = " and ".join(_name(result["pairs"][0][side]) for side in SIDES)
    return {
        "title": title, "folder": str(folder), "a": a, "b": b,
        "notes": [str(note) for note in result.get("notes", [])],
        "pairs": [_pair(pair, places) for pair in result["pairs"]],
    }  # fmt: skip


def _name(run: Mapping[str, Any]) -> str:
    return f"{run['model']} {run['layer']}"


def _pair(pair: Mapping[str, Any], places: Places) -> dict[str, Any]:
    sides = {side: _side(pair[side], places) for side in SIDES}
    indices = [_index(index, pair, places) for index in pair["indices"]]
    return {**sides, "indices": indices}


def _version(run: Mapping[str, Any]) -> tuple[str, str]:
    """Tells a run from others: also from another version of the same work."""
    return run["config_hash"], Path(run["folder"]).name


def _side(run: Mapping[str, Any], places: Places) -> dict[str, Any]:
    known = (places.get((*_version(run), unit)) for unit in run["units"])
    layer = next((place[0] for place in known if place), None)
    return {
        "name": _name(run), "folder": run["folder"], "field": run["receptive_field"],
        "units": len(run["units"]),
        "href": None if layer is None else f"../../layers/{layer.slug}/index.html",
    }  # fmt: skip


def _index(index: Mapping[str, Any], pair: Mapping[str, Any], places: Places) -> dict[str, Any]:
    shares = index["statistic"] == "mean"
    values = {
        side: [value for value in index[side]["values"] if value is not None] for side in SIDES
    }
    is_log = index["index"] in LOGARITHMIC
    edges = edges_of([*values["a"], *values["b"]] or [0.0], is_log=is_log)
    meanings = {known.key: known.meaning for known in INDICES if known.meaning}
    row: dict[str, Any] = {
        "title": index["title"], "unit": index["unit"], "log": is_log, "shares": shares,
        "meaning": meanings.get(index["index"].partition("<")[0], ""),
        "low": edges[0], "high": edges[-1], "reason": index.get("reason") and str(index["reason"]),
        "difference": None, "effect": None, "p": None, "p_holm": None,
    }  # fmt: skip
    if index.get("reason") is None:
        row["difference"] = interval(index)
        row["effect"] = f"{index['cliffs_delta']:+.2f} {index['effect']}"
        row |= {key: number(index[key], 2) for key in ("p", "p_holm")}
    for side in SIDES:
        plot = None if shares else histogram(values[side], edges)
        row[side] = {
            "count": len(values[side]), "value": number(index[side].get(index["statistic"])),
            "histogram": plot,
        }  # fmt: skip
    row["edges"] = edges
    row["examples"] = {
        side: [] if shares else _examples(pair[side], index[side]["values"], places)
        for side in SIDES
    }
    return row


def _examples(
    run: Mapping[str, Any], values: Sequence[float | None], places: Places,
) -> list[dict[str, Any]]:  # fmt: skip
    """The units nearest to the quartiles of an index."""
    known = [(value, unit) for value, unit in zip(values, run["units"], strict=True)
             if value is not None and (*_version(run), unit) in places]  # fmt: skip
    if not known:
        return []
    examples = []
    for quartile, at in zip(
        QUARTILES, np.percentile([value for value, _ in known], QUARTILES), strict=True
    ):
        value, number_ = min(known, key=lambda pair: abs(pair[0] - at))
        hash_, version = _version(run)
        layer, unit = places[hash_, version, number_]
        examples.append({
            "quartile": f"{quartile} %", "unit": number_, "value": number(value),
            "href": f"../../layers/{layer.slug}/index.html#unit={number_}",
            "file": f"../../runs/{unit.entry.digest}/unit{number_:04d}.png"
            if layer.key["n"] else None,
            "strip": strip_facts(layer.key["n"] or 1, tuple(layer.key["size"])),
        })  # fmt: skip
    return examples
