"""The `diversevis` command: finds the command's file, and turns exceptions into exit statuses.

Imports nothing heavy, so that --help and --version answer at once.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module

from diversevis import __version__
from diversevis.cli.help import COMMANDS, HELP, help_text
from diversevis.cli.interrupt import work_begins
from diversevis.config.user_files import forget, located
from diversevis.errors import (
    FolderLost,
    InputError,
    Stopped,
    SweepUnfinished,
    WorkFailed,
    plain_lines,
    suggest,
)

NO_SPACE = errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO
WITH_OUT = "atlas", "view", "figure"  # commands that write to out=
NOT_USABLE = (errno.EACCES, errno.EPERM, errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ELOOP,
              errno.ENOTEMPTY, errno.ENAMETOOLONG, errno.ENXIO)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `arguments` (default: those of this process); return the exit status.

    0 done; 1 failed; 2 the input cannot be used; 130 interrupted; 128 + n ended by signal n.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    forget()
    try:
        return _run(words)
    except InputError as error:
        status, message = 2, located(str(error), words)
    except (FolderLost, SweepUnfinished, WorkFailed) as error:
        status, message = 1, str(error)
    except KeyboardInterrupt:
        status, message = 130, f"interrupted. {_how_to_continue(words)}"
    except Stopped as error:
        status, message = 128 + error.number, f"ended by {error}. {_how_to_continue(words)}"
    except BrokenPipeError:  # the reader of our output has ended, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno in NO_SPACE:
            what, setting = ("Writing", "out") if words[0] in WITH_OUT else ("The run", "root")
            reason = f"{error.filename or 'a file'}: {error.strerror}. {what} failed"
            way_out = f"make room or choose another folder with {setting}=FOLDER"
            status, message = 1, f"{reason}; {way_out}."
        elif error.errno in NOT_USABLE:
            reason = f"{error.filename} cannot be read or written here ({error.strerror})"
            status, message = 2, f"{reason}. Choose another path, or change what is there."
        else:
            raise
    print(f"diversevis: {plain_lines(message)}", file=sys.stderr)
    return status


def _run(words: Sequence[str]) -> int:
    if "--version" in words:
        print(f"diversevis {__version__}")
        return 0
    name = words[0]
    if name not in COMMANDS:
        raise InputError(f"There is no command {name!r}. {suggest(name, COMMANDS)}")
    if {"-h", "--help"} & set(words):
        print(help_text(name), end="")
        return 0
    with _no_garbage():
        command = import_module(f"diversevis.cli.{name.replace('-', '_')}")
    work_begins()
    getattr(command, f"{name.replace('-', '_')}_command")(words[1:])
    return 0


@contextlib.contextmanager
def _no_garbage() -> Iterator[None]:
    """Within the `with` block no garbage is searched for, nor later among the objects made in it:
    imports make half a million objects, which stay, and to look at them again and again takes a
    fifth of their time."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _how_to_continue(words: Sequence[str]) -> str:
    if words[0] not in ("run", "train-prior"):
        return ""
    without = ", without again=true," if "again=true" in words else ""
    return f"The same command{without} continues."
