"""The run folder: the only owner of its file names. Files are written beside, then renamed."""

from diversevis.run_folder.files import replacing
from diversevis.run_folder.folder import RunFolder

__all__ = ["RunFolder", "replacing"]
