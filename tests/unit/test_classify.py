"""Reasons are found in what programs really say, and not in what only looks like it."""

from __future__ import annotations

import ast
import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from docs.generate import pages
from tests.support import ROOT
from tests.support.messages import Message, messages
from torch_compat_matrix.probes.exceptions import describe
from torch_compat_matrix.runner.backends.base import BACKENDS
from torch_compat_matrix.runner.model import Limits, Verdict
from torch_compat_matrix.runner.packages import pip, uv
from torch_compat_matrix.runner.verdicts.classify import Classified, classify, matches
from torch_compat_matrix.runner.verdicts.reasons import (
    BLAME,
    CALLER,
    RAISER,
    REASONS,
    Reason,
    fill,
    names_in,
    read_reasons,
    reason_for,
)
from torch_compat_matrix.runner.verdicts.rules import RULES
from torch_compat_matrix.runner.verdicts.signs import read_signs

MESSAGES = tuple(messages())
SAID = [message for message in MESSAGES if not message.refuses]
NEAR_MISSES = [message for message in MESSAGES if message.refuses]


def named(message: Message) -> str:
    """A readable test id."""
    return message.name


def found_in(message: Message) -> Classified:
    """What a message comes to."""
    return classify(message.observation, {"packages": message.packages}, Limits())


def raised(error: BaseException, **more: Any) -> Classified:
    """What an exception comes to that is really raised here, told of as a probe host would."""
    try:
        raise error
    except BaseException as caught:
        return classify({**describe(caught), "member": "library", **more}, {}, Limits())


@pytest.mark.parametrize("message", SAID, ids=named)
def test_a_message_gives_its_reason(message: Message) -> None:
    """With the line it was found in, someone to blame and something to do."""
    found = found_in(message)
    assert found.reason == message.reason
    assert found.verdict is REASONS[message.reason].verdict
    blame = REASONS[message.reason].blame
    usual = ("library", "image", "unknown") if blame in (RAISER, CALLER) else (blame,)
    assert found.blame == message.blame if message.blame else found.blame in usual
    assert found.detail
    assert found.evidence
    assert found.remedy


@pytest.mark.parametrize("message", SAID, ids=named)
def test_the_evidence_is_a_line_that_was_said(message: Message) -> None:
    """Nobody has to take the reason on trust."""
    said = f"{message.text}\n{message.observation['output']}\nSIG{message.observation.get('signal')} exit status 0"
    last = found_in(message).evidence.rpartition(": ")[2]
    assert last in said or last.startswith("SIG")


@pytest.mark.parametrize("message", NEAR_MISSES, ids=named)
def test_a_near_miss_gives_another_reason(message: Message) -> None:
    """A word in the wrong place is no sign."""
    assert message.reason != message.refuses
    assert found_in(message).reason == message.reason


@pytest.mark.parametrize("message", MESSAGES, ids=named)
def test_every_message_says_where_it_is_from(message: Message) -> None:
    """A public thread, where it was measured, or what it imitates."""
    assert re.match(
        r"https://github\.com/[\w.-]+/[\w.-]+/(?:issues|pull)/\d+$|measured: |constructed: ", message.source
    )


def test_a_cause_speaks_for_the_exception_raised_from_it() -> None:
    """But not one that was only being handled."""

    def chained(explicit: bool) -> Classified:
        try:
            try:
                raise ImportError("libcudart.so.11.0: cannot open shared object file: No such file or directory")
            except ImportError as cause:
                if explicit:
                    raise RuntimeError("the extension does not load") from cause
                raise RuntimeError("the extension does not load")  # noqa: B904  (the implicit context is the point)
        except RuntimeError as error:
            return raised(error)

    assert chained(explicit=True).reason == "missing-shared-library"
    assert chained(explicit=False).reason == "unclassified"


@pytest.mark.parametrize(
    ("raised_in", "blame"),
    [("", "library"), ("botorch==0.17.0", "library"), ("gpytorch==1.14", "dependency"), ("pandas==2.2.0", "image")],
)
def test_who_raised_is_to_blame(raised_in: str, blame: str) -> None:
    """The library, a package that the cell added for it, or one of the image."""
    said = "No module named 'yaml'"
    link = {"type": "ModuleNotFoundError", "message": said, "is_cause": True, "raised_in": raised_in, "lacking": ""}
    seen = {"status": "raised", "member": "botorch", "message": said, "exception": ["ModuleNotFoundError"]}
    found = classify({**seen, "chain": [link]}, {}, Limits(), added={"botorch": "0.17.0", "gpytorch": "1.14"})
    assert (found.reason, found.blame) == ("missing-module", blame)
    assert raised_in.replace("==", " ") in found.detail


@pytest.mark.parametrize(
    ("frames", "blame"),
    [
        ("", "unknown"),
        ('  File "/x/probes/libraries/pyro.py", line 7 in sample', "library"),
        ('  File "/x/overlays/09fc361a/pyro/infer.py", line 7 in f\n  File "/x/site-packages/torch/a.py"', "library"),
        ('  File "/x/site-packages/torch/_ops.py", line 7 in f\n  File "/x/overlays/09fc/pyro/a.py"', "image"),
        ('  File "/x/overlays/09fc361a/opt_einsum/contract.py", line 7 in f', "dependency"),
        ('  File "/x/site-packages/elsewhere/contract.py", line 7 in f', "unknown"),
    ],
)
def test_a_crash_blames_whose_frame_is_innermost(frames: str, blame: str) -> None:
    """And nobody where there is none."""
    stack = f"Fatal Python error: Segmentation fault\n\nCurrent thread 0x7f (most recent call first):\n{frames}\n"
    seen = {"status": "died", "member": "pyro-ppl", "signal": 11, "exit": None, "output": stack if frames else "x"}
    added = {"pyro-ppl": "1.9.1", "opt-einsum": "3.4.0"}
    found = classify(seen, {"packages": {"torch": "2.6.0", **added}}, Limits(), added=added)
    assert (found.reason, found.blame) == ("segfault", blame)


def test_a_wrapper_that_quotes_an_exception_counts_as_that_exception() -> None:
    """Inductor raises its own error `from None`, with the type and message of the cause as its text."""
    link = {
        "type": "torch._inductor.exc.InductorError",
        "message": "ModuleNotFoundError: No module named 'setuptools'\n\nSet TORCHDYNAMO_VERBOSE=1 for the trace",
        "is_cause": True,
        "raised_in": "torch==2.6.0",
        "lacking": "",
    }
    seen = {"status": "raised", "member": "captum", "exception": [link["type"]], **link, "chain": [link]}
    found = classify(seen, {"packages": {"torch": "2.6.0"}}, Limits())
    assert (found.reason, found.blame) == ("missing-module", "image")
    assert found.evidence == "ModuleNotFoundError: No module named 'setuptools'"


def test_a_torch_that_does_not_import_is_the_images_fault() -> None:
    """For every library that passes its error on, and for no other failure."""
    said = "cannot import name 'TypeIs' from 'typing_extensions' (/lib/typing_extensions.py)"
    facts = {"torch_error": {"message": said, "exception": ["ImportError"]}, "packages": {"torch": "2.13.0"}}
    link = {"type": "ImportError", "message": said, "is_cause": True, "raised_in": "torch==2.13.0", "lacking": ""}
    seen = {"status": "raised", "member": "torchbnn", "message": said, "exception": ["ImportError"], "chain": [link]}
    found = classify(seen, facts, Limits())
    assert (found.reason, found.verdict, found.blame) == ("no-torch", Verdict.UNSUPPORTED, "image")
    assert "torch 2.13.0" in found.detail and "TypeIs" in found.evidence
    own = {**link, "message": "No module named 'yaml'"}
    found = classify({**seen, **own, "exception": ["ModuleNotFoundError"], "chain": [own]}, facts, Limits())
    assert found.reason == "missing-module"


def test_a_message_that_announces_its_cause_is_shown_with_it() -> None:
    """Its first line ends in a colon, and says nothing by itself."""
    found = raised(RuntimeError("Could not load it. Likely causes:\n 1. a\n 2. b\nthe loader said: no such device"))
    assert found.evidence == "RuntimeError: Could not load it. Likely causes: ... the loader said: no such device"


def test_a_text_names_what_is_known() -> None:
    """Of the match, the environment and the limits."""
    facts = {
        "torch": {"version": "2.6.0+cu124", "arch_list": ["sm_80", "sm_90"]},
        "gpus": [{"name": "B200"}],
        "glibc": "2.31",
    }
    seen = {"status": "raised", "member": "x", "exception": ["RuntimeError"], "traceback": ""}
    found = classify({**seen, "message": "no kernel image is available for execution"}, facts, Limits())
    assert "B200" in found.detail and "sm_80, sm_90" in found.detail
    found = classify({**seen, "message": "/x.so: version `GLIBC_2.38' not found (required by y.so)"}, facts, Limits())
    assert "GLIBC_2.38" in found.detail and "2.31" in found.detail
    found = classify(
        {"status": "timeout", "member": "x", "message": "", "output": "step 3\n"}, facts, Limits(timeout_s=9)
    )
    assert (found.verdict, found.evidence) == (Verdict.TIMEOUT, "step 3")
    assert "9 s" in found.detail
    found = classify({"status": "died", "member": "x", "signal": 9, "oom_kills": 1}, {}, Limits(memory=3 << 29))
    assert "1.5 GiB" in found.detail


@pytest.mark.parametrize(
    ("busy", "waited", "load", "gpu", "reason", "blame"),
    [
        (0.0, 0.0, 0.5, None, "hang", "library"),
        (0.02, 0.02, 40.0, 0.0, "hang", "library"),
        (0.02, 0.9, 40.0, None, "busy-host", "host"),  # it has not had a processor: the opposite of idle
        (0.04, 0.0, 40.0, 98.0, "timeout", "library"),
        (0.9, 0.0, 3.8, None, "timeout", "library"),
        (0.9, 0.1, 4.1, 0.0, "busy-host", "host"),
        (2.0, 14.0, 16.5, None, "timeout", "library"),  # the load is its own
        (0.9, None, 4.1, None, "busy-host", "host"),  # a kernel that does not count
        (None, None, 9.0, None, "timeout", "library"),
    ],
)
def test_a_limit_tells_a_hang_from_work_and_from_a_busy_host(
    busy: float | None, waited: float | None, load: float, gpu: float | None, reason: str, blame: str
) -> None:
    """By the processors that the probe had and waited for at the end, the GPU's work, and the load of others."""
    metrics = {
        "cores in use at the limit": {"value": busy},
        "cores waited for at the limit": {"value": waited},
        "load of the host at the limit": {"value": load},
    }
    metrics |= {} if gpu is None else {"GPU in use at the limit": {"value": gpu}}
    seen = {"status": "timeout", "member": "x", "message": "no answer", "output": "", "metrics": metrics}
    found = classify(seen, {"cpus": 2}, Limits())
    assert (found.verdict, found.reason, found.blame) == (Verdict.TIMEOUT, reason, blame)


def test_what_no_rule_knows_is_shown_as_it_is() -> None:
    """As a failure with its evidence, for which nobody is blamed."""
    found = raised(ArithmeticError("the moon is in the wrong house"))
    assert (found.reason, found.verdict, found.blame) == ("unclassified", Verdict.FAIL, "unknown")
    assert found.evidence == "ArithmeticError: the moon is in the wrong house"


@pytest.mark.parametrize(
    "words",
    [
        "CUDA error: {}",
        "CUDA driver error: {}",
        "cuda runtime error (11) : {} at THCGeneral.cpp:663",
        "Triton Error [CUDA]: {}",
        "NCCL error in: NCCLUtils.cpp:77, {}, NCCL version 2.27.7",
        "cuDNN error: {}",
        "cuDNN Frontend error: {}",
        "nvrtc: error: {}",
        "backend='inductor' raised:\nRuntimeError: Triton Error [CUDA]: {}",
        "CUDA initialization: {} (Triggered internally at ../c10/cuda/CUDAFunctions.cpp:108.)",
    ],
)
def test_words_of_the_gpu_never_blame_the_library_by_default(words: str) -> None:
    """Whatever they end in, and although a compiler may have passed them on."""
    found = raised(RuntimeError(words.format("the moon is in the wrong house")))
    assert found.reason in {"cuda-error", "cuda-library-error", "cuda-not-started"}
    assert found.blame != "library"


TOO_OLD = "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver"
UNKNOWN = "CUDA unknown error - this may be due to an incorrectly set up environment, e.g. changing env variable"
COUNT = "Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before calling NumCudaDevices()?"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (TOO_OLD, "driver-too-old"),
        ("Error 802: system not yet initialized", "gpu-fabric-not-ready"),
        ("Error 803: system has unsupported display driver / cuda driver combination", "driver-mismatch"),
        ("Error 804: forward compatibility was attempted on non supported HW", "driver-mismatch"),
        ("CUDA error: all CUDA-capable devices are busy or unavailable", "gpu-busy"),
        ("CUDA error: CUDA-capable device(s) is/are busy or unavailable", "gpu-busy"),
        ("CUDA error: out of memory", "cuda-out-of-memory"),
        (UNKNOWN, "cuda-not-started"),
        ("Error 999: unknown error", "cuda-not-started"),
    ],
)
def test_what_keeps_cuda_from_starting_is_the_hosts(said: str, reason: str) -> None:
    """As torch's initialisation raises it, and as the question whether CUDA is available warns of it."""
    said = f"{COUNT} {said}" if said.startswith("Error ") else said
    start = '  File "/opt/conda/lib/python3.11/site-packages/torch/cuda/__init__.py", line 298, in _lazy_init\n'
    exception = {"exception": ["RuntimeError"], "message": said, "traceback": f"{start}    torch._C._cuda_init()\n"}
    warning = {
        "exception": ["UserWarning"],
        "message": f"CUDA initialization: {said} (Triggered internally at ../c10/cuda/CUDAFunctions.cpp:108.)",
    }
    for seen in (exception, warning):
        found = classify({"status": "raised", "member": "torch", **seen}, {}, Limits())
        assert (found.reason, found.blame) == (reason, "host")
        assert said in found.evidence


def test_plain_statuses_need_no_rule() -> None:
    """A pass, a skip, and evidence, also of a kind that only a fork knows."""
    assert classify({"status": "passed"}, {}, Limits()).verdict is Verdict.PASS
    skipped = classify({"status": "skipped", "code": "not-applicable", "message": "why"}, {}, Limits())
    assert (skipped.verdict, skipped.reason, skipped.detail) == (Verdict.SKIP, "not-applicable", "why")
    for code in ("wrong-device", "wrong-colour"):
        failed = classify({"status": "failed", "code": code, "message": "on the CPU"}, {}, Limits())
        assert (failed.verdict, failed.reason, failed.blame) == (Verdict.FAIL, code, "library")
        assert failed.detail == failed.evidence == "on the CPU"


def test_every_rule_is_held_by_a_message() -> None:
    """Each decides for one at least; those of signals and exit statuses are held by the deaths above."""
    deciding = set()
    for message in MESSAGES:
        signs, member = read_signs(message.observation), message.observation["member"]
        holding = [rule for rule in RULES if matches(rule, signs, message.packages, member)]
        deciding.update(holding[:1])
    assert [rule for rule in RULES if rule not in deciding and not rule.signal and not rule.exit] == []


def test_every_code_that_is_given_is_in_the_registry_and_the_other_way_round() -> None:
    """Evidence, rules, and whatever the host side raises."""
    tree = ast.parse((ROOT / "probes" / "evidence.py").read_text())
    evidence = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "CODES"
    )
    assert {REASONS[code].verdict for code in evidence} == {Verdict.FAIL}
    sources = [
        path.read_text()
        for folder in ("compat", "runner", "probes", "reports")
        for path in (ROOT / folder).rglob("*.py")
    ]
    raises = {code for source in sources for code in re.findall(r'Trouble\(\s*"([a-z-]+)"', source)}
    given = {*evidence, *raises, *(rule.reason for rule in RULES)}
    given |= {code for code, *_ in (*uv.REASONS, *pip.REASONS)}
    assert given - set(REASONS) == set()
    quoted = {code for source in sources for code in re.findall(r'"([a-z-]+)"', source)}
    assert set(REASONS) - given - quoted == set()


def test_a_code_that_nobody_has_entered_blames_the_host() -> None:
    """Never the library."""
    assert (reason_for("no-such-code").verdict, reason_for("no-such-code").blame) == (Verdict.INFRA, "host")


def test_a_mistake_in_the_registry_is_named(tmp_path: Path) -> None:
    """With its section."""
    entry = "[x]\nverdict = fail\nblame = {}\ncause = c\nconfirm = d\nremedy = e\n"
    path = tmp_path / "reasons.ini"
    path.write_text(entry.format("nobody"))
    with pytest.raises(ValueError, match=r"\[x\] blames 'nobody', not one of library, dependency, image"):
        read_reasons(path)
    path.write_text(entry.format("us").replace("confirm = d\n", ""))
    with pytest.raises(KeyError, match="confirm"):
        read_reasons(path)
    assert set(BLAME) - {"dependency"} == {reason.blame for reason in REASONS.values()}


@pytest.mark.parametrize("reason", REASONS.values(), ids=lambda reason: reason.code)
def test_no_text_shows_a_value_that_nobody_knows(reason: Reason) -> None:
    """Whatever is known of the environment: all, nothing, or all but one."""
    for which, template in reason.templates.items():
        names = set(names_in(template))
        for unknown, backend in product(({}, *({name: ""} for name in names)), ("", *BACKENDS)):
            known = {name: f"the {name}" for name in names if unknown} | dict(unknown)
            text = reason.text(which, {**known, "backend": backend})
            assert names_in(text) == []
            assert not re.search(r"\[|\]|\||\?|  ", re.sub(r"`[^`]*`", "X", text)), text
            assert text.strip()
        whole = reason.text(which, {name: f"<{name}>" for name in names})
        assert all(f"<{name}>" in whole for name in names), f"{whole} can never say all it could"


@pytest.mark.parametrize("reason", REASONS.values(), ids=lambda reason: reason.code)
def test_a_remedy_fits_the_backend(reason: Reason) -> None:
    """A container knows no `local:` entry, and a process of this host no container."""
    only_docker = reason.code.startswith(("registry-", "image-", "engine-")) or reason.code in ("no-nvidia-runtime",)
    only_local = reason.code in ("no-stand-in", "python-not-found")
    if not only_local:
        assert "local:" not in reason.text("remedy", {"backend": "docker"})
    if not (only_docker or only_local):
        for backend in ("local", "here"):
            assert not re.search(
                r"docker|`(memory|shm|pids):` of the image|(?i:container) toolkit",
                reason.text("remedy", {"backend": backend}),
            )


def test_the_first_part_that_fits_is_shown() -> None:
    """By the backend, and by what is known."""
    text = "a[@local,here |@docker  {x}| y]b"
    assert [fill(text, {"backend": name, "x": "1"}) for name in ("here", "docker", "slurm", "")] == [
        "ab",
        "a 1b",
        "a yb",
        "a yb",
    ]
    assert fill(text, {"backend": "docker"}) == "a yb"


def test_a_name_outside_a_choice_is_a_mistake_in_the_registry(tmp_path: Path) -> None:
    """Where it is unknown, there would be nothing to say in its place."""
    path = tmp_path / "reasons.ini"
    path.write_text("[x]\nverdict = fail\nblame = us\ncause = c\nconfirm = d\nremedy = for CUDA {cuda}\n")
    with pytest.raises(ValueError, match=r"\[x\] names \{cuda\} outside"):
        read_reasons(path)


def test_every_reason_has_its_page() -> None:
    """docs/reasons/ is what the registry says (`python -m docs.generate` writes it)."""
    assert {path.name: path.read_text() for path in (ROOT / "docs" / "reasons").glob("*.md")} == pages()


def test_the_pages_say_it_in_general() -> None:
    """What only an outcome can fill in stands in brackets, and what another program fills in stays."""
    assert "[symbol]" in pages()["undefined-symbol.md"]
    assert "{{.Architecture}}" in pages()["wrong-architecture.md"]
    assert "pytorch/pytorch/issues/149845" in pages()["no-kernel-image.md"]


@pytest.mark.parametrize(
    ("frame", "reason", "blame"),
    [
        ("/x/site-packages/torch/_inductor/async_compile.py", "compile-timeout", "host"),
        ("/x/site-packages/triton/compiler/compiler.py", "compile-timeout", "host"),
        ("/x/site-packages/torch/nn/modules/linear.py", "timeout", "library"),
        ("/x/site-packages/mytriton.py", "timeout", "library"),
    ],
)
def test_a_compiler_that_needs_longer_is_not_the_librarys_fault(frame: str, reason: str, blame: str) -> None:
    """The stacks that the probe prints at the end of its time say where it was."""
    stack = (
        f'Thread 0x1 (most recent call first):\n  File "{frame}", line 7 in wait\n  File "/compat/x.py", line 1 in f'
    )
    found = classify({"status": "timeout", "message": "no answer after 120 s", "output": stack}, {}, Limits())
    assert (found.verdict, found.reason, found.blame) == (Verdict.TIMEOUT, reason, blame)
