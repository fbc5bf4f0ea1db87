"""Natural varied images: gratings of known phase, and an exact search over all crops."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_exemplars import MEAN, NORM, SIZE, every_crop, filters, noise, pattern, save
from test_visualize import setup_of

from diversevis.cli.main import main
from diversevis.config.compose import completed
from diversevis.errors import InputError
from diversevis.experiment.measure import possible
from diversevis.experiment.subject import subject_of, subject_without_run
from diversevis.measures.catalogue import chosen, measure
from diversevis.measures.farthest import Search
from diversevis.measures.varied import Varied
from diversevis.method.visualize import visualize
from diversevis.photographs.crops import Scissors
from diversevis.photographs.survey import survey

PHASES = 181  # odd: no phase lies on a boundary
PAIR = 8  # luminance, 6 pixels, vertical stripes: 21 pixels are 7 half periods
CONTRAST = 32.0
SETTINGS = ["measure.varied.side=21", "measure.varied.least_contrast=0"]


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def grating(phase, size=21):
    """Pixels [rows, columns, 3] of vertical stripes."""
    columns = np.arange(size) - size // 2
    wave = 127.5 + 120 * np.cos(2 * math.pi / 6 * columns + phase)
    return np.rint(wave)[None, :, None].repeat(size, 0).repeat(3, 2).astype(np.uint8)


@pytest.fixture(scope="module")
def gratings(tmp_path_factory):
    """Photographs of a single crop: the grating at all phases."""
    folder = tmp_path_factory.mktemp("gratings")
    for index in range(PHASES):
        save(folder, f"{index:02d}.png", grating(2 * math.pi * index / PHASES))
    return folder


def grating_subject(layer, folder, fraction, n, units):
    """Units with a batch of noise, whose best responses are those to the best of the gratings."""
    words = [f"layer={layer}", f"unit={units}", f"natural={folder}", *SETTINGS]
    subject = subject_without_run(setup_of(*words, f"measure.varied.fractions=[{fraction}]"))
    phases = np.arange(PHASES) * 2 * math.pi / PHASES
    x = torch.from_numpy(np.stack([grating(p) for p in phases])).permute(0, 3, 1, 2) - 127.5
    x = x * (subject.norm / x.flatten(1).norm(dim=1))[:, None, None, None]
    best = subject.respond_all(64)(x)[:, list(subject.rows)].amax(0)
    images = torch.randn(len(best), n, *subject.image_shape)
    images = images * (subject.norm / images.flatten(2).norm(dim=2))[..., None, None, None]
    return replace(
        subject, images=images, responses=torch.full((len(best), n), 0.1) * best[:, None], best=best
    )


def test_complex_unit_accepts_all_phases(gratings):
    """The chosen phases are the best, its opposite, and the two between: known distances."""
    subject = grating_subject("complex", gratings, 0.9, 4, PAIR)
    (unit,) = measure(subject, "varied").numbers
    assert unit["share"] == {"0.9": 1.0}
    assert unit["photographs"] == unit["crops"] == {"0.9": PHASES}
    assert unit["images"] == {"0.9": 4}
    assert unit["distance_min"]["0.9"] == pytest.approx(math.sqrt(2) * CONTRAST, rel=0.05)
    mean = (4 * math.sqrt(2) + 2 * 2) / 6 * CONTRAST
    assert unit["distance_mean"]["0.9"] == pytest.approx(mean, rel=0.02)
    flat = subject.images[0].flatten(1)
    pairs = torch.pdist(flat) / math.sqrt(flat.shape[1])
    for key, value in (("min", pairs.min()), ("mean", pairs.mean())):
        assert unit[f"of_synthetic_{key}"]["0.9"] == pytest.approx(
            unit[f"distance_{key}"]["0.9"] / value.item(), rel=1e-5
        )


@pytest.mark.parametrize("fraction", [0.5, 0.75, 0.95])
def test_simple_units_accept_part_of_phases(gratings, fraction):
    """Linear: the response is the cosine of the phase, so that acos(f) / pi of the phases reach f;
    the first three chosen are the best and the two at the ends."""
    even_and_odd = f"[{2 * PAIR},{2 * PAIR + 1}]"
    numbers = measure(
        grating_subject("simple", gratings, fraction, 3, even_and_odd), "varied"
    ).numbers
    reach, key = math.acos(fraction), f"{fraction:g}"
    for unit in numbers:
        assert unit["share"][key] == pytest.approx(reach / math.pi, abs=1 / PHASES)
        step = 1.5 * 2 * math.pi / PHASES * CONTRAST  # the best and the ends lie between phases
        closest = 2 * math.sin(reach / 2) * CONTRAST
        assert unit["distance_min"][key] == pytest.approx(closest, abs=step)
        mean = (2 * closest + 2 * math.sin(reach) * CONTRAST) / 3
        assert unit["distance_mean"][key] == pytest.approx(mean, abs=step)
        assert unit["best_crop"] == pytest.approx(1)
        assert type(unit["best_crop"]) is float  # not numpy's: tables take no other kind
        assert {type(share) for share in unit["share"].values()} == {float}


def test_shuffled_pixels_reach_nothing(gratings, tmp_path):
    subject = grating_subject("complex", gratings, 0.5, 4, PAIR)
    generator = np.random.default_rng(0)
    for index in range(PHASES):
        pixels = grating(2 * math.pi * index / PHASES).reshape(-1, 3)
        save(tmp_path, f"{index}.png", generator.permutation(pixels).reshape(21, 21, 3))
    (unit,) = measure(replace(subject, photographs=tmp_path), "varied").numbers
    assert unit["share"] == {"0.5": 0}
    assert unit["images"] == {"0.5": 0}
    for key in ("distance_min", "distance_mean", "of_synthetic_min", "of_synthetic_mean"):
        assert unit[key] == {"0.5": None}
    assert unit["chosen"] == {"0.5": []}
    json.dumps(unit, allow_nan=False)


def test_single_crop_has_no_distance(gratings):
    subject = grating_subject("simple", gratings, 1, 3, 2 * PAIR)
    (unit,) = measure(subject, "varied").numbers
    assert unit["crops"] == unit["images"] == {"1": 1}
    assert unit["distance_mean"] == {"1": None}


@pytest.fixture
def folder(tmp_path):
    """Seven photographs of noise."""
    for index in range(7):
        save(tmp_path, f"{index}.png", noise(index, (20, 22)))
    return tmp_path


def search(folder, respond, least, *, n, size=SIZE, batch=50, crops=10**6, seed=0):
    """The crops that pairs choose, and how many reach their thresholds [threshold, unit]."""
    scissors = Scissors(folder=folder, side=20, mean=MEAN, size=size, norm=NORM, least_contrast=5.0)
    searched = Search(
        scissors, survey(folder, "natural").photographs, np.array(least), n=n, crops=crops,
        seed=seed, report=lambda *_: None,
    )  # fmt: skip
    return searched, searched(respond, batch)


def exact(folder, what, least, n):
    """By another route: greedy farthest points over all crops of all photographs at once."""
    names = sorted(path.name for path in folder.iterdir())
    x = np.stack([every_crop(folder / name) for name in names])
    answers = np.einsum("prcihw,ihw->prc", x, what / np.linalg.norm(what))
    indices = [tuple(index) for index in np.argwhere(answers >= least)]
    picked = [max(indices, key=lambda index: answers[index])] if indices else []
    while picked and len(picked) < n:
        left = [i for i in indices if i[0] not in {photograph for photograph, *_ in picked}]
        if not left:
            break
        picked.append(
            max(left, key=lambda i: min(np.linalg.norm(x[i] - x[other]) for other in picked))
        )
    return len(indices), len({i[0] for i in indices}), [(names[p], r, c) for p, r, c in picked]


def test_choice_equals_an_exact_search(folder):
    """Several units and thresholds; also where there are fewer photographs than images wanted."""
    whats, shares = [pattern(0), pattern(1), pattern(2)], [0.08, 0.17, 0.3]
    least = np.array(shares)[:, None] * np.full(3, NORM)
    searched, chosen = search(folder, filters(*whats), least, n=5)
    counts = []
    for row, share in enumerate(shares):
        for unit, what in enumerate(whats):
            pair = row * 3 + unit
            crops, photographs, expected = exact(folder, what, share * NORM, 5)
            assert searched.reached[:, pair].tolist() == [crops, photographs]
            got = [
                (searched.photographs[p].file, y, x)
                for p, (y, x) in zip(chosen.photographs[pair], chosen.corners[pair], strict=True)
                if p >= 0
            ]
            assert got == expected
            counts.append(len(got))
    assert max(counts) == 5
    assert min(counts) < 5


def test_batches_and_names_change_nothing(folder, tmp_path_factory):
    least = np.full((1, 2), 0.15 * NORM)
    _, first = search(folder, filters(pattern(0), pattern(1)), least, n=4, crops=40)
    other = tmp_path_factory.mktemp("renamed")
    for index in range(7):
        save(other, f"{9 - index}.tif", noise(index, (20, 22)))
    _, second = search(other, filters(pattern(0), pattern(1)), least, n=4, crops=40, batch=7)
    assert torch.equal(first.images.nan_to_num(), second.images.nan_to_num())
    _, third = search(other, filters(pattern(0), pattern(1)), least, n=4, crops=40, seed=1)
    assert not torch.equal(first.images.nan_to_num(), third.images.nan_to_num())


def test_crops_of_a_pixel_are_chosen(folder):
    """Receptive fields of one pixel: colours at equal norm."""
    weights = torch.eye(3)
    _, chosen = search(
        folder, lambda x: x.flatten(1) @ weights, np.full((1, 3), 0.5 * NORM), n=3, size=(1, 1)
    )
    assert torch.allclose(chosen.images.flatten(2).norm(dim=2), torch.tensor(NORM))
    assert (chosen.images.flatten(2)[range(3), :, range(3)] >= 0.5 * NORM).all()


def test_chosen_crops_are_those_that_are_told(folder):
    words = ["layer=simple", "unit=[3,8]", f"natural={folder}", "optimizer.steps=5", "n=3",
             "measure.varied.crops=40", "measure.varied.side=30", "measure.varied.fractions=[0.02,0.9]"]  # fmt: skip
    setup = setup_of(*words)
    subject = subject_of(setup, visualize(setup, [0, 1]))
    taken = measure(subject, "varied")
    arrays, best = taken.arrays, subject.best_responses()
    assert arrays["images"].shape == (2, 2, 3, 3, 21, 21)
    for row, unit in enumerate(taken.numbers):
        told = unit["chosen"]["0.02"]
        assert len({crop["file"] for crop in told}) == len(told) == unit["images"]["0.02"] == 3
        responses = arrays["responses"][row, 0]
        assert [crop["response"] for crop in told] == pytest.approx(responses.tolist())
        assert responses.min() >= 0.02 * best[row] * (1 - 1e-4)
        assert responses[0] / best[row] == pytest.approx(unit["best_crop"], rel=1e-4)
        images = arrays["images"][row, 0]
        assert images.flatten(1).norm(dim=1).tolist() == pytest.approx([subject.norm] * 3)
        assert arrays["images"][row, 1].isnan().all()
    (alone,) = measure(subject.take([1]), "varied").numbers
    assert alone == taken.numbers[1]


def test_units_without_best_response_have_none(gratings):
    subject = grating_subject("simple", gratings, 0.5, 3, "0-3")
    best = torch.tensor([1.0, -1.0, math.inf, 1.0])
    subject = replace(
        subject, best=best, responses=best[:, None].repeat(1, 3), alive=(False, True, True, True)
    )
    taken = measure(subject, "varied")
    assert [unit is None for unit in taken.numbers] == [True, True, True, False]
    assert taken.arrays["images"][:3].isnan().all()


def test_missing_folder_is_refused():
    setup = setup_of("layer=simple", "unit=3", "optimizer.steps=2", "n=2")
    subject = subject_of(setup, visualize(setup, [0]))
    with pytest.raises(InputError, match=r"analysis=varied needs a folder .*natural=FOLDER"):
        measure(subject, "varied")
    assert possible(["phase", "natural", "varied"], None) == ["phase"]
    with pytest.raises(InputError, match="analysis=varied is measured on the images of a run"):
        chosen("varied", with_images=False)


@pytest.mark.parametrize("fractions", [[], [0.0, 0.5], [1.1], [0.5, 0.5], [math.nan]])
def test_fractions_are_checked(fractions):
    with pytest.raises(InputError, match=r"measure\.varied\.fractions"):
        Varied(fractions=fractions, crops=4, side=10, least_contrast=0.0)


def test_older_runs_get_new_settings():
    """The config of a run from before the measure has its other settings."""
    model = {"kind": "energy", "name": "energy", "default_layer": "complex"}
    config = completed({"model": model, "measure": {"sample": 7}})
    assert config["measure"]["sample"] == 7
    assert config["measure"]["varied"]["fractions"] == [0.25, 0.5, 0.75]


def test_command_measures_a_run(current_folder, folder, capsys):
    words = ["model=energy", "layer=simple", "unit=3-5", "n=3", "device=cpu", "images=tensor",
             "optimizer.steps=4", "optimizer.search_steps=2", "objective.restarts=1"]  # fmt: skip
    assert main(["run", *words]) == 0
    (run,) = current_folder.glob("outputs/energy/simple/*/v001")
    varied = ["analysis=varied", f"natural={folder}", "measure.varied.crops=30",
              "measure.varied.fractions=[0.01,0.5]", "images=png"]  # fmt: skip
    assert main(["analyze", str(run), *varied]) == 0
    pictures = sorted(path.name for path in (run / "analysis").glob("varied*.png"))
    assert pictures == ["varied.png", *(f"varied_unit000{unit}.png" for unit in (3, 4, 5))]
    metrics = json.loads((run / "metrics.json").read_text())
    assert len(metrics["measures"]["varied"]["settings"]["photographs"]) == 64
    assert all(unit["varied"]["crops_shown"] == 7 * 30 for unit in metrics["units"])
    capsys.readouterr()
    assert main(["show", str(run), "unit=4"]) == 0
    assert "crops above 0.01 of best" in capsys.readouterr().out
    assert main(["figure", str(run), "kind=varied"]) == 0
    assert main(["figure", str(run), "kind=varied", "unit=4"]) == 0


def test_responses_below_zero_are_refused(gratings):
    subject = grating_subject("simple", gratings, 0.5, 3, "0-1")
    below = torch.full((2, 3), -1.0)
    with pytest.raises(InputError, match=r"no unit of this run has a best response above 0"):
        measure(replace(subject, responses=below, best=below[:, 0]), "varied")
