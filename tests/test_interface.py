"""The interface for Python programs: modules in memory, runs, and what is left of both: nothing."""

import json
import logging
import re
import signal
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import QUICK
from hydra.core.global_hydra import GlobalHydra
from test_house import loaded_after
from torch import nn

import diversevis
from diversevis.cli.main import main
from diversevis.config.from_python import plain_value
from diversevis.errors import InputError
from diversevis.experiment import batches
from diversevis.models.energy import EnergyNetwork

ENERGY = {"layer": "complex", "mean": [0.5] * 3, "std": [1.0] * 3, "device": "cpu"}
FAST = {"optimizer": {"steps": 12, "search_steps": 5}, "objective": {"restarts": 2}}
WORDS = ["device=cpu", *QUICK]


class Small(nn.Module):
    """Two convolutions with all that a copy has to keep apart."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 5)
        self.norm = nn.BatchNorm2d(6)
        self.rectify = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.5)
        self.second = nn.Conv2d(6, 4, 3)

    def forward(self, x):
        return self.second(self.drop(self.rectify(self.norm(self.first(x)))))


def show(module, **changes):
    settings = {"layer": "second", "mean": [0.5] * 3, "std": [0.25] * 3, "device": "cpu", "n": 3}
    return diversevis.visualize(module, **{**settings, **FAST, **changes})


def energy(**changes):
    return diversevis.visualize(EnergyNetwork(), **{**ENERGY, **FAST, **changes})


def without_seconds(metrics):
    return [{name: x for name, x in unit.items() if name != "seconds"} for unit in metrics]


# -- a module in memory ---------------------------------------------------------------------------


def test_same_words_give_same_bits(current_folder):
    ours = energy(unit=[3, 7], n=4, seed=5, analysis=["phase", "diversity"])
    run = diversevis.run(*WORDS, "unit=[3,7]", "n=4", "seed=5", "analysis=[phase,diversity]")
    assert torch.equal(ours.images, run.images)
    assert torch.equal(ours.responses, run.responses)
    assert without_seconds(ours.metrics) == without_seconds(run.metrics)
    assert (ours.units, ours.norm, ours.field, ours.mean) == (run.units, run.norm, run.field, run.mean)  # fmt: skip
    assert ours.settings == run.settings
    assert ours.arrays.keys() == run.arrays.keys()
    for name, arrays in ours.arrays.items():
        assert all(torch.equal(values, run.arrays[name][key]) for key, values in arrays.items())


def test_energy_reaches_its_closed_form():
    result = diversevis.visualize(EnergyNetwork(), **ENERGY)  # with the defaults
    best = (result.norm / 255) ** 2  # all of the image in one Gabor pair
    assert result.norm == pytest.approx(32 * 21 * 3**0.5)
    assert result.responses[0].tolist() == pytest.approx([best] * 6, rel=1e-3)
    assert result.field == ((21, 21), (1, 1))
    assert result.metrics[0]["distance_min"] == pytest.approx(
        32, abs=0.1
    )  # phases 60 degrees apart


def test_images_pixels_and_sheet_agree():
    result = energy(unit="2-3", n=4)
    assert (result.units, result.images.shape, result.images.dtype) == ((2, 3), (2, 4, 3, 21, 21), torch.float32)  # fmt: skip
    assert result.images.flatten(2).norm(dim=2).flatten().tolist() == pytest.approx(
        [result.norm] * 8
    )
    grey = (result.images.movedim(2, -1) + 127.5).clamp(0, 255)
    assert result.pixels.dtype == np.uint8
    assert np.abs(result.pixels - grey.numpy()).max() <= 0.5001
    first, second = result.sheet(), result.sheet(3)
    assert first.mode == "RGB"
    assert first.tobytes() == result.sheet(2).tobytes() != second.tobytes()
    with pytest.raises(InputError, match=r"unit=4 was not visualized. Units: 2, 3\."):
        result.sheet(4)
    assert repr(result) == "Visualized(EnergyNetwork complex: 2 units with 4 images of 21 x 21 px)"


def test_module_stays_as_it_was():
    module = Small().double()
    module.norm.eval()
    module.first.weight.requires_grad_(False)
    module.second.register_forward_hook(lambda *_: None)
    module(torch.randn(2, 3, 9, 9).double()).sum().backward()

    def state():
        return {
            "tensors": {name: (t.dtype, t.device, t.data_ptr(), t._version, t.tolist())
                        for name, t in module.state_dict().items()},
            "gradients": {name: (p.requires_grad, p.grad if p.grad is None else p.grad.tolist())
                          for name, p in module.named_parameters()},
            "modes": [m.training for m in module.modules()],
            "in place": module.rectify.inplace,
            "hooks": [[*m._forward_hooks] for m in module.modules()],
            "attributes": [sorted(vars(m)) for m in module.modules()],
        }  # fmt: skip

    before = state()
    result = show(module)
    assert repr(state()) == repr(before)
    assert result.responses.dtype == torch.float32
    assert torch.equal(show(module).images, result.images)  # the second call finds the same module


def test_responses_are_those_in_eval_mode():
    module = Small()
    result = show(module, unit="all")
    images = (result.images / 255) / 0.25
    answers = module.eval()(images.flatten(0, 1)).detach().reshape(4, 3, 4)  # field is 7 x 7
    expected = torch.stack([answers[unit, :, unit] for unit in range(4)])
    torch.testing.assert_close(result.responses, expected)


def test_hooks_are_part_of_network():
    module = Small()
    plain = show(module)
    module.first.register_forward_hook(lambda module, inputs, output: 0 * output)
    assert show(module).metrics[0]["stop"] == "dead"
    assert plain.metrics[0]["stop"] != "dead"


def test_state_of_process_stays():
    def state():
        handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
        log = logging.getLogger("diversevis")
        of_numpy = np.random.get_state()[1].tolist()
        return (handlers, log.level, log.propagate, log.handlers, torch.get_rng_state().tolist(),
                of_numpy, torch.get_default_dtype(), torch.is_grad_enabled())  # fmt: skip

    module = EnergyNetwork()
    before = state()
    diversevis.visualize(module, **{**ENERGY, **FAST, "analysis": "phase"})
    diversevis.layers(module)
    assert state() == before


def test_state_of_caller_does_not_matter():
    expected = energy(n=2)
    module = EnergyNetwork()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode(), torch.autocast("cpu"), torch.device("meta"):
            result = diversevis.visualize(module, **{**ENERGY, **FAST, "n": 2})
            assert torch.is_inference_mode_enabled()
            assert torch.is_autocast_enabled("cpu")
            assert torch.get_default_device().type == "meta"
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(result.images, expected.images)


def test_no_file_is_written(current_folder, capsys):
    energy(analysis="diversity")
    diversevis.layers(EnergyNetwork())
    assert list(current_folder.iterdir()) == []
    assert capsys.readouterr().out == ""


def test_several_modules_are_averaged():
    modules = [Small(), Small()]
    one, other, both = (diversevis.layers(network) for network in (*modules, modules))
    assert {layer.name for layer in both} >= {"0.second", "1.second"}
    assert one == other
    result = show(modules, layer=both[-1].name)  # the output
    images = (result.images[0] / 255) / 0.25
    answers = sum(module.eval()(images) for module in modules) / 2
    torch.testing.assert_close(result.responses[0], answers[:, 0, 0, 0].detach())
    assert result.record["model"] == "average-of-2-Small"


def test_wrapped_modules_keep_their_names():
    module = Small()
    wrapped = nn.DataParallel(module)
    assert torch.equal(show(wrapped).images, show(module).images)
    assert torch.equal(show(wrapped, layer="module.second").images, show(module).images)


def test_module_that_normalises_inside():
    class Inside(Small):
        def forward(self, x):
            return super().forward((x - 0.5) / 0.25)

    inside = Inside()
    inside.load_state_dict(outside_state := Small().state_dict())
    outside = Small()
    outside.load_state_dict(outside_state)
    given = {"std": None, "model": {"inside": True}}
    torch.testing.assert_close(show(inside, **given).responses, show(outside).responses)


def test_values_of_python_are_plain(tmp_path):
    given = [torch.device("cpu"), tmp_path, range(2), (1, 2.5), np.float32(0.5), np.arange(2), "x"]
    plain = ["cpu", str(tmp_path), [0, 1], [1, 2.5], 0.5, [0, 1], "x", None]
    assert [plain_value(value) for value in (*given, None)] == plain
    ours = energy(unit=np.int64(3), n=np.int32(2), device=torch.device("cpu"))
    assert torch.equal(ours.images, energy(**{"unit": 3, "n": 2, "optimizer.steps": 12}).images)


def test_files_of_groups_are_chosen():
    result = energy(optimizer="paper", **{"optimizer.steps": 7, "objective.diversity": 0.4})
    config = result.record["config"]
    assert (config["optimizer"]["kind"], config["optimizer"]["steps"]) == ("adam", 7)
    assert config["objective"]["diversity"] == 0.4
    assert result.metrics[0]["steps"] == 7


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"diversity": 1}, r"no setting diversity. Did you mean objective.diversity\?"),
        ({"objective": {"diversit": 1}}, "no setting objective.diversit. Did you mean objective.div"),
        ({"optimiser": "paper"}, r"no setting optimiser. Did you mean optimizer\?"),
        ({"optimizer": "papr"}, r"optimizer=papr is unknown. Did you mean paper\?"),
        ({"objective": 3}, "objective=3 must be a group of settings"),
        ({"n": "six"}, "n='six' is of the wrong kind: it must be a whole number"),
        ({"n": {"x": 1}}, "There is no setting n.x"),
        ({"n": 0}, "n=0: a unit needs at least one image"),
        ({"unit": 99}, "layer complex has 72 units, so there is no unit 99"),
        ({"layer": "complx"}, r"layer=complx is not a layer of EnergyNetwork. Did you mean complex\?"),
        ({"layer": None}, "layer has no default here"),
        ({"device": "gpu"}, "device=gpu is unknown"),
        ({"device": ["cpu", "cpu"]}, "is visualized on one device"),
        ({"norm": "paper", "contrast": 30.0}, "contrast=30.0 and norm=paper exclude one another"),
        ({"norm": "paper"}, "norm=paper is a table for the convolutions of vgg19"),
        ({"analysis": ["phas"]}, r"analysis=phas is no measure. Did you mean phase\?"),
        ({"root": "x"}, "root='x' is for runs, which have a folder"),
        ({"again": True}, "again=True is for runs"),
        ({"model": "vgg19"}, "model='vgg19': the module is the model"),
        ({"model": {"weights": "x"}}, "There is no setting model.weights"),
        ({"model": {"inside": True}}, "exclude one another"),
        ({"std": None}, "visualize needs the mean and std"),
        ({"mean": [0.5], "std": [1.0]}, "fails on images of 1 channels"),
        ({"mean": [0.5], "std": [1.0, 1.0]}, "must be equally long"),
        ({"mean": "grey"}, "mean='grey' is of the wrong kind"),
    ],
)  # fmt: skip
def test_bad_settings_are_refused(settings, words):
    with pytest.raises(InputError, match=words):
        energy(**settings)


def test_what_is_no_module_is_refused():
    for what in ("model=vgg19", None, [], [Small(), "x"], Small):
        with pytest.raises(InputError, match=r"takes an nn\.Module.*diversevis\.run"):
            show(what)
    with pytest.raises(InputError, match="Small has no values"):
        show(Small().to("meta"))


def test_module_that_cannot_be_copied_is_refused():
    module = Small()
    module.kept = module(torch.randn(1, 3, 9, 9))
    with pytest.raises(InputError, match="Small cannot be copied.*stay as it is"):
        show(module)
    assert module.training
    module.kept = module.kept.detach()
    assert len(show(module).units) == 1


def test_interrupt_and_errors_pass_through(monkeypatch):
    module = Small()

    def interrupted(*arguments, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(batches, "visualize", interrupted)
    with pytest.raises(KeyboardInterrupt):
        show(module)
    assert torch.is_grad_enabled()
    assert module.training


def test_impossible_measures_are_said(caplog):
    result = show(Small(), analysis=["diversity", "natural"])
    assert "natural" not in result.metrics[0]
    assert result.settings.keys() == {"diversity"}
    assert "no natural exemplars" in caplog.text


# -- layers ---------------------------------------------------------------------------------------


def test_layers_of_module_and_words():
    ours, named = diversevis.layers(EnergyNetwork()), diversevis.layers("model=energy")
    assert ours == named == diversevis.layers(["model=energy"])
    facts = {layer.name: (layer.units, layer.field, layer.stride) for layer in ours}
    assert facts["complex"] == (72, (21, 21), (1, 1))
    assert facts["shift"] == (72, (29, 29), (1, 1))
    assert ours[0].response == "convolution, before its ReLU"


def test_layers_that_see_whole_image():
    module = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(4 * 6 * 6, 5))
    *_, last = diversevis.layers(module, size=8, mean=[0.5, 0.5])
    assert (last.name, last.units, last.field, last.stride) == ("2", 5, None, None)
    with pytest.raises(InputError, match="fails on images of 3 channels"):
        diversevis.layers(module, size=8)
    with pytest.raises(InputError, match="stands among the words"):
        diversevis.layers("model=energy", size=8)
    with pytest.raises(InputError, match=r"takes an nn\.Module"):
        diversevis.layers(8)
    result = diversevis.visualize(module, layer="2", unit=4, size=(8, 8), mean=[0.5] * 2,
                                  std=[1.0] * 2, device="cpu", **FAST)  # fmt: skip
    assert (result.images.shape[2:], result.field) == ((2, 8, 8), ((8, 8), (0, 0)))


# -- runs -----------------------------------------------------------------------------------------


def test_second_run_is_found(current_folder, capsys):
    first = diversevis.run(*WORDS, "unit=3")
    second = diversevis.run(*WORDS, "unit=3")
    assert first.path == second.path == Path("outputs/energy/complex/3/v001")
    assert torch.equal(first.images, second.images)
    assert [path.name for path in first.path.parent.iterdir()] == ["v001"]
    words = '"device=cpu", "optimizer.steps=12", "optimizer.search_steps=5", "objective.restarts=2"'
    assert first.record["command"] == f'diversevis.run({words}, "unit=3")'
    assert first.record["status"] == "finished"
    assert capsys.readouterr().out == ""
    assert main(["run", *WORDS, "unit=3"]) == 0  # the command finds it, too
    assert capsys.readouterr().out == f"{first.path}\n"


def test_folder_is_that_of_command(current_folder):
    assert main(["run", *WORDS, "unit=3", "root=typed"]) == 0
    ours, typed = (
        diversevis.run(*WORDS, "unit=3", "root=called"),
        Path("typed/energy/complex/3/v001"),
    )
    names = {path.relative_to(typed) for path in typed.rglob("*")}
    assert {path.relative_to(ours.path) for path in ours.path.rglob("*")} == names
    record = json.loads((typed / "run.json").read_text())
    assert record.keys() == ours.record.keys()
    assert record["config_hash"] == ours.record["config_hash"]
    for name in ("config.yaml", ".hydra/config.yaml", ".hydra/overrides.yaml", "images.safetensors",
                 "sheet_unit0003.png"):  # fmt: skip
        content = (typed / name).read_bytes().replace(b"typed", b"called")
        assert (ours.path / name).read_bytes() == content, name
    hydra = [(path / ".hydra/hydra.yaml").read_text().splitlines() for path in (ours.path, typed)]
    different = [line.split(":")[0].strip() for line in set(hydra[0]) - set(hydra[1])]
    assert sorted(different) == ["- root=called", "name", "output_dir", "override_dirname"]


def test_run_leaves_process_as_it_was(current_folder, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["notebook", "--strange"])
    log, root = logging.getLogger("diversevis"), logging.getLogger()

    def state():
        handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)]
        logs = [(each.level, each.propagate, [*each.handlers]) for each in (log, root)]
        return handlers, logs, [*sys.argv], GlobalHydra.instance().hydra, Path.cwd()

    before = state()
    diversevis.run(*WORDS)
    assert state() == before
    with pytest.raises(InputError):
        diversevis.run("n=0")
    assert state() == before


def test_run_within_hydra_of_others(current_folder):
    from hydra import compose, initialize_config_dir

    (current_folder / "mine.yaml").write_text("a: 1")
    with initialize_config_dir(str(current_folder), version_base="1.2"):
        theirs = GlobalHydra.instance().hydra
        assert len(diversevis.run(*WORDS).units) == 1
        energy()
        assert GlobalHydra.instance().hydra is theirs
        assert compose("mine").a == 1


def test_run_in_another_thread(current_folder):
    results = []
    thread = threading.Thread(target=lambda: results.append(diversevis.run(*WORDS)))
    thread.start()
    thread.join()
    assert results[0].units == (0,)


@pytest.mark.parametrize(
    ("words", "message"),
    [(["-m", "unit=0,1"], "A sweep is no single run"), (["unit=0,1"], "can mean two things"),
     (["--cfg", "job"], "There is no flag --cfg"), (["hydra/launcher=slurm"], "without Hydra's launchers"),
     (["n"], "'n' sets nothing"), ([{"n": 6}], "each as text"), (["m=3"], "There is no setting m"),
     (["norm=paper", "contrast=3"], "exclude one another")],
)  # fmt: skip
def test_bad_words_are_refused(current_folder, words, message):
    with pytest.raises(InputError, match=message):
        diversevis.run(*words)
    assert list(current_folder.iterdir()) == []


def test_interrupted_run_continues(current_folder, monkeypatch):
    visualize = batches.visualize

    def interrupted(*arguments, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(batches, "visualize", interrupted)
    with pytest.raises(KeyboardInterrupt):
        diversevis.run(*WORDS)
    with pytest.raises(InputError, match=r"metrics.json is not there \(the run is interrupted\)"):
        diversevis.load("outputs/energy/complex/0/v001")
    monkeypatch.setattr(batches, "visualize", visualize)
    assert diversevis.run(*WORDS).record["attempts"] == 2


def test_blocks_of_document_run(current_folder, capsys):
    page = (Path(__file__).parents[1] / "docs/python.md").read_text()
    names = {}
    for block in re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        exec(block, names)  # noqa: S102
    assert capsys.readouterr().out.splitlines()[-1] == "2 4 (9, 9)"
    assert names["again"].path == Path("outputs/energy/complex/3/v001")
    assert sorted(path.name for path in current_folder.iterdir()) == ["net_layer2", "outputs"]


# -- folders --------------------------------------------------------------------------------------


def test_saved_result_is_loaded(current_folder, capsys):
    made = energy(unit=[1, 5], analysis="phase")
    loaded = diversevis.load(made.save("kept/first"))
    assert torch.equal(loaded.images, made.images)
    assert (loaded.units, loaded.metrics, loaded.settings) == (
        made.units,
        made.metrics,
        made.settings,
    )
    assert loaded.record == made.record
    assert loaded.path == Path("kept/first")
    assert all(torch.equal(loaded.arrays["phase"][k], x) for k, x in made.arrays["phase"].items())
    assert (loaded.path / "sheet_unit0005.png").is_file()
    with pytest.raises(InputError, match="kept/first is not empty"):
        made.save("kept/first")
    with pytest.raises(InputError, match=r"run\.json cannot be made a folder"):
        made.save("kept/first/run.json")
    assert len(diversevis.collect("kept")) == 2
    capsys.readouterr()
    assert main(["analyze", "kept/first"]) == 2
    assert "its network was a module in a Python program" in capsys.readouterr().err


def test_sheet_is_that_of_folder(current_folder):
    from PIL import Image

    result = diversevis.run(*WORDS)
    with Image.open(result.path / "sheet_unit0000.png") as sheet:
        assert np.array_equal(np.asarray(sheet), np.asarray(result.sheet()))


@pytest.fixture
def saved(tmp_path):
    return energy(unit=[1, 5]).save(tmp_path / "run")


def test_damaged_folders_are_refused(saved, tmp_path):
    files = {path: path.read_bytes() for path in saved.iterdir()}
    record = json.loads(files[saved / "run.json"])

    def refused(name, content, words):
        (saved / name).write_bytes(content)
        with pytest.raises(InputError, match=words):
            diversevis.load(saved)
        (saved / name).write_bytes(files[saved / name])

    refused("run.json", b"{", "run.json is not JSON")
    refused("run.json", b"", "run.json is empty")
    refused("run.json", json.dumps(record | {"status": "odd"}).encode(), "status is")
    refused("run.json", json.dumps(record | {"n": None}).encode(), "measures without images")
    refused("run.json", json.dumps(record | {"n": 4}).encode(), "images has shape .* run.json says")
    for name in ("norm", "weights", "receptive_field"):
        for wrong in (None, "x", {}):
            content = json.dumps(record | {name: wrong}).encode()
            refused("run.json", content, f"run.json: {name}")
    images, metrics = (files[saved / name] for name in ("images.safetensors", "metrics.json"))
    refused("images.safetensors", images[:-1], "images.safetensors is cut off")
    refused("images.safetensors", b"x" * 99, "images.safetensors is")
    refused("metrics.json", metrics[:-9], "metrics.json is not JSON")
    refused("metrics.json", b'{"units": 3}\n', "units is no list of objects")
    refused("metrics.json", metrics.replace(b'"unit": 5', b'"unit": 6'), "different units")
    refused("metrics.json", b'{"units": [3], "measures": {}}\n', "units is no list of objects")
    (saved / "images.safetensors").unlink()
    with pytest.raises(InputError, match="images.safetensors is not there"):
        diversevis.load(saved)
    for other in (tmp_path, tmp_path / "none", saved / "run.json"):
        with pytest.raises(InputError, match="is not the folder of a run"):
            diversevis.load(other)


def test_load_imports_little(saved):
    code = f"import diversevis; assert diversevis.load({str(saved)!r}).norm > 0"
    assert set(loaded_after(code)) <= {"torch", "numpy"}
