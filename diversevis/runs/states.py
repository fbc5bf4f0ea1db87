"""What the states of a run are called, and what they mean to a person.

To rename or explain a state, change it here: `status`, `retry`, `collect`, their help and the last
line of a sweep take names and meanings from here. (Documents and tests repeat them.)
"""

from __future__ import annotations

# These are inferred from a run's record, its claim and its sweep. The other states (finished,
# running, interrupted, failed) are written in run.json: existing folders have them, so they stay.
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
    DAMAGED: "its run.json cannot be read, or the files of a finished run do not fit together",
}
UNFINISHED = "interrupted", "failed", LOST, MISSING  # and no job will do it: for `retry`
