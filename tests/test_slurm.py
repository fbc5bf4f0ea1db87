"""Sweeps on a real Slurm of one node, which the tests start for themselves and stop again.

Most of their time is waiting (for Slurm's clocks, and submitit's), so the tests marked `beside`
wait side by side: each runs in a thread of its own, and the network that they optimize stands still
at a gate until what is to be tried has been tried.
"""

import contextlib
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

pytestmark = pytest.mark.cluster

SCRIPT = Path(__file__).parents[1] / "scripts" / "one_node_slurm.sh"
MARK = "DIVERSEVIS_TEST"  # in the environment of all that a test starts
LANES = 3  # tests side by side; Python takes long to start where many do
ARRAY = 4  # the cluster's MaxArraySize, of which one less is used
PATIENCE = 240  # seconds that anything may take at most, on a busy machine
SLURM = ["hydra/launcher=slurm", "hydra.launcher.gpus_per_node=0", "hydra.launcher.cpus_per_task=1"]
SMALL = [
    "device=cpu", "model=custom", "model.target=gated.build", "model.mean=[0.5,0.5,0.5]",
    "model.std=[1,1,1]", "layer=simple", "n=2", "images=tensor", "checkpoint=0.2",
    "optimizer.steps=400", "optimizer.search_steps=4", "objective.restarts=2",
]  # fmt: skip
LAYER = "gated.build/simple"

# The analytic network, which all but stands still while the file $GATE is there.
GATED = """
import os, time
from pathlib import Path
from torch import nn
from diversevis.models.energy import EnergyNetwork

class Gated(EnergyNetwork):
    def __init__(self, step):
        super().__init__()
        self.gate = nn.AvgPool2d(1)
        self.gate.register_forward_pre_hook(step)

    def forward(self, image):
        return super().forward(self.gate(image))

def build():
    return Gated(wait)

def wait(module, images):
    if os.path.exists(os.environ["GATE"]):
        time.sleep(0.5)

def broken():
    return Gated(fail)

def fail(module, images):
    # In a job, not while it is planned: that is the first pass with gradients.
    module.passes = getattr(module, "passes", 0) + images[0].requires_grad
    if module.passes > 1:
        raise RuntimeError("a cosmic ray")

def scaled():
    network = EnergyNetwork()
    network.simple.weight.data *= float(Path(__file__).with_name("scale").read_text())
    return network
"""


# --- the cluster ---


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A Slurm of one node.

    env    makes a process talk to it
    alone  held by the sweep that needs the machine for itself while it starts
    ended  set where all is to come to its end
    """

    folder: Path
    env: dict[str, str]
    alone: threading.RLock = field(default_factory=threading.RLock)
    ended: threading.Event = field(default_factory=threading.Event)

    def ask(self, *words):
        """What one of Slurm's commands answers."""
        return subprocess.run(
            words, env=self.env, capture_output=True, text=True, timeout=PATIENCE, check=True
        ).stdout

    def queue(self):
        """Jobs that wait or run."""
        return set(self.ask("squeue", "-h", "-r", "-o", "%i").split())

    def job(self, name):
        """What `scontrol` says of a job."""
        said = self.ask("scontrol", "-o", "show", "job", name)
        return dict(re.findall(r"(\w+)=(\S*)", said))

    def diversevis(self, *words):
        """A command that ends by itself; no gate is in its way."""
        return subprocess.run(
            [sys.executable, "-m", "diversevis", *words], cwd=self.folder,
            env=self.env | {"GATE": "/nowhere"}, capture_output=True, text=True, timeout=PATIENCE,
        )  # fmt: skip

    def status(self, root):
        """Runs in every state, by `diversevis status`; and all that it says."""
        said = self.diversevis("status", root)
        assert said.returncode == 0, said.stderr
        header, *_, total = itertools.takewhile(bool, map(str.split, said.stdout.splitlines()))
        states = header[4:]
        numbers = zip(states, total[-len(states) :], strict=True)
        return {state: int(number) for state, number in numbers if number != "-"}, said.stdout

    def wait(self, condition, what):
        """Until it is so; returns what it gave."""
        deadline = time.monotonic() + PATIENCE
        while not (found := condition()):
            assert not self.ended.is_set(), "the tests are at their end"
            assert time.monotonic() < deadline, what
            time.sleep(0.2)
        return found


@dataclass(frozen=True, kw_only=True)
class Launched:
    """A sweep on the cluster, and the gate at which its works stand still."""

    cluster: Cluster
    root: str
    process: subprocess.Popen
    gate: Path

    def folder(self, work):
        return self.cluster.folder / self.root / work / "v001"

    def record(self, work):
        """None where there is none yet."""
        path = self.folder(work) / "run.json"
        return json.loads(path.read_text()) if path.exists() else None

    def log(self, work):
        return (self.folder(work) / "run.log").read_text()

    def images(self, work):
        return load_file(self.folder(work) / "images.safetensors")["images"]

    def wait(self, condition, what):
        def still():
            if self.process.poll() is not None:
                pytest.fail(f"the sweep has ended before {what}: {self.process.communicate()}")
            return condition()

        return self.cluster.wait(still, what)

    def wait_for_checkpoint(self, work):
        """Of a run at work on its diverse images; returns its record."""

        def diverse():
            for path in (self.folder(work) / "checkpoint").glob("images-state-*.safetensors"):
                with safe_open(path, framework="pt") as file:
                    return json.loads(file.metadata()["facts"])["phase"] == "diverse"

        self.wait(diverse, f"a checkpoint of {work}")
        return self.record(work)

    def wait_for_attempt(self, work, number):
        """Until so many processes have been at it, this one for some steps."""

        def goes_on():
            if (self.record(work) or {}).get("attempts") != number:
                return False
            return self.log(work).count("going on from step") == number - 1

        self.wait(goes_on, f"attempt {number} at {work}")

    def open_gate(self):
        self.gate.unlink()

    def end(self):
        """Exit status, the folders that it printed, and what it said."""
        self.cluster.wait(lambda: self.process.poll() is not None, "an end of the sweep")
        out, err = self.process.communicate()
        return self.process.returncode, out.splitlines(), err


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A Slurm of our own; skipped where this machine cannot have one."""
    plugin = "hydra_submitit_launcher"
    pytest.importorskip(f"hydra_plugins.{plugin}", reason=f"{plugin} is not installed")
    folder = tmp_path_factory.mktemp("slurm")
    (folder / "gated.py").write_text(GATED)
    (folder / "scale").write_text("1")
    outside = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_"))}
    with socket.socket() as one, socket.socket() as other:  # two ports that nobody has
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        ports = one.getsockname()[1], other.getsockname()[1]
    outside |= {
        "SLURM_DIR": f"{folder}/slurm", "SLURM_MAX_ARRAY_SIZE": str(ARRAY), "SLURM_CPUS": "16",
        "SLURM_CTLD_PORT": str(ports[0]), "SLURM_D_PORT": str(ports[1]),
        "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", MARK: str(folder),
    }  # fmt: skip
    started = subprocess.run(
        ["bash", "-c", f'set -e; said=$("{SCRIPT}" start); eval "$said"; env -0'],
        env=outside, capture_output=True, text=True,
    )  # fmt: skip
    if started.returncode == 3:
        pytest.skip(started.stderr.strip())
    try:
        assert started.returncode == 0, started.stderr
        env = dict(line.split("=", 1) for line in started.stdout.split("\0") if line)
        yield Cluster(folder=folder, env=env)
    finally:
        subprocess.run([str(SCRIPT), "stop"], env=outside, check=True, timeout=PATIENCE)
        assert processes_of(folder) == {}


def processes_of(folder):
    """Processes that a test with this folder has started, itself or through others: id -> command."""
    found, mark = {}, f"{MARK}={folder}".encode()
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (path / "environ").read_bytes().split(b"\0"):
                found[int(path.name)] = (path / "cmdline").read_text().split("\0")
    return found


@pytest.fixture(scope="module")
def launch(cluster):
    """Starts a sweep, its gate shut, and makes sure that it ends."""
    launched = []

    def begin(root, *words):
        gate = cluster.folder / f"{root}.gate"
        gate.touch()
        command = [sys.executable, "-m", "diversevis", "run", "-m", f"root={root}"]
        with cluster.alone:
            process = subprocess.Popen(
                [*command, *SMALL, *SLURM, *words],
                cwd=cluster.folder, env=cluster.env | {"GATE": str(gate)},
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
        launched.append(process)
        return Launched(cluster=cluster, root=root, process=process, gate=gate)

    yield begin
    for process in launched:
        process.kill()
        process.communicate()


# --- tests side by side ---

STORIES = {}


def runs_beside_others(story):
    """Makes a test of it, whose body runs while others wait."""

    def test(side_by_side):
        side_by_side[story.__name__].result()

    test.__name__, test.__doc__ = story.__name__, story.__doc__
    STORIES[story.__name__] = story
    return test


@pytest.fixture(scope="module")
def side_by_side(request, cluster, launch):
    """Name of a test that is asked for -> its outcome, as it comes to be."""
    asked = {item.name for item in request.session.items if item.path == request.path}
    with ThreadPoolExecutor(LANES) as pool:
        yield {
            name: pool.submit(story, cluster, launch)
            for name, story in STORIES.items()
            if name in asked
        }
        cluster.ended.set()
        pool.shutdown(cancel_futures=True)


@runs_beside_others
def test_job_continues_after_time_limits(cluster, launch):
    """All of it is real: the limit is a minute, and Slurm sends SIGUSR2 when 10 s and up to 30 more
    are left of it (it looks at the clock every half minute). The job begins anew with a whole
    minute each time, so it is warned a second time; the third attempt finds the gate open."""
    work = f"{LAYER}/0"
    limits = ["hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=10"]
    with cluster.alone:  # it must be at work when it is warned, after 20 s
        sweep = launch("limited", "unit=0", *limits)
        sweep.wait_for_checkpoint(work)
    sweep.wait_for_attempt(work, 2)
    assert sweep.record(work)["status"] == "running"
    sweep.wait_for_attempt(work, 3)
    assert cluster.job(sweep.record(work)["job"])["TimeLimit"] == "00:01:00"
    sweep.open_gate()
    code, folders, err = sweep.end()
    assert (code, folders) == (0, [f"limited/{work}/v001"]), err
    record = sweep.record(work)
    assert record["status"] == "finished"
    assert record["attempts"] >= 3
    steps = re.findall(r"going on from step (\d+) of the diverse", sweep.log(work))
    first, second = map(int, steps[:2])
    assert 0 < first < second
    (said,) = (cluster.folder / "limited" / "multirun").glob("*/.submitit/*_0_log.out")
    requeued = re.findall(r"timed-out|Requeued job \d+ \(\d+ remaining", said.read_text())
    assert requeued[:4] == [
        "timed-out", "Requeued job 1 (999 remaining", "timed-out", "Requeued job 1 (998 remaining",
    ]  # fmt: skip
    assert int(cluster.job(record["job"])["Restarts"]) >= 2


@runs_beside_others
def test_killed_jobs_are_reported_and_retried(cluster, launch):
    """Of an array of three, one is killed as for want of memory, and one cancelled; the third goes
    on, and a fourth job, which did not fit into the array, comes all the same."""
    sweep = launch("killed", "unit=0-3", "units_per_job=1")
    works = [f"{LAYER}/{unit}" for unit in range(4)]
    jobs = [sweep.wait_for_checkpoint(work)["job"] for work in works[:3]]
    (claim,) = sweep.folder(works[0]).glob(".claim-*")
    pid = json.loads(claim.read_text())["pid"]
    assert str(cluster.folder).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    os.kill(pid, signal.SIGKILL)
    cluster.ask("scancel", jobs[1])
    sweep.wait(lambda: cluster.queue() & set(jobs) == {jobs[2]}, "an end of two jobs")
    states = [cluster.job(job)["JobState"] for job in jobs]
    assert states == ["FAILED", "CANCELLED", "RUNNING"]
    counts, said = cluster.status("killed")
    ended = {name: counts.pop(name, 0) for name in ("lost", "interrupted")}
    assert counts == {"running": 1, "waiting": 1}
    assert ended["lost"] >= 1
    assert sum(ended.values()) == 2
    assert f"{works[0]}/v001: the process died without an error" in said
    assert "diversevis retry killed" in said

    sweep.open_gate()
    code, folders, err = sweep.end()
    assert (code, folders) == (1, [f"killed/{work}/v001" for work in works[2:]]), err
    last = err.splitlines()[-1]
    assert last.startswith("diversevis: 4 runs: ")
    for state, count in {"finished": 2, **ended}.items():
        assert not count or f"{count} {state}" in last
    assert "`diversevis retry killed`" in last

    again = cluster.diversevis("retry", "killed")
    assert again.returncode == 0, again.stderr
    assert set(again.stdout.splitlines()) == {f"killed/{work}/v001" for work in works[:2]}
    for work in works[:2]:
        assert [path.name for path in sweep.folder(work).parent.iterdir()] == ["v001"]
        record = sweep.record(work)
        assert (record["status"], record["attempts"]) == ("finished", 2)
        assert record["job"] not in jobs
        assert "going on from step" in sweep.log(work)
    assert cluster.status("killed")[0] == {"finished": 4}


@runs_beside_others
def test_warned_job_is_requeued_and_continues(cluster, launch):
    """SIGUSR2 is what a job gets before its time limit; here `scancel` sends it. One of two jobs is
    warned, and what comes of both is what comes of them here, undisturbed and without Slurm."""
    sweep = launch("warned", "unit=0-1", "units_per_job=1")
    works = [f"{LAYER}/{unit}" for unit in range(2)]
    jobs = [sweep.wait_for_checkpoint(work)["job"] for work in works]
    cluster.ask("scancel", "--signal=USR2", jobs[1])
    local = cluster.diversevis("run", "-m", "root=here", *SMALL, "unit=0-1", "units_per_job=1")
    assert local.returncode == 0, local.stderr
    sweep.wait_for_attempt(works[1], 2)
    sweep.open_gate()
    code, folders, err = sweep.end()
    assert (code, len(folders)) == (0, 2), err
    records = [sweep.record(work) for work in works]
    assert [one["attempts"] for one in records] == [1, 2]
    assert [one["job"] for one in records] == jobs
    assert [cluster.job(job)["Restarts"] for job in jobs] == ["0", "1"]
    assert re.search(r"going on from step \d+ of the diverse", sweep.log(works[1]))
    for work, record in zip(works, records, strict=True):
        there = cluster.folder / "here" / work / "v001"
        alone = json.loads((there / "run.json").read_text())
        for name in ("config_hash", "threads"):
            assert record[name] == alone[name]
        assert torch.equal(sweep.images(work), load_file(there / "images.safetensors")["images"])


@runs_beside_others
def test_sweep_longer_than_an_array(cluster, launch):
    """Five jobs, of which the cluster takes no more than four in one array."""
    sweep = launch("array", "unit=0-4", "units_per_job=1")
    sweep.open_gate()
    code, folders, err = sweep.end()
    works = [f"{LAYER}/{unit}" for unit in range(5)]
    assert code == 0, err
    assert folders == [f"array/{work}/v001" for work in works]
    assert err.splitlines()[-1] == "diversevis: 5 runs, all finished."
    records = [sweep.record(work) for work in works]
    assert [(one["status"], one["attempts"]) for one in records] == [("finished", 1)] * 5
    jobs = [one["job"] for one in records]
    arrays = Counter(job.partition("_")[0] for job in jobs)
    assert len(arrays) == 2
    assert max(arrays.values()) <= ARRAY
    cluster.wait(lambda: not cluster.queue() & set(jobs), "an end of all jobs")
    assert {cluster.job(job)["JobState"] for job in jobs} == {"COMPLETED"}
    assert cluster.status("array")[0] == {"finished": 5}


@runs_beside_others
def test_failed_jobs_are_failed_for_slurm(cluster, launch):
    """One network raises; of one the weights have changed while its job waited in the queue."""
    sweep = launch(
        "failing", "unit=0", "model.target=gated.build,gated.broken,gated.scaled",
        "+hydra.launcher.additional_parameters.hold=true",
    )  # fmt: skip
    sweep.open_gate()
    sent = cluster.folder / "failing" / "multirun"
    (script,) = sweep.wait(lambda: list(sent.glob("*/.submitit/*_submission.sh")), "an array")
    array = script.name.partition("_")[0]
    jobs = [f"{array}_{task}" for task in range(3)]
    assert cluster.queue() >= set(jobs)
    assert cluster.status("failing")[0] == {"waiting": 3}
    (cluster.folder / "scale").write_text("2")
    cluster.ask("scontrol", "release", array)
    code, folders, err = sweep.end()
    assert (code, folders) == (1, [f"failing/{LAYER}/0/v001"]), err
    assert "3 runs: 2 failed, 1 finished" in err.splitlines()[-1]
    cluster.wait(lambda: not cluster.queue() & set(jobs), "an end of all jobs")
    told = [cluster.job(job) for job in jobs]
    assert [(one["JobState"], one["ExitCode"]) for one in told] == [
        ("COMPLETED", "0:0"), ("FAILED", "1:0"), ("FAILED", "1:0"),
    ]  # fmt: skip
    counts, said = cluster.status("failing")
    assert counts == {"finished": 1, "failed": 2}
    assert "gated.broken/simple/0/v001: RuntimeError: a cosmic ray" in said
    assert "weights of gated.scaled (own)" in said
    error = sweep.record("gated.broken/simple/0")["error"]
    assert 'gated.py", line' in error
    assert not (sweep.folder("gated.scaled/simple/0")).exists()


def test_nothing_is_left_in_the_queue(cluster, side_by_side):
    for story in side_by_side.values():
        assert story.exception() is None
    cluster.wait(lambda: not cluster.queue(), "an empty queue")
