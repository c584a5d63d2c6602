"""(probe, reason code, what is wrong) -> the sabotage of Jupyter that the probe must answer with that code."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from ._change import Sabotage, replace, returns

REQUIRES = ("torch==2.13.0", "numpy", "jupyterlab==4.6.6")

CLIENT = "jupyter_client.blocking.client.BlockingKernelClient"
MANAGER = "jupyter_client.manager.KernelManager"


def _asks(change: Callable[[str], str]) -> Sabotage:
    """Another code reaches the kernel."""

    def make(original: Any) -> Any:
        return lambda self, code, *arguments, **options: original(self, change(code), *arguments, **options)

    return replace(f"{CLIENT}:execute_interactive", make)


def _swallowed(reply: Any) -> Any:
    """An error is told as a success."""
    return {**reply, "content": {"status": "ok"}}


def _deathless(original: Any) -> Any:
    """A kernel that is asked to end runs on, until it is forced to."""
    return lambda self, now=False, **options: original(self, now=now, **options) if now else None


def _dead(command: Any) -> Any:
    """The kernel ends before it says anything."""
    return [sys.executable, "-c", "raise SystemExit(1)"]


def _no_outputs(original: Any) -> Any:
    """What a cell shows never reaches the notebook."""
    return lambda self, *arguments, **options: None


def _repeated(original: Any) -> Any:
    """What a cell shows reaches the notebook twice."""

    def output(self: Any, outs: Any, *arguments: Any, **options: Any) -> Any:
        original(self, outs, *arguments, **options)
        outs.append(outs[-1])

    return output


MUTATIONS: dict[tuple[str, str, str], Sabotage] = {
    ("sample", "wrong-value", "the cell is not executed"): _asks(lambda code: "pass"),
    ("sample", "wrong-value", "variables are lost between cells"): _asks(lambda code: "%reset -f\n" + code),
    ("sample", "wrong-value", "cells compute on another device"): _asks(lambda code: code.replace("'cpu'", "'meta'")),
    ("sample", "wrong-value", "the kernel has another torch"): _asks(
        lambda code: f"import torch; torch.__version__ = '1.0'\n{code}"
    ),
    ("sample", "seed-ignored", "the seed is forgotten"): _asks(
        lambda code: code.replace("; torch.randn", "; torch.seed(); torch.randn")
    ),
    ("sample", "wrong-value", "an error is told as a success"): returns(f"{CLIENT}:execute_interactive", _swallowed),
    ("sample", "wrong-value", "the kernel does not end"): replace(f"{MANAGER}:shutdown_kernel", _deathless),
    ("sample", "RuntimeError", "the kernel dies as it starts"): returns(f"{MANAGER}:format_kernel_cmd", _dead),
    ("sample", "wrong-shape", "a notebook's outputs are lost"): replace(
        "nbclient.client.NotebookClient:process_message", _no_outputs
    ),
    ("sample", "wrong-shape", "a notebook's outputs come twice"): replace(
        "nbclient.client.NotebookClient:output", _repeated
    ),
}
