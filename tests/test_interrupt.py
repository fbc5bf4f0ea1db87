"""Ctrl-C before a command has begun, and after it has ended."""

import signal
import subprocess
import sys

import pytest

SEND = "import os, signal, sys\ndef send(): os.kill(os.getpid(), signal.SIGINT)\n"
AT_IMPORT = """
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}: send()
sys.meta_path.insert(0, Finder())
sys.argv = ["diversevis", *{words!r}]
from diversevis.__main__ import entry
sys.exit(entry())
"""


def python(code, **options):
    return subprocess.run(
        [sys.executable, "-c", SEND + code], capture_output=True, text=True, timeout=60, **options
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("diversevis.cli.main", ["--help"]),
        ("diversevis.errors", ["status"]),
        ("diversevis.cli.layers", ["layers", "model=vgg19"]),
        ("numpy", ["run", "model=energy"]),  # numpy turns what happens here into an ImportError
    ],
)
def test_interrupt_during_imports_is_clean(name, words):
    process = python(AT_IMPORT.format(name=name, words=words))
    assert process.returncode == 130
    assert process.stderr == "diversevis: interrupted. Nothing had begun.\n"


def test_interrupt_after_the_end_is_silent():
    code = "import atexit; from diversevis.__main__ import entry; atexit.register(send)\n"
    process = python(code + "sys.argv[1:] = ['--help']; sys.exit(entry())")
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.startswith("diversevis")


def test_ignored_interrupt_stays_ignored():
    code = "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    process = python(code + AT_IMPORT.format(name="diversevis.cli.main", words=["--help"]))
    assert (process.returncode, process.stderr) == (0, "")


def test_interrupt_raises_once_work_begins():
    from diversevis.cli import interrupt

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        interrupt.work_begins()  # nothing to hand over: as in a program that calls `main`
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        interrupt.leave_at_once()
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        interrupt.work_begins()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_library_leaves_signals_alone():
    code = "import diversevis, diversevis.cli.main, diversevis.__main__\n"
    code += "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    assert python(code).returncode == 0
