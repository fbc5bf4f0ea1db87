"""Diverse feature visualization: to what is this unit invariant?"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

__version__ = "0.1.0"


def collect(root: str | os.PathLike[str]) -> pd.DataFrame:
    """Every unit of every finished run at or below the folder `root`, as a table.

    A row is a unit of a run, sorted by model, layer, unit and version. Columns: model, layer, unit,
    folder (as seen from `root`), version, latest (true for the highest version of its config),
    config_hash; the settings by the names that one types (objective.diversity); what else the run
    recorded (run.norm in grey levels, run.receptive_field.height in pixels, run.seconds); and every
    number of metrics.json (response_mean, phase.f1f0, seeds.phase.f1f0.mean). Lists of settings are
    JSON, lists of numbers are left out. A column has one type, and is there where some unit has a
    value.

    `.attrs["left_out"]` lists (folder, reason) of what is not in the table: running, interrupted,
    failed, or what is wrong with its files.

    >>> table = diversevis.collect("outputs")
    >>> table[latest].groupby(["model", "layer"])["phase.f1f0"].median()

    Raises `InputError` where there is no run, and without `pip install 'diversevis[collect]'`.
    """
    from diversevis.table.table import collect

    return collect(root)
