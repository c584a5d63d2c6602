"""How often a signature says rightly whether two failures are one: `python -m tests.signatures` scores pairs of texts.

The pairs of `tests/messages/pairs/` are real messages. A hash of a file's name says whether the signature was written
with its pairs, or was only scored on them.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML

from tests.classification import half
from tests.support.messages import FOLDER
from torch_compat_matrix.runner.model import Limits
from torch_compat_matrix.runner.outcome import Outcome
from torch_compat_matrix.runner.signature import signature
from torch_compat_matrix.runner.verdicts.classify import classify

RAISED = re.compile(r"^.*?((?:[A-Za-z_]\w*\.)*(?:[A-Z]\w*)?(?:Error|Exception|OutOfResources))(?:: |$)", re.MULTILINE)
TRACEBACK = "Traceback (most recent call last)"


@dataclass(frozen=True, slots=True)
class Scored:
    """A pair of messages, and whether their signatures are the same."""

    name: str
    same: bool
    said_same: bool

    @property
    def kind(self) -> str:
        """`right`, `wrongly same` or `wrongly different`."""
        if self.same == self.said_same:
            return "right"
        return "wrongly same" if self.said_same else "wrongly different"


def outcome_of(text: str) -> Outcome:
    """The outcome of a library whose probe ends in these words, as a run would record it."""
    common: dict[str, Any] = {"member": "library", "output": ""}
    raised = list(RAISED.finditer(text))
    if raised or TRACEBACK in text:
        said = text[raised[-1].end() :].strip() if raised else text.partition(TRACEBACK)[0].strip()
        kind = raised[-1][1] if raised else "Warning"
        seen = {**common, "status": "raised", "exception": [kind], "traceback": text, "message": said or kind}
    else:
        signal = 11 if "SIGSEGV" in text else None
        seen = {**common, "status": "died", "output": text, "signal": signal, "exit": None if signal else 1}
    found = classify(seen, {"packages": {}}, Limits(), "docker")
    return Outcome(
        check="image/library-1/import",
        image="image",
        subject="library",
        probe="import",
        verdict=found.verdict,
        reason=found.reason,
        detail=found.detail,
        evidence=found.evidence,
        traceback=seen.get("traceback", ""),
        output=seen["output"],
    )


def pairs() -> Iterator[tuple[str, Scored]]:
    """Each pair with the half that it belongs to."""
    for path in sorted((FOLDER / "pairs").glob("*.yaml")):
        data = YAML(typ="safe").load(path)
        signatures = {name: signature(outcome_of(entry["text"])) for name, entry in data["texts"].items()}
        for pair in data["pairs"]:
            first, second = (signatures[pair[side]] for side in ("first", "second"))
            name = f"{path.stem} {pair['first']} {pair['second']}: {pair['why']}"
            yield half(path.stem), Scored(name, pair["same"], first == second)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, and the pairs that are not right."""
    parser = argparse.ArgumentParser(prog="python -m tests.signatures", description=__doc__)
    parser.add_argument("--failures", action="store_true", help="list the pairs that are not right")
    options = parser.parse_args(arguments)
    parts: dict[str, list[Scored]] = {}
    for name, scored in pairs():
        parts.setdefault(name, []).append(scored)
    print("part          pairs         right  wrongly same  wrongly different")
    for name, own in sorted(parts.items(), reverse=True):
        counts = Counter(pair.kind for pair in own)
        shares = [f"{counts[kind]:3} {100 * counts[kind] / len(own):4.1f} %" for kind in ("right", "wrongly same")]
        print(
            f"{name:13} {len(own):5}  {'  '.join(f'{share:>12}' for share in shares)}  {counts['wrongly different']:17}"
        )
        for pair in own if options.failures else ():
            if pair.kind != "right":
                print(f"  {pair.kind}: {pair.name}")


if __name__ == "__main__":
    main()
