"""Reasons are found in real messages, and not in what only looks like them."""

from __future__ import annotations

import ast
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from runner.classify import classify
from runner.model import Limits, Verdict
from runner.rules import BLAME, REASONS, RULES

ROOT = Path(__file__).resolve().parent.parent
FACTS: dict[str, Any] = {"packages": {"torch": "2.6.0", "numpy": "2.1.0"}, "torch": {"version": "2.6.0"}}


def raised(message: str, *types: str, frame: str = "", output: str = "", oom: int = 0) -> dict[str, Any]:
    """An exception as the probe host tells it; the frame is the path and the line that raised."""
    kinds = types or ("RuntimeError",)
    place = f'  File "/site-packages/library/module.py", line 1, in f\n    {frame}\n' if frame else ""
    trace = f"Traceback (most recent call last):\n{place}{kinds[0]}: {message}\n"
    seen = {"status": "raised", "exception": list(kinds), "message": message, "traceback": trace, "output": output}
    return {**seen, "member": "library", "oom_kills": oom}


def died(number: int = 0, status: int | None = None, output: str = "", oom: int = 0) -> dict[str, Any]:
    """A death as the probe host tells it."""
    return {
        "status": "died",
        "signal": number or None,
        "exit": status,
        "output": output,
        "oom_kills": oom,
        "message": "",
        "member": "library",
    }


MESSAGES = [
    # pytorch/pytorch#116696: a runtime image has no compiler
    ("no-compiler", raised("Failed to find C compiler. Please specify via CC environment variable.")),
    ("no-compiler", raised("InvalidCxxCompiler: No working C++ compiler found in torch._inductor.config.cpp.cxx")),
    # pytorch/pytorch#108861
    (
        "shared-memory-too-small",
        raised(
            "DataLoader worker (pid 11011) is killed by signal: Bus error. It is possible that dataloader's workers"
        ),
    ),
    # pytorch/pytorch#135013
    ("numpy-abi", raised("_ARRAY_API not found", "AttributeError")),
    # pytorch/pytorch#54053
    ("no-kernel-image", raised("CUDA error: no kernel image is available for execution on the device")),
    ("undefined-symbol", raised("/x/ext.so: undefined symbol: _ZN3c105ErrorC2ENS_14SourceLocationE", "ImportError")),
    (
        "missing-shared-library",
        raised("libcudart.so.11.0: cannot open shared object file: No such file", "ImportError"),
    ),
    ("missing-shared-library", raised("libcublas.so.*[0-9] not found in the system path ['/x']", "ValueError")),
    ("glibc-too-old", raised("/lib/libm.so.6: version `GLIBC_2.29' not found (required by /x.so)", "ImportError")),
    ("driver-too-old", raised("The NVIDIA driver on your system is too old (found version 11040).")),
    ("no-gpu", raised("Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU")),
    ("illegal-memory-access", raised("CUDA error: an illegal memory access was encountered")),
    ("device-side-assert", raised("CUDA error: device-side assert triggered")),
    ("cuda-out-of-memory", raised("CUDA out of memory. Tried to allocate 2.00 GiB.", "torch.OutOfMemoryError")),
    ("noexec-cache", raised("/tmp/torchinductor_x/c.so: failed to map segment from shared object", "ImportError")),
    ("missing-module", raised("No module named 'clip'", "ModuleNotFoundError", "ImportError")),
    # a CPU build of torch beside a CUDA build of torchvision
    ("missing-operator", raised("operator torchvision::nms does not exist")),
    # deepspeed 0.12.6 with torch 2.6
    (
        "api-removed",
        raised("cannot import name 'log' from 'torch.distributed.elastic.agent.server.api' (/x.py)", "ImportError"),
    ),
    ("api-removed", raised("module 'numpy' has no attribute 'bool'", "AttributeError")),
    # pyro-ppl 1.8.0 with torch 2
    ("version-assert", raised("AssertionError", "AssertionError", frame='assert torch.__version__.startswith("1.")')),
    ("no-network", raised("<urlopen error [Errno -3] Temporary failure in name resolution>", "urllib.error.URLError")),
    ("dynamo-error", raised("RecursionError: maximum", "torch._dynamo.exc.InternalTorchDynamoError", "RecursionError")),
    ("segfault", died(signal.SIGSEGV)),
    ("abort", died(signal.SIGABRT)),
    ("out-of-memory", died(signal.SIGKILL, oom=1)),
    ("killed", died(signal.SIGKILL)),
    ("no-answer", died(status=0)),
    ("out-of-memory", died(status=0, oom=1)),
]


@pytest.mark.parametrize(("reason", "observation"), MESSAGES, ids=[f"{n}-{m[0]}" for n, m in enumerate(MESSAGES)])
def test_real_messages(reason: str, observation: dict[str, Any]) -> None:
    """Each gives its reason, with the line it was found in and something to do."""
    found = classify(observation, FACTS, Limits())
    assert found.reason == reason
    assert found.verdict is REASONS[reason].verdict
    assert found.evidence
    assert found.remedy
    assert "{" not in re.sub(r"\{\{.*?\}\}", "", found.remedy)


NEAR_MISSES = [
    ("missing-module", raised("module 'library.ops' has no attribute 'go'", "AttributeError")),
    ("api-removed", raised("module 'library.ops' has no attribute 'go'", "AttributeError")),
    ("cuda-out-of-memory", raised("shape mismatch", "ValueError", output="CUDA out of memory (caught and handled)")),
    ("killed", raised("the job was killed", "ValueError")),
    ("version-assert", raised("x", "AssertionError", frame="assert len(x) == 3")),
    ("no-kernel-image", raised("kernel image not found in cache", "KeyError")),
    ("undefined-symbol", raised("name 'symbol' is not defined", "NameError")),
    ("out-of-memory", raised("bad value", "ValueError", oom=0)),
]


@pytest.mark.parametrize(("reason", "observation"), NEAR_MISSES, ids=[one[0] for one in NEAR_MISSES])
def test_near_misses(reason: str, observation: dict[str, Any]) -> None:
    """A word in the wrong place gives no reason."""
    assert classify(observation, FACTS, Limits()).reason != reason


def test_what_no_rule_knows_is_shown_as_it_is() -> None:
    """With its evidence."""
    found = classify(raised("the moon is in the wrong house", "library.Mystery"), FACTS, Limits())
    assert (found.reason, found.verdict, found.blame) == ("unclassified", Verdict.FAIL, "library")
    assert "the moon" in found.evidence


def test_plain_statuses() -> None:
    """A pass, a skip, a time-out and evidence need no rule."""
    limits = Limits(timeout_s=9)
    assert classify({"status": "passed"}, FACTS, limits).verdict is Verdict.PASS
    skipped = classify({"status": "skipped", "code": "not-applicable", "message": "why"}, FACTS, limits)
    assert (skipped.verdict, skipped.detail) == (Verdict.SKIP, "why")
    assert classify({"status": "timeout", "message": "no answer"}, FACTS, limits).verdict is Verdict.TIMEOUT
    failed = classify({"status": "failed", "code": "wrong-device", "message": "on the CPU"}, FACTS, limits)
    assert (failed.verdict, failed.reason, failed.blame) == (Verdict.FAIL, "wrong-device", "library")


def test_every_code_is_in_the_registry() -> None:
    """Those of the evidence, of the rules, and of whatever the host side raises."""
    tree = ast.parse((ROOT / "probes" / "evidence.py").read_text())
    codes = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "CODES"
    )
    used = {*codes, *(rule.reason for rule in RULES)}
    for path in (ROOT / "runner").rglob("*.py"):
        used |= set(re.findall(r'Trouble\(\s*"([a-z-]+)"', path.read_text()))
    assert used - set(REASONS) == set()
    assert {reason.blame for reason in REASONS.values()} <= set(BLAME)


def test_every_reason_has_its_page() -> None:
    """docs/reasons/ is what the registry says (`compat docs` writes it)."""
    from runner.pages import pages

    assert {path.name: path.read_text() for path in (ROOT / "docs" / "reasons").glob("*.md")} == pages()
