"""`diversevis atlas`: what the pages say is what the runs say, and nothing else gets into them."""

import importlib
import json
import os
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import QUICK, complete_run, unchanged_log
from PIL import Image
from safetensors.torch import load_file

from diversevis.atlas import processes, texts
from diversevis.atlas.build import Atlas
from diversevis.atlas.details import RunWork
from diversevis.atlas.later import similar
from diversevis.atlas.scan import scan
from diversevis.cli.main import main
from diversevis.method.images import display
from diversevis.runs.files import Damaged

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
synthetic = importlib.import_module("synthetic_runs")
HOSTILE = "a</script><img src=x onerror=alert(1)>\"'\u2028\u202e{{ 7 * 7 }}javascript:alert(1)"


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
        assert "49" not in text
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
