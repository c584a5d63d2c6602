"""(probe, reason code, what is wrong) -> the sabotage of Pyro that the probe must answer with that code."""

from __future__ import annotations

from typing import Any

from ._change import (
    Sabotage,
    all_nan,
    detached,
    does_nothing,
    double,
    eager,
    elsewhere,
    nan,
    replace,
    returns,
    scaled,
    single,
    steeper,
    wider,
)

SAMPLE = "pyro:sample"
BOUND = "pyro.infer.Trace_ELBO:differentiable_loss"
DENSITY = "pyro.distributions.Normal:log_prob"
SEED = "pyro:set_rng_seed"
CLIPPED = "pyro.optim.clipped_adam.ClippedAdam:step"


def _drifting_chain(original: Any) -> Any:
    """A chain whose draws lie a deviation too high."""

    def get_samples(self: Any, *arguments: Any, **options: Any) -> Any:
        return {name: drawn + drawn.std(0) for name, drawn in original(self, *arguments, **options).items()}

    return get_samples


def _frozen_prior(original: Any) -> Any:
    """A module that draws each of its weights once, and never again."""
    drawn: dict[Any, Any] = {}

    def get(self: Any, name: str) -> Any:
        if name not in self.__dict__.get("_pyro_samples", ()):
            return original(self, name)
        return drawn.setdefault((id(self), name), original(self, name))

    return get


def _strong_prediction(original: Any) -> Any:
    def forward(self: Any, *arguments: Any, **options: Any) -> Any:
        return {name: drawn * 1.1 for name, drawn in original(self, *arguments, **options).items()}

    return forward


def _compiled_weight(original: Any) -> Any:
    """A parameter that has another value in compiled code."""

    def get(self: Any, name: str) -> Any:
        import torch

        value = original(self, name)
        return value * 1.01 if name == "weight" and torch.compiler.is_compiling() else value

    return get


def _biased_steps(original: Any) -> Any:
    """Variational inference that widens its guide a little with every step."""

    def step(self: Any, *arguments: Any, **options: Any) -> Any:
        import pyro
        import torch

        loss = original(self, *arguments, **options)
        store = pyro.get_param_store()
        if "scale" in store:
            with torch.no_grad():
                store._params["scale"].add_(0.01)
        return loss

    return step


def _numb_scale(_: Any) -> Any:
    """A guide whose scale gets no gradient but zeros."""

    def get_posterior(self: Any, *_: Any, **__: Any) -> Any:
        from pyro import distributions as dist

        return dist.Normal(self.loc, self.scale.detach() + 0 * self.scale).to_event(1)

    return get_posterior


def _wide_guide(original: Any) -> Any:
    def laplace_approximation(self: Any, *arguments: Any) -> Any:
        guide = original(self, *arguments)
        guide.scale_tril = guide.scale_tril * 1.1
        return guide

    return laplace_approximation


def _unclipped(original: Any) -> Any:
    def step(self: Any, *arguments: Any) -> Any:
        for group in self.param_groups:
            group["clip_norm"] = 1e9
        return original(self, *arguments)

    return step


MUTATIONS: dict[tuple[str, str, str], Sabotage] = {
    ("sample", "wrong-device", "draws on another device"): returns(SAMPLE, elsewhere),
    ("sample", "wrong-moments", "draws scatter 10 percent too far"): wider("pyro.distributions.Normal:rsample"),
    ("sample", "wrong-dtype", "float64 for float32"): returns(SAMPLE, double),
    ("sample", "not-finite", "one NaN"): returns("pyro.distributions.GammaPoisson:sample", nan),
    ("sample", "seed-ignored", "the seed is forgotten"): replace(SEED, lambda _: lambda seed: None),
    ("sample", "repeated-draw", "each seed is the same"): replace(SEED, lambda original: lambda seed: original(1)),
    ("sample", "wrong-moments", "NUTS stands still"): replace(
        "pyro.infer.NUTS:sample", lambda _: lambda self, parameters: parameters
    ),
    ("sample", "wrong-moments", "NUTS is off by a deviation"): replace("pyro.infer.MCMC:get_samples", _drifting_chain),
    ("sample", "wrong-moments", "predictions 10 percent off"): replace(
        "pyro.infer.Predictive:forward", _strong_prediction
    ),
    ("sample", "repeated-draw", "weights are drawn once"): replace("pyro.nn.PyroModule:__getattr__", _frozen_prior),
    ("autograd", "wrong-value", "ELBO 1 percent off"): returns(BOUND, scaled(1.01)),
    ("autograd", "no-gradient", "detached ELBO"): returns(BOUND, detached),
    ("autograd", "wrong-gradient", "gradient 10 percent too large"): returns(BOUND, steeper),
    ("autograd", "not-finite", "the ELBO is NaN"): returns(BOUND, all_nan),
    ("autograd", "wrong-dtype", "float32 for float64"): returns(BOUND, single),
    ("autograd", "wrong-value", "enumeration 1 percent off"): returns(
        "pyro.infer.TraceEnum_ELBO:differentiable_loss", scaled(1.01)
    ),
    ("autograd", "zero-gradient", "the guide's scale gets no gradient"): replace(
        "pyro.infer.autoguide.AutoDiagonalNormal:get_posterior", _numb_scale
    ),
    ("autograd", "does-not-train", "the optimiser does nothing"): replace(
        "pyro.optim.optim.PyroOptim:__call__", lambda _: lambda self, parameters, *_, **__: None
    ),
    ("autograd", "wrong-value", "SVI widens its guide"): replace("pyro.infer.SVI:step", _biased_steps),
    ("sample", "wrong-moments", "HMC stands still"): replace(
        "pyro.infer.HMC:sample", lambda _: lambda self, parameters: parameters
    ),
    ("sample", "wrong-value", "weights 1 percent off"): returns(
        "pyro.distributions.MultivariateNormal:log_prob", scaled(1.01)
    ),
    ("sample", "wrong-value", "the likelier indicator is not chosen"): replace(
        "pyro.infer.discrete:_sample_posterior",
        lambda original: lambda model, dim, temperature, *rest, **more: original(model, dim, 1, *rest, **more),
    ),
    ("sample", "wrong-value", "a scale is forgotten"): replace(
        "pyro.poutine.scale_messenger.ScaleMessenger:_process_message", does_nothing
    ),
    ("sample", "wrong-value", "a replayed draw is drawn anew"): replace(
        "pyro.poutine.replay_messenger.ReplayMessenger:_pyro_sample", does_nothing
    ),
    ("autograd", "wrong-value", "the mean-field bound forgets its divergence"): replace(
        "pyro.infer.trace_mean_field_elbo:kl_divergence",
        lambda original: lambda guide, model: 0 * original(guide, model),
    ),
    ("autograd", "wrong-value", "Renyi's bound 1 percent off"): replace(
        "pyro.infer.RenyiELBO:loss", lambda original: lambda self, *a, **k: 1.01 * original(self, *a, **k)
    ),
    ("autograd", "wrong-value", "the graph's bound 1 percent off"): replace(
        "pyro.infer.TraceGraph_ELBO:loss", lambda original: lambda self, *a, **k: 1.01 * original(self, *a, **k)
    ),
    ("autograd", "wrong-value", "a guide's quantiles are its medians"): replace(
        "pyro.infer.autoguide.AutoNormal:quantiles",
        lambda original: lambda self, quantiles, *a, **k: original(self, [0.5 for _ in quantiles], *a, **k),
    ),
    ("autograd", "wrong-value", "Laplace's covariance is its root"): replace(
        "pyro.infer.autoguide.AutoLaplaceApproximation:laplace_approximation", _wide_guide
    ),
    ("autograd", "wrong-value", "ClippedAdam does not clip"): replace(
        "pyro.optim.clipped_adam.ClippedAdam:step", _unclipped
    ),
    ("autograd", "wrong-value", "a schedule does nothing"): replace(
        "pyro.optim.lr_scheduler.PyroLRScheduler:step", does_nothing
    ),
    ("compile", "not-compiled", "runs eagerly"): eager,
    ("compile", "compile-mismatch", "1 percent off when compiled"): returns(DENSITY, scaled(1.01), when_compiled=True),
    ("compile", "not-finite", "NaN when compiled"): returns(DENSITY, all_nan, when_compiled=True),
    ("compile", "wrong-dtype", "float64 when compiled"): returns(DENSITY, double, when_compiled=True),
    ("compile", "compile-mismatch", "no gradient when compiled"): returns(DENSITY, detached, when_compiled=True),
    ("compile", "compile-mismatch", "a parameter off when compiled"): replace(
        "pyro.nn.PyroModule:__getattr__", _compiled_weight
    ),
}
