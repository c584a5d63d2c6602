"""(probe, reason code, what is wrong) -> the sabotage of GPyTorch that the probe must answer with that code."""

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
    replace,
    reseed,
    returns,
    rewind,
    scaled,
    steeper,
    uphill,
    wider,
)

DRAW = "gpytorch.distributions.MultivariateNormal:rsample"
KERNEL = "gpytorch.kernels.RBFKernel:forward"
EXACT = "gpytorch.mlls.ExactMarginalLogLikelihood:forward"
VARIATIONAL = "gpytorch.mlls.VariationalELBO:forward"
MEAN = "gpytorch.models.exact_prediction_strategies.DefaultPredictionStrategy:exact_predictive_mean"


def _uncorrelated(_: Any) -> Any:
    """The right mean and deviations, each coordinate on its own."""

    def rsample(self: Any, shape: Any = (), **_: Any) -> Any:
        import torch

        return self.mean + self.stddev * torch.randn(*shape, *self.mean.shape).to(self.mean)

    return rsample


MUTATIONS: dict[tuple[str, str, str], Sabotage] = {
    ("sample", "wrong-device", "draws on another device"): returns(DRAW, elsewhere),
    ("sample", "wrong-moments", "draws scatter 10 percent too far"): wider(DRAW),
    ("sample", "wrong-moments", "draws are uncorrelated"): replace(DRAW, _uncorrelated),
    ("sample", "wrong-moments", "kernel off by 10 percent"): returns(KERNEL, scaled(1.1)),
    ("sample", "seed-ignored", "the seed is forgotten"): first(DRAW, reseed),
    ("sample", "repeated-draw", "each draw is the same"): first(DRAW, rewind),
    ("sample", "not-finite", "one NaN"): returns(DRAW, nan),
    ("sample", "wrong-dtype", "float64 for float32"): returns(DRAW, double),
    ("sample", "wrong-value", "posterior mean 1 percent off"): returns(MEAN, scaled(1.01)),
    ("sample", "wrong-value", "the likelihood forgets its noise"): replace(
        "gpytorch.likelihoods.GaussianLikelihood:marginal", lambda _: lambda self, latent, *_: latent
    ),
    ("autograd", "no-gradient", "detached likelihood"): returns(EXACT, detached),
    ("autograd", "wrong-value", "the output scale's prior is forgotten"): replace(
        "gpytorch.kernels.ScaleKernel:__init__",
        lambda original: lambda self, kernel, outputscale_prior=None, **given: original(self, kernel, **given),
    ),
    ("autograd", "wrong-value", "likelihood 1 percent off"): returns(EXACT, scaled(1.01)),
    ("autograd", "wrong-gradient", "gradient 10 percent too large"): returns(EXACT, steeper),
    ("autograd", "zero-gradient", "the length scale's gradient is zero"): numb("gpytorch.kernels.Kernel:lengthscale"),
    ("autograd", "not-finite", "the likelihood is NaN"): returns(EXACT, all_nan),
    ("autograd", "no-gradient", "detached variational bound"): returns(VARIATIONAL, detached),
    ("autograd", "does-not-train", "trains in the wrong direction"): returns(VARIATIONAL, uphill),
    ("sample", "wrong-value", "further data is forgotten"): replace(
        "gpytorch.models.ExactGP:get_fantasy_model", lambda _: lambda self, *_, **__: self
    ),
    ("sample", "wrong-value", "fixed noise is forgotten"): replace(
        "gpytorch.likelihoods.FixedNoiseGaussianLikelihood:marginal",
        lambda _: lambda self, latent, *_: latent,
    ),
    ("sample", "wrong-value", "a Bernoulli without its spread"): returns(
        "gpytorch.likelihoods.BernoulliLikelihood:expected_log_prob", scaled(1.1)
    ),
    **{
        ("autograd", "wrong-value", f"{name} 1 percent off"): returns(f"gpytorch.kernels.{name}:forward", scaled(1.01))
        for name in ("MaternKernel", "PeriodicKernel", "RQKernel", "CosineKernel", "SpectralMixtureKernel")
    },
    ("autograd", "wrong-gradient", "a period's gradient 10 percent too large"): returns(
        "gpytorch.kernels.PeriodicKernel:forward", steeper
    ),
    ("autograd", "wrong-value", "leave-one-out 1 percent off"): returns(
        "gpytorch.mlls.LeaveOneOutPseudoLikelihood:forward", scaled(1.01)
    ),
    ("autograd", "wrong-value", "a prior 10 percent off"): returns("gpytorch.priors.GammaPrior:log_prob", scaled(1.1)),
    ("autograd", "wrong-value", "the bound forgets its divergence"): returns(
        "gpytorch.variational.VariationalStrategy:kl_divergence", scaled(0.0)
    ),
    ("autograd", "wrong-value", "an interval 1 percent too wide"): returns(
        "gpytorch.constraints.Interval:transform", scaled(1.01)
    ),
    ("compile", "not-compiled", "runs eagerly"): eager,
    ("compile", "compile-mismatch", "kernel off when compiled"): returns(KERNEL, scaled(1.01), when_compiled=True),
    ("compile", "not-finite", "NaN when compiled"): returns(KERNEL, all_nan, when_compiled=True),
    ("compile", "wrong-dtype", "float64 when compiled"): returns(KERNEL, double, when_compiled=True),
    ("compile", "compile-mismatch", "no gradient when compiled"): returns(KERNEL, detached, when_compiled=True),
    ("compile", "compile-mismatch", "prediction off when compiled"): returns(MEAN, scaled(1.01), when_compiled=True),
}
