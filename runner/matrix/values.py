"""The values that matrix.yaml holds, each type with its validator, whose message says what to write instead."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from torch_compat_matrix.runner.errors import did_you_mean
from torch_compat_matrix.runner.files import read_ini
from torch_compat_matrix.runner.matrix import versions
from torch_compat_matrix.runner.model import PROBES
from torch_compat_matrix.runner.text import redact

UNITS = {"k": 10, "m": 20, "g": 30, "t": 40}

OWN_VARIABLES = (
    *("PATH", "HOME", "TMPDIR", "USER", "LOGNAME", "PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE"),
    *("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "CUDA_CACHE_PATH", "MPLCONFIGDIR"),
    *("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "TORCH_EXTENSIONS_DIR"),
)
"""The variables that a launch sets itself: its walls and the device under test hang on them."""
SOCKETS = ("/run/docker.sock", "/run/containerd/containerd.sock", "/run/podman/podman.sock")

MOST_BYTES = 2**60
MOST_SECONDS = 1_000_000
MOST_CPUS = 8192
MOST_PIDS = 2**22
"""The kernel's own limit."""


def _size(text: Any) -> Any:
    size = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", str(text).strip().lower())
    if not size:
        raise ValueError("not a size; write it as Docker does: 512m, 8g")
    bytes_ = float(size[1]) * 2 ** UNITS.get(size[2], 0)
    if bytes_ >= MOST_BYTES:
        raise ValueError("larger than any memory; write a size like 8g")
    return int(bytes_)


_NO_REQUIREMENTS = {
    r"\s*$": "empty; write `name==1.2.3`",
    r"\s*(-e|--editable)\b": "an editable install, which changes under a test; write `name @ file:///ABSOLUTE/PATH`",
    r"\s*(-r|--requirement)\b": "a file of requirements; write its lines here",
    r"\s*-": "an option of pip, no requirement; pip's own configuration says where packages come from (PIP_INDEX_URL)",
    r"\s*([./~]|[\w+]+:|\S+\.(whl|zip|tar\.\w+)$)": "a path or URL without a name; write `name @ file:///...`"
    " or `name @ https://...`",
}
"""What a requirements file may hold, and a list of requirements may not, and what to write in its place."""


FORMS = read_ini(Path(__file__).with_name("data") / "forms.ini")


def _of_form(name: str) -> AfterValidator:
    """The validator of the values of a form."""

    def check(text: str) -> str:
        if not re.fullmatch(FORMS[name]["pattern"], text, re.DOTALL):
            raise ValueError(FORMS[name]["otherwise"])
        return text

    return AfterValidator(check)


def requirement(text: str) -> str:
    for pattern, problem in _NO_REQUIREMENTS.items():
        if re.match(pattern, text):
            raise ValueError(problem)
    try:
        url = Requirement(text).url
    except InvalidRequirement as error:
        raise ValueError(f"no requirement: {str(error).splitlines()[0]}; write `name==1.2.3`") from error
    if url is not None and "://" not in url:
        name = text.partition("@")[0].strip()
        raise ValueError(f"a path where a URL belongs; write `{name} @ file:///ABSOLUTE/PATH`")
    return text


def _range(text: str) -> str:
    if not versions.moving(text):
        raise ValueError("not a range; write one like `>=1.8,<2`, `latest-3` or `latest-minor-3`")
    return text


def _specifier(text: str) -> str:
    whole = text if text[:1] in tuple("<>=!~") else f"=={text}"
    try:
        SpecifierSet(whole)
    except InvalidSpecifier as error:
        raise ValueError("neither a version nor a range; write `1.8.0` or `>=1.8,<2`") from error
    return whole


def _source(text: str) -> str:
    if redact(text) != text:
        raise ValueError(
            "a URL with a secret; name variables of the environment: `https://${USER}:${TOKEN}@host/simple`"
        )
    return text


def _gpus(text: Any) -> str:
    words = ("auto", "required", "none")
    if text not in words and not re.fullmatch(r"[1-9]\d?", str(text)):
        raise ValueError(f"not a known value{did_you_mean(str(text), words)}, or the number of GPUs")
    return str(text)


def _word(text: str) -> str:
    if not text.strip() or re.search(r"[\x00-\x1f\x7f]", text):
        raise ValueError("empty, or of several lines; write it on one line")
    return text


def _sbatch_option(text: str) -> str:
    if not re.match(r"--[a-z][a-z-]*(=|$)", _word(text)):
        raise ValueError("no option of sbatch; write it as --NAME or --NAME=VALUE")
    return text


def _variable(text: str) -> str:
    if text in OWN_VARIABLES:
        raise ValueError("set by each launch itself, which keeps the checks apart; remove it")
    return text


def _mounted(text: str) -> str:
    path = Path(os.path.realpath(text))
    if any(Path(socket).is_relative_to(path) for socket in SOCKETS) or path.suffix == ".sock":
        raise ValueError("the engine's socket or a folder around it, which no container may reach; name another")
    return text


def _python(text: str) -> str:
    number = re.fullmatch(r"(\d+)\.(\d+)[\d.]*", text)
    if number and (int(number[1]), int(number[2])) < (3, 9):
        raise ValueError("too old: the probes need Python 3.9 or newer")
    return text


def _inner(text: str) -> str:
    path = Path(text.partition("::")[0])
    if path.is_absolute() or ".." in path.parts or not path.parts or text.startswith("-"):
        raise ValueError("no path within the source; write one as pytest does, FILE or FILE::TEST")
    return text


def _suite_source(text: str) -> str:
    commit = re.fullmatch(r"git\+(https?|ssh|file)://\S+@[0-9a-f]{40}", text)
    if text != "sdist" and not commit and ("://" in text or text.startswith("git+")):
        raise ValueError("no Git reference with its whole commit; write git+https://HOST/REPOSITORY@40-DIGITS")
    return _source(text)


def _argv(command: Any) -> Any:
    command = ["sh", "-c", command] if isinstance(command, str) and command.strip() else command
    if not command or not isinstance(command, list):
        raise ValueError("no command; write a line for `sh -c`, or a list of a program and its arguments")
    return command


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"no regular expression: {error}; in YAML write it in single quotes") from error
    return text


def is_folder(text: str) -> bool:
    """Whether an entry of `probes:` names a folder of probe modules, and no probe."""
    return text.startswith(("./", "../", "/"))


def _probe(text: str) -> str:
    if text not in PROBES and not is_folder(text):
        raise ValueError(f"no probe, and no folder (`./NAME`){did_you_mean(text, PROBES)}")
    return text


Size = Annotated[int, BeforeValidator(_size, json_schema_input_type=str)]
Seconds = Annotated[float, Field(gt=0, le=MOST_SECONDS)]
Req = Annotated[str, AfterValidator(requirement)]
Ver = Annotated[str, AfterValidator(versions.check)]
Range = Annotated[str, AfterValidator(_range)]
Specifier = Annotated[str, AfterValidator(_specifier)]
Argv = Annotated[list[str], BeforeValidator(_argv, json_schema_input_type=str | list[str])]
Pattern = Annotated[str, AfterValidator(_pattern)]
Name = Annotated[str, _of_form("name")]
Source = Annotated[str, AfterValidator(_source)]
IndexUrl = Annotated[Source, _of_form("url")]
Inner = Annotated[str, AfterValidator(_inner)]
SuiteSource = Annotated[str, AfterValidator(_suite_source)]
Digest = Annotated[str, _of_form("digest")]
Gpus = Annotated[
    str,
    BeforeValidator(_gpus),
    WithJsonSchema({"anyOf": [{"enum": ["auto", "required", "none"]}, {"type": "integer", "minimum": 1}]}),
]
Word = Annotated[str, AfterValidator(_word)]
SbatchOption = Annotated[str, AfterValidator(_sbatch_option)]
Variable = Annotated[str, _of_form("variable"), AfterValidator(_variable)]
Literally = Annotated[str, _of_form("literal")]
Inside = Annotated[str, _of_form("inside")]
Mounted = Annotated[str, AfterValidator(_mounted)]
User = Annotated[str, Field(pattern=r"^[\w.-]+(:[\w.-]+)?$")]
Platform = Annotated[str, Field(pattern=r"^linux/[a-z0-9_]+(/[a-z0-9]+)?$")]
Python = Annotated[str, AfterValidator(_python)]
Selection = Annotated[str, _of_form("in a file")]
ProbeOrFolder = Annotated[
    str,
    AfterValidator(_probe),
    WithJsonSchema({"anyOf": [{"enum": [*PROBES]}, {"type": "string", "pattern": r"^\.{0,2}/"}]}),
]
