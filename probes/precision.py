"""float32 means float32: TF32 is off while a probe compares, whatever the image or the library has set.

TF32 keeps 10 bits of a factor's mantissa.  cuDNN's convolutions use it by default, cuBLAS's products where an image or
a library says so, and a compiled function may use it where the eager one does not: at 1e-4 these are differences
(pytorch#138948), and no fault of anyone.
"""

from __future__ import annotations

import os
import warnings
from contextlib import suppress
from typing import Dict

OVERRIDES = ("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "NVIDIA_TF32_OVERRIDE")
"""Variables that decide over the flags: torch's, which NVIDIA's images set, and that of cuBLAS and cuDNN."""


def found() -> Dict[str, str]:
    """The precision of `products` and `convolutions`: `tf32`, `ieee`, or `mixed` where torch refuses to tell; and the
    OVERRIDES that are set."""
    import torch

    def precision_of(old: object, new: object) -> str:
        precision = None
        try:
            with suppress(AssertionError):  # torch 2.0 and older, of an attribute that they do not have
                precision = getattr(new, "fp32_precision", None)
            precision = precision or ("tf32" if old.allow_tf32 else "ieee")  # type: ignore[attr-defined]
        except RuntimeError:  # torch 2.9 and newer, where both APIs have set the same precision
            return "mixed"
        return "ieee" if precision == "none" else str(precision)

    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    seen = {"products": precision_of(matmul, matmul), "convolutions": precision_of(cudnn, getattr(cudnn, "conv", None))}
    return {**seen, **{name: os.environ[name] for name in OVERRIDES if name in os.environ}}


def choose(tf32: bool) -> None:
    """Compute products and convolutions of float32 in TF32, or in float32.

    torch 2.9 and newer keep each setting twice, and refuse to read it where the two values differ: the old setter
    changes both, but leaves the new one of convolutions to its parents, so that the new setter must come after it.
    """
    import torch

    for name in OVERRIDES:  # cuBLAS and older torch read them once, at their first product
        os.environ.pop(name, None)
    if hasattr(torch, "set_float32_matmul_precision"):
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
    else:  # before torch 1.12
        torch.backends.cuda.matmul.allow_tf32 = tf32
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the old setter is deprecated since 2.9
        torch.backends.cudnn.allow_tf32 = tf32
    for name in ("conv", "rnn"):
        if hasattr(torch.backends.cudnn, name):
            getattr(torch.backends.cudnn, name).fp32_precision = "tf32" if tf32 else "ieee"
