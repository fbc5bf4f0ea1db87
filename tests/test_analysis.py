"""All measures on whole units: the analytic network pins them at both ends."""

import itertools
import logging
import math
from dataclasses import replace

import pytest
import torch
from PIL import Image
from test_visualize import setup_of

from diversevis.errors import InputError
from diversevis.experiment.measure import flat, indices_in, possible, spread
from diversevis.experiment.subject import subject_of, subject_without_run
from diversevis.measures import crop_model
from diversevis.measures.catalogue import MEASURES, chosen, measure
from diversevis.measures.subject import in_batches
from diversevis.method.visualize import visualize

QUICK = ("measure.shift.steps=30", "measure.shift.crops=32", "measure.deformation.draws=6",
         "measure.bipartite.steps=5", "measure.bipartite.shown=16")  # fmt: skip


def measured(names, *words, rows=None):
    setup = setup_of(*QUICK, *words)
    found = visualize(setup, rows if rows is not None else range(len(setup.targets.units)))
    subject = subject_of(setup, found)
    return setup, subject, {name: measure(subject, name) for name in names}


@pytest.fixture(scope="module")
def known_units():
    """Measures of units whose invariances are known: all, of the pooled unit those tested."""
    names = ["gain", "phase", "shift", "deformation", "diversity", "dimension"]
    by_layer = {
        layer: measured(names, f"layer={layer}", "unit=13")[-1] for layer in ("simple", "complex")
    }
    few = "measure.shift.steps=20", "measure.shift.crops=16"
    return by_layer | {"shift": measured(names[1:4], "layer=shift", "unit=13", *few)[-1]}


def numbers(known_units, layer, name):
    return known_units[layer][name].numbers[0]


def test_phase_of_units_with_known_invariances(known_units):
    """Half-rectified linear: pi/2 (32 samples add 0.3 %); energy: 0."""
    for kind in (lambda one: one, lambda one: one["fitted"]):
        assert kind(numbers(known_units, "simple", "phase"))["f1f0"] == pytest.approx(
            math.pi / 2, rel=0.01
        )
        for layer in ("complex", "shift"):
            assert kind(numbers(known_units, layer, "phase"))["f1f0"] < 0.02
    one = numbers(
        known_units, "complex", "phase"
    )  # pair 13: wavelength 6, orientation 5 pi/8 downwards
    assert one["color"] == "luminance"
    assert one["frequency"] == pytest.approx(1 / 6, rel=0.13)
    assert one["orientation"] == pytest.approx(180 - 112.5)


@pytest.mark.parametrize(("layer", "low", "high"), [("simple", 1.5, 1.65), ("complex", 0, 0.02)])
def test_phase_of_all_units_of_a_layer(layer, low, high):
    subject = subject_without_run(setup_of(f"layer={layer}", "unit=all"))
    found = [one["f1f0"] for one in measure(subject, "phase").numbers]
    assert low <= min(found) <= max(found) <= high


def test_phase_of_linear_filters_with_a_bias(real_weights):
    """VGG-19's conv1_1: a linear filter and a small bias before the ReLU."""
    subject = subject_without_run(setup_of("model=vgg19", "layer=conv1_1", "unit=all"))
    found = [one["f1f0"] for one in measure(subject, "phase").numbers]
    assert len(found) == 64
    assert all(abs(one / (math.pi / 2) - 1) < 0.02 for one in found)


def test_shift_of_units_with_known_invariances(known_units):
    """Pooled over 9 x 9 positions: any crop of a grating will do, once the mask is as wide as the
    unit. A complex unit under the fixed mask has what its narrow envelope leaves of a grating, a
    simple one has phases against it too."""
    pooled, narrow, simple = (
        numbers(known_units, layer, "shift") for layer in ("shift", "complex", "simple")
    )
    assert pooled["learned"]["mean_masked"] > 0.95
    assert 0.4 < narrow["mean"] < 0.6
    assert simple["mean"] < 0.1
    assert pooled["mean"] > simple["mean"] + 0.3
    assert simple["learned"]["mean"] < 0.5
    for one in (pooled, narrow, simple):
        assert one["min"] <= one["mean"] <= one["mean_masked"] + 1e-6


def test_deformation_of_units_with_known_invariances(known_units):
    """Energies at 1 pixel mind a deformation less than noise, the pooled one least."""
    pooled, narrow = (numbers(known_units, layer, "deformation") for layer in ("shift", "complex"))
    for key in ("stability", "stability_strict"):
        assert pooled[key] + 2 * pooled[f"{key}_error"] < 1
        assert narrow[key] < 1
    kept = list(pooled["kept"].values())
    assert kept[:4] == sorted(kept[:4], reverse=True)
    assert kept[4] is None  # 4 pixels are too many for a field of 29
    assert (
        pooled["kept"]["1"]
        > narrow["kept"]["1"]
        > numbers(known_units, "simple", "deformation")["kept"]["1"]
    )


def test_diversity_dimension_and_gain(known_units):
    """One image, or a circle of phases in one plane."""
    assert numbers(known_units, "simple", "diversity")["index"] == pytest.approx(0, abs=0.02)
    assert numbers(known_units, "complex", "diversity")["index"] == pytest.approx(1, abs=0.02)
    assert numbers(known_units, "simple", "dimension")["participation"] == pytest.approx(
        1, abs=0.05
    )
    assert numbers(known_units, "complex", "dimension")["participation"] == pytest.approx(
        2, abs=0.02
    )
    assert numbers(known_units, "complex", "dimension")["path_min"] > 0.99
    assert numbers(known_units, "complex", "dimension")["groups"] == 1
    alone = numbers(known_units, "complex", "gain")
    assert alone["distance_min"] > 5  # evenly spaced phases against phases by chance
    assert alone["response"] == pytest.approx(1, abs=0.01)
    assert numbers(known_units, "simple", "gain")["distance_min_alone"] < 0.1
    assert numbers(known_units, "simple", "gain")["response"] == pytest.approx(
        math.cos(math.atan(0.1 * math.sqrt(6 / 5))), abs=2e-3
    )  # the closed form of what the weight costs a linear unit


def test_measures_do_not_depend_on_other_units():
    names = ["gain", "phase", "shift", "deformation", "diversity", "dimension", "bipartite"]
    words = ["layer=complex", "optimizer.steps=20", "measure.shift.steps=5"]
    *_, alone = measured(names, *words, "unit=5")
    *_, among = measured(names, *words, "unit=[2,5,40]")
    for name in names:
        assert flat_numbers(among[name].numbers[1]) == pytest.approx(
            flat_numbers(alone[name].numbers[0]), rel=2e-4, abs=1e-6
        )


def flat_numbers(one):
    return dict(flat("", one))


def test_dead_unit_has_no_measures(tmp_path):
    words = ["model=custom", "model.target=test_visualize.dead_network", "layer=conv",
             "model.mean=[0.5,0.5,0.5]", "model.std=[0.2,0.2,0.2]"]  # fmt: skip
    pixels = torch.randint(0, 256, (40, 40, 3), dtype=torch.uint8).numpy()
    Image.fromarray(pixels).save(tmp_path / "photograph.png")
    names = [name for name in MEASURES if name not in ("selectivity", "align", "metamers")]
    setup, subject, found = measured(names, *words, "unit=[0,2]", f"natural={tmp_path}")
    assert subject.alive == (False, True)
    for name in names:
        assert found[name].numbers[0] is None, name
        assert found[name].numbers[1] is not None, name
        for key, values in found[name].arrays.items():
            if name in ("shift", "gain", "natural") and key not in ("units", "mask_fixed"):
                assert values[0].isnan().all(), (name, key)
    for name in ("phase", "natural"):  # a constant response is no invariance
        without = measure(subject_without_run(setup), name)
        assert without.numbers[0] is None
        assert without.numbers[1] is not None


def test_slow_measures_are_taken_of_a_sample():
    words = ["layer=simple", "unit=0-9", "measure.sample=3", "optimizer.steps=5",
             "measure.shift.steps=2"]  # fmt: skip
    *_, found = measured(["shift", "deformation", "diversity"], *words)
    taken = [[one is not None for one in found[name].numbers] for name in ("shift", "deformation")]
    assert taken[0] == taken[1]
    assert sum(taken[0]) == 3
    assert all(one is not None for one in found["diversity"].numbers)


def test_natural_exemplars(tmp_path):
    generator = torch.Generator().manual_seed(0)
    for number in range(3):
        pixels = torch.randint(0, 256, (60, 70, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(tmp_path / f"{number}.png")
    words = ["layer=simple", "unit=[3,8]", f"natural={tmp_path}", "optimizer.steps=10",
             "measure.natural.crops=20", "measure.natural.top=2"]  # fmt: skip
    _, subject, found = measured(["natural"], *words)
    one = found["natural"].numbers[1]
    best = found["natural"].arrays["images"][1, 0]
    assert torch.linalg.vector_norm(best).item() == pytest.approx(subject.norm, rel=1e-4)
    response = subject.take([1]).respond_own()(best[None, None]).item()
    assert one["response_max"] == pytest.approx(response, rel=1e-4)
    assert one["photographs"] == 3
    assert one["of_synthetic"] == pytest.approx(
        one["response_max"] / subject.responses[1].mean().item(), rel=1e-5
    )
    assert [exemplar["response"] for exemplar in one["exemplars"]] == pytest.approx(
        found["natural"].arrays["responses"][1].tolist()
    )


def test_weak_synthetic_responses_give_no_ratio(tmp_path):
    """Below 1 % of the best response, or below 0, the ratio to the best crop would say nothing."""
    pixels = torch.randint(0, 256, (60, 70, 3), dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(tmp_path / "photograph.png")
    words = ["layer=simple", "unit=[3,8,9]", f"natural={tmp_path}", "optimizer.steps=5",
             "measure.natural.crops=20", "measure.natural.top=2"]  # fmt: skip
    setup = setup_of(*words)
    subject = subject_of(setup, visualize(setup, range(3)))
    best = subject.best_responses()
    means = best * torch.tensor([0.02, 0.005, -0.3])
    numbers = measure(
        replace(subject, best=best, responses=means[:, None].repeat(1, 6)), "natural"
    ).numbers
    expected = numbers[0]["response_max"] / means[0].item()
    assert numbers[0]["of_synthetic"] == pytest.approx(expected, rel=1e-5)
    assert [unit["of_synthetic"] for unit in numbers[1:]] == [None, None]


def test_names_of_measures_are_checked(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("diversevis"), "propagate", True)
    assert chosen("all") == [name for name in MEASURES if name != "metamers"]
    assert chosen("all", metamers=True) == ["metamers"]
    assert chosen(["shift", "phase"]) == ["phase", "shift"]
    assert chosen([]) == []
    assert chosen("all", with_images=False) == ["phase", "natural"]
    with pytest.raises(InputError, match=r"analysis=fase is no measure.*phase"):
        chosen("fase")
    with pytest.raises(InputError, match=r"analysis=shift is measured on the images of a run"):
        chosen(["phase", "shift"], with_images=False)
    assert possible(["phase", "natural"], None) == ["phase"]
    assert "natural=FOLDER" in caplog.text
    with pytest.raises(InputError, match=r"natural=.*holds no image"):
        possible(["natural"], str(tmp_path))


def test_spread_over_seeds():
    seeds = [[{"a": 1.0, "b": 2.0}, {}], [{"a": 3.0}, {}]]
    first, second = spread(seeds)
    assert first["a"] == {"mean": 2, "deviation": pytest.approx(math.sqrt(2)), "count": 2}
    assert first["b"] == {"mean": 2, "deviation": None, "count": 1}
    assert second is None


def test_more_crops_than_remembered_are_refused(monkeypatch):
    monkeypatch.setattr(crop_model, "MOST_CROPS", 16)
    with pytest.raises(InputError, match=r"measure.shift.crops=17: .* 16 crops"):
        measured(["shift"], "layer=simple", "unit=0", "measure.shift.crops=17")


def test_angles_have_no_mean_over_seeds():
    of_unit = {
        "bipartite": {"side": 359.0, "share": 0.5},
        "phase": {"fitted": {"orientation": 1.0}},
    }
    assert indices_in(of_unit, ["bipartite", "phase"]) == {"bipartite.share": 0.5}


def test_threshold_objective_keeps_the_fraction():
    """Closed form for a linear unit: images at the angle whose cosine is the fraction."""
    (found,) = visualize(setup_of("layer=simple", "unit=10", "objective=threshold"), [0])
    kept = found.responses / found.metrics["response_best"]
    assert kept.min().item() > 0.84
    assert kept.mean().item() == pytest.approx(0.85, abs=0.02)
    apart = math.sqrt(1 - 0.85**2) * math.sqrt(2 * 6 / 5) * 32  # in RMS grey levels
    assert found.metrics["distance_mean"] == pytest.approx(apart, rel=0.03)


@pytest.mark.parametrize("weight", [0.2, 0.4])
def test_threshold_objective_hardly_depends_on_the_weight(weight):
    """A linear unit keeps it for weights below tan(arccos(fraction)) / sqrt(n / (n - 1)): 0.44."""
    words = ["layer=simple", "unit=10", "objective=threshold", "objective.fraction=0.9"]
    (found,) = visualize(setup_of(*words, f"objective.diversity={weight}"), [0])
    assert found.metrics["response_mean"] / found.metrics["response_best"] == pytest.approx(
        0.9, abs=0.02
    )


def test_front_and_its_knee():
    """A complex unit gives the circle's distance, 32 grey levels, away for nothing; more costs."""
    words = ["layer=complex", "unit=[3,13]", "objective=path", "n=6"]
    setup = setup_of(*words, "objective.front=[0,0.05,0.2,0.6,1.2]")
    found = visualize(setup, [0, 1])
    for one in found:
        table = one.metrics["front"]
        assert [row["diversity"] for row in table] == [0, 0.05, 0.2, 0.6, 1.2]
        distances = [row["distance_min"] for row in table]
        responses = [row["response_mean"] for row in table]
        assert all(a < b + 0.1 for a, b in itertools.pairwise(distances))
        assert responses[1] == pytest.approx(responses[0], rel=0.01)
        assert responses[-1] < 0.9 * responses[0]
        assert one.metrics["knee"] not in (0, 1.2)
        assert distances[1] == pytest.approx(32, rel=0.02)
        assert one.front.shape == (5, 6, 3, 21, 21)
        at = [row["diversity"] for row in table].index(one.metrics["knee"])
        assert distances[at] > 0.98 * 32
        assert responses[at] > 0.9 * responses[0]
        assert torch.equal(one.front[at], one.images)


def test_subject_splits_live_units_into_batches():
    subject = subject_without_run(setup_of("layer=simple", "unit=0-4", "batch=6"))
    subject = replace(subject, alive=(True, False, True, True, True))

    def batches(images_per_unit):
        units, calls = [], []

        def measure_batch(batch):
            units.append(list(batch.units))
            numbers = [{"unit": unit} for unit in batch.units]
            return numbers, {"x": torch.tensor(batch.rows)[:, None].expand(-1, 2).float()}

        numbers, arrays, _settings = in_batches(
            "phase", subject, subject.living, images_per_unit, {"x": (2,)}, measure_batch,
            lambda *done: calls.append(done),
        )  # fmt: skip
        assert numbers == [None if unit == 1 else {"unit": unit} for unit in range(5)]
        assert arrays["x"][1].isnan().all()
        assert arrays["x"][[0, 2, 3, 4]].tolist() == [[0, 0], [2, 2], [3, 3], [4, 4]]
        assert calls[-1] == ("phase", 4, 4)
        return units

    assert batches(3) == [[0, 2], [3, 4]]
    assert batches(100) == [[0], [2], [3], [4]]
