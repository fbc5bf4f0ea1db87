"""`diversevis run -m`: a sweep planned here, and launched by whichever launcher Hydra has."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from diversevis.config.compose import experiment_of, plain
from diversevis.config.explain import plain_errors
from diversevis.config.hydra_call import call_hydra
from diversevis.config.jobs import Jobs, shown
from diversevis.config.place import config_folder
from diversevis.config.speak import speak
from diversevis.errors import InputError, SweepUnfinished
from diversevis.run_folder import Claim
from diversevis.settings import Experiment
from diversevis.sweep.manifest import SWEEPS, Planned, Sweep
from diversevis.words import quoted

LOG = logging.getLogger("diversevis")
SECONDS_BETWEEN_LOOKS = 5.0
PATIENCE = 600.0  # seconds in which Slurm must say once what it has
BATCH_SIZE = "hydra.sweeper.max_batch_size="
SHOWN = 20  # jobs that are told one by one


def is_sweep(flags: Sequence[str], overrides: Sequence[str]) -> bool:
    """Whether a sweep is to be planned here: not if only configs are shown, or by a sweeper that
    chooses as it goes."""
    asked = {"-m", "--multirun"} & set(flags)
    shows = {"--cfg", "-c", "--info", "-i", "--hydra-help", "--shell-completion", "-sc"}
    chooses = any(re.match(r"\+?hydra/sweeper=(?!basic$)", word) for word in overrides)
    return bool(asked) and not shows & set(flags) and not chooses


def sweep_command(flags: Sequence[str], overrides: Sequence[str], typed: str) -> None:
    """Plan, launch, and say what came of it.

    Raises `InputError` for anything in it that cannot be had, before anything is begun;
    `SweepUnfinished` where not all of it is finished in the end.
    """
    speak()
    ours, launcher = apart(overrides)
    from diversevis.planning import Combination, plan  # with all that a run needs

    combinations = [
        Combination(experiment_of(config), plain(config)) for config in _combinations(flags, ours)
    ]
    kinds = [_kind_of_device(one.experiment, launcher) for one in combinations]
    planned = plan(combinations, kinds)
    for folder, units in planned.found.items():
        print(f"{shown(folder)} has {units} of these units, finished: skipped", file=sys.stderr)
    root = Path(combinations[0].experiment.root).expanduser().resolve()
    if planned.works:
        launch(root, planned.works, planned.jobs, launcher, typed)
    else:
        print("diversevis: all of it is finished. again=true makes new versions.", file=sys.stderr)
    for folder in planned.found:
        print(shown(folder), flush=True)


def launch(
    root: Path,
    works: Sequence[Planned],
    jobs: Sequence[Sequence[int]],
    launcher: Sequence[str],
    typed: str,
) -> None:
    """Have Hydra's launcher do the jobs; returns when all is finished.

    Raises `SweepUnfinished` where it is not.
    """
    name = f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{os.getpid()}"
    sweep = Sweep(
        folder=root / SWEEPS / name,
        command=typed,
        launcher=tuple(launcher),
        start=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        works=tuple(works),
        jobs=tuple(tuple(job) for job in jobs),
    )
    sweep.write()
    _say_plan(sweep)
    claim = Claim.make(sweep.folder)
    if claim is not None:
        claim.begin()
    job = Jobs(folder=sweep.folder, submitter=os.getpid())

    def one_job(config: DictConfig) -> object:
        return job(config.planned_job)

    size = _most_at_once(launcher) or len(jobs)
    here = [
        *(word for word in launcher if BATCH_SIZE not in word),
        f"hydra.sweep.dir={_quoted(sweep.folder)}",
        "hydra.job.name=diversevis",
    ]
    try:
        for first in range(
            0, len(jobs), size
        ):  # a launcher gives up all after a batch with a dead job
            last = min(first + size, len(jobs))
            numbers = f"range({first},{last})" if last - first > 1 else str(first)
            words = [*here, f"+planned_job={numbers}"]
            _until_its_end(partial(call_hydra, one_job, ["-m"], words), sweep)
    except InputError:
        if not (sweep.folder / ".submitit").exists():  # nothing was launched
            _forget(sweep)
        raise
    finally:
        if claim is not None:
            claim.remove()
    _say_end(sweep)


def _combinations(flags: Sequence[str], overrides: Sequence[str]) -> Iterator[DictConfig]:
    """The config of every combination of swept values, all units of a sweep over them in one."""
    parser = OverridesParser.create()
    with plain_errors(overrides):
        parsed = parser.parse_overrides([quoted(word) for word in overrides])
    axes: dict[str, list[str]] = {}
    for override in parsed:
        key = override.get_key_element()
        axes[key] = [f"{key}={value}" for value in _values(override)]
    folder, name = _config_flags(flags)
    extra = [f"hydra.searchpath=[{_quoted(folder)}]"] if folder else []
    with plain_errors(overrides), initialize_config_dir(config_folder(), version_base="1.3"):
        for words in itertools.product(*axes.values()):
            yield compose(name, overrides=[*words, *extra])


def _values(override: Override) -> list[str]:
    """What an override says, value by value if it sweeps; of a sweep over units, all in one."""
    if not override.is_sweep_override():
        return [override.get_value_element_as_str()]
    if not override.is_discrete_sweep():
        raise InputError(
            f"{override.input_line}: a range without steps needs another sweeper "
            "(hydra/sweeper=...). Write a list, key=1,2,3, or range(start,stop,step)."
        )
    values = list(override.sweep_string_iterator())
    if override.get_key_element() != "unit":
        return values
    parts = [part for value in values for part in value.strip("[]").split(",")]
    return ["all"] if "all" in parts else [f"[{','.join(parts)}]"]


def apart(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """What is Hydra's own (the launcher and its settings), and the rest."""
    hydras = [word for word in overrides if re.match(r"[+~]*hydra[./]", word)]
    return [word for word in overrides if word not in hydras], hydras


def _quoted(path: Path) -> str:
    """For Hydra's grammar."""
    return quoted(f"root={path}").removeprefix("root=")


def _config_flags(flags: Sequence[str]) -> tuple[Path | None, str]:
    """The folder and name of a config given instead of ours."""
    folder, name = None, "run"
    words = list(itertools.chain.from_iterable(flag.split("=", 1) for flag in flags))
    for flag, value in itertools.pairwise(words):
        if flag in ("--config-dir", "-cd"):
            folder = Path(value).resolve()
        if flag in ("--config-name", "-cn"):
            name = value
    return folder, name


def _kind_of_device(experiment: Experiment, launcher: Sequence[str]) -> str:
    """What the jobs will run on: `cpu` or `cuda`, told by the settings; else by this machine."""
    words = str(experiment.device)
    if words != "auto":
        return "cuda" if "cuda" in words else "cpu"
    if "hydra/launcher=slurm" in launcher:
        none = {f"hydra.launcher.gpus_per_node={value}" for value in ("0", "null")}
        return "cpu" if none & set(launcher) else "cuda"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _most_at_once(launcher: Sequence[str]) -> int | None:
    """How many jobs are launched at once: as told, or as a cluster's job arrays may be long."""
    for word in launcher:
        if BATCH_SIZE in word:
            value = word.partition("=")[2]
            if not value.isdecimal() or int(value) < 1:
                raise InputError(f"{word}: must be a number of jobs, 1 or more.")
            return int(value)
    if "hydra/launcher=slurm" not in launcher or shutil.which("scontrol") is None:
        return None
    try:
        answer = subprocess.run(
            ["scontrol", "show", "config"],  # noqa: S607
            capture_output=True, text=True, timeout=30, check=True,
        ).stdout  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", answer, re.MULTILINE)
    return max(1, int(found[1]) - 1) if found else None


def _until_its_end(launched: Callable[[], None], sweep: Sweep) -> None:
    """The launcher's part; it gives up at the first job that died, and the others go on."""
    try:
        launched()
    except InputError:
        raise
    except KeyboardInterrupt:
        if _queued(sweep):
            print(
                "diversevis: the jobs in the cluster's queue go on; scancel ends them, "
                f"`diversevis status {shown(sweep.folder.parents[1])}` tells how they stand.",
                file=sys.stderr,
            )
        raise
    except Exception as error:
        LOG.warning("the launcher: %s%s", error, _hint(str(error)))
        silent_since = time.monotonic()
        while (queued := _queued(sweep)) is not False:
            if queued:
                silent_since = time.monotonic()
            elif time.monotonic() - silent_since > PATIENCE:
                LOG.warning("Slurm does not say which jobs it has: no longer waited for")
                return
            time.sleep(SECONDS_BETWEEN_LOOKS)


def _hint(said: str) -> str:
    if "node configuration" in said:
        return "\nA cluster's nodes without GPUs need hydra.launcher.gpus_per_node=0."
    return ""


def _forget(sweep: Sweep) -> None:
    """The record of a sweep that came to nothing, and the folders made for it."""
    shutil.rmtree(sweep.folder, ignore_errors=True)
    for empty in (sweep.folder.parent, sweep.folder.parents[1]):
        with contextlib.suppress(OSError):
            empty.rmdir()


def _queued(sweep: Sweep) -> bool | None:
    """Whether the cluster's queue has jobs of this sweep; None where it does not say."""
    from diversevis.sweep.launched import read_launched, squeue_ids

    launched = read_launched(sweep)
    if not launched.slurm:
        return False
    queue = squeue_ids()
    return None if queue is None else bool(set(launched.ids) & queue)


def _say_end(sweep: Sweep) -> None:
    """Folders, counts, and what to do about the rest."""
    from diversevis.sweep.status import state_of_works

    root = sweep.folder.parents[1]
    states = state_of_works(root, sweep.works, sweep=sweep)
    here = any(word.startswith("hydra/launcher=") for word in sweep.launcher)
    for one in states:
        if here and one.state == "finished" and one.folder is not None:
            print(shown(one.folder), flush=True)
    counts = Counter(one.state for one in states)
    words = ", ".join(f"{count} {state}" for state, count in counts.most_common())
    if set(counts) <= {"finished"}:
        print(f"diversevis: {len(states)} runs, all finished.", file=sys.stderr)
        return
    where = shlex.quote(shown(root))
    raise SweepUnfinished(
        f"{len(states)} runs: {words}. `diversevis status {where} --failed` tells why; "
        f"`diversevis retry {where}` does what is left."
    )


def _say_plan(sweep: Sweep) -> None:
    units = sum(len(work.units) for work in sweep.works)
    print(
        f"diversevis: {units} units in {len(sweep.works)} runs, {len(sweep.jobs)} jobs",
        file=sys.stderr,
    )
    for number, job in enumerate(sweep.jobs[:SHOWN]):
        words = ", ".join("/".join(sweep.works[place].where) for place in job)
        print(f"  job {number}: {words}", file=sys.stderr)
    if len(sweep.jobs) > SHOWN:
        print(f"  and {len(sweep.jobs) - SHOWN} more", file=sys.stderr)
