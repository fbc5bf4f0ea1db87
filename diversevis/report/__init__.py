"""Run folders -> pictures. Needs no network."""

from diversevis.report.curves import make_trace_figure
from diversevis.report.film import check_film, is_film_step, write_film
from diversevis.report.sheet import make_sheets
from diversevis.run_folder import RunFolder

__all__ = ["check_film", "is_film_step", "make", "write_film"]


def make(folder: RunFolder) -> None:
    """Every picture of a run, from what its folder holds."""
    make_sheets(folder)
    make_trace_figure(folder)
