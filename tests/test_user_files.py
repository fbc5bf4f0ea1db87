"""Errors in a user's own config files name file and line."""

import time

import pytest

from diversevis.cli.main import main
from diversevis.config.compose import combinations

HEAD = "# @package _global_\n"
MULTIPLYING = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)


@pytest.fixture
def run(current_folder, capsys):
    """Runs `experiment=mine` with this content; returns the exit status and what was said."""
    (current_folder / "conf/experiment").mkdir(parents=True)

    def run(content, *words):
        content = content if isinstance(content, bytes) else (HEAD + content).encode()
        (current_folder / "conf/experiment/mine.yaml").write_bytes(content)
        status = main(["run", "--config-dir", "conf", "experiment=mine", "device=cpu", *words])
        assert not (current_folder / "outputs").exists()
        return status, capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    ("content", "line", "said"),
    [
        ("n: 4\nlayer: [complex\nseed: 3\n", 4, "cannot be read as YAML"),
        ("layer: a: b\n", 2, "mapping values are not allowed here"),
        ("n: 4\nseed: 1\nn: 5\n", 4, "n is set a second time"),
        ("optimizer:\n  steps: 3\n  steps: 4\n", 4, "steps is set a second time"),
        ("optimizer:\n\tsteps: 3\n", 3, "there is a tab: indent with spaces"),
        ("n: !!python/object/apply:os.getcwd []\n", 2, "cannot be read as YAML"),
        ("3: 4\n", 2, "the name of a setting is text"),
        ("? [a]\n: 4\n", 2, "the name of a setting is text"),
        ("a: &a [*a]\n", 2, "refers to what it is a part of"),
        ("n: ${seed\n", 2, "is no complete reference"),
        ("defaults: 5\n", 2, "`defaults` is a list"),
        ("n: 3\ndefaults:\n  - {a: b, c: d}\n", 4, "`defaults` is a list"),
        (b"# caf\xe9\nn: 3\n", 1, "0xe9 is not UTF-8"),
        (b"n: 3\n", 1, "begins with `# @package _global_`"),
        (b"# @package _global_\n- n\n", 2, "written as `name: value`"),
    ],
)
def test_unreadable_files_name_their_line(run, content, line, said):
    status, err = run(content)
    assert status == 2
    assert f"conf/experiment/mine.yaml, line {line}" in err
    assert said in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "line", "said"),
    [
        ("n: 4\nnn: 5\n", 3, "There is no setting nn."),
        ("optimizer:\n  stepz: 5\n", 3, "There is no setting optimizer.stepz."),
        ("\nn: four\n", 3, "n='four' is of the wrong kind"),
        ("n: -3\n", 2, "n=-3: a unit needs"),
        ("optimizer:\n  steps: -1\n", 3, "optimizer.steps=-1 must be"),
        ("layer: nosuch\n", 2, "layer=nosuch is not a layer of energy"),
        ("unit: 99999\n", 2, "there is no unit 99999"),
        ("defaults:\n  - override /optimizer: nosuch\n", 3, "optimizer=nosuch is unknown"),
        ("defaults:\n  - /optimizr: sphere\n", 3, "optimizr/sphere, in the defaults list"),
        ("n: 4\ncontrast: ${nope}\n", 3, "contrast: Interpolation key 'nope' not found"),
    ],
)
def test_wrong_settings_name_file_and_line(run, content, line, said):
    status, err = run(content)
    assert status == 2
    assert said in err
    assert err.endswith(f" (conf/experiment/mine.yaml, line {line})\n")
    assert len(err.splitlines()) == 1


def test_typed_settings_name_no_line(run):
    assert run("n: four\n", "n=-1") == (2, "diversevis: n=-1: a unit needs at least one image.\n")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (MULTIPLYING, "line 6: with its aliases written out"),
        ("a: " + "[" * 200_000, "200023 bytes, more than"),
        ("a: " + "[" * 40_000, "line 2: it is nested more than 20 levels deep"),
        ("".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 99)).replace("*a0", "1"),
         "written out it has more than 10000 values or 20 levels"),
    ],
)  # fmt: skip
def test_hostile_files_are_refused_soon(run, content, said):
    run("n: 0\n")  # imports Hydra
    before = time.process_time()
    status, err = run(content)
    assert time.process_time() - before < 1
    assert status == 2
    assert said in err


def test_files_in_sweeps_name_their_line(run):
    assert run("n: -2\n", "-m", "seed=0,1")[1].endswith("(conf/experiment/mine.yaml, line 2)\n")


def test_chosen_config_names_its_line(current_folder, capsys):
    (current_folder / "mine.yaml").write_text("defaults:\n  - run\n  - _self_\nn: -2\n")
    assert main(["run", "--config-dir", ".", "--config-name", "mine"]) == 2
    assert capsys.readouterr().err.endswith("(mine.yaml, line 4)\n")


def test_sweeps_take_a_chosen_config(current_folder, capsys):
    (current_folder / "mine.yaml").write_text("defaults:\n  - run\n  - _self_\nn: -2\n")
    chosen = ["--config-dir", str(current_folder), "--config-name", "mine"]
    assert [config["n"] for config in combinations(chosen, ["n=3,4"])] == [3, 4]
    assert main(["run", "-m", *chosen, "seed=0,1"]) == 2
    assert capsys.readouterr().err.endswith("(mine.yaml, line 4)\n")


@pytest.mark.parametrize("sweep", [[], ["-m"]])
def test_missing_config_is_named(sweep, current_folder, capsys):
    assert main(["run", *sweep, "--config-dir", ".", "--config-name", "other"]) == 2
    assert "there is no file other.yaml in conf/ or" in capsys.readouterr().err
    assert main(["run", *sweep, "--config-dir", "nowhere", "--config-name", "other"]) == 2
    assert "nowhere is not a folder" in capsys.readouterr().err


@pytest.mark.parametrize("sweep", [[], ["-m", "seed=0,1"]])
def test_left_open_settings_must_be_given(run, current_folder, sweep):
    status, err = run("n: 3\nlayer: ???\n", *sweep)
    assert status == 2
    assert "layer is left open (???): add layer=... to the command." in err
    assert err.endswith("(conf/experiment/mine.yaml, line 3)\n")


def test_left_open_settings_may_be_given(current_folder):
    folder = current_folder / "experiment"
    folder.mkdir()
    (folder / "open.yaml").write_text(f"{HEAD}layer: ???\n")
    (folder / "mine.yaml").write_text(f"{HEAD}defaults: [open]\nlayer: simple\n")
    flags = ["--config-dir", str(current_folder)]
    for words in (["experiment=open", "layer=simple"], ["experiment=mine"]):
        assert [config["layer"] for config in combinations(flags, words)] == ["simple"]
