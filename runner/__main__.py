"""`python -m runner`: the `compat` command from a plain copy of the checkout."""

import sys

from runner.cli import main

if __name__ == "__main__":
    sys.exit(main())
