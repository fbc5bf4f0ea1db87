"""The paper's four claims, measured: runs, claims.json and one page of figures.

    DIVERSEVIS_WEIGHTS=weights python scripts/reproduce_paper.py [--quick] [--device cuda]

Whole layers of VGG-19 (conv1_1 to conv3_1) and ResNet-50 (conv1 to layer1.2) are visualized and
measured, each by the command that claims.json names; then the numbers that speak for or against
each claim (docs/method.md, section 7) are computed. A claim that does not hold is reported as such.
Finished runs are used again: a second start continues where the first stopped.

`--quick` takes 16 units of each layer, 6 of them for the slow measures: minutes. The whole takes
less than an hour on two cores; there the texture and deformation tests take a random sample of the
units of conv3_1 and layer1.*; on a GPU they take all.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from paper.claims import claims_of
from paper.figures import pictures_of
from paper.page import page
from paper.runs import Plan, Run, made, plans

from diversevis.method.device import pick_device
from diversevis.runs import provenance
from diversevis.runs.files import replacing

KEPT = "device", "device_name", "threads", "precision"  # of a run's record, for `made`


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs, then claims.json, figures and the page; the last line printed is the page."""
    options = _options(arguments)
    began, out = time.perf_counter(), Path(options.out).expanduser()
    planned = plans(
        quick=options.quick,
        seed=options.seed,
        device=options.device,
        on_gpu=pick_device(options.device).type == "cuda",
        sample=options.sample,
        natural=options.natural,
    )
    found = {plan.name: made(plan, out, anew=options.only != "figures") for plan in planned}
    runs = {name: run for name, run in found.items() if run is not None}
    if not runs:
        raise SystemExit(f"{out}: no runs of these settings are there to make figures from.")
    about = _about(options, runs) | {"seconds": round(time.perf_counter() - began, 1)}
    write(out, about, planned, runs)
    print(f"{time.perf_counter() - began:.0f} s\n{out / 'index.html'}")


def write(out: Path, about: dict[str, Any], planned: Sequence[Plan], runs: dict[str, Run]) -> None:
    """claims.json, figures/*.png and index.html in `out`."""
    claims = claims_of(runs, planned, out)
    folders = {name: run.path.relative_to(out).as_posix() for name, run in runs.items()}
    content = {"made": about, "claims": claims, "runs": folders}
    _write(out / "claims.json", (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())
    pictures = pictures_of(claims, runs, out)
    for old in (out / "figures").glob("*.png"):
        old.unlink()
    for picture in (one for of_claim in pictures.values() for one in of_claim):
        _write(out / picture.file, picture.png)
    _write(out / "index.html", page(content, pictures).encode())


def _about(options: argparse.Namespace, runs: dict[str, Run]) -> dict[str, Any]:
    """With what, how and how long everything was made."""
    record = next(iter(runs.values())).record
    return {
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": provenance.versions(),
        **{key: record.get(key) for key in KEPT},
        "quick": options.quick,
        "seed": options.seed,
        "seconds_of_runs": round(sum(run.record.get("seconds") or 0 for run in runs.values()), 1),
    }


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as beside:
        beside.write_bytes(content)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", default="outputs/paper", help="folder (outputs/paper)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--quick", action="store_true", help="a sample of units: minutes")
    parser.add_argument("--seed", type=int, default=0, help="of runs and samples (0)")
    parser.add_argument("--sample", type=int, metavar="N",
                        help="units of the slow measures, where they take a sample")  # fmt: skip
    parser.add_argument("--natural", metavar="FOLDER", help="photographs, for natural exemplars")
    parser.add_argument("--only", choices=["figures"], help="claims and page again, without runs")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
