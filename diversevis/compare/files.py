"""The files of a comparison: numbers, a table, a figure per pair, an overview.

They are made of what comparison.json holds; no run folder is read.
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
    """Name and content of every file of a comparison."""
    pairs = result["pairs"]
    contents = {
        "comparison.json": (json.dumps(result, indent=2, allow_nan=False) + "\n").encode(),
        "comparison.csv": csv_text(pairs).encode(),
    }
    for number, pair in enumerate(pairs, start=1):
        names = [f"{pair[side]['model']}-{pair[side]['layer']}" for side in "ab"]
        # a file name of letters that every system allows, and of a length that it allows
        name = re.sub(r"[^A-Za-z0-9._,-]", "_", "_vs_".join(names))[:150]
        contents[f"pair{number:02d}_{name}.png"] = pair_figure(pair)
    if len(pairs) > 1:
        contents["overview.png"] = overview_figure(result)
    return contents
