"""The evidence that a pass needs: device, dtype, moments, seeds, gradients, learning.

A probe calls these on the library's results; each raises `Broken` with a stable reason code at the first sign of a
broken library.  torch is imported inside the functions: the probe host reads this module
before it knows whether the image holds torch at all.
"""

from __future__ import annotations

import math
from typing import Any, Callable, Mapping, Optional, Sequence

from .fingerprint import forget, remember, remember_gradients

CODES = {
    "wrong-version": "the imported module is not the requested version",
    "wrong-location": "the module was not imported from its install",
    "environment-changed": "torch or another package of the image is no longer the image's own",
    "wrong-device": "a result is not on the device under test, or the library did not work there",
    "wrong-dtype": "a result has another dtype than its input",
    "wrong-shape": "a result has another shape than it must have",
    "wrong-value": "a result differs from its reference by more than the stated tolerance",
    "wrong-moments": "draws do not have the mean or the spread that they must have",
    "not-finite": "a result holds NaN or infinity",
    "seed-ignored": "the same seed does not give the same draw",
    "repeated-draw": "another seed, or the next draw, gives the same draw again",
    "no-gradient": "no gradient reaches a parameter",
    "zero-gradient": "the gradient of a parameter is zero where it cannot be",
    "wrong-gradient": "a gradient differs from its float64 reference or from finite differences",
    "does-not-train": "the loss does not fall in training",
    "not-compiled": "torch.compile ran the function eagerly",
    "compile-mismatch": "the compiled function gives another result than the eager one",
}
"""Reason codes of evidence, with their meaning; the runner's rules find further codes in exceptions."""

TOLERANCE = {
    "float16": (2e-2, 2e-2),
    "bfloat16": (5e-2, 5e-2),
    "float32": (1e-4, 1e-5),
    "float64": (1e-7, 1e-9),
}
"""dtype -> (relative, absolute) tolerance: about a thousand units in the last place, as torch.testing's are ten."""

SIGMAS = 6.5
"""How many standard errors a moment may be off: two-sided 8e-11 for one number, below 1e-7 for a thousand."""


class Broken(Exception):
    """The library does not do what it should."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class NotApplicable(Exception):
    """The probe does not apply here, for the reason in the message; shown as a skip, never as a pass."""


class LeftOut(NotApplicable):
    """A part that cannot run for lack of a tool or on an old device; the message is noted, the other parts decide."""


def require(condition: Any, code: str, message: str) -> None:
    """Raise `Broken(code, message)` unless the condition holds."""
    if code not in CODES:
        raise KeyError(f"unknown reason code {code!r}")
    if not condition:
        raise Broken(code, message)


def on_device(tensor: Any, device: Any, what: str) -> None:
    """Require that the tensor lies on the device under test."""
    require(tensor.device.type == device.type, "wrong-device", f"{what} is on {tensor.device}, not on {device}")


def of_dtype(tensor: Any, dtype: Any, what: str) -> None:
    """Require that the tensor has this dtype."""
    require(tensor.dtype == dtype, "wrong-dtype", f"{what} is {tensor.dtype}, not {dtype}")


def of_shape(tensor: Any, shape: Sequence[int], what: str) -> None:
    """Require that the tensor has this shape."""
    require(
        tuple(tensor.shape) == tuple(shape),
        "wrong-shape",
        f"{what} has shape {tuple(tensor.shape)}, not {tuple(shape)}",
    )


def finite(tensor: Any, what: str) -> None:
    """Require that no element is NaN or infinite."""
    import torch

    bad = int((~torch.isfinite(tensor)).sum())
    require(bad == 0, "not-finite", f"{what} has {bad} of {tensor.numel()} elements that are NaN or infinite")


def sound(tensor: Any, like: Any, what: str) -> None:
    """Require that the tensor is finite, and has the device and dtype of `like`."""
    on_device(tensor, like.device, what)
    of_dtype(tensor, like.dtype, what)
    finite(tensor, what)


def close(
    actual: Any,
    expected: Any,
    what: str,
    rtol: Optional[float] = None,
    atol: Optional[float] = None,
    code: str = "wrong-value",
) -> None:
    """Require that every element lies within the tolerance of the coarser dtype (TOLERANCE), or within the given one.

    The absolute tolerance is scaled by the largest reference element, so that sums of large terms are not blamed.
    """
    import torch

    seen = actual
    actual, expected = torch.as_tensor(actual).detach().cpu(), torch.as_tensor(expected).detach().cpu()
    of_shape(actual, expected.shape, what)
    finite(actual, what)
    coarse = [TOLERANCE.get(str(t.dtype).replace("torch.", ""), (0.0, 0.0)) for t in (actual, expected)]
    rtol = max(r for r, _ in coarse) if rtol is None else rtol
    atol = max(a for _, a in coarse) if atol is None else atol
    actual, expected = actual.double(), expected.double()
    if not expected.numel():
        return
    scale = max(1.0, float(expected.abs().max()))
    off = (actual - expected).abs() - rtol * expected.abs()
    worst = float((actual - expected).abs().max())
    require(
        float(off.max()) <= atol * scale,
        code,
        f"{what} is off by up to {worst:.3g} (rtol {rtol:g}, atol {atol * scale:g})",
    )
    remember(what, seen, atol * scale)


def moments(draws: Any, mean: Any, std: Any, what: str, sigmas: float = SIGMAS) -> None:
    """Require that mean and standard deviation of independent draws (first axis) lie within `sigmas` standard errors.

    The standard error of the mean is std / sqrt(n), that of the deviation std * sqrt((kurtosis - 1) / 4n) with the
    sample's kurtosis, at least the normal's 3 (delta method).  20,000 draws show a scale that is off by 2 percent of
    a normal's.
    """
    import torch

    draws = draws.detach().double().cpu()
    count = draws.shape[0]
    mean = torch.as_tensor(mean).detach().double().cpu()
    std = torch.as_tensor(std).detach().double().cpu()
    finite(draws, what)
    seen_mean, seen_std = draws.mean(0), draws.std(0)
    z_mean = ((seen_mean - mean).abs() / (std / math.sqrt(count))).max()
    require(
        float(z_mean) <= sigmas,
        "wrong-moments",
        f"mean of {what} is {float(z_mean):.1f} standard errors from its analytic value ({count} draws)",
    )
    kurtosis = (((draws - seen_mean) / seen_std.clamp_min(1e-300)) ** 4).mean(0).clamp_min(3.0)
    z_std = ((seen_std - std).abs() / (std * ((kurtosis - 1) / (4 * count)).sqrt())).max()
    require(
        float(z_std) <= sigmas,
        "wrong-moments",
        f"standard deviation of {what} is {float(z_std):.1f} standard errors from its analytic value ({count} draws)",
    )


def seeded(draw: Callable[[], Any], what: str, seed: Callable[[int], Any]) -> None:
    """Require that the same seed gives the same draw, and that another seed and the next draw give others."""
    import torch

    seed(1)
    first, following = draw().detach().clone(), draw().detach().clone()
    seed(1)
    again = draw().detach()
    seed(2)
    other = draw().detach()
    require(torch.equal(first, again), "seed-ignored", f"{what}: seed 1 gave two different draws")
    require(not torch.equal(first, other), "repeated-draw", f"{what}: seeds 1 and 2 gave the same draw")
    require(not torch.equal(first, following), "repeated-draw", f"{what}: two draws in a row are the same")


def reached(named: Mapping[str, Any], what: str, may_be_zero: Sequence[str] = ()) -> None:
    """Require that every named parameter has a finite, nonzero gradient on its own device after a backward pass."""
    require(len(named) > 0, "no-gradient", f"{what} has no parameters to reach")
    for name, parameter in named.items():
        gradient = parameter.grad
        require(gradient is not None, "no-gradient", f"{what}: no gradient reaches {name}")
        on_device(gradient, parameter.device, f"{what}: gradient of {name}")
        finite(gradient, f"{what}: gradient of {name}")
        require(
            name in may_be_zero or bool((gradient != 0).any()), "zero-gradient", f"{what}: gradient of {name} is zero"
        )
    remember_gradients({name: parameter.grad for name, parameter in named.items()}, what)


def differentiable(
    function: Callable[..., Any], inputs: Sequence[Any], what: str, step: float = 1e-6, rtol: float = 1e-4
) -> None:
    """Require that autograd's derivative of a scalar function equals central differences, along a direction per input.

    Inputs are float64 tensors (differences in float32 would drown in rounding); the function must be deterministic.
    With a direction per input, a gradient that is detached, zero or wrong in one input cannot hide behind another.
    """
    import torch

    inputs = [tensor.detach().double().requires_grad_() for tensor in inputs]
    value = function(*inputs)
    require(value.requires_grad, "no-gradient", f"{what} is detached from its inputs")
    gradients = torch.autograd.grad(value, inputs, allow_unused=True)
    generator = torch.Generator().manual_seed(7)
    for index, (tensor, gradient) in enumerate(zip(inputs, gradients)):
        require(gradient is not None, "no-gradient", f"{what}: no gradient reaches input {index}")
        finite(gradient, f"{what}: gradient of input {index}")
        direction = torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor.device)
        shifted = list(inputs)
        with torch.no_grad():
            shifted[index] = tensor + step * direction
            above = function(*shifted)
            shifted[index] = tensor - step * direction
            below = function(*shifted)
        numeric = float((above - below).detach()) / (2 * step)
        analytic = float((gradient * direction).sum())
        scale = max(abs(numeric), float(gradient.norm()) * 1e-2, 1e-8)
        require(
            abs(numeric - analytic) <= rtol * scale + 1e-7,
            "wrong-gradient",
            f"{what}: derivative along input {index} is {analytic:.6g}, finite differences give {numeric:.6g}",
        )
    remember_gradients({f"input {index}": gradient for index, gradient in enumerate(gradients)}, what)


def falls(losses: Sequence[float], what: str, drop: float = 0.1) -> None:
    """Require that the mean loss of the last fifth is below the first fifth's by `drop` of the first's magnitude."""
    forget()
    require(all(math.isfinite(loss) for loss in losses), "not-finite", f"{what}: the loss became NaN or infinite")
    fifth = max(1, len(losses) // 5)
    first, last = sum(losses[:fifth]) / fifth, sum(losses[-fifth:]) / fifth
    require(
        last < first - drop * abs(first),
        "does-not-train",
        f"{what}: loss went from {first:.4g} to {last:.4g} in {len(losses)} steps, less than {drop:.0%} down",
    )
