from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from diversevis.cli.main import main
from diversevis.config.arguments import check_words, in_quotes, quoted, split_flags
from diversevis.config.bind import bind
from diversevis.config.compose import combinations, compose_config, experiment_of, plain
from diversevis.config.conf_files import config_folder
from diversevis.config.words import text_settings
from diversevis.errors import InputError
from diversevis.method.settings import Experiment

CONF = Path(config_folder())
OF_RUNS = sorted(path for path in CONF.glob("*/*.yaml") if path.parent.name != "training")
TRAINED = ["prior.file=made-by-train-prior"]
EXAMPLES = {  # what each model's file needs beside itself
    "denoiser": TRAINED,
    "pixelcnn": TRAINED,
    "cadena2018_natural": TRAINED,
    "torchvision": ["model.name=alexnet", "layer=features.3"],
    "custom": ["model.target=a.b", "layer=x"],
    "timm": ["model.name=resnet50d", "layer=layer1.0"],
    "vgg19": ["layer=conv1_1"],
    "resnet50": ["layer=conv1"],
    "metamers": ["objective.reference=photo.jpg"],
}


def experiment(*overrides):
    return experiment_of(compose_config(overrides))


@pytest.mark.parametrize("path", [*OF_RUNS], ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_config_file_makes_an_experiment(path):
    group, name = path.parent.name, path.stem
    found = experiment(f"{group}={name}", *EXAMPLES.get(name, []))
    assert isinstance(found, Experiment)
    assert path.read_text().startswith("#")  # its command, or what it is


def test_defaults_are_in_yaml_only():
    """A setting taken out of the file is missing, not silently something else."""
    config = plain(compose_config([]))
    for key in list(config):
        less = {k: v for k, v in config.items() if k != key}
        with pytest.raises(InputError, match=key):
            bind(Experiment, less, "")
    for key in config["objective"]:
        less = {k: v for k, v in config["objective"].items() if k != key}
        with pytest.raises(InputError, match=f"objective.{key}"):
            bind(Experiment, config | {"objective": less}, "")


def test_published_setting():
    found = experiment("experiment=cadena2018")
    assert (found.model.name, found.layer, found.unit, found.n) == ("vgg19", "conv3_1", 21, 6)
    assert (found.norm, found.objective.distance, found.objective.diversity) == (
        "paper",
        "conv2_2",
        0.01,
    )
    again = experiment("experiment=cadena2018", "unit=3", "optimizer.steps=5")
    assert again == replace(found, unit=3, optimizer=replace(found.optimizer, steps=5))
    paper = experiment("experiment=cadena2018", "optimizer=paper", "optimizer.steps=2000").optimizer
    assert (paper.kind, paper.steps, paper.learning_rate, paper.patience) == ("adam", 2000, 1, 100)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["layr=conv1_1"], "no setting layr. Did you mean layer"),
        (["objective.divresity=1"], "no setting objective.divresity. Did you mean objective.diversity"),
        (["+objective.divresity=1"], "no setting objective.divresity. Did you mean objective.diversity"),
        (["+new=1"], "no setting new"),
        (["model=resnet18"], "one of torchvision's: write model=torchvision model.name=resnet18"),
        (["model=vgg"], "model=vgg is unknown. Did you mean vgg19"),
        (["optimizer=sgd"], r"optimizer=sgd is unknown. Choose from: annealed, paper, sphere\.$"),
        (["vgg19"], "'vgg19' sets nothing: settings are written key=value"),
        (["-m"], "no flag -m"),
        (["n=(1"], "cannot be read. A value with spaces"),
        (["n=100000"], "n=100000"), (["contrast=1e30"], "contrast=1e"),
        (["optimizer=paper", "optimizer.beta1=1.5"], "optimizer.beta1=1.5"),
        (["optimizer=paper", "optimizer.epsilon=-1"], "epsilon=-1"),
        (["optimizer.momentum=1"], "optimizer.momentum=1.0"),
        (["optimizer.emphasis=0.5"], "optimizer.emphasis=0.5 must be 1 or more"),
        (["optimizer.softness=-1"], "optimizer.softness=-1"),
        (["optimizer.search_steps=0"], "optimizer.search_steps=0"),
        (["optimizer.patience=5"], "There is no setting optimizer.patience"),
        (["batch=0"], "batch=0"), (["batch=many"], "batch='many'"),
        (["precision=half"], "precision='half'"),
        (["algorithms=fast"], "algorithms='fast' is of the wrong kind: it must be same or fastest"),
        (["cuda_graphs=auto"], "cuda_graphs='auto'"),
        (["optimizer=paper", "optimizer.smoothing=2"], "optimizer.smoothing=2.0"),
        (["model=vgg18"], "model=vgg18 is unknown. Did you mean vgg19"),
        (["optimizer=sgd"], "optimizer=sgd is unknown"),
        (["experiment=nobody"], "experiment=nobody is unknown"),
        (["n=six"], "n='six' is of the wrong kind: it must be a whole number"),
        (["n=2.5"], "n=2.5 is of the wrong kind"),
        (["n=true"], "n=True is of the wrong kind"),
        (["contrast=high"], "contrast='high' is of the wrong kind: it must be a number"),
        (["contrast=null"], "contrast has no default here"),
        (["record=avi"], "record='avi' is of the wrong kind: it must be none or gif or mp4"),
        (["objective.scale=mean"], "best or natural or none"),
        (["objective=7"], "must be a string.*objective=7"),
        (["model=vgg19"], "layer has no default here.*diversevis layers"),
        (["model=torchvision", "layer=x"], "model.name has no default here"),
        (["model=vgg19", "layer=conv1_1", "model.mean=[1,x]"], "model.mean=.* list of numbers"),
        (["model.kind=other"], "model.kind=other is unknown"),
        (["n=0"], "n=0"), (["n=1"], "n=1 leaves nothing"), (["contrast=0"], "contrast=0"),
        (["contrast=-1"], "contrast=-1"), (["contrast=nan"], "contrast=nan"),
        (["contrast=inf"], "contrast=inf"), (["optimizer.steps=0"], "optimizer.steps=0"),
        (["optimizer=paper", "optimizer.patience=-1"], "optimizer.patience=-1"),
        (["objective.diversity=-1"], "objective.diversity=-1"),
        (["objective.response=mse"], "objective.direction=FILE"),
        (["objective.scale=natural"], "objective.photographs=FOLDER"),
        (["objective.photographs=x"], "objective.scale=natural"),
        (["unit=0,1"], r"unit=0,1 can mean two things.*unit=\[0,1\].*-m"),
    ],
)  # fmt: skip
def test_bad_settings_are_named_with_legal_choices(overrides, words):
    with pytest.raises(InputError, match=words) as error:
        experiment(*overrides)
    assert "\n" not in str(error.value)


def test_numbers_are_converted_to_the_needed_type():
    found = experiment("contrast=30", "optimizer.learning_rate=1")
    assert isinstance(found.contrast, float)
    assert isinstance(found.optimizer.learning_rate, float)
    assert experiment("unit=[1,0-3]").unit == [1, "0-3"]
    assert experiment("unit=all").unit == "all"


def test_lists_of_any_length_are_bound():
    assert bind(tuple[float, ...], [1, 0.5], "mean") == (1.0, 0.5)
    assert bind(tuple[float, ...] | None, [0.5], "mean") == (0.5,)
    with pytest.raises(InputError, match=r"mean=\['x'\] is of the wrong kind.*list of numbers"):
        bind(tuple[float, ...], ["x"], "mean")


def test_help_shows_every_setting(capsys):
    assert main(["run", "--help"]) == main(["analyze", "--help"]) == 0
    shown = capsys.readouterr().out
    config = plain(compose_config([]))
    names = [name for name, value in config.items() if not isinstance(value, dict)]
    names += [f"{group}.{name}" for group in ("objective", "optimizer") for name in config[group]]
    names += [
        f"measure.{name}"
        for name, value in config["measure"].items()
        if not isinstance(value, dict)
    ]
    names += [f"measure.phase.{name}" for name in config["measure"]["phase"]]
    for name in names:
        assert f"  {name}=" in shown or name == "optimizer.kind", name
    for path in OF_RUNS:
        assert f"  {path.parent.name}={path.stem} " in shown
    assert "  objective.diversity=0.1       weight of the smallest distance" in shown
    assert max(map(len, shown.splitlines())) <= 100


def test_config_files_are_plain_yaml():
    for path in CONF.rglob("*.yaml"):
        assert isinstance(yaml.safe_load(path.read_text()), dict)


def test_flags_are_allowed_anywhere():
    words = [
        "model=vgg19",
        "-m",
        "unit=0,1",
        "--config-dir",
        "x=y",
        "n=3",
        "--info",
        "defaults",
        "-cn",
        "c",
    ]
    flags, overrides = split_flags(words)
    assert flags == ["-m", "--config-dir", "x=y", "--info", "defaults", "-cn", "c"]
    assert overrides == ["model=vgg19", "unit=0,1", "n=3"]
    assert split_flags(["--info", "n=3"]) == (["--info"], ["n=3"])


def test_unknown_flags_are_refused():
    for flags, said in [(["--model", "vgg19"], "no flag --model"), (["--config-dir"], "needs a value"),
                        (["--config-name", "-m"], "needs a value")]:  # fmt: skip
        with pytest.raises(InputError, match=said):
            check_words(flags, [])
    check_words(["-m", "--cfg", "job"], ["+a.b=1", "~c", "hydra/launcher=x", "unit=0,1"])


@pytest.mark.parametrize(
    "value",
    ["a b", "a\\b", "a\\\\b", 'a\\"b', 'a"', "a\\", "\\\\server\\one", "a,b", "[a]", "a=b", "'a'"],
)
def test_quoted_values_are_read_back(value):
    (override,) = OverridesParser.create().parse_overrides([f"root={in_quotes(value)}"])
    assert override.value() == value


def test_paths_are_quoted_for_hydras_grammar():
    assert quoted("root=/plain/path_1.2") == "root=/plain/path_1.2"
    assert quoted("root='/a b'") == "root='/a b'"
    assert quoted("n=a b") == "n=a b"
    for path in ("~/x", "/some/with space/ü", 'odd"quote', "/a(b)"):
        for key in ("root", "model.weights", "objective.direction"):
            words = ["model=vgg19", f"{key}={path}"]
            config = plain(compose_config(words))
            for name in key.split("."):
                config = config[name]
            assert config == path


def text_of(config, key):
    for name in key.split("."):
        config = config[name]
    return config


@pytest.mark.parametrize(
    ("words", "key", "texts"),
    [
        (["layer=0.0"], "layer", ["0.0"]), (["layer=0.10"], "layer", ["0.10"]),
        (["layer=1"], "layer", ["1"]), (["layer=1e3"], "layer", ["1e3"]),
        (["layer=1_0"], "layer", ["1_0"]), (["layer=.5"], "layer", [".5"]),
        (["layer=-inf"], "layer", ["-inf"]), (["layer=true"], "layer", ["true"]),
        (["layer='0.0'"], "layer", ["0.0"]), (['++layer="2"'], "layer", ["2"]),
        (["++layer=2"], "layer", ["2"]), (["layer=layer1.0"], "layer", ["layer1.0"]),
        (["layer=0.0,0.10,'1'"], "layer", ["0.0", "0.10", "1"]),
        (["layer=0.0, 0.10"], "layer", ["0.0", "0.10"]),
        (["layer=choice(0.0,a,0.10)"], "layer", ["0.0", "a", "0.10"]),
        (["layer=act#2"], "layer", ["act#2"]), (["layer=0.act-1#2,b"], "layer", ["0.act-1#2", "b"]),
        (["layer=range(0,3)"], "layer", ["0", "1", "2"]),
        (["objective.distance=0"], "objective.distance", ["0"]),
        (["root=20240501"], "root", ["20240501"]), (["root=1.50"], "root", ["1.50"]),
        (["model=torchvision", "model.name=123"], "model.name", ["123"]),
        (["model=custom", "model.target=a.b", "model.name=010"], "model.name", ["010"]),
        (["natural=null"], "natural", [None]), (["natural=1.0"], "natural", ["1.0"]),
        (["root=${layer}", "layer=0.10"], "root", ["0.10"]),
        (["unit=0,1"], "unit", ["[0,1]"]), (["seed=1,2"], "seed", [1, 2]),
    ],
)  # fmt: skip
def test_text_is_what_was_typed(words, key, texts):
    swept = combinations([], words)
    assert [text_of(config, key) for config in swept] == [
        [0, 1] if text == "[0,1]" else text for text in texts
    ]
    if len(texts) == 1 and key != "unit":
        assert text_of(plain(compose_config(words)), key) == texts[0]


def test_numbers_in_files_become_text(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/mine.yaml").write_text(
        "# @package _global_\nlayer: 0.0\nroot: 20240501\nobjective:\n  distance: 7\n"
    )
    (config,) = combinations(["--config-dir", str(tmp_path)], ["experiment=mine"])
    found = bind(Experiment, config, "")
    assert (found.layer, found.root, found.objective.distance) == ("0.0", "20240501", "7")
    assert bind(Experiment, config | {"seed": 3, "unit": [1]}, "").unit == [1]
    with pytest.raises(InputError, match="layer=True is of the wrong kind: it must be text"):
        bind(Experiment, config | {"layer": True}, "")


def test_text_settings_are_those_annotated():
    names = text_settings()
    assert {"layer", "root", "model.name", "model.weights", "objective.distance"} <= names
    assert not {"unit", "token", "n", "device", "analysis", "model.arguments"} & names


def test_glob_chooses_files_of_a_group(tmp_path):
    found = [c["optimizer"]["kind"] for c in combinations([], ["optimizer=glob(*)"])]
    assert found == ["annealed", "adam", "sphere"]
    (tmp_path / "optimizer").mkdir()
    (tmp_path / "optimizer/slow.yaml").write_text("defaults: [sphere]\nsteps: 9999\n")
    flags = ["--config-dir", str(tmp_path)]
    found = [c["optimizer"]["steps"] for c in combinations(flags, ["optimizer=glob(s*)"])]
    assert found == [9999, compose_config([]).optimizer.steps]
    some = combinations([], ["optimizer=glob([paper,s*],exclude=sphere)", "seed=1,2"])
    assert [(c["optimizer"]["kind"], c["seed"]) for c in some] == [("adam", 1), ("adam", 2)]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("seed=range(0,5,0)", r"seed=range\(0,5,0\) never ends"),
        ("contrast=range(0,5.5,0)", "never ends"), ("contrast=range(0,inf)", "never ends"),
        ("seed=range(3,0)", r"seed=range\(3,0\) lists no value"),
        ("contrast=range(3,0.5)", "lists no value"),
        ("seed=glob(*)", r"seed=glob\(\*\) lists no value.*optimizer=glob"),
        ("optimizer=glob(z*)", "lists no value"),
        ("contrast=interval(1,2)", r"contrast=interval\(1,2\) has no steps"),
    ],
)  # fmt: skip
def test_sweeps_over_nothing_are_refused(word, said):
    with pytest.raises(InputError, match=said):
        combinations([], [word])


def test_settings_of_whole_images_are_typed():
    found = experiment("size=[36,64]", "position=[3,4]", "token=7")
    assert (found.size, found.position, found.token) == ([36, 64], [3, 4], 7)
    found = experiment("size=224")
    assert (found.size, found.position, found.token) == (224, None, None)
    with pytest.raises(InputError, match="position=3 is of the wrong kind"):
        experiment("position=3")
