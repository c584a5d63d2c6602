"""BoTorch's acquisition functions, models of several outcomes, transforms and designs, each by its formula."""

import math
from typing import Any, Callable, Dict, Tuple

from ..evidence import close, differentiable, moments, on_device, require, seeded, sound
from ..probe import Probe

NEEDS = ("torch", "botorch", "gpytorch")

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
    if hasattr(known, "LogExpectedImprovement"):  # since BoTorch 0.9
        log = known.LogExpectedImprovement(model, best)
        wanted["exponential of LogExpectedImprovement"] = (lambda z: log(z).exp(), improvement(mean, sigma, best), 1e-3)
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
    beside = known.qSimpleRegret(model, sampler, X_pending=z[2:3])(z[1:2][None])[0]
    close(beside, largest, "qSimpleRegret beside a point that is pending", rtol=0.005, atol=1e-4)
    base = x[[2, 5, 7]]
    together, spread = posterior(torch.cat([base, z[1:3]]))
    root = torch.linalg.cholesky(spread + 1e-9 * torch.eye(5).to(x))
    noise = torch.randn(40_000, 5, generator=torch.Generator().manual_seed(5), dtype=torch.float64).to(x.device)
    drawn = together + noise @ root.T
    gain = (drawn[:, 3:].max(1).values - drawn[:, :3].max(1).values).clamp_min(0)
    noisy = known.qNoisyExpectedImprovement(model, base, sampler, prune_baseline=False)(z[1:3][None])[0]
    close(noisy, gain.mean(), "qNoisyExpectedImprovement", rtol=0.05, atol=1e-3)


def slopes(z: Any, model: Any, best: float, sampler: Any) -> None:
    """Gradients of the closed forms, and of sums over draws, are those of finite differences."""
    from botorch import acquisition as known

    wanted = [
        ("ProbabilityOfImprovement", known.ProbabilityOfImprovement(model, best)),
        ("UpperConfidenceBound", known.UpperConfidenceBound(model, 2.0)),
        ("PosteriorMean", known.PosteriorMean(model)),
        ("qSimpleRegret", known.qSimpleRegret(model, sampler)),
        ("qUpperConfidenceBound", known.qUpperConfidenceBound(model, 2.0, sampler)),
        ("qProbabilityOfImprovement", known.qProbabilityOfImprovement(model, best, sampler, tau=0.1)),
    ]
    if hasattr(known, "LogExpectedImprovement"):  # since BoTorch 0.9
        wanted.append(("LogExpectedImprovement", known.LogExpectedImprovement(model, best)))
    for name, function in wanted:
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
    drawn = sampler.base_samples.flatten().to(x)
    moved = mean[1:] + covariance[0, 1:] / (covariance[0, 0] + noise).sqrt() * drawn
    close(value[0], moved.mean() - 0.3, "qKnowledgeGradient", rtol=1e-3, atol=1e-4)
    differentiable(lambda z: function(z[None]).sum(), [points], "qKnowledgeGradient", rtol=1e-3)


def models(probe: Probe, fixed: Callable[..., Any], textbook: Callable[..., Any]) -> None:
    """Two outcomes by a list of models; standardised outcomes; inputs in the unit cube.

    `fixed` makes a model with its transforms of outcome and input, `textbook` gives mean and covariance of one.
    """
    import torch
    from botorch.acquisition import LinearMCObjective, qNoisyExpectedImprovement, qSimpleRegret
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
    base, pair = x[[4, 6, 8]], torch.tensor([[0.35], [0.9]]).to(x)
    drawn = both.posterior(torch.cat([base, pair])).rsample(torch.Size([40_000])) @ weights
    gain = (drawn[:, 3:].max(1).values - drawn[:, :3].max(1).values).clamp_min(0)
    for kept in (True, False):  # the root of the covariance at the base, or all draws anew
        options = {"prune_baseline": False, "cache_root": kept}
        noisy = qNoisyExpectedImprovement(both, base, sampler, LinearMCObjective(weights), **options)(pair[None])[0]
        error = 0.02 * gain.mean() + 12 * gain.std() / 4096**0.5
        require(abs(noisy - gain.mean()) < error, "wrong-value", f"improvement of two outcomes: {noisy}, {gain.mean()}")
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


def optimisation(probe: Probe, fixed: Callable[..., Any]) -> None:
    """The optimiser heeds own starts, own steps, coordinates that are held, bounds of sums, and several points.

    `fixed` makes a model; a second one, of two inputs, is summed up by its mean.
    """
    import functools
    import inspect

    import torch
    from botorch.acquisition import PosteriorMean
    from botorch.generation import gen_candidates_torch
    from botorch.optim import optimize_acqf

    x = torch.rand(14, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(probe.device)
    y = -(x - torch.tensor([0.6, 0.3]).to(x)).square().sum(1, keepdim=True)
    model = type(fixed(probe)[0])(x, y).eval().requires_grad_(False)
    function, bounds = PosteriorMean(model), torch.tensor([[0.0, 0.0], [1.0, 1.0]]).to(x)
    side = torch.linspace(0, 1, 41, dtype=torch.float64, device=probe.device)
    grid = torch.cartesian_prod(side, side)
    values = function(grid[:, None])
    calls = []

    @functools.wraps(gen_candidates_torch)  # BoTorch hands over what the signature names
    def steps(*words: Any, **options: Any) -> Any:
        calls.append(1)
        return gen_candidates_torch(*words, **options)

    starts = torch.tensor([[[0.5, 0.5]], [[0.7, 0.2]]]).to(x)
    every = torch.ones(len(grid), dtype=torch.bool, device=probe.device)
    lower = grid.sum(1) <= 0.6
    sums = [(torch.tensor([0, 1], device=probe.device), torch.tensor([-1.0, -1.0]).to(x), -0.6)]
    wanted = {  # what it is told, and where it may go
        "own starts": ({"batch_initial_conditions": starts, "num_restarts": 3}, every),
        "a coordinate that is held": ({"fixed_features": {1: 0.8}, "raw_samples": 16}, grid[:, 1] == side[32]),
        "a bound of the sum": ({"inequality_constraints": sums, "batch_initial_conditions": starts / 3}, lower),
    }
    if "gen_candidates" in inspect.signature(optimize_acqf).parameters:  # since BoTorch 0.9
        few = {"gen_candidates": steps, "options": {"maxiter": 20}}
        wanted["own steps"] = ({**few, "batch_initial_conditions": starts}, every)
    for name, (options, allowed) in wanted.items():
        place, value = optimize_acqf(function, bounds, q=1, **{"num_restarts": 2, **options})
        sound(place, x, f"optimum with {name}")
        inside = bool((place >= 0).all() and (place <= 1).all())
        require(inside, "wrong-value", f"the optimum with {name} lies outside of the bounds: {place.tolist()}")
        close(function(place[None])[0], value.reshape(()), f"value at the optimum with {name}")
        own, top = name == "own steps", float(values[allowed].max())
        low = float(function(starts).max()) if own else top - 5e-3  # few steps only rise
        off = f"with {name} the optimiser ends at {float(value):.5g}, a grid reaches {top:.5g}"
        require(low < float(value) < top + 5e-3, "wrong-value", off)
        if allowed is lower:
            require(float(place.sum()) <= 0.6 + 1e-6, "wrong-value", f"the bound of the sum is not heeded: {place}")
        if "fixed_features" in options:
            held = abs(float(place[0, 1]) - 0.8) < 1e-6  # BoTorch 0.8 keeps it in float32
            require(held, "wrong-value", f"the coordinate is not held: {place.tolist()}")
        require(bool(calls) == own, "wrong-value", "own steps of the optimiser are not used")
