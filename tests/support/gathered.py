"""A file of gathered failures, one JSON object a line, as the observations that a probe host would make of them.

Keys: id, phase, type, message, frames, stderr, library, versions, source, reasons and blame (all that are right), why;
ended, where whoever started the process saw how it ended: `{"signal": 11}`, `{"exit": 1}` or `{"hang": true}`.
"""

from __future__ import annotations

import builtins
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.messages import Message
from torch_compat_matrix.runner.pins import canonical
from torch_compat_matrix.runner.verdicts.classify import CORES_AT_LIMIT, LOAD_AT_LIMIT, is_of

DISTRIBUTIONS = {
    "sklearn": "scikit-learn",
    "pil": "pillow",
    "yaml": "pyyaml",
    "cv2": "opencv-python",
    "pkg-resources": "setuptools",
    "distutils": "setuptools",
    "torch-geometric": "torch-geometric",
    "functorch": "torch",
    "torchgen": "torch",
    "caffe2": "torch",
    "skimage": "scikit-image",
    "google": "protobuf",
    "attr": "attrs",
    "dateutil": "python-dateutil",
    "pyro": "pyro-ppl",
    "open-clip": "open-clip-torch",
    "pl-bolts": "lightning-bolts",
    "esm": "fair-esm",
}
"""Folders of packages that are not called after their distribution."""

SIGNALS = {
    r"[Ss]egmentation|SIGSEGV": 11,
    r"Abort|SIGABRT|terminate called": 6,
    r"Illegal instruction|SIGILL": 4,
    r"Bus error|SIGBUS": 7,
    r"Killed|SIGKILL": 9,
    r"Floating point exception|SIGFPE": 8,
}
"""Words of a death, and the number of its signal."""

LACKS = (
    r"cannot import name '[\w.]+' from (?:partially initialized module )?'(\w+)",
    r"No module named '(\w+)\.",
    r"module '(\w+)[\w.]*' has no attribute '",
    r"attribute '\w+' on <module '(\w+)",
    r"^'(torch)\.[\w.]+' object has no attribute",
    r"^Module '(\w+)' has no attribute '",
)
"""Messages in which Python names the package that lacks something; the rest a host sees in the objects themselves."""
CLASSES = {
    **dict.fromkeys(("Tensor", "Parameter", "Generator", "Sequential", "Adam"), "torch"),
    **dict.fromkeys(("DataFrame", "Series"), "pandas"),
    **dict.fromkeys(("FreeTypeFont", "ImageDraw"), "pillow"),
    "ndarray": "numpy",
    "DynamicCache": "transformers",
}
"""Classes whose objects a host sees, and the packages that they are of."""


ENGINE, INSTALLER = (
    {"engine", "container", "docker", "pull", "image", "launch", "start"},
    {"install", "resolve", "pip", "uv"},
)
"""Phases in which no interpreter of ours speaks."""

OF_SCRIPTS = frozenset(
    {
        "src",
        "library",
        "lib",
        "test",
        "tests",
        "scripts",
        "tools",
        "modules",
        "models",
        "model",
        "utils",
        "examples",
        "data",
        "demo",
        "core",
        "app",
        "projects",
        "layers",
        "util",
        "generation",
        "benchmarks",
        "training",
    }
)
"""First folders of relative paths that are no package's."""


def gathered(path: Path) -> Iterator[Message]:
    """The failures of the file, in its order; KeyError where a needed key is absent."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip():
            yield _message(json.loads(line))


def _message(said: Mapping[str, Any]) -> Message:
    stderr, words = said.get("stderr") or "", str(said["message"])
    versions = _versions(said.get("versions"))
    library, kind = canonical(str(said.get("library") or "library")), str(said.get("type") or "")
    frames = _frames(said.get("frames"), library)
    trace = "".join(f"  {frame}\n" for frame in frames)
    # Python shows the line of a SyntaxError last of all, in place of a frame.
    if kind == "SyntaxError" and 'File "' in stderr:
        trace, stderr = "", re.sub(r'^ *(?=File ")', "  ", stderr, flags=re.MULTILINE)
    head = f"Traceback (most recent call last):\n{trace}" if trace else ""
    phase = str(said.get("phase") or "").lower()
    named = re.fullmatch(
        r"(?:\w+\.)*\w+(?:Error|Exception|error|timeout)", kind
    )  # an interpreter speaks, whenever that was
    spoken_by = "" if named else "engine"
    if named and phase in INSTALLER and not re.search(r"(?m)^\s*(?:ERROR: |error: |\u00d7 )", f"{stderr}\n{words}"):
        phase = ""  # its own traceback, of a build outside of an installer
    phase = spoken_by if phase in ENGINE else "install" if phase in INSTALLER else phase
    quoted = re.match(r"((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception)): ", words)
    if quoted and kind in ("", quoted[1]):
        kind, words = quoted[1], words[quoted.end() :]
    raised = bool(
        re.fullmatch(r"(?:[A-Za-z_]\w*\.)*_?[A-Z]\w*|\w+(?:\.\w+)*\.(?:error|timeout|gaierror)", kind)
    ) and phase not in ("install", "engine")
    printed = f"{kind}: {words}" if raised or (quoted and phase == "install") else words
    text = "\n".join(part for part in (stderr, f"{head}{printed}") if part)
    common = {"member": library, "phase": phase}
    ended: Mapping[str, Any] = said.get("ended") or {}
    observation: dict[str, Any]
    if raised:
        found = (re.search(pattern, words) for pattern in LACKS)
        package = next((match[1] for match in found if match), "")
        asker = _raised_in(frames, library, {canonical(package): "0", **versions} if package else versions)
        link = {"type": kind, "message": words, "is_cause": True, "raised_in": asker}
        held = re.match(r"(?:type object )?'(\w+)'(?: object)? has no attribute", words)
        package = package or CLASSES.get(held[1] if held else "", "")
        link["lacking"] = _pin(package, versions) if package else ""
        types = [kind, *(base.__name__ for base in getattr(getattr(builtins, kind, None), "__mro__", ())[1:-2])]
        observation = {
            **common,
            "status": "raised",
            "exception": types,
            "message": words,
            "traceback": text,
            "output": stderr,
            "chain": [link],
        }
    elif ended.get("hang"):
        idle = {CORES_AT_LIMIT: {"value": 0.0}, LOAD_AT_LIMIT: {"value": 0.0}}
        observation = {**common, "status": "timeout", "output": text, "metrics": idle}
    else:
        told = (number for words, number in SIGNALS.items() if re.search(rf"\b(?:{words})", text))
        number = ended.get("signal") if ended else next(told, None)
        by_signal = number if phase not in ("install", "engine") else None
        observation = {
            **common,
            "status": "died",
            "output": text,
            "signal": by_signal,
            "exit": None if by_signal else ended.get("exit", -ended["signal"] if "signal" in ended else 1),
        }
    reasons, blames = tuple(said["reasons"]), tuple(said["blame"])
    packages = {"torch": "2.6.0", "numpy": "1.26.4", **versions}
    return Message(
        name=said["id"],
        source=said["source"],
        reason=reasons[0],
        refuses="",
        text=text,
        observation=observation,
        packages=packages,
        blame=blames[0],
        wanted="",
        reasons=reasons,
        blames=blames,
    )


def _frames(frames: Any, library: str) -> list[str]:
    """Each frame as `File "path", line N, in name`, with its source line behind it."""
    listed = re.split(r"\n(?= *File )", frames) if isinstance(frames, str) else list(frames or ())
    return [_absolute(_frame(frame).strip(), library.replace("-", "_")) for frame in listed if frame]


def _absolute(frame: str, library: str) -> str:
    """The frame with the whole path of its package, as a host has it; a checkout's and a script's as they are."""
    found = re.search(r'"([A-Za-z_]\w*)/', frame)
    if found is None or found[1] in OF_SCRIPTS or re.search(rf"/{library}/", frame):
        return frame
    return frame.replace(f'"{found[1]}/', f'"/opt/venv/lib/python3/site-packages/{found[1]}/', 1)


def _frame(frame: Any) -> str:
    if isinstance(frame, Mapping):
        path = str(frame.get("file") or frame.get("path") or frame.get("filename") or "").replace("\\", "/")
        called = frame.get("function") or frame.get("name") or frame.get("func") or "<module>"
        source = frame.get("code") or frame.get("source") or frame.get("text") or ""
        return f'File "{path}", line {frame.get("line") or frame.get("lineno") or 1}, in {called}\n    {source}'
    if isinstance(frame, Sequence) and not isinstance(frame, str):
        frame = ":".join(map(str, frame))
    if frame.lstrip().startswith("File "):
        return str(frame)
    path, _, rest = str(frame).partition(":")
    return (
        f'File "{path.split(" ")[0]}", line {(re.findall(r"[0-9]+", rest) or [1])[0]}, in {rest.split(" ")[-1] or "f"}'
    )


def _raised_in(frames: Sequence[str], library: str, versions: Mapping[str, str]) -> str:
    """The distribution of the deepest frame that is not Python's own; empty where that is a script's."""
    for frame in reversed(frames):
        path = (re.search(r'"([^"]*)"', frame) or ["", ""])[1]
        if re.search(r", in (?:__getattr__|insert_env_defaults|overwrite_by_env_vars)\b|\*\*", frame):
            continue  # who is asked for an attribute, and who hands keywords on, as in a probe host
        inside = re.findall(r"(?:site|dist)-packages/(?:[\w.-]+\.egg/)?([\w-]+)", path)
        if inside:
            return _pin(inside[-1], versions, library)
        if re.search(r"/lib(?:64)?/python3?[\d.]*/|^<|frozen ", path):
            continue
        parts = {canonical(part.removesuffix(".py")) for part in path.split("/")}
        own = next((part for part in parts if part and f"{library}-".startswith(f"{part}-")), "")
        named = next((part for part in parts if part in versions or part in ("torch", "numpy", "triton")), "")
        return _pin(library if own else named, versions) if own or named else ""
    return ""


def _pin(folder: str, versions: Mapping[str, str], library: str = "") -> str:
    """`name==version` of the distribution that brings the folder."""
    name = DISTRIBUTIONS.get(canonical(folder), canonical(folder))
    if library and len(name) > 1 and is_of(name, library):
        name = library
    return f"{name}=={versions.get(name, '0')}"


def _versions(said: Any) -> dict[str, str]:
    if isinstance(said, Mapping):
        return {canonical(str(name)): str(version) for name, version in said.items()}
    listed = said if isinstance(said, str) else " ".join(map(str, said or ()))
    return {
        canonical(name): version
        for name, version in re.findall(r"([A-Za-z][\w.-]*?)(?:==|[ =:]+)v?(\d[\w.+]*)", listed)
    }
