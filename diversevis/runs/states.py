"""What the states of a run are called, and what they mean to a person.

To rename a state, or to explain it differently, change it here: `status`, its help, `retry` and the
last line of a sweep take both from here.
"""

from __future__ import annotations

# Worked out from a run's record, its claim and its sweep. The other states are the `status` in
# run.json: these words stay, for the sake of the folders that there are.
WAITING, LOST, MISSING, DAMAGED = "waiting", "lost", "missing", "damaged"

DIED = "the process died without an error (out of memory, or its node failed)"
NEVER_BEGUN = "its job is gone and left no error"

MEANINGS = {  # in the order in which they are shown
    "finished": "everything that was asked for is there",
    "running": "its process gives signs of life; shown with its progress",
    WAITING: "not begun, or ended early, and its job or its sweep will still do it",
    "interrupted": "ended by Ctrl-C or by the system; continues from its checkpoint",
    "failed": "ended with an error, whose last line is shown",
    LOST: f"{DIED}, or its job was cancelled",
    MISSING: "planned, never begun, and no job will do it",
    DAMAGED: "its run.json cannot be read, or a file of a finished run is incomplete",
}
UNFINISHED = "interrupted", "failed", LOST, MISSING  # and no job will do it: for `retry`
