"""A step depends on its state alone: recorded once as a graph, it gives the same bits.

No GPU is needed: `make_fx` runs a step and writes down its tensor operations, as the recording of a
CUDA graph does, with every Python number frozen. A step that asks for the value of a tensor fails.
"""

import contextlib
import dataclasses
import functools
import types
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from test_metamers import setup_of as metamers_of
from test_optimize import ADAM, ANNEALED, SPHERE, noise, problem, towards
from torch.fx.experimental.proxy_tensor import make_fx

from diversevis.config.compose import compose_config, experiment_of
from diversevis.method.images import precondition
from diversevis.method.optimize import capture as capture_module
from diversevis.method.optimize import descend
from diversevis.method.optimize.capture import Recording, Repeated, fixed
from diversevis.method.optimize.loop import State
from diversevis.method.response import respond
from diversevis.method.setup import prepare
from diversevis.method.visualize import visualize

OPTIMIZERS = pytest.mark.parametrize(
    "optimizer", [ADAM, SPHERE, ANNEALED], ids=["adam", "sphere", "annealed"]
)
SHORT = ["device=cpu", "layer=complex", "unit=0-3", "n=3", "objective.restarts=2"]
BRIEF = ["optimizer.steps=4", "optimizer.search_steps=4"]

# In names of operations that wait for the device: for the number of their results, for numbers that
# the host copies there, for a value.
ASKING = "nonzero", "masked_select", "unique", "lift_fresh", "scalar_dense", "_to_copy"


class Tracing:
    """Records steps by `make_fx`; `graphs` has a graph for every recording, `replays` counts."""

    def __init__(self):
        self.graphs, self.replays = [], 0

    def __call__(self, step, state):
        static = fixed(state)
        graph = make_fx(lambda state: step(state))(static)
        self.graphs.append(graph)
        called = {str(node.target) for node in graph.graph.nodes}
        assert not [name for name in called for part in ASKING if part in name]
        seen = step(static)[1]

        def replay():
            self.replays += 1
            after, (images, terms) = graph(static)
            seen[0].copy_(images)
            for name, value in terms.items():
                seen[1][name].copy_(value)
            for name, value in after.items():
                static[name].copy_(value)

        return Recording(replay, static, seen)


@pytest.fixture
def tracing(monkeypatch):
    recorder = Tracing()
    monkeypatch.setattr(descend, "recorder_of", lambda device: recorder)
    monkeypatch.setattr(descend, "COST", 0)  # so that stopped units leave as they do without
    return recorder


def equal(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(one[k].nan_to_num(9.0), other[k].nan_to_num(9.0)) for k in one)


@OPTIMIZERS
def test_recorded_step_repeats_to_the_bit(optimizer, tracing):
    """Also after an easy unit has left the batch, which is recorded anew."""
    goals, start = noise(3, 1, seed=1)[:, 0], noise(3)
    start[1] = goals[1]
    heard = []

    def listener(step, rows, x, terms):
        heard.append((step, list(rows), x.clone(), terms["loss"].clone()))

    weighted = functools.partial(precondition, kind="sqrt")
    plain = optimizer(problem(towards(goals), weighted), start, listener)
    without, heard = heard, []
    recorded = optimizer(problem(towards(goals), weighted, recorded=6), start, listener)
    assert len(tracing.graphs) == 1 or optimizer is not ANNEALED
    assert tracing.replays > 40  # on the sphere images are at rest soon
    assert torch.equal(plain.images, recorded.images)
    assert (plain.steps, plain.stop) == (recorded.steps, recorded.stop)
    assert equal(plain.trace, recorded.trace)
    for one, other in zip(without, heard, strict=True):
        assert one[:2] == other[:2]
        assert torch.equal(one[2], other[2])
        assert torch.equal(one[3], other[3])


def test_number_of_the_host_is_frozen(tracing):
    """What the test above would notice: a step that counts on the host."""
    calls = []

    def evaluate(x, rows):
        calls.append(0)
        return len(calls) * x.sum((1, 2, 3, 4))

    few = dataclasses.replace(SPHERE, steps=6, tolerance=1e-12)
    recorded = few(problem(evaluate, recorded=6), noise(3)).trace["loss"]
    plain = few(problem(evaluate), noise(3)).trace["loss"]
    assert not torch.equal(plain / plain[0], recorded / recorded[0])


def test_step_that_reads_a_value_is_refused(tracing):
    def evaluate(x, rows):
        return x.sum((1, 2, 3, 4)) * x.sum().item()

    with pytest.raises(RuntimeError, match="tracing tensor"):
        SPHERE(problem(evaluate, recorded=6), noise(3))


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["optimizer=paper", "optimizer.steps=60"],
        ["optimizer=annealed", "optimizer.steps=20"],
        ["objective.front=[0,0.1,0.3]"],
        ["objective.fraction=0.8", "n=2"],
        ["objective.distance=simple", "objective.metric=cosine"],
        ["objective.response=cos", "objective.distance=complex"],
        ["model=custom", "model.target=test_visualize.dead_network", "layer=conv",
         "model.mean=[0.5,0.5,0.5]", "model.std=[1,1,1]", "unit=[1,2]"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_recorded_runs_equal_plain_runs(words, tracing):
    few = ["optimizer.steps=15", "optimizer.search_steps=12"]
    setup = prepare(experiment_of(compose_config([*SHORT, *few, *words])))
    compare_recorded_and_plain(setup)
    assert len(tracing.graphs) >= 2  # of the search and of the diverse images


def compare_recorded_and_plain(setup):
    rows = range(len(setup.targets.units))
    recorded = visualize(setup, rows)
    free = dataclasses.replace(setup.experiment, cuda_graphs=False)
    plain = visualize(dataclasses.replace(setup, experiment=free), rows)
    for one, other in zip(plain, recorded, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.responses, other.responses)
        assert equal(one.trace, other.trace)


def test_recorded_metamers_equal_plain_metamers(tracing, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    setup = metamers_of(tmp_path / "a.png", "layer=complex", "n=2", "optimizer.steps=15")
    compare_recorded_and_plain(setup)
    assert tracing.graphs


@pytest.mark.parametrize(
    "words",
    [["model=vgg19", "layer=conv2_2"], ["model=resnet50", "layer=layer1.0"]],
    ids=" ".join,
)
def test_recorded_networks_equal_plain_networks(words, tracing, real_weights):
    test_recorded_runs_equal_plain_runs(words, tracing)


def test_parts_of_a_batch_are_not_recorded(tracing):
    setup = prepare(experiment_of(compose_config([*SHORT, "batch=1", "optimizer.steps=4"])))
    visualize(setup, [0])
    assert not tracing.graphs


def test_refused_step_is_taken_plainly():
    taken = []

    def step(state):
        taken.append(int(state["step"]))
        return {"step": state["step"] + 1}, (torch.zeros(()), {})

    asked = []
    repeated = Repeated(step, {"step": torch.ones(1)}, lambda *arguments: asked.append(arguments))
    for _ in range(5):
        repeated()
    assert taken == [1, 2, 3, 4, 5]
    assert len(asked) == 1


def test_recorded_run_continues_to_the_bit(tracing):
    """From a state in the midst of a recording, which is written and read back."""
    goals, start = noise(3, 1, seed=1)[:, 0], noise(3)
    whole = ANNEALED(problem(towards(goals), recorded=6), start)

    class Kept:
        state = None

        def __call__(self, step, snapshot):
            if step == 37:
                tensors, facts = snapshot()
                self.state = State({k: v.clone() for k, v in tensors.items()}, facts)
                raise KeyboardInterrupt

        def restore(self):
            return self.state

    kept = Kept()
    assert ANNEALED(problem(towards(goals), recorded=6), start, checkpoint=kept).interrupted
    continued = ANNEALED(problem(towards(goals), recorded=6), start, checkpoint=kept)
    assert torch.equal(whole.images, continued.images)
    assert equal(whole.trace, continued.trace)


def test_batch_shrinks_where_it_pays():
    """A quarter of the sets has stopped: eight steps of the others save what two steps cost."""
    active = torch.tensor([True, False, True, True])
    assert descend._staying(active, 9, 2).tolist() == [0, 2, 3]
    assert descend._staying(active, 8, 2) is None
    assert descend._staying(active, 1, 0).tolist() == [0, 2, 3]
    assert descend._staying(torch.ones(4, dtype=torch.bool), 9, 0) is None
    assert descend._staying(torch.zeros(4, dtype=torch.bool), 1, 100).tolist() == []


class FakeCuda:
    """What `cuda_graph` asks of torch: `capture` is entered where operations are recorded, and
    `replay` is a recording that forgets to multiply by `lost`."""

    def __init__(self, monkeypatch, capture=contextlib.nullcontext, lost=1.0):
        self.modes, self.replays, self.lost = [], 0, lost
        for name, value in {
            "CUDAGraph": lambda: types.SimpleNamespace(replay=self.replay),
            "graph": lambda graph, **options: capture(),
            "current_stream": lambda: None,
            "get_sync_debug_mode": lambda: 0,
            "set_sync_debug_mode": self.modes.append,
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr(capture_module, "step_in_place", self.record)
        monkeypatch.setattr(capture_module, "FAILED", [])
        capture_module._warn.cache_clear()

    def record(self, step, static):
        self.step, self.static, self.seen = step, static, step(static)[1]
        return self.seen

    def replay(self):
        self.replays += 1
        after, (images, terms) = self.step(self.static)
        self.seen[0].copy_(images)
        self.seen[1]["loss"].copy_(terms["loss"])
        self.static["raw"].copy_(after["raw"] / self.lost)


def doubling(state):
    return {"raw": 2 * state["raw"]}, (state["raw"].clone(), {"loss": state["raw"].sum()})


def begun():
    return {"raw": torch.ones(2)}


def test_cuda_graph_works_on_a_copy(monkeypatch):
    """It is tried twice, and begins where the state is."""
    cuda, state = FakeCuda(monkeypatch), begun()
    recording = capture_module.cuda_graph(doubling, state)
    assert cuda.replays == 2
    assert cuda.modes == ["warn", 0]
    assert recording.state["raw"].tolist() == [1, 1]
    recording.replay()
    assert recording.state["raw"].tolist() == [2, 2]
    assert recording.seen[0].tolist() == [1, 1]
    assert state["raw"].tolist() == [1, 1]


def test_recording_that_fails_is_said_once(monkeypatch, caplog):
    @contextlib.contextmanager
    def capture():
        try:
            yield
            raise RuntimeError("operation not permitted when stream is capturing")
        finally:
            raise RuntimeError("capture was invalidated")  # as torch says on the way out

    FakeCuda(monkeypatch, capture)
    assert [capture_module.cuda_graph(doubling, begun()) for _ in range(3)] == [None] * 3
    assert len(caplog.messages) == 1
    assert "(operation not permitted when stream is capturing)" in caplog.text
    assert "three times as long" in caplog.text
    assert capture_module.recorder_of(torch.device("cuda")) is None  # from now on


def test_recording_that_computes_otherwise_is_refused(monkeypatch, caplog):
    FakeCuda(monkeypatch, lost=1.01)
    assert capture_module.cuda_graph(doubling, begun()) is None
    assert "repeated, it gave other numbers" in caplog.text
    FakeCuda(monkeypatch, lost=1.0001)  # rounding
    assert capture_module.cuda_graph(doubling, begun()) is not None


def test_step_that_waits_is_not_recorded(monkeypatch, caplog):
    def waiting(state):
        warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        return doubling(state)

    cuda = FakeCuda(monkeypatch)
    for _ in range(2):
        assert capture_module.cuda_graph(waiting, begun()) is None
    assert cuda.modes == ["warn", 0] * 2
    assert len(caplog.messages) == 1
    assert "test_capture.py" in caplog.text
    assert capture_module.recorder_of(torch.device("cuda")) is not None


def test_few_steps_are_not_recorded(tracing, monkeypatch):
    monkeypatch.setattr(descend, "COST", 10)
    goal = noise(1, 1, seed=1)[:, 0]
    dataclasses.replace(SPHERE, steps=10)(problem(towards(goal), recorded=2), noise(1))
    assert not tracing.graphs
    dataclasses.replace(SPHERE, steps=11)(problem(towards(goal), recorded=2), noise(1))
    assert tracing.graphs


def test_recording_can_be_left_out(tracing):
    setup = prepare(experiment_of(compose_config([*SHORT, "cuda_graphs=false", *BRIEF])))
    visualize(setup, [0])
    assert not tracing.graphs


def test_reported_numbers_are_float32(monkeypatch):
    """Steps may round to TF32; scales, the search's results and final responses do not."""
    seen = []

    def spy(setup, x, rows):
        flags = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
        seen.append((torch.is_grad_enabled(), flags))
        return respond(setup, x, rows)

    for module in ("alone", "visualize"):
        monkeypatch.setattr(f"diversevis.method.{module}.respond", spy)
    setup = prepare(experiment_of(compose_config([*SHORT, *BRIEF])))
    changed = {"precision": "tf32", "algorithms": "fastest"}
    fast = dataclasses.replace(setup.experiment, **changed)
    visualize(dataclasses.replace(setup, experiment=fast), [0])
    assert {flags for grad, flags in seen if grad} == {(True, True)}
    assert [flags for grad, flags in seen if not grad] == [(False, False)] * 3
