"""Fingerprints: small results that the parts of a probe compute from fixed inputs, for the runner to compare.

The evidence hands over whatever it has found sound (`remember`); `Probe.part` keeps it under the part's name.
"""

from __future__ import annotations

import contextlib
from typing import Any, Dict, Iterator, List

from .contract import Numbers

MOST_RESULTS = 64
"""The results of a probe that are kept, the first ones."""

MOST_NUMBERS = 64
"""The numbers of a result, and of its shape, that an answer may have; `numbers` takes fewer."""

WHOLE = 16
"""A result of so many numbers is kept as it is, a larger one as that many: elements from all over it and three sums."""

DIGITS = {"float64": 12, "complex128": 12}
"""The significant digits that are kept of a dtype, if not nine, which tell every float32 from its neighbours."""

_taken: List[Dict[str, Numbers]] = []
"""The results of the parts that are going on, the innermost last."""


@contextlib.contextmanager
def taking() -> Iterator[Dict[str, Numbers]]:
    """The results that are remembered meanwhile, by their names."""
    results: Dict[str, Numbers] = {}
    _taken.append(results)
    try:
        yield results
    finally:
        _taken.pop()


def remember(what: str, value: Any, zero: float = 0.0) -> None:
    """Add a finite tensor to the part that is going on; several of one name are numbered.

    One without a number beyond `zero` is left out: rounding alone is left of it.  Scripts of bug reports go without
    the calls of this module (runner/advice/extraction.py), so that each is a line of its own.
    """
    if not _taken or len(_taken[-1]) >= MOST_RESULTS:
        return
    results, name, number = _taken[-1], what, 1
    while name in results:
        number += 1
        name = f"{what} ({number})"
    with contextlib.suppress(Exception):  # a layout that torch cannot turn into numbers fails no probe
        found = numbers(value)
        if any(abs(number) > zero for number in found["values"]):
            results[name] = found


def remember_gradients(gradients: Dict[str, Any], what: str) -> None:
    """Add gradients, but for those so small beside the largest that they must be zero, as to the bias of keys."""
    largest = max((float(gradient.abs().max()) for gradient in gradients.values() if gradient.numel()), default=0.0)
    for name, gradient in gradients.items():
        remember(f"{what}: gradient of {name}", gradient, 1e-5 * largest)


def forget() -> None:
    """Keep nothing of the part that is going on: it trains, where rounding grows to whole percents in a few steps."""
    if _taken:
        _taken[-1].clear()
        _taken[-1] = {}


def too_large(numerics: Dict[str, Numbers]) -> bool:
    """Whether it holds more than a fingerprint does."""
    lists = [values for each in numerics.values() for values in (each["values"], each["shape"])]
    return len(numerics) > MOST_RESULTS or any(len(values) > MOST_NUMBERS for values in lists)


def numbers(value: Any) -> Numbers:
    """At most WHOLE numbers that stand for a tensor; what changes in a large one shows by its share of the whole."""
    import torch

    tensor = torch.as_tensor(value).detach().cpu()
    dtype, shape = str(tensor.dtype).replace("torch.", ""), list(tensor.shape)
    flat = (torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor).double().reshape(-1)
    count = flat.numel()
    if count > WHOLE:
        places = [place * (count - 1) // (WHOLE - 4) for place in range(WHOLE - 3)]
        weights = torch.linspace(0.5, 1.5, count, dtype=torch.float64)
        sums = [flat.mean(), flat.square().mean().sqrt(), (weights * flat).mean()]
        flat = torch.stack([*flat[places], *sums])
    return {"dtype": dtype, "shape": shape, "values": [float(f"{x:.{DIGITS.get(dtype, 9)}g}") for x in flat.tolist()]}
