"""GPyTorch: Gaussian processes, exact and variational."""

from typing import Any, Tuple

from ..compiling import compiled
from ..evidence import close, differentiable, moments, of_shape, reached, require, seeded, sound
from ..probe import Probe
from . import _gpytorch_parts as parts
from ._small import learns

DISTRIBUTION = "gpytorch"
MODULE = "gpytorch"
NEEDS = ("torch",)
COVERS = {
    "gpytorch.models.ExactGP": "sample/posterior",
    "gpytorch.likelihoods.GaussianLikelihood": "sample/posterior",
    "gpytorch.distributions.MultivariateNormal": "sample/prior draws",
    "gpytorch.kernels.RBFKernel": "sample/prior draws",
    "gpytorch.kernels.ScaleKernel": "sample/prior draws",
    "gpytorch.settings.max_cholesky_size": "sample/conjugate gradients",
    "gpytorch.mlls.ExactMarginalLogLikelihood": "autograd/marginal likelihood",
    "gpytorch.means.ConstantMean": "autograd/marginal likelihood",
    "gpytorch.mlls.VariationalELBO": "autograd/variational bound",
    "gpytorch.models.ApproximateGP": "autograd/variational training",
    "gpytorch.variational.VariationalStrategy": "autograd/variational training",
    "gpytorch.variational.CholeskyVariationalDistribution": "autograd/variational training",
    "gpytorch.kernels.MaternKernel": "autograd/kernels",
    "gpytorch.kernels.PeriodicKernel": "autograd/kernels",
    "gpytorch.kernels.RQKernel": "autograd/kernels",
    "gpytorch.kernels.LinearKernel": "autograd/kernels",
    "gpytorch.kernels.PolynomialKernel": "autograd/kernels",
    "gpytorch.kernels.CosineKernel": "autograd/kernels",
    "gpytorch.kernels.SpectralMixtureKernel": "autograd/kernels",
    "gpytorch.kernels.AdditiveKernel": "autograd/kernels",
    "gpytorch.kernels.ProductKernel": "autograd/kernels",
    "gpytorch.means.LinearMean": "autograd/objectives",
    "gpytorch.likelihoods.BernoulliLikelihood": "sample/likelihoods",
    "gpytorch.likelihoods.FixedNoiseGaussianLikelihood": "sample/likelihoods",
    "gpytorch.likelihoods.MultitaskGaussianLikelihood": "sample/likelihoods",
    "gpytorch.mlls.PredictiveLogLikelihood": "autograd/variational bound",
    "gpytorch.mlls.LeaveOneOutPseudoLikelihood": "autograd/objectives",
    "gpytorch.models.ExactGP.get_fantasy_model": "sample/further data",
    "gpytorch.priors.GammaPrior": "autograd/objectives",
    "gpytorch.constraints.Interval": "autograd/objectives",
}

DRAWS = 20_000
LENGTH, SCALE, NOISE = 0.4, 1.3, 0.1
"""Kernel length and output scale, and the variance of the noise."""


def _dense(operator: Any) -> Any:
    """The tensor behind a lazy one; `to_dense` was called `evaluate` before GPyTorch 1.9."""
    return operator.to_dense() if hasattr(operator, "to_dense") else operator.evaluate()


def _rbf(x: Any, z: Any) -> Any:
    """The kernel by its formula."""
    return SCALE * (-0.5 * ((x[:, None] - z[None]) / LENGTH).square().sum(-1)).exp()


def _kernel(probe: Probe, dtype: Any) -> Any:
    import gpytorch

    kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel()).to(probe.device, dtype)
    kernel.outputscale, kernel.base_kernel.lengthscale = SCALE, LENGTH
    return kernel


def _model(probe: Probe, dtype: Any, rows: int = 12) -> Tuple[Any, Any, Any, Any]:
    """An exact GP with fixed hyperparameters, its likelihood and its training data."""
    import gpytorch

    x, noise = probe.randn(rows, 2, dtype=dtype), probe.randn(rows, offset=1, dtype=dtype)
    y = x.sin().sum(-1) + NOISE**0.5 * noise

    class Exact(gpytorch.models.ExactGP):
        def __init__(self, likelihood: Any) -> None:
            super().__init__(x, y, likelihood)
            self.mean_module = gpytorch.means.ConstantMean()
            self.covar_module = _kernel(probe, dtype)

        def forward(self, x: Any) -> Any:
            return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))

    likelihood = gpytorch.likelihoods.GaussianLikelihood().to(probe.device, dtype)
    likelihood.noise = NOISE
    return Exact(likelihood).to(probe.device, dtype), likelihood, x, y


def _posterior(x: Any, y: Any, z: Any) -> Tuple[Any, Any]:
    """Mean and covariance of the function at z, by the textbook."""
    import torch

    gain = torch.linalg.solve(_rbf(x, x) + NOISE * torch.eye(len(x)).to(x), _rbf(x, z)).T
    return gain @ y, _rbf(z, z) - gain @ _rbf(x, z)


def _draws(distribution: Any, mean: Any, covariance: Any, what: str) -> None:
    """Draws have this mean and, once whitened, unit deviations: a wrong correlation shows as well as a wrong scale."""
    import torch

    drawn = distribution.rsample(torch.Size([DRAWS]))
    of_shape(drawn, (DRAWS, len(mean)), f"draws of {what}")
    sound(drawn, mean, f"draws of {what}")
    moments(drawn, mean, covariance.diagonal().sqrt(), what)
    white = torch.linalg.solve(torch.linalg.cholesky(covariance), (drawn - mean).detach().T).T
    moments(white, torch.zeros_like(mean), torch.ones_like(mean), f"whitened {what}")
    seeded(lambda: distribution.rsample(), what, torch.manual_seed)


def sample(probe: Probe) -> None:
    """The posterior is the closed form, by Cholesky and by conjugate gradients, and its draws have its moments."""
    import gpytorch
    import torch

    z = probe.randn(5, 2, offset=2, dtype=torch.float64)
    torch.manual_seed(probe.seed)
    with probe.part("prior draws"):
        for dtype in (torch.float32, torch.float64):
            point = z.to(dtype)
            prior = gpytorch.distributions.MultivariateNormal(point.sum(-1), _kernel(probe, dtype)(point))
            _draws(prior, point.sum(-1), _rbf(point, point), f"a prior in {dtype}")
    with probe.part("posterior"), torch.no_grad():
        model, likelihood, x, y = _model(probe, torch.float64)
        mean, covariance = _posterior(x, y, z)
        posterior = model.eval()(z)
        sound(posterior.mean, z, "posterior mean")
        close(posterior.mean, mean, "posterior mean", atol=1e-6)  # GPyTorch adds jitter of its own
        sound(posterior.covariance_matrix, z, "posterior covariance")
        close(posterior.covariance_matrix, covariance, "posterior covariance", atol=1e-6)
        observed = likelihood.eval()(posterior)
        sound(observed.variance, z, "predictive variance")
        close(observed.variance, covariance.diagonal() + NOISE, "predictive variance", atol=1e-6)
    with probe.part("algorithms"), torch.no_grad():
        parts.algorithms(model, z, mean, covariance)
    with probe.part("posterior draws"), torch.no_grad():
        _draws(model(z), mean, covariance, "the posterior")
    with probe.part("further data"), torch.no_grad():
        more, new = probe.randn(3, 2, offset=5, dtype=torch.float64), probe.randn(3, offset=6, dtype=torch.float64)
        seen = model.get_fantasy_model(more, new)(z)
        mean, covariance = _posterior(torch.cat([x, more]), torch.cat([y, new]), z)
        close(seen.mean, mean, "posterior mean given further data", rtol=1e-4, atol=1e-5)
        close(seen.covariance_matrix, covariance, "posterior covariance given further data", rtol=1e-4, atol=1e-5)
    with probe.part("likelihoods"), torch.no_grad():
        parts.likelihoods(probe)
    with probe.part("distributions"), torch.no_grad():
        parts.distributions(probe)
    with probe.part("batches"), torch.no_grad():
        parts.batches(probe)
    with probe.part("single precision"), torch.no_grad():
        model, _, x, y = _model(probe, torch.float32)
        posterior, points = model.eval()(z.float()), z.float()
        sound(posterior.mean, points, "posterior mean")
        sound(posterior.variance, points, "posterior variance")
        mean, covariance = _posterior(x.double(), y.double(), z)
        close(posterior.mean, mean, "posterior mean", rtol=1e-3, atol=1e-4)
        close(posterior.variance, covariance.diagonal(), "posterior variance", rtol=1e-3, atol=1e-3)
    with probe.part("conjugate gradients"), torch.no_grad():
        model, _, x, y = _model(probe, torch.float64, rows=60)
        settings = gpytorch.settings
        with settings.max_cholesky_size(1), settings.eval_cg_tolerance(1e-6), settings.max_preconditioner_size(0):
            seen = model.eval()(z).mean
            sound(seen, z, "posterior mean by conjugate gradients")
            close(seen, _posterior(x, y, z)[0], "posterior mean by conjugate gradients", rtol=1e-4, atol=1e-4)


def autograd(probe: Probe) -> None:
    """The marginal likelihood is the closed form, its gradient reaches every hyperparameter, and both GPs train."""
    import gpytorch
    import torch

    with probe.part("marginal likelihood"):
        model, likelihood, x, y = _model(probe, torch.float64)
        objective = _objective(model.train(), likelihood.train(), x, y)
        value = objective()
        sound(value, x, "marginal log likelihood")
        covariance = _rbf(x, x) + NOISE * torch.eye(len(x)).to(x)
        reference = torch.distributions.MultivariateNormal(torch.zeros_like(y), covariance).log_prob(y) / len(y)
        close(value, reference, "marginal log likelihood", rtol=1e-6)
        require(value.requires_grad, "no-gradient", "marginal log likelihood is detached")
        value.backward()
        named = dict(model.named_parameters())
        reached(named, "marginal log likelihood")
        differentiable(
            lambda *values: _call(objective, {"model." + name: v for name, v in zip(named, values)}),
            list(named.values()),
            "marginal log likelihood",
        )
    with probe.part("kernels"):
        parts.kernels(probe, _dense)
    with probe.part("objectives"):
        parts.objectives(probe, *_model(probe, torch.float64))
    with probe.part("variational bound"):
        parts.variational(probe, *_variational(probe), _dense)
    with probe.part("exact training"):
        model, likelihood, x, y = _model(probe, torch.float32, rows=40)
        model.covar_module.outputscale, likelihood.noise = 5.0, 2.0
        objective = _objective(model.train(), likelihood.train(), x, y)
        learns(model, lambda: -objective(), "exact GP", rate=0.1, drop=0.1)
    with probe.part("variational training"):
        model, likelihood = _variational(probe)
        x = probe.randn(60, 2)
        y = x.sin().sum(-1) + 0.1 * probe.randn(60, offset=1)
        bound = gpytorch.mlls.VariationalELBO(likelihood.train(), model.train(), num_data=len(y))
        joint = torch.nn.ModuleList([model, likelihood])
        learns(joint, lambda: -bound(model(x), y), "variational GP", steps=80, rate=0.1, drop=0.1)


def _objective(model: Any, likelihood: Any, x: Any, y: Any) -> Any:
    """The marginal log likelihood as a module without inputs."""
    import gpytorch
    import torch

    class Objective(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model
            self.likelihood = gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, model)

        def forward(self) -> Any:
            return self.likelihood(self.model(x), y)

    return Objective()


def _call(module: Any, named: Any) -> Any:
    """The module on other tensors in the place of its parameters."""
    try:
        from torch.func import functional_call
    except ImportError:  # torch 1.13
        from torch.nn.utils.stateless import functional_call
    return functional_call(module, named, ())


def _variational(probe: Probe) -> Tuple[Any, Any]:
    """A sparse variational GP with 12 inducing points that are learned."""
    import gpytorch
    from gpytorch import variational

    class Sparse(gpytorch.models.ApproximateGP):
        def __init__(self) -> None:
            start = probe.randn(12, 2, offset=3)
            spread = variational.CholeskyVariationalDistribution(len(start))
            super().__init__(variational.VariationalStrategy(self, start, spread, learn_inducing_locations=True))
            self.mean_module = gpytorch.means.ConstantMean()
            self.covar_module = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel())

        def forward(self, x: Any) -> Any:
            return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))

    return Sparse().to(probe.device), gpytorch.likelihoods.GaussianLikelihood().to(probe.device)


def compile(probe: Probe) -> None:
    """A kernel, with its gradients, and the prediction of an exact GP compile to the eager result."""
    import torch

    kernel = _kernel(probe, torch.float32)
    sizes = (5, 8) if probe.thorough else (5,)  # of 7 s each on a CPU core
    points = [(probe.randn(rows, 2, offset=rows), probe.randn(4, 2, offset=1)) for rows in sizes]

    def covariance(x: Any, z: Any) -> Any:
        return _dense(kernel(x, z))

    with probe.part("kernel"):  # inductor would make ten kernels of each shape, backwards included
        parameters = dict(kernel.named_parameters())
        compiled(probe, covariance, points, "kernel", parameters, backend=probe.heavy_backend)
    with probe.part("kernel without gradients"):
        kernel.requires_grad_(False)
        plain = kernel if probe.thorough else kernel.base_kernel  # of four graphs, not six: each is a run of g++
        compiled(probe, lambda x, z: _dense(plain(x, z)), points[:1], "kernel without gradients", backward=False)
    with probe.part("prediction"):
        model, _, _, _ = _model(probe, torch.float64)

        def predict(z: Any) -> Tuple[Any, Any]:
            posterior = model(z)
            return posterior.mean, posterior.variance

        model.eval().requires_grad_(False)
        # One shape: the first prediction breaks into some fifty graphs.  What is at risk is how Dynamo cuts it up; the
        # kernel has been through inductor.
        place = probe.randn(3, 2, dtype=torch.float64)
        compiled(probe, predict, [(place,)], "prediction", backend=probe.broken_backend, atol=1e-6)
