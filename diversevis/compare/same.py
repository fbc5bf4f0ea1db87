"""Which runs may be compared: where two runs were made or measured with different settings."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from diversevis.compare.runs import Run

# Entries of run.json in which two runs must agree to be compared
SAME = "n", "diversity", "distance", "metric", "fraction", "front"
CONTRAST_TOLERANCE = 0.01  # relative: norms are rounded, for fields of other sizes differently

Difference = tuple[str, Any, Any]  # name of a setting, with its value in A and in B


def another_layer(a: Run, b: Run) -> str | None:
    """What tells that the units of two runs belong to different layers; None for the same layer."""
    for key in ("model", "layer", "direction", "computation"):
        if a.record.get(key) != b.record.get(key):
            return key
    sums = [run.record["weights"].get("sha256") for run in (a, b)]
    return "weights" if sums[0] != sums[1] else None


def differently_made(a: Run, b: Run) -> list[Difference]:
    """Settings of the images in which two runs differ; none: their units may be compared."""
    values = ((key, made_with(a.record, key), made_with(b.record, key)) for key in SAME)
    made: list[Difference] = [(key, in_a, in_b) for key, in_a, in_b in values if in_a != in_b]
    if a.record.get("references") or b.record.get("references"):
        made += differences(_match(a.record), _match(b.record), "objective")
    made += differences(_prior(a.record), _prior(b.record), "prior")
    if not math.isclose(a.contrast, b.contrast, rel_tol=CONTRAST_TOLERANCE):
        made.append(("contrast", f"{a.contrast:.4g}", f"{b.contrast:.4g}"))
    return made


def _match(record: Mapping[str, Any]) -> dict[str, Any]:
    """The photographs that metamers match, and the settings of the match."""
    objective = record["config"]["objective"]
    of_match = {key: objective.get(key) for key in ("tolerance", "start", "crop", "side")}
    return {"photographs": record.get("references"), **of_match}


def _prior(record: Mapping[str, Any]) -> dict[str, Any]:
    """What decides about the prior, without what the images were compared with afterwards."""
    prior = record.get("prior") or {"kind": "none"}
    later = {"check", "check_file"} | (set() if prior["kind"] == "spectrum" else {"photographs"})
    return {name: value for name, value in prior.items() if name not in later}


def made_with(record: Mapping[str, Any], key: str) -> Any:
    """An entry of `SAME` in run.json; for those of runs before it came, its only value then."""
    before = "rms" if key == "metric" and record.get("n") is not None else None
    return record.get(key, before)


def differences(a: Any, b: Any, key: str) -> Iterator[Difference]:
    """Dotted keys at which two nested settings differ, with both values."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for name in dict.fromkeys([*a, *b]):
            yield from differences(a.get(name), b.get(name), f"{key}.{name}")
    elif a != b:
        yield key, a, b
