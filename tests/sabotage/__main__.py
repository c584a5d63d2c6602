"""`python -m tests.sabotage [LIBRARY ...]`: the kill table; `--sound N`: every probe of the sound ones, N seeds.

`--generated N`: so many mutants of each library, made by machine, and how many of them the probes kill; with 0, those
that have survived before.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from tabulate import tabulate

from tests.sabotage import rates
from tests.support import ROOT

MUTANTS = "tests.sabotage.generated"
MUTATIONS = Path(__file__).parent / "mutations"
LIBRARIES = sorted(path.stem.replace("_", "-") for path in MUTATIONS.glob("[a-z]*.py"))


def requires(library: str) -> tuple[str, ...]:
    """What an environment must hold for a library's mutations: REQUIRES of their module, or torch, NumPy and it."""
    for node in ast.parse((MUTATIONS / f"{library.replace('-', '_')}.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "REQUIRES":
            return tuple(ast.literal_eval(node.value))
    return ("torch==2.13.0", "numpy", *([] if library == "torch" else [library]))


def results(
    python: str, libraries: Sequence[str], *words: str, module: str = "tests.sabotage.inside"
) -> Iterator[dict[str, Any]]:
    """A row for each mutation (or seed), as it comes; the libraries must be installed for that interpreter."""
    with tempfile.TemporaryDirectory(prefix="compat-sabotage-") as cache:
        environment = {
            **os.environ,
            "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}",
            "TORCHINDUCTOR_CACHE_DIR": cache,
        }
        for library in libraries:
            command = [python, "-m", module, library, *words]
            with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
                assert process.stdout is not None
                for line in process.stdout:
                    yield json.loads(line)
            if process.returncode:
                raise RuntimeError(f"{library}: the environment's interpreter ended with status {process.returncode}")


def right(row: dict[str, Any]) -> bool:
    """A mutation must be killed for its own reason (of an import, an exception of its own); a sound library passes."""
    if not row["wanted"]:
        return bool(row["status"] == "passed")
    return bool(row["status"] in ("failed", "raised") and row["found"] == row["wanted"])


def main() -> int:
    """Print the table; status 1 where a mutation survives or dies of something else."""
    parser = argparse.ArgumentParser(prog="python -m tests.sabotage", description=__doc__)
    parser.add_argument("libraries", nargs="*", default=LIBRARIES, help=f"default: {', '.join(LIBRARIES)}")
    parser.add_argument("--python", help="an interpreter with the libraries (default: one is made for each)")
    parser.add_argument("--probes", default="", help="only these, separated by commas")
    parser.add_argument("--sound", type=int, metavar="N", help="no sabotage: each probe under N seeds")
    parser.add_argument("--generated", type=int, metavar="N", help="N mutants made by machine; 0: the survivors")
    parser.add_argument("--seed", default="0", help="chooses the mutants; the first of the N seeds (%(default)s)")
    options = parser.parse_args()
    from tests.support.environments import environment

    if options.generated is not None:
        words = (str(options.generated), options.seed, options.probes)
        pythons = {name: options.python or environment(*requires(name)) for name in options.libraries}
        found = (results(python, [name], *words, module=MUTANTS) for name, python in pythons.items())
        print("\n".join(rates.page(list(chain.from_iterable(found)))))
        return 0
    mode = f"sound:{options.sound}:{options.seed}" if options.sound else "mutations"
    rows = []
    for library in options.libraries:
        for row in results(options.python or environment(*requires(library)), [library], mode, options.probes):
            rows.append(row)
            print(f"{'ok  ' if right(row) else 'BAD '} {library} {row['probe']}: {row['what']}", file=sys.stderr)
    columns = ("library", "probe", "what", "wanted", "status", "found", "seconds")
    print(tabulate([[row[name] for name in columns] for row in rows], headers=columns, tablefmt="pipe"))
    bad = [row for row in rows if not right(row)]
    print(f"\n{len(rows) - len(bad)} of {len(rows)} as they must be")
    for row in bad:
        print(f"- {row['library']} {row['probe']}: {row['what']}: {row['status']} {row['found']}: {row['message']}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
