"""claims.json and pictures -> one HTML page: no scripts, nothing from elsewhere, all escaped."""

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
    """The whole page.

    content   what claims.json holds
    pictures  of every claim, by its number
    """
    claims = content["claims"]
    parts = [_head(content), *(_claim(one, pictures.get(one["number"], ())) for one in claims)]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(TITLE)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(parts)
        + "\n</main>\n</body>\n</html>\n"
    )


def _head(content: Numbers) -> str:
    made, versions = content["made"], content["made"]["versions"]
    links = "\n".join(
        f'<a href="#claim{one["number"]}">{_badge(one["verdict"])}'
        f'<span class="text">{one["number"]}. {escape(one["claim"])}</span></a>'
        for one in content["claims"]
    )
    sample = " A sample of units only (--quick): the numbers are rough." if made["quick"] else ""
    about = (
        f"diversevis {versions['diversevis']}, torch {versions['torch']}, {made['device_name']} "
        f"({made['device']}), seed {made['seed']}; runs of {made['seconds_of_runs']:.0f} s in all, "
        f"{made['when'][:10]}.{sample}"
    )
    return (
        f"<h1>{escape(TITLE)}</h1>\n<p>Four claims of Cadena, Weis, Gatys, Bethge &amp; Ecker "
        "(ECCV 2018), measured anew on early layers of VGG-19 and ResNet-50. Each verdict follows "
        "from a rule that is written beside it; numbers are in "
        '<a href="claims.json">claims.json</a>.</p>\n'
        f'<p class="faint">{escape(about)}</p>\n<div class="summary">\n{links}\n</div>'
    )


def _claim(one: Numbers, pictures: Sequence[Picture]) -> str:
    wide = [_figure(picture) for picture in pictures if picture.wide]
    cards = [_figure(picture) for picture in pictures if not picture.wide]
    tables = {1: _gain_table, 2: _phase_table, 3: _deformation_table, 4: _difference_tables}
    commands = escape("\n".join(one["commands"]))
    more = f'<div class="cards">\n{"".join(cards)}</div>' if cards else ""
    return (
        f'<section id="claim{one["number"]}">\n{_badge(one["verdict"])}\n'
        f"<h2>{one['number']}. {escape(one['claim'])}</h2>\n<p>{escape(one['finding'])}</p>\n"
        f'<p class="faint">Rule: {escape(one["rule"])}</p>\n'
        f"{''.join(wide[:1])}\n{tables[one['number']](one['numbers'])}\n{''.join(wide[1:])}\n{more}\n"
        f"<details><summary>Commands behind it, typed in the folder of this page</summary>\n"
        f"<pre>{commands}</pre></details>\n</section>"
    )


def _figure(picture: Picture) -> str:
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
    head = ["layer", "units", "dead", "smallest distance alone", "gain in it",
            "larger together", "gain in mean distance", "response together / alone",
            "dimensions alone", "together", "diversity index", "p, Holm"]  # fmt: skip
    rows = [
        [name, one["counted"], one["dead"], _middle(one["smallest_alone"]),
         _middle(one["gain_smallest"]), _percent(one["share_larger"]), _middle(one["gain_mean"]),
         _percent(one["response"]["median"]), _middle(one["dimensions_alone"]),
         _middle(one["dimensions"]), _middle(one["diversity_index"]), _number(one["p_holm"])]
        for name, one in numbers["layers"].items()
    ]  # fmt: skip
    return _table(head, rows) + _faint(
        "Medians over units; distances in RMS grey levels (images have 32). Diversity index: 0 is "
        "what a noiseless linear unit's batch would show under the same objective, 1 an ideal "
        "complex cell's.")  # fmt: skip


def _phase_table(numbers: Numbers) -> str:
    head = ["layer", "units counted", "dead", "weak", "F1/F0 < 1", "< 0.2", "median",
            "fitted: counted", "< 1", "< 0.2", "median"]  # fmt: skip
    rows = [
        [name, one["best"]["counted"], one["dead"], one["best"]["weak"],
         _percent(one["best"]["below_1"]), _percent(one["best"]["near_perfect"]),
         _number(one["best"]["median"]), one["fitted"]["counted"] or "-",
         _percent(one["fitted"]["below_1"]), _percent(one["fitted"]["near_perfect"]),
         _number(one["fitted"]["median"])]
        for name, one in {**numbers["layers"], **numbers["controls"]}.items()
    ]  # fmt: skip
    example = numbers["example"]
    told = f"{example['passing']} of {example['candidates']} candidates satisfy it"
    return _table(head, rows) + _faint(
        f"The unit shown below is chosen by a rule ({told}): {example['rule']}"
    )


def _deformation_table(numbers: Numbers) -> str:
    head = ["layer", "units measured", "of", "displacement, px", "R < 1, white noise",
            "R < 1, same spectrum", "accepting", "p", "kept at 0.5 px", "1 px", "2 px"]  # fmt: skip
    rows = [
        [name, one["counted"], one["units"], _number(one["delta"]),
         _percent(one["below_1_white"]["share"]), _percent(one["below_1_strict"]["share"]),
         f"{one['accepting']['units']}", _number(one["accepting"]["p"]),
         *(_percent(one["kept"][delta]["median"]) for delta in ("0.5", "1", "2"))]
        for name, one in numbers["layers"].items()
    ]  # fmt: skip
    text = _table(head, rows) + _faint(
        "R < 1: by two standard errors. Where fewer units are measured than the layer has, they "
        "are a random sample. Kept: medians; a dash where the field is too small.")  # fmt: skip
    if "example" not in numbers:
        return text
    one = numbers["example"]
    ranks = [[key, _number(entry["value"]), _percent(entry["lower"]), entry["of_units"]]
             for key, entry in one["indices"].items()]  # fmt: skip
    return text + _table(
        [f"{one['layer']} unit {one['unit']}", "value", "units with a lower one", "of"], ranks
    )


def _difference_tables(numbers: Numbers) -> str:
    more = [numbers["other_side"]] if numbers["other_side"] else []
    tables = []
    for pair in (*numbers["pairs"], *more):
        a, b = (f"{pair[s]['model']} {pair[s]['layer']} ({pair[s]['receptive_field']} px)"
                for s in "ab")  # fmt: skip
        rows = [
            [one["title"], *(_number(one[s][one["statistic"]]) for s in "ab"), _interval(one),
             _number(one["cliffs_delta"]), one["effect"] or one["reason"], _number(one["p_holm"])]
            for one in pair["indices"]
        ]  # fmt: skip
        head = ["index", f"A: {a}", f"B: {b}", "A - B [95 %]", "Cliff's delta", "", "p, Holm"]
        told = [one["differs"] for one in pair["indices"]]
        tested = sum(one["p"] is not None for one in pair["indices"])
        count = f"{sum(told)} of {tested} indices differ"
        tables.append(
            f"<details><summary>{escape(f'{a} and {b}: {count}')}</summary>"
            f"{_table(head, rows, told)}</details>"
        )
    return "".join(tables)


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]], bold: Sequence[bool] = ()) -> str:
    first = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = []
    for place, row in enumerate(rows):
        mark = ' class="differs"' if bold and bold[place] else ""
        lines.append("".join(f"<td{mark}>{escape(str(cell))}</td>" for cell in row))
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="scroll"><table>\n<tr>{first}</tr>\n{body}\n</table></div>\n'


def _faint(text: str) -> str:
    return f'<p class="faint">{escape(text)}</p>\n'


def _middle(one: Numbers) -> str:
    return _number(one["median"])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _interval(one: Numbers) -> str:
    found = one["difference"]
    if found is None:
        return "-"
    return f"{found['value']:+.3g} [{found['low']:+.3g}, {found['high']:+.3g}]"
