"""docs/tour.ipynb: it runs, its outputs are those that stand in it, and its text is true."""

import re
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
from execute_tour import TOUR, executed  # noqa: E402

PICTURE = re.compile(r"data:image/png;base64,[\w+/=]+")
NUMBER = re.compile(r"(?:(?<![\w.])-)?\d+(?:\.\d+)?(?:e[+-]\d+)?")
STORED = nbformat.read(TOUR, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def told(cell):
    """The text of a cell's outputs without pictures."""
    texts = []
    for output in cell.outputs:
        data = output.get("data", {})
        texts.append(output.get("text") or data.get("text/html") or data.get("text/plain", ""))
    return PICTURE.sub("picture", "\n".join(texts))


def pictures(cell):
    """Number of pictures in a cell's outputs."""
    html = [output.get("data", {}).get("text/html", "") for output in cell.outputs]
    shown = sum("image/png" in output.get("data", {}) for output in cell.outputs)
    return shown + len(PICTURE.findall("".join(html)))


def test_tour_has_outputs_of_ten_cells():
    nbformat.validate(STORED)
    assert [cell.execution_count for cell in code_cells(STORED)] == list(range(1, 11))
    assert [pictures(cell) for cell in code_cells(STORED)] == [0, 1, 0, 1, 3, 0, 1, 2, 0, 1]
    assert TOUR.stat().st_size < 600_000


def test_tour_names_nothing_of_its_machine():
    text = TOUR.read_text()
    assert not re.search(r"/(tmp|home|root|work|usr|private|Users)/|20\d\d-\d\d-\d\d", text)
    assert "stderr" not in text


def test_links_of_tour_lead_somewhere():
    text = "".join(cell.source for cell in STORED.cells if cell.cell_type == "markdown")
    targets = re.findall(r"\]\(([^()\s]+)\)", text)
    assert targets
    assert all((TOUR.parent / target).is_file() for target in targets)


def test_numbers_of_tour_are_as_its_text_says():
    cells = [told(cell) for cell in code_cells(STORED)]
    value = r"F1/F0, best grating</td><td[^>]*>([\d.e-]+)</td>"
    complex_unit, simple_unit = (re.search(value, cells[row])[1] for row in (1, 3))
    assert float(complex_unit) == pytest.approx(0, abs=1e-3)
    assert float(simple_unit) == pytest.approx(1.57, abs=0.02)  # pi/2
    phase, diversity, stability = map(float, re.findall(r"\d\.\d{3}", cells[2]))
    assert (phase, diversity) == pytest.approx((0, 1), abs=0.01)
    assert stability < 1
    rows = dict(re.findall(r"<th>(complex|simple)</th>\s*<td>([\d.]+)</td>", cells[8]))
    assert {name: float(x) for name, x in rows.items()} == pytest.approx(
        {"complex": 0, "simple": 1.57}, abs=0.02
    )
    few, many = map(float, re.findall(r"keeps ([\d.]+)", cells[7]))
    assert few < 0.75 < many


@pytest.mark.slow
def test_tour_runs_to_same_numbers(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # the tour's folder lies there
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    before = TOUR.read_bytes()
    ours = code_cells(executed(TOUR, tmp_path))  # raises where a cell fails
    assert TOUR.read_bytes() == before
    assert len(ours) == 10
    for new, old in zip(ours, code_cells(STORED), strict=True):
        new_text, old_text = told(new), told(old)
        assert NUMBER.sub("#", new_text) == NUMBER.sub("#", old_text)
        numbers = [[*map(float, NUMBER.findall(text))] for text in (new_text, old_text)]
        assert numbers[0] == pytest.approx(numbers[1], rel=0.02, abs=0.01)
        assert pictures(new) == pictures(old)
