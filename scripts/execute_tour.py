"""Execute docs/tour.ipynb anew and write its outputs to it, after a change of it or of a picture.

    python scripts/execute_tour.py

Times, progress and the version of Python are left out, so that the file changes only where results
do. Needs `pip install '.[test]'`; takes about a minute. tests/test_tour.py compares.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

TOUR = Path(__file__).resolve().parents[1] / "docs" / "tour.ipynb"
SECONDS = 600  # for a cell, at most


def executed(path: Path, folder: Path) -> nbformat.NotebookNode:
    """The notebook with the outputs of its cells, which run in `folder`; raises where a cell
    fails."""
    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    work = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", resources=work).execute()
    notebook.metadata.get("language_info", {}).pop("version", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # its times
        if cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
    return notebook


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        notebook = executed(TOUR, Path(folder))
        nbformat.write(notebook, TOUR)  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
