"""The `compat` command: options, verbs, and what the exit status means."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from torch_compat_matrix.runner.backends.base import BACKENDS
from torch_compat_matrix.runner.errors import CompatError, Status

EPILOG = """\
A selector is an image, a library (`captum`, `captum-0.8.0`), a cell (image/library-version),
a check (image/library-version/probe), a glob over those, or a selection named in matrix.yaml.

exit status:
  0  every outcome is as expected: passes, skips, and what matrix.yaml lists under `known:`
  1  surprises: an unexpected failure, an unexpected pass, or an expired `known:` entry
  2  matrix.yaml or the command line is wrong
  3  nothing is selected, or the run or cell asked for is not there
  4  the backend cannot be used
  5  incomplete: host trouble left checks without a verdict; `compat run --resume` tries them again
  130  interrupted; `compat run --resume` goes on
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
    chosen.add_argument("selectors", nargs="*", metavar="SELECTOR", help="what to take (see below); default: all")
    chosen.add_argument("--matrix", type=Path, default=Path("matrix.yaml"), help="the matrix file (%(default)s)")
    chosen.add_argument("--backend", choices=sorted(BACKENDS), default="local", help="where images run (%(default)s)")
    chosen.add_argument(
        "--probe", action="append", default=[], metavar="PROBE", help="only this probe; may be repeated"
    )
    chosen.add_argument(
        "--plan", type=Path, metavar="FILE", help="a plan that `compat plan --json` wrote, not a matrix"
    )

    reported = argparse.ArgumentParser(add_help=False)
    reported.add_argument("--out", type=Path, metavar="DIR", help="where the report goes (default: the run's folder)")
    reported.add_argument(
        "--baseline", metavar="RUN", help="the run to compare with, or `none` (default: the one before)"
    )

    plan = verbs.add_parser(
        "plan", parents=[chosen], help="show cells, resolution, what is cached and the time it takes"
    )
    plan.add_argument("--json", type=Path, metavar="FILE", help="write the plan for a host without pydantic and YAML")

    run = verbs.add_parser("run", parents=[chosen, reported], help="launch every image, probe, compile the table")
    run.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="batches at a time (default: one a GPU, and on the CPU one a core, at most 4)",
    )
    run.add_argument(
        "--resume", nargs="?", const="latest", metavar="RUN", help="go on with a run (default: the latest)"
    )
    run.add_argument("--seed", type=int, default=0, help="seed of every probe (%(default)s)")
    run.add_argument("--full", action="store_true", help="the articles' own step counts, however long they take")

    run.add_argument("--rerun", action="store_true", help="run every check, also those that nothing changed for")
    run.add_argument("--fresh", dest="rerun", action="store_true", help=argparse.SUPPRESS)  # its earlier name
    run.add_argument(
        "--isolation",
        choices=("warm", "fresh"),
        help="`fresh`: each probe in a process of its own (default: the matrix's)",
    )
    run.add_argument(
        "--compile-cache",
        action="store_true",
        help="keep what torch.compile compiles between runs; its first-compile times are then no cold ones",
    )

    report = verbs.add_parser("report", parents=[reported], help="compile a run's report again")
    report.add_argument("run", nargs="?", default="latest", help="id of the run, or the beginning of one (%(default)s)")

    show = verbs.add_parser("show", help="everything known of a cell, with the command that reproduces it")
    show.add_argument("cell", metavar="CELL", help="a cell or check, or a glob over them")
    show.add_argument("--run", default="latest", help="id of the run, or the beginning of one (%(default)s)")

    diff = verbs.add_parser("diff", help="what one run shows that another did not, the likely cause first")
    diff.add_argument("before", nargs="?", metavar="A", help="the earlier run (default: the baseline of B)")
    diff.add_argument("after", nargs="?", default="latest", metavar="B", help="the later run (%(default)s)")
    diff.add_argument(
        "--baseline",
        action="store_true",
        help="compare the one run named, or the latest, with the complete run before it",
    )
    diff.add_argument("--json", type=Path, metavar="FILE", help="write the changes as JSON too")

    history = verbs.add_parser("history", help="what checks came to, run after run; without a cell: the flaky ones")
    history.add_argument("cell", nargs="?", metavar="CELL", help="a cell or check, or a glob over them")
    history.add_argument("--last", type=int, default=20, metavar="N", help="runs to go back (%(default)s)")

    triage = verbs.add_parser("triage", help="`known:` entries for a run's unexpected failures, for a person to edit")
    triage.add_argument("run", nargs="?", default="latest", help="id of the run, or the beginning of one (%(default)s)")
    triage.add_argument("--days", type=int, default=90, metavar="N", help="days until they expire (%(default)s)")
    triage.add_argument("--write", type=Path, metavar="FILE", help="add them to this matrix file, comments kept")

    bisect = verbs.add_parser(
        "bisect", help="the library version, or the day of the index, at which a check turned, by probing in between"
    )
    bisect.add_argument("cell", metavar="CELL", help="a check (or a cell and --probe): image/library-version/probe")
    bisect.add_argument("--matrix", type=Path, default=Path("matrix.yaml"), help="the matrix file (%(default)s)")
    bisect.add_argument("--backend", choices=sorted(BACKENDS), default="local", help="where images run (%(default)s)")
    bisect.add_argument("--probe", help="the probe that turned, where CELL names none")
    bisect.add_argument("--good", metavar="VERSION|DATE", help="where it was right (default: searched for)")
    bisect.add_argument("--bad", metavar="VERSION|DATE", help="where it is wrong (default: the cell's own)")
    bisect.add_argument("--by", choices=("version", "date"), default="version", help="what to halve (%(default)s)")

    advise = verbs.add_parser("advise", help="image and versions verified together, and the Dockerfile that pins them")
    advise.add_argument("libraries", nargs="+", metavar="LIBRARY", help="distributions, `name` or `name==version`")
    advise.add_argument("--matrix", type=Path, default=Path("matrix.yaml"), help="the matrix file (%(default)s)")
    advise.add_argument(
        "--backend",
        choices=sorted(BACKENDS),
        help="only what was verified there (default: any); with --run, where it runs (default: where it was verified)",
    )
    advise.add_argument(
        "--gpu", metavar="NAME", help="verified on a GPU of this name, `none` for the CPU (default: this machine's)"
    )
    advise.add_argument("--out", type=Path, metavar="DIR", help="where the files go (default: advice)")
    advise.add_argument("--run", action="store_true", help="verify the combination as a stack now")

    doctor = verbs.add_parser("doctor", help="what works on this machine and what to do about what does not")
    doctor.add_argument("--backend", choices=sorted(BACKENDS), help="only this backend")

    for verb in verbs.choices.values():
        verb.epilog, verb.formatter_class = EPILOG, argparse.RawDescriptionHelpFormatter
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb; errors that have a remedy end in one message and a status, never in a traceback."""
    options = parser().parse_args(arguments)
    options.arguments = list(sys.argv[1:] if arguments is None else arguments)
    from importlib import import_module  # only now: `compat --help` must answer at once

    try:
        return int(import_module(f"torch_compat_matrix.compat.verbs.{options.verb}").main(options))
    except KeyboardInterrupt:
        print("compat: interrupted; what was recorded stays, and `compat run --resume` goes on", file=sys.stderr)
        return Status.INTERRUPTED
    except BrokenPipeError:
        return Status.AS_EXPECTED
    except CompatError as error:
        from torch_compat_matrix.runner.workflow import tell

        print(f"compat: {tell(error)}", file=sys.stderr)
        return int(error.status)


if __name__ == "__main__":
    sys.exit(main())
