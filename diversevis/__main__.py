"""`python -m diversevis` is the `diversevis` command."""

import sys

from diversevis.cli.main import main

if __name__ == "__main__":  # a worker process imports this module too
    sys.exit(main())
