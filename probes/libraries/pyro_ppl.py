"""Pyro: probabilistic programs, variational inference and MCMC on torch."""

import math
import os
from typing import Any, Callable, Dict, Tuple

from ..compiling import compiled
from ..evidence import (
    Broken,
    close,
    differentiable,
    falls,
    moments,
    of_shape,
    on_device,
    reached,
    require,
    seeded,
    sound,
)
from ..probe import Probe
from . import _pyro_inference as inference
from ._pyro_models import NOISE, bayesian_layer, clean, conjugate, data, mean_field, network_svi, posterior, regression

DISTRIBUTION = "pyro-ppl"
MODULE = "pyro"
NEEDS = ("torch",)
COVERS = {
    "pyro.sample": "sample/distributions",
    "pyro.plate": "sample/distributions",
    "pyro.param": "autograd/article's regression",
    "pyro.optim.Adam": "autograd/article's regression",
    "pyro.infer.SVI": "autograd/optimum",
    "pyro.infer.Trace_ELBO": "autograd/ELBO",
    "pyro.infer.TraceEnum_ELBO": "autograd/enumeration",
    "pyro.infer.config_enumerate": "autograd/enumeration",
    "pyro.infer.TraceMeanField_ELBO": "autograd/bounds",
    "pyro.infer.TraceGraph_ELBO": "autograd/bounds",
    "pyro.infer.RenyiELBO": "autograd/bounds",
    "pyro.infer.infer_discrete": "sample/discrete",
    "pyro.infer.HMC": "sample/HMC",
    "pyro.infer.Importance": "sample/importance",
    "pyro.infer.Predictive": "sample/predictive",
    "pyro.infer.NUTS": "sample/NUTS",
    "pyro.infer.MCMC": "sample/NUTS",
    "pyro.infer.autoguide.AutoDiagonalNormal": "autograd/Bayesian network",
    "pyro.infer.autoguide.AutoNormal": "autograd/guides",
    "pyro.infer.autoguide.AutoMultivariateNormal": "autograd/guides",
    "pyro.infer.autoguide.AutoDelta": "autograd/guides",
    "pyro.infer.autoguide.AutoLaplaceApproximation": "autograd/guides",
    "pyro.nn.PyroSample": "sample/Bayesian layer",
    "pyro.nn.PyroModule": "compile/network",
    "pyro.nn.PyroParam": "compile/network",
    "pyro.poutine.condition": "compile/model",
    "pyro.poutine.trace": "compile/model",
    "pyro.poutine.scale": "sample/handlers",
    "pyro.poutine.replay": "sample/handlers",
    "pyro.poutine.block": "sample/handlers",
    "pyro.optim.ClippedAdam": "autograd/steps",
    "pyro.optim.ExponentialLR": "autograd/steps",
}

DRAWS = 20_000
STEPS, ARTICLE_STEPS = 300, 1000
"""Steps of the article's regression: 300 show that the ELBO falls as well as 1000, which take seconds of a CPU core."""


def sample(probe: Probe) -> None:
    """Draws have their distributions' moments; NUTS, Predictive and Bayesian layers give their analytic posteriors."""
    import pyro
    import torch
    from pyro import distributions as dist

    def number(value: float) -> Any:
        return torch.tensor(value, device=probe.device)

    with probe.part("distributions"), clean(probe.seed):
        family = {  # name -> distribution, its mean and its standard deviation
            "Normal": (dist.Normal(number(1.0), number(2.0)), 1.0, 2.0),
            "Gamma": (dist.Gamma(number(3.0), number(2.0)), 1.5, math.sqrt(3) / 2),
            "Beta": (dist.Beta(number(2.0), number(3.0)), 0.4, 0.2),
            "Poisson": (dist.Poisson(number(4.0)), 4.0, 2.0),
            "GammaPoisson": (dist.GammaPoisson(number(3.0), number(2.0)), 1.5, 1.5),
            "masked Normal": (
                dist.Normal(number(0.0), number(0.5)).mask(torch.tensor(False, device=probe.device)),
                0.0,
                0.5,
            ),
        }
        for name, (distribution, mean, std) in family.items():
            with pyro.plate("draws", DRAWS):
                drawn = pyro.sample("x", distribution)
            of_shape(drawn, (DRAWS,), f"draws of {name}")
            sound(drawn, number(0.0), f"draws of {name}")
            moments(drawn, mean, std, name)
        unit = dist.Normal(number(0.0), number(1.0)).expand([8])
        seeded(lambda: pyro.sample("x", unit), "pyro.sample", pyro.set_rng_seed)
    with probe.part("predictive"), clean(probe.seed):
        inference.predictive(probe)
    with probe.part("NUTS"), clean(probe.seed):
        inference.chains(probe, "NUTS")
    with probe.part("HMC"), clean(probe.seed):
        # a quarter of the posterior's period, where the next draw hardly depends on the last
        inference.chains(probe, "HMC", 900, trajectory_length=0.17, adapt_mass_matrix=False)
    with probe.part("importance"), clean(probe.seed):
        inference.importance(probe)
    with probe.part("discrete"), clean(probe.seed):
        inference.discrete(probe)
    with probe.part("handlers"), clean(probe.seed):
        inference.handlers(probe)
    with probe.part("Bayesian layer"), clean(probe.seed):
        layer, x = bayesian_layer(probe, DRAWS), probe.randn(1, 3)
        drawn = layer(x)[0]
        sound(drawn, x, "output of a Bayesian layer")
        moments(drawn, 0.0, math.sqrt(float(x.square().sum()) + 1.0), "output of a Bayesian layer")
        seeded(lambda: layer(x), "Bayesian layer", pyro.set_rng_seed)


def autograd(probe: Probe) -> None:
    """The ELBO and its gradient are right, SVI finds the analytic optimum, and the article's regression trains."""
    import torch

    x, y = data(probe, 12, 3, dtype=torch.float64)
    with probe.part("ELBO"), clean(probe.seed):
        _evidence_bound(x, y)
    with probe.part("ELBO gradient"), clean(probe.seed):
        differentiable(_bound(x, y), [x.new_zeros(3) + 0.3, x.new_zeros(3) - 1.0], "Trace_ELBO")
    with probe.part("enumeration"), clean(probe.seed):
        inference.enumeration(probe)
        inference.factors(probe)
    with probe.part("score function"), clean(probe.seed):
        inference.scores(probe)
    with probe.part("bounds"), clean(probe.seed):
        inference.bounds(x, y)
    with probe.part("article's regression"), clean(probe.seed):
        _article(probe)
    with probe.part("guides"), clean(probe.seed):
        inference.guides(probe)
    with probe.part("steps"), clean(probe.seed):
        inference.steps(probe)
    with probe.part("optimum"), clean(probe.seed):
        _optimum(probe)
    with probe.part("Bayesian network"), clean(probe.seed):
        _network_trains(probe)
    with probe.part("memory"):
        _memory(probe)


def _evidence_bound(x: Any, y: Any) -> None:
    """With the exact posterior as guide, every single-sample ELBO equals the log evidence."""
    import pyro
    import torch
    from pyro.infer import Trace_ELBO

    mean, precision = posterior(x, y)

    def exact(x: Any, y: Any) -> None:
        pyro.sample("w", pyro.distributions.MultivariateNormal(mean, precision_matrix=precision))

    covariance = x @ x.T + NOISE**2 * torch.eye(len(x)).to(x)
    log_evidence = torch.distributions.MultivariateNormal(torch.zeros_like(y), covariance).log_prob(y)
    for particles in (1, 3):
        bound = -Trace_ELBO(num_particles=particles).differentiable_loss(conjugate, exact, x, y)
        sound(bound, x, "ELBO")
        close(bound, log_evidence, "ELBO of the exact posterior")


def _bound(x: Any, y: Any) -> Callable[[Any, Any], Any]:
    """The ELBO as a deterministic function of the guide's parameters: each call draws the same numbers."""
    import pyro
    from pyro.infer import Trace_ELBO

    def value(loc: Any, log_scale: Any) -> Any:
        def guide(x: Any, y: Any) -> None:
            pyro.sample("w", pyro.distributions.Normal(loc, log_scale.exp()).to_event(1))

        pyro.set_rng_seed(11)
        return Trace_ELBO(num_particles=4).differentiable_loss(conjugate, guide, x, y)

    return value


def _optimum(probe: Probe) -> None:
    """The mean-field optimum is known: the posterior's mean, and deviations from the diagonal of its precision."""
    import pyro
    import torch
    from pyro.infer import SVI, Trace_ELBO

    x, y = data(probe, 20, 3)
    mean, precision = posterior(x, y)
    elbo = Trace_ELBO(num_particles=32, vectorize_particles=True, max_plate_nesting=1)
    svi = SVI(conjugate, mean_field, pyro.optim.Adam({"lr": 0.05, "betas": (0.9, 0.99)}), elbo)
    steps, kept = 400, []
    for step in range(steps):
        svi.step(x, y)
        if step >= steps // 2:  # the mean of many iterates is far less noisy than the last
            kept.append(torch.stack([pyro.param("loc").detach().clone(), pyro.param("scale").detach().clone()]))
    loc, scale = torch.stack(kept).mean(0)
    sound(loc, x, "loc")
    expected = precision.diagonal().rsqrt()
    off = float(((loc - mean).abs() / expected).max())
    require(off < 0.15, "wrong-value", f"SVI's mean is {off:.2f} posterior deviations off the analytic one")
    close(scale, expected, "SVI's deviations", rtol=0.07, atol=0.0)


def _article(probe: Probe) -> None:
    """Article A: 100 x 784, sigma and the guide's parameters as constrained parameters, Adam at 0.01."""
    import pyro
    from pyro.infer import SVI, Trace_ELBO

    x, y = data(probe, 100, 784)
    steps = ARTICLE_STEPS if probe.full else STEPS
    svi = SVI(regression, mean_field, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    losses = [svi.step(x, y) for _ in range(steps)]
    falls(losses, "SVI", drop=0.3)
    for name, parameter in pyro.get_param_store().named_parameters():
        on_device(parameter, probe.device, name)
    _speed(probe, lambda: svi.step(x, y))


def _speed(probe: Probe, step: Callable[[], Any]) -> None:
    """Claims: an SVI step is 5 to 8 times faster on the GPU than on its host's CPU, which may use one thread or all."""
    import pyro
    import torch
    from pyro.infer import SVI, Trace_ELBO

    here = probe.seconds(step, repeat=20)
    probe.metric("SVI steps per second", 1 / here, "1/s")
    if probe.device.type == "cuda":
        pyro.clear_param_store()
        host = Probe("cpu", probe.seed)
        x, y = data(host, 100, 784)
        svi = SVI(regression, mean_field, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
        before, there = torch.get_num_threads(), {}
        for threads in (1, len(os.sched_getaffinity(0))):
            torch.set_num_threads(threads)
            with probe.uncounted():
                there[threads] = host.seconds(lambda: svi.step(x, y), repeat=20)
        torch.set_num_threads(before)
        said = ", ".join(f"{seconds * 1e3:.2f} ms by {threads}" for threads, seconds in there.items())
        probe.note(f"SVI step on the CPU, by threads: {said}; the faster counts")
        probe.metric("SVI step: CPU/GPU time", min(there.values()) / here, "ratio")


def _memory(probe: Probe) -> None:
    """Claims: a Bayesian network needs about 2.5 times the memory of the plain one in a training step.

    Both take Adam's steps one tensor at a time: all at once, as it does on GPUs unless told, it needs one more copy of
    them.  The largest tensor is ten times what cuBLAS keeps for itself.
    """
    import torch

    inputs, hidden = 8192, 10_240  # 320 MiB
    probe.free_memory(30 * 4 * inputs * hidden)
    x, target = probe.randn(64, inputs), probe.randn(64, 10)

    def plain() -> None:
        network = torch.nn.Sequential(torch.nn.Linear(inputs, hidden), torch.nn.Tanh(), torch.nn.Linear(hidden, 10))
        network.to(probe.device)
        optimiser = torch.optim.Adam(network.parameters(), lr=1e-3, foreach=False)
        for _ in range(2):
            optimiser.zero_grad()
            torch.nn.functional.mse_loss(network(x), target).backward()
            optimiser.step()

    def bayesian() -> None:
        with clean(probe.seed):
            svi = network_svi(probe, (inputs, hidden, 10), foreach=False)
            for _ in range(2):
                svi.step(x, target)

    ratio = (probe.peak_memory(bayesian) or 0) / (probe.peak_memory(plain) or 1)
    probe.metric("peak memory: Bayesian/plain network", ratio, "ratio")


def _network_trains(probe: Probe) -> None:
    """Gradients reach every parameter of the guide of a Bayesian network, and its loss falls."""
    import pyro

    x = probe.randn(32, 2)
    y = (x[:, :1] * x[:, 1:]).sin()
    svi = network_svi(probe, (2, 16, 1))
    losses = [svi.step(x, y) for _ in range(150)]
    falls(losses, "Bayesian network", drop=0.3)
    named: Dict[str, Any] = dict(pyro.get_param_store().named_parameters())
    before = {name: parameter.detach().clone() for name, parameter in named.items()}
    for parameter in named.values():
        parameter.grad = None
    svi.loss_and_grads(svi.model, svi.guide, x, y)
    reached(named, "guide of a Bayesian network")
    svi.step(x, y)
    for name, parameter in named.items():
        require(bool((parameter != before[name]).any()), "does-not-train", f"a step does not move {name}")


def compile(probe: Probe) -> None:
    """Log densities of distributions and of a model, and a PyroModule's forward pass, compile to the eager result."""
    from pyro import distributions as dist
    from pyro import poutine

    def density(x: Any, positive: Any, loc: Any, scale: Any) -> Tuple[Any, ...]:
        normal = dist.Normal(loc, scale).expand(x.shape).to_event(1)
        return normal.log_prob(x), dist.Gamma(scale, scale).mask(True).log_prob(positive)

    def joint(w: Any, x: Any, y: Any) -> Any:
        return poutine.trace(poutine.condition(conjugate, {"w": w})).get_trace(x, y).log_prob_sum()

    with probe.part("distributions"), clean(probe.seed):
        values = [probe.randn(rows, 3, offset=rows) for rows in ((4, 7) if probe.thorough else (4,))]
        points = [(x, x.exp(), probe.randn(3), probe.randn(3, offset=1).exp()) for x in values]
        compiled(probe, density, points, "log density")
    with probe.part("model"), clean(probe.seed):
        inputs = [(probe.randn(3, offset=4), *data(probe, rows, 3)) for rows in (6, 9)]
        compiled(probe, joint, inputs, "model density", backend=probe.heavy_backend)
    with probe.part("network"), clean(probe.seed):
        _compiled_module(probe)


def _compiled_module(probe: Probe) -> None:
    """A PyroModule's forward pass must compile; the whole module may fall back to eager, which Pyro 1.9 does."""
    import torch
    from pyro.nn import PyroModule, PyroParam
    from torch.distributions import constraints

    class Layer(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.weight = PyroParam(probe.randn(3, 2).exp(), constraint=constraints.positive)
            self.bias = torch.nn.Parameter(probe.randn(2, offset=1))

        def forward(self, x: Any) -> Any:
            return torch.tanh(x @ self.weight + self.bias)

    layer = Layer()
    inputs = [(probe.randn(rows, 3, offset=rows),) for rows in (4, 7)]
    compiled(probe, layer.forward, inputs, "PyroModule.forward", dict(layer.named_parameters()))
    try:
        compiled(probe, layer, inputs, "PyroModule", dict(layer.named_parameters()))
    except Broken as error:
        if error.code != "not-compiled":
            raise
        probe.note("torch.compile(PyroModule) runs eagerly; torch.compile of its forward method does not")
