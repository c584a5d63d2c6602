"""docs/reasons/: a page a reason code, written from the registry and the rules."""

from __future__ import annotations

from collections.abc import Iterator

from runner.rules import REASONS, RULES, Reason


def pages() -> dict[str, str]:
    """File name -> content, the index (README.md) among them."""
    found = {f"{code}.md": "\n".join(_page(reason)) + "\n" for code, reason in REASONS.items()}
    rows = [
        f"| [{code}]({code}.md) | {one.verdict.value} | {one.blame} | {one.cause} |" for code, one in REASONS.items()
    ]
    head = ["# Reasons", "", "Each non-pass in a report carries one of these codes.", ""]
    found["README.md"] = "\n".join([*head, "| code | verdict | blame | cause |", "|---|---|---|---|", *rows]) + "\n"
    return found


def _page(reason: Reason) -> Iterator[str]:
    yield f"# {reason.code}"
    yield ""
    yield f"Verdict: **{reason.verdict.value}**. Blame: **{reason.blame}**."
    for title, text in (("Cause", reason.cause), ("How to confirm", reason.confirm), ("What to do", reason.remedy)):
        yield from ("", f"## {title}", "", text)
    signs = [
        f"`{pattern}` in {where}"
        for rule in RULES
        if rule.reason == reason.code
        for where, pattern in (
            ("the message", rule.says),
            ("the exception's type", rule.raises),
            ("the line that raised", rule.within),
            ("the output", rule.prints),
            ("the signal", rule.signal),
            ("the exit status", rule.exit),
        )
        if pattern
    ]
    if signs:
        yield from ("", "## What it is found by", "", *(f"- {sign}" for sign in signs))
