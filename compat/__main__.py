"""`python -m torch_compat_matrix`; or `python3 compat` in a plain copy of the checkout, with nothing installed."""

import sys

if not __package__:
    from pathlib import Path
    from types import ModuleType

    checkout = ModuleType("torch_compat_matrix")
    checkout.__path__ = [str(Path(__file__).resolve().parent.parent)]
    sys.modules[checkout.__name__] = checkout
    del sys.path[0]  # this folder: none of its modules may answer to a top-level name

from torch_compat_matrix.compat.cli import main

if __name__ == "__main__":
    sys.exit(main())
