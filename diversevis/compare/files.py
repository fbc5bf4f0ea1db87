"""What `diversevis.compare` found, as files: numbers, tables, a figure per pair, an overview.

Takes a comparison as comparison.json holds it; needs no run folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from diversevis.compare.figures import overview_figure, pair_figure
from diversevis.compare.tables import csv_text, table

__all__ = ["files", "overview_figure", "pair_figure", "table"]


def files(result: Mapping[str, Any]) -> dict[str, bytes]:
    """Every file of a comparison: its name and content."""
    pairs = result["pairs"]
    made = {
        "comparison.json": (json.dumps(result, indent=2, allow_nan=False) + "\n").encode(),
        "comparison.csv": csv_text(pairs).encode(),
    }
    for number, pair in enumerate(pairs, start=1):
        names = [f"{pair[side]['model']}-{pair[side]['layer']}" for side in "ab"]
        name = re.sub(r"[^A-Za-z0-9._,-]", "_", "_vs_".join(names))[:150]
        made[f"pair{number:02d}_{name}.png"] = pair_figure(pair)
    if len(pairs) > 1:
        made["overview.png"] = overview_figure(result)
    return made
