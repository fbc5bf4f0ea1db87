"""Measures the paper's four claims: makes runs, claims.json and a page of figures.

    DIVERSEVIS_WEIGHTS=weights python scripts/reproduce_paper.py [--quick] [--device cuda]
    DIVERSEVIS_WEIGHTS=weights python scripts/reproduce_paper.py --beyond --natural photos [--quick]

Visualizes and measures whole layers of VGG-19 (conv1_1 to conv3_1) and ResNet-50 (conv1 to
layer1.2), with the commands in claims.json; then computes the numbers for and against the claims
(docs/method.md, section 7; docs/paper.md has results). A claim that does not hold is reported as
such. Finished runs are reused, so a second start continues where the first stopped.

`--quick` takes 16 units of each layer, 6 of them for the slow measures, and a few minutes. The full
reproduction takes less than an hour on two cores; there the shift and deformation tests take a
random sample of the units of conv3_1 and layer1.*; on a GPU they take all units.

`--beyond` measures, instead of the claims, what the paper does not have: bipartite fields, families
of units, and, with photographs, natural varied images and metamers (beyond.json, beyond.html).
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from paper.beyond import beyond_of
from paper.beyond_page import beyond_page, beyond_pictures
from paper.beyond_runs import beyond_plans
from paper.claims import claims_of
from paper.figures import Picture, pictures_of
from paper.page import page
from paper.runs import Plan, Run, plans, run_of

from diversevis.errors import InputError
from diversevis.method.device import pick_device
from diversevis.runs import provenance
from diversevis.runs.files import replacing

# Entries of run.json that go into the entry `made` of claims.json.
RECORDED = "device", "device_name", "threads", "precision"


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the runs, claims.json, the figures and the page; print the page's path last."""
    options = _options(arguments)
    began, out = time.perf_counter(), Path(options.out).expanduser()
    planned = _planned(options)
    planned_runs = {
        plan.name: run_of(plan, out, make=options.only != "figures") for plan in planned
    }
    runs = {name: run for name, run in planned_runs.items() if run is not None}
    if not runs:
        raise SystemExit(f"{out}: no finished runs with these settings to make figures from.")
    about = _about(options, runs) | {"seconds": round(time.perf_counter() - began, 1)}
    written = (write_beyond if options.beyond else write)(out, about, planned, runs)
    print(f"{time.perf_counter() - began:.0f} s\n{written}")


def _planned(options: argparse.Namespace) -> list[Plan]:
    common = {key: getattr(options, key) for key in ("quick", "seed", "device", "natural")}
    if options.beyond:
        try:
            return beyond_plans(**common)
        except InputError as error:  # no photographs
            raise SystemExit(str(error)) from error
    on_gpu = pick_device(options.device).type == "cuda"
    return plans(**common, on_gpu=on_gpu, sample=options.sample)


def write(out: Path, about: dict[str, Any], planned: Sequence[Plan], runs: dict[str, Run]) -> Path:
    """Write claims.json, figures/*.png and index.html to `out`; return the page's path."""
    claims = claims_of(runs, planned, out)
    content = {"made": about, "claims": claims, "runs": _folders(out, runs)}
    _write_json(out / "claims.json", content)
    pictures = pictures_of(claims, runs, out)
    _write_pictures(out, "figures", itertools.chain.from_iterable(pictures.values()))
    _write(out / "index.html", page(content, pictures).encode())
    return out / "index.html"


def write_beyond(
    out: Path, about: dict[str, Any], planned: Sequence[Plan], runs: dict[str, Run]
) -> Path:
    """Write beyond.json, figures_beyond/*.png and beyond.html to `out`; return the page's path."""
    lines = {plan.name: plan.line for plan in planned if plan.name in runs}
    content = {"made": about, **beyond_of(runs), "commands": lines, "runs": _folders(out, runs)}
    _write_json(out / "beyond.json", content)
    pictures = beyond_pictures(content, runs)
    _write_pictures(out, "figures_beyond", itertools.chain.from_iterable(pictures.values()))
    _write(out / "beyond.html", beyond_page(content, pictures).encode())
    return out / "beyond.html"


def _folders(out: Path, runs: dict[str, Run]) -> dict[str, str]:
    return {name: run.path.relative_to(out).as_posix() for name, run in runs.items()}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    _write(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def _write_pictures(out: Path, folder: str, pictures: Iterable[Picture]) -> None:
    for old in (out / folder).glob("*.png"):
        old.unlink()
    for picture in pictures:
        _write(out / picture.file, picture.png)


def _about(options: argparse.Namespace, runs: dict[str, Run]) -> dict[str, Any]:
    """The entry `made` of claims.json: versions, device, settings, seconds."""
    record = next(iter(runs.values())).record
    return {
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": provenance.versions(),
        **{key: record.get(key) for key in RECORDED},
        "quick": options.quick,
        "photographs": options.natural is not None,
        "seed": options.seed,
        "seconds_of_runs": round(sum(run.record.get("seconds") or 0 for run in runs.values()), 1),
    }


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside:
        beside.write_bytes(content)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", default="outputs/paper", help="folder (outputs/paper)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--quick", action="store_true", help="a sample of units: minutes")
    parser.add_argument("--seed", type=int, default=0, help="for runs and samples (0)")
    parser.add_argument("--sample", type=int, metavar="N",
                        help="units per layer for sampled slow measures")  # fmt: skip
    parser.add_argument("--natural", metavar="FOLDER", help="photographs, for natural images")
    parser.add_argument("--beyond", action="store_true",
                        help="what the paper does not have, instead of its claims")  # fmt: skip
    parser.add_argument("--only", choices=["figures"], help="remake claims and page, make no runs")
    options = parser.parse_args(arguments)
    if options.beyond and options.sample is not None:
        parser.error("--sample is for shift and deformation, which --beyond does not measure")
    return options


if __name__ == "__main__":
    main()
