"""Sweeps by Hydra's launchers on this machine: joblib, ray and submitit's local one; Slurm has a
file of its own."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from test_slurm import MARK, processes_of

pytestmark = pytest.mark.cluster

PATIENCE = 240  # seconds that a sweep may take at most, on a busy machine
SMALL = [
    "device=cpu", "layer=simple", "n=2", "images=tensor", "optimizer.steps=12",
    "optimizer.search_steps=5", "objective.restarts=2", "units_per_job=1",
]  # fmt: skip
CUSTOM = ["model=custom", "model.mean=[0.5,0.5,0.5]", "model.std=[1,1,1]"]

# The analytic network; and one that raises in a job, though not while the sweep is planned.
NETWORKS = """
from torch import nn
from diversevis.models.energy import EnergyNetwork as Whole

def fail(module, images):
    # In a job, not while it is planned: that is the first pass with gradients.
    module.passes = getattr(module, "passes", 0) + images[0].requires_grad
    if module.passes > 1:
        raise RuntimeError("a cosmic ray")

class Broken(Whole):
    def __init__(self):
        super().__init__()
        self.first = nn.AvgPool2d(1)
        self.first.register_forward_pre_hook(fail)

    def forward(self, image):
        return super().forward(self.first(image))
"""


@pytest.fixture
def sweep(current_folder):
    """Runs a sweep in an empty folder: exit status, folders printed, words said. Nothing that it
    started is at work afterwards."""
    (current_folder / "networks.py").write_text(NETWORKS)
    env = os.environ | {MARK: str(current_folder), "OMP_NUM_THREADS": "1"}

    def run(*words, **more):
        process = subprocess.run(
            [sys.executable, "-m", "diversevis", "run", "-m", *SMALL, *words],
            env=env | more, capture_output=True, text=True, timeout=PATIENCE,
        )  # fmt: skip
        return process.returncode, process.stdout.splitlines(), process.stderr

    yield run
    deadline = time.monotonic() + 20  # workers may need a moment to see that all is over
    while (left := processes_of(current_folder)) and time.monotonic() < deadline:
        time.sleep(0.2)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert not left, left


def skip_without(plugin):
    pytest.importorskip(f"hydra_plugins.{plugin}", reason=f"{plugin} is not installed")


def check_three_runs(code, out, err):
    """Three units, a job and a run each."""
    assert code == 0, err
    folders = [f"outputs/energy/simple/{unit}/v001" for unit in range(3)]
    assert [line for line in out if line.startswith("outputs")] == folders
    assert err.splitlines()[-1] == "diversevis: 3 runs, all finished."
    for folder in folders:
        record = read(folder)
        assert (record["status"], record["attempts"]) == ("finished", 1)


def check_jobs_are_named(err):
    for number in range(3):
        assert err.count(f"job {number + 1} of 3: energy/simple/{number}") == 1
    assert "HYDRA" not in err
    assert "planned_job" not in err


def read(folder):
    return json.loads(Path(folder, "run.json").read_text())


def test_joblib_runs_a_sweep(sweep):
    skip_without("hydra_joblib_launcher")
    told = sweep("unit=0-2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    check_three_runs(*told)
    check_jobs_are_named(told[2])


def test_joblib_reports_failed_jobs(sweep):
    skip_without("hydra_joblib_launcher")
    code, out, err = sweep(
        *CUSTOM, "model.target=networks.Whole,networks.Broken", "unit=0,1",
        "hydra/launcher=joblib", "hydra.launcher.n_jobs=2",
    )  # fmt: skip
    assert code == 1, err
    assert out == [f"outputs/networks.Whole/simple/{unit}/v001" for unit in (0, 1)]
    assert "4 runs: 2 finished, 2 failed" in err.splitlines()[-1]
    assert "`diversevis retry outputs`" in err.splitlines()[-1]
    for unit in (0, 1):
        record = read(f"outputs/networks.Broken/simple/{unit}/v001")
        assert record["status"] == "failed"
        assert "RuntimeError: a cosmic ray" in record["error"]


def test_submitit_local_runs_a_sweep(sweep, current_folder):
    skip_without("hydra_submitit_launcher")
    told = sweep("unit=0-2", "hydra/launcher=local")
    check_three_runs(*told)
    check_jobs_are_named(told[2])
    assert re.search(r"what the jobs print is in outputs/multirun/.*/\.submitit", told[2])
    said = list(current_folder.glob("outputs/multirun/*/.submitit/*_log.out"))
    assert len(said) == 3
    assert all("Job completed successfully" in path.read_text() for path in said)
    logs = [path.with_suffix(".err").read_text() for path in said]
    assert sorted(re.findall(r"job (\d) of 3: energy/simple/", "".join(logs))) == ["1", "2", "3"]


def test_ray_runs_a_sweep(sweep):
    """It starts itself, two workers here, and needs no internet; its files lie in a folder whose
    name must be short, since its sockets are in there."""
    skip_without("hydra_ray_launcher")
    folder = tempfile.mkdtemp(prefix="ray-")
    try:
        told = sweep(
            "unit=0-2", "hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2",
            "+hydra.launcher.ray.init.include_dashboard=false",
            f"+hydra.launcher.ray.init._temp_dir={folder}",
            RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0",
            RAY_worker_niceness="0",  # else 15: on a busy machine workers import torch for minutes
        )  # fmt: skip
        check_three_runs(*told)
        check_jobs_are_named(told[2])
        assert any(Path(folder).iterdir())
    finally:
        shutil.rmtree(folder)
