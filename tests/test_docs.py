"""README and docs: links lead somewhere, commands run, figures agree."""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import diversevis

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
DOCUMENTS = [README, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^()\s]+)\)")
NETWORKS_WITH_WEIGHTS = {"model=vgg19", "model=resnet50", "experiment=cadena2018"}
OUTSIDE = ("METHOD" + ".md", ".." + "/shared")  # files that are not in the repository


def prose(path):
    """The text without its code blocks."""
    text = FENCE.sub("", path.read_text())
    return "\n".join(line for line in text.splitlines() if not line.startswith("    "))


def anchors(path):
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(path), re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", heading.strip().lower()) for heading in headings]
    return {heading.replace(" ", "-") for heading in plain}


def commands():
    """The README's `diversevis` command lines, as lists of words; comments are left out."""
    lines = [line.strip().removeprefix("$ ") for line in README.read_text().splitlines()
             if line.startswith("    ")]  # fmt: skip
    return [shlex.split(line, comments=True) for line in lines if line.startswith("diversevis ")]


def needs_weights(words):
    return words[1] != "layers" and bool(NETWORKS_WITH_WEIGHTS & set(words))


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """All commands that need no weights, in their order, in one empty folder; and the folder."""
    folder = tmp_path_factory.mktemp("readme")
    environment = {k: v for k, v in os.environ.items() if k != "DIVERSEVIS_WEIGHTS"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    chosen = {" ".join(words): words for words in commands() if not needs_weights(words)}
    return {
        name: subprocess.run(
            [sys.executable, "-m", "diversevis", *words[1:]],
            cwd=folder, env=environment, capture_output=True, text=True, timeout=300,
        )
        for name, words in chosen.items()
    }, folder  # fmt: skip


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(path):
    for target in LINK.findall(prose(path)):
        if re.match(r"[a-z]+:", target):  # the internet is not looked at
            continue
        file, _, anchor = target.partition("#")
        linked = (path.parent / file).resolve() if file else path
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


def linked_from(path):
    targets = LINK.findall(prose(path))
    return {(path.parent / target.partition("#")[0]).resolve() for target in targets}


def test_every_document_is_linked_from_readme():
    """And every picture from a document."""
    pictures = set((ROOT / "docs").glob("*.png"))
    assert set((ROOT / "docs").glob("*")) - pictures <= linked_from(README)
    assert pictures <= set().union(*map(linked_from, DOCUMENTS))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_named_file_exists(path):
    named = re.findall(r"`((?:diversevis|conf|scripts|tests|docs)/[\w./-]*)`", path.read_text())
    missing = [name for name in named if "NAME" not in name and not (ROOT / name).exists()]
    assert not missing


def test_the_map_has_every_room():
    rooms = {path.parent.name for path in (ROOT / "diversevis").glob("*/__init__.py")}
    text = (ROOT / "docs" / "development.md").read_text()
    assert not {room for room in rooms if f"`diversevis/{room}/`" not in text}


def test_readme_has_at_most_120_lines():
    assert len(README.read_text().splitlines()) <= 120


def test_readme_has_the_line_that_ci_runs():
    pattern = re.search(r"grep -m1 -E '(.*)' README", (ROOT / ".ci" / "run").read_text())[1]
    assert re.search(pattern, README.read_text(), re.MULTILINE)


def test_nothing_cites_files_outside_the_repository():
    tracked = [path for folder in ("conf", "diversevis", "docs", "scripts", "tests")
               for path in sorted((ROOT / folder).rglob("*"))
               if path.suffix in (".py", ".yaml", ".md", ".sh")]  # fmt: skip
    files = [*ROOT.glob("*.md"), *ROOT.glob("*.cff"), ROOT / "pyproject.toml", *tracked]
    citing = [path.relative_to(ROOT).as_posix() for path in files
              if any(name in path.read_text() for name in OUTSIDE)]  # fmt: skip
    assert not citing


def test_method_sections_cited_exist():
    sections = set(re.findall(r"^## (\d+)\.", (ROOT / "docs/method.md").read_text(), re.MULTILINE))
    assert sections == {str(number) for number in range(1, 13)}
    cited = re.compile(r"docs/method\.md,?\s+sections?\s+(\d+)((?:(?:,| and| to)\s+\d+)*)")
    for path in (*(ROOT / "diversevis").rglob("*.py"), *(ROOT / "conf").rglob("*.yaml")):
        for match in cited.finditer(path.read_text()):
            assert set(re.findall(r"\d+", match.group(0))) <= sections, path


def test_commands_without_weights_run(outcomes):
    done, _ = outcomes
    assert len(done) >= 5
    for name, outcome in done.items():
        assert outcome.returncode == 0, f"{name}\n{outcome.stderr}"


def test_first_run_prints_what_readme_shows(outcomes):
    done, folder = outcomes
    shown = re.search(r"^    \$ diversevis run\n    (.*)\n", README.read_text(), re.MULTILINE)[1]
    assert done["diversevis run"].stdout == f"{shown}\n"
    assert (folder / shown / "sheet_unit0000.png").is_file()
    unit = json.loads((folder / shown / "metrics.json").read_text())["units"][0]
    assert unit["response_mean"] / unit["response_best"] == pytest.approx(1, abs=1e-3)
    # Neighbouring phases are 60 degrees apart on a circle of radius 32 grey levels.
    assert unit["distance_min"] == pytest.approx(32, abs=0.1)


def test_compare_shows_both_ends_of_phase(outcomes):
    done, _ = outcomes
    table = next(outcome.stdout for name, outcome in done.items() if " compare " in name)
    row = re.search(r"F1/F0, best grating\s+(\S+) \(\d+\)\s+(\S+) \(\d+\)", table)
    assert float(row[1]) == pytest.approx(1.571, rel=0.01)  # pi/2
    assert float(row[2]) == pytest.approx(0, abs=1e-3)


def test_readme_quotes_what_a_shell_eats():
    code = [line for path in DOCUMENTS for line in path.read_text().splitlines()
            if line.startswith("    ") and "diversevis " in line]  # fmt: skip
    for line in code:
        assert not re.search(r"[\[*]", re.sub(r"'[^']*'|#.*", "", line)), line


def test_results_agree_with_the_paper_page():
    rows = re.findall(r"^\| (?:vgg19|resnet50) .*$", README.read_text(), re.MULTILINE)
    assert len(rows) == 9
    paper = (ROOT / "docs" / "paper.md").read_text()
    assert all(row in paper for row in rows)


def test_measures_are_all_documented():
    text = (ROOT / "docs" / "measures.md").read_text()
    catalogue = ast.parse((ROOT / "diversevis" / "measures" / "catalogue.py").read_text())
    table = next(node.value for node in ast.walk(catalogue)
                 if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == "MEASURES")  # fmt: skip
    names = [key.value for key in table.keys]
    assert [name for name in re.findall(r"^## ([a-z]+)$", text, re.MULTILINE)] == names


def test_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    changes = re.search(r"^## \[(\d.*?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert {citation["version"], project[1], changes[1]} == {diversevis.__version__}


def test_citation_names_software_and_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert {"title", "message", "authors", "license"} <= set(citation)
    assert len(citation["references"][0]["authors"]) == 5
