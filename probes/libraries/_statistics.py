"""Draws in full: their quantiles, and their independence of the draws before them and beside them."""

from typing import Any, Callable, Sequence

from ..evidence import SIGMAS, require

NEEDS = ("torch",)

WIDEST = 3.7
"""The gap between the empirical and the true distribution function, times sqrt(n): above it once in 4e11 draws."""


def distributed(draws: Any, cdf: Callable[..., Any], what: str, parameters: Sequence[Any] = ()) -> None:
    """Require that draws (a vector) have the quantiles of the distribution function `cdf`, and are independent.

    The function of a draw is uniform between 0 and 1: no tail is too heavy for correlations of it.
    """
    import torch

    share = cdf(draws.detach().double(), *(parameter.double() for parameter in parameters))
    ordered, count = share.sort().values, len(share)
    steps = torch.arange(count + 1, dtype=torch.float64, device=share.device) / count
    gap = float(torch.maximum((steps[1:] - ordered).max(), (ordered - steps[:-1]).max()))
    allowed = WIDEST / count**0.5
    require(gap < allowed, "wrong-moments", f"{what}: a quantile is off by {gap:.4f} of the draws")
    independent(share, what)


def independent(draws: Any, what: str) -> None:
    """Require that draws (n, or n x columns) do not follow from the last three, nor a column from another."""
    draws = draws.detach().double().reshape(len(draws), -1)
    white = (draws - draws.mean(0)) / draws.std(0)
    allowed = SIGMAS / len(draws) ** 0.5
    for lag in (0, 1, 2, 3):
        seen = white[lag:].T @ white[: len(white) - lag] / len(white)
        worst = float((seen.fill_diagonal_(0.0) if lag == 0 else seen).abs().max())
        where = f"draws that are {lag} apart" if lag else "values of one draw"
        require(worst < allowed, "wrong-moments", f"{what}: {where} are correlated by {worst:.3f}")
