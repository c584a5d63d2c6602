"""Since when a check is as it is: its own earlier verdicts on the same image, backend and target."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

from torch_compat_matrix.runner.model import Verdict
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.records import history
from torch_compat_matrix.runner.records.runs import Run, target_in

State = Literal["new", "differs", "still", "fixed", "lost", "no-base", "same"]
"""How a check stands to its last verdict before.

`new`: it passed before and fails; `differs`: it fails with another signature; `still`: it fails the same way; `fixed`;
`lost`: it had a verdict and has none now; `no-base`: it never had one before; `same`: it passes as before, or its
library could not be imported.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """A verdict of an earlier run, with the record of its environment."""

    run: str
    date: str
    outcome: Outcome
    environment: Mapping[str, Any]

    def to_json(self) -> dict[str, str]:
        """Plain data, without what is empty."""
        said = {
            "run": self.run,
            "date": self.date,
            "verdict": self.outcome.verdict.value,
            "reason": self.outcome.reason,
            "signature": self.outcome.signature,
            "version": self.outcome.installed,
            "reference": str(self.environment.get("reference") or ""),
            "digest": str(self.environment.get("digest") or ""),
        }
        return {name: value for name, value in said.items() if value}


@dataclass(frozen=True, kw_only=True, slots=True)
class Since:
    """How a check stands to its earlier verdicts."""

    state: State
    run: str = ""
    """The run in which it began to fail, or to pass; empty where the check has no verdict now."""
    date: str = ""
    """Of that run: UTC, ISO 8601."""
    runs: int = 0
    """The runs with a verdict from then on, this one included."""
    base: Seen | None = None
    """Its last verdict before this run."""
    good: Seen | None = None
    """Its last pass before this run, where it fails or has no verdict."""

    @property
    def words(self) -> str:
        """`failing since 2026-11-18 (3 runs), last good 2026-11-17 with captum 0.8.0, image sha256:ab12...`."""
        said = [f"since {self.date[:10]} ({self.runs} run{'s' if self.runs > 1 else ''})"] if self.run else []
        if self.good is not None:
            good, digest = self.good.outcome, str(self.good.environment.get("digest") or "")
            said.append(
                f"last good {self.good.date[:10]} with {good.subject} {good.installed or good.version}".rstrip()
            )
            said += [f"image {digest[:19]}"] if digest else []
        elif self.base is None:
            said.append("no run before gave a verdict")
        return ", ".join(said)

    def to_json(self) -> dict[str, Any]:
        """Plain data without the state, and without what is empty."""
        seen = {name: found.to_json() for name, found in (("base", self.base), ("good", self.good)) if found}
        return {**({"run": self.run, "date": self.date, "runs": self.runs} if self.run else {}), **seen}


def state_of(now: Outcome, base: Outcome | None) -> State:
    """How an outcome stands to the check's last verdict before."""
    if base is None:
        return "no-base"
    if not now.verdict.final:
        return "lost"
    if now.verdict is Verdict.SKIP:  # what kept the library from being imported is told at its import
        return "same" if now.reason == "import-failed" else "lost"
    if not now.verdict.broken:
        return "fixed" if base.verdict.broken and not now.flaky else "same"
    if not base.verdict.broken:
        return "new"
    return "still" if same_failure(base, now) else "differs"


def same_failure(one: Outcome, other: Outcome) -> bool:
    """Whether two failures are the same one: by their signatures, else by verdict and reason."""
    if one.signature and other.signature:
        return one.signature == other.signature
    return (one.verdict, one.reason) == (other.verdict, other.reason)


@dataclass(frozen=True, kw_only=True, slots=True)
class Met:
    """A check that failed so: in how many runs, the first and the last of them, and whether its last verdict is it."""

    check: str
    runs: int
    first: str
    last: str
    open: bool


def standings(home: Path, run: str, backend: str, target: str, outcomes: Iterable[Outcome]) -> dict[str, Since]:
    """Check -> how its outcome in this run stands to its own verdicts before, on the same backend and target."""
    now = {outcome.check: outcome for outcome in outcomes}
    query = f"""
        SELECT name, run, verdict != 'pass' FROM outcomes JOIN runs USING (run) JOIN targets USING (run)
        WHERE run < ? AND backend = ? AND target = ? AND verdict IN {("pass", *history.BROKEN)} ORDER BY run DESC
        """

    def work(connection: sqlite3.Connection) -> dict[str, Since]:
        environment = history.environments_of(connection)
        started = dict(connection.execute("SELECT run, started FROM runs"))
        trails: dict[str, list[tuple[str, bool]]] = {}
        for name, seen_in, broken in connection.execute(query, (run, backend, target)):
            if name in now:
                trails.setdefault(name, []).append((seen_in, bool(broken)))

        @cache
        def seen(name: str, seen_in: str) -> Seen:
            row = connection.execute("SELECT record FROM outcomes WHERE run = ? AND name = ?", (seen_in, name))
            outcome = history.outcome_in(row.fetchone()[0])
            found = environment(seen_in, outcome.environment)
            return Seen(run=seen_in, date=started[seen_in], outcome=outcome, environment=found)

        def one(outcome: Outcome) -> Since:
            trail = trails.get(outcome.check, [])
            base = seen(outcome.check, trail[0][0]) if trail else None
            works = outcome.verdict is Verdict.PASS
            good = next((seen(outcome.check, place) for place, broken in trail if not broken), None)
            state = state_of(outcome, base.outcome if base else None)
            if not (works or outcome.verdict.broken):
                return Since(state=state, base=base, good=good)
            alike = [place for place, broken in takewhile(lambda turn: turn[1] != works, trail)]
            began = alike[-1] if alike else run
            return Since(
                state=state,
                run=began,
                date=started.get(began, ""),
                runs=len(alike) + 1,
                base=base,
                good=None if works else good,
            )

        return {name: one(outcome) for name, outcome in now.items()}

    return history.with_file(home, work)


def newly_failing(home: Path, run: Run) -> frozenset[str]:
    """The checks of a run that fail and passed at their last verdict before."""
    history.sync(home)
    header, outcomes = run.header(), run.outcomes()
    target = target_in(header, run.environments().values())
    found = standings(home, run.id, str(header["backend"]), target, outcomes.values())
    return frozenset(check for check, stands in found.items() if stands.state == "new")


def met_with(home: Path, signature: str) -> list[tuple[Met, Outcome]]:
    """The checks that failed with this signature, or one that begins so, and how each last came out so."""
    query = f"""
        SELECT name, runs, first, last, record, last >= (
            SELECT max(run) FROM outcomes AS o WHERE o.name = s.name AND verdict NOT IN {history.UNSETTLED}
        ) FROM (
            SELECT signature, name, count(*) AS runs, min(run) AS first, max(run) AS last
            FROM signatures WHERE signature >= ? AND signature < ? GROUP BY signature, name
        ) AS s JOIN outcomes USING (name) WHERE run = last ORDER BY signature, name
        """
    return [
        (Met(check=name, runs=runs, first=began, last=last, open=bool(now)), history.outcome_in(text))
        for name, runs, began, last, text, now in history.rows_of(home, query, signature, signature + "g")
    ]
