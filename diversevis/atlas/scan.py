"""Which runs and comparisons are below a root, read through the check that all commands use.

Made for tens of thousands of runs: an `Entry` holds the indices of its units and few other facts.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from diversevis import __version__
from diversevis.atlas.texts import digest
from diversevis.compare.indices import Index, number_at, value_of
from diversevis.compare.report import MAIN, measured_indices, share_of_best, state_of
from diversevis.compare.runs import Run
from diversevis.errors import InputError, plain
from diversevis.runs import check, trust
from diversevis.runs.files import Damaged, read_json
from diversevis.runs.find import Folder, find_folders, in_threads, no_garbage_collection
from diversevis.runs.versions import SWEEPS
from diversevis.table.read import read_files

FORMAT = 1  # of what is written for a run: another number has everything made again
RUNS_AT_ONCE = 4  # for a thread: metrics.json of a large layer has megabytes
COMPARISON = "comparison.json"
LARGEST = 64 * 2**20  # bytes of a comparison

Number = float | None


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A finished run.

    mark       of this account, in all digests: no file that somebody else has prepared under such a
               name is taken for one of ours
    path       its real folder; `name`: as a person sees it; `place`: from the root to it
    stamps     size and time of change of the files that pages are made from
    layer      what its units share with those of other runs on a page (`layer_of`)
    facts      of run.json, for a person
    measured   the measures that every unit has numbers of
    columns    of every index (by its address) the number of every unit, and `weak` the rows whose
               number says little
    """

    mark: str
    path: Path
    name: str
    place: str
    stamps: Mapping[str, Sequence[int]]
    layer: Mapping[str, Any]
    facts: Mapping[str, Any]
    measures: Mapping[str, Any]
    indices: Sequence[Index]
    units: Sequence[int]
    states: Sequence[str]
    measured: Sequence[Sequence[str]]
    columns: Mapping[str, Sequence[Number]]
    weak: Mapping[str, Sequence[int]]

    @cached_property
    def digest(self) -> str:
        """Names the files that are made from this run as it is now."""
        return digest([*self._of, self.stamps])

    def digest_of(self, measure: str) -> str:
        """Names the pictures of a measure: they stay where only other measures are new."""
        needed = ("images.safetensors", f"analysis/{measure}.safetensors")
        stamps = {name: stamp for name, stamp in self.stamps.items() if name in needed}
        return digest([*self._of, measure, stamps])

    @property
    def _of(self) -> tuple[Any, ...]:
        # Not the name: it is another one when the root is typed in another way.
        return self.mark, FORMAT, __version__, self.place, self.facts["config_hash"]


@dataclass(frozen=True, kw_only=True)
class Found:
    """All below a root: runs, folders of comparisons, and (folder, reason) of what is left out."""

    entries: Sequence[Entry]
    comparisons: Sequence[Path]
    left_out: Sequence[tuple[str, str]]


def scan(root: Path) -> Found:
    """Read all runs of a root: a run's folder, a sweep's, a comparison's, or one above these.

    Raises `InputError` where there is none that can be shown.
    """
    starts, sweep, hashes = _starts(root)
    folders, left_out = find_folders(starts)
    entries: list[Entry] = []
    with no_garbage_collection():
        answers = in_threads(
            partial(_entry, trust.mark("atlas"), os.path.realpath(root)), folders, RUNS_AT_ONCE
        )
        for folder, answer in zip(folders, answers, strict=True):
            if isinstance(answer, Damaged):
                left_out.append((folder, str(answer)))
            elif hashes is not None and answer.facts["config_hash"] not in hashes:
                left_out.append((folder, "it is not the run that was compared"))
            elif sweep is None or answer.facts["sweep"] == sweep:
                entries.append(answer)
    reasons = sorted((folder.name, reason) for folder, reason in left_out)
    if not entries:
        raise InputError(_nothing(root, reasons))
    return Found(entries=entries, comparisons=_comparisons(root), left_out=reasons)


def _nothing(root: Path, reasons: Sequence[tuple[str, str]]) -> str:
    if not root.is_dir():
        return f"{root} is not a folder. Name a run folder, or a folder above several."
    why = "".join(f" {folder}: {reason}." for folder, reason in reasons[:3])
    return (
        f"{root} holds no finished run (no run.json, at any depth).{why} Name a folder that "
        "`diversevis run` printed, or a folder above several."
    )


def _starts(root: Path) -> tuple[list[Path], str | None, set[str] | None]:
    """Where runs are, the name of the sweep that they must be of, and the hashes that they must
    have."""
    if (root / COMPARISON).is_file():
        sides = [pair[side] for pair in _read_comparison(root)["pairs"] for side in "ab"]
        # The record may be somebody else's: no folders are searched that it names.
        folders = dict.fromkeys(Path(side["folder"]) for side in sides)
        runs = [folder for folder in folders if (folder / "run.json").is_file()]
        if not runs:
            named = ", ".join(map(str, [*folders][:3]))
            raise InputError(
                f"{root}: the runs that it compares are not there ({named}). Where these paths "
                "begin in another folder, call the command from that folder; or compare anew."
            )
        return runs, None, {side["config_hash"] for side in sides}
    if (root / "sweep.json").is_file():
        folder = root.resolve()
        if folder.parent.name == SWEEPS:
            return [folder.parents[1]], folder.name, None
    return [root], None, None


# -- runs -----------------------------------------------------------------------------------------


def _entry(mark: str, root: str, folder: Folder) -> Entry | Damaged:
    """The run in a folder, or why it is left out."""
    files = read_files(folder)
    if isinstance(files, Damaged):
        return files
    try:
        results = check.check(files)
        stamps = _stamps(folder.path)
    except Damaged as reason:
        return reason
    except OSError as error:
        return Damaged(f"it cannot be read ({error.strerror})")
    run = Run(
        path=Path(folder.path), record=results.record, measures=results.measures, units=results.rows
    )
    try:
        indices = measured_indices(run)
    except ValueError:
        return Damaged("metrics.json has numbers for a size of deformation that is no number")
    columns, weak = _columns(run, indices)
    return Entry(
        mark=mark, path=run.path, name=folder.name, place=os.path.relpath(folder.path, root),
        stamps=stamps, layer=layer_of(run), facts=_facts(run),
        measures=run.measures, indices=indices, units=results.units,
        states=[state_of(unit) or "" for unit in run.units], columns=columns, weak=weak,
        measured=[
            [name for name in run.measures if unit.get(name) is not None] for unit in run.units
        ],
    )  # fmt: skip


def _stamps(path: str) -> dict[str, tuple[int, int]]:
    """Size and time of change of the files that the pages of a run are made from."""
    stamps = {}
    for below in ("", "analysis/"):
        try:
            with os.scandir(f"{path}/{below}") as listing:
                for file in listing:
                    if file.name.endswith((".json", ".csv", ".safetensors", ".gif", ".mp4")):
                        with contextlib.suppress(OSError):  # a link to nowhere
                            facts = file.stat()
                            stamps[below + file.name] = facts.st_size, facts.st_mtime_ns
        except (FileNotFoundError, NotADirectoryError):
            continue
    return dict(sorted(stamps.items()))


def layer_of(run: Run) -> dict[str, Any]:
    """What units must share to stand on a page: the layer, and how their images were made.

    The settings are those that `diversevis show` asks for before it ranks a unit, and the seed.
    """
    record, config = run.record, run.record["config"]
    made, distance = ("n", "diversity", "fraction", "front"), record.get("distance")
    return {
        **{key: record.get(key) for key in ("model", "layer", "direction", "computation")},
        "weights": record["weights"].get("sha256"),
        "size": list(record["receptive_field"]["size"]),
        "contrast": float(f"{run.contrast:.3g}"),
        **{key: record.get(key) for key in made},
        # With its metric, for which the pages of earlier runs have no key.
        "distance": f"cosine, {distance}" if record.get("metric") == "cosine" else distance,
        "seed": record.get("seed", config.get("seed")),
        **({"prior": _prior(prior)} if (prior := record.get("prior")) else {}),
        # Of metamers: their rows are photographs, whose numbers mean others in every run.
        **({"photographs": record["recipe_hash"]} if record.get("references") else {}),
    }


def _prior(prior: Mapping[str, Any]) -> str:
    """Kind and settings, without what the images were compared with afterwards."""
    later = {"kind", "check", "check_file"} | (
        set() if prior.get("kind") == "spectrum" else {"photographs"}
    )
    shown = {name: str(value)[:8] for name, value in prior.items()
             if name not in later and value is not None}  # fmt: skip
    return ", ".join([str(prior.get("kind")), *(f"{k} {v}" for k, v in shown.items())])


def _facts(run: Run) -> dict[str, Any]:
    record = run.record
    field, versions = record["receptive_field"], record.get("versions")
    source = record["weights"].get("source")
    not_measured = record.get("not_measured") or {}
    return {
        "sweep": record.get("sweep"),
        "config_hash": record["config_hash"],
        **{key: plain(str(record.get(key) or "")) for key in ("command", "rerun")},  # to be copied
        "made": str(record.get("start") or ""),
        "version": str(versions.get("diversevis", "")) if isinstance(versions, Mapping) else "",
        "device": str(record.get("device_name") or record.get("device") or ""),
        "weights": os.path.basename(source) if isinstance(source, str) else "",  # noqa: PTH119
        "response": str(record.get("response") or ""),
        "stride": field["stride"] if _is_pair(field.get("stride")) else None,
        "not_measured": {str(name): str(reason) for name, reason in not_measured.items()},
    }


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and [type(x) in (int, float) for x in value] == [True, True]


def address_of(index: Index) -> str:
    """How an index is called in a page's address: a measure's main index by the measure's name."""
    return index.measure if MAIN.get(index.measure) == index.key else index.key


def _columns(
    run: Run, indices: Sequence[Index]
) -> tuple[dict[str, list[Number]], dict[str, list[int]]]:
    dead = [state_of(unit) == "dead" for unit in run.units]
    columns: dict[str, list[Number]] = {
        "response": [share_of_best(unit) for unit in run.units],
        "distance": [number_at(unit, "distance_pixels_min") for unit in run.units],
    }
    weak = {}
    for index in indices:
        name = address_of(index)
        values = [
            None if gone else number_at(unit, index.key)
            for unit, gone in zip(run.units, dead, strict=True)
        ]
        columns[name] = values
        rows = [row for row, unit in enumerate(run.units) if value_of(unit, index) == "weak"]
        if rows:
            weak[name] = rows
    return columns, weak


# -- comparisons ----------------------------------------------------------------------------------


def _comparisons(root: Path) -> list[Path]:
    """Folders of comparisons: the root, or those that `diversevis compare` made below it."""
    if (root / COMPARISON).is_file():
        return [root]
    return sorted(file.parent for file in root.glob(f"compare/*/v*/{COMPARISON}"))


def _read_comparison(folder: Path) -> dict[str, Any]:
    try:
        return checked_comparison(folder)
    except Damaged as reason:
        raise InputError(f"{folder} is damaged: {reason}.") from reason


def checked_comparison(folder: Path) -> dict[str, Any]:
    """What comparison.json holds; raises `Damaged` where it lacks what a page shows."""
    result = read_json(folder, COMPARISON, LARGEST)
    try:
        for pair in result["pairs"]:
            for side in "ab":
                run = pair[side]
                _check([run[name] for name in ("folder", "model", "layer", "config_hash")], str)
                height, width = run["receptive_field"]
                _check([height, width, *run["units"]], int)
            for index in pair["indices"]:
                _check([index[name] for name in ("index", "title", "unit", "statistic")], str)
                for side in "ab":
                    _check((value for value in index[side]["values"] if value is not None), float)
                    if len(index[side]["values"]) != len(pair[side]["units"]):
                        raise TypeError("values of other units")
    except (KeyError, TypeError, ValueError) as error:
        raise no_comparison(error) from error
    return result


def no_comparison(error: Exception) -> Damaged:
    return Damaged(f"{COMPARISON} is no comparison ({type(error).__name__}: {str(error)[:80]})")


def _check(values: Iterable[Any], kind: type) -> None:
    allowed = (int, float) if kind is float else kind
    for value in values:
        is_finite = kind is str or (type(value) is not bool and abs(value) < 2**1000)
        if not isinstance(value, allowed) or not is_finite:
            raise TypeError(json.dumps(value)[:60])
