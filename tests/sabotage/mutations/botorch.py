"""(probe, reason code, what is wrong) -> the sabotage of BoTorch that the probe must answer with that code."""

from __future__ import annotations

from typing import Any

from ._change import (
    Sabotage,
    all_nan,
    detached,
    double,
    eager,
    elsewhere,
    first,
    nan,
    numb,
    options,
    replace,
    reseed,
    returns,
    rewind,
    scaled,
    single,
    steeper,
    wider,
)

DRAW = "botorch.posteriors.GPyTorchPosterior:rsample"
EXPECTED = "botorch.acquisition.ExpectedImprovement:forward"
MONTE_CARLO = "botorch.acquisition.qExpectedImprovement:forward"
KNOWLEDGE = "botorch.acquisition.qKnowledgeGradient"
SAMPLER = "botorch.sampling.SobolQMCNormalSampler:forward"
FUNCTION = "botorch.test_functions.Hartmann:evaluate_true"


def _wide_sampler(original: Any) -> Any:
    def forward(self: Any, posterior: Any) -> Any:
        return posterior.mean + 1.1 * (original(self, posterior) - posterior.mean)

    return forward


def _one_seed(original: Any) -> Any:
    def make(self: Any, sample_shape: Any, seed: Any = None) -> None:
        original(self, sample_shape, seed=0)

    return make


def _lower_bound(original: Any) -> Any:
    """An optimiser that stays where it began, and says truly what it is worth."""

    def optimize_acqf(acquisition: Any, bounds: Any, **_: Any) -> Any:
        place = bounds[:1].clone()
        return place, acquisition(place).reshape(()).detach()

    return optimize_acqf


def _boasting(original: Any) -> Any:
    """An optimiser whose value is not that of its place."""

    def optimize_acqf(*arguments: Any, **options: Any) -> Any:
        place, value = original(*arguments, **options)
        return place, value * 1.01

    return optimize_acqf


MUTATIONS: dict[tuple[str, str, str], Sabotage] = {
    ("sample", "wrong-device", "draws on another device"): returns(DRAW, elsewhere),
    ("sample", "wrong-moments", "draws scatter 10 percent too far"): wider(DRAW),
    ("sample", "wrong-moments", "a sampler's draws scatter too far"): replace(SAMPLER, _wide_sampler),
    ("sample", "seed-ignored", "the seed is forgotten"): first(DRAW, reseed),
    ("sample", "repeated-draw", "each draw is the same"): first(DRAW, rewind),
    ("sample", "repeated-draw", "a sampler has one seed only"): replace(
        "botorch.sampling.IIDNormalSampler:__init__", _one_seed
    ),
    ("sample", "not-finite", "one NaN"): returns(DRAW, nan),
    ("sample", "wrong-dtype", "float32 for float64"): returns(DRAW, single),
    ("sample", "wrong-value", "variance 10 percent off"): replace(
        "botorch.posteriors.GPyTorchPosterior:variance",
        lambda original: property(lambda self: original.fget(self) * 1.1),
    ),
    ("sample", "wrong-value", "Monte Carlo value 10 percent off"): returns(MONTE_CARLO, scaled(1.1)),
    ("autograd", "wrong-value", "value 1 percent off"): returns(EXPECTED, scaled(1.01)),
    ("autograd", "no-gradient", "detached value"): returns(EXPECTED, detached),
    ("autograd", "wrong-gradient", "gradient 10 percent too large"): returns(EXPECTED, steeper),
    ("autograd", "wrong-gradient", "Monte Carlo gradient 10 percent too large"): returns(MONTE_CARLO, steeper),
    ("autograd", "not-finite", "the value is NaN"): returns(EXPECTED, all_nan),
    ("autograd", "wrong-dtype", "float32 for float64"): returns(EXPECTED, single),
    ("autograd", "wrong-value", "the optimiser stays at the bound"): replace(
        "botorch.optim:optimize_acqf", _lower_bound
    ),
    ("autograd", "wrong-value", "the optimiser boasts"): replace("botorch.optim:optimize_acqf", _boasting),
    ("autograd", "does-not-train", "fitting does nothing"): replace(
        "botorch.fit:fit_gpytorch_mll", lambda _: lambda objective, **_: objective
    ),
    ("autograd", "zero-gradient", "the length scale's gradient is zero"): numb("gpytorch.kernels.Kernel:lengthscale"),
    **{
        ("sample", "wrong-value", f"{name} 10 percent off"): returns(f"botorch.acquisition.{name}:forward", scaled(1.1))
        for name in (
            "LogExpectedImprovement",
            "ProbabilityOfImprovement",
            "UpperConfidenceBound",
            "PosteriorMean",
            "qUpperConfidenceBound",
            "qSimpleRegret",
            "qProbabilityOfImprovement",
        )
    },
    ("sample", "wrong-value", "a noisy improvement twice as large"): returns(
        "botorch.acquisition.qNoisyExpectedImprovement:forward", scaled(2.0)
    ),
    ("sample", "wrong-value", "standardised outcomes stay so"): replace(
        "botorch.models.transforms.Standardize:untransform_posterior",
        lambda _: lambda self, latent, *_, **__: latent,
    ),
    ("sample", "wrong-value", "inputs 1 percent beyond the cube"): returns(
        "botorch.models.transforms.Normalize:transform", scaled(1.01)
    ),
    ("sample", "seed-ignored", "a design forgets the seed"): first("botorch.utils.sampling:draw_sobol_samples", reseed),
    ("sample", "wrong-value", "a volume 1 percent off"): replace(
        "botorch.utils.multi_objective.hypervolume.Hypervolume:compute",
        lambda original: lambda self, front: 1.01 * original(self, front),
    ),
    ("sample", "wrong-value", "the front is all points"): returns(
        "botorch.utils.multi_objective.pareto:is_non_dominated", lambda out: out | True
    ),
    ("autograd", "wrong-gradient", "gradient of a logarithm 10 percent too large"): returns(
        "botorch.acquisition.LogExpectedImprovement:forward", steeper
    ),
    ("autograd", "wrong-value", "knowledge gradient forgets what is known"): options(
        f"{KNOWLEDGE}:__init__", current_value=lambda _: None
    ),
    ("autograd", "wrong-value", "knowledge gradient 10 percent off"): returns(f"{KNOWLEDGE}:forward", scaled(1.1)),
    ("autograd", "wrong-gradient", "slope of the knowledge gradient 10 percent too large"): returns(
        f"{KNOWLEDGE}:forward", steeper
    ),
    ("compile", "not-compiled", "runs eagerly"): eager,
    ("compile", "compile-mismatch", "1 percent off when compiled"): returns(FUNCTION, scaled(1.01), when_compiled=True),
    ("compile", "not-finite", "NaN when compiled"): returns(FUNCTION, all_nan, when_compiled=True),
    ("compile", "wrong-dtype", "float64 when compiled"): returns(FUNCTION, double, when_compiled=True),
    ("compile", "no-gradient", "detached when compiled"): returns(FUNCTION, detached, when_compiled=True),
    ("compile", "compile-mismatch", "acquisition off when compiled"): returns(
        EXPECTED, scaled(1.01), when_compiled=True
    ),
}
