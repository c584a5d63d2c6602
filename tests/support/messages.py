"""tests/messages/: what programs really said, one small file each, with its source and the reason it must give."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent.parent / "messages"
BLIND = FOLDER / "blind"
SCORED = frozenset({BLIND, FOLDER / "blind2"})
"""What only measures the rules, and is no example of one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """A traceback, or the last output of a process that died, as a probe host would tell of it."""

    name: str
    source: str
    """A public thread, `measured: ...` where it was seen, or `constructed: ...` what it imitates."""
    reason: str
    """The reason that it must give."""
    refuses: str
    """The reason that it looks like, for a near miss."""
    text: str
    observation: Mapping[str, Any]
    packages: Mapping[str, str]
    blame: str
    """Who is to blame, where the file says it."""
    wanted: str
    """A code that fits better than `reason`, and that the registry may not have."""
    reasons: tuple[str, ...] = ()
    """All reasons that are right, where more than one is."""
    blames: tuple[str, ...] = ()
    """All that may be blamed, where more than one may."""


def messages() -> Iterator[Message]:
    """All that rules were written for, near misses too, in the order of their names."""
    for path in sorted(FOLDER.rglob("*.txt"), key=lambda path: path.stem):
        if path.parent not in SCORED:
            yield read(path)


def blind_messages(folder: Path = BLIND) -> Iterator[Message]:
    """The messages of a folder that only measures the rules, in the order of their names."""
    for path in sorted(folder.glob("*.txt")):
        yield read(path)


def read(path: Path) -> Message:
    """A file of `key: value` lines, an empty line, and the text; KeyError where a needed key is absent."""
    head, _, text = path.read_text(encoding="utf-8").partition("\n\n")
    fields = dict(line.partition(": ")[::2] for line in head.splitlines())
    return Message(
        name=path.stem,
        source=fields["source"],
        reason=fields["reason"],
        refuses=fields.get("not", ""),
        text=text.strip(),
        observation=_observation(fields, text.strip()),
        packages=dict(pin.split("==") for pin in fields.get("packages", "torch==2.6.0 numpy==1.26.4").split()),
        blame=fields.get("blame", ""),
        wanted=fields.get("wanted", ""),
    )


def _observation(fields: Mapping[str, str], text: str) -> dict[str, Any]:
    common = {
        "status": fields["status"],
        "member": fields.get("member", "library"),
        "output": fields.get("output", ""),
        **({"oom_kills": int(fields["oom_kills"])} if "oom_kills" in fields else {}),
    }
    if fields["status"] == "died":
        number, status = fields.get("signal"), fields.get("exit")
        return {**common, "output": text, "signal": number and int(number), "exit": status and int(status)}
    types = fields["exception"].split(", ")
    said = re.split(rf"^{re.escape(types[0])}(?:: |$)", text, flags=re.MULTILINE)[-1].strip() or types[0]
    owners = {name: fields.get(name, "") for name in ("raised_in", "lacking")}
    chain = [{"type": types[0], "message": said, "is_cause": True, **owners}] if any(owners.values()) else []
    return {**common, "exception": types, "traceback": text, "message": said, "chain": chain}
