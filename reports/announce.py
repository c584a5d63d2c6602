"""What is told of a run outside its report: the state of its failures, what changed, and whether it is news."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch_compat_matrix.reports.changes import Changes, compare, own_baseline
from torch_compat_matrix.reports.escape import code, count, text
from torch_compat_matrix.reports.markdown import summary, what_to_do
from torch_compat_matrix.reports.standing import Standing, standing
from torch_compat_matrix.reports.table import Table
from torch_compat_matrix.runner.judging import Judged

TRACE_BYTES = 40
"""So many bytes of an issue's body for each failure that it remembers: a trace takes some 25 of them."""

MEMORY = re.compile(r"<!-- compat (\{.*?\}) -->")
HANDLE = re.compile(r"@[A-Za-z0-9](?:[A-Za-z0-9-]*)(?:/[\w.-]+)?")


def trace(check: str) -> str:
    """The check in few characters."""
    return hashlib.sha256(check.encode()).hexdigest()[:8]


@dataclass(frozen=True, kw_only=True)
class Announcement:
    """A run as people outside hear of it."""

    table: Table
    name: str
    """What tells several nights of a repository apart: a target, a matrix."""
    changes: Changes | None
    standing: Standing

    @classmethod
    def of(cls, table: Table, name: str) -> Announcement:
        """The announcement of a run."""
        base = own_baseline(table)
        changes = compare(base, table) if base.outcomes else None
        return cls(table=table, name=name, changes=changes, standing=standing(table))

    @property
    def key(self) -> str:
        """The same for every night of a matrix and name."""
        return trace(f"{self.table.header.get('plan', {}).get('source', '')} {self.name}")

    @property
    def headline(self) -> str:
        return summary(self.table, self.changes)

    @cached_property
    def failing(self) -> Mapping[str, Judged]:
        """Trace of a check -> its surprise; none where the hosts were unhealthy: such failures prove nothing."""
        if self.standing is Standing.UNHEALTHY:
            return {}
        told = (judged for judged in self.table.surprises if not judged.outcome.unconfirmed)
        return {trace(judged.outcome.check): judged for judged in told}

    @cached_property
    def covered(self) -> frozenset[str]:
        """The traces of the checks that surely pass or fail; what was skipped has not been asked."""
        if self.standing is Standing.UNHEALTHY:
            return frozenset()
        judged = (*self.table.outcomes.values(), *(judged.outcome for judged in self.table.expectations))
        return frozenset(
            trace(outcome.check) for outcome in judged if outcome.verdict.tells and not outcome.unconfirmed
        )

    @cached_property
    def fresh(self) -> frozenset[str]:
        """The traces of the surprises that are new, or of which nobody knows better."""
        states = self.changes.states if self.changes else {}
        known = ("still", "same")
        return frozenset(
            found for found, judged in self.failing.items() if states.get(judged.outcome.check, "no-base") not in known
        )

    @property
    def changed(self) -> bool:
        """Whether somebody should hear of it: something newly fails, works again or has lost its verdict."""
        moved = self.changes is not None and bool(self.changes.fixed or self.changes.lost)
        return bool(self.fresh) or moved or not self.standing.finished

    def what_to_do(self, most: int, traces: Iterable[str] = ()) -> str:
        """Cause, since when, remedy, owner and command of what is urgent, or of these failures alone."""
        only = {self.failing[found].outcome.check for found in traces}
        words = what_to_do(self.table, self.changes, most, only)
        # a word of a library calls nobody, and is no link to another issue; the owners are called
        calm = re.sub(r"(@(?=\w)|#(?=\d))", "\\1\u200b", words)
        owners = {judged.outcome.owner for judged in self.failing.values() if HANDLE.fullmatch(judged.outcome.owner)}
        for owner in owners:
            calm = calm.replace(f"@\u200b{owner[1:]}", owner)
        return calm.rstrip()

    def body(self, failing: Mapping[str, str], most: int, link: str = "") -> str:
        """The state in Markdown, in at most so many bytes, behind what the next run has to remember of it."""
        kept = dict(list(failing.items())[: most // TRACE_BYTES])
        marker = json.dumps({"key": self.key, "run": self.table.run, "failing": kept}, separators=(",", ":"))
        rest = []
        if unseen := sum(said.endswith("?") for said in kept.values()):
            rest += [f"{count(unseen, 'earlier failure')} not asked again by this run.", ""]
        page = f" ([log]({link}))" if link else ""
        rest += [f"Run {code(self.table.run)}{page}, kept up to date by `compat publish`."]
        return self.framed([f"<!-- compat {marker} -->", f"**{text(self.headline)}**"], rest, most)

    def framed(self, head: Iterable[str], rest: Iterable[str], most: int, traces: Iterable[str] = ()) -> str:
        """What to do between these lines, in at most so many bytes in all."""
        shown, room = "", most - len("\n".join([*head, *rest]).encode()) - 4
        for less in (0, 1):  # what calms a word is added to what was cut
            shown = self.what_to_do(max(room - less * max(len(shown.encode()) - room, 0), 0), traces)
        return "\n".join([*head, "", shown, "", *rest])

    def message(self, link: str = "") -> dict[str, Any]:
        """What a webhook is told; `text` is what chat services show."""
        return {
            "text": " ".join(filter(None, (f"{self.name or 'compat'}: {self.headline}", link))),
            "run": self.table.run,
            "standing": self.standing.value,
            "new": [self.failing[found].outcome.check for found in self.failing if found in self.fresh],
            "fixed": [outcome.check for outcome in self.changes.fixed] if self.changes else [],
            "lost": [outcome.check for outcome in self.changes.lost] if self.changes else [],
            "owners": sorted({judged.outcome.owner for judged in self.failing.values() if judged.outcome.owner}),
            "link": link,
        }


def signature_of(judged: Judged) -> str:
    """What makes two surprises the same one."""
    return judged.outcome.signature or trace(f"{judged.surprise} {judged.outcome.reason}")


def remembered(body: str) -> dict[str, Any] | None:
    """What an issue's body remembers; None where it is no issue of ours."""
    found = MEMORY.match(body)
    try:
        memory = json.loads(found[1]) if found else None
    except ValueError:
        return None
    return memory if isinstance(memory, dict) and isinstance(memory.get("failing"), dict) else None


def link_here(environment: Mapping[str, str] = os.environ) -> str:
    """The page of the job on GitHub that this process is in; empty elsewhere."""
    parts = [environment.get(f"GITHUB_{name}", "") for name in ("SERVER_URL", "REPOSITORY", "RUN_ID")]
    return "{}/{}/actions/runs/{}".format(*parts) if all(parts) else ""
