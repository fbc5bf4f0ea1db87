"""What a notebook shows of a result: sheets, indices, the command; escaped, and never an error."""

import base64
import dataclasses
import io
import json
import re
import time
from html.parser import HTMLParser

import pytest
import torch
from conftest import QUICK
from PIL import Image
from test_interface import energy
from torch import nn

import diversevis
from diversevis.cli.main import main
from diversevis.compare.words import value_text

HOSTILE = "<script>alert(1)</script>'\"&\u2028\u202e<img src=x onerror=alert(1)>"
VOID = {"img"}


class Page(HTMLParser):
    """Checks that tags are closed in order; collects tags, images, rows of tables, and text."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.images, self.rows, self.text, self.open = [], [], [], "", []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "img":
            self.images.append(dict(attributes))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if {"td", "th"} & {*self.open}:
            self.rows[-1][-1] += data


def page(result):
    return Page(result._repr_html_())


def picture(image):
    kind, _, content = image["src"].partition(",")
    assert kind == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(content, validate=True)))


@pytest.fixture(scope="module")
def measured():
    return energy(unit=[3, 7], analysis=["phase", "diversity"])


def test_sheets_are_shown_as_png(measured):
    images = page(measured).images
    assert len(images) == 2
    for unit, image in zip(measured.units, images, strict=True):
        assert picture(image).tobytes() == measured.sheet(unit).tobytes()
        assert f"EnergyNetwork complex unit {unit}; F1/F0, best grating " in image["alt"]


def test_indices_are_those_of_show(current_folder, capsys):
    words = [
        "device=cpu",
        "layer=simple",
        "unit=2",
        "images=tensor",
        *QUICK,
        "analysis=[gain,phase,shift,deformation,diversity,dimension]",
    ]
    result = diversevis.run(*words, "measure.shift.steps=3", "measure.deformation.draws=2")
    capsys.readouterr()
    assert main(["show", str(result.path), "--json"]) == 0
    shown = page(result)
    rows = {row[0]: row for row in shown.rows}
    indices = json.loads(capsys.readouterr().out)["indices"]
    assert len(indices) > 12
    for index in indices:
        assert rows[index["title"]][1:3] == [value_text(index), index["word"] or ""]
        assert index["meaning"] in shown.text
    assert rows["F1/F0, best grating"][2] == "simple-like"
    assert f"Made by {result.record['command']} in {result.path}" in shown.text
    assert "Not measured" not in shown.text


def test_module_in_memory_shows_its_call():
    settings = {"optimizer": "sphere", "optimizer.steps": 3}
    result = energy(unit=[2], n=2, **{**settings, "optimizer": {"steps": 4}})
    call = result.record["command"]
    assert call.startswith("diversevis.visualize(EnergyNetwork, layer='complex', unit=[2], ")
    assert "n=2" in call
    assert "mean=[0.5, 0.5, 0.5], std=[1.0, 1.0, 1.0], **{'optimizer.steps': 3})" in call
    assert f"Made by {call}" in page(result).text
    again = eval(call.replace("EnergyNetwork", "EnergyNetwork()"), names())  # noqa: S307
    assert torch.equal(again.images, result.images)


def names():
    from diversevis.models.energy import EnergyNetwork

    return {"diversevis": diversevis, "EnergyNetwork": EnergyNetwork}


def test_without_measures_says_how_to_measure(current_folder):
    memory = energy(n=2)
    text = page(memory).text
    assert "No measures were taken: how invariant it is cannot be said." in text
    assert "analysis=['phase', 'deformation', 'shift', 'diversity']" in text
    loaded = page(diversevis.load(memory.save("of it; rm"))).text
    command = "diversevis analyze 'of it; rm' 'analysis=[phase,deformation,shift,diversity]'"
    assert command in loaded


def test_dead_and_diverged_units_are_named(measured):
    dead = diversevis.visualize(
        nn.Sequential(nn.Conv2d(3, 2, 3), nn.Conv2d(2, 1, 1), Zero()), layer="2", unit=0, n=2,
        mean=[0.5] * 3, std=[1.0] * 3, device="cpu", analysis=["phase"],
    )  # fmt: skip
    shown = page(dead)
    assert dead.metrics[0]["stop"] == "dead"
    assert "unit 0: Dead: its response has no gradient" in shown.text
    assert shown.rows == []
    assert "unit 0; dead" in shown.images[0]["alt"]
    metrics = [measured.metrics[0], measured.metrics[1] | {"stop": "diverged"}]
    shown = page(dataclasses.replace(measured, metrics=metrics))
    assert "unit 7: Diverged: its optimization did not settle" in shown.text


class Zero(nn.Module):
    def forward(self, x):
        return 0 * x


def test_hostile_names_are_only_text(measured, tmp_path):
    plain = page(measured)
    record = {**measured.record, "model": HOSTILE, "layer": HOSTILE, "command": HOSTILE,
              "direction": HOSTILE, "not_measured": {HOSTILE: HOSTILE}, "status": HOSTILE}  # fmt: skip
    metrics = [{**unit, "deformation": {"kept": {HOSTILE: 1.0}}} for unit in measured.metrics]
    changes = {"settings": {"phase": {}, "diversity": {}}, "path": tmp_path / HOSTILE}
    hostile = dataclasses.replace(measured, record=record, metrics=metrics, **changes)
    shown = page(hostile)
    assert {tag for tag, _ in shown.tags} == {tag for tag, _ in plain.tags}
    for tag, attributes in shown.tags:
        assert attributes.keys() <= {"style", "src", "alt", "tabindex"}, tag
    assert "<script>alert(1)</script>'\"&" in shown.text
    assert not {"\u2028", "\u202e"} & {*shown.text}


def test_many_units_are_listed(measured):
    units = tuple(range(100))
    metrics = [{**measured.metrics[0], "unit": unit} for unit in units]
    many = dataclasses.replace(
        measured, units=units, metrics=metrics, images=measured.images[:1].repeat(100, 1, 1, 1, 1),
        responses=measured.responses[:1].repeat(100, 1),
    )  # fmt: skip
    shown = page(many)
    assert len(shown.images) == 3
    listed = [row[0] for row in shown.rows if row[0].isdecimal()]
    assert listed == [str(unit) for unit in range(3, 67)]
    assert "97 further units; 33 of them are not in this table. .sheet(3) shows" in shown.text


def test_large_images_are_shown_of_one_unit(measured):
    large = dataclasses.replace(measured, images=torch.zeros(2, 6, 3, 130, 130))
    shown = page(large)
    assert len(shown.images) == 1
    assert "1 further unit. .sheet(7) shows" in shown.text


def test_what_cannot_be_shown_costs_a_sentence(measured, monkeypatch):
    def broken(*arguments):
        raise MemoryError(HOSTILE)

    with monkeypatch.context() as patch:
        patch.setattr("diversevis.pictures.images.sheet", broken)
        shown = page(measured)
    assert shown.images == []
    assert "The sheet of unit 3 cannot be shown (MemoryError: <script>" in shown.text
    assert any(row[0] == "F1/F0, best grating" for row in shown.rows)
    assert "Made by" in shown.text
    nothing = dataclasses.replace(measured, record={}, metrics=[{}, {}])
    assert "The head cannot be shown (KeyError: " in page(nothing).text


def test_html_is_made_fast(measured):
    measured._repr_html_()
    began = time.perf_counter()
    measured._repr_html_()
    assert time.perf_counter() - began < 0.6  # alone it takes 0.05 s


def test_no_color_is_set_for_text(measured):
    styles = [attributes.get("style", "") for _, attributes in page(measured).tags]
    assert not re.search(r"(?<!-)\bcolor:", " ".join(styles))
    assert all("background:#ffffff" in image["style"] for image in page(measured).images)
