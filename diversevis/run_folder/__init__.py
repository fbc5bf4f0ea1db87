"""The run folder: the only owner of its file names. Files are written beside, then renamed.

One process at a time is at work in a folder (`Claim`).
"""

from typing import TYPE_CHECKING

from diversevis.run_folder.claim import Claim, Holder, Watch, holder_of, job_id, restarts
from diversevis.run_folder.files import replacing
from diversevis.run_folder.versions import create_version, versions_in, work_folder
from diversevis.run_folder.whole import flaw_of

if TYPE_CHECKING:
    from diversevis.run_folder.folder import RunFolder

__all__ = [
    "Claim", "Holder", "RunFolder", "Watch", "create_version", "flaw_of", "holder_of", "job_id",
    "replacing", "restarts", "versions_in", "work_folder",
]  # fmt: skip


def __getattr__(name: str) -> object:
    """`RunFolder`, and with it torch, once it is asked for: `diversevis status` does without."""
    if name != "RunFolder":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from diversevis.run_folder.folder import RunFolder

    return RunFolder
