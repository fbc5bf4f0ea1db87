"""Units side by side: the same results as alone, whatever the batch, the memory, the device."""

import dataclasses
import errno
import json
import logging
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import wait_until

from diversevis.config.compose import compose_config, experiment_of
from diversevis.errors import InputError, WorkFailed
from diversevis.experiment import batches, workers
from diversevis.experiment.batches import visualize_in_batches
from diversevis.experiment.progress import ProgressDisplay
from diversevis.experiment.results import pack
from diversevis.experiment.workers import visualize_units
from diversevis.method import device as device_module
from diversevis.method import images
from diversevis.method.device import (
    BACKWARD,
    MOST_IMAGES,
    bytes_per_image,
    choose_batch,
    free_memory,
    pick_devices,
    to_host,
)
from diversevis.method.response import respond
from diversevis.method.setup import prepare
from diversevis.method.visualize import visualize
from diversevis.runs.checkpoints import Checkpoints
from diversevis.runs.folder import RunFolder
from diversevis.runs.lease import Claim, Watch


def setup_of(*overrides):
    return prepare(experiment_of(compose_config(["device=cpu", *overrides])))


QUICK = ["layer=complex", "n=3", "objective.restarts=2", "optimizer.steps=12",
         "optimizer.search_steps=5"]  # fmt: skip


def relative(found, expected):
    found, expected = torch.tensor(found), torch.tensor(expected)
    return found / expected - 1


LAYERS = {
    "energy": ["layer=simple", "unit=0-19"],
    "vgg19": ["model=vgg19", "layer=conv2_1", "unit=0-19"],
    "resnet50": ["model=resnet50", "layer=layer1.0", "unit=0-19"],
}
SLOW = pytest.mark.slow


@SLOW
@pytest.mark.parametrize("name", LAYERS)
def test_unit_in_a_batch_equals_unit_alone(name, request):
    """After 20 steps to 1e-4; at the end, where rounding may lead to another nearby optimum, within
    1 % for 95 % of the units, without bias."""
    if name != "energy":
        request.getfixturevalue("real_weights")
    some = range(0, 20, 3)
    early = setup_of(*LAYERS[name], "optimizer.steps=20", "optimizer.search_steps=20")
    for row, among in zip(some, visualize(early, range(20))[::3], strict=True):
        (alone,) = visualize(early, [row])
        close = {"rtol": 0, "atol": 1e-4 * alone.responses.abs().max().item()}
        assert torch.allclose(alone.responses, among.responses, **close)
    late = setup_of(*LAYERS[name])
    together = visualize(late, range(20))[::3]
    alone = [visualize(late, [row])[0] for row in some]
    for key in ("response_mean", "distance_min"):
        values = ([one.metrics[key] for one in found] for found in (together, alone))
        difference = relative(*values)
        assert (difference.abs() < 0.01).float().mean() >= 0.95
        assert abs(difference.mean().item()) < 0.002


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def assert_alike(one, other):
    """To the bit with oneDNN and MKL, whose rounding we know; elsewhere but for rounding."""
    if platform.machine() == "x86_64":
        assert torch.equal(one, other)
    else:
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-4 * other.abs().max().item())


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("network", ["vgg19 layer=conv2_2", "resnet50 layer=layer1.2"])
def test_responses_alone_equal_those_among_others(network):
    """Responses and gradients to the bit: of a single image, of a few, and of many."""
    words = f"model={network} model.weights=random unit=0-19".split()
    setup = setup_of(*words)
    shown, rows = torch.randn(20, 2, *setup.image_shape), torch.arange(20)
    shown = images.render(shown, setup.norm)

    def found(x, units):
        x = x.clone().requires_grad_(True)
        seen = respond(setup, x, units)
        (gradient,) = torch.autograd.grad(seen.responses.sum(), x)
        return seen.responses, gradient

    many = found(shown, rows)
    for units, n in ((1, 1), (1, 2), (3, 2), (12, 1)):
        few = found(shown[:units, :n], rows[:units])
        for one, other in zip(few, many, strict=True):
            assert_alike(one, other[:units, :n])


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("network", ["vgg19 layer=conv2_1", "resnet50 layer=layer1.0"])
def test_images_alone_equal_those_among_others(network):
    """To the bit, from noise to result; at the end of its search a unit alone has one image."""
    words = f"model={network} unit=0-7 optimizer.search_steps=16 optimizer.steps=8".split()
    setup = setup_of("model.weights=random", *words)
    among, (alone,) = visualize(setup, range(8))[3], visualize(setup, [3])
    assert_alike(alone.images, among.images)
    assert_alike(alone.responses, among.responses)


@pytest.mark.parametrize(
    ("response", "distance"),
    [("max", "pixels"), ("cos", "simple"), pytest.param("max", "simple", marks=SLOW),
     pytest.param("cos", "pixels", marks=SLOW)],
)  # fmt: skip
def test_batch_size_changes_no_result(distance, response):
    """From everything at once down to images of one unit in several parts."""
    words = [*QUICK, "unit=0-4", f"objective.distance={distance}", f"objective.response={response}"]
    setup = setup_of(*words)
    whole = visualize(setup, range(5))
    assert setup.batch >= 15
    for batch in (6, 2, 1):
        small = dataclasses.replace(setup, batch=batch)
        assert len(small.batches(range(5))) == (3 if batch == 6 else 5)
        parts = [one.visualization for one in visualize_in_batches(small, range(5))]
        assert [one.unit for one in parts] == list(range(5))
        for one, other in zip(whole, parts, strict=True):
            assert torch.allclose(one.responses, other.responses, rtol=1e-4)
            assert one.metrics["distance_min"] == pytest.approx(other.metrics["distance_min"], 1e-4)


def test_batch_with_a_dead_unit():
    words = ["model=custom", "model.target=test_visualize.dead_network", "layer=conv", "unit=all",
             "model.mean=[0.5,0.5,0.5]", "model.std=[1,1,1]", *QUICK[1:]]  # fmt: skip
    setup = setup_of(*words)
    together = visualize(setup, range(3))
    assert [one.metrics["stop"] for one in together] == ["dead", "annealed", "annealed"]
    for row, one in enumerate(together):
        (alone,) = visualize(setup, [row])
        assert torch.allclose(alone.responses, one.responses, rtol=1e-4)


@pytest.fixture(scope="module")
def eight_units():
    """Eight units in one batch: their setup and visualizations."""
    setup = setup_of(*QUICK, "unit=0-7", "optimizer.steps=4")
    return setup, visualize(setup, range(8))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"),
        MemoryError(),
    ],
)
def test_out_of_memory_halves_the_batch(eight_units, monkeypatch, caplog, error):
    setup, expected = eight_units
    sizes = []

    def tight(setup, rows, **others):
        sizes.append(len(rows))
        if len(rows) > 3:
            raise error
        return visualize(setup, rows, **others)

    monkeypatch.setattr(batches, "visualize", tight)
    with caplog.at_level(logging.WARNING):
        found = [one.visualization for one in visualize_in_batches(setup, range(8))]
    assert sizes == [8, 4, 2, 2, 2, 2]
    assert [record.message for record in caplog.records] == [
        "out of memory: going on with batch=12 images at once",
        "out of memory: going on with batch=6 images at once",
    ]
    for one, other in zip(found, expected, strict=True):
        assert (one.unit, one.metrics["stop"]) == (other.unit, other.metrics["stop"])
        assert torch.allclose(one.responses, other.responses, rtol=1e-4)


def test_other_errors_are_raised(monkeypatch):
    def never(setup, rows, **others):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(batches, "visualize", never)
    with pytest.raises(torch.OutOfMemoryError):
        list(visualize_in_batches(setup_of(*QUICK), [0]))

    def broken(setup, rows, **others):
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(batches, "visualize", broken)
    with pytest.raises(RuntimeError, match="shapes differ"):
        list(visualize_in_batches(setup_of(*QUICK), [0]))


def test_batch_size_follows_from_the_memory(monkeypatch):
    words = ["model=vgg19", "model.weights=random", "layer=conv1_2"]
    cpu = torch.device("cpu")
    each = bytes_per_image(setup_of(*words).readout, None, (3, 5, 5), cpu)
    maps = 64 * 3 * 3 * 2 + 1 + 1  # conv1_1, its ReLU, the one filter's response (by image, unit)
    assert each == pytest.approx(BACKWARD * 4 * maps, rel=0.01)
    assert choose_batch(each, cpu, 8) == MOST_IMAGES["cpu"]
    assert choose_batch(2**20, cpu, 8) == 256
    assert choose_batch(2**27, cpu, 8) == 8
    monkeypatch.setattr(device_module, "free_memory", lambda device: 20 * 2**20)
    assert choose_batch(2**20, cpu, 8) == 10
    assert choose_batch(2**30, cpu, 8) == 1
    assert setup_of("batch=7").batch == 7


def test_free_memory_respects_the_control_group(monkeypatch, tmp_path):
    free = free_memory(torch.device("cpu"))
    assert 2**20 < free <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name, value in (("max", "1000000"), ("current", "400000"), ("unlimited", "max")):
        (tmp_path / name).write_text(value)
    pairs = ((tmp_path / "max", tmp_path / "current"),)
    monkeypatch.setattr(device_module, "CONTROL_GROUPS", pairs)
    assert free_memory(torch.device("cpu")) == 600000
    pairs = ((tmp_path / "unlimited", tmp_path / "current"), (tmp_path / "none", tmp_path / "max"))
    monkeypatch.setattr(device_module, "CONTROL_GROUPS", pairs)
    assert free_memory(torch.device("cpu")) > 600000


def test_names_of_devices():
    assert [str(one) for one in pick_devices(["cpu", "cpu"])] == ["cpu", "cpu"]
    assert [str(one) for one in pick_devices("cpu,cpu")] == ["cpu", "cpu"]
    with pytest.raises(InputError, match="device=\\[\\] names no device"):
        pick_devices([])
    with pytest.raises(InputError, match="device=cuda:9"):
        pick_devices("cuda:9,1")


@pytest.mark.process
def test_several_devices_share_the_units():
    """Two processes on the CPU stand in for two GPUs: the batches are the same, and the results."""
    words = [*QUICK, "unit=0-5", "record=gif"]
    one = list(visualize_in_batches(setup_of(*words), range(6)))
    both = list(visualize_units(setup_of(*words, "device=[cpu,cpu]")))
    assert [found.visualization.unit for found in both] == list(range(6))
    for alone, shared in zip(one, both, strict=True):
        assert len(alone.frames) == len(shared.frames) == 13
        responses = shared.visualization.responses
        assert torch.allclose(alone.visualization.responses, responses, rtol=1e-4)


@pytest.fixture(params=[("[cpu,cpu]", 16, 2), ("cpu", 64, 3)], ids=["devices", "cores"])
def two_processes(request, tmp_path):
    """A run by two processes, each with several batches of a known number of units."""
    device, batch, units = request.param
    words = ["unit=0-11", f"batch={batch}", f"device={device}", f"root={tmp_path}", "optimizer=paper",
             "optimizer.steps=100000000", "optimizer.patience=100000000", "optimizer.search_steps=3",
             "checkpoint=0", "objective.restarts=6"]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "diversevis", "run", *words],
        stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "2"},
    )  # fmt: skip

    def in_the_batch():  # a state is written after every step
        states = list(tmp_path.rglob("*-state-*.safetensors"))
        return len(states) == 2 and all(b"diverse" in state.read_bytes() for state in states)

    wait_until(process, in_the_batch)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    yield process, [int(child) for child in children], tmp_path, units
    process.kill()
    process.communicate()


def wait_until_gone(children):
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return True


needs_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="no /proc here")


@needs_proc
@pytest.mark.process
def test_ctrl_c_reaches_every_process(two_processes):
    """Each hands over what it has, and begins nothing new; several batches were to follow."""
    process, children, root, units = two_processes
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    (file,) = root.rglob("metrics.json")
    metrics = json.loads(file.read_text())["units"]
    assert [one["unit"] for one in metrics] == list(range(2 * units))  # the batches at work
    assert {one["stop"] for one in metrics} == {"interrupted"}
    assert wait_until_gone(children)


@needs_proc
@pytest.mark.process
def test_killed_run_leaves_no_process(two_processes):
    process, children, *_ = two_processes
    process.kill()
    process.wait()
    assert wait_until_gone(children)


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


CORES = [*QUICK, "unit=0-15", "objective.restarts=6"]


@needs_proc
@pytest.mark.process
@pytest.mark.usefixtures("two_threads")
def test_cores_share_the_units(monkeypatch, capsys):
    """The same images to the bit; this process shows how far the others have come."""
    setup, parent, pids = setup_of(*CORES, "record=gif"), os.getpid(), []
    monkeypatch.setattr(ProgressDisplay, "_is_due", lambda self: True)
    monkeypatch.setattr(workers, "pack", lambda results: pids.append(os.getpid()) or pack(results))
    shared = list(visualize_units(setup))
    assert not pids  # packed in other processes, which have their own list
    assert os.getpid() == parent
    whole = list(visualize_in_batches(setup))
    assert len(shared) == len(whole) == 16
    for one, other in zip(shared, whole, strict=True):
        assert one.visualization.unit == other.visualization.unit
        assert torch.equal(one.visualization.images, other.visualization.images)
        assert len(one.frames) == len(other.frames)
    assert "16 units  2 processes" in capsys.readouterr().err
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize(
    ("words", "threads", "accelerator"),
    [(["unit=0-6"], 2, False), (["batch=47"], 2, False), ([], 1, False), ([], 5, False), ([], 2, True)],
)  # fmt: skip
def test_one_process_where_cores_cannot_share(words, threads, accelerator, monkeypatch):
    """Few units, small batches, a single core, more cores than units suffice for; an accelerator,
    with which PyTorch refuses gradients in a forked process."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: accelerator)
    torch.set_num_threads(threads)
    assert workers._of_cores(setup_of(*CORES, *words)) is None


@pytest.mark.usefixtures("two_threads")
def test_cores_share_a_given_batch():
    team = workers._of_cores(setup_of(*CORES, "batch=48"))
    assert team.setup.batch == 24
    assert len(team.prepared) == 2
    assert len(team.setup.batches(range(16), 2)) == 4


def test_progress_of_processes_is_shown(tmp_path, monkeypatch, capsys):
    """That of all on the terminal, that of a batch in the claim, for `diversevis status`."""
    setup = setup_of(*CORES)  # with 5 and 12 steps
    shown = workers._Shown(setup, 4, 2, [24, 75, 5, 15])
    claim = Claim.take(Watch(tmp_path))
    claim.progress = {"done": 4}
    shown.display._start -= 10
    for number, expected in enumerate([("search", 5), ("diverse", 10)]):
        monkeypatch.setattr(shown.display, "_is_due", lambda number=number: number == 0)
        shown.show(number, claim)
        assert claim.progress == {"done": 4, "phase": expected[0], "step": expected[1]}
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("16 units  2 processes  at most ")  # 99 of the 204 steps that are left


@pytest.mark.process
@pytest.mark.usefixtures("two_threads")
def test_one_batch_left_has_all_cores(tmp_path, monkeypatch):
    """Of a run that another process began; it is not computed by one core of two."""
    team = workers._of_cores(setup_of(*CORES, "batch=96"))
    done, _ = team.setup.batches(range(16), 2)
    stored = Checkpoints(
        folder=RunFolder(tmp_path), part="images", work="work", seconds=30.0, device=team.setup.device,
        claim=None,
    )  # fmt: skip
    stored.write_done(done, pack(list(visualize_in_batches(team.setup, done))))
    monkeypatch.setattr(workers, "_pools", None)  # no processes
    found = list(workers._visualize_together(team, stored))
    assert [result.visualization.unit for result in found] == list(range(16))


@pytest.mark.usefixtures("two_threads")
def test_refused_processes_are_told(monkeypatch, caplog):
    def refuse(self, *given):
        raise OSError(errno.EAGAIN, "too many processes")

    monkeypatch.setattr(workers.ProcessPoolExecutor, "submit", refuse)
    monkeypatch.setattr(workers.fork, "is_possible", lambda: True)
    assert len(list(visualize_units(setup_of(*CORES)))) == 16
    assert "one process computes all units" in caplog.text
    assert "too many processes" in caplog.text


@needs_proc
@pytest.mark.process
@pytest.mark.usefixtures("two_threads")
def test_killed_worker_is_told(monkeypatch):
    """As by a system without memory; the same command continues."""

    def die(setup, batch, progress, checkpoints):
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(batches, "_visualize_batch", die)
    with pytest.raises(WorkFailed, match="memory was full. The same command .* `batch="):
        list(visualize_units(setup_of(*CORES)))


@pytest.mark.process
def test_failed_process_ends_the_others(monkeypatch):
    setup = setup_of(*QUICK, "unit=0-5", "device=[cpu,cpu]")
    broken = dataclasses.replace(setup.experiment, layer="nonsense")
    with pytest.raises(Exception, match="process"):
        list(visualize_units(dataclasses.replace(setup, experiment=broken)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["model=vgg19", "layer=conv3_1", "unit=all", "n=16"],
        ["model=vgg19", "layer=conv5_1", "unit=0"],
    ],
)
def test_large_layers_fit_in_four_gigabytes(words, tmp_path):
    """A whole layer with 16 images a unit, and a receptive field of 156 pixels."""
    more = ["model.weights=random", "optimizer.steps=1", "optimizer.search_steps=1",
            "objective.restarts=2", "device=cpu"]  # fmt: skip
    code = (
        "import resource, sys; from diversevis.method.device import keep_pages; keep_pages();"
        "from diversevis.config.compose import compose_config, experiment_of;"
        "from diversevis.method.setup import prepare; from diversevis.experiment.batches import visualize_in_batches;"
        "s = prepare(experiment_of(compose_config(sys.argv[1:])));"
        "n = len(s.targets.units);"
        "assert len(list(visualize_in_batches(s, range(n)))) == n;"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, *words, *more], capture_output=True, text=True, check=True
    )
    assert int(found.stdout) * 1024 < 4 * 2**30


@pytest.mark.parametrize("word", ["precision=tf32", "algorithms=fastest"])
def test_rounding_of_a_gpu_is_for_cuda(word):
    with pytest.raises(InputError, match=f"{word} is a setting of CUDA devices"):
        setup_of(word)


def test_copies_for_the_host_are_contiguous():
    value = torch.arange(6.0).reshape(2, 3).T
    copies = to_host({"a": value, "b": value[:0]})
    assert torch.equal(copies["a"], value)
    assert copies["a"].is_contiguous()
    assert copies["a"].data_ptr() != value.data_ptr()
    assert copies["b"].shape == (0, 2)
