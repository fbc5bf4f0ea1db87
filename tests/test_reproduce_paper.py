"""The paper's claims, computed from run folders whose numbers are known."""

import json
import math
import sys
from pathlib import Path

import pytest
import torch

from diversevis.runs.folder import RunFolder

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import reproduce_paper
from paper import claims, deformation, differences, example, phase, runs
from paper.page import page
from paper.runs import Plan, Run
from paper.verdict import TOO_FEW, rank_sums_can_decide, signed_ranks_can_decide
from scipy.stats import mannwhitneyu, wilcoxon

DELTAS = [0.25, 0.5, 1.0, 2.0]
ABOUT = {
    "when": "2026-01-01", "versions": {"diversevis": "0", "torch": "2"}, "device": "cpu",
    "device_name": "none", "quick": True, "seed": 0, "seconds_of_runs": 1.0,
}  # fmt: skip


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(differences, "RESAMPLES", 100)


def unit(number, **changes):
    """A unit's entry in metrics.json that speaks for every claim; `f1f0=0.5` changes one number."""
    one = {
        "f1f0": 1.5, "fitted": 1.5, "weak": False, "distance_min": 10 + 0.1 * number, "distance_mean": 5.0,
        "response": 0.95, "diversity": 0.8, "kept": 0.9, "participation": 2.0,
    } | changes  # fmt: skip
    return {
        "unit": number, "stop": "annealed", "response_mean": 5.0, "response_best": 6.0,
        "distance_min": 20.0, "distance_mean": 25.0, "distance_pixels_min": 20.0,
        "distance_pixels_mean": 25.0,
        "gain": {
            "distance_min": one["distance_min"], "distance_mean": one["distance_mean"],
            "distance_min_alone": 3.0, "distance_mean_alone": 20.0, "response": one["response"],
        },
        "phase": {
            "f1f0": one["f1f0"], "weak": one["weak"],
            "fitted": {"f1f0": one["fitted"], "weak": one["weak"]},
        },
        "shift": None,
        "deformation": {
            "stability": 0.5, "stability_error": 0.1, "stability_strict": 0.4,
            "stability_strict_error": 0.1, "kept": dict.fromkeys(["0.5", "1", "2"], one["kept"]),
        },
        "diversity": {"index": one["diversity"]},
        "dimension": {"participation": one["participation"]},
    }  # fmt: skip


def copies(one, count=20):
    """Units with the same numbers, as many as a verdict needs."""
    return [one | {"unit": one["unit"] + k} for k in range(count)]


def dead(number):
    nothing = dict.fromkeys(runs.MEASURES)
    return {"unit": number, "stop": "dead", "response_mean": None, **nothing}


def run_of(root, model="vgg19", layer="conv2_1", units=None, *, images=None, field=10, strict=0.4,
           white=0.5, command="diversevis run"):  # fmt: skip
    """A run folder as `diversevis run analysis=...` leaves it."""
    units = units or [unit(i) for i in range(6)]
    count, norm = len(units), 32 * math.sqrt(3) * field
    generator = torch.Generator().manual_seed(0)
    if images is None:
        images = torch.randn(count, 6, 3, field, field, generator=generator)
        images *= norm / images.flatten(2).norm(dim=2)[..., None, None, None]
    folder = RunFolder(Path(root) / model / layer / f"{count}" / "v001")
    folder.path.mkdir(parents=True)
    folder.write_record({
        "status": "finished", "command": command, "model": model, "layer": layer,
        "direction": None, "n": images.shape[1], "norm": norm, "distance": "pixels",
        "config_hash": "h", "config": {},
        "diversity": 0.1, "fraction": None, "front": None,
        "units": [one["unit"] for one in units], "receptive_field": {"size": [field, field], "stride": [1, 1]},
        "weights": {"mean": [0.485, 0.456, 0.406]}, "device": "cpu", "seconds": 1.0,
    })  # fmt: skip
    folder.write_metrics(units)
    told = torch.tensor(
        [math.nan if u["response_mean"] is None else u["response_mean"] for u in units]
    )
    responses = told[:, None].repeat(1, images.shape[1])
    folder.write_images(images, responses, torch.tensor([one["unit"] for one in units]))
    numbers = {name: [one[name] for one in units] for name in runs.MEASURES}
    shape = (count, len(DELTAS))
    arrays = {
        "gain": {"images": images[:, :1].expand_as(images), "responses": responses},
        "phase": {
            "phases": torch.arange(8) * math.pi / 4, "tuning": torch.rand(count, 8),
            "grating": images[:, 0], "fitted_tuning": torch.rand(count, 8),
            "fitted_grating": images[:, 1], "map": torch.rand(count, 3, 4, 4),
            "frequencies": torch.tensor([0.05, 0.1, 0.2, 0.4]), "orientations": torch.arange(4) * 45.0,
        },
        "deformation": {
            "deltas": torch.tensor(DELTAS), "kept": torch.full(shape, 0.9),
            "stability": torch.full(shape, white), "stability_error": torch.full(shape, 0.1),
            "stability_strict": torch.full(shape, strict),
            "stability_strict_error": torch.full(shape, 0.1),
            "deformed": images[:, :1].expand(-1, len(DELTAS), -1, -1, -1),
        },
    }  # fmt: skip
    for name in runs.MEASURES:
        folder.write_measure(name, {}, numbers[name], arrays.get(name, {}))
    return Run(folder.path)


def layers_of(root, **units):
    """VGG-19 layers by name, `conv2_1=[...]`."""
    runs = [run_of(root, layer=layer, units=own) for layer, own in units.items()]
    return {run.name: run for run in runs}


# -- claim 1 --------------------------------------------------------------------------------------


def test_gain_claim_holds(tmp_path):
    units = [unit(i, distance_min=10 + i) for i in range(8)]
    found = claims.gain_claim(layers_of(tmp_path, conv2_1=units))
    one = found["numbers"]["layers"]["vgg19 conv2_1"]
    assert found["verdict"] == "holds"
    assert one["gain_smallest"] == {"median": 13.5, "quartiles": [11.75, 15.25]}
    assert one["share_larger"] == 1
    assert one["p"] == pytest.approx(2**-8)
    assert one["dimensions_alone"]["median"] == pytest.approx(1)  # images made alone are all one


@pytest.mark.parametrize(
    "changes", [{"distance_min": -1.0}, {"distance_mean": -1.0}, {"response": 0.5}]
)
def test_gain_claim_fails_with_any_loss(tmp_path, changes):
    units = [unit(i, **changes) for i in range(8)]
    found = claims.gain_claim(layers_of(tmp_path, conv2_1=units))
    assert found["verdict"] == "does not hold"


def test_gain_claim_ignores_linear_layers(tmp_path):
    layers = layers_of(
        tmp_path,
        conv1_1=[unit(i, diversity=0.0) for i in range(8)],
        conv2_1=[unit(i) for i in range(8)],
        conv2_2=[unit(i, response=0.5) for i in range(8)],
    )
    found = claims.gain_claim(layers)
    assert found["verdict"] == "holds in part"
    assert not found["numbers"]["layers"]["vgg19 conv1_1"]["counts"]
    assert "1 of 2 layers that count" in found["finding"]


def test_gain_claim_ignores_dead_units(tmp_path):
    units = [unit(0), unit(1), dead(2), unit(3)]
    one = claims.gain_claim(layers_of(tmp_path, conv2_1=units))["numbers"]["layers"]
    assert one["vgg19 conv2_1"]["counted"] == 3
    assert one["vgg19 conv2_1"]["dead"] == 1


# -- claim 2 --------------------------------------------------------------------------------------


def test_phase_shares_ignore_dead_and_weak_units(tmp_path):
    many = [unit(4 * k + kind, **changes) for k in range(5) for kind, changes in
            enumerate([{"f1f0": 0.1, "fitted": 0.1}, {"f1f0": 0.5}, {}, {}])]  # fmt: skip
    units = [*many, unit(20, f1f0=0.0, weak=True), dead(21)]
    layers = layers_of(tmp_path, conv1_1=copies(unit(0)), conv2_1=units)
    found = phase.phase_claim(layers, {})
    one = found["numbers"]["layers"]["vgg19 conv2_1"]
    assert one["best"]["counted"] == 20
    assert one["best"]["weak"] == 1
    assert one["dead"] == 1
    assert one["best"]["below_1"] == 0.5
    assert one["best"]["near_perfect"] == 0.25
    assert one["fitted"]["below_1"] == 0.25
    assert {top["unit"] for top in one["most_invariant"][:5]} == {0, 4, 8, 12, 16}
    assert found["verdict"] == "holds"
    assert found["numbers"]["depth"]["vgg19"]["growing"]


@pytest.mark.parametrize(
    ("first", "early", "verdict"),
    [
        (1.5, 0.5, "holds in part"),  # below 1, none near perfect
        (0.1, 0.1, "holds in part"),  # linear units have it too
        (1.5, 1.5, "does not hold"),
    ],
)
def test_phase_verdict(tmp_path, first, early, verdict):
    layers = layers_of(
        tmp_path,
        conv1_1=copies(unit(0, f1f0=first)),
        conv2_2=[*copies(unit(0, f1f0=early, fitted=early), 10), *copies(unit(10), 10)],
    )
    assert phase.phase_claim(layers, {})["verdict"] == verdict


def test_random_weights_are_named_beside_trained(tmp_path):
    layers = layers_of(tmp_path / "a", conv2_1=[unit(0, f1f0=0.1), unit(1)])
    control = run_of(tmp_path / "b", units=[unit(0, f1f0=0.1), unit(1, f1f0=0.1)])
    found = phase.phase_claim(layers, {"vgg19 conv2_1 random weights": control})
    assert "conv2_1 50% against 100%" in found["finding"]


def grating(phase, orientation=30.0, frequency=0.18, side=16):
    y, x = (side - 1) / 2 - torch.arange(side)[:, None], torch.arange(side) - (side - 1) / 2
    turn = math.radians(orientation)
    wave = 2 * math.pi * frequency * (math.cos(turn) * x + math.sin(turn) * y)
    return torch.cos(wave - math.radians(phase)).expand(3, -1, -1) * 40


def test_phases_of_gratings_are_measured():
    phases = [10.0, 70.0, 130.0, 190.0, 250.0, 310.0]
    found = example.described(torch.stack([grating(phase) for phase in phases]))
    assert found["orientation"] == pytest.approx(30, abs=4)
    assert found["alike"] > 0.99
    assert found["frequency"] == pytest.approx(0.18, abs=0.01)
    assert found["largest_gap"] == pytest.approx(60, abs=8)
    assert sorted((p - found["phases"][0]) % 360 for p in found["phases"]) == pytest.approx(
        [0, 60, 120, 180, 240, 300], abs=10
    )


def test_example_satisfies_the_rule(tmp_path):
    turning = torch.stack([grating(60.0 * i) for i in range(6)])
    tilting = torch.stack([grating(0.0, orientation=30.0 * i) for i in range(6)])
    units = [unit(3, fitted=0.1), unit(7, fitted=0.1, diversity=0.99), unit(9, fitted=0.9)]
    images = torch.stack([turning, tilting, turning])
    run = run_of(tmp_path, units=units, images=images)
    found = example.example([run])
    assert found["satisfied"]
    assert found["unit"] == 3
    assert found["candidates"] == 2
    other = run_of(tmp_path, units=units[1:2], images=images[1:2])
    assert not example.example([other])["satisfied"]
    assert example.example([])["unit"] is None


# -- claim 3 --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("white", "strict", "verdict"),
    [(0.5, 0.4, "holds"), (0.5, 0.9, "holds in part"), (0.9, 0.9, "does not hold")],
)
def test_deformation_verdict(tmp_path, white, strict, verdict):
    units = copies(unit(0))
    run = run_of(
        tmp_path, units=units, white=white, strict=strict
    )  # errors are 0.1: 0.9 + 0.2 is above 1
    found = deformation.deformation_claim({run.name: run}, None)
    assert found["verdict"] == verdict
    one = found["numbers"]["layers"][run.name]
    assert one["delta"] == 1
    assert one["counted"] == 20
    assert one["accepting"]["units"] == (20 if strict < 0.8 and white < 0.8 else 0)


def test_papers_unit_is_ranked(tmp_path):
    units = [unit(i, kept=0.1 * i) for i in range(5)]
    layer = run_of(tmp_path / "a", layer="conv3_1", units=[*units, unit(21, kept=0.9)])
    one = run_of(tmp_path / "b", layer="conv3_1", units=[unit(21, kept=0.25)])
    found = deformation.deformation_claim({layer.name: layer}, one)["numbers"]["example"]
    assert found["indices"]["deformation.kept.1"] == {"value": 0.25, "lower": 0.6, "of_units": 5}


@pytest.mark.parametrize("count", [6, 16])
def test_samples_too_small_give_no_verdict(tmp_path, count):
    """As `--quick` takes them: 16 units, 6 of them for the deformation test."""
    units = copies(unit(0, f1f0=0.1, fitted=0.1), count)
    layers = layers_of(tmp_path, conv1_1=copies(unit(0), count), conv2_1=units)
    assert phase.phase_claim(layers, {})["verdict"] == TOO_FEW
    assert deformation.deformation_claim(layers, None)["verdict"] == TOO_FEW
    layers |= {name: layers["vgg19 conv2_1"] for name in ("third", "fourth")}
    expected = TOO_FEW if count == 6 else "holds"  # 4 x 2^-6 is above 0.05, 4 x 2^-16 is not
    assert claims.gain_claim(layers)["verdict"] == expected


def test_ranks_need_enough_units():
    p = wilcoxon([1, 2, 3, 4, 5], alternative="greater").pvalue
    assert signed_ranks_can_decide(5, 1, p * 1.01)
    assert not signed_ranks_can_decide(5, 1, p)
    p = mannwhitneyu([1, 2, 3], [4, 5, 6, 7], method="exact").pvalue
    assert rank_sums_can_decide(3, 4, 2, 2.02 * p)
    assert not rank_sums_can_decide(3, 4, 2, 2 * p)


def test_pair_of_few_units_gives_no_verdict(tmp_path):
    runs, _ = runs_and_plans(tmp_path)
    for name in ("vgg19 conv2_2", "resnet50 layer1.0"):
        model, layer = name.split()
        runs[name] = run_of(tmp_path / "few", model, layer, runs[name].units[:4], field=14)
    assert differences.difference_claim(runs, tmp_path)[0] == TOO_FEW


# -- claim 4, and all of it -----------------------------------------------------------------------


def runs_and_plans(root, layer="layer1.0"):
    """Runs of a whole reproduction, by the names of their plans, and the plans."""
    ramp = [unit(i, f1f0=0.5 + 0.01 * i, kept=0.8 + 0.01 * i) for i in range(12)]
    low = [unit(i, f1f0=0.1 + 0.01 * i, kept=0.4 + 0.01 * i) for i in range(12)]
    runs = {
        "vgg19 conv1_1": run_of(root / "runs", layer="conv1_1", field=3),
        "vgg19 conv2_2": run_of(root / "runs", layer="conv2_2", units=ramp, field=14),
        "vgg19 conv3_1": run_of(root / "runs", layer="conv3_1", units=ramp, field=24),
        "resnet50 layer1.0": run_of(root / "runs", "resnet50", layer, low, field=19),
        "vgg19 conv3_1 21": run_of(root / "runs", layer="conv3_1", units=[unit(21)], field=24),
        "vgg19 conv2_2 random weights": run_of(root / "controls", layer="conv2_2", units=ramp),
    }
    plans = [
        Plan(name=name, command="run", settings=(f"layer={name}",), root="runs") for name in runs
    ]
    return runs, plans


def test_difference_claim_holds_for_distant_indices(tmp_path):
    runs, _ = runs_and_plans(tmp_path)
    verdict, _, _, numbers, commands = differences.difference_claim(runs, tmp_path)
    (pair,) = numbers["pairs"]
    told = {one["index"]: one for one in pair["indices"]}
    assert verdict == "holds"
    assert told["phase.f1f0"]["differs"]
    assert told["phase.f1f0"]["cliffs_delta"] == 1
    assert not told["gain.response"]["differs"]
    assert "F1/F0, best grating (VGG-19 higher)" in numbers["free_of_size"]
    assert commands[0].startswith("diversevis compare runs/vgg19/conv2_2/")


def test_difference_claim_fails_for_equal_layers(tmp_path):
    runs, _ = runs_and_plans(tmp_path)
    runs["resnet50 layer1.0"] = run_of(tmp_path / "same", "resnet50", "layer1.0",
                                       runs["vgg19 conv2_2"].units, field=19)  # fmt: skip
    assert differences.difference_claim(runs, tmp_path)[0] == "does not hold"


@pytest.mark.slow
def test_claims_page_escapes_its_input(tmp_path):
    runs, plans = runs_and_plans(tmp_path)
    hostile = '<script>alert("x")</script>&'
    record = runs["vgg19 conv1_1"].record | {"layer": hostile}
    RunFolder(runs["vgg19 conv1_1"].path).write_record(record)
    runs[f"vgg19 {hostile}"] = Run(runs.pop("vgg19 conv1_1").path)
    plans[0] = Plan(name=f"vgg19 {hostile}", command="run", settings=(hostile,), root="runs")
    reproduce_paper.write(tmp_path, ABOUT, plans, runs)
    text = (tmp_path / "claims.json").read_text()
    content = json.loads(text)
    assert [one["number"] for one in content["claims"]] == [1, 2, 3, 4]
    for one in content["claims"]:
        assert one["verdict"] in ("holds", "holds in part", "does not hold", TOO_FEW)
        assert one["rule"]
        assert one["finding"]
        assert one["numbers"]
        assert one["commands"]
    assert str(tmp_path) not in text
    assert content["runs"]["vgg19 conv3_1 21"].startswith("runs/")
    html = (tmp_path / "index.html").read_text()
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "http" not in html
    for file in html.split('src="')[1:]:
        assert (tmp_path / file.split('"')[0]).is_file()
    for link in html.split('href="')[1:]:
        target = link.split('"')[0]
        assert target.startswith("#") or target == "claims.json" or target.startswith("runs/")


def test_claims_page_without_pictures(tmp_path):
    runs, plans = runs_and_plans(tmp_path)
    found = claims.claims_of(runs, plans, tmp_path)
    assert page({"made": ABOUT, "claims": found, "runs": {}}, {}).startswith("<!doctype html>")


# -- runs -----------------------------------------------------------------------------------------


def test_plans_cover_the_papers_layers():
    quick, whole = (
        {
            plan.name: plan
            for plan in runs.plans(
                quick=quick, seed=0, device="cpu", on_gpu=False, sample=None, natural=None
            )
        }
        for quick in (True, False)
    )
    assert list(quick) == list(whole)
    assert len(whole) == 13
    assert "unit=all" in whole["vgg19 conv3_1"].settings
    assert "measure.sample=24" in whole["vgg19 conv3_1"].settings
    units = next(
        setting for setting in quick["vgg19 conv3_1"].settings if setting.startswith("unit=")
    )
    assert len(units.split(",")) == runs.QUICK_UNITS
    assert "device" not in whole["vgg19 conv3_1"].line
    on_gpu = runs.plans(quick=False, seed=0, device="cuda", on_gpu=True, sample=None, natural=None)
    assert not any("measure.sample" in setting for plan in on_gpu for setting in plan.settings)


def test_finished_run_of_a_plan_is_reused(tmp_path, capsys):
    plan = Plan(
        name="x", command="run", settings=("layer=a", "analysis=[gain]", "device=cpu"), root="runs"
    )
    assert runs.find(plan, tmp_path) is None
    assert runs.run_of(plan, tmp_path, make=False) is None
    line = "diversevis run layer=a 'analysis=[gain]' device=cuda root=elsewhere"
    run = run_of(tmp_path / "runs", command=line)
    assert runs.run_of(plan, tmp_path).path == run.path
    assert "finished in runs/" in capsys.readouterr().out
    RunFolder(run.path).update_record(status="interrupted")
    assert runs.find(plan, tmp_path) is None


def test_failed_run_ends_the_script(tmp_path, monkeypatch):
    plan = Plan(name="x", command="run", settings=("analysis=[gain]",), root="runs")
    monkeypatch.setattr(runs, "main", lambda arguments: 130)
    with pytest.raises(SystemExit) as ended:
        runs.run_of(plan, tmp_path)
    assert ended.value.code == 130
