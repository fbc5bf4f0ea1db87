"""`python -m diversevis` is the `diversevis` command."""

import sys

from diversevis.cli import main

sys.exit(main())
