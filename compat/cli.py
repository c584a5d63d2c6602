"""The `compat` command: from the command line to a verb, and from errors to exit statuses."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from torch_compat_matrix.compat import options as known
from torch_compat_matrix.compat.progress import answer, say
from torch_compat_matrix.runner.errors import INSTALL, CompatError, Status, refused


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb; errors that have a remedy end in one message and a status, never in a traceback."""
    if "_ARGCOMPLETE" in os.environ:
        from torch_compat_matrix.compat.verbs.completion import complete

        complete()
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words:
        answer(known.parser().format_help(), end="")
        return Status.AS_EXPECTED
    from importlib import import_module  # only now: `compat --help` must answer at once

    from torch_compat_matrix.compat.interrupt import interrupt_on_signals, leave

    interrupt_on_signals()
    try:
        options = known.read(words)
        options.arguments = words
        return int(import_module(f"torch_compat_matrix.compat.verbs.{options.verb}").main(options))
    except KeyboardInterrupt:
        say("compat: interrupted; all recorded outcomes stay, and `compat run --resume` continues")
        leave(Status.INTERRUPTED)
        return Status.INTERRUPTED
    except BrokenPipeError:
        return Status.AS_EXPECTED
    except CompatError as error:
        from torch_compat_matrix.runner.workflow import tell

        say(f"{error.prefix}{tell(error)}")
        return int(error.status)
    except OSError as error:
        say(f"compat: {refused(error)}")
        return Status.INCOMPLETE
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("", __name__.partition(".")[0]):
            raise
        say(f"compat: {error.name} is not installed here\n{INSTALL}")  # a bare host
        return Status.BAD_MATRIX


if __name__ == "__main__":
    sys.exit(main())
