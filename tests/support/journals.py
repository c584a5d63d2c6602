"""A small journal that holds every verdict, surprise and oddity that a report has to show."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch_compat_matrix.runner.model import PROBES, Cell, Image, Known, Local, Plan, Verdict
from torch_compat_matrix.runner.outcome import Outcome

LIBRARIES = {
    "torch-installed": ("pass", "pass", "pass", "pass"),
    "pyro-ppl-1.8.0": ("unsupported", "skip", "skip", "skip"),
    "pyro-ppl-1.9.1": ("pass", "fail", "pass", "crash"),
    "gpytorch-1.14": ("pass", "pass", "timeout", "oom"),
    "captum-0.8.0": ("unsupported", "unsupported", "unsupported", "unsupported"),
    "botorch-0.14.0": ("infra", "infra", "infra", "infra"),
    "torchbnn-1.2": ("pass", "pass", "pass", "pass"),
}
REASONS = {
    "unsupported": ("version-assert", "library"),
    "fail": ("wrong-moments", "library"),
    "crash": ("segfault", "library"),
    "timeout": ("timeout", "library"),
    "oom": ("cuda-out-of-memory", "host"),
    "infra": ("engine-unreachable", "host"),
    "skip": ("import-failed", "library"),
}
KNOWN = (
    Known(
        cells="*/pyro-ppl-1.8.0/import", expect=Verdict.UNSUPPORTED, reason="asserts torch 1.x", link="https://x.org/1"
    ),
    Known(cells="*/torchbnn-1.2/compile", expect=Verdict.FAIL, reason="was broken once"),
)


def cells(image: str) -> list[Cell]:
    """The cells of an image."""
    found = []
    for name in LIBRARIES:
        subject, _, version = name.rpartition("-")
        found.append(
            Cell(image=image, subject=subject, version=version, requires=(f"{subject}=={version}",), members=(subject,))
        )
    return found


def records(change: Mapping[str, str] | None = None, gpu: bool = True) -> list[dict[str, Any]]:
    """The records of a run; `change` replaces a check's verdict: `{"image/library/probe": "pass"}`."""
    images = ("gpu-image", "stand-in")
    plan = Plan(
        images=tuple(
            Image(name=name, tag=f"example/{name}:1", local=Local(python="3.11", requires=("torch",)))
            for name in images
        ),
        cells=tuple(cell for image in images for cell in cells(image)),
        known=KNOWN,
        source="matrix.yaml",
    )
    found: list[dict[str, Any]] = [
        {
            "kind": "run",
            "schema": 1,
            "run": "20300101T000000-abcd",
            "started": "2030-01-01T00:00:00+00:00",
            "command": ["compat", "run", "--backend", "docker", "*"],
            "backend": "docker",
            "settings": {},
            "host": {"python": "3.11.7", "platform": "Linux-6", "machine": "x86_64", "cpus": 8},
            "plan": plan.to_json(),
            "version": "0.1.0",
        }
    ]
    for image in images:
        on_gpu = gpu and image == "gpu-image"
        cards = [{"name": "NVIDIA H200", "uuid": "GPU-1", "capability": "9.0", "memory": 150 << 30}] if on_gpu else []
        torch = {"version": "2.6.0+cu124", "cuda": "12.4", "cudnn": 90100, "arch_list": ["sm_90"], "cxx11_abi": False}
        found.append(
            {
                "kind": "environment",
                "key": f"key-{image}",
                "image": image,
                "reference": f"example/{image}:1",
                "digest": "sha256:" + "0" * 64 if on_gpu else "",
                "stand_in": image == "stand-in",
                "backend": "docker",
                "facts": {
                    "python": "3.11.7",
                    "os": "Debian GNU/Linux 12",
                    "packages": {"torch": "2.6.0+cu124"},
                    "torch": torch,
                    "gpus": cards,
                    "driver": "550.54" if on_gpu else "",
                    **({"user": "", "uid": 65534} if on_gpu else {}),  # older records do not tell
                },
            }
        )
        for cell in cells(image):
            for probe, verdict in zip(PROBES, LIBRARIES[f"{cell.subject}-{cell.version}"], strict=True):
                found.append(outcome(cell, probe, (change or {}).get(f"{cell.id}/{probe}", verdict), on_gpu))
    found.append({"kind": "unheard of"})
    found.append({"kind": "end", "finished": "2030-01-01T00:10:00+00:00", "state": "complete"})
    return found


def outcome(cell: Cell, probe: str, verdict: str, on_gpu: bool) -> dict[str, Any]:
    """The record of one check."""
    reason, blame = REASONS.get(verdict, ("", ""))
    captum = cell.subject == "captum"
    one = Outcome(
        check=f"{cell.id}/{probe}",
        image=cell.image,
        subject=cell.subject,
        version=cell.version,
        probe=probe,
        verdict=Verdict(verdict),
        reason="drift" if captum else reason,
        detail="" if verdict == "pass" else f"{probe} of {cell.subject} says {verdict}",
        evidence="" if verdict == "pass" else "RuntimeError: a | pipe, `ticks`, <b>html</b> and\na new line",
        blame=blame,
        remedy="" if verdict == "pass" else "see the page of the reason",
        device=("cuda" if on_gpu else "cpu") if verdict in ("pass", "fail") and probe != "import" else "",
        device_name="NVIDIA H200" if on_gpu else "CPU",
        environment=f"key-{cell.image}" if verdict not in ("infra",) and not captum else "",
        drift=("numpy 2.4.6 -> 1.26.4",) if captum else (),
        metrics={"import": {"value": 0.25, "unit": "s"}} if probe == "import" and verdict == "pass" else {},
        attempts=("crash",) if cell.subject == "torchbnn" and probe == "sample" else (),
        flaky=cell.subject == "torchbnn" and probe == "sample",
        seconds=1.5,
        started="2030-01-01T00:01:00+00:00",
    )
    return {"kind": "outcome", **one.to_json()}


def write(path: Path, found: list[dict[str, Any]], torn: bool = True) -> Path:
    """The journal, with a line torn by a kill behind it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(record) + "\n" for record in found)
    path.write_text(text + ('{"kind":"outcome","check":"half' if torn else ""))
    return path
