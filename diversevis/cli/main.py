"""The `diversevis` command. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Sequence

from diversevis import __version__
from diversevis.cli.help import (
    ANALYZE_HELP,
    COLLECT_HELP,
    COMPARE_HELP,
    HELP,
    LAYERS_HELP,
    RETRY_HELP,
    RUN_HELP,
    STATUS_HELP,
    WEIGHTS_HELP,
)
from diversevis.errors import FolderLost, InputError, Stopped, SweepUnfinished, suggest


def run_command(arguments: Sequence[str]) -> None:
    """`diversevis run`."""
    from diversevis.cli.run import run_command

    run_command(arguments)


def layers_command(arguments: Sequence[str]) -> None:
    """`diversevis layers`: a table on stdout."""
    from diversevis.config.compose import compose_model
    from diversevis.models.network import open_model
    from diversevis.models.receptive_field import receptive_field

    traced = open_model(compose_model(arguments))
    rows = [("layer", "units", "receptive field", "stride", "response")]
    for layer in traced.layers:
        try:
            field = receptive_field(traced.root, traced.graph, layer.node)
        except InputError:  # sees the whole image
            continue
        size, stride = (_square(pair) for pair in (field.size, field.stride))
        rows.append((layer.name, str(layer.channels), size, stride, layer.response))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [
            cell.rjust(width) if column in (1, 2, 3) else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def weights_command(arguments: Sequence[str]) -> None:
    """`diversevis weights`: fetch, check every tensor, and say what is there."""
    from diversevis.config.compose import compose_config, compose_model
    from diversevis.models.network import check_weights, open_model

    model = compose_model(arguments)
    traced = open_model(model)
    wanted = compose_config(arguments).layer
    checked = check_weights(model, traced, traced.layer(str(wanted)) if wanted else None)
    print(f"{checked.record.source}")
    print(f"sha256 {checked.record.sha256}")
    print(f"{checked.tensors} tensors, all finite; serves {traced.name} up to {checked.deepest}")


def analyze_command(arguments: Sequence[str]) -> None:
    """`diversevis analyze`: a folder's name on stdout when it is done."""
    from diversevis.cli.analyze import analyze_command

    analyze_command(arguments)


def compare_command(arguments: Sequence[str]) -> None:
    """`diversevis compare`: tables on stdout, then the folder with everything."""
    from diversevis.cli.compare import compare_command

    compare_command(arguments)


def status_command(arguments: Sequence[str]) -> None:
    """`diversevis status`: tables on stdout."""
    from diversevis.cli import status as command

    command.status_command(arguments)


def retry_command(arguments: Sequence[str]) -> None:
    """`diversevis retry`: finished run folders on stdout."""
    from diversevis.cli.retry import retry_command

    retry_command(arguments)


def collect_command(arguments: Sequence[str]) -> None:
    """`diversevis collect`: the table's path on stdout."""
    from diversevis.cli.collect import collect_command

    collect_command(arguments)


COMMANDS: dict[str, tuple[Callable[[Sequence[str]], None], str]] = {
    "run": (run_command, RUN_HELP),
    "layers": (layers_command, LAYERS_HELP),
    "weights": (weights_command, WEIGHTS_HELP),
    "analyze": (analyze_command, ANALYZE_HELP),
    "compare": (compare_command, COMPARE_HELP),
    "status": (status_command, STATUS_HELP),
    "retry": (retry_command, RETRY_HELP),
    "collect": (collect_command, COLLECT_HELP),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `arguments` (default: the process's own) and return its exit status.

    0 done; 1 failed; 2 what was typed cannot be used; 130 interrupted; 128 + n ended by signal n.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if words[0] == "--version":
        print(f"diversevis {__version__}")
        return 0
    try:
        if words[0] not in COMMANDS:
            raise InputError(f"There is no command {words[0]!r}. {suggest(words[0], COMMANDS)}")
        command, help_text = COMMANDS[words[0]]
        if "--version" in words[1:]:
            print(f"diversevis {__version__}")
            return 0
        if {"-h", "--help"} & set(words[1:]):
            print(help_text, end="")
            return 0
        command(words[1:])
    except InputError as error:
        print(f"diversevis: {error}", file=sys.stderr)
        return 2
    except (FolderLost, SweepUnfinished) as error:
        print(f"diversevis: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"diversevis: interrupted. {_go_on(words)}", file=sys.stderr)
        return 130
    except Stopped as error:
        print(f"diversevis: ended by {error}. {_go_on(words)}", file=sys.stderr)
        return 128 + error.number
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except PermissionError as error:
        print(f"diversevis: {error.filename} may not be read or written here ({error.strerror}). "
              "Choose another path, or change its permissions.", file=sys.stderr)  # fmt: skip
        return 2
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO):
            raise
        print(f"diversevis: {error.filename or 'a file'}: {error.strerror}. The run failed; "
              "make room or choose another folder with root=FOLDER.", file=sys.stderr)  # fmt: skip
        return 1
    return 0


def _go_on(words: Sequence[str]) -> str:
    """How to go on with what was ended."""
    if words[0] != "run":
        return ""
    without = ", without again=true," if "again=true" in words else ""
    return f"The same command{without} goes on."


def _square(pair: tuple[int, int]) -> str:
    return str(pair[0]) if pair[0] == pair[1] else f"{pair[0]} x {pair[1]}"
