"""How often the rules name a failure rightly: `python -m tests.classification` scores them on messages of others.

The messages of `tests/messages/blind/`, which rules have been written from since, are shown in the two halves of their
first measurement; `--folder tests/messages/blind2` scores a set that nobody who writes rules has read; `--answers`
scores a reader's answers instead of the rules'.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from tests.support.gathered import gathered
from tests.support.messages import BLIND, Message, blind_messages
from torch_compat_matrix.runner.backends import docker_errors, slurm_queue
from torch_compat_matrix.runner.backends.kubernetes import OF_A_QUOTA
from torch_compat_matrix.runner.model import Limits
from torch_compat_matrix.runner.packages import uv
from torch_compat_matrix.runner.pins import canonical
from torch_compat_matrix.runner.verdicts.classify import classify, is_of, matches
from torch_compat_matrix.runner.verdicts.reasons import REASONS
from torch_compat_matrix.runner.verdicts.rules import RULES
from torch_compat_matrix.runner.verdicts.signs import QUOTES, read_signs

WRITTEN_FROM, ONLY_SCORED = "written from", "only scored"

OF_AN_IMAGE = re.compile(
    r"torch|torchvision|torchaudio|triton|numpy|pillow|sympy|networkx|jinja2|fsspec|filelock|typing-extensions"
    r"|pip|setuptools|conda|python|nvidia-.*"
)
"""What an image of torch brings; a run adds everything else for its library."""

AT_FAULT = ("library", "dependency")

KINDS = ("right", "wrong", "unclassified")
UNNAMED = frozenset({"unclassified", "unclassified-death", "install-failed", "no-answer"})
"""The codes of what no rule names."""

AFTER_INSTALLS = ("engine", "forward", "backward", "compile")
"""Phases in which no installer speaks."""
ENGINE_SAYS = r"Error response from daemon|nvidia-container-cli: |OCI runtime|Docker daemon|^error pulling image "
INSTALLER_SAYS = r"^\s*(\u00d7 |error: |ERROR: |WARNING: Ignoring)|No solution found|^\s*Caused by: "
"""Words that a run hears from the container engine and from uv, before any probe starts."""

SLURM_SAYS = (
    r"^(?:sbatch|salloc): (?:error|fatal|unrecog)|^slurm_\w+: |^srun: (?:error: (?:Unable to|Invalid|Memory|CPU)|fatal)"
)
SLURM_STATES = (
    (r"DUE TO TIME LIMIT|JobState=TIMEOUT", "TIMEOUT"),
    (r"DUE TO NODE FAILURE|JobState=NODE_FAIL|\bNode failure on ", "NODE_FAIL"),
    (r"DUE TO (?:(?:JOB )?PREEMPTION|JOB REQUEUE)|JobState=PREEMPTED", "PREEMPTED"),
    (r"\*\*\* (?:JOB|STEP) .{1,80} CANCELLED AT \S+ \*\*\*|JobState=CANCELLED", "CANCELLED"),
)
"""Slurm's words for what a run gets as the state of its job."""
NO_SCHEDULER = r"\b(?:sbatch|srun|kubectl): (?:command )?not found|No such file or directory: '(?:sbatch|srun)'"
KUBERNETES_SAYS = (
    (OF_A_QUOTA, "quota-exceeded"),
    (
        r"\(Forbidden\)|Message: Forbidden!|is forbidden: |\(Unauthorized\)|must be logged in to the server",
        "not-permitted",
    ),
    (r"namespaces? .{1,80} not found", "no-partition"),
    (r"OOMKilled", "out-of-memory"),
    (r"Preempt(?:ed|ion)ByScheduler|^Preempted|EvictionByEvictionAPI", "job-preempted"),
    (r"\bEvicted\b|low on resource:", "job-evicted"),
    (r"DeletionBy(?:TaintManager|PodGC)|NodeLost", "node-lost"),
    (r"DeadlineExceeded", "job-time-limit"),
    (r"nodes are available", "job-unsatisfiable"),
    (r"ErrImagePull|ImagePullBackOff|InvalidImageName|[Ff]ailed to pull image", "image-not-found"),
    (r"StartError|ContainerCannotRun|RunContainerError|failed to create containerd task", "no-python"),
    (r"[Ff]ailed to create (?:pod )?sandbox", "scheduler-error"),
    (r"connection to the server .{1,80} was refused|^Unable to connect to the server", "scheduler-unreachable"),
)
"""What a run gets from Kubernetes as a field of a pod or the status of an answer (runner/backends/kubernetes*.py)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """A message, and the reason and blame that the rules give it."""

    message: Message
    reason: str
    blame: str

    @property
    def wanted(self) -> str:
        """The reason that it must give: the code that was asked for, once the registry has it."""
        return self.message.wanted if self.message.wanted in REASONS else self.message.reason

    @property
    def kind(self) -> str:
        """`right`, `wrong`, or `unclassified` although there is a code for it."""
        is_right = self.names_the_reason and self.blame in (self.message.blames or (self.message.blame,))
        has_code = not self.message.wanted or self.message.wanted in REASONS
        withheld = not has_code or UNNAMED.intersection(self.message.reasons)
        if is_right or (withheld and self.reason in UNNAMED):
            return "right"
        return "unclassified" if self.reason in UNNAMED else "wrong"

    @property
    def names_the_reason(self) -> bool:
        """Whether the reason is right, whoever is blamed."""
        return self.reason == self.wanted or self.reason in self.message.reasons

    @property
    def blames_without_cause(self) -> bool:
        """Whether the library, or what came with it, is told to be at fault, and is not."""
        at_fault = self.message.blames or (self.message.blame,)
        return self.blame in AT_FAULT and not any(blame in AT_FAULT for blame in at_fault)


def half(name: str) -> str:
    """The half that a message belongs to, by its name alone."""
    return WRITTEN_FROM if sha256(name.encode()).digest()[0] % 2 else ONLY_SCORED


def _spoken(message: Message) -> tuple[str, str] | None:
    """Reason and blame by the table that a run asks for words of its surroundings; None where a program of ours speaks.

    What a run does not read but gets as a field (the state of a job, the condition of a pod) is read from the words.
    """
    said, phase = message.text, message.observation.get("phase")
    state = next((state for pattern, state in SLURM_STATES if re.search(pattern, said)), "")
    if state and message.observation.get("signal") == signal.SIGTERM:
        return slurm_queue.FAILED[state], ""  # which ends a job so
    hangs = message.observation["status"] == "timeout" and phase == "engine"
    if not hangs and not message.observation.get("exit"):
        return None
    if phase == "install" or (phase not in AFTER_INSTALLS and re.search(INSTALLER_SAYS, said, re.MULTILINE)):
        ran = uv.Ran(status=message.observation["exit"], out="", err=said)
        of_another = uv.is_of_a_dependency(ran.reason, said, [canonical(message.observation["member"])])
        return ran.reason, ran.blame or ("dependency" if of_another else "")
    if state:
        return slurm_queue.FAILED[state], ""
    waits = re.search(r"\bReason=(\w+)", said)
    if waits and waits[1] in slurm_queue.NEVER:
        return slurm_queue.FAILED["NEVER"], ""
    if re.search(NO_SCHEDULER, said):
        return "no-scheduler", ""
    if re.search(SLURM_SAYS, said, re.MULTILINE):
        return slurm_queue.refusal(said).code, ""
    pod = next((code for pattern, code in KUBERNETES_SAYS if re.search(pattern, said)), "")
    if pod:
        return (
            docker_errors.code_of(said, pod) if pod in ("no-python", "image-not-found", "scheduler-error") else pod
        ), ""
    code = docker_errors.code_of(said, "")
    if re.search(ENGINE_SAYS, said, re.MULTILINE) or (phase == "engine" and code):
        return code or "engine-error", ""
    return None


def score(message: Message) -> Score:
    """What a run would make of it: engine and installer speak before the probes, and have rules of their own."""
    spoken = _spoken(message)
    if spoken is not None:
        code, blame = spoken
        return Score(message=message, reason=code, blame=blame or REASONS[code].blame)
    owners = [link[name] for link in message.observation.get("chain", ()) for name in ("raised_in", "lacking")]
    folders = re.findall(r"-packages/(?:[\w.-]+\.egg/|google/)?(\w+)/", message.text)
    # Of what a wrapper quotes, no frame shows the package: its compiled part is called after it.
    folders += re.findall(rf"{QUOTES}.*\n\S*-packages/([a-z]\w*)\.cpython", message.observation.get("message", ""))
    folders += re.findall(r"^(\w+) needs \w+ \d", message.observation.get("message", ""))  # who speaks is installed
    own = canonical(message.observation["member"])
    brought = {
        **{folder: "0" for folder in folders if not is_of(canonical(folder), own)},
        **message.packages,
        **dict(owner.split("==") for owner in owners if owner),
    }
    added = {
        canonical(name): version for name, version in brought.items() if not OF_AN_IMAGE.fullmatch(canonical(name))
    }
    found = classify(message.observation, {"packages": message.packages}, Limits(), "docker", added)
    return Score(message=message, reason=found.reason, blame=found.blame)


def by_rule(scores: Iterable[Score]) -> str:
    """How often each rule gave the reason, right and wrong, the worst first; other tables' words apart."""
    counts: dict[int, Counter[str]] = {}
    for one in scores:
        seen = one.message
        if _spoken(seen) is None:
            signs, own = read_signs(seen.observation), str(seen.observation["member"])
            found = (number for number, rule in enumerate(RULES) if matches(rule, signs, seen.packages, own))
            counts.setdefault(next(found, -1), Counter())[one.kind] += 1
    lines = (
        (number, count["right"], count["wrong"] + count["unclassified"], RULES[number] if number >= 0 else None)
        for number, count in counts.items()
    )
    return "\n".join(
        f"{right:4} right {wrong:3} not  {f'{number:3} {rule.reason}: {rule.says[:90]}' if rule else 'no rule'}"
        for number, right, wrong, rule in sorted(lines, key=lambda line: (-line[2], line[1]))
    )


def table(parts: Mapping[str, Sequence[Score]]) -> str:
    """Right, wrong and unclassified in each part, and how often a library is blamed without cause.

    Of the verdicts with the right code and another blame, those are counted apart that blame nobody.
    """
    rows = [
        "part          messages       right       wrong  unclassified  right code, wrong blame (nobody's)"
        "  library blamed wrongly"
    ]
    for name, own in parts.items():
        counts = Counter(one.kind for one in own)
        shares = "  ".join(f"{counts[kind]:3} {100 * counts[kind] / max(1, len(own)):4.1f} %" for kind in KINDS)
        only_blame = [one for one in own if one.kind == "wrong" and one.names_the_reason]
        withheld = sum(one.blame == "unknown" for one in only_blame)
        rows.append(
            f"{name:13} {len(own):8}  {shares}  {len(only_blame):22} ({withheld:8})"
            f"  {sum(one.blames_without_cause for one in own):22}"
        )
    return "\n".join(rows)


def main(arguments: Iterable[str] | None = None) -> None:
    """Print the table, and the failures by name."""
    parser = argparse.ArgumentParser(prog="python -m tests.classification", description=__doc__)
    parser.add_argument("--failures", action="store_true", help="list what is not right, by half")
    parser.add_argument("--rules", action="store_true", help="show how often each rule was right")
    parser.add_argument(
        "--folder",
        type=Path,
        nargs="+",
        default=[BLIND],
        help="folders or files of messages (tests/messages/blind)",
    )
    parser.add_argument("--answers", type=Path, help="a file of answers: JSON lines with id, reason and blame")
    options = parser.parse_args(None if arguments is None else list(arguments))
    lines = map(json.loads, options.answers.read_text().splitlines()) if options.answers else ()
    answers = {line["id"]: line for line in lines}
    parts: dict[str, list[Score]] = {}
    for folder in options.folder:
        for message in (gathered if folder.is_file() else blind_messages)(folder):
            part = half(message.name) if folder == BLIND else folder.stem
            answer = answers.get(message.name)
            if answer:
                given = Score(message=message, reason=answer["reason"], blame=answer["blame"])
                parts.setdefault(options.answers.stem, []).append(given)
            elif not answers:
                parts.setdefault(part, []).append(score(message))
    print(table(parts))
    if options.rules:
        print(by_rule(one for own in parts.values() for one in own))
    for name, own in parts.items() if options.failures else ():
        for one in own:
            if one.kind != "right":
                print(
                    f"{name:13} {one.kind:13} {one.message.name}: "
                    f"{one.reason}/{one.blame}, not {'|'.join(one.message.reasons) or one.wanted}"
                    f"/{'|'.join(one.message.blames) or one.message.blame}"
                )


if __name__ == "__main__":
    main()
