"""torch.distributions against their distribution functions, written out: draws, densities, gradients, divergences."""

import math
from contextlib import suppress
from typing import Any, Callable, Dict, Tuple

from ..evidence import SIGMAS, close, differentiable, finite, moments, on_device, require, seeded, sound
from ..probe import Probe
from ._statistics import distributed, independent

DRAWS = 20_000
"""Enough to see a scale that is off by 2 percent (evidence.moments)."""


def _normal(z: Any) -> Any:
    return 0.5 * (-z / 2**0.5).erfc()


def _erlang(shape: int, x: Any) -> Any:
    """The distribution function of a Gamma of whole shape."""
    return 1 - (-x).exp() * sum(x**n / math.factorial(n) for n in range(shape))


def _beta(a: int, b: int, x: Any) -> Any:
    """The distribution function of a Beta of whole parameters: a binomial's tail."""
    n = a + b - 1
    return sum(math.comb(n, k) * x**k * (1 - x) ** (n - k) for k in range(a, n + 1))


def _student(x: Any, df: int = 12) -> Any:
    """The distribution function of Student's t of an even number of degrees of freedom."""
    angle, term, total = (x / df**0.5).atan(), 1.0, 0.0
    for k in range(df // 2):
        term = term * (2 * k - 1) / (2 * k) if k else 1.0
        total = total + term * angle.cos() ** (2 * k)
    return 0.5 + angle.sin() * total / 2


def _continuous_bernoulli(x: Any, p: Any) -> Any:
    return (p**x * (1 - p) ** (1 - x) + p - 1) / (2 * p - 1)


def _laplace(x: Any, loc: Any, scale: Any) -> Any:
    return 0.5 - 0.5 * (x - loc).sign() * (-(x - loc).abs() / scale).expm1()


FAMILIES: Dict[str, Tuple[Tuple[float, ...], Callable[..., Any]]] = {
    "Cauchy": ((0.5, 1.5), lambda x, loc, scale: 0.5 + ((x - loc) / scale).atan() / math.pi),
    "ContinuousBernoulli": ((0.3,), _continuous_bernoulli),
    "Exponential": ((1.5,), lambda x, rate: 1 - (-rate * x).exp()),
    "Gumbel": ((0.5, 1.5), lambda x, loc, scale: (-(-(x - loc) / scale).exp()).exp()),
    "HalfCauchy": ((1.5,), lambda x, scale: 2 * (x / scale).atan() / math.pi),
    "HalfNormal": ((1.5,), lambda x, scale: 2 * _normal(x / scale) - 1),
    "Kumaraswamy": ((2.0, 3.0), lambda x, a, b: 1 - (1 - x**a) ** b),
    "Laplace": ((0.5, 1.5), _laplace),
    "LogNormal": ((0.1, 0.3), lambda x, loc, scale: _normal((x.log() - loc) / scale)),
    "Normal": ((0.5, 1.5), lambda x, loc, scale: _normal((x - loc) / scale)),
    "Pareto": ((1.0, 12.0), lambda x, scale, alpha: 1 - (scale / x) ** alpha),
    "Uniform": ((-1.0, 2.0), lambda x, low, high: (x - low) / (high - low)),
    "Weibull": ((1.5, 2.0), lambda x, scale, shape: 1 - (-((x / scale) ** shape)).exp()),
}
"""Scalar families whose draws are a monotone function of noise: their parameters, and the distribution function."""

OTHERS: Dict[str, Tuple[Tuple[float, ...], Callable[[Any], Any], Callable[..., Any]]] = {
    "Beta": ((2.0, 3.0), lambda x: _beta(2, 3, x), lambda a, b: a * (a + 1) / ((a + b) * (a + b + 1))),
    "Chi2": ((4.0,), lambda x: _erlang(2, x / 2), lambda k: k * (k + 2)),
    "FisherSnedecor": (
        (8.0, 40.0),
        lambda x: _beta(4, 20, 8 * x / (8 * x + 40)),
        lambda n, m: m**2 * (n + 2) / (n * (m - 2) * (m - 4)),
    ),
    "Gamma": ((3.0, 2.0), lambda x: _erlang(3, 2 * x), lambda a, b: a * (a + 1) / b**2),
    "InverseGamma": ((12.0, 3.0), lambda x: 1 - _erlang(12, 3 / x), lambda a, b: b**2 / ((a - 1) * (a - 2))),
    "StudentT": (
        (12.0, 0.5, 1.5),
        lambda x: _student((x - 0.5) / 1.5),
        lambda df, loc, scale: loc**2 + scale**2 * df / (df - 2),
    ),
}
"""Those that reject draws: parameters, the distribution function at them, and the mean of the square."""

DISCRETE: Dict[str, Tuple[Tuple[float, ...], Callable[[int], float], int]] = {
    "Bernoulli": ((0.3,), lambda k: (0.7, 0.3)[k], 2),
    "Binomial": ((5.0, 0.3), lambda k: math.comb(5, k) * 0.3**k * 0.7 ** (5 - k), 5),
    "Geometric": ((0.3,), lambda k: 0.3 * 0.7**k, 8),
    "NegativeBinomial": ((4.0, 0.4), lambda k: math.comb(k + 3, k) * 0.4**k * 0.6**4, 8),
    "Poisson": ((3.0,), lambda k: math.exp(-3) * 3**k / math.factorial(k), 9),
}
"""Counts: parameters, the probability of a number, and how many numbers are frequent enough to be counted."""

NO_MOMENTS = ("Cauchy", "HalfCauchy")


def _family(name: str, parameters: Any) -> Any:
    return getattr(__import__("torch").distributions, name)(*parameters)


def draws(probe: Probe) -> None:
    """Scalar families, in float32 and float64: moments, quantiles, independence, density, entropy; seeds count."""
    import torch

    table = {name: (values, cdf) for name, (values, cdf) in FAMILIES.items()}
    table.update({name: (values, lambda x, *_, f=cdf: f(x)) for name, (values, cdf, _) in OTHERS.items()})
    for name, (values, cdf) in table.items():
        if not hasattr(torch.distributions, name):
            continue
        for dtype in (torch.float32, torch.float64):
            parameters = [torch.tensor(value, device=probe.device, dtype=dtype) for value in values]
            family, what = _family(name, parameters), f"draws of {name}"
            torch.manual_seed(probe.seed)
            drawn = family.rsample((DRAWS,))
            sound(drawn, parameters[0], what)
            if name not in NO_MOMENTS:
                moments(drawn, family.mean, family.stddev, what)
            distributed(drawn, cdf, what, parameters)
        points = _points(probe, name, values)
        x = points.clone().requires_grad_()
        share = cdf(x, *parameters)
        density = torch.autograd.grad(share.sum(), x)[0]
        close(family.log_prob(points).exp(), density, f"density of {name}", rtol=1e-5, atol=1e-7)
        with suppress(NotImplementedError):
            _mean(-family.log_prob(drawn), family.entropy(), f"entropy of {name}")
        with suppress(NotImplementedError):
            close(family.cdf(points), share, f"distribution function of {name}", atol=1e-6)
            close(family.icdf(share.detach()), points, f"quantiles of {name}", rtol=1e-4, atol=1e-6)
    mixed = torch.tensor([1.0, -1.0], device=probe.device)
    seeded(lambda: torch.distributions.Normal(mixed, 1.0).rsample(), "Normal", torch.manual_seed)
    count = DRAWS * (5_000 if probe.device.type == "cuda" else 50)  # fewer take a GPU no longer than their launch
    seconds = probe.device_seconds(lambda: torch.randn(count, device=probe.device))
    probe.metric("normal draws", count / seconds, "1/s")


def _points(probe: Probe, name: str, values: Any) -> Any:
    """Numbers that a family takes, the same on each device, so that fingerprints can be compared."""
    import torch

    torch.manual_seed(probe.seed)
    family = _family(name, [torch.tensor(value, dtype=torch.float64) for value in values])
    return family.sample((200,)).to(probe.device)


def _mean(values: Any, expected: Any, what: str, code: str = "wrong-value") -> None:
    """Require that the mean of independent values is the expected one, to within its own standard error."""
    values = values.detach().double()
    error = abs(float(values.mean()) - float(expected)) / (float(values.std()) / len(values) ** 0.5 + 1e-9)
    require(error < SIGMAS, code, f"{what}: {float(expected):.4g} is {error:.1f} standard errors off")


def vectors(probe: Probe) -> None:
    """Correlated normals, shares and counts, and what is built from other distributions."""
    import torch

    known = torch.distributions
    torch.manual_seed(probe.seed)
    matrix = torch.tensor([[2.0, 0.5], [0.5, 1.0]], device=probe.device)
    center = torch.tensor([1.0, -1.0], device=probe.device)
    many = known.MultivariateNormal(center, covariance_matrix=matrix)
    drawn = many.rsample((DRAWS,))
    on_device(drawn, probe.device, "draws of MultivariateNormal")
    moments(drawn, center, matrix.diagonal().sqrt(), "draws of MultivariateNormal")
    white = torch.linalg.solve(torch.linalg.cholesky(matrix), (drawn - center).T).T
    moments(white, torch.zeros(2), torch.ones(2), "whitened draws of MultivariateNormal")
    independent(white, "whitened draws of MultivariateNormal")
    points = center + probe.randn(200, 2)
    white = torch.linalg.solve(torch.linalg.cholesky(matrix), (points - center).T).T
    density = -0.5 * white.square().sum(1) - math.log(2 * math.pi) - 0.5 * matrix.det().log()
    close(many.log_prob(points), density, "density of MultivariateNormal", rtol=1e-4, atol=1e-4)
    weights = torch.tensor([2.0, 3.0, 5.0], device=probe.device)
    shares = known.Dirichlet(weights)
    drawn = shares.rsample((DRAWS,))
    moments(drawn, weights / 10, (weights / 10 * (1 - weights / 10) / 11).sqrt(), "draws of Dirichlet")
    constant = math.lgamma(10) - sum(math.lgamma(value) for value in (2, 3, 5))
    points = probe.randn(200, 3).softmax(1)
    expected = ((weights - 1) * points.log()).sum(1) + constant
    close(shares.log_prob(points), expected, "density of Dirichlet", rtol=1e-4, atol=1e-4)
    for name, (values, odds, count) in DISCRETE.items():
        numbers = torch.arange(float(count), device=probe.device)
        family = _family(name, [torch.tensor(value, device=probe.device) for value in values])
        chances = torch.tensor([odds(k) for k in range(count)], device=probe.device)
        _counts(family, numbers, chances, name)
        moments(family.sample((DRAWS,)), family.mean, family.stddev, f"draws of {name}")
    chances = torch.tensor([0.1, 0.2, 0.7], device=probe.device)
    _counts(known.Categorical(logits=chances.log() + 3), torch.arange(3, device=probe.device), chances, "Categorical")
    drawn = known.Multinomial(4, chances).sample((DRAWS,))
    moments(drawn, 4 * chances, (4 * chances * (1 - chances)).sqrt(), "draws of Multinomial")
    pair = known.Normal(torch.tensor([-1.0, 2.0], device=probe.device), torch.tensor([0.5, 1.0], device=probe.device))
    mixture = known.MixtureSameFamily(known.Categorical(torch.tensor([0.3, 0.7], device=probe.device)), pair)
    grown = known.TransformedDistribution(
        known.Normal(torch.zeros((), device=probe.device), 0.5),
        [known.transforms.ExpTransform(), known.transforms.AffineTransform(2.0, 3.0)],
    )
    points = probe.randn(200)
    built: Tuple[Tuple[str, Any, Any, Callable[[Any], Any]], ...] = (
        ("MixtureSameFamily", mixture, 2 * points, lambda x: 0.3 * _normal((x + 1) / 0.5) + 0.7 * _normal(x - 2)),
        ("TransformedDistribution", grown, 2 + 3 * points.exp(), lambda x: _normal(((x - 2) / 3).log() / 0.5)),
    )
    for what, family, points, cdf in built:
        drawn = family.sample((DRAWS,))
        sound(drawn, center, f"draws of {what}")
        distributed(drawn, cdf, f"draws of {what}")
        x = points.double().requires_grad_()
        expected = torch.autograd.grad(cdf(x).sum(), x)[0]
        close(family.log_prob(points).exp(), expected, f"density of {what}", rtol=1e-4, atol=1e-5)
    moments(mixture.sample((DRAWS,)), mixture.mean, mixture.stddev, "draws of MixtureSameFamily")
    whole = known.Independent(pair, 1)
    close(whole.log_prob(center), pair.log_prob(center).sum(), "density of Independent")
    middles, spreads = probe.randn(4, 3, 2, offset=1), probe.randn(4, 3, 2, offset=2).exp()
    parts = known.Independent(known.Normal(middles, spreads), 1)
    mixture = known.MixtureSameFamily(known.Categorical(chances.expand(4, 3)), parts)
    moments(mixture.sample((DRAWS,)), mixture.mean, mixture.stddev, "draws of mixtures of vectors")
    middles = middles[0]
    several = known.MultivariateNormal(middles, covariance_matrix=matrix * chances[:, None, None])
    alone = (known.MultivariateNormal(middle, matrix * chance) for middle, chance in zip(middles, chances))
    points = center + probe.randn(20, 1, 2)
    expected = torch.cat([one.log_prob(points) for one in alone], 1)
    close(several.log_prob(points), expected, "density of three of MultivariateNormal", rtol=1e-4, atol=1e-4)


def _counts(family: Any, numbers: Any, chances: Any, name: str) -> None:
    """Draws of numbers have their frequencies, one after the other, and the density says the same."""
    drawn = family.sample((DRAWS,))
    on_device(drawn, numbers.device, f"draws of {name}")
    finite(drawn, f"draws of {name}")
    moments((drawn[:, None] == numbers).float(), chances, (chances * (1 - chances)).sqrt(), f"frequencies of {name}")
    independent(drawn, f"draws of {name}")
    close(family.log_prob(numbers).exp(), chances, f"probabilities of {name}")


def reparameterised(probe: Probe) -> None:
    """The gradient of a draw in each parameter of each family: what keeps its distribution function's value the same.

    For families that reject draws, the mean of the gradients of the squares is the gradient of the squares' mean.
    """
    import torch

    def leaves(values: Any, count: int) -> Any:
        full = [torch.full((count,), value, dtype=torch.float64, device=probe.device) for value in values]
        return [one.requires_grad_() for one in full]

    for name, (values, cdf) in FAMILIES.items():
        if not hasattr(torch.distributions, name):
            continue
        parameters = leaves(values, 200)
        torch.manual_seed(probe.seed)
        drawn = _family(name, parameters).rsample()
        require(drawn.requires_grad, "no-gradient", f"draws of {name} are detached")
        seen = torch.autograd.grad(drawn.sum(), parameters)
        x = drawn.detach().requires_grad_()
        density, *slopes = torch.autograd.grad(cdf(x, *parameters).sum(), [x, *parameters])
        for number, (gradient, slope) in enumerate(zip(seen, slopes)):
            what = f"gradient of a draw of {name} in parameter {number}"
            close(gradient, -slope / density, what, rtol=1e-4, atol=1e-6, code="wrong-gradient")
    for name, (values, _, square) in OTHERS.items():
        if not hasattr(torch.distributions, name):
            continue
        parameters, single = leaves(values, DRAWS), leaves(values, 1)
        torch.manual_seed(probe.seed)
        drawn = _family(name, parameters).rsample()
        require(drawn.requires_grad, "no-gradient", f"draws of {name} are detached")
        seen = torch.autograd.grad(drawn.square().sum(), parameters)
        wanted = torch.autograd.grad(square(*single).sum(), single, allow_unused=True)
        for number, (gradient, expected) in enumerate(zip(seen, wanted)):
            what = f"gradient of {name}'s mean square in parameter {number}"
            _mean(gradient, 0.0 if expected is None else expected, what, code="wrong-gradient")
    smooth: Dict[str, Tuple[float, ...]] = {"Bernoulli": (0.3,), "Geometric": (0.3,), "Poisson": (3.0,)}
    smooth.update({name: values for name, (values, _) in FAMILIES.items()})
    smooth.update({name: values for name, (values, _, _) in OTHERS.items()})
    for name, values in smooth.items():
        if hasattr(torch.distributions, name) and name not in NO_MOMENTS:
            differentiable(_moments(name), [leaf[0] for leaf in leaves(values, 1)], f"mean and variance of {name}")


def _moments(name: str) -> Callable[..., Any]:
    """The sum of mean and variance, which depends on each parameter."""
    return lambda *parameters: _family(name, parameters).mean + _family(name, parameters).variance


def divergences(probe: Probe) -> None:
    """The closed form between two of a family is the mean of what their densities say of draws of the first."""
    import torch

    pairs = {name: FAMILIES[name][0] for name in ("Exponential", "Gumbel", "Laplace", "LogNormal", "Normal", "Uniform")}
    pairs.update({name: OTHERS[name][0] for name in ("Beta", "Gamma")})
    pairs.update({name: DISCRETE[name][0] for name in ("Bernoulli", "Geometric", "Poisson")})
    torch.manual_seed(probe.seed)
    for name, values in pairs.items():
        first, second = (
            _family(name, [torch.tensor(value * factor, device=probe.device).double() for value in values])
            for factor in (1.0, 1.2)
        )
        drawn = first.sample((DRAWS,))
        closed = torch.distributions.kl_divergence(first, second)
        _mean(first.log_prob(drawn) - second.log_prob(drawn), closed, f"divergence of {name}")
