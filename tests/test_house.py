"""The structure of the package: which room imports which, and what is imported when."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import diversevis

PACKAGE = Path(diversevis.__file__).parent
FLOORS = [  # from the ground up: a room imports rooms on lower floors only
    {"errors"},
    {"units", "photographs"},
    {"models", "measures", "priors"},
    {"method"},
    {"runs"},
    {"pictures", "table", "config"},
    {"compare", "experiment"},
    {"sweep", "atlas"},
    {"cli", "interface"},
    {"__main__"},
]
HEAVY = {"torch", "torchvision", "hydra", "omegaconf", "numpy", "pandas", "matplotlib", "PIL"}


def imports_of(path):
    """Names of the package's rooms that a file imports."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "diversevis":
            rooms.update(node.module.split(".")[1:2] or [alias.name for alias in node.names])
    return rooms - {"__version__"}


def room_of(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def loaded_after(code, *watched):
    """Which of the watched modules (default: heavy ones) a new process has loaded after `code`."""
    names = set(watched) or HEAVY
    script = f"import sys; {code}; print('LOADED', *sorted({names!r} & set(sys.modules)))"
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return process.stdout.splitlines()[-1].split()[1:]


def test_rooms_import_only_lower_floors():
    floor = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
    for path in PACKAGE.rglob("*.py"):
        if (room := room_of(path)) != "__init__":
            for other in imports_of(path) - {room}:
                assert floor[other] < floor[room], f"{path} imports {other}"


def test_few_files_stand_at_top():
    assert len(list(PACKAGE.glob("*.py"))) <= 8


def test_faces_of_rooms_do_not_reexport():
    for face in PACKAGE.rglob("*/__init__.py"):
        (docstring,) = ast.parse(face.read_text()).body
        assert isinstance(docstring, ast.Expr), face


def test_measures_know_no_network():
    for room in ("measures", "photographs"):
        for path in (PACKAGE / room).glob("*.py"):
            assert imports_of(path) <= {"errors", "units", "photographs", "measures"}, path


@pytest.mark.parametrize("library", ["hydra", "omegaconf"])
def test_hydra_lives_in_config_only(library):
    users = {
        room_of(path)
        for path in PACKAGE.rglob("*.py")
        if f"import {library}" in (text := path.read_text()) or f"from {library}" in text
    }
    assert users == {"config"}


def test_interface_imports_nothing_heavy():
    assert loaded_after("import diversevis; diversevis.__version__") == []


def test_help_imports_nothing_heavy():
    words = [
        [],
        ["run"],
        ["analyze"],
        ["compare"],
        ["align"],
        ["status"],
        ["retry"],
        ["collect"],
        ["show"],
        ["atlas"],
        ["view"],
        ["figure"],
    ]
    code = (
        "from diversevis.cli.main import main;"
        f"assert not any(main([*command, '--help']) for command in {words!r})"
    )
    assert loaded_after(code) == []


def test_status_imports_nothing_heavy(tmp_path):
    folder = tmp_path / "m/l/0/v001"
    folder.mkdir(parents=True)
    record = '{"status": "finished", "model": "m", "layer": "l", "units": [0], "n": 6}'
    (folder / "run.json").write_text(record)
    code = (
        "from diversevis.cli.main import main;"
        f"assert main(['status', {str(tmp_path)!r}]) == 0"
    )  # fmt: skip
    assert loaded_after(code) == []


def test_job_starts_before_heavy_imports():
    assert loaded_after("import diversevis.sweep.jobs") == []


def test_layers_loads_no_compiler_or_plotting():
    code = "from diversevis.cli.main import main; main(['layers', 'model=vgg19'])"
    assert loaded_after(code, "torch._dynamo", "matplotlib", "imageio") == []
    code += (  # the stand-in for the compiler asks the real function
        "; from torchvision.ops.roi_align import is_compile_supported as answer"
        "; assert isinstance(answer('cpu'), bool)"
    )
    loaded_after(code)


def test_imports_are_not_searched_for_garbage():
    """The search among the objects of torch and Hydra takes a fifth of the time of their import."""
    code = (
        "import gc; from diversevis.cli.main import _no_garbage\n"
        "looks = []; gc.callbacks.append(lambda phase, facts: looks.append(facts))\n"
        "with _no_garbage(): made = [[] for _ in range(10**6)]; assert not looks\n"
        "assert gc.isenabled() and gc.get_freeze_count() > 10**6"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
