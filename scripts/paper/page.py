"""claims.json and pictures -> an HTML page without scripts or external files; all text escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from paper.figures import Picture

Numbers = dict[str, Any]
TITLE = "Do early layers hold invariances?"
COLORS = {"holds": "#00734f", "holds in part": "#9a5b00", "does not hold": "#a8321a"}
STYLE = """
:root { color-scheme: light; }
body { margin: 0; background: #fafaf8; color: #1d1d1b; font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 1160px; margin: 0 auto; padding: 40px 24px 80px; }
h1 { font-size: 34px; line-height: 1.15; margin: 0 0 8px; }
h2 { font-size: 23px; line-height: 1.3; margin: 10px 0 12px; max-width: 900px; }
p { max-width: 820px; margin: 8px 0; }
.faint, figcaption { color: #5a5a55; font-size: 14px; line-height: 1.45; }
section { background: #fff; border: 1px solid #e3e3dd; border-radius: 10px; padding: 28px 32px;
  margin: 28px 0; }
.badge { display: inline-block; color: #fff; border-radius: 99px; padding: 3px 14px;
  font-size: 14px; font-weight: 600; }
.summary { display: grid; grid-template-columns: repeat(auto-fit, minmax(230px, 1fr)); gap: 14px;
  margin: 24px 0; }
.summary a { display: block; background: #fff; border: 1px solid #e3e3dd; border-radius: 10px;
  padding: 16px 18px; color: inherit; text-decoration: none; }
.summary a:hover { border-color: #0072b2; }
.summary span.text { display: block; margin-top: 8px; font-size: 15px; line-height: 1.4; }
figure { margin: 22px 0; }
figure img { max-width: 100%; height: auto; }
figure.graph img { width: 100%; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(530px, 1fr));
  gap: 8px 28px; }
.cards figure { margin: 8px 0; }
.cards img { image-rendering: pixelated; display: block; margin-bottom: 4px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13.5px; margin: 16px 0; white-space: nowrap; }
th, td { padding: 4px 12px 4px 0; text-align: right; border-bottom: 1px solid #ecece6; }
th { font-weight: 600; white-space: normal; vertical-align: bottom; color: #44443f; }
th:first-child, td:first-child { text-align: left; }
td.differs { font-weight: 700; }
details { margin: 14px 0 0; }
summary { cursor: pointer; color: #0072b2; }
pre { background: #f4f4f0; padding: 12px 14px; border-radius: 6px; font-size: 12.5px;
  white-space: pre-wrap; overflow-wrap: anywhere; }
@media (max-width: 560px) { section { padding: 18px; } .cards { grid-template-columns: 1fr; } }
"""


def page(content: Numbers, pictures: Mapping[int, Sequence[Picture]]) -> str:
    """Return the HTML of the page.

    content   the content of claims.json
    pictures  by claim number
    """
    claims = content["claims"]
    parts = [
        _head(content),
        *(_claim(claim, pictures.get(claim["number"], ())) for claim in claims),
    ]
    return document(TITLE, parts)


def document(title: str, parts: Sequence[str]) -> str:
    """The HTML document with these parts."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(parts)
        + "\n</main>\n</body>\n</html>\n"
    )


def _head(content: Numbers) -> str:
    links = "\n".join(
        f'<a href="#claim{claim["number"]}">{_badge(claim["verdict"])}'
        f'<span class="text">{claim["number"]}. {escape(claim["claim"])}</span></a>'
        for claim in content["claims"]
    )
    return (
        f"<h1>{escape(TITLE)}</h1>\n<p>Four claims of Cadena, Weis, Gatys, Bethge &amp; Ecker "
        "(ECCV 2018), measured on early layers of VGG-19 and ResNet-50. Every verdict follows from "
        "the rule below it; all numbers are in "
        '<a href="claims.json">claims.json</a>.</p>\n'
        f'{faint(made_by(content["made"]))}<div class="summary">\n{links}\n</div>'
    )


def made_by(made: Numbers) -> str:
    """How and when the runs were made, in words."""
    versions = made["versions"]
    sample = " Only a sample of units (--quick): the numbers are rough." if made["quick"] else ""
    return (
        f"diversevis {versions['diversevis']}, torch {versions['torch']}, {made['device_name']} "
        f"({made['device']}), seed {made['seed']}; the runs took "
        f"{made['seconds_of_runs']:.0f} s; {made['when'][:10]}.{sample}"
    )


def commands_of(lines: Sequence[str]) -> str:
    """The commands, folded."""
    return (
        "<details><summary>Commands, to be typed in the folder of this page</summary>\n"
        "<pre>" + escape("\n".join(lines)) + "</pre></details>\n"
    )


def _claim(claim: Numbers, pictures: Sequence[Picture]) -> str:
    wide = [figure_of(picture) for picture in pictures if picture.wide]
    cards = [figure_of(picture) for picture in pictures if not picture.wide]
    tables = {1: _gain_table, 2: _phase_table, 3: _deformation_table, 4: _difference_tables}
    more = f'<div class="cards">\n{"".join(cards)}</div>' if cards else ""
    return (
        f'<section id="claim{claim["number"]}">\n{_badge(claim["verdict"])}\n'
        f"<h2>{claim['number']}. {escape(claim['claim'])}</h2>\n<p>{escape(claim['finding'])}</p>\n"
        f'<p class="faint">Rule: {escape(claim["rule"])}</p>\n'
        f"{''.join(wide[:1])}\n{tables[claim['number']](claim['numbers'])}\n{''.join(wide[1:])}\n{more}\n"
        f"{commands_of(claim['commands'])}</section>"
    )


def figure_of(picture: Picture) -> str:
    file = escape(picture.file, quote=True)
    caption = escape(picture.caption)
    image = f'<img src="{file}" alt="{escape(picture.caption, quote=True)}">'
    if picture.link is not None:
        image = f'<a href="{escape(picture.link, quote=True)}">{image}</a>'
    graph = ' class="graph"' if picture.file.startswith("figures/claim") else ""
    return f"<figure{graph}>{image}<figcaption>{caption}</figcaption></figure>\n"


def _badge(verdict: str) -> str:
    color = COLORS.get(verdict, "#44443f")
    return f'<span class="badge" style="background:{color}">{escape(verdict)}</span>'


# -- tables ---------------------------------------------------------------------------------------


def _gain_table(numbers: Numbers) -> str:
    head = ["layer", "units", "dead", "smallest distance, alone", "gain in smallest distance",
            "units with a gain", "gain in mean distance", "response together / alone",
            "dimensions, alone", "dimensions, together", "diversity index", "p, Holm"]  # fmt: skip
    rows = [
        [name, layer["counted"], layer["dead"], _median(layer["smallest_alone"]),
         _median(layer["gain_smallest"]), percent(layer["share_larger"]),
         _median(layer["gain_mean"]), percent(layer["response"]["median"]),
         _median(layer["dimensions_alone"]),
         _median(layer["dimensions"]), _median(layer["diversity_index"]), number(layer["p_holm"])]
        for name, layer in numbers["layers"].items()
    ]  # fmt: skip
    return table_of(head, rows) + faint(
        "Medians over units; distances in RMS grey levels (images have a contrast of 32). "
        "Diversity index: 0 for the batch of a noiseless linear unit with the same objective, 1 "
        "for that of an ideal complex cell. Dimensions: participation ratio. p, Holm: corrected "
        "for the number of layers.")  # fmt: skip


def _phase_table(numbers: Numbers) -> str:
    head = ["layer", "units counted", "dead", "weak", "F1/F0 < 1", "F1/F0 < 0.2",
            "median F1/F0", "fitted: units counted", "fitted: < 1", "fitted: < 0.2",
            "fitted: median"]  # fmt: skip
    rows = [
        [name, layer["best"]["counted"], layer["dead"], layer["best"]["weak"],
         percent(layer["best"]["below_1"]), percent(layer["best"]["near_perfect"]),
         number(layer["best"]["median"]), layer["fitted"]["counted"] or "-",
         percent(layer["fitted"]["below_1"]), percent(layer["fitted"]["near_perfect"]),
         number(layer["fitted"]["median"])]
        for name, layer in {**numbers["layers"], **numbers["controls"]}.items()
    ]  # fmt: skip
    example = numbers["example"]
    passing = f"{example['passing']} of {example['candidates']} candidates satisfy it"
    return table_of(head, rows) + faint(
        f"The unit below is chosen by a rule ({passing}): {example['rule']}"
    )


def _deformation_table(numbers: Numbers) -> str:
    head = ["layer", "units measured", "of units", "displacement, px", "R < 1, white noise",
            "R < 1, same spectrum", "accepting", "p", "kept at 0.5 px", "kept at 1 px",
            "kept at 2 px"]  # fmt: skip
    rows = [
        [name, layer["counted"], layer["units"], number(layer["delta"]),
         percent(layer["below_1_white"]["share"]), percent(layer["below_1_strict"]["share"]),
         f"{layer['accepting']['units']}", number(layer["accepting"]["p"]),
         *(percent(layer["kept"][delta]["median"]) for delta in ("0.5", "1", "2"))]
        for name, layer in numbers["layers"].items()
    ]  # fmt: skip
    text = table_of(head, rows) + faint(
        "R < 1: by at least two standard errors. If not all units of a layer are measured, the "
        "measured units are a random sample. Kept: median share of the response; a dash if the "
        "receptive field is too small.")  # fmt: skip
    if "example" not in numbers:
        return text
    example = numbers["example"]
    ranks = [[key, number(entry["value"]), percent(entry["lower"]), entry["of_units"]]
             for key, entry in example["indices"].items()]  # fmt: skip
    return text + table_of(
        [
            f"{example['layer']} unit {example['unit']}",
            "value",
            "units with a lower value",
            "of units",
        ],
        ranks,
    )


def _difference_tables(numbers: Numbers) -> str:
    more = [numbers["other_side"]] if numbers["other_side"] else []
    tables = []
    for pair in (*numbers["pairs"], *more):
        a, b = (f"{pair[s]['model']} {pair[s]['layer']} ({pair[s]['receptive_field']} px)"
                for s in "ab")  # fmt: skip
        rows = [
            [index["title"], *(number(index[s][index["statistic"]]) for s in "ab"),
             _interval(index), number(index["cliffs_delta"]), index["effect"] or index["reason"],
             number(index["p_holm"])]
            for index in pair["indices"]
        ]  # fmt: skip
        head = ["index", f"A: {a}", f"B: {b}", "A - B [95 %]", "Cliff's delta", "effect", "p, Holm"]
        differs = [index["differs"] for index in pair["indices"]]
        tested = sum(index["p"] is not None for index in pair["indices"])
        count = f"{sum(differs)} of {tested} indices differ"
        tables.append(
            f"<details><summary>{escape(f'{a} and {b}: {count}')}</summary>"
            f"{table_of(head, rows, differs)}</details>"
        )
    return "".join(tables)


def table_of(head: Sequence[str], rows: Sequence[Sequence[Any]], bold: Sequence[bool] = ()) -> str:
    """HTML table; `bold` says which rows are printed in bold."""
    first = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = []
    for number, row in enumerate(rows):
        mark = ' class="differs"' if bold and bold[number] else ""
        lines.append("".join(f"<td{mark}>{escape(str(cell))}</td>" for cell in row))
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="scroll"><table>\n<tr>{first}</tr>\n{body}\n</table></div>\n'


def faint(text: str) -> str:
    return f'<p class="faint">{escape(text)}</p>\n'


def _median(spread: Numbers) -> str:
    return number(spread["median"])


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _interval(index: Numbers) -> str:
    difference = index["difference"]
    if difference is None:
        return "-"
    return f"{difference['value']:+.3g} [{difference['low']:+.3g}, {difference['high']:+.3g}]"
