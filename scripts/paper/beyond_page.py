"""Numbers of beyond.json and runs -> pictures and a page, in the style of the claims' page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import torch

from diversevis.method.images import display
from diversevis.pictures import page as drawing
from diversevis.pictures.draw import layer_picture
from paper.beyond import BOTH_RULE, CLEAREST_RULE
from paper.beyond_runs import MATCHED, kind_of
from paper.figures import Picture, measure_picture
from paper.page import commands_of, document, faint, figure_of, made_by, number, percent, table_of
from paper.runs import Run

TITLE = "Beyond the paper"
FOLDER = "figures_beyond"
TILE = 84  # pixels: a metamer, enlarged
SECTIONS = {
    "bipartite": "Bipartite fields: how much of the best image may show a shifting texture?",
    "families": "Selectivity and families: which units are alike, but for a map of the plane?",
    "varied": "Natural varied images: how much of what a unit accepts occurs in photographs?",
    "metamers": "Metamers: how unlike a photograph may an image be to which a layer answers alike?",
}
WITHOUT = "Left out: this part needs photographs (--natural FOLDER)."
MISSING = "Left out: none of its runs is finished."
Numbers = dict[str, Any]


# -- pictures -------------------------------------------------------------------------------------


def beyond_pictures(content: Numbers, runs: Mapping[str, Run]) -> dict[str, list[Picture]]:
    """Pictures of the sections, by their keys in beyond.json."""
    layers = {run.name: run for name, run in runs.items() if name.startswith("bipartite")}
    whole = [runs[name] for name in kind_of(list(runs), "families")]
    matched = {runs[name].record["layer"]: runs[name]
               for name in kind_of(list(runs), "metamers")}  # fmt: skip
    made = {
        "bipartite": [
            *_layers("bipartite", [layers[name] for name in content["bipartite"]["layers"]]),
            *(_clear_unit(layers[unit["layer"]], unit)
              for unit in content["bipartite"]["clearest"]),
        ],
        "families": [*_layers("align", whole), *_layers("selectivity", whole)],
        "varied": _layers("varied", [run for run in whole if run.name in content["varied"]]),
        "metamers": _metamers(content["metamers"], matched),
    }  # fmt: skip
    return {key: [_at(f"{key}{i}", *shown) for i, shown in enumerate(made[key])] for key in made}


Shown = tuple[bytes, str]  # a PNG file and its caption


def _at(name: str, content: bytes, caption: str) -> Picture:
    return Picture(file=f"{FOLDER}/{name}.png", png=content, caption=caption, wide=True)


def _layers(measure: str, runs: Sequence[Run]) -> list[Shown]:
    """The measure's pictures of whole runs; nothing of a run in which no unit has a value."""
    drawn = [(run, layer_picture(measure, run.record, run.units, run.arrays(measure)))
             for run in runs]  # fmt: skip
    return [
        (png, f"{run.name}: {measure}, all units of the run.")
        for run, png in drawn
        if png is not None
    ]


def _clear_unit(run: Run, unit: Numbers) -> Shown:
    caption = (
        f"{run.name} unit {unit['unit']}: a texture that fills {percent(unit['boundary'])} of the "
        f"image's energy keeps {percent(unit['mean'])} of the best response, its worst crop "
        f"{percent(unit['min'])}; with less contrast instead it keeps "
        f"{percent(unit['mean'] - unit['above_contrast'])}. Index {number(unit['index'])}."
    )
    return measure_picture(run, "bipartite", run.row(unit["unit"])), caption


def _metamers(numbers: Numbers, runs: Mapping[str, Run]) -> list[Shown]:
    """A picture of every photograph: a row for every layer."""
    shown = []
    for row, file in enumerate(numbers["grows"]):
        blocks = [_row(runs[layer], row) for layer in MATCHED if layer in runs]
        distances = [f"{layer} {number(of_layer['photographs'][row]['distance'])}"
                     for layer, of_layer in numbers["layers"].items()]  # fmt: skip
        title = f"metamers of {file}"
        lines = ["The photograph's crop, and images that the layer answers to alike"]
        png = drawing.png(drawing.compose(title, lines, blocks))
        shown.append((png, f"{file}: mean distance to the photograph, RMS grey levels: "
                           f"{', '.join(distances)}."))  # fmt: skip
    return shown


def _row(run: Run, row: int) -> drawing.Block:
    """Crop and images of a layer, enlarged without smoothing."""
    arrays, mean = run.images(), tuple(run.record["weights"]["mean"])
    crop, images = arrays["reference"][row][None], arrays["images"][row].nan_to_num()
    tiles, _ = drawing.fitted(display(torch.cat([crop, images]), mean), TILE)
    errors = [-100 * response for response in arrays["responses"][row].tolist()]
    captions = ["photograph", *(f"error {error:.1f} %" for error in errors)]
    heading = f"{run.record['layer']} ({run.size} px)"
    return drawing.gallery(list(tiles), captions, heading, columns=len(tiles))


# -- the page -------------------------------------------------------------------------------------


def beyond_page(content: Numbers, pictures: Mapping[str, Sequence[Picture]]) -> str:
    """Return the HTML of the page.

    content   the content of beyond.json
    pictures  by section
    """
    tables: dict[str, Callable[[Numbers], str]] = {
        "bipartite": _bipartite, "families": _families, "varied": _varied, "metamers": _metamer,
    }  # fmt: skip
    parts = [
        f"<h1>{escape(TITLE)}</h1>\n<p>What the paper of 2018 does not measure, on the same early "
        "layers. Definitions, and what of them is published: docs/measures.md. All numbers are in "
        f'<a href="beyond.json">beyond.json</a>.</p>\n{faint(made_by(content["made"]))}'
    ]
    for key, title in SECTIONS.items():
        figures = "".join(figure_of(picture) for picture in pictures.get(key, ()))
        body = tables[key](content[key]) if _any(content, key) else faint(_why(content, key))
        parts.append(
            f'<section id="{key}">\n<h2>{escape(title)}</h2>\n{body}{figures}'
            f"{_commands(content['commands'], key)}</section>"
        )
    return document(TITLE, parts)


def _any(content: Numbers, key: str) -> bool:
    """Whether the section has numbers."""
    of_layers = content[key]["layers"] if key in ("bipartite", "metamers") else content[key]
    return bool(of_layers or content[key].get("known"))


def _why(content: Numbers, key: str) -> str:
    needs = key in ("varied", "metamers") and not content["made"]["photographs"]
    return WITHOUT if needs else MISSING


def _commands(lines: Mapping[str, str], key: str) -> str:
    """Of the runs that a section is made of; natural varied images are from those of families."""
    chosen = [lines[name] for name in kind_of(list(lines), key)]
    return commands_of(chosen) if chosen else ""


def _bipartite(numbers: Numbers) -> str:
    head = ["layer", "measured", "weak", "median index", "of contrast",
            "median share of the free part", "true share", "both parts", "clear"]  # fmt: skip
    known = {f"energy {layer}": of_layer for layer, of_layer in numbers["known"].items()}
    rows = [
        [name, layer["measured"], layer["weak"],
         *(_two_digits(layer[key]["median"]) for key in ("index", "index_contrast", "share")),
         number(layer.get("true_share")), layer["both_parts"],
         layer["clear"]]
        for name, layer in {**known, **numbers["layers"]}.items()
    ]  # fmt: skip
    return table_of(head, rows) + faint(
        "A linear unit has index 0, a unit that accepts a shifting texture everywhere 1. Energy: "
        f"units whose free part is known. {BOTH_RULE} {CLEAREST_RULE} Shown below: the clearest "
        "units of all layers, those furthest above their contrast alone. Of contrast: the index of "
        "a linear filter whose response grows with contrast as the unit's does."
    )


def _two_digits(value: float | None) -> str:
    return "-" if value is None else f"{round(value, 2) + 0.0:.2f}"  # not -0.00


def _families(numbers: Numbers) -> str:
    head = ["layer", "units", "rank 1 on their images", "median response of the others",
            "families", "largest sizes", "silhouettes of the divisions",
            "median likeness, nearest unit", "pairs left out", "of those tried, lost",
            "and their mean gain"]  # fmt: skip
    rows = [
        [name, layer["compared"], percent(layer["rank_1"]),
         percent(layer["mean_others"]["median"]), len(layer["sizes"]),
         ", ".join(map(str, layer["sizes"][:8])), _range(layer["divisions"]),
         number(layer["to_nearest"]["median"]), layer["left_out"]["pairs"],
         f"{layer['left_out']['lost']} of {layer['left_out']['tried']}",
         number(layer["left_out"]["gained"])]
        for name, layer in numbers.items()
    ]  # fmt: skip
    return (
        table_of(head, rows)
        + "".join(_together(name, layer) for name, layer in numbers.items())
        + faint(
            "Rank 1: no other unit is driven more by the unit's images. Likeness: share of the "
            "best response to the other's images under the best map, there and back. Silhouettes "
            "below 0.25 mean no structure, up to 0.5 weak structure (Kaufman and Rousseeuw 1990)."
        )
    )


def _together(name: str, layer: Numbers) -> str:
    if layer["phase_invariant"] is None:
        return ""
    of_units = ", ".join(f"{unit} in family {family}"
                         for unit, family in layer["phase_invariant"].items())  # fmt: skip
    answer = "stand in the same family" if layer["together"] else "do not stand in the same family"
    return f"<p>{escape(f'The phase-invariant units of {name} {answer}: {of_units}.')}</p>\n"


def _range(ends: Sequence[float] | None) -> str:
    return "-" if ends is None else f"{ends[0]:.2f} to {ends[1]:.2f}"


def _varied(numbers: Numbers) -> str:
    head = ["layer", "units", "crops", "photographs", "best crop, median", "fraction",
            "median share of crops", "units without a crop", "units with 2 photographs or more",
            "smallest distance / synthetic", "mean distance / synthetic"]  # fmt: skip
    rows = [
        [name, layer["measured"], layer["crops_shown"], layer["photographs_shown"],
         percent(layer["best_crop"]["median"]), fraction, _small_share(of["share"]["median"]),
         of["none"], of["several"], number(of["of_synthetic_min"]["median"]),
         number(of["of_synthetic_mean"]["median"])]
        for name, layer in numbers.items()
        for fraction, of in layer["fractions"].items()
    ]  # fmt: skip
    return table_of(head, rows) + faint(
        "A crop counts if it keeps the fraction of the unit's best response. Distances: of the "
        "most different crops that do, over those of the run's images; medians over the units "
        "with crops of two photographs or more. The run's images keep far more of the response "
        "than a small fraction, so that a ratio above 1 does not mean that nature is more varied."
    )


def _small_share(value: float | None) -> str:
    """In percent with two digits that count: a few crops of 26,000 are not none."""
    return "-" if value is None else f"{100 * value:.2g}%"


def _metamer(numbers: Numbers) -> str:
    head = ["layer", "photograph", "largest error", "distance to the photograph",
            "random weights: largest error", "random weights: distance",
            "trained network's, error in the random network",
            "random network's, error in the trained network"]  # fmt: skip
    rows = [
        [f"{layer} ({of_layer['receptive_field']} px)", match["file"], percent(match["error_max"]),
         number(match["distance"]), percent(match["random_error_max"]),
         number(match["random_distance"]), percent(match["error_of_trained"]),
         percent(match["error_of_random"])]
        for layer, of_layer in numbers["layers"].items() for match in of_layer["photographs"]
    ]  # fmt: skip
    tolerances = sorted({of_layer["tolerance"] for of_layer in numbers["layers"].values()})
    words = {True: "grows with every layer", False: "does not grow with every layer",
             None: "is not known for every layer"}  # fmt: skip
    depth = "; ".join(f"{file}: {words[grows]}" for file, grows in numbers["grows"].items())
    return (
        table_of(head, rows)
        + f"<p>{escape(f'Distance to the photograph: {depth}.')}</p>\n"
        + faint(
            "Images as different as possible to all of which the layer answers as to the "
            f"photograph, within an error of {', '.join(f'{t:.0%}' for t in tolerances)}. "
            "Distances are means in RMS grey levels."
        )
    )
