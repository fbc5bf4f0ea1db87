"""Run folders -> pictures. Needs no network."""

from collections.abc import Callable
from typing import Literal

from diversevis.report import measures
from diversevis.report.curves import make_trace_figure
from diversevis.report.film import check_film, is_film_step, write_film
from diversevis.report.front import make_front_figures
from diversevis.report.sheet import make_sheets
from diversevis.run_folder import RunFolder

__all__ = ["check_film", "is_film_step", "make", "make_measure", "write_film"]


def make(folder: RunFolder, tell: Callable[[int, int], None]) -> None:
    """Every picture of a run's images, from what its folder holds.

    tell  told of how many of how many units are drawn; may raise
    """
    make_sheets(folder, tell)
    make_trace_figure(folder)
    make_front_figures(folder)


def make_measure(
    folder: RunFolder, name: str, most: int | Literal["all"], tell: Callable[[int, int], None]
) -> None:
    """The pictures of one measure: of every unit that has numbers (or of so many, those with the
    lowest and highest index), and of all together.

    tell  told of how many of how many units are drawn; may raise
    """
    record, metrics = folder.read_record(), folder.read_metrics()
    rows = [row for row, one in enumerate(metrics) if one[name] is not None]
    if not rows:
        return
    arrays = folder.read_measure(name)
    run = folder.read_images() if record["n"] is not None else None
    if most != "all":
        rows = measures.extremes(name, metrics, rows, most)
    for done, row in enumerate(rows):
        tell(done, len(rows))
        images, responses = (run[key][row] if run else None for key in ("images", "responses"))
        png = measures.picture(name, record, metrics[row], arrays, row, images, responses)
        folder.write_measure_picture(name, metrics[row]["unit"], png)
    layer = measures.layer_picture(name, record, metrics, arrays)
    if layer is not None:
        folder.write_measure_picture(name, None, layer)
