"""Pyro models that its probes share: Bayesian linear regression, with its analytic posterior, and Bayesian networks."""

import contextlib
from typing import Any, Iterator, Tuple

from ..probe import Probe

NEEDS = ("torch", "pyro")

NOISE = 0.5
"""Standard deviation of the observations in the conjugate regression, known to the model."""


@contextlib.contextmanager
def clean(seed: int) -> Iterator[None]:
    """Seeded, with an empty parameter store before and after: the store is global, and stacks share a process."""
    import pyro

    pyro.clear_param_store()
    pyro.set_rng_seed(seed)
    try:
        yield
    finally:
        pyro.clear_param_store()


def data(probe: Probe, rows: int, columns: int, dtype: Any = None) -> Tuple[Any, Any]:
    """Inputs and noisy observations of a linear function."""
    x = probe.randn(rows, columns, offset=1, dtype=dtype)
    return x, x @ probe.randn(columns, offset=2, dtype=dtype) + NOISE * probe.randn(rows, offset=3, dtype=dtype)


def posterior(x: Any, y: Any) -> Tuple[Any, Any]:
    """Analytic mean and precision of the weights: standard normal prior, observations with deviation NOISE."""
    import torch

    precision = torch.eye(x.shape[1]).to(x) + x.T @ x / NOISE**2
    return torch.linalg.solve(precision, x.T @ y / NOISE**2), precision


def regression(x: Any, y: Any, sigma: Any = None) -> Any:
    """Bayesian linear regression; the noise is a constrained parameter unless it is given."""
    import pyro
    import torch
    from torch.distributions import constraints

    if sigma is None:
        sigma = pyro.param("sigma", torch.ones((), device=x.device), constraint=constraints.positive)
    zero = torch.zeros_like(x[0])
    w = pyro.sample("w", pyro.distributions.Normal(zero, torch.ones_like(zero)).to_event(1))
    with pyro.plate("data", len(x)):
        return pyro.sample("y", pyro.distributions.Normal((x * w).sum(-1), sigma), obs=y)


def conjugate(x: Any, y: Any) -> Any:
    """The regression with known noise, whose posterior is a normal."""
    return regression(x, y, sigma=x.new_tensor(NOISE))


def mean_field(x: Any, y: Any) -> None:
    """The article's guide: an independent normal for each weight, its parameters constrained as they must be."""
    import pyro
    import torch
    from torch.distributions import constraints

    loc = pyro.param("loc", torch.zeros_like(x[0]))
    scale = pyro.param("scale", torch.full_like(x[0], 0.3), constraint=constraints.positive)
    pyro.sample("w", pyro.distributions.Normal(loc, scale).to_event(1))


def bayesian(network: Any) -> Any:
    """The network with standard normal priors on all its parameters: each call draws them anew."""
    import pyro
    import torch
    from pyro import distributions as dist

    def prior(parameter: Any) -> Any:
        return dist.Normal(torch.zeros_like(parameter), torch.ones_like(parameter)).to_event(parameter.dim())

    try:
        from pyro.nn.module import PyroSample, to_pyro_module_
    except ImportError:  # before Pyro 1.1
        priors = {name: prior(parameter.detach()) for name, parameter in network.named_parameters()}
        lifted = pyro.random_module("network", network, priors)
        return lambda x: lifted()(x)
    to_pyro_module_(network)
    for module in network.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, PyroSample(prior(parameter)))
    return network


def bayesian_layer(probe: Probe, units: int) -> Any:
    """A linear layer of three inputs with standard normal priors: each unit is one draw of the same kind."""
    import torch

    return bayesian(torch.nn.Linear(3, units).to(probe.device))


def network_svi(probe: Probe, sizes: Tuple[int, int, int], **adam: Any) -> Any:
    """SVI for a network whose weights all have normal priors, with a mean-field guide made by Pyro; Adam by options."""
    import pyro
    import torch
    from pyro import distributions as dist
    from pyro.infer import SVI, Trace_ELBO
    from pyro.infer.autoguide import AutoDiagonalNormal

    layers = torch.nn.Linear(sizes[0], sizes[1]), torch.nn.Tanh(), torch.nn.Linear(sizes[1], sizes[2])
    network = bayesian(torch.nn.Sequential(*layers).to(probe.device))

    def model(x: Any, y: Any) -> None:
        mean = network(x)  # outside of the plate: one draw of the weights for all rows
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(mean, torch.full_like(y, 0.1)).to_event(1), obs=y)

    try:
        guide = AutoDiagonalNormal(model, init_scale=0.01)
    except TypeError:  # before Pyro 1.0 it begins with a scale of 1
        guide = AutoDiagonalNormal(model)
    return SVI(model, guide, pyro.optim.Adam({"lr": 0.02, **adam}), Trace_ELBO())
