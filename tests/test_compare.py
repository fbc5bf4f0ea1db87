import csv
import io
import itertools
import json
import math
import shutil

import numpy as np
import pytest
from conftest import complete_run
from matplotlib.text import Text

from diversevis.cli.compare import compare_command
from diversevis.compare import files
from diversevis.compare.comparison import check_pair, compare, compare_pair, pair_runs
from diversevis.compare.indices import Index, indices_of, values_of
from diversevis.compare.ranks import rank
from diversevis.compare.runs import find_runs, read_run
from diversevis.compare.statistics import (
    bootstrap,
    cliffs_delta,
    describe,
    difference,
    effect_in_words,
    holm,
    rank_test,
)
from diversevis.errors import InputError

WHITE = np.full((9, 9, 3), 255, np.uint8)  # stands for a figure's pixels
DELTAS = ("0.25", "0.5", "1", "2", "4")
MEASURES = {
    "gain": {"settings": {"steps": 80}},
    "phase": {"settings": {"orientations": 12, "phases": 16}},
    "shift": {"settings": {"steps": 700}},
    "deformation": {"settings": {"deltas": [0.25, 0.5, 1, 2, 4]}},
    "diversity": {"settings": {}},
    "dimension": {"settings": {"pairs": 15}},
}
FEW = {name: MEASURES[name] for name in ("phase", "dimension")}  # figures are soon drawn


def unit_metrics(number, generator, shift):
    """Plausible measures of one unit; `shift` makes it more invariant."""

    def between(low, high, by=0.1):
        return float(np.clip(generator.normal((low + high) / 2 + by * shift, 0.12), low, high))

    kept = {delta: math.exp(-0.1 * float(delta)) * between(0.8, 1.1) for delta in DELTAS}
    f1f0 = between(0, 1.57, -0.4)
    fitted = {"f1f0": f1f0 * 1.1, "weak": False}
    mean = between(0.4, 1)
    return {
        "unit": number,
        "stop": "annealed",
        "gain": {"distance_min": 20 * between(0, 1.5), "distance_mean": 9 * between(0, 1.5), "response": between(0.8, 1.1)},
        "phase": {"f1f0": f1f0, "weak": False, "fitted": fitted},
        "shift": {"mean": mean * 0.8, "min": mean * 0.5, "mean_masked": mean, "min_masked": mean * 0.7,
                  "learned": {"mean": mean * 0.8, "mean_masked": mean * 1.05}},
        "deformation": {"stability": between(0.2, 1.5), "stability_strict": between(0.4, 2), "delta": 1.0, "kept": kept},
        "diversity": {"index": between(0, 1)},
        "dimension": {"participation": 3 * between(0.5, 1.5), "path_min": between(0, 1), "groups": int(generator.integers(1, 5))},
    }  # fmt: skip


def make_run(root, model="vgg19", layer="conv2_2", size=(14, 14), count=12, shift=0.0, *, version=1,
             contrast=32.0, measures=MEASURES, units=None, seed=0, **record):  # fmt: skip
    """A run folder as `diversevis run` and `diversevis analyze` leave it, with drawn numbers."""
    generator = np.random.default_rng([seed, size[0], len(model)])
    units = units or [unit_metrics(number, generator, shift) for number in range(count)]
    path = root / model / layer / f"0-{count - 1}" / f"v{version:03d}"
    path.mkdir(parents=True)
    numbers = [u.get("unit") for u in units if isinstance(u, dict)]
    content = {
        "status": "finished", "model": model, "layer": layer, "direction": None, "n": 6,
        "units": numbers, "norm": contrast * math.sqrt(3 * size[0] * size[1]),
        "diversity": 0.1, "distance": "pixels", "fraction": None, "front": None, "receptive_field": {"size": list(size), "stride": [1, 1]},
        "weights": {"mean": [0.485, 0.456, 0.406]},
    }  # fmt: skip
    return complete_run(path, content | record, units, measures)


@pytest.fixture
def current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


# -- statistics -----------------------------------------------------------------------------------


def draw(count, seed, ties=True):
    values = np.random.default_rng(seed).normal(size=count)
    return np.round(values * 2) if ties else values


@pytest.mark.parametrize(("m", "n"), [(3, 3), (5, 11), (20, 7)])
def test_cliffs_delta_counts_pairs(m, n):
    a, b = draw(m, 1), draw(n, 2)
    signs = [np.sign(x - y) for x, y in itertools.product(a, b)]
    assert cliffs_delta(a, b) == pytest.approx(np.mean(signs), abs=1e-12)
    assert cliffs_delta(a, b) == -cliffs_delta(b, a)


def test_cliffs_delta_at_its_ends():
    low, high = np.arange(4.0), np.arange(4.0) + 10
    assert (cliffs_delta(high, low), cliffs_delta(low, high), cliffs_delta(low, low)) == (1, -1, 0)


@pytest.mark.parametrize(
    ("delta", "words"),
    [(1.0, "A higher, large"), (-0.4, "B higher, medium"), (0.2, "A higher, small"),
     (-0.1, "B higher, negligible"), (0.0, "neither higher")],
)  # fmt: skip
def test_effects_say_their_direction(delta, words):
    assert effect_in_words(delta) == words


def test_rank_test_is_exact_for_few_values():
    """Of all ways to choose 4 of 9 ranks, the share with U at least as extreme."""
    a, b = draw(4, 3, ties=False) + 1, draw(5, 4, ties=False)
    pooled = np.concatenate([a, b])

    def extreme(chosen):
        rest = np.delete(pooled, chosen)
        return abs(cliffs_delta(pooled[list(chosen)], rest))

    observed = extreme((0, 1, 2, 3))
    all_ways = list(itertools.combinations(range(9), 4))
    share = np.mean([extreme(chosen) >= observed - 1e-12 for chosen in all_ways])
    assert rank_test(a, b) == pytest.approx(share)


def test_rank_test_with_ties_uses_normal_approximation():
    a, b = draw(30, 5), draw(40, 6) + 1
    m, n = len(a), len(b)
    _, ties = np.unique(np.concatenate([a, b]), return_counts=True)
    u = (cliffs_delta(a, b) + 1) / 2 * m * n
    variance = m * n / 12 * (m + n + 1 - (ties**3 - ties).sum() / ((m + n) * (m + n - 1)))
    z = (abs(u - m * n / 2) - 0.5) / math.sqrt(variance)
    assert rank_test(a, b) == pytest.approx(math.erfc(z / math.sqrt(2)))


def test_equal_values_do_not_differ():
    same = difference(np.ones(5), np.ones(4), resamples=100, seed=0)
    assert (same["p"], same["cliffs_delta"], same["effect"]) == (1.0, 0.0, "neither higher")
    assert same["difference_median"] == same["difference_mean"] == {"value": 0, "low": 0, "high": 0}
    apart = difference(np.ones(5), np.zeros(4), resamples=100, seed=0)
    assert apart["p"] < 0.01
    assert apart["difference_mean"] == {"value": 1, "low": 1, "high": 1}


def test_holm_by_hand():
    assert holm([0.01, None, 0.04, 0.03]) == [pytest.approx(0.03), None, pytest.approx(0.06), pytest.approx(0.06)]  # fmt: skip
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([None]) == [None]


def test_bootstrap_variance_of_means():
    """Variance of a resampled mean: the (population) variance of the values over their number."""
    a, b = draw(50, 7, ties=False), draw(30, 8, ties=False) + 3
    means = bootstrap(a, b, resamples=20000, seed=0)[1]
    assert means.mean() == pytest.approx(a.mean() - b.mean(), abs=0.01)
    assert means.var() == pytest.approx(a.var() / 50 + b.var() / 30, rel=0.04)


def test_bootstrap_median_follows_the_binomial():
    """P(median of n = 5 draws <= k-th value) = P(at least 3 of 5 draws among the k lowest)."""
    a, b = np.arange(5.0), np.zeros(3)
    medians = bootstrap(a, b, resamples=40000, seed=0)[0]
    for k in range(5):
        p = (k + 1) / 5
        share = sum(math.comb(5, hits) * p**hits * (1 - p) ** (5 - hits) for hits in (3, 4, 5))
        assert np.mean(medians <= k) == pytest.approx(share, abs=0.01)


def test_intervals_have_their_coverage():
    generator = np.random.default_rng(0)
    held = {"difference_median": 0, "difference_mean": 0}
    for trial in range(300):
        a, b = generator.normal(0.7, 1, 40), generator.normal(0, 1, 50)
        found = difference(a, b, resamples=400, seed=trial)
        for key in held:
            held[key] += found[key]["low"] <= 0.7 <= found[key]["high"]
    for key, count in held.items():
        assert 0.91 <= count / 300 <= 0.985, key


@pytest.mark.parametrize(
    ("a", "b", "interval"),
    [((56, 70), (48, 80), (0.0524, 0.3339)), ((9, 10), (3, 10), (0.1705, 0.8090)),
     ((5, 56), (0, 29), (-0.0381, 0.1926)), ((10, 10), (0, 10), (0.6075, 1.0))],
)  # fmt: skip
def test_intervals_of_shares_equal_newcombes(a, b, interval):
    """Newcombe 1998, Statistics in Medicine 17:873, table II, method 10."""
    one, other = (np.repeat([1.0, 0.0], [hits, count - hits]) for hits, count in (a, b))
    found = difference(one, other, resamples=100, seed=0, shares=True)
    mean = found["difference_mean"]
    assert (mean["low"], mean["high"]) == pytest.approx(interval, abs=6e-5)
    assert mean["value"] == pytest.approx(a[0] / a[1] - b[0] / b[1])
    assert found["difference_median"] is None


def test_bootstrap_in_blocks_has_all_resamples(monkeypatch):
    monkeypatch.setattr("diversevis.compare.statistics.BLOCK", 70)
    a, b = draw(10, 1, ties=False), draw(8, 2, ties=False)
    found = bootstrap(a, b, resamples=1001, seed=0)
    assert found.shape == (2, 1001)
    assert np.abs(found[1] - (a.mean() - b.mean())).max() < 3
    assert np.array_equal(found, bootstrap(a, b, resamples=1001, seed=0))
    assert not np.array_equal(found, bootstrap(a, b, resamples=1001, seed=1))


def test_too_few_values_give_a_reason():
    found = difference(np.arange(2.0), np.arange(9.0), resamples=100, seed=0)
    assert found.pop("reason") == "A has 2 of the 3 values needed"
    assert set(found.values()) == {None}
    assert describe(np.array([])) == {"count": 0, "median": None, "quartiles": None, "mean": None}
    assert describe(np.array([1.0, 3.0])) == {"count": 2, "median": 2, "quartiles": None, "mean": 2}
    assert describe(np.arange(5.0)) == {"count": 5, "median": 2, "quartiles": [1, 3], "mean": 2}


# -- values of units ------------------------------------------------------------------------------


def test_units_left_out_are_counted_by_reason(tmp_path):
    def phase(number, f1f0, weak=False):
        return {"unit": number, "stop": "annealed", "phase": {"f1f0": f1f0, "weak": weak}}

    units = [
        phase(0, 0.5), phase(1, 1.5), phase(2, None), phase(3, 9.0, weak=True), phase(4, 1),
        {"unit": 5, "stop": "dead", "phase": None}, {"unit": 6, "stop": "annealed", "phase": None},
    ]  # fmt: skip
    run = read_run(make_run(tmp_path, units=units, measures={"phase": {"settings": {}}}))
    plain, share, *_ = indices_of(run, run)
    values, left_out = values_of(run, plain)
    assert np.array_equal(
        values, [0.5, 1.5, math.nan, math.nan, 1, math.nan, math.nan], equal_nan=True
    )
    assert left_out == {"dead": 1, "weak": 1, "null": 2}
    values, _ = values_of(run, share)
    assert np.array_equal(values, [1, 0, math.nan, math.nan, 0, math.nan, math.nan], equal_nan=True)
    found = compare_pair(run, run, resamples=100, seed=0)["indices"]
    assert [one["index"] for one in found] == ["phase.f1f0", "phase.f1f0<1"]
    assert found[1]["a"]["mean"] == pytest.approx(1 / 3)
    assert found[0]["a"]["values"] == [0.5, 1.5, None, None, 1.0, None, None]


def test_displacements_are_indices_in_order(tmp_path):
    run = read_run(make_run(tmp_path))
    kept = [one for one in indices_of(run, run) if one.key.startswith("deformation.kept")]
    assert [one.key for one in kept] == [f"deformation.kept.{delta}" for delta in DELTAS]
    assert kept[1] == Index(
        "deformation.kept.0.5", "deformation of 0.5 px", "share of response kept"
    )
    expected = [unit["deformation"]["kept"]["0.5"] for unit in run.units]
    assert values_of(run, kept[1])[0].tolist() == expected


def test_layer_of_dead_units_has_no_numbers(tmp_path):
    dead = [{"unit": number, "stop": "dead", **dict.fromkeys(FEW)} for number in range(4)]
    a = read_run(make_run(tmp_path / "a", units=dead, measures=FEW))
    b = read_run(make_run(tmp_path / "b", measures=FEW))
    pair = compare_pair(a, b, resamples=100, seed=0)
    for one in pair["indices"]:
        assert one["reason"] == "A has 0 of the 3 values needed"
        assert one["a"]["left_out"] == {"dead": 4, "weak": 0, "null": 0}
        assert one["p"] is one["p_holm"] is one["a"]["median"] is None
    assert "A has 0 of the 3 values needed" in files.table(pair)
    assert files.pair_figure(pair).startswith(b"\x89PNG")


# -- runs -----------------------------------------------------------------------------------------


def test_latest_usable_version_is_taken(tmp_path):
    for version in (1, 2, 10):
        make_run(tmp_path, version=version)
    make_run(tmp_path, version=11, status="interrupted")
    make_run(tmp_path, version=12, measures={})
    (make_run(tmp_path, version=13) / "metrics.json").write_text('{"units": [')
    (make_run(tmp_path, version=14) / "run.json").write_bytes(b"\xff\x00")
    runs, notes = find_runs(tmp_path)
    assert [run.path.name for run in runs] == ["v010"]
    said = ["v014 is damaged", "v013 is damaged", "v012 has no measures", "v011 is interrupted"]
    assert all(words in note for words, note in zip(said, notes, strict=True)), notes


def test_named_run_folder_is_taken(tmp_path):
    first = make_run(tmp_path, version=1)
    make_run(tmp_path, version=2)
    assert [run.path for run in find_runs(first)[0]] == [first]


def test_contrast_is_of_all_channels(tmp_path):
    """32 grey levels in three channels are a norm of 32 sqrt(3) in one."""
    mean = {"mean": [0.5]}
    assert read_run(make_run(tmp_path / "rgb")).contrast == pytest.approx(32)
    grey = read_run(make_run(tmp_path / "grey", weights=mean))
    assert grey.contrast == pytest.approx(32 * math.sqrt(3))


@pytest.mark.parametrize(
    "changes",
    [{"norm": None}, {"norm": "x"}, {"norm": 0.0}, {"receptive_field": None},
     {"receptive_field": {"size": [14]}}, {"receptive_field": {"size": [0, 14]}},
     {"weights": {"mean": []}}],
)  # fmt: skip
def test_record_without_numbers_is_damaged(tmp_path, changes):
    with pytest.raises(InputError, match=r"v001 is damaged .*left out"):
        read_run(make_run(tmp_path, **changes))


@pytest.mark.parametrize("units", [[3], [[]], [{"stop": "annealed"}]])
def test_malformed_units_are_damaged(tmp_path, units):
    with pytest.raises(InputError, match=r"v001 is damaged"):
        read_run(make_run(tmp_path, units=units))


@pytest.mark.parametrize("content", ["[]", "3", '{"measures": [1], "units": []}', "{}"])
def test_malformed_metrics_are_refused(tmp_path, content):
    path = make_run(tmp_path)
    (path / "metrics.json").write_text(content)
    with pytest.raises(InputError, match=r"damaged|has no measures"):
        read_run(path)


def test_folders_without_usable_runs_are_explained(tmp_path):
    with pytest.raises(InputError, match=r"none is not a folder"):
        find_runs(tmp_path / "none")
    with pytest.raises(InputError, match=r"holds no run .*diversevis run"):
        find_runs(tmp_path)
    path = make_run(tmp_path, measures={})
    with pytest.raises(InputError, match=r"has no measures: run `diversevis analyze .*v001` first"):
        find_runs(tmp_path)
    (path / "metrics.json").unlink()
    with pytest.raises(InputError, match=r"metrics.json is not there"):
        find_runs(path)


def runs_of(root, *sizes, **more):
    for place, size in enumerate(sizes):
        make_run(root, layer=f"l{place}", size=(size, size), **more)
    return find_runs(root)[0]


def test_runs_are_paired_by_field_size(tmp_path):
    vgg = runs_of(tmp_path / "a", 5, 10, 14, 24)
    resnet = runs_of(tmp_path / "b", 7, 11, 19, 60)
    pairs = pair_runs(vgg, resnet)
    assert [(a.size, b.size) for a, b in pairs] == [(5, 7), (10, 11), (24, 19)]


def test_two_runs_are_always_paired(tmp_path):
    a, b = runs_of(tmp_path / "a", 5), runs_of(tmp_path / "b", 50)
    assert len(pair_runs(a, b)) == 1
    assert pair_runs(a, runs_of(tmp_path / "c", 50, 60)) == []


def test_field_size_is_the_geometric_mean(tmp_path):
    run = read_run(make_run(tmp_path, size=(4, 9)))
    assert run.size == pytest.approx(6)
    assert run.contrast == pytest.approx(32)


def test_equal_fields_pair_the_same_layer(tmp_path):
    a, b = runs_of(tmp_path / "a", 24, 24, 24), runs_of(tmp_path / "b", 24, 24, 24)
    pairs = pair_runs(a, b[::-1])
    assert all(one.record["layer"] == other.record["layer"] for one, other in pairs)
    assert len(pairs) == 3


# -- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"n": 4}, "n is 6 in A and 4 in B"),
        ({"diversity": 0.5}, "diversity is 0.1 in A and 0.5 in B"),
        ({"distance": "conv2_1"}, "distance is pixels in A and conv2_1 in B"),
        ({"contrast": 33.0}, "contrast is 32 in A and 33 in B"),
        ({"metric": "cosine"}, "metric is rms in A and cosine in B"),
        ({"fraction": 0.85}, "fraction is None in A and 0.85 in B"),
        ({"prior": {"kind": "tv", "weight": 0.1}}, "prior.kind is none in A and tv in B"),
        ({"measures": MEASURES | {"phase": {"settings": {"orientations": 8, "phases": 16}}}},
         "measures.phase.settings.orientations is 12 in A and 8 in B. Run `diversevis analyze"),
        ({"measures": MEASURES | {"deformation": {"settings": {"deltas": [1]}}}},
         "measures.deformation.settings.deltas is"),
        ({"measures": {"natural": {"settings": {}}}}, "no measure in common. Run `diversevis analyze"),
    ],
)  # fmt: skip
def test_runs_with_different_settings_are_refused(tmp_path, changes, said):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", **changes)
    with pytest.raises(InputError) as error:
        compare(tmp_path / "a", tmp_path / "b", resamples=100, seed=0)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_metamers_of_other_photographs_are_refused(tmp_path):
    def metamers(side, tolerance, *photographs):
        config = {"objective": {"tolerance": tolerance, "start": 0.3, "crop": None, "side": 256}}
        make_run(tmp_path / side, references=list(photographs), config=config)

    metamers("a", 0.05, "x.png")
    metamers("b", 0.1, "y.png")
    with pytest.raises(InputError, match=r"objective\.photographs is \['x\.png'\] in A"):
        compare(tmp_path / "a", tmp_path / "b", resamples=100, seed=0)
    metamers("c", 0.05, "x.png")
    compare(tmp_path / "a", tmp_path / "c", resamples=100, seed=0)


def test_rounded_norm_is_the_same_contrast(tmp_path):
    a = read_run(make_run(tmp_path / "a", size=(14, 14)))
    check_pair(a, read_run(make_run(tmp_path / "b", size=(19, 19), contrast=32.2)))


def test_measures_without_numbers_are_refused(current_folder):
    units = [{"unit": 0, "phase": None}, {"unit": 1, "phase": None}]
    measures = {"phase": {"settings": {}}}
    a, b = (make_run(current_folder / side, measures=measures, units=units) for side in "ab")
    with pytest.raises(InputError, match="no index in common"):
        compare_command([str(a), str(b)])
    assert not (current_folder / "outputs").exists()


def test_measure_of_one_side_is_left_out(tmp_path):
    make_run(tmp_path / "a")
    rest = {name: value for name, value in MEASURES.items() if name != "shift"}
    make_run(tmp_path / "b", measures=rest)
    found = compare(tmp_path / "a", tmp_path / "b", resamples=100, seed=0)
    assert not any(one["index"].startswith("shift") for one in found["pairs"][0]["indices"])
    assert any(note.startswith("shift: only ") for note in found["notes"])


def test_same_run_on_both_sides_is_refused(tmp_path):
    path = make_run(tmp_path)
    with pytest.raises(InputError, match="have no run in common"):
        compare(tmp_path, path, resamples=100, seed=0)


def test_fields_of_different_size_are_reported(tmp_path):
    runs_of(tmp_path / "a", 5, 6), runs_of(tmp_path / "b", 50)
    with pytest.raises(InputError, match=r"factor of 1.5 .*pixels: 5, 6 and 50"):
        compare(tmp_path / "a", tmp_path / "b", resamples=100, seed=0)
    make_run(tmp_path / "c", size=(5, 5), seed=1), make_run(tmp_path / "d", size=(10, 10))
    notes = compare(tmp_path / "c", tmp_path / "d", resamples=100, seed=0)["notes"]
    assert "receptive fields differ by a factor of 2." in notes[0]


# -- figures --------------------------------------------------------------------------------------


def texts_that_clash(figure):
    """Pairs of texts that overlap, and texts that reach out of the figure."""
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]
    texts = [text for text in texts if text.axes is None or text.axes.get_visible()]
    for axis in figure.axes:  # matplotlib does not draw the labels of ticks beyond the ends
        for ticks, (low, high) in ((axis.xaxis, axis.get_xlim()), (axis.yaxis, axis.get_ylim())):
            unseen = [
                one.label1 for one in ticks.get_major_ticks() if not low <= one.get_loc() <= high
            ]
            texts = [text for text in texts if text not in unseen]
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in texts]
    clashes = [(one, other) for (one, box), (other, second) in itertools.combinations(boxes, 2)
               if box.shrunk(0.97, 0.9).overlaps(second)]  # fmt: skip
    width, height = figure.canvas.get_width_height()
    out = [text for text, box in boxes
           if box.x0 < 0 or box.y0 < 0 or box.x1 > width or box.y1 > height]  # fmt: skip
    return clashes + out


@pytest.mark.parametrize(
    "count", [2, *(pytest.param(count, marks=pytest.mark.slow) for count in (12, 2048))]
)
def test_no_text_overlaps(tmp_path, monkeypatch, count):
    figures = []
    monkeypatch.setattr(files.graph, "drawn", lambda figure: figures.append(figure) or WHITE)
    measures = MEASURES if count == 12 else {"phase": MEASURES["phase"], "gain": MEASURES["gain"]}
    for size in (10, 24):
        model = "a_network_with_a_very_long_name_" * 3
        make_run(tmp_path / "a", model, f"l{size}", (size, size), count, measures=measures)
        make_run(
            tmp_path / "b", "resnet50", f"l{size}", (size, size + 1), 12, 2.0, measures=measures
        )
    result = compare(tmp_path / "a", tmp_path / "b", resamples=100, seed=0)
    files.pair_figure(result["pairs"][0])
    files.overview_figure(result)
    for figure in figures:
        assert texts_that_clash(figure) == []


def test_outliers_are_counted_beyond_the_axis(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(files.graph, "drawn", lambda figure: figures.append(figure) or WHITE)
    runs = []
    for name in "ab":
        gains = [*np.linspace(1, 2, 20), 500.0, 900.0, -70.0]
        units = [{"unit": k, "gain": {"response": gain}} for k, gain in enumerate(gains)]
        path = make_run(tmp_path / name, units=units, measures={"gain": {"settings": {}}})
        runs.append(read_run(path))
    files.pair_figure(compare_pair(*runs, resamples=100, seed=0))
    axis = figures[0].axes[0]
    assert -5 < axis.get_ylim()[0] < 1 < 2 < axis.get_ylim()[1] < 8
    assert {text.get_text() for text in axis.texts} >= {"4 beyond", "2 beyond"}


# -- the command ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a"], "was given 1"), (["a", "a", "a"], "was given 3"), ([], "was given 0"),
        (["a", "a", "--out"], "no flag --out"), (["a", "a", "sed=1"], "no setting sed. Did you mean seed"),
        (["a", "a", "seed=-1"], "seed=-1 must be"), (["a", "a", "resamples=1e4"], "resamples=1e4 must be"),
        (["a", "a", "resamples=5"], "from 100 to"), (["a", "a", "out="], "out= says nothing"),
        (["a", ""], "empty word"), (["a", "~nobody-here/x"], "no such home folder"),
        (["a", "b"], "b is not a folder"), (["a", "a"], "have no run in common"),
    ],
)  # fmt: skip
def test_bad_arguments_leave_no_files(current_folder, words, said):
    make_run(current_folder / "a")
    with pytest.raises(InputError) as error:
        compare_command(words)
    assert said in str(error.value)
    assert [path.name for path in current_folder.iterdir()] == ["a"]


def test_compare_writes_its_files(current_folder, capsys):
    for size, layer in ((10, "conv2_1"), (14, "conv2_2"), (24, "conv3_1")):
        make_run(current_folder / "outputs", "vgg19", layer, (size, size), measures=FEW)
    for size, layer in ((11, "maxpool"), (19, "layer1.0"), (99, "layer3.0")):
        make_run(
            current_folder / "outputs", "resnet50", layer, (size, size), shift=4.0, measures=FEW
        )
    compare_command(["outputs/vgg19", "outputs/resnet50", "resamples=500", "seed=3"])
    out, err = capsys.readouterr()
    folder = current_folder / out.splitlines()[-1]
    assert folder == current_folder / "outputs/compare/vgg19_vs_resnet50/v001"
    assert {path.name for path in folder.iterdir()} == {
        "comparison.json", "comparison.csv", "overview.png",
        "pair01_vgg19-conv2_1_vs_resnet50-maxpool.png", "pair02_vgg19-conv3_1_vs_resnet50-layer1.0.png",
    }  # fmt: skip
    assert "conv2_2/0-11/v001 (A, 14 px) has no partner" in err
    assert "layer3.0/0-11/v001 (B, 99 px) has no partner" in err
    assert "A: vgg19 conv3_1, receptive field 24 px, 12 units" in out

    found = json.loads((folder / "comparison.json").read_text())
    assert (found["resamples"], found["seed"], len(found["pairs"])) == (500, 3, 2)
    pair = found["pairs"][0]
    f1f0 = pair["indices"][0]
    own = [unit["phase"]["f1f0"] for unit in read_run(current_folder / pair["a"]["folder"]).units]
    other = [unit["phase"]["f1f0"] for unit in read_run(current_folder / pair["b"]["folder"]).units]
    assert f1f0["a"]["median"] == pytest.approx(np.median(own))
    expected = np.median(own) - np.median(other)
    assert f1f0["difference_median"]["value"] == pytest.approx(expected)
    assert f1f0["difference_median"]["low"] > 0
    assert f1f0["effect"] == "A higher, large"
    assert f1f0["p"] < f1f0["p_holm"] <= 0.05

    with (folder / "comparison.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(len(pair["indices"]) for pair in found["pairs"])
    assert float(rows[0]["difference_median_value"]) == pytest.approx(expected)
    assert rows[0]["b_layer"] == "maxpool"

    compare_command(["outputs/vgg19", "outputs/resnet50", "resamples=500", "seed=3"])
    again = current_folder / capsys.readouterr().out.splitlines()[-1]
    assert again.name == "v002"
    assert (again / "comparison.json").read_text() == (folder / "comparison.json").read_text()


def test_out_folder_and_default_name(current_folder, capsys):
    a = make_run(current_folder / "a", count=2, measures=FEW)
    b = make_run(current_folder / "b", layer="conv3_1", size=(24, 24))
    compare_command([str(a), "out=there", str(b), "resamples=100"])
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == "there/v001"
    assert "A has 2 of the 3 values needed" in out
    assert "factor of 1.71" in err
    assert not (current_folder / "there/v001/overview.png").exists()
    shutil.rmtree("there")
    compare_command([str(a), str(b), "resamples=100"])
    name = "vgg19-conv2_2-0-1-v001_vs_vgg19-conv3_1-0-11-v001"
    assert capsys.readouterr().out.splitlines()[-1] == f"outputs/compare/{name}/v001"


def test_out_folder_that_cannot_be_made(current_folder):
    make_run(current_folder / "a"), make_run(current_folder / "b", seed=1)
    (current_folder / "file").write_text("")
    with pytest.raises(
        InputError, match=r"out=file: no folder can be made there .*out=/some/where"
    ):
        compare_command(["a", "b", "out=file", "resamples=100"])


# -- few units against a layer --------------------------------------------------------------------


def phase_units(*ratios, first=0):
    return [
        {"unit": number, "stop": "annealed", "phase": {"f1f0": ratio, "weak": False}}
        for number, ratio in enumerate(ratios, first)
    ]


def compared(tmp_path, few, many, **changes):
    measures = {"phase": {"settings": {}}}
    a = read_run(make_run(tmp_path / "a", units=few, measures=measures))
    b = read_run(make_run(tmp_path / "b", units=many, measures=measures, **changes))
    return compare_pair(a, b, resamples=100, seed=0)


def test_unit_against_layer_has_percentile(tmp_path):
    """Of 0, 0.5, 0.5, 1 and 1.5, 0.5 has one below and two equal: (1 + 2 / 2) / 5 = 40 %."""
    few, many = phase_units(0.5, first=9), phase_units(0.0, 0.5, 0.5, 1.0, 1.5)
    pair = compared(tmp_path, few, many)
    value, share = pair["indices"]
    said = "A is lower than 60 % of 5 units of B"
    assert value["percentiles"] == {
        "of": "a", "in": "b", "words": said,
        "units": [{"unit": 9, "percentile": 40.0, "count": 5, "equal": 2}],
    }  # fmt: skip
    assert share["percentiles"] is None
    assert said in files.table(pair)
    assert "p: Mann" not in files.table(pair)
    row = next(csv.DictReader(io.StringIO(files._csv([pair]))))
    assert (row["percentile_of"], row["percentiles"], row["p"]) == ("a", "40", "")


def test_layer_against_two_units(tmp_path):
    few, many = phase_units(-1.0, 2.0, first=9), phase_units(*np.linspace(0, 1, 8))
    index = compared(tmp_path, many, few)["indices"][0]
    said = (
        "unit 9 of B is lower than all 8 units of A; unit 10 of B is higher than all 8 units of A"
    )
    assert files.verdict(index) == said


def test_unit_is_not_compared_with_itself(tmp_path):
    few, many = phase_units(0.5), phase_units(0.5, 1.0, 1.5, 2.0)
    said = compared(tmp_path, few, many)["indices"][0]["percentiles"]["words"]
    assert said == "A is lower than all 3 other units of B"
    said = compared(tmp_path / "x", few, many, layer="other")["indices"][0]["percentiles"]["words"]
    assert said == "A is lower than 88 % of 4 units of B"


def test_few_units_on_both_sides(tmp_path):
    pair = compared(tmp_path, phase_units(0.5), phase_units(1.0, 1.5, first=5))
    assert pair["indices"][0]["percentiles"] is None
    said = "too few units to say: A has 1 and B has 2 of the 3 values needed"
    assert said in files.table(pair)
    assert files.pair_figure(pair).startswith(b"\x89PNG")


def test_figure_marks_the_unit(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(files.graph, "drawn", lambda figure: figures.append(figure) or WHITE)
    files.pair_figure(compared(tmp_path, phase_units(0.5, first=9), phase_units(0.0, 1.0, 1.5)))
    (line,) = [line for line in figures[0].axes[0].lines if line.get_linestyle() == "--"]
    assert list(line.get_ydata()) == [0.5, 0.5]


def test_larger_samples_have_no_percentiles(tmp_path):
    pair = compared(tmp_path, phase_units(0.5, 1.0, 1.5), phase_units(0.0, 1.0, 1.5))
    assert [index["percentiles"] for index in pair["indices"]] == [None, None]


@pytest.mark.parametrize(
    ("value", "others", "words"),
    [(1, [1, 1, 1], "equal to all 3 units"), (1, [0, 1, 2], "in the middle of 3 units"),
     (-1, [0, 1, 2], "lower than all 3 units"), (1.5, [0, 1, 2], "higher than 67 % of 3 units"),
     (0.5, range(1000), "lower than 99 % of 1000 units"), (1, [2], "among too few to say (1 unit)"),
     (1, [], "among too few to say (0 units)")],
)  # fmt: skip
def test_ranks_in_words(value, others, words):
    assert rank(float(value), [*map(float, others)]).words("units") == words
