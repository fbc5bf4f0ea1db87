"""Diverse feature visualization: to what is this unit invariant?"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

__version__ = "0.1.0"


def collect(root: str | os.PathLike[str]) -> pd.DataFrame:
    """Return every unit of every finished run at or below the folder `root`, as a table.

    Rows are sorted by model, layer, unit and version; `latest` is true for the highest version of a
    config. Other columns are the settings (objective.diversity), facts of the run (run.norm in grey
    levels, run.receptive_field.height in pixels) and the numbers of metrics.json (phase.f1f0).
    Lists of settings are JSON, lists of numbers are left out.
    `.attrs["left_out"]` lists (folder, reason) of the runs that are not in the table.

    >>> table = diversevis.collect("outputs")
    >>> table[table.latest].groupby(["model", "layer"])["phase.f1f0"].median()

    Raises InputError where there is no run, and without `pip install 'diversevis[collect]'`.
    """
    from diversevis.table.table import collect

    return collect(root)
