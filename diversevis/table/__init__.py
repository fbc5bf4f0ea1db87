"""Run folders -> one tidy table: a row for every unit of every finished run.

`find` walks and reads; `read` tells a run that can be used from one that cannot, and `flat` gives
its entries dotted names; `columns` gives every column one type; `collecting` joins them, `command`
writes the table down. Only JSON is read: no images, no network, and no setting of Hydra.
"""

from diversevis.table.collecting import Collected, collect, collect_runs
from diversevis.table.command import collect_command

__all__ = ["Collected", "collect", "collect_command", "collect_runs"]
