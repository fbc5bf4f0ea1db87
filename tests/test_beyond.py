"""The page beyond the paper: numbers derived by hand, the page, and runs of known units."""

import json
import math
import sys
from pathlib import Path

import pytest
import torch
from conftest import QUICK
from PIL import Image

from diversevis.cli.main import main
from diversevis.measures.half_planes import SHARES
from diversevis.runs.folder import RunFolder

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import reproduce_paper
from paper import beyond, beyond_runs, runs
from paper.beyond_page import MISSING, WITHOUT, beyond_page
from paper.runs import Plan, Run

ABOUT = {
    "when": "2026-01-01", "versions": {"diversevis": "0", "torch": "2"}, "device": "cpu",
    "device_name": "none", "quick": True, "seed": 0, "seconds_of_runs": 1.0, "photographs": True,
}  # fmt: skip
HOSTILE = "<script>&.png"


def run_with(root, units, *, layer="conv2_1", model="vgg19", arrays=None, **record):
    """A finished run whose units have these numbers; arrays by measure."""
    folder = RunFolder(Path(root) / f"{model}-{layer}".replace("/", "") / "v001")
    folder.path.mkdir(parents=True)
    folder.write_record({
        "status": "finished", "model": model, "layer": layer, "direction": None, "n": 2,
        "receptive_field": {"size": [10, 8]}, "weights": {"mean": [0.5, 0.5, 0.5]}, "device": "cpu",
        "config": {"objective": {"tolerance": 0.05}}, **record,
    })  # fmt: skip
    entries = [{"unit": 5 * row, "stop": "annealed"} | unit for row, unit in enumerate(units)]
    folder.write_metrics(entries)
    for name, of_measure in (arrays or {}).items():
        folder.write_measure(name, {}, [unit[name] for unit in entries], of_measure)
    return Run(folder.path)


def partly(share, *, weak=False, side=90.0, mean=0.9):
    return {"bipartite": {"index": share, "index_contrast": 0.0, "share": share, "weak": weak, "side": side, "mean": mean,
                          "min": 0.5, "boundary": share}}  # fmt: skip


def partial_run(root, units, **record):
    """Units that grow with contrast as linear ones do."""
    contrast = (1 - torch.tensor(SHARES)).sqrt().repeat(len(units), 1)
    return run_with(root, units, arrays={"bipartite": {"contrast": contrast}}, **record)


def related(family, rank=1):
    return {
        "align": {"family": family, "to_nearest": 0.8, "silhouette": 0.3},
        "selectivity": {"rank": rank, "mean_others": 0.1 * rank},
    }


def accepting(crops, photographs, ratio=None, shown=100):
    of = {"share": crops / shown, "crops": crops, "photographs": photographs,
          "of_synthetic_min": ratio, "of_synthetic_mean": ratio}  # fmt: skip
    return {"varied": {"best_crop": 0.4, "photographs_shown": 3, "crops_shown": shown,
                       **{key: {"0.25": value} for key, value in of.items()}}}  # fmt: skip


def families_run(root, families, units=(38, 55, 68, 1)):
    divided = {"left_out": torch.tensor([3, 20, 50, 0.1]),
               "divisions": torch.tensor([[0.5, 0.9], [0.375, 0.6], [0.125, 0.6]])}  # fmt: skip
    entries = [related(family, rank) | {"unit": unit}
               for unit, family, rank in zip(units, families, (1, 1, 1, 3), strict=True)]  # fmt: skip
    return run_with(root, entries, arrays={"align": divided, "selectivity": {}})


def matched_run(root, layer, distances, files=("a.png", "b.png")):
    """Metamers of photographs; their images are 2 and 3 x 3 pixels."""
    entries = [
        {"error_max": 0.04, "distance_pixels_to_reference_mean": distance, "unit": row,
         "metamers": {"error_max": 0.05, "distance_to_reference_mean": 45.0,
                      "error_of_trained": 0.5, "error_of_random": 2.0}}
        for row, distance in enumerate(distances)
    ]  # fmt: skip
    run = run_with(root, entries, layer=layer, references=list(files))
    x = torch.zeros(len(entries), 2, 3, 3, 3)
    RunFolder(run.path).write_images(
        x, torch.full((len(entries), 2), -0.04), torch.arange(len(entries)), x[:, 0].clone()
    )
    return run


def content_of(runs, **about):
    return {"made": ABOUT | about, **beyond.beyond_of(runs), "commands": {}, "runs": {}}


# -- numbers --------------------------------------------------------------------------------------


def test_bipartite_units_are_counted(tmp_path):
    """Weak units, those that are fixed or free everywhere, and dead units have not both parts."""
    units = [partly(0.36), partly(0.36, weak=True), partly(0.05), partly(0.95, side=None),
             partly(0.5, side=None), {"bipartite": None}]  # fmt: skip
    numbers = beyond.bipartite(partial_run(tmp_path, units))
    assert numbers["units"] == 6
    assert numbers["measured"] == 5
    assert numbers["weak"] == 1
    assert numbers["both_parts"] == 2
    assert numbers["clear"] == 1
    assert numbers["share"]["median"] == 0.36


def test_clearest_units_outdo_their_contrast(tmp_path):
    """With less contrast they keep sqrt(1 - 0.36) = 0.8 and sqrt(1 - 0.75) = 0.5."""
    units = [partly(0.36, mean=0.85), partly(0.75, mean=0.6), partly(0.5, side=None, mean=1.0),
             partly(0.36, mean=0.79)]  # fmt: skip
    run = partial_run(tmp_path, units)
    chosen = beyond.clearest({"layer": run})
    assert [unit["unit"] for unit in chosen] == [5, 0]
    assert [unit["above_contrast"] for unit in chosen] == pytest.approx([0.1, 0.05], abs=1e-3)
    many = partial_run(tmp_path / "many", [partly(0.36)] * 9)
    assert len(beyond.clearest({"layer": many})) == beyond.CLEAREST


def test_families_of_a_layer(tmp_path):
    numbers = beyond.families(families_run(tmp_path, ["2", "2", "2", "1"]))
    assert numbers["sizes"] == [3, 1]
    assert numbers["rank_1"] == 0.75
    assert numbers["mean_others"]["median"] == pytest.approx(0.1)
    assert numbers["divisions"] == [0.375, 0.5]
    assert numbers["left_out"] == {
        "pairs": 50,
        "tried": 20,
        "lost": 3,
        "gained": pytest.approx(0.1),
    }
    assert numbers["phase_invariant"] == {"38": "2", "55": "2", "68": "2"}
    assert numbers["together"]


def test_phase_invariant_units_may_part(tmp_path):
    assert beyond.families(families_run(tmp_path, ["2", "1", "2", "1"]))["together"] is False
    without = families_run(tmp_path / "without", ["1"] * 4, units=(38, 55, 2, 1))
    assert beyond.families(without)["together"] is None


def test_accepted_crops_of_a_layer(tmp_path):
    units = [accepting(0, 0), accepting(2, 1), accepting(10, 2, 1.5), accepting(20, 3, 0.5)]
    numbers = beyond.varied(run_with(tmp_path, [*units, {"varied": None}]))
    assert numbers["measured"] == 4
    assert numbers["crops_shown"] == 100
    of = numbers["fractions"]["0.25"]
    assert of["share"]["median"] == pytest.approx(0.06)
    assert (of["none"], of["several"]) == (1, 2)
    assert of["of_synthetic_min"]["median"] == 1.0


def test_distance_grows_only_where_measured(tmp_path):
    runs = {layer: matched_run(tmp_path, layer, distances)
            for layer, distances in zip(beyond_runs.MATCHED, [(20, 23), (37, 24), (36, 30)],
                                        strict=True)}  # fmt: skip
    numbers = beyond.metamers(runs)
    assert numbers["grows"] == {"a.png": False, "b.png": True}
    assert numbers["layers"]["conv2_2"]["photographs"][1] == {
        "file": "b.png", "error_max": 0.04, "distance": 24, "random_error_max": 0.05,
        "random_distance": 45, "error_of_trained": 0.5, "error_of_random": 2,
    }  # fmt: skip
    runs.pop("conv1_2")
    assert beyond.metamers(runs)["grows"] == {"a.png": None, "b.png": None}


# -- the page -------------------------------------------------------------------------------------


def test_page_has_numbers_and_escapes(tmp_path):
    runs = {
        "bipartite: a": partial_run(tmp_path, [partly(0.36), partly(0.625)], layer="<script>x"),
        "families: b": families_run(tmp_path, ["1", "2", "1", "1"]),
        "metamers: c": matched_run(tmp_path, "conv2_2", [37.25], files=[HOSTILE]),
    }
    content = content_of(runs) | {"commands": {"bipartite: a": "layer='<script>x'"}}
    html = beyond_page(json.loads(json.dumps(content, allow_nan=False)), {})
    assert "<script" not in html
    for text in ("&lt;script&gt;x", "&lt;script&gt;&amp;.png", "<td>37.2</td>", "<td>0.49</td>",
                 "do not stand in the same family: 38 in family 1, 55 in family 2",
                 "is not known for every layer", MISSING):  # fmt: skip
        assert text in html, text


def test_few_crops_are_not_none(tmp_path):
    units = [accepting(6, 1, shown=26000) | related("1")]
    content = content_of({}) | {
        "varied": {"vgg19 conv2_2": beyond.varied(run_with(tmp_path, units))}
    }
    assert "<td>0.023%</td>" in beyond_page(content, {})


def test_page_without_photographs_says_so():
    html = beyond_page(content_of({}, photographs=False), {})
    assert html.count(WITHOUT) == 2
    assert html.count(MISSING) == 2


# -- runs -----------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path):
    """Four photographs; a comma, a quote and spaces in the path."""
    folder = tmp_path / "my, 'photos'"
    folder.mkdir()
    for grey in range(4):
        Image.new("RGB", (30, 30), (60 * grey,) * 3).save(folder / f"{grey}.png")
    return folder


def names(planned):
    return [plan.name for plan in planned]


def test_plans_need_photographs_for_metamers(photos):
    quick, without = (
        beyond_runs.beyond_plans(quick=True, seed=0, device="cpu", natural=natural)
        for natural in (str(photos), None)
    )
    assert names(quick)[: len(without)] == names(without)
    assert names(quick)[len(without) :] == [f"metamers: vgg19 {x}" for x in beyond_runs.MATCHED]
    assert not any("varied" in setting for plan in without for setting in plan.settings)
    assert not any(str(photos.parent) in plan.line for plan in quick)
    whole = beyond_runs.beyond_plans(quick=False, seed=0, device="cpu", natural=None)
    units = {plan.name: plan.settings[2] for plan in whole}
    assert units["families: vgg19 conv2_1"] == "unit=all"
    assert len(units["bipartite: vgg19 conv2_2"].split(",")) == 24


def test_photographs_are_named_for_hydra(photos):
    from diversevis.config.compose import compose_config, experiment_of

    plan = beyond_runs.beyond_plans(quick=True, seed=0, device="cpu", natural=str(photos))[-1]
    files = experiment_of(compose_config(list(plan.settings))).objective.reference
    assert len(files) == beyond_runs.PHOTOGRAPHS
    assert all(Path(file).is_file() for file in files)


def test_runs_of_moved_photographs_are_reused(tmp_path):
    plan = Plan(name="x", command="run", root="runs",
                settings=("objective.reference=['/here/a.png']", "analysis=[align]"))  # fmt: skip
    line = "diversevis run \"objective.reference=['/there/photos/a.png']\" 'analysis=[align]'"
    families_run(tmp_path / "runs", ["1"] * 4)
    (path,) = (tmp_path / "runs").rglob("run.json")
    RunFolder(path.parent).update_record(command=line)
    assert runs.find(plan, tmp_path).path == path.parent


def test_folder_without_photographs_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="natural="):
        reproduce_paper.main(["--beyond", "--natural", str(tmp_path)])


@pytest.fixture(scope="module")
def energy_runs(tmp_path_factory):
    """Runs of known units with few steps, by the names of their plans, and their folder."""
    root = tmp_path_factory.mktemp("beyond")
    few = ["measure.bipartite.steps=2", "measure.bipartite.shown=8", "measure.bipartite.crops=4",
           "measure.bipartite.directions=4", "measure.align.rotations=1",
           "measure.align.scales=[1]", "measure.align.shifts=[0.1]", "measure.align.steps=1",
           "measure.align.checked=2"]  # fmt: skip
    words = ["model=energy", "layer=complex", "unit=[0,24]", "n=2", *QUICK, *few, "device=cpu",
             "images=tensor", "measure.pictures=0", f"root={root / 'runs'}",
             "analysis=[bipartite,selectivity,align]"]  # fmt: skip
    assert main(["run", *words]) == 0
    (path,) = (root / "runs").rglob("run.json")
    return root, {name: Run(path.parent) for name in ("bipartite: known", "families: energy")}


def test_beyond_is_written_beside_claims(energy_runs):
    root, made = energy_runs
    metamers = {f"metamers: {layer}": matched_run(root, layer, [20.0 + i], files=["a.png"])
                for i, layer in enumerate(beyond_runs.MATCHED)}  # fmt: skip
    (root / "figures").mkdir()
    (root / "figures/claim1.png").write_bytes(b"")
    page = reproduce_paper.write_beyond(root, ABOUT, [], made | metamers)
    assert page == root / "beyond.html"
    assert (root / "figures/claim1.png").exists()
    content = json.loads((root / "beyond.json").read_text())
    known = content["bipartite"]["known"]["complex"]
    assert (known["measured"], known["true_share"]) == (2, 1.0)
    assert content["families"]["energy complex"]["compared"] == 2
    assert content["metamers"]["grows"] == {"a.png": True}
    assert all(math.isfinite(known[key]["median"]) for key in ("index", "share"))
    html = page.read_text()
    files = [part.split('"')[0] for part in html.split('src="')[1:]]
    assert {Path(file).name for file in files} == {
        "families0.png",
        "families1.png",
        "metamers0.png",
    }
    assert all((root / file).is_file() for file in files)
