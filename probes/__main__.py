"""`python -m probes ORDER [--overlays FOLDER] [--watch-stdin]`: the probe host.

`python -m probes --child FD`: a fresh process that the probe host starts.

`python -m probes --rank TASK RANK`: one of several processes that a probe starts to work together.
`python -m probes --trial`: one probe module against this interpreter.
`python -m probes --shell ORDER OVERLAYS FOLDER [COMMAND...]`: a user's command in the environment of the order's cell.
"""

import os
import sys


def main() -> int:
    """Take the bundle's folder off the path, so that no file of ours shadows a library, then start host or child."""
    bundle = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or os.getcwd()) != bundle]
    if sys.argv[1:2] == ["--child"]:
        from .child import main as child

        return child(int(sys.argv[2]))
    if sys.argv[1:2] == ["--rank"]:
        from .ranks import main as rank

        return rank(sys.argv[2], int(sys.argv[3]))
    if sys.argv[1:2] == ["--trial"]:
        from .trial import main as trial

        return trial()
    if sys.argv[1:2] == ["--shell"]:
        from .shell import main as shell

        shell(sys.argv[2:])
    from .host import main as host

    return host(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
