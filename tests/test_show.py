"""`diversevis show`, and the table after a run."""

import json
import os
import re
import subprocess
import time

import numpy as np
import pytest
from conftest import COMMAND, QUICK
from test_compare import MEASURES, make_run, phase_units, unit_metrics
from test_house import loaded_after

from diversevis.cli.main import main
from diversevis.cli.show import show_command
from diversevis.cli.summary import say_findings
from diversevis.compare.report import unit_report
from diversevis.compare.runs import open_run
from diversevis.errors import InputError

PHASE = {"phase": {"settings": {"orientations": 16}}}


def made(number, **changes):
    """A unit with images, and all measures."""
    unit = unit_metrics(number, np.random.default_rng(number), 0.0)
    numbers = {
        "response_mean": 9.0, "response_best": 10.0,
        "distance_pixels_min": 30.0, "distance_pixels_mean": 40.0,
    }  # fmt: skip
    return unit | numbers | changes


def dead(number):
    return {"unit": number, "stop": "dead", "response_mean": None, **dict.fromkeys(MEASURES)}


def shown(capsys, *words):
    show_command([*map(str, words)])
    return capsys.readouterr().out


def as_json(capsys, *words):
    """The object that --json prints; NaN is no JSON."""
    return json.loads(shown(capsys, *words, "--json"), parse_constant=pytest.fail)


def index_of(report, key):
    (index,) = [index for index in report["indices"] if index["index"] == key]
    return index


def findings(capsys, path):
    say_findings(path)
    out, err = capsys.readouterr()
    assert out == ""
    return err.splitlines()


# -- the table after a run ------------------------------------------------------------------------


def test_run_ends_with_its_table(current_folder, capsys):
    words = ["run", "unit=0", "analysis=[phase,diversity]", "images=tensor", *QUICK]
    for _ in ("made", "already finished"):
        assert main(words) == 0
        out, err = capsys.readouterr()
        assert out == "outputs/energy/complex/0/v001\n"
        head, row, last = err.splitlines()[-3:]
        assert head.split("  ")[-1] == "diversity"
        assert "%" in row
        assert "0.00 complex-like" in row
        assert last == "What this means: diversevis show outputs/energy/complex/0/v001"
    assert main(["analyze", "outputs/energy/complex/0/v001", "analysis=dimension"]) == 0
    out, err = capsys.readouterr()
    assert out == "outputs/energy/complex/0/v001\n"
    assert "dimensions" in err


def test_analyze_without_images_has_table(current_folder, capsys):
    words = ["model=energy", "layer=simple", "unit=0-2", "analysis=phase", "images=tensor"]
    assert main(["analyze", *words]) == 0
    out, err = capsys.readouterr()
    assert out == "outputs/energy/simple/0-2/v001\n"
    assert err.count("1.5") == err.count("simple-like") == 3
    assert "distance" not in err
    assert "1.5" in shown(capsys, out.strip(), "unit=1")


def test_sweep_prints_no_table(current_folder, capsys):
    assert main(["run", "-m", "unit=0,1", "images=tensor", *QUICK]) == 0
    assert "diversevis show" not in capsys.readouterr().err


def test_table_of_100_units_is_short(tmp_path, capsys):
    path = make_run(tmp_path, units=[made(number) for number in range(100)])
    lines = findings(capsys, path)
    assert len(lines) == 12
    assert lines[-1] == f"90 more units: diversevis show {path}"
    assert max(map(len, lines[:-1])) <= 80
    assert [line.split()[0] for line in lines[1:-1]] == [str(number) for number in range(10)]


def test_table_of_eleven_units_names_rest(tmp_path, capsys):
    path = make_run(tmp_path, units=[made(number) for number in range(11)])
    assert findings(capsys, path)[-1].startswith("1 more unit: ")


def test_dead_and_diverged_units_say_so(tmp_path, capsys):
    units = [dead(0), made(1, stop="diverged", response_mean=None), made(2)]
    lines = findings(capsys, make_run(tmp_path, units=units))
    assert lines[1].split() == ["0", "dead", "-", "-", "-", "-", "-"]
    assert lines[2].split()[:3] == ["1", "diverged", "30.0"]
    assert lines[3].split()[:3] == ["2", "90", "%"]


@pytest.mark.parametrize("best", [0.0, -2.0, None])
def test_share_needs_a_positive_best(tmp_path, capsys, best):
    units = [made(0, response_best=best)]
    assert findings(capsys, make_run(tmp_path, units=units))[1].split()[:2] == ["0", "-"]


def test_damaged_run_has_no_table(tmp_path, capsys):
    path = make_run(tmp_path)
    (path / "metrics.json").write_text('{"units": [')
    (line,) = findings(capsys, path)
    assert line.startswith("diversevis: no table of its units: ")


# -- all units of a run ---------------------------------------------------------------------------


def test_all_units_are_shown_with_medians(tmp_path, capsys):
    units = [made(n, phase={"f1f0": f, "weak": f == 9}) for n, f in enumerate([0.5, 1.5, 0.7, 9])]
    path = make_run(tmp_path, units=[*units, dead(4)])
    out = shown(capsys, path)
    assert [line.split()[0] for line in out.splitlines()[4:9]] == ["0", "1", "2", "3", "4"]
    assert "9.00 weak" in out
    assert re.search(r"^median +90 % +30\.0  0\.70 ", out, re.MULTILINE)
    report = as_json(capsys, path)
    assert report["medians"]["phase.f1f0"] == 0.7
    assert report["units"][1]["words"]["phase.f1f0"] == "simple-like"
    assert report["units"][4]["state"] == "dead"
    assert report["indices"][:2] == ["phase.f1f0", "shift.mean_masked"]


def test_only_unit_of_a_run_is_shown_in_full(tmp_path, capsys):
    assert "Is unit 7 invariant?" in shown(capsys, make_run(tmp_path, units=[made(7)]))


# -- a unit and its layer -------------------------------------------------------------------------


def ratios(root, *values, first=0, **changes):
    """A run of units with these F1/F0."""
    units = phase_units(*values, first=first)
    arguments = {"measures": PHASE, "units": units, "count": first + 1} | changes
    return make_run(root, **arguments)


def test_rank_with_ties_by_hand(tmp_path, capsys):
    """0.5 among 0, 0.5, 0.5, 1, 1.5 and 2: one lower, two equal, (1 + 2 / 2) / 6 = 1/3."""
    path = ratios(tmp_path, 0.5, 0.0, 0.5, 0.5, 1.0, 1.5, 2.0)
    rank = index_of(as_json(capsys, path, "unit=0"), "phase.f1f0")["rank"]
    assert rank == {"percentile": pytest.approx(100 / 3), "count": 6, "equal": 2}
    assert "lower than 67 % of 6 units" in shown(capsys, path, "unit=0")


def test_layer_is_gathered_from_all_runs(tmp_path, capsys):
    """Every unit counts once, with its newest run; unit 9 itself does not count."""
    old, new = {"start": "2026-01-01T00:00:00+00:00"}, {"start": "2026-01-02T00:00:00+00:00"}
    path = ratios(tmp_path, 0.5, first=9, **old)
    ratios(tmp_path, 1.0, 1.0, 1.0, first=0, **old)
    ratios(tmp_path, 0.0, 0.0, first=2, **new)
    ratios(tmp_path, 0.0, first=9, version=2, **new)
    ratios(tmp_path / "elsewhere", 0.0, 0.0, 0.0)
    report = as_json(capsys, path)
    assert index_of(report, "phase.f1f0")["rank"] == {"percentile": 50, "count": 4, "equal": 0}
    others = {"units": 4, "runs": 2, "left_out": {"with no further unit": 1}}
    assert report["others"] == others


def test_runs_that_differ_are_left_out(tmp_path, capsys):
    path = ratios(tmp_path, 0.5, 1.0, 1.0, 1.0)
    sha = {"mean": [0.5] * 3, "sha256": "random"}
    ratios(tmp_path, 0.0, first=10, n=4)
    ratios(tmp_path, 0.0, first=11, contrast=20.0)
    ratios(tmp_path, 0.0, first=12, weights=sha)
    ratios(tmp_path, 0.0, first=13, status="interrupted")
    ratios(tmp_path, 0.0, first=14, measures={})
    (ratios(tmp_path, 0.0, first=15) / "metrics.json").unlink()
    ratios(tmp_path, 0.0, first=16, measures={"phase": {"settings": {"orientations": 8}}})
    ratios(tmp_path, 0.0, first=17, measures={"shift": {"settings": {}}})
    report = as_json(capsys, path, "unit=0")
    assert index_of(report, "phase.f1f0")["rank"]["count"] == 3
    assert report["others"]["left_out"] == {
        "made with another n": 1, "made with another contrast": 1, "with another weights": 1,
        "not finished": 1, "without measures": 1, "damaged": 1,
        "measured with other settings (phase)": 1, "without these measures": 1,
    }  # fmt: skip
    assert "Runs of the layer left out: 1 made with another n; " in shown(capsys, path, "unit=0")


def test_weak_and_dead_units_do_not_count(tmp_path, capsys):
    weak = {"unit": 5, "stop": "annealed", "phase": {"f1f0": 0.1, "weak": True}}
    path = ratios(tmp_path, None, units=[*phase_units(0.5, 1.0, 1.0, 1.0), weak, dead(6)])
    assert "lower than all 3 units" in shown(capsys, path, "unit=0")
    out = shown(capsys, path, "unit=5")
    assert "weak: says little" in out
    assert "cannot be said: its response to gratings is weak" in out
    assert index_of(as_json(capsys, path, "unit=5"), "phase.f1f0")["word"] is None
    assert "Dead: its response has no gradient" in shown(capsys, path, "unit=6")
    assert as_json(capsys, path, "unit=6")["answers"] == {}


def test_two_others_are_too_few(tmp_path, capsys):
    out = shown(capsys, ratios(tmp_path, 0.5, 1.0, 1.0), "unit=0")
    assert "No ranks: they need 3 other units of conv" in out
    assert "there are 2. To have more, run more of the layer, as in unit=0-31." in " ".join(
        out.split()
    )
    assert "among" not in out
    assert "% of" not in out.replace("100 % of the best", "")


def test_rounding_makes_no_rank(tmp_path, capsys):
    path = ratios(tmp_path, 5e-8, 2e-8, 3e-8, 9e-8)
    out = shown(capsys, path, "unit=0")
    assert "equal to all 3 units" in out
    assert "F1/F0 0 is below 1" in out


def test_copied_run_has_no_layer(tmp_path, capsys):
    path = ratios(tmp_path / "a", 0.5, 1.0).rename(tmp_path / "copied")
    assert as_json(capsys, path, "unit=0")["others"]["runs"] == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"phase": {"f1f0": 0.07, "weak": False}}, "complex-like: F1/F0 0.07 is below 1"),
        ({"phase": {"f1f0": 1.57, "weak": False}}, "simple-like: F1/F0 1.57 is above 1"),
        ({"phase": {"f1f0": 1.0, "weak": False}}, "F1/F0 1 is exactly 1"),
        ({"phase": {"f1f0": None, "weak": False}}, "cannot be said: it responds to all gratings"),
        ({"phase": {"f1f0": 0.1, "weak": False, "response": 2.5}}, "reaches 25 % of its best"),
        ({"deformation": {"stability": 0.6, "stability_error": 0.03}}, "less than noise of the same"),
        ({"deformation": {"stability": 0.6, "stability_error": 0.03}}, "R 0.6 ± 0.03 is below 1"),
        ({"deformation": {"stability": 1.6}}, "more than noise of the same"),
        ({"shift": {"mean_masked": 0.71}}, "on average 0.71 of the best response under the same mask"),
        ({"diversity": {"index": 0.93}}, "no standard threshold"),
        ({"diversity": {"index": 0.93}}, "the images reach 90 % of the best response"),
    ],
)  # fmt: skip
def test_answers_follow_standard_thresholds(tmp_path, changes, said):
    unit = made(0, **dict.fromkeys(MEASURES)) | changes
    run = open_run(make_run(tmp_path, units=[unit]))
    sentences = unit_report(run, run.units[0])["answers"]
    (name,) = changes
    key = {"diversity": "overall"}.get(name, name)
    assert said in sentences[key]


def test_lines_fit_a_narrow_terminal(tmp_path, capsys):
    phase = {"f1f0": 0.2, "weak": False, "response": 9.12345, "frequency": 0.1281, "orientation": 11.25,
             "color": "blue-yellow"}  # fmt: skip
    out = shown(capsys, make_run(tmp_path, units=[made(0, phase=phase)], n=1))
    assert ": 1 image of " in out
    lines = [line for line in out.splitlines() if str(tmp_path) not in line]
    assert max(map(len, lines)) <= 80


def test_every_index_has_a_meaning(tmp_path, capsys):
    report = as_json(capsys, make_run(tmp_path, units=[made(0)]))
    assert {index["index"].split(".")[0] for index in report["indices"]} == {*MEASURES}
    assert all(index["meaning"] for index in report["indices"])


def test_pictures_of_the_unit_are_named(tmp_path, capsys):
    path = make_run(tmp_path, units=[made(3), made(4)])
    (path / "analysis").mkdir()
    names = ["sheet_unit0003.png", "optimization_unit0003.gif", "analysis/phase_unit0003.png"]
    for name in (*names, "sheet_unit0004.png", ".sheet_unit0003.png.77", "analysis/phase.png"):
        (path / name).touch()
    assert as_json(capsys, path, "unit=3")["pictures"] == [str(path / name) for name in names]


def test_spread_over_seeds_is_shown(tmp_path, capsys):
    seeds = {"phase.f1f0": {"mean": 0.4, "deviation": 0.05, "count": 5}}
    path = ratios(tmp_path, 0.5, units=[phase_units(0.5)[0] | {"seeds": seeds}])
    assert "over 5 seeds: mean 0.4, standard deviation 0.05" in shown(capsys, path)


# -- what is no measured run ----------------------------------------------------------------------


def test_unmeasured_run_names_the_command(tmp_path, capsys):
    path = make_run(tmp_path, units=[made(0, **dict.fromkeys(MEASURES))], measures={})
    out = shown(capsys, path)
    assert f"To measure: diversevis analyze {path}" in out
    assert "90 % of the best response" in out


def test_lacking_measures_name_their_command(tmp_path, capsys):
    path = make_run(tmp_path, units=[made(0), made(1)], measures=PHASE)
    for words in ([path], [path, "unit=1"]):
        said = f"diversevis analyze {path} 'analysis=[deformation,shift,diversity]'"
        assert said in shown(capsys, *words)


def test_directions_are_named_by_their_file(tmp_path, capsys):
    path = make_run(tmp_path, units=[made(3)], direction="/data/readout.npy")
    out = shown(capsys, path)
    assert out.startswith("vgg19 conv2_2 direction 3 of /data/readout.npy: 6 images")
    assert "Is direction 3 invariant?" in out


def test_unfinished_run_says_its_state(tmp_path, capsys):
    path = make_run(tmp_path, units=[made(0), made(1)], status="interrupted")
    out = shown(capsys, path)
    assert "This run is interrupted, not finished: the numbers are of what is done so far" in out
    (path / "metrics.json").unlink()
    assert "it has no numbers yet" in shown(capsys, path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "unit=12"], "no such unit. run has the units 0-1, 5"),
        (["run", "unit=x"], "unit=x is not the number"), (["run", "unit="], "says nothing"),
        (["run", "run"], "was given 2"), ([], "was given 0"), (["run", "--jsn"], "no flag --jsn"),
        (["none"], "none is not a folder"), (["work"], "It holds versions: `diversevis show work/v002`"),
        (["damaged"], "damaged is damaged: metrics.json is not JSON"),
        (["odd"], "odd is damaged: metrics.json: units is no list"), (["huge"], "huge is damaged"),
    ],
)  # fmt: skip
def test_bad_input_of_show(current_folder, capsys, words, said):
    make_run(current_folder, units=[made(0), made(1), made(5)]).rename("run")
    (current_folder / "work/v001").mkdir(parents=True)
    (current_folder / "work/v002").mkdir()
    for name, content in (
        ("damaged", "{"), ("odd", '{"measures": {}, "units": [3]}'),
        ("huge", '{"measures": {}, "units": [{"unit": 1e999}]}'),
    ):  # fmt: skip
        path = make_run(current_folder / "x").rename(name)
        (path / "metrics.json").write_text(content)
    assert main(["show", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("diversevis: ")
    assert err.count("\n") == 1
    assert said in err


def test_escape_codes_are_not_printed(tmp_path, capsys):
    evil = "conv\x1b[31m\x1b]0;title\x07"
    path = make_run(tmp_path, units=[made(0), made(1)])
    record = json.loads((path / "run.json").read_text())
    reasons = {"natural\x1b[2J": "no\x1b[2Jphotographs"}
    record |= {"layer": evil, "model": evil, "not_measured": reasons}
    (path / "run.json").write_text(json.dumps(record))
    path = path.rename(path.with_name("v\x1b[31m1"))
    for words in ([path], [path, "unit=1"], [path, "--json"], [path, "unit=1", "--json"]):
        out = shown(capsys, *words)
        assert "\x1b" not in out
        assert "\x07" not in out
    say_findings(path)
    assert "\x1b" not in capsys.readouterr().err


def test_numbers_that_are_not_finite(tmp_path):
    units = [made(0, response_best=1e999, phase={"f1f0": 10**400, "weak": False}), made(1)]
    path = make_run(tmp_path, units=units, seed=1)
    text = (path / "metrics.json").read_text().replace("Infinity", "1e999")
    (path / "metrics.json").write_text(text)
    with pytest.raises(InputError, match=r"damaged: metrics.json: .* is too large a number"):
        show_command([str(path), "unit=0"])


def test_show_imports_no_torch(tmp_path):
    path = make_run(tmp_path, units=[made(0), made(1)])
    code = (
        f"from diversevis.cli.main import main; assert main(['show', {str(path)!r}, 'unit=1']) == 0"
    )
    assert loaded_after(code, "torch", "scipy", "hydra", "matplotlib", "PIL") == []


@pytest.mark.process
def test_large_layer_is_shown_soon(tmp_path):
    """Below 2 s for 100 runs; here 4 s, for a machine that is busy with other tests."""
    for number in range(100):
        make_run(tmp_path, units=[made(number)], count=number + 1)
    began = time.monotonic()
    words = [*COMMAND, "show", str(tmp_path / "vgg19/conv2_2/0-0/v001")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert time.monotonic() - began < 4
    assert "Compared with 99 other units of conv2_2, from 99 runs." in done.stdout


def test_terminal_without_our_letters(tmp_path):
    path = make_run(
        tmp_path, units=[made(0, deformation={"stability": 0.5, "stability_error": 0.1})]
    )
    done = subprocess.run(
        [*COMMAND, "show", str(path), "unit=0"], capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert r"0.5 \xb1 0.1" in done.stdout
