"""The shape of the house: imports point down, heavy things are imported only where needed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import diversevis

PACKAGE = Path(diversevis.__file__).parent
FLOORS = [  # a room may import from lower floors only; rooms on one floor do not know each other
    {"errors"},
    {"units", "photographs"},
    {"models", "measures"},
    {"method"},
    {"runs"},
    {"pictures", "table", "config"},
    {"compare", "experiment"},
    {"sweep"},
    {"cli"},
    {"__main__"},
]


PENDING = {("measures", "method")}  # to be mended


def modules():
    """Top-level module -> names of the project's top-level modules that it imports."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).with_suffix("").parts[0]
        if name == "__init__":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("diversevis"):
                inner = node.module.split(".")[1:2]
                wanted = inner or [alias.name for alias in node.names]
                found.setdefault(name, set()).update(wanted)
        found.setdefault(name, set())
    return found


def test_imports_point_down():
    floor = {name: level for level, names in enumerate(FLOORS) for name in names}
    for name, wanted in modules().items():
        for other in wanted - {name, "__version__"}:
            points_down = floor[other] < floor[name] or (name, other) in PENDING
            assert points_down, f"{name} imports {other}"


@pytest.mark.parametrize("library", ["hydra", "omegaconf"])
def test_hydra_lives_in_one_package(library):
    users = {
        path.relative_to(PACKAGE).parts[0]
        for path in PACKAGE.rglob("*.py")
        if f"import {library}" in (text := path.read_text()) or f"from {library}" in text
    }
    assert users <= {"config", "cli", "sweep"}


def test_help_imports_nothing_heavy():
    check = (
        "import sys; from diversevis.cli.main import main; main(['--help']); main(['run', '--help']);"
        "heavy = {'torch', 'torchvision', 'hydra', 'numpy', 'matplotlib', 'PIL'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", check], check=True, capture_output=True, timeout=60)


def test_status_imports_nothing_heavy(tmp_path):
    (tmp_path / "m/l/0/v001").mkdir(parents=True)
    record = '{"status": "finished", "model": "m", "layer": "l", "units": [0], "n": 6}'
    (tmp_path / "m/l/0/v001/run.json").write_text(record)
    check = (
        f"import sys; from diversevis.cli.main import main; assert main(['status', {str(tmp_path)!r}]) == 0;"
        "heavy = {'torch', 'hydra', 'numpy', 'pandas'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", check], check=True, capture_output=True, timeout=60)


def test_a_clusters_job_hears_signals_before_it_imports_much():
    check = "import sys, diversevis.sweep.jobs; assert not {'torch', 'hydra'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True, capture_output=True, timeout=60)


def test_layers_does_not_load_the_compiler_or_the_plotting():
    check = (
        "import sys; from diversevis.cli.main import main; main(['layers', 'model=vgg19']);"
        "heavy = {'torch._dynamo', 'matplotlib', 'imageio'} & set(sys.modules);"
        "assert not heavy, heavy;"
        "from torchvision.ops.roi_align import is_compile_supported;"
        "assert isinstance(is_compile_supported('cpu'), bool)"  # the stand-in asks the real one
    )
    subprocess.run([sys.executable, "-c", check], check=True, capture_output=True, timeout=120)
