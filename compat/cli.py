"""The `compat` command: its verbs, options and exit statuses."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from torch_compat_matrix.compat.progress import say
from torch_compat_matrix.runner.backends.base import BACKENDS
from torch_compat_matrix.runner.errors import INSTALL, CompatError, Status, refused

EPILOG = """\
A selector is an image, a library (`captum`, `captum-0.8.0`), a cell (image/library-version),
a check (image/library-version/probe), a glob over those, or a selection named in matrix.yaml.

exit status:
  0  every outcome is as expected: passes, skips, and what matrix.yaml lists under `known:`
  1  surprises: an unexpected failure, an unexpected pass, or an expired `known:` entry
  2  matrix.yaml or the command line is wrong
  3  nothing is selected, or the named run or cell does not exist
  4  the backend cannot be used
  5  incomplete: host trouble left checks without a verdict, or a full or read-only disk stopped the work,
     which `compat run --resume` retries; or the run is still going
  130  interrupted by Ctrl-C, SIGTERM or SIGHUP; `compat run --resume` continues
"""


def parser() -> argparse.ArgumentParser:
    """All verbs with their options."""
    top = argparse.ArgumentParser(
        prog="compat",
        description="Which version of which library really works in which PyTorch image, on which GPU.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    chosen = argparse.ArgumentParser(add_help=False)
    chosen.add_argument("selectors", nargs="*", metavar="SELECTOR", help="checks to take (see below); default: all")
    chosen.add_argument("--matrix", type=Path, default=Path("matrix.yaml"), help="the matrix file (%(default)s)")
    chosen.add_argument("--backend", choices=sorted(BACKENDS), default="local", help="where images run (%(default)s)")
    chosen.add_argument(
        "--probe", action="append", default=[], metavar="PROBE", help="take only this probe; may be repeated"
    )
    chosen.add_argument(
        "--plan", type=Path, metavar="FILE", help="a plan that `compat plan --json` wrote, instead of a matrix"
    )

    reported = argparse.ArgumentParser(add_help=False)
    reported.add_argument("--out", type=Path, metavar="DIR", help="folder of the report (default: the run's folder)")
    reported.add_argument(
        "--baseline", metavar="RUN", help="the run to compare with, or `none` (default: the complete run before)"
    )

    plan = verbs.add_parser(
        "plan", parents=[chosen], help="show the cells, the packages they add, what is cached and the expected time"
    )
    plan.add_argument("--json", type=Path, metavar="FILE", help="write the plan for a host without pydantic and YAML")

    run = verbs.add_parser(
        "run", parents=[chosen, reported], help="launch the images, run their checks and write the report"
    )
    run.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="batches at a time (default: one per GPU; on the CPU one per core, at most 4)",
    )
    run.add_argument("--resume", nargs="?", const="latest", metavar="RUN", help="continue a run (default: the latest)")
    run.add_argument("--seed", type=int, default=0, help="seed of every probe (%(default)s)")
    run.add_argument("--full", action="store_true", help="use the articles' own step counts, however long they take")

    run.add_argument("--rerun", action="store_true", help="run every check, even where nothing changed")
    run.add_argument("--fresh", dest="rerun", action="store_true", help=argparse.SUPPRESS)  # its earlier name
    run.add_argument(
        "--isolation",
        choices=("warm", "fresh"),
        help="`fresh`: each probe in a process of its own (default: as the matrix says)",
    )
    run.add_argument(
        "--compile-cache",
        action="store_true",
        help="keep the code that torch.compile makes between runs; first-compile times are then not cold",
    )

    report = verbs.add_parser("report", parents=[reported], help="write a run's report again")
    report.add_argument("run", nargs="?", default="latest", help="id of the run, or its beginning (%(default)s)")

    show = verbs.add_parser("show", help="show all that a run recorded of a cell, and the command that reproduces it")
    show.add_argument("cell", metavar="CELL", help="a cell or check, or a glob over them")
    show.add_argument("--run", default="latest", help="id of the run, or its beginning (%(default)s)")

    runs = verbs.add_parser("runs", help="list the recorded runs: state, what each covered, verdicts, size")
    runs.add_argument("--last", type=int, default=20, metavar="N", help="at most so many, the newest (%(default)s)")
    runs.add_argument("--json", action="store_true", help="print the list as JSON")

    diff = verbs.add_parser("diff", help="compare two runs, and name the likely causes of the changes")
    diff.add_argument("before", nargs="?", metavar="A", help="the earlier run (default: the baseline of B)")
    diff.add_argument("after", nargs="?", default="latest", metavar="B", help="the later run (%(default)s)")
    diff.add_argument(
        "--baseline",
        action="store_true",
        help="compare the named run (default: the latest) with the complete run before it",
    )
    diff.add_argument("--json", type=Path, metavar="FILE", help="write the changes as JSON too")

    history = verbs.add_parser(
        "history", help="show the verdicts of checks, run after run; without a cell: the flaky checks"
    )
    history.add_argument("cell", nargs="?", metavar="CELL", help="a cell or check, or a glob over them")
    history.add_argument("--last", type=int, default=20, metavar="N", help="show at most N runs (%(default)s)")

    triage = verbs.add_parser("triage", help="draft `known:` entries for a run's unexpected failures")
    triage.add_argument("run", nargs="?", default="latest", help="id of the run, or its beginning (%(default)s)")
    triage.add_argument("--days", type=int, default=90, metavar="N", help="days until the entries expire (%(default)s)")
    triage.add_argument(
        "--write", type=Path, metavar="FILE", help="add the entries to this matrix file, whose comments stay"
    )

    bisect = verbs.add_parser(
        "bisect", help="find the library version, or the day of the package index, at which a check's verdict changed"
    )
    bisect.add_argument("cell", metavar="CELL", help="a check (or a cell and --probe): image/library-version/probe")
    bisect.add_argument("--matrix", type=Path, default=Path("matrix.yaml"), help="the matrix file (%(default)s)")
    bisect.add_argument("--backend", choices=sorted(BACKENDS), default="local", help="where images run (%(default)s)")
    bisect.add_argument("--probe", help="the probe, where CELL names none")
    bisect.add_argument(
        "--good", metavar="VERSION|DATE", help="where the check passes (default: search for such a point)"
    )
    bisect.add_argument(
        "--bad", metavar="VERSION|DATE", help="where the check fails (default: the cell's own version, or today)"
    )
    bisect.add_argument(
        "--by", choices=("version", "date"), default="version", help="search among versions or days (%(default)s)"
    )

    advise = verbs.add_parser(
        "advise", help="name an image and versions that were verified together, and write a Dockerfile for them"
    )
    advise.add_argument("libraries", nargs="+", metavar="LIBRARY", help="a distribution: `name` or `name==version`")
    advise.add_argument("--matrix", type=Path, default=Path("matrix.yaml"), help="the matrix file (%(default)s)")
    advise.add_argument(
        "--backend",
        choices=sorted(BACKENDS),
        help="take evidence from this backend only (default: any); with --run, run on it (default: as verified)",
    )
    advise.add_argument(
        "--gpu",
        metavar="NAME",
        help="take evidence from GPUs of this name, `none`: from the CPU (default: this machine's GPU)",
    )
    advise.add_argument("--out", type=Path, metavar="DIR", help="folder of the files (default: advice)")
    advise.add_argument("--run", action="store_true", help="run the combination as a stack now")

    clean = verbs.add_parser(
        "clean",
        help="remove stand-ins, overlays, caches, volumes and pulled images that no run has used for long; runs stay",
    )
    clean.add_argument("--older-than", metavar="AGE", help="last used longer ago than 12h, 30d, 8w (default: 30d)")
    clean.add_argument("--to-size", metavar="SIZE", help="remove the longest unused until the rest fits (20GB)")
    clean.add_argument("--all", action="store_true", help="whatever its age")
    clean.add_argument("--runs", action="store_true", help="choose among the recorded runs too; the history stays")
    clean.add_argument("--dry-run", action="store_true", help="only list it")

    doctor = verbs.add_parser("doctor", help="check each backend on this machine, with remedies for trouble")
    doctor.add_argument("--matrix", type=Path, default=Path("matrix.yaml"), help="whose images need room (%(default)s)")
    doctor.add_argument("--backend", choices=sorted(BACKENDS), help="check only this backend")

    for verb in verbs.choices.values():
        verb.epilog, verb.formatter_class = EPILOG, argparse.RawDescriptionHelpFormatter
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb; errors that have a remedy end in one message and a status, never in a traceback."""
    options = parser().parse_args(arguments)
    options.arguments = list(sys.argv[1:] if arguments is None else arguments)
    from importlib import import_module  # only now: `compat --help` must answer at once

    from torch_compat_matrix.compat.interrupt import interrupt_on_signals, leave

    interrupt_on_signals()
    try:
        return int(import_module(f"torch_compat_matrix.compat.verbs.{options.verb}").main(options))
    except KeyboardInterrupt:
        say("compat: interrupted; all recorded outcomes stay, and `compat run --resume` continues")
        leave(Status.INTERRUPTED)
        return Status.INTERRUPTED
    except BrokenPipeError:
        return Status.AS_EXPECTED
    except CompatError as error:
        from torch_compat_matrix.runner.workflow import tell

        say(f"compat: {tell(error)}")
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
