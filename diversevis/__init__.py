"""Diverse feature visualization: to what is this unit invariant? (docs/python.md)"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from diversevis.interface.memory import LayerFacts
    from diversevis.interface.visualized import Visualized

__version__ = "0.1.0"


def visualize(
    module: nn.Module | Sequence[nn.Module],
    *,
    layer: str,
    unit: int | str | Sequence[int | str] = 0,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    size: int | Sequence[int] | None = None,
    **settings: Any,
) -> Visualized:
    """Return diverse images of units of a module in memory. No file is written.

    The module stays as it is: a copy, in eval mode and float32, is at work (its hooks are called).
    Several modules are averaged.

    layer     a name that `diversevis.layers(module)` lists
    unit      12, "0-63", [1, 5, 9] or "all"
    mean, std of the module's input z = (x - mean) / std for pixels x in [0, 1], a number for every
              channel; for one that normalises inside, `model={"inside": True}` in their place
    size      rows and columns of the images where units see the whole image: 224 or (36, 64)
    settings  those of the command line, with its defaults (`diversevis run --help`): values,
              dicts, or dotted names: `n=4, objective={"diversity": 0.2}, optimizer="paper",
              analysis=["phase"], **{"optimizer.steps": 100}`

    >>> result = diversevis.visualize(net, layer="conv2", unit=3, mean=[0.5] * 3, std=[0.25] * 3)
    >>> result.sheet(3)

    Raises InputError for settings that cannot be used, and for a module that cannot be copied.
    """
    from diversevis.interface.memory import visualize

    settings = {"layer": layer, "unit": unit, "size": size, **settings}
    return visualize(module, mean=mean, std=std, settings=settings)


def layers(
    network: nn.Module | Sequence[nn.Module] | str | Sequence[str],
    *,
    size: int | Sequence[int] | None = None,
    mean: Sequence[float] | None = None,
) -> list[LayerFacts]:
    """Return the layers of a network: name, units, field, stride and response of each.

    network  a module, several that are averaged, or words of the command line: "model=vgg19"
    size     rows and columns of a module's images, where it takes images of one size only
    mean     of a module's input; only its length, the number of channels, counts

    Raises InputError where the network does not run, or has no layer.
    """
    from diversevis.interface.memory import layers

    return layers(network, size=size, mean=mean)


def run(*words: str) -> Visualized:
    """Make or find the run that these words of the command line describe, and load it.

    It is the folder that `diversevis run` makes; its progress and warnings are on stderr.

    >>> diversevis.run("model=vgg19", "layer=conv2_1", "unit=12").path
    PosixPath('outputs/vgg19/conv2_1/12/v001')

    Raises InputError before anything is written, KeyboardInterrupt after the results so far are
    saved, and Stopped (diversevis.errors) where a signal asked this process to end; the same words
    then continue the run. With several devices, guard a script by `if __name__ == "__main__":`.
    """
    from diversevis.interface.folders import run

    return run(words)


def load(folder: str | os.PathLike[str]) -> Visualized:
    """Return the result in a run folder; of an unfinished run, the units that are there.

    Raises InputError for a folder that is damaged, or of no run with images.
    """
    from diversevis.interface.folders import load

    return load(folder)


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
