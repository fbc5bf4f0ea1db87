"""Code that a record names runs only if it is typed, or if this account made the record here."""

import json
import os
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import QUICK

import diversevis
from diversevis.cli.main import main
from diversevis.runs import trust

# Importing it leaves a mark: a received folder's code must not.
CODE = """
from pathlib import Path
import torch
from torch import nn

Path("imported").touch()


def build(channels=4):
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, channels, 3))
"""
FAST = ["n=2", "device=cpu", "images=tensor", *QUICK]
CUSTOM = ["model=custom", "model.target=named_code.build", "model.mean=[0.5,0.5,0.5]",
          "model.std=[0.5,0.5,0.5]", "layer=2", *FAST]  # fmt: skip
TRUST = "model.target=named_code.build"
CODE_OF_RUN = {"target": "named_code.build", "arguments": {}}


@pytest.fixture
def network(current_folder, monkeypatch):
    """A function named_code.build, and a way to tell whether its module is imported anew."""
    monkeypatch.syspath_prepend(str(current_folder))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (current_folder / "named_code.py").write_text(CODE)

    def is_imported(*words):
        """Status of the command, and whether it imported the module."""
        sys.modules.pop("named_code", None)
        (current_folder / "imported").unlink(missing_ok=True)
        status = main([str(word) for word in words])
        return status, (current_folder / "imported").exists()

    yield is_imported
    sys.modules.pop("named_code", None)


@pytest.fixture
def custom_run(network, capsys):
    assert network("run", *CUSTOM, "unit=0") == (0, True)
    return Path(capsys.readouterr().out.split()[-1])


def files_of(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def edit_model(file, **changes):
    config = json.loads(file.read_text())["config"]
    edit(file, config=config | {"model": config["model"] | changes})


def commands(run):
    """Every command that would build the network of a run."""
    return [
        ["analyze", run, "analysis=diversity"],
        ["retry", run.parents[3]],
        ["run", "--config-dir", run.absolute(), "--config-name", "config", "again=true"],
        ["run", "-m", f"--config-dir={run.absolute()}", "-cn", "config", "n=3", "unit=0,1"],
        ["run", "-cd", run.absolute() / ".hydra", "-cn", "config", "again=true"],
        ["run", "--cfg", "job", "-cd", run.absolute(), "-cn", "config"],
    ]


def received(run, folder):
    """The root of `run`, as another person receives it: copied, its run not finished."""
    shutil.copytree(run.parents[3], folder)
    copy = folder.joinpath(*run.parts[-4:])
    edit(copy / "run.json", status="failed")
    return copy


def test_own_runs_need_no_words(custom_run, network, capsys):
    assert network("analyze", custom_run, "analysis=diversity") == (0, True)
    edit(custom_run / "run.json", status="failed", optimized=False)
    assert network("retry", "outputs") == (0, True)
    for command in commands(custom_run)[2:]:
        assert network(*command)[0] == 0, capsys.readouterr().err


def test_received_code_is_not_imported(custom_run, network, capsys):
    copy = received(custom_run, Path("theirs"))
    before = files_of(copy.parents[3])
    for command in commands(copy):
        capsys.readouterr()
        assert network(*command) == (2, False), command
        said = capsys.readouterr().err
        assert "model.target=named_code.build with the arguments {}" in said
        assert "copied, unpacked or edited" in said
    assert files_of(copy.parents[3]) == before


def test_typed_target_is_imported(custom_run, network, capsys):
    copy = received(custom_run, Path("theirs"))
    assert network("analyze", copy, "analysis=diversity", "model.target=other.build") == (2, False)
    assert "have named_code.build" in capsys.readouterr().err
    assert network("analyze", copy, "analysis=diversity", TRUST) == (0, True)
    edit(copy / "run.json", status="failed", optimized=False)
    assert network("retry", "theirs", "model.target=other.build") == (2, False)
    assert network("retry", "theirs", TRUST) == (0, True)
    rerun = ["run", "--config-dir", copy.absolute(), "--config-name", "config", "again=true"]
    assert network(*rerun, TRUST) == (0, True)


def test_moved_run_is_trusted(custom_run, network):
    custom_run.parents[3].rename("elsewhere")
    moved = Path("elsewhere").joinpath(*custom_run.parts[-4:])
    assert network("analyze", moved, "analysis=diversity") == (0, True)


@pytest.mark.parametrize(("key", "value", "yaml"), [
    ("target", "named_code.other", ("named_code.build", "named_code.other")),
    ("arguments", {"channels": 5}, ("arguments: {}", "arguments: {channels: 5}")),
])  # fmt: skip
def test_edited_code_is_refused(key, value, yaml, custom_run, network, capsys):
    edit_model(custom_run / "run.json", **{key: value})
    assert network("analyze", custom_run, "analysis=diversity") == (2, False)
    assert (value if key == "target" else '{"channels": 5}') in capsys.readouterr().err
    config = custom_run / "config.yaml"
    assert yaml[0] in config.read_text()
    config.write_text(config.read_text().replace(*yaml))
    rerun = ["run", "--config-dir", custom_run.absolute(), "--config-name", "config"]
    assert network(*rerun) == (2, False)


@pytest.mark.parametrize("made_by", [None, "", "0" * 64, "ü", 7, [], {"a": 1}])
def test_wrong_signatures_are_refused(made_by, custom_run, network):
    edit(custom_run / "run.json", made_by=made_by)
    assert network("analyze", custom_run, "analysis=diversity") == (2, False)


def test_numbers_are_read_without_signature(custom_run, network):
    pytest.importorskip("pandas")
    edit(custom_run / "run.json", made_by="0" * 64)
    assert network("collect", "outputs") == (0, False)
    assert network("status", "outputs") == (0, False)
    assert diversevis.load(custom_run).units == (0,)


def test_several_runs_are_cleared_first(custom_run, network):
    assert main(["run", *FAST, "unit=3"]) == 0
    energy = Path("outputs/energy/complex/3/v001")
    copy = received(custom_run, Path("theirs"))
    before = files_of(energy)
    assert network("analyze", energy, copy, "analysis=diversity") == (2, False)
    assert files_of(energy) == before


def test_retry_does_what_is_trusted(custom_run, network, capsys):
    copy = received(custom_run, Path("theirs"))
    assert main(["run", *FAST, "unit=3", "root=theirs"]) == 0
    energy = Path("theirs/energy/complex/3/v001/run.json")
    edit(energy, status="failed", optimized=False)
    assert network("retry", "theirs") == (1, False)
    assert "1 run was left out" in capsys.readouterr().err
    assert json.loads(energy.read_text())["status"] == "finished"
    assert json.loads((copy / "run.json").read_text())["status"] == "failed"


def test_received_sweeps_are_refused(network, capsys):
    assert network("run", "-m", *CUSTOM, "unit=0-1", "units_per_job=1")[0] == 0
    shutil.copytree("outputs", "theirs")
    for root in ("outputs", "theirs"):
        for record in Path(root).rglob("run.json"):
            edit(record, status="failed", optimized=False)
    assert network("retry", "theirs") == (2, False)
    said = capsys.readouterr().err
    assert said.count("names code to run") == 1
    assert "2 runs were left out" in said
    assert network("retry", "outputs") == (0, True)


def test_damaged_plans_stop_no_others(current_folder, capsys):
    """Two sweeps planned a run each; the record of one lost the config."""
    assert main(["run", "-m", *FAST, "unit=0"]) == 0
    time.sleep(1.1)  # sweeps have second and process in their names
    assert main(["run", "-m", *FAST, "unit=3"]) == 0
    for record in Path("outputs").rglob("run.json"):
        edit(record, status="failed", optimized=False)
    sweep = sorted(Path("outputs").rglob("sweep.json"))[0]
    (work,) = json.loads(sweep.read_text())["works"]
    edit(sweep, works=[work | {"config": {}}])
    capsys.readouterr()
    assert main(["retry", "outputs"]) == 1
    assert "its record is damaged" in capsys.readouterr().err
    records = [json.loads(path.read_text()) for path in Path("outputs").rglob("run.json")]
    assert {tuple(r["units"]): r["status"] for r in records} == {(0,): "failed", (3,): "finished"}


def test_received_launchers_are_refused(current_folder, capsys):
    """A launcher's settings hold commands for a shell, and names of objects that Hydra makes."""
    assert main(["run", "-m", *FAST, "unit=0"]) == 0
    (record,) = Path("outputs").rglob("run.json")
    (sweep,) = Path("outputs").rglob("sweep.json")
    words = ["hydra.callbacks={bad:{_target_:os.mkdir,_args_:[ran]}}"]
    for name, changes in ((record, {"status": "failed"}), (sweep, {"launcher": words})):
        edit(name, **changes)
    assert main(["retry", "outputs"]) == 2
    assert "was launched with" in capsys.readouterr().err
    assert not Path("ran").exists()
    assert main(["retry", "outputs", "hydra/launcher=basic"]) == 0
    assert not Path("ran").exists()


@pytest.mark.parametrize(("line", "said"), [
    ("hydra: {callbacks: {bad: {_target_: os.mkdir, path: ran}}}", "hydra is no setting"),
    ("defaults: [evil]", "defaults is no setting"),
    ("experiment: ${oc.env:HOME}", "experiment is no setting"),
    ("root: ${oc.env:HOME}", "asks Hydra for more"),
    ("# @package hydra.job", "a line for Hydra"),
    ("size: &a [21, 21]\nposition: *a", "aliases"),
    ("size: " + "[" * 200_000, "too nested"),
])  # fmt: skip
def test_configs_of_runs_hold_settings_only(line, said, current_folder, capsys):
    assert main(["run", *FAST, "unit=3"]) == 0
    run = Path("outputs/energy/complex/3/v001").absolute()
    rerun = ["run", "--config-dir", str(run), "--config-name", "config", "again=true"]
    assert main(rerun) == 0
    capsys.readouterr()
    name = line.partition(":")[0]
    lines = (run / "config.yaml").read_text().splitlines()
    others = [text for text in lines if text.partition(":")[0] not in (name, "position")]
    (run / "config.yaml").write_text("\n".join([line, *others, ""]))
    began = time.monotonic()
    assert main(rerun) == 2
    assert time.monotonic() - began < 5
    assert said in capsys.readouterr().err
    assert not Path("ran").exists()


def test_run_folders_give_hydra_one_file(current_folder, capsys):
    assert main(["run", *FAST, "unit=3"]) == 0
    run = Path("outputs/energy/complex/3/v001").absolute()
    named = ["--config-name", "config"]
    for words in (["--config-path", run, *named], ["--config-dir", run], ["-cd", run.parent,
                  "-cn", "v001/config"], ["-cd", run, "-cn", "../v001/config"]):  # fmt: skip
        assert main(["run", *map(str, words)]) == 2
        assert "is not used: it is in the run folder" in capsys.readouterr().err
    (run / "hydra").mkdir()
    assert main(["run", "--config-dir", str(run), *named]) == 2


def test_configs_of_a_person_are_free(network, current_folder):
    (current_folder / "mine").mkdir()
    text = "defaults: [run, _self_]\nmodel: {kind: custom, target: named_code.build}\n"
    (current_folder / "mine" / "own.yaml").write_text(text)
    words = ["--config-dir", current_folder / "mine", "--config-name", "own", *CUSTOM[2:]]
    assert network("run", *words, "unit=0", "model=custom") == (0, True)


def test_signature_is_of_one_folder(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    signature = trust.signature(folder, CODE_OF_RUN)
    assert trust.is_signed(folder, CODE_OF_RUN, signature)
    folder = folder.rename(tmp_path / "b")
    assert trust.is_signed(folder, CODE_OF_RUN, signature)
    assert not trust.is_signed(folder, CODE_OF_RUN | {"target": "os.system"}, signature)
    shutil.copytree(folder, tmp_path / "copy")
    assert not trust.is_signed(tmp_path / "copy", CODE_OF_RUN, signature)


@pytest.fixture
def own_state(tmp_path, monkeypatch):
    """An empty folder for the state of programs."""
    state = tmp_path / "state"
    state.mkdir()
    monkeypatch.setenv("XDG_STATE_HOME", str(state))
    return state


def test_key_is_this_accounts_alone(own_state, tmp_path):
    signature = trust.signature(tmp_path, CODE_OF_RUN)
    key = own_state / "diversevis" / "key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert len(key.read_bytes()) == 32
    assert [path.name for path in key.parent.iterdir()] == ["key"]
    for mode in (0o640, 0o604):
        key.chmod(mode)
        assert not trust.is_signed(tmp_path, CODE_OF_RUN, signature)
        assert trust.signature(tmp_path, CODE_OF_RUN) is None
        assert "chmod 600" in trust.distrust("a", CODE_OF_RUN)
    key.chmod(0o600)
    assert trust.is_signed(tmp_path, CODE_OF_RUN, signature)
    key.write_bytes(b"short")
    assert trust.signature(tmp_path, CODE_OF_RUN) is None


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_keys_of_others_are_not_used(own_state, tmp_path):
    signature = trust.signature(tmp_path, CODE_OF_RUN)
    os.chown(own_state / "diversevis" / "key", 12345, -1)
    assert not trust.is_signed(tmp_path, CODE_OF_RUN, signature)
    shutil.rmtree(own_state / "diversevis")
    os.chown(own_state, 12345, -1)  # as with sudo: its owner could not read the key
    assert trust.signature(tmp_path, CODE_OF_RUN) is None
    assert not list(own_state.iterdir())


def test_linked_key_is_not_used(own_state, tmp_path):
    trust.signature(tmp_path, CODE_OF_RUN)
    key = own_state / "diversevis" / "key"
    key.rename(own_state / "other")
    key.symlink_to(own_state / "other")
    assert trust.signature(tmp_path, CODE_OF_RUN) is None


def test_processes_make_one_key(own_state, tmp_path):
    with ThreadPoolExecutor(16) as pool:
        signatures = set(pool.map(lambda _: trust.signature(tmp_path, CODE_OF_RUN), range(64)))
    assert len(signatures) == 1
    assert None not in signatures


def test_runs_without_home_need_words(network, monkeypatch, capsys):
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/nowhere/at/all")
    assert network("run", *CUSTOM, "unit=0") == (0, True)
    run = Path(capsys.readouterr().out.split()[-1])
    assert json.loads((run / "run.json").read_text())["made_by"] is None
    assert network("analyze", run, "analysis=diversity") == (2, False)
    assert "the home folder /nowhere/at/all does not exist" in capsys.readouterr().err
    assert network("analyze", run, "analysis=diversity", TRUST) == (0, True)
    assert not Path("/nowhere").exists()
