"""From an observation to a verdict: a pure function of the observation, the facts and the limits."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from torch_compat_matrix.runner.model import TORCH, Limits, Verdict
from torch_compat_matrix.runner.pins import canonical
from torch_compat_matrix.runner.verdicts.reasons import CALLER, RAISER, REASONS, Reason, reason_for
from torch_compat_matrix.runner.verdicts.rules import RULES, Rule
from torch_compat_matrix.runner.verdicts.signs import (
    NOBODY,
    QUOTES,
    Signs,
    last_telling,
    last_words,
    read_signs,
    signal_of,
    telling_line,
)

COMPILER = r'^ *File "(?=[^"\n]*/(?:torch/_inductor|triton)/)[^"\n]*".*'
"""A frame of the compiler in the stacks that a probe prints when its time is up."""


HINT = re.compile(
    r"\b(?:[Hh]ints?\b|e\.g\.|[Ff]or example|such as\b|[Ii]f (?:you|it) (?:see|get|say)s?\b"
    r"|you (?:may|might|will) (?:get|see)\b)"
)
"""Words after which a line quotes a failure that has not happened."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Classified:
    """The verdict of an observation and its reason, as fields of an Outcome."""

    verdict: Verdict
    reason: str = ""
    detail: str = ""
    evidence: str = ""
    blame: str = ""
    remedy: str = ""
    names: Mapping[str, str] = field(default_factory=dict)
    """What the rule caught, and the raiser."""


def classify(
    observation: Mapping[str, Any],
    facts: Mapping[str, Any],
    limits: Limits,
    backend: str = "",
    added: Mapping[str, str] = MappingProxyType({}),
) -> Classified:
    """The verdict, its reason and the line that shows it; the remedy fits the backend.

    `added` are the packages that the cell added to the image, by name.
    """
    status, message = observation["status"], str(observation.get("message", ""))
    if status == "passed":
        return Classified(verdict=Verdict.PASS)
    known = {**_known(observation, facts, limits), "backend": backend}
    if status == "skipped":
        return _classified(reason_for(observation.get("code") or "not-applicable"), known, detail=message)
    if status == "failed":
        code = observation.get("code", "")
        # A fork's own evidence codes need no entry in the registry to be a failure of the library.
        if code in REASONS:
            return _classified(REASONS[code], known, detail=message, evidence=message)
        return Classified(verdict=Verdict.FAIL, reason=code, detail=message, evidence=message, blame="library")
    if status == "timeout":
        compiler = re.search(COMPILER, str(observation.get("output", "")), re.MULTILINE)
        if compiler is not None:
            return _classified(REASONS["compile-timeout"], known, evidence=compiler[0])
        last = last_words(str(observation.get("output", ""))).rpartition("\n")[2]
        return _classified(REASONS[_kind_of_timeout(observation, facts)], known, evidence=last or message)
    return _of_torch(observation, known, facts) or explain(observation, known, facts.get("packages", {}), added)


def _of_torch(observation: Mapping[str, Any], known: Mapping[str, str], facts: Mapping[str, Any]) -> Classified | None:
    """The verdict of an image whose torch cannot be imported, where the library only passes torch's own error on."""
    error = facts.get("torch_error") or {}
    if not error or not any(link["message"] == error["message"] for link in observation.get("chain", ())):
        return None
    found = explain({"status": "raised", **error, "member": "torch"}, {**known, "member": "torch"}, (), {})
    if found.blame in ("image", "host") and found.verdict is not Verdict.FAIL:
        return found
    version = facts.get("packages", {}).get("torch")
    installed = {"installed_torch": f"torch {version}"} if version else {}
    return _classified(reason_for("no-torch"), {**known, **installed}, evidence=found.evidence)


CORES_AT_LIMIT, WAITED_AT_LIMIT = "cores in use at the limit", "cores waited for at the limit"
LOAD_AT_LIMIT = "load of the host at the limit"
"""The metrics that the probe host gives to a probe whose time is up."""
GPU_AT_LIMIT = "GPU in use at the limit"
"""The metric that the runner adds where the probe had a GPU."""
IDLE_CORES = 0.05
"""Below this use of processors, or wait for one, a probe at its limit waits for something else: it hangs."""
IDLE_GPU = 5.0
"""Below this percentage of the last seconds, nor does the GPU work for it."""
BUSY_HOST = 1.5
"""Above so many runnable threads of others a core, a limit that strikes says more of the host than of the library."""


def _kind_of_timeout(observation: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """`hang` where probe and GPU were idle, `busy-host` where others took the processors; `timeout` for all else."""
    metrics = observation.get("metrics") or {}
    names = (CORES_AT_LIMIT, WAITED_AT_LIMIT, LOAD_AT_LIMIT, GPU_AT_LIMIT)
    busy, waited, load, gpu = (metrics.get(name, {}).get("value") for name in names)
    if busy is None or load is None:
        return "timeout"
    wanted = busy + (waited or 0.0)
    if wanted < IDLE_CORES:
        return "hang" if (gpu or 0) < IDLE_GPU else "timeout"
    return "busy-host" if load - wanted > BUSY_HOST * (facts.get("cpus") or 1) else "timeout"


def explain(
    observation: Mapping[str, Any], known: Mapping[str, str], packages: Iterable[str], added: Mapping[str, str]
) -> Classified:
    """The first rule that holds for an exception or a death."""
    signs = read_signs(observation)
    known = {**known, "raiser": signs.raised_in.replace("==", " ").removeprefix(NOBODY)}
    for rule in RULES:
        match = matches(rule, signs, packages, known["member"])
        if match is not None:
            evidence, groups = match
            reason = REASONS[rule.reason]
            blame, _, usual = (rule.blame or reason.blame).partition("|")
            owner = groups.get("owner") or _brings(groups.get("library", ""), signs.own, known["member"])
            if owner or blame in (RAISER, CALLER):
                raiser = signs.caller if blame == CALLER else signs.raised_in
                # A file may bear a name after which no distribution is called.
                asked = [owner, raiser] if owner else [raiser]
                if owner and re.search(QUOTES, signs.said):
                    asked, usual = [owner], ""  # who only quotes the error has not loaded the file
                elif owner and not raiser:
                    asked = [owner]  # no frame shows who asked for another's part
                found = (_raiser(name, known["member"], {*packages}, added) for name in asked)
                blame = next((who for who in found if who != "unknown"), usual or "unknown")
            if known["member"] == TORCH and (blame in ("library", "dependency") or reason.blame in (RAISER, CALLER)):
                blame = "image"  # torch is the image's, and nothing else is in its cell
            names = {name: text for name, text in {"raiser": known["raiser"], **groups}.items() if text}
            return replace(_classified(reason, {**known, **groups}, evidence=evidence, blame=blame), names=names)
    return _classified(REASONS["unclassified"], known, evidence=signs.head)


def _brings(library: str, *names: str) -> str:
    """The first package, torch apart, after which a shared library is called: a part that it should bring itself."""
    plain = re.sub(r"\W|_", "", library.lower()).removeprefix("lib")
    bare = (name.partition("==")[0] for name in names)
    own = (name for name in bare if name and name != TORCH and plain.startswith(re.sub(r"\W|_", "", name.lower())))
    return next((name for name in own if len(name) > 2), "")


def _raiser(raised_in: str, member: str, packages: Collection[str], added: Mapping[str, str]) -> str:
    """Who raised: the library, also where that is not known; a dependency that the cell added; or the image.

    A bare name is that of a folder, which may be none of a distribution: nobody is blamed then.
    """
    name = canonical(raised_in.partition("==")[0])
    if name == TORCH:
        return "image"
    if name in ("", canonical(member)):
        return "library"
    if name in added:
        return "dependency"
    if "==" in raised_in or name in map(canonical, packages):
        return "image"
    if is_of(name, canonical(member)):
        return "library"
    if any(is_of(name, package) for package in added):
        return "dependency"
    return "image" if any(is_of(name, canonical(package)) for package in packages) else "unknown"


def is_of(name: str, distribution: str) -> bool:
    """Whether folder or file are called after a distribution: `pyro` of pyro-ppl, `flash_attn_2_cuda` of flash-attn."""
    plain = distribution.replace("-", "")
    alike = name.replace("-", "") in (plain, plain.rstrip("0123456789"))  # `mmaction` of mmaction2
    return alike or f"{distribution}-".startswith(f"{name}-") or f"{name}-".startswith(f"{distribution}-")


def matches(rule: Rule, signs: Signs, packages: Iterable[str], member: str) -> tuple[str, dict[str, str]] | None:
    """The line that matched and the named groups of its pattern, if every sign of the rule is there."""
    if any(getattr(rule, name) and not getattr(signs, name) for name in ("oom", "uncounted", "unprovoked")):
        return None
    if rule.raised_by and not re.fullmatch(rule.raised_by, signs.raised_in):
        return None
    if rule.lacks and rule.lacks in packages:
        return None
    if rule.raises and not any(re.fullmatch(rule.raises, kind) for kind in signs.types):
        return None
    through = re.search(rule.through, signs.trace, re.MULTILINE)
    if through is None:
        return None
    lacking = [held for held in signs.lacking if canonical(held.partition("==")[0]) != canonical(member)]
    own = is_of(canonical(signs.own.partition("==")[0]), canonical(member))
    if (rule.lacking and not lacking) or (rule.unheld and (signs.lacking or not own)):
        return None
    evidence, groups = "", {name: value for name, value in through.groupdict().items() if value}
    # In the order in which a match makes the better evidence.
    for pattern, text in (
        (rule.says, signs.said),
        (rule.prints, signs.output),
        (rule.within, signs.frame),
        (rule.signal, signs.signal),
        (rule.exit, signs.exit),
    ):
        if not pattern:
            continue
        found = (match for match in re.finditer(pattern, text, re.MULTILINE) if not _is_a_hint(match))
        match = next(found, None)
        if match is None:
            return None
        evidence = evidence or _line_of(match)
        groups.update({name: value for name, value in match.groupdict().items() if value})
    if rule.own:
        # The folder of scikit-learn is `sklearn`: its distribution counts, where it is known.
        holders = {held.partition("==")[0] for held in signs.lacking} or {groups["namespace"].partition(".")[0]}
        return (evidence, groups) if canonical(signs.own.partition("==")[0]) in map(canonical, holders) else None
    if groups.get("namespace", "").partition(".")[0] == member:
        return None  # a name missing from a library's own namespace was not removed by anybody else
    if lacking:
        groups["holder"] = lacking[0].replace("==", " ")
        if canonical(lacking[0].partition("==")[0]) != "torch":  # the image's torch is never replaced
            groups["replaceable"] = groups["holder"]
    if rule.signal or rule.exit:
        evidence = ": ".join(part for part in (evidence, last_telling(signs.said)) if part)
    return evidence or signs.head, groups


def _classified(
    reason: Reason, known: Mapping[str, str], *, detail: str = "", evidence: str = "", blame: str = ""
) -> Classified:
    return Classified(
        verdict=reason.verdict,
        reason=reason.code,
        detail=detail or reason.text("cause", known),
        evidence=evidence.strip()[:500],
        blame=blame or reason.blame,
        remedy=reason.text("remedy", known),
    )


def _known(observation: Mapping[str, Any], facts: Mapping[str, Any], limits: Limits) -> dict[str, str]:
    """The names that the texts of a reason may use, beside the named groups of a rule's pattern."""
    torch, packages = facts.get("torch") or {}, facts.get("packages") or {}
    gpu: Mapping[str, Any] = next(iter(facts.get("gpus") or ()), {})
    message = str(observation.get("message", "")).strip()
    types = observation.get("exception") or ("exception",)
    return {
        "member": str(observation.get("member", "")),
        "type": str(types[0]).rpartition(".")[2],
        "message": telling_line(message)[:300],
        "signal": signal_of(observation),
        "exit": str(observation.get("exit", "")),
        "torch": str(torch.get("version") or packages.get("torch", "")),
        "cuda": str(torch.get("cuda") or ""),
        "architectures": ", ".join(torch.get("arch_list") or ()),
        "numpy": str(packages.get("numpy", "")),
        "python": str(facts.get("python", "")),
        "glibc": str(facts.get("glibc", "")),
        "driver": str(facts.get("driver", "")),
        "gpu": str(gpu.get("name", "")),
        "capability": str(gpu.get("capability", "")),
        "memory": _bytes(limits.memory),
        "shm": _bytes(limits.shm),
        "pids": str(limits.pids),
        "timeout_s": f"{limits.seconds(str(observation.get('probe', ''))):g}",
    }


def _is_a_hint(match: re.Match[str]) -> bool:
    """Whether the words before it in its line say that it is only an example, or what might come."""
    start = match.string.rfind("\n", 0, match.start()) + 1
    return HINT.search(match.string[max(start, match.start() - 200) : match.start()]) is not None


def _line_of(match: re.Match[str]) -> str:
    start = match.string.rfind("\n", 0, match.start()) + 1
    end = match.string.find("\n", match.start())
    return match.string[start : end if end >= 0 else None].strip()


def _bytes(number: int) -> str:
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if number >= size:
            return f"{number / size:g} {unit}"
    return f"{number} bytes"
