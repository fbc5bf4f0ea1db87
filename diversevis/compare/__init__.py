"""Two sets of run folders -> how the invariances of their units differ, index by index.

Runs are paired by receptive-field size (claim 4 of the paper: METHOD.md section 7); what may not be
compared is refused. Statistics take arrays and give numbers; `report.comparison` draws them.
"""

from diversevis.compare.command import compare_command
from diversevis.compare.comparison import compare, compare_pair
from diversevis.compare.indices import Index, indices_of, values_of
from diversevis.compare.pairs import check_pair, pair_runs
from diversevis.compare.runs import find_runs, read_run

__all__ = [
    "Index", "check_pair", "compare", "compare_command", "compare_pair", "find_runs", "indices_of",
    "pair_runs", "read_run", "values_of",
]  # fmt: skip
