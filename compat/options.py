"""The verbs of `compat`, their options, and examples of each."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch_compat_matrix.runner import __version__
from torch_compat_matrix.runner.backends.base import BACKENDS
from torch_compat_matrix.runner.errors import UsageError, did_you_mean
from torch_compat_matrix.runner.model import MATRIX, PROBES

EPILOG = """\
A selector is an image, a library (`captum`, `captum-0.8.0`), a cell (image/library-version),
a check (image/library-version/probe), a glob over those, or a selection named in matrix.yaml.
Checks by their recorded outcome: `@failed`, `@infra`, `@reason:CODE`, `@run:ID`, together `@failed@run:ID`.

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

PRINTED = Path("-")
"""`--json` without a file."""


def parser() -> argparse.ArgumentParser:
    """All verbs with their options."""
    top = argparse.ArgumentParser(
        prog="compat",
        description="Which version of which library really works in which PyTorch image, on which GPU.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"compat {__version__}")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(
        name: str, help: str, *examples: str, parents: Sequence[argparse.ArgumentParser] = ()
    ) -> argparse.ArgumentParser:
        """Add a verb with its help, of which the list of verbs shows the first sentence, and at least two examples."""
        return verbs.add_parser(
            name,
            parents=parents,
            help=help.partition(". ")[0].rstrip("."),
            description=help[0].upper() + help[1:],
            epilog="\n  ".join(["examples:", *examples]) + f"\n\n{EPILOG}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    variables = argparse.ArgumentParser(add_help=False)
    variables.add_argument(
        "--set",
        type=variable,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a variable that the matrix reads as ${NAME}, before those of the environment; may be repeated",
    )

    matrix = argparse.ArgumentParser(add_help=False, parents=[variables])
    matrix.add_argument("--matrix", type=Path, default=MATRIX, help="the matrix file (%(default)s)")

    backend = argparse.ArgumentParser(add_help=False)
    backend.add_argument(
        "--backend",
        choices=sorted(BACKENDS),
        help="where images run (default: docker where an engine answers and an image has a tag, else local)",
    )

    named = argparse.ArgumentParser(add_help=False)
    for option, value, what in (
        ("--image", "REF", "an image, as docker run takes it"),
        ("--lib", "NAME", "a library, as for pip"),
    ):
        named.add_argument(option, action="append", default=[], metavar=value, help=f"{what}; may be repeated")

    chosen = argparse.ArgumentParser(add_help=False, parents=[matrix, backend, named])
    chosen.add_argument("selectors", nargs="*", metavar="SELECTOR", help="checks to take (see below); default: all")
    chosen.add_argument(
        "--probe", action="append", default=[], metavar="PROBE", help="take only this probe; may be repeated"
    )
    chosen.add_argument(
        "--locked",
        action="store_true",
        help="take the versions, digests and packages of matrix.lock, and nothing newer",
    )
    chosen.add_argument(
        "--plan", type=Path, metavar="FILE", help="a plan that `compat plan --json` wrote, instead of a matrix"
    )

    reported = argparse.ArgumentParser(add_help=False)
    reported.add_argument("--out", type=Path, metavar="DIR", help="folder of the report (default: the run's folder)")
    reported.add_argument(
        "--baseline", metavar="RUN", help="the run to compare with, or `none` (default: the complete run before)"
    )

    init = verb(
        "init",
        "write a first matrix.yaml, with what each image really holds where a container engine answers. "
        "Nothing is asked, and nothing overwritten.",
        "compat init --image registry.example.com/team/train:24.1 --lib pyro-ppl --lib 'captum>=0.7'",
        "compat init --from requirements.txt",
        parents=[named],
    )
    init.add_argument(
        "--from",
        dest="listed",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="take the libraries of a requirements.txt, pyproject.toml or environment.yml; may be repeated",
    )

    plan = verb(
        "plan",
        "show the cells, the packages they add, what is cached and the expected time. Nothing is launched.",
        "compat plan",
        "compat plan captum --backend docker",
        parents=[chosen],
    )
    plan.add_argument(
        "--json",
        nargs="?",
        const=PRINTED,
        type=Path,
        metavar="FILE",
        help="write the plan for a host without pydantic and YAML; without FILE, print it",
    )

    run = verb(
        "run",
        "launch the images, run their checks and write the report.",
        "compat run",
        "compat run captum --backend docker",
        "compat run --image registry.example.com/team/train:24.1 --lib pyro-ppl",
        "compat run torch-2.13/captum-0.9.0 --probe compile --rerun",
        "compat run --resume",
        parents=[chosen, reported],
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

    loudness = run.add_mutually_exclusive_group()
    loudness.add_argument(
        "-q", "--quiet", dest="loudness", action="store_const", const=-1, default=0, help="print surprises alone"
    )
    loudness.add_argument(
        "-v", "--verbose", dest="loudness", action="store_const", const=1, help="print each phase and command too"
    )
    run.add_argument("--rerun", action="store_true", help="run every check, even where nothing changed")
    run.add_argument("--fresh", dest="rerun", action="store_true", help=argparse.SUPPRESS)  # its earlier name
    run.add_argument(
        "--isolation",
        choices=("warm", "fresh"),
        help="`fresh`: each probe in a process of its own (default: as the matrix says)",
    )
    run.add_argument(
        "--pull",
        choices=("missing", "always"),
        help="`always`: pull each tag again, since it may have moved (default: as the matrix says)",
    )
    run.add_argument(
        "--compile-cache",
        action="store_true",
        help="keep the code that torch.compile makes between runs; first-compile times are then not cold",
    )

    report = verb(
        "report",
        "write a run's report again.",
        "compat report",
        "compat report --baseline 20260801 --out pages",
        parents=[reported],
    )
    report.add_argument("run", nargs="?", default="latest", help="id of the run, or its beginning (%(default)s)")

    show = verb(
        "show",
        "show all that a run recorded of a cell, and the command that reproduces it.",
        "compat show pyro-ppl-1.8.0",
        "compat show 'torch-2.13/*/compile' --run 20260801",
    )
    show.add_argument("cell", metavar="CELL", help="a cell or check, or a glob over them")
    show.add_argument("--json", action="store_true", help="print it as JSON")
    show.add_argument("--run", default="latest", help="id of the run, or its beginning (%(default)s)")

    runs = verb(
        "runs",
        "list the recorded runs: state, what each covered, verdicts, size.",
        "compat runs",
        "compat runs --last 5 --json",
    )
    runs.add_argument("--last", type=int, default=20, metavar="N", help="at most so many, the newest (%(default)s)")
    runs.add_argument("--json", action="store_true", help="print the list as JSON")

    diff = verb(
        "diff",
        "compare two runs, and name the likely causes of the changes. The exit status is 1 where a check newly fails.",
        "compat diff 20260801 20260802",
        "compat diff --baseline --json",
    )
    diff.add_argument("before", nargs="?", metavar="A", help="the earlier run (default: the baseline of B)")
    diff.add_argument("after", nargs="?", default="latest", metavar="B", help="the later run (%(default)s)")
    diff.add_argument(
        "--baseline",
        action="store_true",
        help="compare the named run (default: the latest) with the complete run before it",
    )
    diff.add_argument(
        "--json",
        nargs="?",
        const=PRINTED,
        type=Path,
        metavar="FILE",
        help="write the changes as JSON too; without FILE, print them alone",
    )

    history = verb(
        "history",
        "show the verdicts of checks, run after run; without a cell: the flaky checks.",
        "compat history",
        "compat history captum-0.9.0 --last 5",
    )
    history.add_argument("cell", nargs="?", metavar="CELL", help="a cell or check, or a glob over them")
    history.add_argument("--json", action="store_true", help="print it as JSON")
    history.add_argument("--last", type=int, default=20, metavar="N", help="show at most N runs (%(default)s)")

    numerics = verb(
        "numerics",
        "compare what two versions, images or runs computed from the same inputs. A difference is no failure.",
        "compat numerics torch-2.13/captum-0.8.0 torch-2.13/captum-0.9.0",
        "compat numerics torch-2.9 torch-2.13",
        "compat numerics 20260801 latest --json",
    )
    for side, name in (("before", "A"), ("after", "B")):
        numerics.add_argument(side, metavar=name, help="cells, as a selector takes them, an image, or a run")
    numerics.add_argument("--json", action="store_true", help="print it as JSON")

    triage = verb(
        "triage",
        "draft `known:` entries for a run's unexpected failures.",
        "compat triage",
        "compat triage --days 30 --write matrix.yaml",
        parents=[variables],
    )
    triage.add_argument("run", nargs="?", default="latest", help="id of the run, or its beginning (%(default)s)")
    triage.add_argument("--days", type=int, default=90, metavar="N", help="days until the entries expire (%(default)s)")
    triage.add_argument(
        "--write", type=Path, metavar="FILE", help="add the entries to this matrix file, whose comments stay"
    )

    probe = verb(
        "probe",
        "run one probe module against an interpreter at hand, or in a cell's environment, with everything that it "
        "prints. For whoever writes one.",
        "compat probe acme-layers --cell train/acme-layers-latest",
        "compat probe acme-layers --probes ./probes --probe sample --prove",
        parents=[matrix, backend],
    )
    probe.add_argument("name", metavar="LIBRARY", help="a library; the generic probes run where it has none")
    probe.add_argument(
        "--probes", type=Path, metavar="DIR", help="the folder of its module (default: as matrix.yaml says)"
    )
    probe.add_argument("--probe", action="append", choices=PROBES, help="only this probe (repeatable)")
    probe.add_argument(
        "--prove", action="store_true", help="break the library in several ways, and say which the module would miss"
    )
    probe.add_argument("--cell", metavar="CELL", help="run it in this cell's environment: image/library-version")
    probe.add_argument("--python", default=sys.executable, help="an interpreter that holds torch and the library")
    probe.add_argument("--seed", type=int, default=0, metavar="N", help="the seed of the probes (%(default)s)")

    bisect = verb(
        "bisect",
        "find the library version, or the day of the package index, at which a check's verdict changed.",
        "compat bisect torch-2.13/pyro-ppl-1.8.0/import --good 1.9.1",
        "compat bisect torch-2.13/captum-0.9.0 --probe compile --by date --good 2026-01-01",
        parents=[matrix, backend],
    )
    bisect.add_argument("cell", metavar="CELL", help="a check (or a cell and --probe): image/library-version/probe")
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

    advise = verb(
        "advise",
        "name an image and versions that were verified together, and write a Dockerfile for them.",
        "compat advise pyro-ppl captum gpytorch",
        "compat advise captum==0.9.0 --backend docker --gpu H100",
        parents=[matrix],
    )
    advise.add_argument("libraries", nargs="+", metavar="LIBRARY", help="a distribution: `name` or `name==version`")
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
    advise.add_argument("--json", action="store_true", help="print the answer as JSON")
    advise.add_argument("--run", action="store_true", help="run the combination as a stack now")

    clean = verb(
        "clean",
        "remove stand-ins, overlays, caches, volumes and pulled images that no run has used for long; runs stay.",
        "compat clean --dry-run",
        "compat clean --older-than 8w --to-size 20GB",
    )
    clean.add_argument("--older-than", metavar="AGE", help="last used longer ago than 12h, 30d, 8w (default: 30d)")
    clean.add_argument("--to-size", metavar="SIZE", help="remove the longest unused until the rest fits (20GB)")
    clean.add_argument("--all", action="store_true", help="whatever its age")
    clean.add_argument("--runs", action="store_true", help="choose among the recorded runs too; the history stays")
    clean.add_argument("--dry-run", action="store_true", help="only list it")

    doctor = verb(
        "doctor",
        "check each backend on this machine, with remedies for trouble. "
        "The exit status is 4 where the backend asked for cannot work.",
        "compat doctor",
        "compat doctor --backend docker",
        parents=[matrix],
    )
    doctor.add_argument("--backend", choices=sorted(BACKENDS), help="check only this backend")
    doctor.add_argument("--json", action="store_true", help="print the findings as JSON")

    lock = verb(
        "lock",
        "write matrix.lock: the exact tags, digests, versions and packages with hashes that the matrix comes to today. "
        "`compat run --locked` takes them again.",
        "compat lock --backend docker",
        "compat lock --check",
        parents=[matrix, backend],
    )
    lock.add_argument("selectors", nargs="*", metavar="SELECTOR", help="renew these checks' entries; default: all")
    lock.add_argument(
        "--check", action="store_true", help="write nothing; exit with 1 and a line for each entry that is stale"
    )

    schema = verb(
        "schema",
        "print the JSON schema of matrix.yaml, for an editor. It is that of the installed version.",
        "compat schema",
        "compat schema --out matrix.schema.json",
    )
    schema.add_argument("--out", type=Path, metavar="FILE", help="write it to a file instead")
    completion = verb(
        "completion",
        "print the code with which a shell completes verbs, options, selectors and runs. "
        'bash: eval "$(compat completion bash)" in ~/.bashrc; zsh likewise; fish: compat completion fish | source.',
        "compat completion bash",
        "compat completion fish",
    )
    completion.add_argument("shell", choices=("bash", "zsh", "fish"), help="whose code")

    shell = verb(
        "shell",
        "give a prompt in a cell's environment: its image, packages, user, walls and GPU. "
        "After `--`: a command that is run there instead; the exit status is then that of the command. "
        "Either starts in an empty folder, which ends with it.",
        "compat shell torch-2.13/captum-0.6.0",
        "compat shell torch-2.6/pyro-ppl-1.9.1 --backend docker -- python -c 'import pyro; print(pyro.__file__)'",
        "compat shell torch-2.13/captum-0.6.0 --copy train.py -- python train.py",
        parents=[matrix, backend],
    )
    shell.add_argument("cell", metavar="CELL", help="a cell: image/library-version")
    shell.add_argument(
        "--copy", action="append", default=[], type=Path, metavar="FILE", help="a file to have there; may be repeated"
    )
    shell.set_defaults(command=[])

    reproduce = verb(
        "reproduce",
        "write a folder for a bug report: a script with a probe's failing part, exact pins, a Dockerfile, the issue. "
        "The script is run where the check ran; the exit status is 1 where it does not fail the same way.",
        "compat reproduce torch-2.13/pyro-ppl-1.8.0/import",
        "compat reproduce captum-0.6.0/sample --run 20260801 --out report",
    )
    reproduce.add_argument("check", metavar="CHECK", help="a failed check: image/library-version/probe")
    reproduce.add_argument("--run", default="latest", help="id of the run, or its beginning (%(default)s)")
    reproduce.add_argument("--out", type=Path, metavar="DIR", help="the folder (default: reproduce/CHECK)")
    return top


def verbs_of(top: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    """The parser of each verb."""
    (verbs,) = (action for action in top._actions if isinstance(action, argparse._SubParsersAction))
    return verbs.choices


def variable(text: str) -> tuple[str, str]:
    """Name and value of `NAME=VALUE`."""
    name, equals, value = text.partition("=")
    if not (equals and name.isidentifier()):
        raise UsageError(f"{text!r} is not NAME=VALUE", place="--set")
    return name, value


def read(words: Sequence[str]) -> argparse.Namespace:
    """The options of a command line; UsageError with a suggestion for a verb or an option that does not exist."""
    top = parser()
    verbs = verbs_of(top)
    if words and not words[0].startswith("-") and words[0] not in verbs:
        raise UsageError(f"there is no verb {words[0]!r}{did_you_mean(words[0], verbs)}", "`compat --help` lists them")
    cut = words.index("--") if words[:1] == ["shell"] and "--" in words else len(words)
    options, unknown = top.parse_known_args(words[:cut])
    if words[cut:]:
        options.command = words[cut + 1 :]
    if unknown:
        actions = verbs[options.verb]._option_string_actions
        known = [name for name, action in actions.items() if action.help is not argparse.SUPPRESS]
        near = did_you_mean(unknown[0].partition("=")[0], known) if unknown[0].startswith("-") else ""
        remedy = f"`compat {options.verb} --help` lists what it takes"
        raise UsageError(f"cannot take {unknown[0]!r}{near}", remedy, options.verb)
    return options
