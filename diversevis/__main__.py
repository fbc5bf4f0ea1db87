"""`python -m diversevis` is the `diversevis` command. It listens to Ctrl-C before all imports."""

import io
import sys

from diversevis.cli.interrupt import leave_at_once


def entry() -> int:
    """Run the command line of this process; return the exit status."""
    leave_at_once()
    for stream in (sys.stdout, sys.stderr):  # a terminal may not have all letters of our words
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    from diversevis.cli.main import main

    try:
        status = main()
    except KeyboardInterrupt:  # a second Ctrl-C, while the first is told
        status = 130
    sys.stdout.flush()
    leave_at_once(status)
    return status


if __name__ == "__main__":  # a worker process imports this module too
    sys.exit(entry())
