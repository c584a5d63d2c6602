"""What can be said before an image is pulled: whether its build fits this driver, this GPU and this processor."""

from __future__ import annotations

import configparser
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch_compat_matrix.runner.model import Image, Outcome, Verdict

TABLES = configparser.ConfigParser(interpolation=None, delimiters=("=",), comment_prefixes=("#",))
TABLES.read_string((Path(__file__).with_name("data") / "preflight.ini").read_text(encoding="utf-8"))

FORESEEABLE = ("driver-too-old", "no-kernel-image", "wrong-architecture")
"""Reason codes that these tables give."""

MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Build:
    """What is known of the torch in an image; an empty field is unknown and never judged."""

    torch: str = ""
    cuda: str = ""
    machine: str = ""
    architectures: tuple[str, ...] = ()
    """As `torch.cuda.get_arch_list()` says: `sm_90`, `sm_90a`, `compute_120`."""
    released: bool = False
    """Whether it is one of torch's own releases, whose architectures the tables know where it has not said them."""
    may_carry_compat: bool = True
    """Whether the image may hold NVIDIA's forward compatibility package: few are known to hold none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """Why a build will not run: a code of the registry, a sentence, and the rule that it follows from."""

    code: str
    detail: str
    evidence: str


def build_of(image: Image, facts: Mapping[str, Any] | None = None) -> Build:
    """What the image has said when it was launched; before that its tag, and `expects:` where the tag is silent."""
    official = TABLES["official-images"]
    tag = image.tag or ""
    may_carry_compat = re.search(official["without-compat"], tag) is None
    if facts is not None:
        said = facts.get("torch") or {}
        torch = str(said.get("version") or "")
        return Build(
            torch=torch,
            cuda=str(said.get("cuda") or ""),
            machine=str(facts.get("machine") or ""),
            architectures=tuple(said.get("arch_list") or ()),
            released=re.search(official["version"], torch) is not None,
            may_carry_compat=may_carry_compat,
        )
    # NVIDIA's tags (`25.10-py3`) are months: torch's major version has one digit.
    found = re.search(r":v?(\d\.\d+(?:\.\d+)?)(?:-cuda(\d+\.\d+))?", tag)
    torch, cuda = found.groups(default="") if found and "torch" in tag else ("", "")
    named = re.search(r"(?<![a-z0-9])(amd64|x86_64|arm64|aarch64)(?![a-z0-9])", tag)
    return Build(
        torch=torch or str(image.expects.get("torch", "")),
        cuda=cuda or str(image.expects.get("cuda", "")),
        machine=MACHINES.get(named[1], named[1]) if named else "",
        released=re.search(official["tag"], tag) is not None,
        may_carry_compat=may_carry_compat,
    )


def predict(
    build: Build, *, machine: str = "", gpu: str = "", driver: str = "", capability: str = ""
) -> Prediction | None:
    """Why the build cannot run on a host of this processor architecture, with this GPU; None if nothing speaks against.

    `gpu` is the GPU's name, `driver` its driver's version, `capability` like `9.0`; what is empty is not judged.
    The absence of a prediction is no promise: only what is known for sure is said, since it may spare a pull.
    """
    machine = MACHINES.get(machine, machine)
    if build.machine and machine and build.machine != machine:
        return Prediction(
            code="wrong-architecture",
            detail=f"The image is built for {build.machine}, this host is {machine}.",
            evidence=f"{build.machine} is not {machine}",
        )
    return _driver(build, gpu, driver) or _code(build, build.machine or machine, gpu, driver, capability)


def disagreement(prediction: Prediction | None, outcome: Outcome) -> str:
    """A sentence where the tables and the probe do not say the same of the image, for a person to look into."""
    if prediction is not None and outcome.device == "cuda" and outcome.verdict is Verdict.PASS:
        return f"preflight foresaw {prediction.code} ({prediction.evidence}), and the probe passed on the GPU"
    if prediction is None and outcome.reason in FORESEEABLE:
        return f"preflight foresaw nothing, and the probe found {outcome.reason}"
    return ""


def runs_on(architectures: Sequence[str], capability: str) -> str:
    """The entry that a GPU of this compute capability can run, `` where there is none.

    Code for sm_XY runs on GPUs X.Z with Z >= Y: the same generation, the same revision or a later one; sm_XYa on that
    very one; PTX (compute_XY) on all from there on.  A machine's own code is preferred to PTX.
    """
    wanted = _version(capability)
    for entry in sorted(architectures, key=lambda entry: entry.startswith("compute_")):
        found = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", entry)
        if found is None:
            continue
        kind, suffix, built = found[1], found[4], (int(found[2]), int(found[3]))
        same = built[0] == wanted[0] and built[1] <= wanted[1]
        if built == wanted or (suffix != "a" and same) or (kind == "compute" and not suffix and built <= wanted):
            return entry
    return ""


def _driver(build: Build, gpu: str, driver: str) -> Prediction | None:
    """Whether the driver is new enough for the CUDA of the build, by minor-version or forward compatibility."""
    major = build.cuda.partition(".")[0]
    least = TABLES["least-driver"].get(major)
    if not driver or least is None or _version(driver) >= _version(least):
        return None
    if build.may_carry_compat and not re.search(TABLES["forward-compatibility"]["never-on"], gpu):
        return None
    return Prediction(
        code="driver-too-old",
        detail=f"CUDA {build.cuda} needs a driver of at least {least}; this host has {driver}.",
        evidence=f"driver {driver} < {least} (CUDA {major}.x, minor-version compatibility)",
    )


def _code(build: Build, machine: str, gpu: str, driver: str, capability: str) -> Prediction | None:
    """Whether the build holds code for the GPU, or PTX that its driver can compile."""
    architectures = build.architectures or (_released(build.torch, build.cuda, machine) if build.released else ())
    if not capability or not architectures:
        return None
    name, entry = gpu or "this GPU", runs_on(architectures, capability)
    if not entry:
        return Prediction(
            code="no-kernel-image",
            detail=f"torch {build.torch} with CUDA {build.cuda} holds no code for {name}"
            f" (compute capability {capability}).",
            evidence=f"{capability} runs none of {', '.join(architectures)}",
        )
    own = TABLES["own-driver"].get(build.cuda)
    if entry.startswith("compute_") and own and driver and _version(driver) < _version(own):
        return Prediction(
            code="driver-too-old",
            detail=f"Only PTX ({entry}) serves {name}, and PTX of CUDA {build.cuda} needs a driver of at least {own};"
            f" this host has {driver}.",
            evidence=f"driver {driver} < {own} (PTX of CUDA {build.cuda})",
        )
    return None


def _released(torch: str, cuda: str, machine: str) -> tuple[str, ...]:
    """The architectures of a release of torch, in its own notation; none where the tables have no such build."""
    section = f"torch {machine}"
    key = f"{'.'.join(torch.split('.')[:2])} {cuda}"
    numbers = TABLES[section].get(key, "").split() if TABLES.has_section(section) else []
    code = [f"sm_{number.removesuffix('+PTX')}" for number in numbers]
    return (*code, *(f"compute_{number.removesuffix('+PTX')}" for number in numbers if number.endswith("+PTX")))


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text))
