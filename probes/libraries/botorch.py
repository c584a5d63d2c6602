"""BoTorch: Bayesian optimisation on GPyTorch's models."""

import math
from typing import Any, Tuple

from ..compiling import compiled
from ..evidence import close, differentiable, moments, of_shape, reached, require, seeded, sound
from ..probe import Probe
from . import _botorch_parts as parts

DISTRIBUTION = "botorch"
MODULE = "botorch"
NEEDS = ("torch", "gpytorch")
COVERS = {
    "botorch.models.SingleTaskGP": "sample/posterior",
    "botorch.posteriors.GPyTorchPosterior": "sample/draws",
    "botorch.sampling.IIDNormalSampler": "sample/IIDNormalSampler",
    "botorch.sampling.SobolQMCNormalSampler": "sample/SobolQMCNormalSampler",
    "botorch.acquisition.qExpectedImprovement": "sample/qExpectedImprovement",
    "botorch.acquisition.ExpectedImprovement": "autograd/expected improvement",
    "botorch.optim.optimize_acqf": "autograd/optimisation",
    "botorch.fit.fit_gpytorch_mll": "autograd/fit",
    "botorch.test_functions.Hartmann": "compile/test function",
    "botorch.acquisition.LogExpectedImprovement": "sample/acquisitions",
    "botorch.acquisition.ProbabilityOfImprovement": "sample/acquisitions",
    "botorch.acquisition.UpperConfidenceBound": "sample/acquisitions",
    "botorch.acquisition.PosteriorMean": "sample/acquisitions",
    "botorch.acquisition.qNoisyExpectedImprovement": "sample/acquisitions",
    "botorch.acquisition.qUpperConfidenceBound": "sample/acquisitions",
    "botorch.acquisition.qProbabilityOfImprovement": "sample/acquisitions",
    "botorch.acquisition.qSimpleRegret": "sample/acquisitions",
    "botorch.acquisition.qKnowledgeGradient": "autograd/knowledge gradient",
    "botorch.models.ModelListGP": "sample/models",
    "botorch.models.transforms.Standardize": "sample/models",
    "botorch.models.transforms.Normalize": "sample/models",
    "botorch.utils.sampling.draw_sobol_samples": "sample/designs",
    "botorch.utils.multi_objective.hypervolume.Hypervolume": "sample/designs",
    "botorch.utils.multi_objective.pareto.is_non_dominated": "sample/designs",
}

DRAWS = 20_000
NOISE = 0.01


def _model(probe: Probe, outcome: Any = None) -> Tuple[Any, Any, Any]:
    """A GP on twelve points of a bump whose top is at 0.6, with fixed hyperparameters (defaults changed over time)."""
    import torch
    from botorch.models import SingleTaskGP

    x = torch.linspace(0, 1, 12, dtype=torch.float64).to(probe.device)[:, None]
    y = (-8 * (x - 0.6).square()).exp() + 0.02 * probe.randn(12, 1, dtype=torch.float64)
    model = SingleTaskGP(x, y, outcome_transform=outcome)
    model.likelihood.noise = NOISE
    base = getattr(model.covar_module, "base_kernel", model.covar_module)
    base.lengthscale = 0.3
    return model.eval(), x, y


def _posterior(model: Any, x: Any, y: Any, z: Any) -> Tuple[Any, Any]:
    """Mean and covariance at z by the textbook, from the model's prior mean and kernel."""
    import torch

    def kernel(left: Any, right: Any) -> Any:
        lazy = model.covar_module(left, right)
        return lazy.to_dense() if hasattr(lazy, "to_dense") else lazy.evaluate()

    gain = torch.linalg.solve(kernel(x, x) + NOISE * torch.eye(len(x)).to(x), kernel(x, z)).T
    mean = model.mean_module(z) + gain @ (y[:, 0] - model.mean_module(x))
    return mean, kernel(z, z) - gain @ kernel(x, z)


def _improvement(mean: Any, sigma: Any, best: float) -> Any:
    """Expected improvement over `best` by its formula."""
    import torch

    u = (mean - best) / sigma
    density = (-0.5 * u.square()).exp() / math.sqrt(2 * math.pi)
    return sigma * (u * 0.5 * (1 + torch.erf(u / math.sqrt(2))) + density)


def _sampler(kind: str, draws: int, seed: Any = None) -> Any:
    """A sampler of that kind; before BoTorch 0.8 it took a number of samples, since then a shape."""
    import torch
    from botorch import sampling

    make = getattr(sampling, kind)
    try:
        return make(torch.Size([draws]), seed=seed)
    except TypeError:
        return make(draws, seed=seed)


def sample(probe: Probe) -> None:
    """The posterior is the closed form, and draws from it, straight or through a sampler, have its moments."""
    import torch
    from botorch.acquisition import qExpectedImprovement

    torch.manual_seed(probe.seed)
    with probe.part("designs"):
        parts.designs(probe)
    with torch.no_grad():
        model, x, y = _model(probe)
        z = torch.tensor([[0.05], [0.33], [0.61], [0.9]], dtype=torch.float64, device=probe.device)
        mean, covariance = _posterior(model, x, y, z)
        sigma = covariance.diagonal().sqrt()
        posterior = model.posterior(z)
        with probe.part("posterior"):
            sound(posterior.mean, x, "posterior mean")
            close(posterior.mean[:, 0], mean, "posterior mean", atol=1e-6)
            sound(posterior.variance, x, "posterior variance")
            close(posterior.variance[:, 0], sigma.square(), "posterior variance", atol=1e-6)
        with probe.part("draws"):
            drawn = posterior.rsample(torch.Size([DRAWS]))
            of_shape(drawn, (DRAWS, 4, 1), "posterior draws")
            sound(drawn, x, "posterior draws")
            moments(drawn[..., 0], mean, sigma, "posterior draws")
            seeded(lambda: posterior.rsample(), "posterior draws", torch.manual_seed)
        for kind in ("IIDNormalSampler", "SobolQMCNormalSampler"):
            with probe.part(kind):
                drawn = _sampler(kind, DRAWS, seed=probe.seed)(posterior)
                sound(drawn, x, f"draws of {kind}")
                moments(drawn[..., 0], mean, sigma, f"draws of {kind}")
                seeded(lambda: _sampler(kind, 16)(posterior), kind, torch.manual_seed)  # noqa: B023  (called at once)
        with probe.part("acquisitions"):
            sampler = _sampler("SobolQMCNormalSampler", 4096, seed=probe.seed)
            parts.acquisitions(z, x, model, sampler, lambda z: _posterior(model, x, y, z), _improvement)
        with probe.part("models"):
            parts.models(probe, _model, _posterior)
        with probe.part("qExpectedImprovement"):
            best = float(mean.max()) - 0.05
            analytic = _improvement(mean, sigma, best)
            acquisition = qExpectedImprovement(model, best, _sampler("SobolQMCNormalSampler", 4096, seed=probe.seed))
            alone = acquisition(z[:, None])
            sound(alone, x, "qExpectedImprovement")
            close(alone, analytic, "qExpectedImprovement of single points", rtol=0.02, atol=1e-3)
            both, (low, high) = float(acquisition(z[1:3][None])), (analytic[1:3].max(), analytic[1:3].sum())
            require(
                0.98 * float(low) <= both <= 1.02 * float(high),
                "wrong-value",
                f"qExpectedImprovement of a pair is {both:.4g}, outside of [{float(low):.4g}, {float(high):.4g}]",
            )


def autograd(probe: Probe) -> None:
    """Acquisition values and gradients are right, the optimiser finds their maximum, and a model fits."""
    import torch
    from botorch.acquisition import ExpectedImprovement, qExpectedImprovement
    from botorch.optim import optimize_acqf

    torch.manual_seed(probe.seed)
    model, x, y = _model(probe)
    best = float(y.max())
    z = torch.tensor([[[0.2]], [[0.55]], [[0.7]]], dtype=torch.float64, device=probe.device)
    expected = ExpectedImprovement(model, best)
    with probe.part("expected improvement"):
        value = expected(z)
        sound(value, x, "ExpectedImprovement")
        mean, covariance = _posterior(model, x, y, z[:, 0])
        reference = _improvement(mean, covariance.diagonal().sqrt(), best)
        close(value, reference, "ExpectedImprovement", rtol=1e-4, atol=1e-6)
        differentiable(lambda z: (1e2 * expected(z)).sum(), [z], "ExpectedImprovement")
    with probe.part("qExpectedImprovement"):
        acquisition = qExpectedImprovement(model, best, _sampler("SobolQMCNormalSampler", 512, seed=probe.seed))
        # A draw whose improvement turns to zero between the two differences shows as 1/512 of the derivative.
        differentiable(lambda z: (1e2 * acquisition(z.transpose(0, 1))).sum(), [z], "qExpectedImprovement", rtol=0.02)
    with probe.part("slopes"):
        parts.slopes(z, model, best, _sampler("SobolQMCNormalSampler", 64, seed=probe.seed))
    with probe.part("knowledge gradient"):
        sampler = _sampler("SobolQMCNormalSampler", 4, seed=probe.seed)
        parts.knowledge_gradient(x, model, sampler, lambda z: _posterior(model, x, y, z), NOISE)
    with probe.part("optimisation"):
        bounds = torch.tensor([[0.0], [1.0]], dtype=torch.float64, device=probe.device)
        place, value = optimize_acqf(expected, bounds, q=1, num_restarts=3, raw_samples=16)
        of_shape(place, (1, 1), "optimum")
        sound(place, x, "optimum")
        with torch.no_grad():
            grid = torch.linspace(0, 1, 501, dtype=torch.float64, device=probe.device)[:, None, None]
            top = float(expected(grid).max())
            close(expected(place[None])[0], value.reshape(()), "value at the optimum")
        stopped = f"optimize_acqf stops at {float(value):.4g}, a grid reaches {top:.4g}"
        require(float(value) >= 0.98 * top, "wrong-value", stopped)
    with probe.part("options"):
        parts.optimisation(probe, _model)
    with probe.part("fit"):
        _fit(probe)


def _fit(probe: Probe) -> None:
    """From poor hyperparameters, fitting reaches them all and raises the marginal likelihood."""
    import torch
    from gpytorch.mlls import ExactMarginalLogLikelihood

    try:
        from botorch.fit import fit_gpytorch_mll as fit
    except ImportError:  # BoTorch before 0.7
        from botorch.fit import fit_gpytorch_model as fit
    model, x, y = _model(probe)
    model.likelihood.noise = 1.0
    objective = ExactMarginalLogLikelihood(model.likelihood, model).train()
    before = objective(model(x), y[:, 0])
    sound(before, x, "marginal likelihood")
    require(before.requires_grad, "no-gradient", "marginal likelihood is detached")
    before.backward()
    reached(dict(model.named_parameters()), "marginal likelihood")
    fit(objective)
    with torch.no_grad():
        after = objective.train()(model(x), y[:, 0])
    gain = float(after - before.detach())
    require(gain > 0.2, "does-not-train", f"fitting raised the marginal likelihood by {gain:.3g} a row only")
    for name, parameter in model.named_parameters():
        sound(parameter, x, f"fitted {name}")


def compile(probe: Probe) -> None:
    """A test function, with its gradient, and expected improvement compile to the eager result."""
    import torch
    from botorch.acquisition import ExpectedImprovement
    from botorch.test_functions import Hartmann

    with probe.part("test function"):
        function = Hartmann(dim=3).to(probe.device)
        points = [(torch.sigmoid(probe.randn(rows, 3, offset=rows)),) for rows in (4, 9)]
        compiled(probe, function.evaluate_true, points, "Hartmann", backend=probe.heavy_backend)
        compiled(probe, function.evaluate_true, points[:1], "Hartmann without gradients", backward=False)
    with probe.part("expected improvement"):
        model, _, y = _model(probe)
        model.requires_grad_(False)
        place = torch.sigmoid(probe.randn(3, 1, 1, dtype=torch.float64))
        # The GP's first prediction breaks into some forty graphs.
        acquisition = ExpectedImprovement(model, float(y.max()))
        compiled(probe, acquisition, [(place,)], "ExpectedImprovement", backend=probe.broken_backend)
