"""Run folders as a table: every unit of every whole run is a row, and nothing else ever is."""

import contextlib
import csv
import errno
import importlib
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pandas as pd
import pytest
from conftest import QUICK, complete_run, with_images
from pandas.testing import assert_frame_equal

import diversevis
from diversevis.cli.collect import collect_command
from diversevis.cli.main import main
from diversevis.errors import InputError
from diversevis.experiment.measure import flat
from diversevis.runs import files, find
from diversevis.runs.lease import Claim
from diversevis.table import read as read_module
from diversevis.table import table as table_module
from diversevis.table.table import collect

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
synthetic = importlib.import_module("synthetic_runs")


def make_runs(root, runs=4, units=2, damaged=0):
    return synthetic.write_runs(root, runs=runs, units=units, damaged=damaged)


def make_run(path, units=(0,), *, metrics=None, measures=None, **record):
    """A small finished run; what is given takes the place of what it would say, None of nothing."""
    content = {"status": "finished", "model": "vgg19", "layer": "conv1_1", "config_hash": "a",
               "units": list(units), "n": 6, "config": {"n": 6, "seed": 0}}  # fmt: skip
    rows = [{"unit": unit} for unit in units] if metrics is None else metrics
    told = rows if len(rows) == len(units) else [{"unit": unit} for unit in units]
    complete_run(path, content, told)
    content = json.loads((path / "run.json").read_text()) | record
    content = {key: value for key, value in content.items() if value is not None or key == "n"}
    if content["n"] is not None:
        rows = with_images(rows)
    (path / "metrics.json").write_text(json.dumps({"measures": measures or {}, "units": rows}))
    (path / "run.json").write_text(json.dumps(content))
    return path


def left_out(root):
    return dict(collect(root).attrs["left_out"])


# -- what is in it ----------------------------------------------------------------------------------


def test_units_are_rows_and_damages_are_named(tmp_path):
    broken = make_runs(tmp_path, runs=300, units=3, damaged=13)
    assert len(synthetic.DAMAGES) == len(broken) == 13
    table = collect(tmp_path)
    assert len(table) == 3 * (300 - 13)
    found = dict(table.attrs["left_out"])
    assert set(found) == {str(path.relative_to(tmp_path)) for path in broken}
    assert len(set(found.values())) == 13
    assert not table.duplicated(["folder", "unit"]).any()
    assert (table.response_mean == table.seed + table.unit / 1000).all()  # as they were written
    assert (table.folder == table.model + "/" + table.layer + "/0-2/v"
            + (table.seed // 4 + 1).map("{:03d}".format)).all()  # fmt: skip


def test_numbers_equal_those_of_the_files(tmp_path):
    """By another route: `measuring.flat` reads the numbers of a measure for `compare`."""
    make_runs(tmp_path, units=3)
    table = collect(tmp_path)
    for row in table.to_dict("records"):
        units = json.loads((tmp_path / row["folder"] / "metrics.json").read_text())["units"]
        unit = next(unit for unit in units if unit["unit"] == row["unit"])
        numbers = dict(pair for name, value in unit.items() for pair in flat(name, value))
        assert len(numbers) == 66
        assert {name: row[name] for name in numbers} == numbers
        assert row["stop"] == unit["stop"]
        assert row["phase.color"] == unit["phase"]["color"]
        assert row["phase.weak"] is unit["phase"]["weak"]
    assert "phase.fitted.color" not in table  # a list
    assert "deformation.kept.4" not in table  # null in every unit
    assert table.loc[0, "deformation.kept.2"] > 0


def test_settings_have_command_line_names(tmp_path):
    make_runs(tmp_path)
    row = collect(tmp_path).iloc[0]
    assert row["model"] == "resnet50"
    assert row["model.kind"] == "torchvision"
    assert row["objective.diversity"] == 0
    assert row["optimizer.steps"] == 80
    assert json.loads(row["measure.deformation.deltas"]) == [0.25, 0.5, 1, 2, 4]
    assert row["run.norm"] == 775.9
    assert (row["run.receptive_field.height"], row["run.stride.width"]) == (14, 2)
    assert row["run.weights.sha256"] == "0" * 64


def test_run_without_images_has_no_n(tmp_path):
    make_run(tmp_path / "v001", n=None, config={"n": 6, "contrast": 32.0})
    make_run(tmp_path / "v002", config={"n": 6, "contrast": 32.0})
    assert collect(tmp_path).n.isna().tolist() == [True, False]


def test_long_unit_lists_are_collected(tmp_path):
    units = list(range(20_000))
    make_run(tmp_path / "v001", units, config={"unit": units})  # 107 thousand characters
    assert collect(tmp_path).unit.tolist() == units


def test_dead_units_have_no_value(tmp_path):
    measured = {"unit": 1, "stop": "annealed", "response_mean": 2.5, "phase": {"f1f0": 0.5}}
    dead = {"unit": 0, "stop": "dead", "response_mean": None, "phase": None}
    make_run(tmp_path / "v001", (0, 1), metrics=[dead, measured], measures={"phase": {}})
    table = collect(tmp_path)
    assert table.stop.tolist() == ["dead", "annealed"]
    assert table.response_mean.isna().tolist() == [True, False]
    assert table["phase.f1f0"].isna().tolist() == [True, False]


def test_rows_are_in_natural_order(tmp_path):
    make_runs(tmp_path, runs=80, units=12)
    table = collect(tmp_path)
    layers = table[["model", "layer"]].drop_duplicates().agg(" ".join, axis=1).tolist()
    assert layers == ["resnet50 layer1.0", "vgg19 conv1_2", "vgg19 conv1_10", "vgg19 conv3_1"]
    for _, part in table.groupby(["model", "layer"]):
        assert part.unit.tolist() == [unit for unit in range(12) for _ in range(20)]
        assert part.version.tolist() == [*range(1, 21)] * 12


def test_order_of_columns(tmp_path):
    make_runs(tmp_path)
    names = list(collect(tmp_path))
    assert names[:7] == ["model", "layer", "unit", "folder", "version", "latest", "config_hash"]
    ends = names.index("run.device_name"), names.index("deformation.delta")
    settings, facts, numbers = names[7 : ends[0]], names[ends[0] : ends[1]], names[ends[1] :]
    assert [settings, facts, numbers] == [sorted(settings), sorted(facts), sorted(numbers)]
    assert all(name.startswith("run.") for name in facts)
    assert {"batch", "seeds", "optimizer.steps"} < set(settings)
    assert {"response_mean", "stop", "gain.response"} < set(numbers)


def test_number_named_like_a_setting_is_prefixed(tmp_path):
    metrics = [{"unit": 0, "seed": 7, "latest": 8}]
    make_run(tmp_path / "v001", metrics=metrics, config={"seed": 3, "model": "x", "unit": "all"})
    row = collect(tmp_path).iloc[0]
    assert (row["seed"], row["metrics.seed"], row["metrics.latest"]) == (3, 7, 8)
    assert (row["model"], row["unit"]) == ("vgg19", 0)  # what was run, whatever was asked


def test_latest_is_the_highest_finished_version(tmp_path):
    make_run(tmp_path / "0" / "v001")
    make_run(tmp_path / "0" / "v002", (0, 1))
    make_run(tmp_path / "0" / "v003", config_hash="b")
    make_run(tmp_path / "0" / "v004", n=None)  # of the same config, but measures alone
    make_run(tmp_path / "0" / "v010", status="failed")
    make_run(tmp_path / "1" / "v001", (1,))
    make_run(tmp_path / "kept")  # no version: a work of its own
    table = collect(tmp_path)
    latest = dict(zip(table.folder, table.latest, strict=True))
    assert latest == {"0/v001": False, "0/v002": True, "0/v003": True, "0/v004": True,
                      "1/v001": True, "kept": True}  # fmt: skip
    assert table.version.isna().sum() == 1
    assert table[table.folder == "0/v002"].latest.tolist() == [True, True]


# -- one type for every column ------------------------------------------------------------------------


def test_column_of_words_and_numbers_is_text(tmp_path):
    for version, value in enumerate([64, "auto", 1.5, True, None, 2**53 + 1, 3.0], start=1):
        make_run(tmp_path / f"v{version:03d}", config={"batch": value, "seed": version})
    table = collect(tmp_path)
    assert table.batch.dtype == "string"
    assert table.batch.fillna("-").tolist() == [
        "64", "auto", "1.5", "true", "-", "9007199254740993", "3"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("values", "dtype"),
    [([1, 2**62], "Int64"), ([1, 0.5], "float64"), ([True, None], "boolean"), (["a", 1], "string"),
     ([[1], None], "string"), ([2**70, 1], "float64"), ([1, None], "Int64")],
)  # fmt: skip
@pytest.mark.parametrize("at_once", [1, 1000])
def test_column_types_do_not_depend_on_chunks(tmp_path, monkeypatch, values, dtype, at_once):
    monkeypatch.setattr(table_module, "ROWS_AS_OBJECTS", at_once)
    for version, value in enumerate(values, start=1):
        make_run(tmp_path / f"v{version:03d}", config={"x": value})
    column = collect(tmp_path).x
    assert column.dtype == dtype
    expected = [json.dumps(one) if dtype == "string" else one for one in values if one is not None]
    assert column.dropna().tolist() == [
        one.strip('"') if isinstance(one, str) else one for one in expected
    ]


def test_files_equal_the_data_frame(tmp_path, capsys):
    make_runs(tmp_path, runs=8, units=3)
    collect_command([str(tmp_path), f"out={tmp_path / 'new' / 'tables'}"])
    said = capsys.readouterr()
    assert said.out.splitlines()[-1] == str(tmp_path / "new/tables/table.parquet")
    assert not said.err
    table = collect(tmp_path)
    table.attrs = {}
    assert_frame_equal(pd.read_parquet(tmp_path / "new/tables/table.parquet"), table)
    with (tmp_path / "new/tables/table.csv").open(newline="", encoding="utf-8") as file:
        plain = list(csv.DictReader(file))
    assert list(plain[0]) == list(table)
    for name in table:
        read = {"float64": float, "Int64": int, "boolean": "true".__eq__, "string": str}
        kind = read[str(table[name].dtype)]
        expected = [None if pd.isna(value) else value for value in table[name]]
        assert [kind(row[name]) if row[name] else None for row in plain] == expected  # to the bit
    assert {str(kind) for kind in table.dtypes} == {"Int64", "boolean", "float64", "string"}


def test_odd_characters_survive_both_files(tmp_path, capsys):
    word = 'a "b", c\nd\r\te é 你 =1+1'
    make_run(tmp_path / "v001", config={"root": word, "lone": "\ud800", "empty": ""})
    make_run(tmp_path / "v002")
    collect_command([str(tmp_path)])
    first, second = pd.read_parquet(tmp_path / "table.parquet").to_dict("records")
    assert first["root"] == word
    assert first["lone"] == "\\ud800"
    assert first["empty"] == ""
    assert pd.isna(second["root"])
    with (tmp_path / "table.csv").open(newline="", encoding="utf-8") as file:
        assert next(csv.DictReader(file))["root"] == word


# -- what is not in it --------------------------------------------------------------------------------


def test_unfinished_runs_are_counted(tmp_path, capsys):
    make_run(tmp_path / "v001")
    for version, status in enumerate(["running", "running", "interrupted", "failed"], start=2):
        (make_run(tmp_path / f"v{version:03d}", status=status) / "metrics.json").unlink()
    claim = Claim.make(tmp_path / "v002")  # at work; whoever was at v003 has died
    claim.begin()
    try:
        collect_command([str(tmp_path)])
    finally:
        claim.remove()
    said = capsys.readouterr()
    assert said.out.splitlines()[:2] == [
        "1 unit of 1 run, 17 columns (vgg19: 1 layer)",
        "left out: 1 running, 1 interrupted, 1 failed, 1 lost",
    ]
    assert not said.err
    with (tmp_path / "left_out.csv").open() as file:
        assert list(csv.reader(file)) == [
            ["folder", "reason"], ["v002", "running"], ["v003", "lost"],
            ["v004", "interrupted"], ["v005", "failed"],
        ]  # fmt: skip


def test_at_most_twenty_damaged_runs_are_named(tmp_path, capsys):
    for version in range(1, 26):
        make_run(tmp_path / f"v{version:03d}", layer=None)
    make_run(tmp_path / "v100", status="running")
    collect_command([str(tmp_path)])
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert len(lines) == 21
    assert lines[0] == "diversevis: v001: run.json lacks layer"
    assert lines[20] == f"diversevis: and 5 more: {tmp_path / 'left_out.csv'} names all"
    assert "left out: 1 lost, 25 damaged" in said.out
    assert len((tmp_path / "left_out.csv").read_text().splitlines()) == 27
    assert pd.read_parquet(tmp_path / "table.parquet").empty


def test_unfinished_sweep_gives_an_empty_table(tmp_path):
    make_run(tmp_path / "v001", status="running")
    table = collect(tmp_path)
    assert table.dtypes.astype(str).to_dict() == {
        "model": "string", "layer": "string", "unit": "Int64", "folder": "string",
        "version": "Int64", "latest": "boolean", "config_hash": "string",
    }  # fmt: skip
    assert len(table) == 0
    assert table.attrs["left_out"] == [("v001", "lost")]


RUN = {"status": "finished", "model": "m", "layer": "l", "config_hash": "a", "units": [0], "n": 6,
       "config": {}, "norm": 32.0 * math.sqrt(12), "weights": {"mean": [0.5, 0.5, 0.5]},
       "receptive_field": {"size": [2, 2], "stride": [1, 1]}}  # fmt: skip
METRICS = {"measures": {}, "units": [{"unit": 0}]}
NUMBER = '{"measures": {}, "units": [{"unit": 0, "response_mean": %s}]}'


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ("", "run.json is empty"),
        ("\0" * 100, "run.json is not JSON"),
        ('{"status": "fini', "run.json is not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        (b'{"status": "\xff"}', "run.json is not UTF-8"),
        ("null", "run.json holds no object"),
        ('{"seed": ' + "9" * 5000 + "}", "run.json is not JSON"),
        ("{}", "run.json lacks status"),
        (RUN | {"status": "done"}, 'run.json: status is "done"'),
        (RUN | {"status": 3}, "run.json: status is 3"),
        (RUN | {"model": ""}, 'run.json: model is ""'),
        (RUN | {"config_hash": None}, "run.json: config_hash is null"),
        (RUN | {"units": []}, "run.json: units is []"),
        (RUN | {"units": "all"}, 'run.json: units is "all"'),
        (RUN | {"units": [True]}, "run.json: units is [true]"),
        (RUN | {"units": [0, 0]}, "run.json has a unit twice"),
        (RUN | {"units": [0, 1]}, "metrics.json lacks unit 1"),
        (RUN | {"units": [1]}, "run.json lacks unit 0"),
        (RUN | {"units": [-1]}, "run.json: units is [-1]"),
        (RUN | {"units": [2**80]}, "run.json: units is "),
        (RUN | {"config": ["objective"]}, "run.json: config is "),
        ({k: v for k, v in RUN.items() if k != "config"}, "run.json lacks config"),
        (RUN | {"config": {"a": "x" * 70_000}}, "a has 70000 characters"),
        (RUN | {"config": dict.fromkeys(map(str, range(6000)), 1)}, "run.json has more than 5000"),
        (RUN | {"seconds": "three"}, 'run.json: seconds is "three"'),
        (RUN | {"norm": [1, 2]}, "run.json: norm is [1, 2]"),
        (RUN | {"norm": -1.0}, "run.json: norm is -1.0"),
        (RUN | {"norm": 64.0}, "image 0 of unit 0 has norm 110.851; run.json says norm 64"),
        (RUN | {"n": 0}, "run.json: n is 0"),
        (RUN | {"n": 4}, "images has shape [1, 6, 3, 2, 2]; run.json says [1, 4, 3, 2, 2]"),
        (RUN | {"weights": {}}, "run.json: weights.mean is null"),
        (RUN | {"receptive_field": {"size": [3]}}, "run.json: receptive_field is "),
        (RUN | {"receptive_field": {"size": [3, 2**63], "stride": [1, 1]}}, "receptive_field is "),
        ('{"status": "finished", "seed": NaN}', "NaN is no number"),
        (json.dumps(RUN | {"seconds": 0}).replace('"seconds": 0', '"seconds": 1e999'), "seconds is too large a number"),
    ],
)  # fmt: skip
def test_damaged_record_is_named(tmp_path, record, reason):
    check_damage(tmp_path, "run.json", record, reason)


@pytest.mark.parametrize(
    ("metrics", "reason"),
    [
        ("", "metrics.json is empty"),
        ('{"measures": {}, "units": [{"unit"', "metrics.json is not JSON"),
        ("[]", "metrics.json holds no object"),
        ("{}", "units is no list of objects"),
        (METRICS | {"units": [[0]]}, "units is no list of objects"),
        (METRICS | {"units": [{"unit": "0"}]}, "a unit without its number"),
        (METRICS | {"units": [{"response_mean": 1.0}]}, "a unit without its number"),
        (METRICS | {"units": [{"unit": 0}, {"unit": 0}]}, "metrics.json has a unit twice"),
        (METRICS | {"units": []}, "metrics.json lacks unit 0"),
        (METRICS | {"measures": []}, "metrics.json: measures is []"),
        (METRICS | {"measures": {"phase": {}}, "units": [{"unit": 0, "phase": 3}]}, "phase is 3"),
        (METRICS | {"units": [{"unit": 0, "gain": {"response": "x"}}]}, 'gain.response is "x"'),
        (METRICS | {"units": [{"unit": 0, "gain": {"response": True}}]}, "gain.response is true"),
        (METRICS | {"units": [{"unit": 0, "stop": 3.5}]}, "stop is 3.5"),
        (METRICS | {"units": [{"unit": 0, "phase": {"weak": 1}}]}, "phase.weak is 1"),
        (METRICS | {"units": [{"unit": 0, "phase": {"weak": "no"}}]}, 'phase.weak is "no"'),
        (METRICS | {"units": [{"unit": 0} | dict.fromkeys(map(str, range(6000)), 1)]}, "more than 5000"),
        (METRICS | {"units": [{"unit": 0, "a\n\ud800": "x"}]}, 'a\\n\\ud800 is "x"'),
        (NUMBER % "NaN", "NaN is no number"),
        (NUMBER % "-Infinity", "-Infinity is no number"),
        (NUMBER % "1e999", "response_mean is too large a number"),
        (NUMBER % ("9" * 400), "response_mean is too large"),
        (NUMBER % "[1, 2]", "response_mean is [1, 2]"),
        (NUMBER % '{"mean": 1}', 'response_mean is {"mean": 1}'),
        (NUMBER % ("[" * 100_000), "nested too deeply"),
    ],
)  # fmt: skip
def test_damaged_metrics_are_named(tmp_path, metrics, reason):
    check_damage(tmp_path, "metrics.json", metrics, reason)


def check_damage(root, name, content, reason):
    make_run(root / "v001", (4,))
    bad = make_run(root / "v002")
    if isinstance(content, dict):
        content = json.dumps(content)
    (bad / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    table = collect(root)
    assert table.unit.tolist() == [4]
    [(folder, why)] = table.attrs["left_out"]
    assert folder == "v002"
    assert reason in why
    assert "\n" not in why


def test_special_and_huge_files_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LARGEST", 10**6)
    make_run(tmp_path / "v001")
    paths = {name: make_run(tmp_path / name) for name in ("folder", "pipe", "large", "link")}
    for path in paths.values():
        (path / "metrics.json").unlink()
    (paths["folder"] / "metrics.json").mkdir()
    os.mkfifo(paths["pipe"] / "metrics.json")  # nobody writes to it: opened as usual it would wait
    with (paths["large"] / "metrics.json").open("wb") as file:
        file.truncate(10**6 + 1)
    (paths["link"] / "metrics.json").symlink_to("/dev/zero")
    assert left_out(tmp_path) == {
        "folder": "metrics.json cannot be read (Is a directory)",
        "pipe": "metrics.json is no file",
        "large": "metrics.json has 1000001 bytes, more than any run writes",
        "link": "metrics.json is no file",
    }


@contextlib.contextmanager
def as_nobody():
    """Root may read everything: where tests run as root, they are nobody for a while."""
    mine = os.geteuid()
    if mine == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(mine)


@pytest.fixture
def open_path():
    """A folder that nobody may enter and write to; `tmp_path` is its user's alone."""
    path = Path(tempfile.mkdtemp(dir="/tmp"))
    path.chmod(0o777)
    yield path
    shutil.rmtree(path)


def test_unreadable_files_are_named(open_path):
    make_run(open_path / "a" / "v001")
    (make_run(open_path / "a" / "v002") / "run.json").chmod(0)
    make_run(open_path / "b" / "v001")
    (open_path / "b").chmod(0)
    with as_nobody():
        assert left_out(open_path) == {
            "a/v002": "run.json cannot be read (Permission denied)",
            "b": "the folder cannot be listed (Permission denied)",
        }
    (open_path / "b").chmod(0o755)


def test_unwritable_root_stays_unchanged(open_path):
    make_run(open_path / "v001")
    open_path.chmod(0o755)
    with as_nobody():
        with pytest.raises(PermissionError) as caught:
            collect_command([str(open_path)])
        with pytest.raises(InputError, match=r"out=.*cannot be made \(Permission denied\)"):
            collect_command([str(open_path), f"out={open_path / 'new'}"])
    assert str(open_path) in str(caught.value.filename)
    assert [path.name for path in open_path.iterdir()] == ["v001"]


def test_full_disk_keeps_the_old_tables(tmp_path, monkeypatch):
    import pyarrow.csv

    make_run(tmp_path / "v001")
    collect_command([str(tmp_path)])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    make_run(tmp_path / "v002")

    def full(table, path):
        Path(path).write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pyarrow.csv, "write_csv", full)
    with pytest.raises(OSError, match="No space left"):
        collect_command([str(tmp_path)])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


# -- where it looks -----------------------------------------------------------------------------------


def test_runs_are_found_at_any_depth(tmp_path):
    make_run(tmp_path)  # the root itself
    make_run(tmp_path / "a/b/c/d/v001")
    make_run(tmp_path / "images/vgg19/v001")  # within a run, these three hold no runs ...
    make_run(tmp_path / "other/images/analysis/checkpoint/v001")  # ... elsewhere they may
    make_run(tmp_path / "multirun/0")
    make_run(tmp_path / "a/.hidden/v001")
    make_run(tmp_path / "a/b/c/d/v001/inner/v001")
    assert collect(tmp_path).folder.tolist() == [
        ".", "a/b/c/d/v001", "a/b/c/d/v001/inner/v001", "other/images/analysis/checkpoint/v001"
    ]  # fmt: skip


def test_links_are_followed_without_circles(tmp_path):
    root, store = tmp_path / "root", tmp_path / "store"
    make_run(root / "a/v001")
    make_run(store / "b/v001")
    make_run(tmp_path / "beside/v001")
    (root / "a/again").symlink_to(root)
    (root / "up").symlink_to(tmp_path)
    (root / "self").symlink_to(root / "self")
    (root / "gone").symlink_to(tmp_path / "nothing")
    (root / "copy").symlink_to(root / "a")
    (root / "far").symlink_to(store)
    (root / "far2").symlink_to(store / "b")
    (store / "b/back").symlink_to(root / "a")
    (store / "loop").symlink_to(store)
    assert sorted(collect(root).folder) in (["a/v001", "far/b/v001"], ["a/v001", "far2/v001"])
    assert left_out(root) == {}
    (tmp_path / "link").symlink_to(root)
    assert len(collect(tmp_path / "link")) == 2


def test_folder_name_that_is_not_unicode(tmp_path, capsys):
    odd = os.fsdecode(b"\xff\n\x1b[31m")
    make_run(tmp_path / odd / "v001")
    make_run(tmp_path / odd / "v002", layer=None)
    collect_command([str(tmp_path)])
    assert collect(tmp_path).folder.tolist() == ["\\udcff\n\x1b[31m/v001"]
    expected = "diversevis: \\udcff\\n\\x1b[31m/v002: run.json lacks layer\n"
    assert capsys.readouterr().err == expected


def test_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(InputError, match=f"{tmp_path} holds no run .* Name a folder"):
        collect_command([str(tmp_path)])
    with pytest.raises(InputError, match="nothing is not a folder"):
        collect(tmp_path / "nothing")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [([], "needs one folder"), (["a", "b"], "was given 2"), ([""], "empty word names no folder"),
     (["a", "out="], "says nothing"), (["a", "root=b"], "no setting root"),
     (["a", "--force"], "no flag --force"), (["~nobody-of-that-name"], "no such home folder")],
)  # fmt: skip
def test_bad_arguments_of_collect(words, message):
    with pytest.raises(InputError, match=message):
        collect_command(words)


@pytest.mark.parametrize("library", ["pandas", "pyarrow"])
def test_missing_libraries_are_named(tmp_path, monkeypatch, library):
    make_run(tmp_path / "v001")
    monkeypatch.setitem(sys.modules, library, None)
    for command in (collect_command, lambda words: collect(words[0])):
        with pytest.raises(InputError, match=r"pip install 'diversevis\[collect\]'"):
            command([str(tmp_path)])


def test_collect_is_imported_lazily(tmp_path):
    assert callable(diversevis.collect)
    make_run(tmp_path / "v001")
    assert len(diversevis.collect(str(tmp_path))) == 1
    check = (
        "import sys, diversevis, diversevis.cli; heavy = {'torch', 'pandas', 'pyarrow', 'numpy'};"
        "assert not heavy & set(sys.modules), sys.modules;"
        "assert len(diversevis.collect(sys.argv[1])) == 1; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", check, str(tmp_path)], check=True, timeout=60)


# -- while others are at work -------------------------------------------------------------------------


def test_folder_deleted_meanwhile_is_named(tmp_path, monkeypatch):
    make_run(tmp_path / "v001")
    make_run(tmp_path / "v002")
    make_run(tmp_path / "v003/deeper")
    read_files, listed = table_module.read_files, find._list

    def read_late(folder):
        if folder.name.endswith("v002"):
            shutil.rmtree(tmp_path / "v002")
        return read_files(folder)

    def list_late(folder):
        if folder.name.endswith("v003"):
            shutil.rmtree(tmp_path / "v003")
        return listed(folder)

    monkeypatch.setattr(table_module, "read_files", read_late)
    monkeypatch.setattr(find, "_list", list_late)
    assert left_out(tmp_path) == {
        "v002": "run.json is not there",
        "v003": "the folder cannot be listed (No such file or directory)",
    }


def test_file_growing_meanwhile_is_left_out(tmp_path, monkeypatch):
    path = make_run(tmp_path / "v001")
    before = os.fstat

    def grown(descriptor):
        facts = before(descriptor)
        with (path / "metrics.json").open("ab") as file:
            file.write(b" ")
        return facts

    monkeypatch.setattr(os, "fstat", grown)
    assert left_out(tmp_path) == {"v001": "metrics.json changed while it was read"}


def test_rows_only_grow_during_a_sweep(tmp_path):
    """Runs begin, finish and are deleted; what is finished is in every table from then on."""
    root, beside = tmp_path / "root", tmp_path / "beside"
    make_run(root / "v000")
    done, stopped = threading.Event(), []

    def begin(name, version):
        """A running run, which comes into sight as a whole: `make_run` writes its files in place,
        under a finished record at first."""
        make_run(beside / name, status="running", seed=version).replace(root / name)
        return root / name

    def sweep():
        try:
            for version in range(1, 120):
                path = begin(f"v{version:03d}", version)
                passing = begin(f"passing{version}", 0)
                record = (path / "run.json").read_text().replace("running", "finished")
                (path / ".run.json.1").write_text(record)
                (path / ".run.json.1").replace(path / "run.json")
                shutil.rmtree(passing)
        except BaseException as error:
            stopped.append(error)
        finally:
            done.set()

    thread = threading.Thread(target=sweep)
    thread.start()
    counts = []
    while not done.is_set():
        table = collect(root)
        counts.append(len(table))
        assert set(dict(table.attrs["left_out"]).values()) <= {
            "running", "lost", "run.json is not there", "the folder cannot be listed (No such file or directory)",
            "run.json changed while it was read",
        }  # fmt: skip
        time.sleep(0.002)
    thread.join()
    assert not stopped
    assert counts == sorted(counts)
    assert len(collect(root)) == 120


# -- what the program itself writes -------------------------------------------------------------------


def test_real_run_is_collected(current_folder, capsys):
    """Its words are known: a measure with a new one would be taken for damage."""
    few = ["measure.phase.orientations=4", "measure.phase.per_octave=1", "measure.shift.steps=2",
           "measure.shift.crops=4", "measure.deformation.draws=2", "measure.pictures=0",
           "measure.align.rotations=2", "measure.align.scales=[1]",
           "measure.align.steps=2", "measure.align.checked=0",
           "measure.bipartite.steps=2", "measure.bipartite.shown=8"]  # fmt: skip
    words = ["device=cpu", "layer=simple", "unit=[3,5]", "n=2", *QUICK, *few]
    assert main(["run", *words, "analysis=all"]) == 0
    path = Path(capsys.readouterr().out.splitlines()[-1])
    table = collect("outputs")
    assert table.attrs["left_out"] == []
    assert Path("outputs", table.folder[0]).resolve() == path.resolve()
    row, _ = table.to_dict("records")
    unit, _ = json.loads((path / "metrics.json").read_text())["units"]
    assert row["shift.learned.sigma"] == unit["shift"]["learned"]["sigma"]
    numbers = dict(pair for name, value in unit.items() for pair in flat(name, value))
    assert {name: row[name] for name in numbers} == numbers
    assert row["align.family"] == unit["align"]["family"]
    assert (row["objective.restarts"], row["measure.phase.orientations"]) == (2, 4)


def test_names_of_the_spread_over_seeds(tmp_path):
    one = {"mean": 0.5, "deviation": None, "count": 1}
    spread = {"phase.f1f0": one, "response_mean": one}
    make_run(tmp_path / "v001", metrics=[{"unit": 0, "seeds": spread}], config={"seeds": 3})
    row = collect(tmp_path).iloc[0]
    assert (row["seeds"], row["seeds.phase.f1f0.mean"], row["seeds.phase.f1f0.count"]) == (
        3,
        0.5,
        1,
    )


def test_values_of_one_name_may_differ(tmp_path):
    metrics = [{"unit": 0, "a": [1, 2]}, {"unit": 1, "a": 3}, {"unit": 2, "a": {"b": 4.5}}]
    make_run(tmp_path / "v001", (0, 1, 2), metrics=metrics)
    table = collect(tmp_path)
    assert table.a.fillna(-1).tolist() == [-1, 3, -1]
    assert table["a.b"].fillna(-1).tolist() == [-1, -1, 4.5]


def test_fronts_are_not_collected(tmp_path):
    front = [{"diversity": 0.0, "response_mean": 1.0}, {"diversity": 0.5, "response_mean": 0.5}]
    metrics = [{"unit": 0, "response_mean": 0.5, "knee": 0.5, "front": front}]
    make_run(tmp_path / "v001", metrics=metrics)
    assert list(collect(tmp_path))[-4:] == ["knee", "response_best", "response_mean", "stop"]


def test_run_ending_meanwhile_is_not_lost(tmp_path, monkeypatch):
    path = make_run(tmp_path / "v001", status="running")

    def ends_now(folder):
        make_run(path)

    monkeypatch.setattr(read_module, "sign_of", ends_now)
    table = collect(tmp_path)
    assert table.attrs["left_out"] == [("v001", "running")]
    assert len(collect(tmp_path)) == 1


def test_threads_help_only_where_disks_wait(monkeypatch):
    def thread_after(seconds):
        time.sleep(seconds)
        return seconds, threading.get_ident()

    monkeypatch.setattr(find, "WAIT", 1.0)
    quick = list(find.in_threads(thread_after, [0.0] * 100, 4))
    assert {thread for _, thread in quick} == {threading.get_ident()}
    monkeypatch.setattr(find, "WAIT", 0.0005)
    slow = list(find.in_threads(thread_after, [0.001 * (i % 5) for i in range(200)], 4))
    assert [seconds for seconds, _ in slow] == [0.001 * (i % 5) for i in range(200)]
    assert len({thread for _, thread in slow}) > 2
