"""BoTorch's acquisition functions, models of several outcomes, transforms and designs, each by its formula."""

import math
from typing import Any, Callable, Dict, Tuple

from ..evidence import close, differentiable, moments, on_device, require, seeded, sound
from ..probe import Probe

NEEDS = ("torch", "botorch")

Moments = Callable[[Any], Tuple[Any, Any]]
"""Mean and covariance of the model at points."""


def acquisitions(z: Any, x: Any, model: Any, sampler: Any, posterior: Moments, improvement: Callable[..., Any]) -> None:
    """Values at single points in closed form, by draws as well, and of a pair."""
    import torch
    from botorch import acquisition as known

    mean, covariance = posterior(z)
    sigma = covariance.diagonal().sqrt()
    best = float(mean.max()) - 0.05
    u, bound = (mean - best) / sigma, mean + 2**0.5 * sigma
    wanted: Dict[str, Tuple[Any, Any, float]] = {
        "exponential of LogExpectedImprovement": (
            lambda z: known.LogExpectedImprovement(model, best)(z).exp(),
            improvement(mean, sigma, best),
            1e-3,
        ),
        "ProbabilityOfImprovement": (known.ProbabilityOfImprovement(model, best), torch.special.ndtr(u), 1e-3),
        "UpperConfidenceBound": (known.UpperConfidenceBound(model, 2.0), bound, 1e-4),
        "PosteriorMean": (known.PosteriorMean(model), mean, 1e-4),
        "qUpperConfidenceBound": (known.qUpperConfidenceBound(model, 2.0, sampler), bound, 0.02),
        "qSimpleRegret": (known.qSimpleRegret(model, sampler), mean, 0.02),
        "qProbabilityOfImprovement": (
            known.qProbabilityOfImprovement(model, best, sampler, tau=1e-4),
            torch.special.ndtr(u),
            0.03,
        ),
    }
    for name, (function, expected, error) in wanted.items():
        seen = function(z[:, None])
        sound(seen, x, name)
        close(seen, expected, name, rtol=error, atol=error * 0.1)
    theta = (covariance[1, 1] + covariance[2, 2] - 2 * covariance[1, 2]).sqrt()
    a = (mean[1] - mean[2]) / theta
    density = (-0.5 * a.square()).exp() / math.sqrt(2 * math.pi)
    largest = mean[1] * torch.special.ndtr(a) + mean[2] * torch.special.ndtr(-a) + theta * density
    pair = known.qSimpleRegret(model, sampler)(z[1:3][None])[0]
    close(pair, largest, "qSimpleRegret of a pair", rtol=0.005, atol=1e-4)
    base = x[[2, 5, 7]]
    together, spread = posterior(torch.cat([base, z[1:3]]))
    root = torch.linalg.cholesky(spread + 1e-9 * torch.eye(5).to(x))
    noise = torch.randn(40_000, 5, generator=torch.Generator().manual_seed(5), dtype=torch.float64).to(x.device)
    drawn = together + noise @ root.T
    gain = (drawn[:, 3:].max(1).values - drawn[:, :3].max(1).values).clamp_min(0)
    noisy = known.qNoisyExpectedImprovement(model, base, sampler, prune_baseline=False)(z[1:3][None])[0]
    close(noisy, gain.mean(), "qNoisyExpectedImprovement", rtol=0.05, atol=1e-3)


def slopes(z: Any, model: Any, best: float) -> None:
    """Gradients of the closed forms are those of finite differences."""
    from botorch import acquisition as known

    for name, function in (
        ("LogExpectedImprovement", known.LogExpectedImprovement(model, best)),
        ("ProbabilityOfImprovement", known.ProbabilityOfImprovement(model, best)),
        ("UpperConfidenceBound", known.UpperConfidenceBound(model, 2.0)),
        ("PosteriorMean", known.PosteriorMean(model)),
    ):
        differentiable(lambda z, f=function: f(z).sum(), [z], name, rtol=1e-3)


def knowledge_gradient(x: Any, model: Any, sampler: Any, posterior: Moments, noise: float) -> None:
    """What the best guess is worth once a point is observed, less what is known, over the sampler's four outcomes.

    The mean at a guess moves by its covariance with the point, in standard deviations of the observation.
    """
    import torch
    from botorch.acquisition import qKnowledgeGradient

    function = qKnowledgeGradient(model, num_fantasies=4, sampler=sampler, current_value=torch.tensor(0.3).to(x))
    points = torch.tensor([[0.2], [0.55], [0.7], [0.4], [0.9]]).to(x)  # to observe, and a guess for each outcome
    value = function(points[None])
    sound(value, x, "qKnowledgeGradient")
    mean, covariance = posterior(points)
    drawn = function.sampler.base_samples.flatten().to(x)
    moved = mean[1:] + covariance[0, 1:] / (covariance[0, 0] + noise).sqrt() * drawn
    close(value[0], moved.mean() - 0.3, "qKnowledgeGradient", rtol=1e-3, atol=1e-4)
    differentiable(lambda z: function(z[None]).sum(), [points], "qKnowledgeGradient", rtol=1e-3)


def models(probe: Probe, fixed: Callable[..., Any], textbook: Callable[..., Any]) -> None:
    """Two outcomes by a list of models; standardised outcomes; inputs in the unit cube.

    `fixed` makes a model with its transforms of outcome and input, `textbook` gives mean and covariance of one.
    """
    import torch
    from botorch.acquisition import LinearMCObjective, qSimpleRegret
    from botorch.models import ModelListGP
    from botorch.models.transforms import Normalize, Standardize
    from botorch.sampling import IIDNormalSampler

    z = torch.tensor([[0.1], [0.45], [0.8]], dtype=torch.float64, device=probe.device)
    plain, x, y = fixed(probe)
    scaled, _, _ = fixed(probe, outcome=Standardize(m=1))
    center, width = y.mean(), y.std()
    expected = [textbook(plain, x, y, z)]
    mean, covariance = textbook(scaled, x, (y - center) / width, z)
    expected.append((mean * width + center, covariance * width.square()))
    seen = ModelListGP(plain, scaled).posterior(z)
    sound(seen.mean, x, "mean of a list of models")
    for column, (mean, covariance) in enumerate(expected):
        close(seen.mean[:, column], mean, f"mean of outcome {column}", rtol=1e-4, atol=1e-5)
        close(seen.variance[:, column], covariance.diagonal(), f"variance of outcome {column}", rtol=1e-4, atol=1e-5)
    both = type(plain)(x, torch.cat([y, 2 * y], 1))
    posterior, sampler = both.posterior(z), IIDNormalSampler(torch.Size([4096]), seed=probe.seed)
    drawn, weights = sampler(posterior), torch.tensor([1.0, -2.0]).to(x)
    sound(drawn, x, "draws of two outcomes")
    moments(drawn, posterior.mean, posterior.variance.sqrt(), "draws of two outcomes")
    regret = qSimpleRegret(both, sampler, LinearMCObjective(weights))(z[:, None])
    close(regret, posterior.mean @ weights, "an objective of two outcomes", rtol=0.01, atol=0.05)
    points = probe.randn(9, 2, dtype=torch.float64)
    bounds = torch.tensor([[-5.0, -6.0], [5.0, 8.0]], dtype=torch.float64, device=probe.device)
    given, learned = Normalize(2, bounds=bounds), Normalize(2).to(probe.device)
    close(given(points), (points - bounds[0]) / (bounds[1] - bounds[0]), "inputs in the unit cube")
    close(given.untransform(given(points)), points, "inputs as they were")
    low, high = points.min(0).values, points.max(0).values
    close(learned(points), (points - low) / (high - low), "inputs in the cube that they fill")


def designs(probe: Probe) -> None:
    """Sobol points fill each eighth of a box alike and follow the seed; fronts and volumes are counted out."""
    import torch
    from botorch.utils.multi_objective.hypervolume import Hypervolume
    from botorch.utils.multi_objective.pareto import is_non_dominated
    from botorch.utils.sampling import draw_sobol_samples

    bounds = torch.tensor([[-1.0, 2.0], [1.0, 6.0]], dtype=torch.float64, device=probe.device)
    points = draw_sobol_samples(bounds, n=64, q=1, seed=probe.seed)[:, 0]
    sound(points, bounds, "Sobol points")
    share = (points - bounds[0]) / (bounds[1] - bounds[0])
    eighths = (share * 8).long()
    for column in range(2):
        counts = torch.stack([(eighths[:, column] == eighth).sum() for eighth in range(8)])
        require(bool((counts == 8).all()), "wrong-moments", f"Sobol points fill eighths of a side by {counts.tolist()}")
    seeded(lambda: draw_sobol_samples(bounds, n=4, q=2), "draw_sobol_samples", torch.manual_seed)
    outcomes = probe.randn(20, 2, dtype=torch.float64)
    worse = [[bool((other >= one).all() and (other > one).any()) for other in outcomes] for one in outcomes]
    front = torch.tensor([not any(row) for row in worse])
    seen = is_non_dominated(outcomes)
    on_device(seen, outcomes.device, "front")
    close(seen.long(), front.long(), "front")
    corner = torch.tensor([-3.0, -3.5], dtype=torch.float64, device=probe.device)
    best = outcomes[front.to(probe.device)]
    best = best[best[:, 0].argsort(descending=True)]
    volume, height = 0.0, float(corner[1])
    for first, second in best.tolist():
        if first > float(corner[0]) and second > height:
            volume += (first - float(corner[0])) * (second - height)
            height = second
    close(torch.tensor(Hypervolume(corner).compute(best)), volume, "hypervolume", rtol=1e-5)
