"""Pyro models that its probes share: Bayesian linear regression, with its analytic posterior, and Bayesian networks."""

import contextlib
from typing import Any, Iterator, Tuple

from ..evidence import NotApplicable, Probe

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


def modules() -> Tuple[Any, Any, Any]:
    """PyroModule, PyroSample and to_pyro_module_, with which networks become Bayesian since Pyro 1.3."""
    try:
        from pyro.nn.module import PyroModule, PyroSample, to_pyro_module_
    except ImportError:
        raise NotApplicable("this Pyro has no PyroModule (1.3 and newer have)") from None
    return PyroModule, PyroSample, to_pyro_module_


def bayesian_layer(probe: Probe, units: int) -> Any:
    """A linear layer of three inputs with standard normal priors: each unit is one draw of the same kind."""
    import torch
    from pyro import distributions as dist

    PyroModule, PyroSample, _ = modules()
    unit = dist.Normal(torch.zeros((), device=probe.device), torch.ones((), device=probe.device))
    layer = PyroModule[torch.nn.Linear](3, units).to(probe.device)
    layer.weight = PyroSample(unit.expand([units, 3]).to_event(2))
    layer.bias = PyroSample(unit.expand([units]).to_event(1))
    return layer


def network_svi(probe: Probe, sizes: Tuple[int, int, int]) -> Any:
    """SVI for a network whose weights all have normal priors, with a mean-field guide made by Pyro."""
    import pyro
    import torch
    from pyro import distributions as dist
    from pyro.infer import SVI, Trace_ELBO
    from pyro.infer.autoguide import AutoDiagonalNormal

    _, PyroSample, to_pyro_module_ = modules()
    network = torch.nn.Sequential(
        torch.nn.Linear(sizes[0], sizes[1]), torch.nn.Tanh(), torch.nn.Linear(sizes[1], sizes[2])
    ).to(probe.device)
    to_pyro_module_(network)
    for module in network.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            prior = dist.Normal(torch.zeros_like(parameter), torch.ones_like(parameter))
            setattr(module, name, PyroSample(prior.to_event(parameter.dim())))

    def model(x: Any, y: Any) -> None:
        mean = network(x)  # outside of the plate: one draw of the weights for all rows
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(mean, torch.full_like(y, 0.1)).to_event(1), obs=y)

    return SVI(model, AutoDiagonalNormal(model, init_scale=0.01), pyro.optim.Adam({"lr": 0.02}), Trace_ELBO())
