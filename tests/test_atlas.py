"""`diversevis atlas`: what the pages say is what the runs say, and nothing else gets into them."""

import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import QUICK, complete_run, unchanged_log
from damage import DAMAGES
from PIL import Image
from safetensors.torch import load_file, save

from diversevis.atlas import processes, texts
from diversevis.atlas.build import Atlas
from diversevis.atlas.details import RunWork
from diversevis.atlas.later import similar, smaller
from diversevis.atlas.scan import scan
from diversevis.cli.main import main
from diversevis.method.images import display
from diversevis.runs.files import Damaged
from diversevis.runs.find import find_folders

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
synthetic = importlib.import_module("synthetic_runs")
HOSTILE = (
    "a</script><img src=x onerror=alert(1)>\"'\u2028\u202e{{ 1234567 * 9 }}javascript:alert(1)"
)


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """Other processes take seconds to start."""
    monkeypatch.setattr(processes, "FEW", 1000)


def data(path):
    """What a script of data assigns."""
    match = re.fullmatch(
        r'\(window\.ATLAS = window\.ATLAS \|\| \{\}\)\["(.*?)"\] = (.*);\n', path.read_text()
    )
    return json.loads(match[2])


def make(root, out=None, *, complete=True):
    atlas = Atlas(
        root=root, out=out or root / "atlas", command="diversevis atlas", tell=lambda *_: None
    )
    atlas.look()
    if complete:
        assert atlas.complete() == []
    return atlas


def layer_data(atlas, position=0):
    return data(atlas.out / "layers" / atlas.layers[position].slug / "layer.js")


def details(atlas, layer, row):
    """The details of the unit at a row of a layer."""
    run, at = layer["runs"][layer["run"][row]], layer["row"][row]
    return data(atlas.out / "runs" / run["digest"] / f"units-{at // 64:04d}.js")[
        str(layer["units"][row])
    ]


@pytest.fixture(scope="session")
def compared_once(tmp_path_factory):
    """Two runs of the analytic network with measures and pictures, and their comparison."""
    folder = tmp_path_factory.mktemp("compared")
    words = ["unit=0-3", "device=cpu", "analysis=[phase,diversity,gain]", *QUICK]
    with pytest.MonkeyPatch.context() as patch, unchanged_log():
        patch.chdir(folder)
        for layer in ("simple", "complex"):
            assert main(["run", f"layer={layer}", *words]) == 0
        sides = [f"outputs/energy/{layer}" for layer in ("simple", "complex")]
        assert main(["compare", *sides, "resamples=200", "network=skip"]) == 0
    return folder


@pytest.fixture
def comparison(compared_once, current_folder):
    shutil.copytree(compared_once, current_folder, dirs_exist_ok=True)
    return Path("outputs/compare/simple_vs_complex/v001")


@pytest.fixture
def energy_run(comparison):
    """A run of four complex cells, and no other."""
    shutil.rmtree("outputs/energy/simple")
    shutil.rmtree("outputs/compare")
    return Path("outputs/energy/complex/0-3/v001")


# -- the same numbers and pictures ----------------------------------------------------------------


def test_layer_has_numbers_of_metrics(energy_run):
    atlas = make(Path("outputs"))
    layer, metrics = (
        layer_data(atlas),
        json.loads((energy_run / "metrics.json").read_text())["units"],
    )
    assert layer["units"] == [0, 1, 2, 3]
    for row, unit in enumerate(metrics):
        assert layer["columns"]["phase"][row] == pytest.approx(unit["phase"]["f1f0"], rel=1e-6)
        assert layer["columns"]["gain.response"][row] == pytest.approx(
            unit["gain"]["response"], rel=1e-6
        )
        share = unit["response_mean"] / unit["response_best"]
        assert layer["columns"]["response"][row] == pytest.approx(share, rel=1e-6)
    assert [index["id"] for index in layer["indices"]][:5] == [
        "response",
        "distance",
        "phase",
        "diversity",
        "gain",
    ]


def test_strip_shows_pixels_of_images(energy_run):
    atlas = make(Path("outputs"))
    layer, arrays = layer_data(atlas), load_file(energy_run / "images.safetensors")
    record = json.loads((energy_run / "run.json").read_text())
    pixels = display(arrays["images"], tuple(record["weights"]["mean"]))
    for row in range(4):
        unit = details(atlas, layer, row)
        strip = np.asarray(
            Image.open(atlas.out / "runs" / layer["runs"][0]["digest"] / unit["images"]["file"])
        )
        width = pixels.shape[3]
        for image in range(6):
            assert np.array_equal(strip[:, image * width : (image + 1) * width], pixels[row, image])
        assert unit["responses"] == pytest.approx(arrays["responses"][row].tolist(), rel=1e-6)
        flat = arrays["images"][row].flatten(1)
        distance = (flat[0] - flat[4]).square().mean().sqrt().item()
        assert unit["distances"][0][4] == pytest.approx(distance, rel=1e-5)


def test_wall_shows_best_image(energy_run):
    atlas = make(Path("outputs"))
    layer, arrays = layer_data(atlas), load_file(energy_run / "images.safetensors")
    record = json.loads((energy_run / "run.json").read_text())
    wall = layer["wall"]
    sheet = np.asarray(Image.open(atlas.out / "layers" / layer["slug"] / wall["sheets"][0]))
    for row in range(4):
        best = arrays["images"][row][int(arrays["responses"][row].argmax())]
        x = row % wall["columns"] * wall["width"]
        tile = sheet[: wall["height"], x : x + wall["width"]]
        assert np.array_equal(tile, display(best, tuple(record["weights"]["mean"])))


@pytest.mark.parametrize("images", ["png", "tensor"])
def test_pictures_are_those_of_runs(current_folder, images):
    words = ["layer=complex", "unit=0-1", "device=cpu", "analysis=[phase]", *QUICK]
    assert main(["run", *words, "root=drawn"]) == 0
    assert main(["run", *words, "root=shown", f"images={images}"]) == 0
    atlas = make(Path("shown"))
    layer = layer_data(atlas)
    for row in range(2):
        picture = atlas.out / details(atlas, layer, row)["pictures"]["phase"]
        drawn = Path(f"drawn/energy/complex/0-1/v001/analysis/phase_unit{row:04d}.png")
        assert picture.read_bytes() == drawn.read_bytes()


def test_sentences_are_those_of_show(energy_run, capsys):
    atlas = make(Path("outputs"))
    capsys.readouterr()
    main(["show", "outputs/energy/complex/0-3/v001", "unit=2", "--json"])
    shown = json.loads(capsys.readouterr().out)["answers"]
    said = details(atlas, layer_data(atlas), 2)["answers"]
    assert said.keys() == shown.keys()
    for name, sentence in said.items():
        assert shown[name].startswith(sentence)  # which ends with the rank


def test_weak_numbers_are_marked(tmp_path):
    rows = [{"unit": unit, "phase": {"f1f0": 0.5, "weak": unit == 1}} for unit in range(3)]
    complete_run(
        tmp_path / "m/l/0-2/v001", finished(units=[0, 1, 2]), rows, {"phase": {"settings": {}}}
    )
    assert layer_data(make(tmp_path))["weak"] == {"phase": [1]}


def test_dead_units_are_dead(tmp_path):
    rows = [{"unit": 0, "stop": "dead", "response_mean": None, "response_best": None}, {"unit": 1}]
    complete_run(tmp_path / "m/l/0-1/v001", finished(units=[0, 1]), rows)
    atlas = make(tmp_path)
    layer = layer_data(atlas)
    assert layer["state"] == ["dead", ""]
    assert details(atlas, layer, 0)["images"] is None
    assert "1 dead" in (atlas.out / "index.html").read_text()


def finished(**changes):
    return {"status": "finished", "model": "m", "layer": "l", "units": [0], "n": 6} | changes


# -- which runs are on which page -----------------------------------------------------------------


def test_other_settings_make_other_pages(tmp_path):
    for diversity in (0.1, 0.5):
        record = finished(diversity=diversity)
        complete_run(tmp_path / f"m/l/0/v00{round(diversity * 10)}", record)
    atlas = make(tmp_path)
    assert [layer.variant for layer in atlas.layers] == ["diversity 0.1", "diversity 0.5"]
    assert len({layer.slug for layer in atlas.layers}) == 2


def test_newest_run_stands_for_unit(tmp_path):
    for version, start in ((1, "2026-01-02"), (2, "2026-01-01")):
        complete_run(tmp_path / f"m/l/0/v00{version}", finished(start=start))
    atlas = make(tmp_path)
    layer = layer_data(atlas)
    assert [run["folder"] for run in layer["runs"]] == [str(tmp_path / "m/l/0/v001")]
    assert "v002" in layer["notes"][0]


def test_addresses_last_when_runs_are_added(tmp_path):
    complete_run(tmp_path / "m/l/0/v001", finished(diversity=0.1))
    before = make(tmp_path).layers[0].slug
    complete_run(tmp_path / "m/l/0/v002", finished(diversity=0.5))
    complete_run(tmp_path / "m/l/1/v001", finished(diversity=0.1, units=[1]), [{"unit": 1}])
    assert before in {layer.slug for layer in make(tmp_path).layers}


def test_measured_otherwise_is_left_out(tmp_path):
    for units, phases in (([0, 1], 32), ([2], 8)):
        rows = [{"unit": unit, "phase": {"f1f0": 0.5}} for unit in units]
        path = tmp_path / f"m/l/{units[0]}/v001"
        complete_run(path, finished(units=units), rows, {"phase": {"settings": {"phases": phases}}})
    layer = layer_data(make(tmp_path))
    assert layer["columns"]["phase"] == [0.5, 0.5, None]
    assert any("other settings" in note for note in layer["notes"])


def test_root_may_be_run_folder(energy_run):
    assert len(layer_data(make(energy_run, Path("pages")))["units"]) == 4


def test_root_may_be_sweep(current_folder):
    assert main(["run", "-m", "layer=simple,complex", "unit=0", "device=cpu", *QUICK]) == 0
    assert main(["run", "layer=complex", "unit=5", "device=cpu", *QUICK]) == 0
    (sweep,) = Path("outputs/multirun").iterdir()
    atlas = make(sweep, Path("pages"))
    assert [(layer.key["layer"], len(layer.units)) for layer in atlas.layers] == [
        ("complex", 1),
        ("simple", 1),
    ]
    assert len(make(Path("outputs")).layers[0].units) == 2


def test_comparison_has_page(comparison):
    atlas = make(Path("outputs"))
    (page,) = (atlas.out / "comparisons").glob("*/index.html")
    text = page.read_text()
    result = json.loads((comparison / "comparison.json").read_text())
    for index in result["pairs"][0]["indices"]:
        assert index["title"] in text
    assert f"comparisons/{page.parent.name}/index.html" in (atlas.out / "index.html").read_text()
    for side in "ab":
        assert any(
            layer.slug in text
            for layer in atlas.layers
            if layer.key["layer"] == result["pairs"][0][side]["layer"]
        )


def test_root_may_be_comparison(comparison):
    atlas = make(comparison, Path("pages"))
    assert sorted(layer.key["layer"] for layer in atlas.layers) == ["complex", "simple"]
    assert list((atlas.out / "comparisons").glob("*/index.html"))


# -- what is new is made, the rest stays ----------------------------------------------------------


def files_of(folder):
    return {
        path: path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file() and path.name != "index.html"
    }


def test_second_time_makes_nothing(tmp_path):
    synthetic.write_layer(tmp_path, "m/l", 12, per_run=4)
    before = files_of(make(tmp_path).out)
    assert files_of(make(tmp_path).out) == before


def test_only_changed_run_is_made_again(tmp_path):
    synthetic.write_layer(tmp_path, "m/l", 12, per_run=4)
    atlas = make(tmp_path)
    before = {path.name for path in (atlas.out / "runs").iterdir()}
    changed = tmp_path / "m/l/4-7/v001/metrics.json"
    os.utime(changed, ns=(0, 0))
    after = {path.name for path in (make(tmp_path).out / "runs").iterdir()}
    assert len(before - after) == len(after - before) == 1


def test_files_of_deleted_runs_go(tmp_path):
    synthetic.write_layer(tmp_path, "m/l", 8, per_run=4)
    out = make(tmp_path).out
    (out / "runs/notes.txt").write_text("mine")
    shutil.rmtree(tmp_path / "m/l/4-7")
    assert len(layer_data(make(tmp_path))["units"]) == 4
    assert len([path for path in (out / "runs").iterdir() if path.is_dir()]) == 1
    assert (out / "runs/notes.txt").read_text() == "mine"
    assert len(list((out / "layers").glob("*/wall-*.png"))) == 1


def test_pictures_stay_when_another_measure_is_new(energy_run):
    make(Path("outputs"))
    before = {path for path in Path("outputs/atlas/pictures").glob("*/*.png")}
    assert main(["analyze", str(energy_run), "analysis=[dimension]"]) == 0
    make(Path("outputs"))
    after = {path for path in Path("outputs/atlas/pictures").glob("*/*.png")}
    assert before < after
    assert len(after - before) == 4


def test_killed_process_leaves_no_half(tmp_path, monkeypatch):
    synthetic.write_layer(tmp_path, "m/l", 4)
    entry = scan(tmp_path).entries[0]
    monkeypatch.setattr("diversevis.atlas.details.tiles", lambda *_: 1 / 0)
    out = tmp_path / "runs/abc"
    with pytest.raises(ZeroDivisionError):
        RunWork(path=entry.path, pictures={}, out=out)()
    assert list(out.parent.iterdir()) == []


def test_pictures_may_be_left_out(energy_run):
    assert main(["atlas", "outputs", "pictures=none"]) == 0
    assert not Path("outputs/atlas/pictures").exists()
    assert main(["atlas", "outputs"]) == 0
    assert len(list(Path("outputs/atlas/pictures").glob("*/*.png"))) == 12


@pytest.mark.parametrize("screen", [True, False])
def test_view_opens_browser_before_pictures(energy_run, monkeypatch, capsys, screen):
    opened = []

    def record(address):
        opened.append(address)
        assert not Path("outputs/atlas/pictures").exists()
        return True

    monkeypatch.setattr("webbrowser.open", record)
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    if screen:
        monkeypatch.setenv("DISPLAY", ":0")
    assert main(["view"]) == 0
    assert opened == ([Path("outputs/atlas/index.html").resolve().as_uri()] if screen else [])
    assert ("no browser can be opened" in capsys.readouterr().err) != screen
    assert list(Path("outputs/atlas/pictures").glob("*/*.png"))


def test_pages_tell_what_is_missing(energy_run):
    atlas = make(Path("outputs"), complete=False)
    layer = layer_data(atlas)
    assert layer["neighbours"] is None
    pictures = details(atlas, layer, 0)["pictures"]
    folders = {str(Path(path).parent) for path in pictures.values()}
    assert layer["missing"] == {folder: [0, 1, 2, 3] for folder in folders}
    assert len(folders) == 3
    atlas.complete()
    layer = layer_data(atlas)
    assert layer["missing"] == {}
    assert (atlas.out / "layers" / layer["slug"] / layer["neighbours"]).is_file()
    assert all((atlas.out / path).is_file() for path in pictures.values())


@pytest.mark.process
def test_many_processes_make_the_same(tmp_path, monkeypatch):
    synthetic.write_layer(tmp_path, "m/l", 24, per_run=4)
    make(tmp_path, tmp_path / "single")
    monkeypatch.setattr(processes, "FEW", 0)
    make(tmp_path, tmp_path / "many")
    names = [
        sorted(path.relative_to(tmp_path / of) for path in (tmp_path / of).rglob("*"))
        for of in ("many", "single")
    ]
    assert names[0] == names[1]


def test_other_commands_do_not_search_an_atlas(tmp_path):
    complete_run(tmp_path / "m/l/0/v001", finished())
    complete_run(make(tmp_path).out / "runs/0123456789abcdef", finished())
    make(tmp_path, tmp_path)
    folders, _ = find_folders([tmp_path])
    assert [folder.name for folder in folders] == [str(tmp_path / "m/l/0/v001")]


# -- what cannot be shown is named ----------------------------------------------------------------


def test_left_out_is_named(tmp_path, capsys):
    complete_run(tmp_path / "m/l/0/v001", finished())
    complete_run(tmp_path / "m/l/1/v001", finished(status="failed"))
    (complete_run(tmp_path / "m/l/2/v001", finished()) / "metrics.json").write_text("{")
    assert main(["atlas", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert "m/l/1/v001: failed" in printed.err
    page = (tmp_path / "atlas/index.html").read_text()
    assert "failed" in page
    assert "metrics.json is not JSON" in page
    assert printed.out.splitlines()[-1] == str(tmp_path / "atlas/index.html")


def test_damaged_arrays_leave_run_out(energy_run):
    file = energy_run / "analysis/phase.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    synthetic.write_layer(Path("outputs"), "m/simple", 2)
    atlas = make(Path("outputs"))
    ((folder, reason),) = atlas.left_out
    assert "complex" in folder
    assert "phase.safetensors" in reason
    assert [layer.key["layer"] for layer in atlas.layers] == ["simple"]


@pytest.mark.parametrize("content", [b"", b"{}", b'{"pairs": 3}', b'{"pairs": [{"a": {}}]}', b"[1"])
def test_damaged_comparison_is_named(comparison, content):
    (comparison / "comparison.json").write_bytes(content)
    atlas = make(Path("outputs"))
    assert any("comparison.json" in reason for _, reason in atlas.left_out)


@pytest.mark.parametrize(("words", "said"), [
    (["atlas"], "needs one folder"), (["atlas", "a", "b"], "needs one folder"),
    (["atlas", "nowhere"], "nowhere is not a folder"), (["atlas", "."], "holds no finished run"),
    (["view", "a", "b"], "needs one folder"), (["view"], "outputs is not a folder"),
    (["atlas", ".", "columns=2"], "there is no setting columns"),
    (["atlas", ".", "pictures=3"], "must be all or none"),
])  # fmt: skip
def test_bad_words_are_refused(current_folder, capsys, words, said):
    assert main(words) == 2
    assert said in capsys.readouterr().err
    assert list(current_folder.iterdir()) == []


def test_folder_that_cannot_be_made(current_folder, capsys):
    complete_run(Path("o/m/l/0/v001"), finished())
    Path("file").write_text("")
    assert main(["atlas", "o", "out=file"]) == 2
    assert "out=file" in capsys.readouterr().err


# -- nothing of a run is code ---------------------------------------------------------------------


class Links(HTMLParser):
    """Collects what a page refers to, and which scripts and handlers it has."""

    def __init__(self, text):
        super().__init__()
        self.links, self.inline, self.tags = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "srcset", "poster", "data", "action"):
                self.links.append(value)
            if name.startswith("on"):
                self.inline.append((tag, name))


@pytest.fixture
def hostile(tmp_path):
    """Runs whose names and settings try to get out of the page."""
    root = tmp_path / "root"
    rows = [{"unit": 0, "phase": {"f1f0": 0.5, "color": HOSTILE}}]
    record = finished(
        model=HOSTILE, layer=HOSTILE, rerun=HOSTILE, direction=HOSTILE, response=HOSTILE,
        device_name=HOSTILE, not_measured={HOSTILE: HOSTILE}, start=HOSTILE,
    )  # fmt: skip
    complete_run(
        root / "x <b>" / "l" / "0" / "v001",
        record,
        rows,
        {"phase": {"settings": {HOSTILE: HOSTILE}}},
    )
    complete_run(root / "y<script>" / "l" / "0" / "v001", finished(status="failed"))
    return root


def test_hostile_names_stay_text(hostile):
    atlas = make(hostile)
    for page in atlas.out.rglob("*.html"):
        text = page.read_text()
        assert "<img src=x" not in text
        assert "11111103" not in text
        parsed = Links(text)
        assert parsed.inline == []
        for link in {*parsed.links} - {"data:,"}:  # no icon
            assert re.fullmatch(r"[A-Za-z0-9._/#=-]*", link), link
            target = (page.parent / link.partition("#")[0]).resolve()
            assert target == page.resolve() or target.is_relative_to(atlas.out.resolve()), link
    for file in atlas.out.rglob("*.js"):
        if file.name != "atlas.js":
            assert not re.search("[<>&\u2028\u2029]", file.read_text(encoding="utf-8"))
    assert layer_data(atlas)["model"] == HOSTILE


def test_file_names_are_plain(hostile):
    for path in make(hostile).out.rglob("*"):
        assert re.fullmatch(r"[A-Za-z0-9._-]{1,80}", path.name)


def test_script_escapes_and_keeps_numbers():
    content = {"a": HOSTILE, "b": [1.23456789e-8, float("nan"), None, 3]}
    text = texts.script('k"', content).decode()
    assert not re.search("[<>&\u2028\u2029]", text)
    assert json.loads(text[text.index("= {", 30) + 2 : -2]) == {
        "a": HOSTILE,
        "b": [1.234568e-8, None, None, 3],
    }


def test_files_of_other_accounts_are_not_taken(tmp_path, monkeypatch):
    complete_run(tmp_path / "m/l/0/v001", finished())
    theirs = make(tmp_path).out / "runs" / layer_data(make(tmp_path))["runs"][0]["digest"]
    assert theirs.is_dir()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "mine"))
    ours = make(tmp_path)
    assert [path.name for path in (ours.out / "runs").iterdir()] == [
        layer_data(ours)["runs"][0]["digest"]
    ]
    assert not theirs.exists()


def test_commands_are_copied_as_seen(tmp_path):
    record = finished(command="diversevis run\nrm -rf /\u202e x", rerun="a\r\x1b[31mb")
    complete_run(tmp_path / "m/l/0/v001", record)
    (run,) = layer_data(make(tmp_path))["runs"]
    assert (run["command"], run["rerun"]) == ("diversevis run rm -rf / x", "ab")


def test_pictures_of_runs_must_be_pictures(energy_run):
    file = energy_run / "analysis/phase_unit0001.png"
    file.write_bytes(b"<html><script>alert(1)</script>")
    atlas = make(Path("outputs"))
    picture = atlas.out / details(atlas, layer_data(atlas), 1)["pictures"]["phase"]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_links_out_of_a_run_are_not_followed_into_pages(energy_run, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("GIF8 secret")
    (energy_run / "optimization_unit0001.gif").symlink_to(secret)
    atlas = make(Path("outputs"))
    assert not any(
        b"secret" in path.read_bytes() for path in atlas.out.rglob("*") if path.is_file()
    )


# -- similar units --------------------------------------------------------------------------------


def test_similar_units_by_hand():
    generator = np.random.default_rng(0)
    images = generator.normal(size=(7, 3, 20))
    nearest = similar(images, 3)
    unit = images / np.linalg.norm(images, axis=-1, keepdims=True)
    for a in range(7):
        cosines = {
            b: max(unit[a, i] @ unit[b, j] for i in range(3) for j in range(3))
            for b in range(7)
            if b != a
        }
        expected = sorted(cosines.items(), key=lambda pair: -pair[1])[:3]
        assert [b for b, _ in nearest[a]] == [b for b, _ in expected]
        assert [c for _, c in nearest[a]] == pytest.approx([c for _, c in expected], rel=1e-5)


def test_neighbours_are_written(tmp_path):
    synthetic.write_layer(tmp_path, "m/l", 12, per_run=4)
    atlas = make(tmp_path)
    layer = layer_data(atlas)
    neighbours = data(atlas.out / "layers" / layer["slug"] / layer["neighbours"])
    assert len(neighbours["units"]) == 12
    assert all(
        row != other for row, others in enumerate(neighbours["units"]) for other, _ in others
    )


def test_measured_neighbours_stand_in_details(energy_run):
    """Where selectivity was measured: units and responses as in metrics.json; else nothing."""
    before = make(Path("outputs"))
    assert details(before, layer_data(before), 1)["driven_by"] is None
    assert main(["analyze", str(energy_run), "analysis=selectivity", "device=cpu"]) == 0
    atlas = make(Path("outputs"))
    layer = layer_data(atlas)
    metrics = json.loads((energy_run / "metrics.json").read_text())["units"]
    for row, unit in enumerate(metrics):
        shown, listed = details(atlas, layer, row)["driven_by"], unit["selectivity"]["driven_by"]
        assert len(shown) == 3
        assert [other for other, _ in shown] == [other["unit"] for other in listed]
        assert [value for _, value in shown] == pytest.approx([o["value"] for o in listed])
    assert "selectivity.mean_others" in [index["key"] for index in layer["indices"]]


@pytest.mark.parametrize("listed", [5, {"a": 1}, [], ["x", None], [{"unit": 1}, {"value": 0.5}]])
def test_measured_neighbours_need_not_be_units(energy_run, listed):
    of_units(selectivity={"driven_by": listed})(energy_run)
    metrics = json.loads((energy_run / "metrics.json").read_text())
    metrics["measures"]["selectivity"] = {"settings": {}}
    (energy_run / "metrics.json").write_text(json.dumps(metrics))
    atlas = make(Path("outputs"), complete=False)
    assert not details(atlas, layer_data(atlas), 0)["driven_by"]


def test_damaged_reason_is_told():
    work = RunWork(path=Path("nowhere"), pictures={}, out=Path("x"))
    assert isinstance(work(), str)
    assert issubclass(Damaged, ValueError)


def test_many_images_stand_in_rows(tmp_path):
    images = torch.rand(1, 20, 3, 4, 5)
    from diversevis.atlas.strips import strip

    content, facts = strip(display(images[0] * 50, (0.5, 0.5, 0.5)))
    assert facts == {"count": 20, "columns": 16, "height": 4, "width": 5, "reduction": 1}
    (tmp_path / "s.png").write_bytes(content)
    with Image.open(tmp_path / "s.png") as file:
        assert file.size == (80, 8)


# -- an unlucky or hostile world ------------------------------------------------------------------


def test_every_damage_is_named(energy_run):
    """All in a root: the damaged runs are left out with the reason, the whole run is shown."""
    for number, (damage, _) in enumerate(DAMAGES.values()):
        path = Path(f"outputs/damaged/d{number:02d}/v001")
        shutil.copytree(energy_run, path, ignore=shutil.ignore_patterns("analysis", "*.png"))
        damage(path)
    atlas = make(Path("outputs"))
    reasons = {Path(name).parent.name: reason for name, reason in atlas.left_out}
    for number, (name, (_, said)) in enumerate(DAMAGES.items()):
        said = said.replace("lacks unit 1", "lacks unit 3")  # written for runs of two units
        assert said in reasons[f"d{number:02d}"], name
    assert len(layer_data(atlas)["units"]) == 4


def arrays(change, measure="gain"):
    """Changes the arrays of a measure of a run."""

    def damage(path):
        file = path / f"analysis/{measure}.safetensors"
        file.write_bytes(
            save({name: change(x).contiguous() for name, x in load_file(file).items()})
        )

    return damage


def of_units(**entries):
    """Sets entries of all units in metrics.json."""

    def damage(path):
        content = json.loads((path / "metrics.json").read_text())
        for unit in content["units"]:
            unit.update(entries)
        (path / "metrics.json").write_text(json.dumps(content))

    return damage


@pytest.mark.parametrize(("damage", "said"), [
    (arrays(lambda x: x[:2]), "the run has 4 units"),
    (arrays(lambda x: x.to(torch.int32)), "torch.int32"),
    (arrays(lambda x: x.reshape(len(x), -1)), "of shape"),
    (arrays(lambda x: x[..., :0]), "of shape"),
    (of_units(deformation={"kept": {"wide": 1.0}}), "size of deformation"),
])  # fmt: skip
def test_unusable_numbers_leave_run_out(energy_run, damage, said):
    synthetic.write_layer(Path("outputs"), "m/simple", 2)
    metrics = json.loads((energy_run / "metrics.json").read_text())
    metrics["measures"]["deformation"] = {"settings": {}}
    (energy_run / "metrics.json").write_text(json.dumps(metrics))
    damage(energy_run)
    atlas = make(Path("outputs"))
    ((folder, reason),) = atlas.left_out
    assert "complex" in folder
    assert said in reason
    assert [layer.key["layer"] for layer in atlas.layers] == ["simple"]


def test_picture_that_cannot_be_drawn_is_named(energy_run):
    arrays(lambda x: x.flatten()[:1], "phase")(energy_run)
    record = json.loads((energy_run / "run.json").read_text())
    (energy_run / "run.json").write_text(json.dumps(record | {"drawn": []}))
    atlas = make(Path("outputs"), complete=False)
    (failure,) = atlas.complete()
    assert str(energy_run) in failure
    assert "not as a run writes them" in failure
    assert len(layer_data(atlas)["units"]) == 4


@pytest.mark.parametrize("exemplars", [5, {"a": 1}, [], ["x", 3], [{"file": "</script>"}, None]])
def test_exemplars_need_not_be_exemplars(energy_run, exemplars):
    of_units(natural={"exemplars": exemplars})(energy_run)
    metrics = json.loads((energy_run / "metrics.json").read_text())
    metrics["measures"]["natural"] = {"settings": {}}
    (energy_run / "metrics.json").write_text(json.dumps(metrics))
    images = load_file(energy_run / "images.safetensors")["images"][:, :2].contiguous()
    (energy_run / "analysis/natural.safetensors").write_bytes(save({"images": images}))
    atlas = make(Path("outputs"), complete=False)
    natural = details(atlas, layer_data(atlas), 0)["natural"]
    shown = [x for x in exemplars if isinstance(x, dict)] if isinstance(exemplars, list) else []
    assert (natural["items"] if natural else []) == [
        {"photograph": x["file"], "row": None, "column": None, "response": None} for x in shown
    ]


@pytest.mark.parametrize("content", [
    b"", b"\xff", b"step,unit,response_mean\n1,inf,2\n", b"step,unit,response_mean\n1\0,2,3\n",
    b"step,unit,response_mean\n" + b"1" * 200_000 + b",1,2\n", None,
])  # fmt: skip
def test_trace_need_not_be_a_trace(energy_run, content):
    (energy_run / "trace.csv").unlink()
    if content is None:
        os.mkfifo(energy_run / "trace.csv")
    else:
        (energy_run / "trace.csv").write_bytes(content)
    atlas = make(Path("outputs"), complete=False)
    assert details(atlas, layer_data(atlas), 0)["trace"] is None


def test_pictures_behind_links_are_not_shown(energy_run, tmp_path):
    (energy_run / "analysis").rename(tmp_path / "private")
    for number in range(4):
        (tmp_path / f"private/phase_unit{number:04d}.png").write_bytes(b"\x89PNG\r\n\x1a\nsecret")
    (energy_run / "analysis").symlink_to(tmp_path / "private")
    atlas = make(Path("outputs"), complete=False)
    atlas.complete()
    assert not any(
        b"secret" in path.read_bytes() for path in atlas.out.rglob("*") if path.is_file()
    )


def test_deleted_meanwhile_is_named(energy_run):
    atlas = make(Path("outputs"), complete=False)
    shutil.rmtree(energy_run)
    failures = atlas.complete()
    assert len(failures) == 4  # pictures of three measures, and similar units
    assert all("deleted meanwhile" in failure for failure in failures)
    assert len(layer_data(atlas)["units"]) == 4


def test_deleted_before_its_images_are_read(energy_run, monkeypatch):
    synthetic.write_layer(Path("outputs"), "m/simple", 2)
    found = scan(Path("outputs"))
    monkeypatch.setattr("diversevis.atlas.build.scan", lambda _: found)
    shutil.rmtree(energy_run)
    atlas = make(Path("outputs"))
    assert len(atlas.left_out) == 1
    assert [layer.key["layer"] for layer in atlas.layers] == ["simple"]


@pytest.mark.parametrize(("name", "said"), [
    ("site/index.html", "holds index.html"), ("site/runs/exp-deadbeef/x", "holds runs"),
    ("site/atlas.css", "holds atlas.css"), ("site/run.json", "is a run's folder"),
])  # fmt: skip
def test_files_of_others_stay(current_folder, capsys, name, said):
    synthetic.write_layer(Path("o"), "m/l", 2)
    Path(name).parent.mkdir(parents=True)
    Path(name).write_text("mine")
    assert main(["atlas", "o", "out=site"]) == 2
    assert said in capsys.readouterr().err
    assert [path.read_text() for path in Path("site").rglob("*") if path.is_file()] == ["mine"]


@pytest.mark.parametrize("link", ["o/atlas", "o/atlas/runs", "o/atlas/layers/m-l-01234567"])
def test_nothing_is_written_through_links(current_folder, capsys, link):
    synthetic.write_layer(Path("o"), "m/l", 2)
    Path("elsewhere").mkdir()
    Path(link).parent.mkdir(parents=True, exist_ok=True)
    Path(link).symlink_to(Path("elsewhere").resolve())
    assert main(["atlas", "o"]) == 2
    assert "is a link" in capsys.readouterr().err
    assert list(Path("elsewhere").iterdir()) == []


def test_foreign_files_stay_in_atlas(tmp_path):
    synthetic.write_layer(tmp_path, "m/l", 2)
    out = tmp_path / "atlas"
    names = (
        "notes-deadbeef",
        ".cache.1",
        "runs/.cache.1",
        "runs/x-deadbeef",
        "layers/0123456789abcdef",
    )
    make(tmp_path)
    for name in names:
        (out / name).mkdir()
    make(tmp_path)
    assert all((out / name).is_dir() for name in names)


def test_leftovers_of_killed_processes_go(tmp_path):
    synthetic.write_layer(tmp_path, "m/l", 2)
    atlas = make(tmp_path)
    before = sorted(atlas.out.rglob("*"))
    (run,), (layer,) = ((atlas.out / name).iterdir() for name in ("runs", "layers"))
    for path in (
        run.with_name(f".{run.name}.123"),
        layer / ".layer.js.4",
        atlas.out / ".atlas.js.5",
    ):
        path.write_text("half")
    make(tmp_path)
    assert sorted(atlas.out.rglob("*")) == before


def test_root_typed_otherwise_makes_nothing(comparison, current_folder):
    before = files_of(make(Path("outputs")).out)
    pages = sorted(Path("outputs/atlas").rglob("index.html"))
    make(current_folder / "outputs", Path("outputs/atlas"))
    make(Path("outputs/../outputs/"))
    assert files_of(Path("outputs/atlas")).keys() == before.keys()
    assert sorted(Path("outputs/atlas").rglob("index.html")) == pages
    changed = [
        path for path, time in files_of(Path("outputs/atlas")).items() if time != before[path]
    ]
    assert {path.name for path in changed} <= {"layer.js"}  # it names the folders as they are typed


def test_pages_of_deleted_comparisons_go(comparison):
    out = make(Path("outputs")).out
    shutil.rmtree(comparison)
    make(Path("outputs"))
    assert list((out / "comparisons").iterdir()) == []


def test_older_versions_are_not_made(tmp_path):
    for version in (1, 2, 3):
        complete_run(tmp_path / f"m/l/0/v00{version}", finished(start=f"2026-01-0{version}"))
    atlas = make(tmp_path, complete=False)
    assert len(list((atlas.out / "runs").iterdir())) == 1


def test_older_version_stands_for_refused(energy_run):
    shutil.copytree(energy_run, energy_run.with_name("v002"))
    for version, start in (("v001", "2020"), ("v002", "2021")):
        file = energy_run.with_name(version) / "run.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"start": start}))
    arrays(lambda x: x[:2])(energy_run.with_name("v002"))
    layer = layer_data(make(Path("outputs")))
    assert [Path(run["folder"]).name for run in layer["runs"]] == ["v001"]


@pytest.mark.parametrize("change", [
    lambda pair: pair["a"].update(receptive_field=[3]),
    lambda pair: pair["a"].update(receptive_field=["3", "4"]),
    lambda pair: pair["indices"][0].update(p="<b>"),
    lambda pair: pair["indices"][0].pop("cliffs_delta"),
    lambda pair: pair["indices"][0].update(cliffs_delta=[1]),
    lambda pair: pair["indices"][0]["a"].update(values=[10**400] * 4),
    lambda pair: pair["indices"][0]["a"].update(median={}),
    lambda pair: pair["indices"][0].update(difference_median=None),
])  # fmt: skip
def test_comparison_with_odd_entries_is_named(comparison, change):
    result = json.loads((comparison / "comparison.json").read_text())
    change(result["pairs"][0])
    (comparison / "comparison.json").write_text(json.dumps(result))
    atlas = make(Path("outputs"), complete=False)
    ((folder, reason),) = atlas.left_out
    assert folder == str(comparison)
    assert "is no comparison" in reason


@pytest.mark.parametrize("named", ["/", "private", "~", "private/0-3/v001"])
def test_received_comparison_shows_no_other_runs(comparison, capsys, named):
    shutil.copytree("outputs/energy/complex", "private")
    shutil.copytree(comparison, "received")
    result = json.loads(Path("received/comparison.json").read_text())
    for side in "ab":
        result["pairs"][0][side] |= {"folder": named, "config_hash": "guess"}
    Path("received/comparison.json").write_text(json.dumps(result))
    assert main(["atlas", "received"]) == 2
    said = capsys.readouterr().err
    assert ("not the run that was compared" if "v001" in named else "are not there") in said
    assert not Path("received/atlas").exists()


def test_sweep_elsewhere_is_searched_itself(tmp_path, capsys):
    """sweep.json in any folder must not have the folders above it searched."""
    complete_run(tmp_path / "m/l/0/v001", finished(sweep="received"))
    (tmp_path / "x/received").mkdir(parents=True)
    (tmp_path / "x/received/sweep.json").write_text("{}")
    assert main(["atlas", str(tmp_path / "x/received")]) == 2
    assert "holds no finished run" in capsys.readouterr().err


def test_full_disk_is_named(small_disk, capsys):
    synthetic.write_layer(Path("o"), "m/l", 2)
    disk = small_disk("size=60k")
    assert main(["atlas", "o", f"out={disk}"]) == 1
    said = capsys.readouterr().err
    assert "No space left" in said
    assert "out=FOLDER" in said


def test_large_images_are_compared_smaller():
    images = np.arange(2 * 3 * 130 * 4, dtype=float).reshape(2, 3, 130, 4)
    small = smaller(images)
    assert small.shape == (2, 3, 43, 1)
    assert small[1, 2, 5, 0] == images[1, 2, 15:18, 0:3].mean()
    assert np.array_equal(smaller(images[..., :64, :]), images[..., :64, :])


def process(*words):
    command = [sys.executable, "-m", "diversevis", "atlas", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, start_new_session=True, **pipes)


def workers(process):
    """The processes of a command that do its work."""
    listed = subprocess.run(
        ["ps", "-ww", "-o", "pid=,args=", "-s", str(process.pid)], capture_output=True, text=True
    ).stdout.splitlines()
    return [int(line.split()[0]) for line in listed if "spawn_main" in line]


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_ended_command_leaves_no_process(tmp_path, number):
    synthetic.write_layer(tmp_path / "o", "m/l", 64, per_run=8)
    command = process(str(tmp_path / "o"), "pictures=none")
    wait_until(lambda: len(workers(command)) > 1)
    before = workers(command)
    os.killpg(command.pid, number) if number == signal.SIGINT else command.send_signal(number)
    said = command.communicate(timeout=60)[1]
    assert command.returncode == (-9 if number == signal.SIGKILL else 128 + number)
    assert "Traceback" not in said
    assert number == signal.SIGKILL or "resource_tracker" not in said
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in before))
    make(tmp_path / "o")
    make(tmp_path / "o", tmp_path / "whole")
    contents = [
        {path.relative_to(out): path.read_bytes() for path in out.rglob("*.*") if path.is_file()}
        for out in (tmp_path / "o/atlas", tmp_path / "whole")
    ]
    assert all(content.pop(Path("index.html")) for content in contents)  # it has the time
    assert contents[0] == contents[1]


@pytest.mark.process
def test_killed_worker_is_named(tmp_path):
    synthetic.write_layer(tmp_path, "m/l", 64, per_run=8)
    command = process(str(tmp_path), "pictures=none")
    wait_until(lambda: len(workers(command)) > 1)
    os.kill(workers(command)[0], signal.SIGKILL)
    said = command.communicate(timeout=60)[1]
    assert command.returncode == 1
    assert "Traceback" not in said
    assert "ended from outside" in said


@pytest.mark.process
def test_two_commands_make_an_atlas(tmp_path):
    synthetic.write_layer(tmp_path, "m/l", 64, per_run=8)
    commands = [process(str(tmp_path), "pictures=none") for _ in range(2)]
    said = [command.communicate(timeout=120)[1] for command in commands]
    assert [command.returncode for command in commands] == [0, 0]
    assert sum("waits until it is done" in text for text in said) == 1
    before = files_of(tmp_path / "atlas")
    assert files_of(make(tmp_path).out) == before


def test_tiles_that_are_gone_are_named(tmp_path, capsys):
    synthetic.write_layer(tmp_path, "m/l", 2)
    atlas = make(tmp_path)
    for path in (*atlas.out.rglob("tiles-*.png"), *atlas.out.rglob("wall-*.png")):
        path.unlink()
    assert main(["atlas", str(tmp_path)]) == 1
    assert "Delete this folder" in capsys.readouterr().err
