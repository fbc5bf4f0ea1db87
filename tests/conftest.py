"""Annotated shapes are checked throughout; tests on real weights run where these are."""

import contextlib
import json
import logging
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from jaxtyping import install_import_hook

# The tests' tensors are small: a second thread brings little, and on a busy machine the two spend
# most of their time waiting for each other. Here and in all that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

PACKAGE = Path(__file__).parents[1] / "diversevis"
UNCHECKED = {  # modules whose annotations are not checked when they run
    "__init__",
    "__main__",
    "config",  # OmegaConf annotates DictConfig in a way that beartype refuses
    "models/energy",  # torch.fx traces it with stand-ins for tensors
}
MODULES = [path.relative_to(PACKAGE).with_suffix("").as_posix() for path in PACKAGE.rglob("*.py")]
install_import_hook(
    [
        "diversevis." + module.replace("/", ".")
        for module in MODULES
        if not {module, module.split("/")[0]} & UNCHECKED and not module.endswith("__init__")
    ],
    "beartype.beartype",
)


import numpy as np
import pytest
import torch
from matplotlib import cbook
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save

from diversevis.config.bind import bind
from diversevis.models.architectures import CustomModel, EnergyModel, TorchvisionModel
from diversevis.models.network import OpenNetwork

COMMAND = [sys.executable, "-m", "diversevis"]
CONVENTION = {"inside": False, "scale": 1, "order": "rgb"}
QUICK = ["optimizer.steps=12", "optimizer.search_steps=5", "objective.restarts=2"]


@pytest.fixture(scope="session", autouse=True)
def state_folder(tmp_path_factory):
    """Commands keep this account's key there, and not in its home folder."""
    folder = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="session", autouse=True)
def default_sigint():
    """Ctrl-C as in a terminal, here and in what tests start: a background shell has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def restored_sigint():
    """The next test finds Ctrl-C as this one did."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def seeded():
    """Noise in tests is the same every time."""
    torch.manual_seed(0)


@contextlib.contextmanager
def unchanged_log():
    """Commands change the program's log; afterwards it is as it was before."""
    log = logging.getLogger("diversevis")
    level, propagate, handlers = log.level, log.propagate, [*log.handlers]
    try:
        yield
    finally:
        log.setLevel(level)
        log.propagate = propagate
        log.handlers[:] = handlers


@pytest.fixture(autouse=True)
def restored_log():
    """The next test finds the program's log as this one did."""
    with unchanged_log():
        yield


def torchvision_model(name, **changes):
    settings = {
        "kind": "torchvision", "name": name, "default_layer": None, "weights": "random",
        "container": None, "seed": 0, "mean": None, "std": None, **CONVENTION,
    }  # fmt: skip
    return bind(TorchvisionModel, settings | changes, "model")


def custom_model(target, **changes):
    settings = {
        "kind": "custom", "name": None, "default_layer": None, "target": target, "arguments": {},
        "weights": "own", "container": None, "seed": 0, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], **CONVENTION,
    }  # fmt: skip
    return bind(CustomModel, settings | changes, "model")


def open_model(model, size=None):
    return OpenNetwork(model=model, size=size)


@pytest.fixture(scope="session")
def real_weights():
    """The folder with real ImageNet weights; where it is missing, what needs it is skipped."""
    folder = os.environ.get("DIVERSEVIS_WEIGHTS")
    if not folder:
        pytest.skip("real weights: DIVERSEVIS_WEIGHTS names no folder")
    return Path(folder).resolve()


@pytest.fixture(scope="session")
def published_images(real_weights):
    """The paper's published images and responses, which lie beside the real weights."""
    file = real_weights.parent / "golden" / "conv3_1_unit21.npz"
    if not file.is_file():
        pytest.skip(f"published images: {file.name} is not beside the real weights")
    return np.load(file)


@pytest.fixture(scope="session")
def photograph():
    """A photograph [3, 512, 512], RGB in [0, 1] (matplotlib's sample image)."""
    with cbook.get_sample_data("grace_hopper.jpg") as file:
        pixels = np.asarray(Image.open(file).convert("RGB"), dtype=np.float32) / 255
    return torch.from_numpy(pixels[:512, :512].copy()).permute(2, 0, 1)


@pytest.fixture
def energy():
    return EnergyModel(kind="energy", name="energy", default_layer="complex")


@pytest.fixture
def without_weights_folder(monkeypatch):
    monkeypatch.delenv("DIVERSEVIS_WEIGHTS", raising=False)


@pytest.fixture
def current_folder(tmp_path, monkeypatch, without_weights_folder):
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def start_run(current_folder):
    """Starts a run as a process of its own, waits for its record, and kills it at the end."""
    started = []

    def begin(*words, sigint=signal.SIG_DFL):
        process = subprocess.Popen(
            [*COMMAND, "run", "device=cpu", *words], cwd=current_folder,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, sigint),
        )  # fmt: skip
        started.append(process)
        (record,) = wait_until(process, lambda: list(current_folder.rglob("run.json")))
        return process, record

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def wait_until(process, condition):
    """What `condition` returns as soon as that is true, while the process is alive."""
    deadline = time.monotonic() + 120
    while not (result := condition()):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return result


def wait_for_checkpoint(process, record, phase="diverse"):
    """Until the run with this record has kept its state in this phase of the optimization."""

    def phases():
        for path in record.parent.glob("checkpoint/images-state-*.safetensors"):
            with contextlib.suppress(OSError), safe_open(path, framework="pt") as file:
                yield json.loads(file.metadata()["facts"])["phase"]

    wait_until(process, lambda: phase in phases())


@pytest.fixture
def small_disk(current_folder):
    """Makes `disk`, a tmpfs with these options, where one can be mounted."""
    place = current_folder / "disk"

    def make(options):
        place.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        try:
            mounted = subprocess.run(mount, capture_output=True).returncode == 0
        except FileNotFoundError:
            mounted = False
        if not mounted:
            pytest.skip("a tmpfs can only be mounted as root")
        return place

    yield make
    if place.is_mount():
        subprocess.run(["umount", str(place)], check=True)


def complete_run(path, record, rows=None, measures=None):
    """Write the files of a run whose record may say a part only: the rest is added, such that all
    fit together. What the record has stays as it is, even if it is wrong."""
    defaults = {"config_hash": "h", "config": {}, "n": 6, "norm": 32.0 * math.sqrt(3 * 4),
                "receptive_field": {"size": [2, 2], "stride": [1, 1]},
                "weights": {"mean": [0.5, 0.5, 0.5]}, "units": [0]}  # fmt: skip
    path.mkdir(parents=True, exist_ok=True)
    record = defaults | record
    try:
        images = _images(record, rows)
    except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError):
        images = _images(defaults, None)
    if record["n"] is not None:
        (path / "images.safetensors").write_bytes(images)
    rows = [{"unit": unit} for unit in record["units"]] if rows is None else rows
    if record["n"] is not None:
        rows = with_images(rows)
    metrics = {"measures": {} if measures is None else measures, "units": rows}
    (path / "metrics.json").write_text(json.dumps(metrics))
    (path / "run.json").write_text(json.dumps(record))
    return path


def with_images(rows):
    """The entries of units with what those of all units with images have."""
    told = {"response_mean": 1.0, "response_best": 1.0, "stop": "annealed"}
    return [told | row if isinstance(row, dict) else row for row in rows]


def _images(record, rows):
    rows = [{"unit": unit} for unit in record["units"]] if rows is None else rows
    shape = (len(rows), record["n"] or 1, len(record["weights"]["mean"]))
    size = record["receptive_field"]["size"]
    told = [row.get("response_mean", 1.0) for row in rows]
    told = torch.tensor([math.nan if value is None else value for value in told])
    pixels = record["norm"] / math.sqrt(shape[2] * math.prod(size))
    return save({"images": torch.full((*shape, *size), pixels),
                 "responses": told[:, None].repeat(1, shape[1]),
                 "units": torch.tensor([row["unit"] for row in rows])})  # fmt: skip
