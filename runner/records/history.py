"""All runs in one SQLite file: settled outcomes, flaky checks, timelines; it can be rebuilt from the journals."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from torch_compat_matrix.runner.errors import CompatError, writing
from torch_compat_matrix.runner.files import locked, to_json
from torch_compat_matrix.runner.model import Verdict
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.records.journal import Journal
from torch_compat_matrix.runner.records.runs import Run, target_in
from torch_compat_matrix.runner.records.shapes import outcome as outcome_of
from torch_compat_matrix.runner.records.shapes import readable
from torch_compat_matrix.runner.selector import Checks, Selector, address
from torch_compat_matrix.runner.text import printable

SCHEMA = 1
Result = TypeVar("Result")

TABLES = """
CREATE TABLE runs (run TEXT PRIMARY KEY, started TEXT, backend TEXT, size INTEGER);
CREATE TABLE environments (run TEXT, key TEXT, record TEXT, PRIMARY KEY (run, key)) WITHOUT ROWID;
CREATE TABLE outcomes (
    run TEXT, name TEXT, key TEXT, verdict TEXT, reason TEXT, flaky INTEGER, reused TEXT, record TEXT,
    PRIMARY KEY (run, name)
) WITHOUT ROWID;
CREATE INDEX by_key ON outcomes (key) WHERE key != '' AND reused = '';
CREATE INDEX by_name ON outcomes (name);
"""

LATER = """
CREATE TABLE IF NOT EXISTS unreadable (run TEXT PRIMARY KEY, records INTEGER);
CREATE TABLE IF NOT EXISTS targets (run TEXT PRIMARY KEY, target TEXT);
CREATE TABLE IF NOT EXISTS signatures (signature TEXT, run TEXT, name TEXT, PRIMARY KEY (signature, run, name))
WITHOUT ROWID;
"""
"""Of the first schema too: an earlier compat leaves these tables aside."""

CONTENTS = re.compile(r"unsupported file format|no such|malformed|decode|already exists|syntax|not a database")
"""What SQLite says, beside a DatabaseError, of a file that it can open and whose contents are not ours."""

UNSETTLED = f"({', '.join(repr(verdict.value) for verdict in Verdict if not verdict.final)})"
BROKEN = frozenset(verdict.value for verdict in Verdict if verdict.broken)


class HistoryUnusable(CompatError):
    """The file comes from a later version of compat, is locked, or its disk is full."""


class _Damaged(Exception):
    """A record in the file is none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Flaky:
    """A check with different verdicts though nothing changed that it depends on."""

    check: str
    passes: int
    failures: int
    runs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Trails:
    """The verdicts and metrics of every check over several runs, the earliest first."""

    runs: tuple[str, ...] = ()
    verdicts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Check -> its verdict in each of the runs, empty where it was not in one."""
    metrics: Mapping[str, Mapping[str, Sequence[float | None]]] = field(default_factory=dict)
    """Check -> metric -> its value in each of the runs."""


def with_file(home: Path, work: Callable[[sqlite3.Connection], Result]) -> Result:
    """The result of `work` on the file; a damaged file is set aside and rebuilt from the journals."""
    path = home / "history.sqlite"
    with writing(home, "set COMPAT_HOME to a folder that can be written", HistoryUnusable):
        home.mkdir(parents=True, exist_ok=True)
    seen = _inode(path)
    try:
        with closing(_connect(path)) as connection:
            return work(connection)
    except (sqlite3.DatabaseError, _Damaged) as error:
        contents = (
            isinstance(error, _Damaged)
            or type(error) is sqlite3.DatabaseError
            or CONTENTS.search(str(error))
            or (path.exists() and not path.is_file())
        )
        if not contents:  # locked, read-only, disk full
            raise _unusable(path, error) from error
        _set_aside(path, seen, error)
    try:
        with closing(_connect(path)) as connection:
            _sync(connection, home)
            return work(connection)
    except sqlite3.DatabaseError as error:
        raise _unusable(path, error) from error


def _unusable(path: Path, error: Exception) -> HistoryUnusable:
    return HistoryUnusable(str(error), "free the disk, make the folder writable, or move the file away", str(path))


def _set_aside(path: Path, seen: int | None, error: Exception) -> None:
    with locked(path.with_suffix(".lock")):
        if seen is None or _inode(path) != seen:  # another process was quicker: this file is new
            return
        aside = path.with_name(f"{path.name}.damaged")
        if aside.is_dir() != path.is_dir():
            shutil.rmtree(aside, ignore_errors=True)
            aside.unlink(missing_ok=True)
        path.replace(aside)
        for ending in ("-wal", "-shm"):
            path.with_name(path.name + ending).unlink(missing_ok=True)
    said = f"{path}: {error}; set aside as {aside.name} and rebuilt from the journals"
    print(printable(said), file=sys.stderr)


def _inode(path: Path) -> int | None:
    return path.stat().st_ino if path.exists() else None


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=60, isolation_level=None)
    try:
        # SQLite opens the file only now: never while another process sets a damaged one aside, with what belongs to it
        with locked(path.with_suffix(".lock")):
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                connection.executescript(f"BEGIN; {TABLES} PRAGMA user_version = {SCHEMA}; COMMIT;")
        if version > SCHEMA:
            raise HistoryUnusable(
                f"{path} comes from a later compat (schema {version}, this compat knows {SCHEMA}): update compat,"
                " or move the file away; it is rebuilt from the journals"
            )
        connection.execute("SELECT count(*) FROM runs").fetchone()
        connection.executescript(LATER)
    except BaseException:
        connection.close()
        raise
    return connection


def sync(home: Path) -> None:
    """Add every run whose journal has changed since the last sync."""
    with_file(home, lambda connection: _sync(connection, home))


def rows_of(home: Path, query: str, *values: object) -> list[Any]:
    """The rows that a query of the file gives."""
    return with_file(home, lambda connection: connection.execute(query, values).fetchall())


def unreadable(home: Path) -> int:
    """The number of records of all runs that cannot be read."""
    return sum(records for (records,) in rows_of(home, "SELECT records FROM unreadable"))


def _sync(connection: sqlite3.Connection, home: Path) -> None:
    known = dict(connection.execute("SELECT run, size FROM runs JOIN targets USING (run)"))
    for run in Run.all(home):
        size = run.journal.stat().st_size
        if known.get(run.id) != size:
            _record(connection, run, size)


def _record(connection: sqlite3.Connection, run: Run, size: int) -> None:
    outcomes: dict[str, tuple[Any, ...]] = {}
    environments: dict[str, Mapping[str, Any]] = {}
    signatures: dict[str, str] = {}
    header: Mapping[str, Any] = {}
    journal = Journal(run.journal)
    for record in journal:
        kind = record["kind"]
        if kind == "outcome":
            fields = ("key", "verdict", "reason", "flaky", "reused")
            values = (record.get(name, "") for name in fields)
            outcomes[record["check"]] = (run.id, record["check"], *values, to_json(record))
            signatures[record["check"]] = outcome_of(record).signature if record.get("reason") else ""
        elif kind == "environment":
            environments[record["key"]] = record
        elif kind == "run":
            header = record
    connection.execute("BEGIN IMMEDIATE")
    try:
        for table in ("runs", "outcomes", "environments", "unreadable", "targets", "signatures"):
            connection.execute(f"DELETE FROM {table} WHERE run = ?", (run.id,))
        row = (run.id, header.get("started", ""), header.get("backend", ""), size)
        connection.execute("INSERT INTO runs VALUES (?, ?, ?, ?)", row)
        connection.execute("INSERT INTO unreadable VALUES (?, ?)", (run.id, journal.unreadable))
        connection.execute("INSERT INTO targets VALUES (?, ?)", (run.id, target_in(header, environments.values())))
        connection.executemany("INSERT INTO outcomes VALUES (?, ?, ?, ?, ?, ?, ?, ?)", outcomes.values())
        told = ((signature, run.id, name) for name, signature in signatures.items() if signature)
        connection.executemany("INSERT INTO signatures VALUES (?, ?, ?)", told)
        pairs = ((run.id, key, to_json(record)) for key, record in environments.items())
        connection.executemany("INSERT INTO environments VALUES (?, ?, ?)", pairs)
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def settled(home: Path, keys: Iterable[str]) -> dict[str, tuple[Outcome, Mapping[str, Any]]]:
    """Key -> the newest outcome under it, with its environment; only where all outcomes under the key agree.

    The outcome names in `reused` the run in which the check ran.
    """
    wanted = list(keys)
    return with_file(home, lambda connection: _settled(connection, wanted))


def _settled(connection: sqlite3.Connection, keys: Sequence[str]) -> dict[str, tuple[Outcome, Mapping[str, Any]]]:
    connection.execute("CREATE TEMP TABLE wanted (key TEXT PRIMARY KEY) WITHOUT ROWID")
    connection.execute("BEGIN")
    connection.executemany("INSERT OR IGNORE INTO wanted VALUES (?)", ((key,) for key in keys))
    connection.execute("COMMIT")
    # max() only once: `record` is then that of the newest run
    rows = connection.execute(
        f"""
        SELECT o.key, max(o.run), o.record FROM wanted JOIN outcomes o USING (key)
        WHERE o.key != '' AND o.reused = '' AND o.verdict NOT IN {UNSETTLED}
        GROUP BY o.key HAVING count(DISTINCT o.verdict || ' ' || o.reason) = 1 AND sum(o.flaky = 1) = 0
        """
    )

    environment = environments_of(connection)
    result = {}
    for key, run, record in rows:
        outcome = replace(outcome_in(record), reused=run)
        result[key] = outcome, environment(run, outcome.environment)
    return result


def environments_of(connection: sqlite3.Connection) -> Callable[[str, str], Mapping[str, Any]]:
    @cache  # thousands of outcomes share an environment
    def environment(run: str, key: str) -> Mapping[str, Any]:
        row = connection.execute("SELECT record FROM environments WHERE run = ? AND key = ?", (run, key)).fetchone()
        return record_of(row[0], "environment") if row else {}

    return environment


def passes(home: Path, subject: str, probe: str, besides: str) -> list[tuple[str, Outcome, Mapping[str, Any]]]:
    """(run, outcome, environment) of the newest hundred passes of a probe of a library or stack, the newest first."""
    query = """
        SELECT run, record FROM outcomes WHERE verdict = 'pass' AND flaky != 1 AND reused = '' AND run != ?
        AND json_extract(record, '$.probe') = ? AND json_extract(record, '$.subject') = ? ORDER BY run DESC LIMIT 100
        """

    def work(connection: sqlite3.Connection) -> list[tuple[str, Outcome, Mapping[str, Any]]]:
        environment = environments_of(connection)
        rows = connection.execute(query, (besides, probe, subject)).fetchall()
        found = ((run, outcome_in(record)) for run, record in rows)
        return [(run, outcome, environment(run, outcome.environment)) for run, outcome in found]

    return with_file(home, work)


def last(home: Path, backend: str) -> dict[str, tuple[str, str]]:
    """Check -> (start of the run, installed version) of its last verdict on the backend; versions may be empty."""
    query = f"""
        SELECT name, started, coalesce(json_extract(record, '$.installed'), ''), max(run) FROM outcomes
        JOIN runs USING (run) WHERE backend = ? AND verdict NOT IN {UNSETTLED} GROUP BY name
        """
    return {name: (started, installed) for name, started, installed, _ in rows_of(home, query, backend)}


def digests(home: Path, run: str, backend: str) -> dict[tuple[str, str], str]:
    """(image, reference) -> the registry's digest of it in the last run before this one on the backend."""
    query = """
        SELECT json_extract(record, '$.image'), json_extract(record, '$.reference'),
            json_extract(record, '$.digest') AS digest, max(run)
        FROM environments JOIN runs USING (run) WHERE run < ? AND backend = ? AND digest != '' GROUP BY 1, 2
        """
    return {(image, reference): digest for image, reference, digest, _ in rows_of(home, query, run, backend)}


def comparable(home: Path, run: str, backend: str, outcome: Outcome) -> tuple[str, Outcome] | None:
    """The run and the outcome with which the outcome's fingerprint is compared: the same check's last pass before.

    On this backend and such a device; the last one under the same key goes before others.
    """
    query = """
        SELECT run, record FROM outcomes JOIN runs USING (run)
        WHERE name = ? AND run < ? AND backend = ? AND reused = '' AND verdict = 'pass'
            AND json_extract(record, '$.numerics') IS NOT NULL
            AND coalesce(json_extract(record, '$.device_name'), '') = ?
        ORDER BY key != '' AND key = ? DESC, run DESC LIMIT 1
        """
    rows = rows_of(home, query, outcome.check, run, backend, outcome.device_name, outcome.key)
    return next(((name, outcome_in(record)) for name, record in rows), None)


def trails(home: Path, run: str, backend: str, target: str, last: int) -> Trails:
    """The last runs before this one on the same backend and target."""
    newest = """
        SELECT run FROM runs JOIN targets USING (run) WHERE run < ? AND backend = ? AND target = ?
        ORDER BY run DESC LIMIT ?
        """
    query = "SELECT name, verdict, json_extract(record, '$.metrics') FROM outcomes WHERE run = ?"

    def work(connection: sqlite3.Connection) -> Trails:
        runs = sorted(name for (name,) in connection.execute(newest, (run, backend, target, last)))
        verdicts: dict[str, list[str]] = {}
        metrics: dict[str, dict[str, list[float | None]]] = {}
        for place, each in enumerate(runs):
            for check, verdict, measured in connection.execute(query, (each,)):
                verdicts.setdefault(check, [""] * len(runs))[place] = sys.intern(verdict)
                for name, metric in json.loads(measured or "{}").items():
                    values = metrics.setdefault(check, {}).setdefault(sys.intern(name), [None] * len(runs))
                    values[place] = metric.get("value") if isinstance(metric, dict) else None
        return Trails(runs=tuple(runs), verdicts=verdicts, metrics=metrics)

    return with_file(home, work)


def flaky(home: Path) -> list[Flaky]:
    """Checks that both passed and failed under the same key, or passed after a failed attempt of the same run."""
    broken = str(tuple(BROKEN))
    query = f"""
        SELECT name, sum(verdict = 'pass'), sum(verdict IN {broken}) + sum(flaky = 1), group_concat(run, ' ')
        FROM (SELECT * FROM outcomes WHERE reused = '' ORDER BY run)
        WHERE key != '' OR flaky = 1 GROUP BY name, key
        HAVING sum(verdict = 'pass') > 0 AND (sum(verdict IN {broken}) > 0 OR sum(flaky = 1) > 0)
        ORDER BY name
        """
    return [
        Flaky(check=name, passes=passes, failures=failures, runs=tuple(runs.split()))
        for name, passes, failures, runs in rows_of(home, query)
    ]


def timelines(home: Path, selector: Selector | Checks, last: int) -> dict[str, list[tuple[str, Outcome]]]:
    """Id of a selected check -> (run, outcome) of its last runs, oldest first."""
    query = """
        WITH checks AS (
            SELECT name, (
                SELECT json_extract(record, '$.subject') FROM outcomes WHERE name = every.name LIMIT 1
            ) AS subject, (
                SELECT json_extract(record, '$.labels') FROM outcomes WHERE name = every.name ORDER BY run DESC LIMIT 1
            ) AS labels FROM (SELECT DISTINCT name FROM outcomes) AS every
        )
        SELECT name, run, record FROM (
            SELECT *, row_number() OVER (PARTITION BY name ORDER BY run DESC) AS back FROM outcomes
            WHERE name IN (SELECT name FROM checks WHERE selected(name, subject, labels))
        ) WHERE back <= ? ORDER BY name, run
        """

    def selected(name: object, subject: object, labels: object) -> bool:
        return selector.takes(address(str(name), str(subject), re.findall(r'"([^"]+)"', str(labels))))

    def work(connection: sqlite3.Connection) -> list[tuple[str, Outcome]]:
        connection.create_function("selected", 3, selected, deterministic=True)
        rows = connection.execute(query, (last,)).fetchall()
        return [(run, outcome_in(record)) for _, run, record in rows]

    runs: dict[str, list[tuple[str, Outcome]]] = {}
    for run, outcome in with_file(home, work):
        runs.setdefault(outcome.check, []).append((run, outcome))
    return runs


def outcome_in(text: Any) -> Outcome:
    """The outcome of a row."""
    return outcome_of(record_of(text, "outcome"))


def record_of(text: Any, kind: str) -> dict[str, Any]:
    """A record of that kind; where it is none, the file is rebuilt from the journals."""
    try:
        record = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise _Damaged(f"a record is no JSON: {error}") from error
    if not isinstance(record, dict) or record.get("kind") != kind or not readable(record):
        raise _Damaged("a record cannot be read")
    return record
