"""Tell people of a run where something changed: by an issue that follows the state of the matrix, or by a message to a
webhook. A second time nothing is told.

how {github-issue,webhook}  whom to tell
where [WHERE]  the repository, OWNER/NAME (default: GITHUB_REPOSITORY; the token is GITHUB_TOKEN), or the URL (default:
    WEBHOOK)
--run RUN = latest  id of the run, or its beginning (%(default)s)
--name NAME  tells several nights of a repository apart: a target, say
--max-bytes SIZE = 60KiB  an issue or a comment is no longer than this, and says what it leaves out (%(default)s)
--dry-run  only show what would be told
--wait S = 60.0  seconds after GitHub's secondary limit (%(default)s)

compat publish github-issue acme/models --name h100 --dry-run
compat publish webhook https://chat.example.com/hooks/1234
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from torch_compat_matrix.compat.progress import answer
from torch_compat_matrix.reports.announce import TRACE_BYTES, Announcement, link_here, remembered, signature_of, trace
from torch_compat_matrix.reports.escape import code, count
from torch_compat_matrix.reports.standing import Standing
from torch_compat_matrix.reports.write import table_of
from torch_compat_matrix.runner.errors import CompatError, Status, UsageError
from torch_compat_matrix.runner.files import to_json
from torch_compat_matrix.runner.model import Verdict
from torch_compat_matrix.runner.records.runs import Run, home

if TYPE_CHECKING:
    from github.Issue import Issue
    from github.Repository import Repository

Do = Callable[[str, str, Callable[[], object]], None]
LABEL = "torch-compat-matrix"
TIMEOUT_S = 30
MOST = 20
FORGOTTEN = "?????"
"""Stands behind a failure that as many runs did not ask again: it is not in the matrix any more."""
REMEDIES = {
    401: "set GITHUB_TOKEN to a token that is valid",
    403: "let the token write issues (`permissions: { issues: write }`)",
    404: "name the repository as OWNER/NAME, and let the token see it",
    410: "switch the repository's issues on",
}


class NotTold(CompatError):
    """The other side did not take it."""


def main(options: argparse.Namespace) -> Status:
    """Tell of the run; 5 where the other side does not take it."""
    run = Run.open(home(), options.run)
    told = Announcement.of(table_of(run.journal), options.name or "")
    return {"github-issue": _issue, "webhook": _webhook}[options.how](told, run, options)


def _webhook(told: Announcement, run: Run, options: argparse.Namespace) -> Status:
    """One message where something changed; none a second time."""
    url = options.where or os.environ.get("WEBHOOK", "")
    if urlsplit(url).scheme not in ("http", "https"):
        raise UsageError("names no URL", "compat publish webhook https://..., or set WEBHOOK", "webhook")
    message, sent = told.message(link_here()), run.folder / f"told-{hashlib.sha256(url.encode()).hexdigest()[:8]}"
    if not told.changed or sent.exists():
        answer(f"nothing to tell: {'told already' if sent.exists() else 'nothing changed'}")
    elif options.dry_run:
        answer(f"would post: {to_json(message, indent=1)}")
    else:
        import requests

        host = urlsplit(url).hostname  # the rest of it is a secret
        try:
            reply = requests.post(url, json=message, timeout=TIMEOUT_S)
        except requests.exceptions.RequestException as error:
            raise NotTold(f"no answer: {type(error).__name__}", "try again, or mend the URL", f"{host}") from None
        if not reply.ok:
            raise NotTold(f"{reply.status_code} {reply.reason}", "mend the URL of the webhook", f"{host}")
        sent.touch()
        answer(f"told {host}")
    return Status.AS_EXPECTED


def _do(dry_run: bool, what: str, words: str, work: Callable[[], object]) -> None:
    """Do it, or only show it."""
    answer(f"would {what}:\n{words}\n" if dry_run else what)
    if not dry_run:
        work()


def _issue(told: Announcement, run: Run, options: argparse.Namespace) -> Status:
    try:
        from github import Auth, Github, GithubException, GithubRetry
    except ModuleNotFoundError as error:
        remedy = "pip install 'torch-compat-matrix[publish]'"
        raise UsageError("PyGithub is not installed", remedy, "publish") from error
    name = options.where or os.environ.get("GITHUB_REPOSITORY", "")
    token = os.environ.get("GITHUB_TOKEN", "")
    if not token or name.count("/") != 1:
        lacks = "GITHUB_TOKEN is not set" if not token else "names no repository"
        raise UsageError(lacks, "GITHUB_TOKEN=... compat publish github-issue OWNER/NAME", "github-issue")
    logging.getLogger("github").setLevel(logging.ERROR)  # it would print by itself
    # limits are waited for; an answer that was lost is not asked again: it may have made an issue
    retry = GithubRetry(total=4, status_forcelist=[429], allowed_methods=None, secondary_rate_wait=options.wait)
    client = Github(
        auth=Auth.Token(token),
        base_url=os.environ.get("GITHUB_API_URL", "https://api.github.com"),
        retry=retry,
        timeout=TIMEOUT_S,
        seconds_between_requests=min(0.25, options.wait),
        seconds_between_writes=min(1.0, options.wait),
    )
    try:
        _keep(client.get_repo(name), told, options.max_bytes, partial(_do, options.dry_run))
    except GithubException as error:
        message = error.data.get("message") if isinstance(error.data, dict) else error.data
        raise NotTold(f"{error.status} {message}", REMEDIES.get(error.status, "try again"), name) from error
    except OSError as error:  # requests' errors are of this kind
        raise NotTold(f"no answer: {type(error).__name__}", "try again", name) from error
    finally:
        client.close()
    return Status.AS_EXPECTED


def _keep(repository: Repository, told: Announcement, most: int, do: Do) -> None:
    """Bring the issue of this matrix to the state of the run, and comment where that changed."""
    ours = [
        (issue, memory)
        for issue in repository.get_issues(state="all", labels=[LABEL], sort="created", direction="desc")
        for memory in [remembered(issue.body or "")]
        if memory and memory.get("key") == told.key
    ]
    now = {found: signature_of(judged) for found, judged in told.failing.items()}
    opened = next((pair for pair in ours if pair[0].state == "open"), None)
    closed = next((pair for pair in ours if {*pair[1]["failing"].values()} & {*now.values()}), None)
    if opened:
        ages = told.standing.finished and opened[1].get("run") != told.table.run
        unseen = {
            found: f"{said}?" if ages else said
            for found, said in opened[1]["failing"].items()
            if found not in told.covered and not (ages and said.endswith(FORGOTTEN))
        }
        _update(opened[0], told, opened[1]["failing"], {**unseen, **now}, most, do)
    elif closed:
        _update(closed[0], told, {}, now, most, do)
    elif now:
        title = f"Compatibility matrix{f' ({told.name})' if told.name else ''}: unexpected failures"
        body = told.body(now, most, link_here())
        do(f"open an issue: {title}", body, lambda: _open(repository, title, body))
    else:
        answer("no issue is open, and nothing needs one")


def _open(repository: Repository, title: str, body: str) -> None:
    issue = repository.create_issue(title=title, body=body, labels=[LABEL])
    if LABEL not in [label.name for label in issue.labels]:
        issue.edit(state="closed")
        why = f"issue {issue.number} got no label, by which the next run would find it, and is closed again"
        raise NotTold(why, f"let the token label issues, or make the label {LABEL} yourself", "github-issue")
    answer(f"issue {issue.number}: {issue.html_url}")


def _update(
    issue: Issue, told: Announcement, before: Mapping[str, str], failing: Mapping[str, str], most: int, do: Do
) -> None:
    """Comment on what changed, and then write the state, so that a lost answer costs no comment."""
    where = f"issue {issue.number}"
    new = [
        found
        for found in told.failing
        if before.get(found, "").rstrip("?") != failing[found]
        and (found in before or len(before) < most // TRACE_BYTES)
    ]
    gone = sorted({*before} - {*failing})
    done = not failing and told.standing is Standing.CLEAN
    if new or gone:
        mark = f"<!-- compat run {told.table.run} -->"
        words = _comment(told, new, gone, mark, most)
        if not any(comment.body.startswith(mark) for comment in issue.get_comments()):
            do(f"comment on {where}", words, lambda: issue.create_comment(words))
    # a closed issue remembers by what it was open, and so is known again
    body = told.body(before if done else failing, most, link_here())
    if issue.state != ("closed" if done else "open"):
        state = "closed" if done else "open"
        do(f"{'close' if done else 'reopen'} {where}", body, lambda: issue.edit(body=body, state=state))
    elif issue.body != body:
        do(f"update {where}", body, lambda: issue.edit(body=body))
    else:
        answer(f"{where} is up to date")


def _comment(told: Announcement, new: Sequence[str], gone: Sequence[str], mark: str, most: int) -> str:
    lines = []
    works = [
        code(outcome.check)
        for outcome in told.table.outcomes.values()
        if outcome.verdict is Verdict.PASS and trace(outcome.check) in gone
    ]
    if works:
        more = f" and {len(works) - MOST} more" if len(works) > MOST else ""
        lines += [f"**{len(works)} fixed**: {', '.join(works[:MOST])}{more}", ""]
    if len(gone) > len(works):
        lines += [f"{len(gone) - len(works)} not told any more: known now, or no longer in the matrix.", ""]
    lines += ["Everything is as expected."] if told.standing is Standing.CLEAN else []
    return (
        told.framed([mark, f"**{count(len(new), 'new failure')}**"], lines, most, new)
        if new
        else "\n".join([mark, *lines])
    )
