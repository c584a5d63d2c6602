"""What GPyTorch's models are built from, by formula: kernels, means, likelihoods, objectives, priors, constraints."""

import math
import operator
from typing import Any, Callable, Dict, Tuple

from ..evidence import close, moments, reached, require, sound
from ..probe import Probe

NEEDS = ("torch", "gpytorch", "linear_operator")


def _apart(x: Any, z: Any) -> Any:
    return x[:, None] - z[None]


def _scaled(kernel: Any, x: Any, z: Any) -> Any:
    """Distances in units of the length scales."""
    return ((_apart(x, z) / kernel.lengthscale).square().sum(-1) + 1e-30).sqrt()


def _matern(kernel: Any, x: Any, z: Any) -> Any:
    d = math.sqrt(2 * kernel.nu) * _scaled(kernel, x, z)
    return {0.5: 1.0, 1.5: 1 + d, 2.5: 1 + d + d.square() / 3}[kernel.nu] * (-d).exp()


def _mixture(kernel: Any, x: Any, z: Any) -> Any:
    """In each dimension a sum of its own, as GPyTorch has it; and the product of these sums."""
    lag = _apart(x, z)[..., None, :]
    scales, means = kernel.mixture_scales[:, 0], kernel.mixture_means[:, 0]
    each = (-2 * math.pi**2 * (lag * scales).square()).exp() * (2 * math.pi * lag * means).cos()
    return (each * kernel.mixture_weights[:, None]).sum(-2).prod(-1)


def _periodic(kernel: Any, x: Any, z: Any) -> Any:
    waves = (math.pi * _apart(x, z) / kernel.period_length).sin().square()
    return (-2 * (waves / kernel.lengthscale).sum(-1)).exp()


def _cosine(kernel: Any, x: Any, z: Any) -> Any:
    return (math.pi * (_apart(x, z).square().sum(-1) + 1e-30).sqrt() / kernel.period_length).cos()


def _rbf(kernel: Any, x: Any, z: Any) -> Any:
    return (-0.5 * (_apart(x, z) / kernel.lengthscale).square().sum(-1)).exp()


def _rational(kernel: Any, x: Any, z: Any) -> Any:
    return (1 + (_apart(x, z) / kernel.lengthscale).square().sum(-1) / (2 * kernel.alpha)) ** (-kernel.alpha)


def _of_kernels(join: Callable[[Any, Any], Any]) -> Callable[[Any, Any, Any], Any]:
    return lambda kernel, x, z: join(_rbf(kernel.kernels[0], x, z), _matern(kernel.kernels[1], x, z))


def _kernels(gpytorch: Any) -> Dict[str, Tuple[Any, Callable[[Any, Any, Any], Any]]]:
    """Name -> kernel and its formula."""
    known = gpytorch.kernels
    table = {f"MaternKernel of {nu}": (known.MaternKernel(nu, ard_num_dims=2), _matern) for nu in (0.5, 1.5, 2.5)}
    sums, products = ((known.RBFKernel(ard_num_dims=2), known.MaternKernel(1.5)) for _ in range(2))
    return {
        **table,
        "RBFKernel": (known.RBFKernel(ard_num_dims=2), _rbf),
        "PeriodicKernel": (known.PeriodicKernel(ard_num_dims=2), _periodic),
        "RQKernel": (known.RQKernel(ard_num_dims=2), _rational),
        "LinearKernel": (known.LinearKernel(), lambda kernel, x, z: kernel.variance * (x @ z.T)),
        "PolynomialKernel": (known.PolynomialKernel(3), lambda kernel, x, z: (x @ z.T + kernel.offset) ** 3),
        "CosineKernel": (known.CosineKernel(), _cosine),
        "SpectralMixtureKernel": (known.SpectralMixtureKernel(2, ard_num_dims=2), _mixture),
        "AdditiveKernel": (known.AdditiveKernel(*sums), _of_kernels(operator.add)),
        "ProductKernel": (known.ProductKernel(*products), _of_kernels(operator.mul)),
    }


def kernels(probe: Probe, dense: Callable[[Any], Any]) -> None:
    """Each kernel, its diagonal, and its gradients in inputs and parameters, in float32 and float64."""
    import gpytorch
    import torch

    for dtype in (torch.float32, torch.float64):
        x, z = (probe.randn(rows, 2, offset=rows, dtype=dtype) for rows in (5, 4))
        weight = probe.randn(5, 4, offset=1, dtype=dtype)
        for number, (name, (kernel, formula)) in enumerate(_kernels(gpytorch).items()):
            kernel = kernel.to(probe.device, dtype)
            with torch.no_grad():
                for parameter in kernel.parameters():
                    parameter.copy_(0.3 * probe.randn(*parameter.shape, offset=number))
            leaves = [x.clone().requires_grad_(), z.clone().requires_grad_(), *kernel.parameters()]
            seen, expected = dense(kernel(*leaves[:2])), formula(kernel, *leaves[:2])
            what, error = f"{name} in {dtype}", 1e-3 if dtype == torch.float32 else 1e-7
            sound(seen, x, what)
            close(seen, expected, what, rtol=error, atol=error)
            close(kernel(x, diag=True), formula(kernel, x, x).diagonal(), f"diagonal of {what}", rtol=error, atol=error)
            require(seen.requires_grad, "no-gradient", f"{what} is detached")
            pair = [torch.autograd.grad((k * weight).sum(), leaves) for k in (seen, expected)]
            for index, (left, right) in enumerate(zip(*pair)):
                close(
                    left, right, f"gradient {index} of {what}", rtol=10 * error, atol=10 * error, code="wrong-gradient"
                )


def likelihoods(probe: Probe) -> None:
    """Noise of each kind is added to the covariance; a Bernoulli's probability is the probit's, averaged."""
    import gpytorch
    import torch

    known = gpytorch.likelihoods
    mean, root = (probe.randn(*shape, offset=n, dtype=torch.float64) for n, shape in enumerate(((3,), (3, 3))))
    covariance = root @ root.T + 0.1 * torch.eye(3).to(root)
    latent = gpytorch.distributions.MultivariateNormal(mean, covariance)
    noise = probe.randn(3, offset=2, dtype=torch.float64).exp()
    seen = known.FixedNoiseGaussianLikelihood(noise)(latent)
    close(seen.covariance_matrix, covariance + noise.diag(), "covariance under fixed noise", atol=1e-6)
    several = known.MultitaskGaussianLikelihood(num_tasks=2).to(probe.device, torch.float64)
    several.task_noises, several.noise = torch.tensor([0.2, 0.7], device=probe.device), 0.3
    tasks = gpytorch.distributions.MultitaskMultivariateNormal.from_independent_mvns([latent, latent])
    seen = several(tasks)
    expected = torch.stack([covariance.diagonal() + 0.5, covariance.diagonal() + 1.0], 1)
    close(seen.variance, expected, "variance of two tasks", atol=1e-6)
    bernoulli = known.BernoulliLikelihood().to(probe.device)  # its quadrature holds a buffer
    spread = covariance.diagonal()
    probit = torch.special.ndtr(mean / (1 + spread).sqrt())
    close(bernoulli(latent).mean, probit, "probability under a Bernoulli", rtol=1e-4)
    truth = torch.tensor([1.0, 0.0, 1.0], device=probe.device, dtype=torch.float64)
    grid = torch.linspace(-8, 8, 4001, dtype=torch.float64, device=probe.device)
    density = (-0.5 * grid.square()).exp() / math.sqrt(2 * math.pi)
    values = torch.special.log_ndtr((2 * truth - 1)[:, None] * (mean[:, None] + spread.sqrt()[:, None] * grid))
    expected = (values * density).sum(1) * 16 / 4000
    close(bernoulli.expected_log_prob(truth, latent), expected, "expected log density of a Bernoulli", rtol=1e-2)


def objectives(probe: Probe, model: Any, likelihood: Any, x: Any, y: Any) -> None:
    """Leave-one-out likelihood, a prior's share of the marginal one, and conditioning on further data."""
    import gpytorch
    import torch

    model.train()
    likelihood.train()
    prior = model(x)
    whole = prior.covariance_matrix + likelihood.noise * torch.eye(len(x)).to(x)
    inverse, off = torch.linalg.inv(whole), y - prior.mean
    spread = 1 / inverse.diagonal()
    expected = torch.distributions.Normal(y - inverse @ off * spread, spread.sqrt()).log_prob(y).mean()
    seen = gpytorch.mlls.LeaveOneOutPseudoLikelihood(likelihood, model)(model(x), y)
    sound(seen, x, "leave-one-out likelihood")
    close(seen, expected, "leave-one-out likelihood", rtol=1e-5, atol=1e-5)
    objective = gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, model)
    before = objective(model(x), y)
    plain = model.covar_module
    first, second = (gpytorch.priors.GammaPrior(2.0, 3.0) for _ in range(2))  # GPyTorch 1.9 counts a shared one once
    kernel = gpytorch.kernels.RBFKernel(ard_num_dims=2, lengthscale_prior=first)
    model.covar_module = gpytorch.kernels.ScaleKernel(kernel, outputscale_prior=second).to(x)
    kernel.lengthscale, model.covar_module.outputscale = plain.base_kernel.lengthscale, plain.outputscale
    values = torch.cat([kernel.lengthscale.flatten(), plain.outputscale.reshape(1)])
    share = (2 * math.log(3) + values.log() - 3 * values).sum() / len(y)
    close(objective(model(x), y) - before, share, "the priors' share of the likelihood", rtol=1e-5, atol=1e-6)
    raw = probe.randn(4, dtype=torch.float64)
    for constraint, expected in (
        (gpytorch.constraints.Interval(0.5, 2.0), 0.5 + 1.5 * raw.sigmoid()),
        (gpytorch.constraints.GreaterThan(0.1), 0.1 + raw.exp().log1p()),
    ):
        close(constraint.transform(raw), expected, "a constrained parameter", rtol=1e-6)
        close(constraint.inverse_transform(expected), raw, "the raw parameter", rtol=1e-5, atol=1e-6)
    bounded = gpytorch.means.ConstantMean(gpytorch.priors.NormalPrior(0.5, 2.0), gpytorch.constraints.Interval(-1, 3))
    model.covar_module, model.mean_module = plain, bounded.to(x)
    bounded.constant = torch.tensor(1.7).to(x)
    close(bounded(x), torch.full_like(y, 1.7), "a mean within bounds", rtol=1e-6)
    sole, with_prior = torch.distributions.MultivariateNormal(bounded(x), whole), objective(model(x), y)
    share = torch.distributions.Normal(0.5, 2.0).log_prob(bounded.constant)
    close(with_prior, (sole.log_prob(y) + share) / len(y), "likelihood with a prior of the mean", rtol=1e-5, atol=1e-6)
    linear = gpytorch.means.LinearMean(2).to(x)
    close(linear(x), (x @ linear.weights + linear.bias).reshape(-1), "LinearMean")


def variational(probe: Probe, model: Any, likelihood: Any, dense: Callable[[Any], Any]) -> None:
    """The bound, and its sibling for predictions, from the textbook's mean and variance at minibatches."""
    import gpytorch
    import torch

    model, likelihood = model.double().train(), likelihood.double().train()
    strategy, noise = model.variational_strategy, 0.3
    likelihood.noise = noise
    guide = strategy._variational_distribution
    with torch.no_grad():
        strategy.variational_params_initialized.fill_(1)
        guide.variational_mean.copy_(probe.randn(12, dtype=torch.float64))
        guide.chol_variational_covar.copy_(probe.randn(12, 12, offset=1, dtype=torch.float64).tril() * 0.3)
    x, y = probe.randn(7, 2, offset=2, dtype=torch.float64), probe.randn(7, offset=4, dtype=torch.float64)
    kernel, points = model.covar_module, strategy.inducing_points
    cross, inner = dense(kernel(points, x)), dense(kernel(points))
    jitter = float(getattr(strategy, "jitter_val", 1e-3))  # before GPyTorch 1.9 a constant
    gain = torch.linalg.solve(torch.linalg.cholesky(inner + jitter * torch.eye(12).to(x)), cross)
    root, center = guide.chol_variational_covar.tril(), guide.variational_mean
    mean = gain.T @ center
    spread = kernel(x, diag=True) + ((root.T @ gain).square() - gain.square()).sum(0)
    divergence = 0.5 * (root.square().sum() + center.square().sum() - 12) - root.diagonal().abs().log().sum()
    normal, tau = torch.distributions.Normal, 2 * math.pi * noise
    wanted = {
        "VariationalELBO": -0.5 * (math.log(tau) + ((y - mean).square() + spread) / noise).mean(),
        "PredictiveLogLikelihood": normal(mean, (spread + noise).sqrt()).log_prob(y).mean(),
    }
    for name, expected in wanted.items():
        bound = getattr(gpytorch.mlls, name)(likelihood, model, num_data=21, beta=0.5)
        model.zero_grad()
        seen = bound(model(x), y)
        close(seen, expected - 0.5 * divergence / 21, name, rtol=1e-3, atol=1e-3)
        require(seen.requires_grad, "no-gradient", f"{name} is detached")
        seen.backward()
        reached(dict(model.named_parameters()), name)
    start, many = gpytorch.variational.CholeskyVariationalDistribution(400, mean_init_std=0.5).to(x), torch.arange(400)
    prior = gpytorch.distributions.MultivariateNormal(many.to(x), 4 * torch.eye(400).to(x))
    start.initialize_variational_distribution(prior)
    moments(start.variational_mean - many.to(x), 0.0, 0.5, "first values of the inducing values")
    close(start().covariance_matrix.diagonal(), torch.full((400,), 4.0).to(x), "their first variances", rtol=1e-5)
    strategy._variational_distribution = gpytorch.variational.DeltaVariationalDistribution(12).to(x)
    with torch.no_grad():
        strategy._variational_distribution.variational_mean.copy_(center)
    seen, spread = model(x), kernel(x, diag=True) - gain.square().sum(0)
    close(seen.mean, mean, "mean of a GP at a point of the inducing values", rtol=1e-3, atol=1e-3)
    close(seen.variance, spread, "variance of a GP at a point of the inducing values", rtol=1e-3, atol=1e-3)


def covariances(covariance: Any) -> Any:
    """The lazy operator of a covariance matrix; until GPyTorch 1.8 its own, then that of linear_operator."""
    try:
        from linear_operator import to_linear_operator as lazify
    except ImportError:
        from gpytorch import lazify
    return lazify(covariance)


def distributions(probe: Probe) -> None:
    """Densities, divergences, sums, multiples and shares of normals, one and a batch of them, by torch's own."""
    import gpytorch
    import torch

    mean, root = (probe.randn(2, *shape, offset=n, dtype=torch.float64) for n, shape in enumerate(((3,), (3, 3))))
    covariance = root @ root.transpose(-1, -2) + torch.eye(3).to(root)
    make, normal = gpytorch.distributions.MultivariateNormal, torch.distributions.MultivariateNormal
    lazy = covariances(covariance)  # in GPyTorch 1.11 `expand` fails where a tensor was given
    batch, one = make(mean, lazy), make(-mean[0], lazy[1])
    exact, single = normal(mean, covariance), normal(-mean[0], covariance[1])
    divergence = torch.distributions.kl_divergence
    for left, right, wanted in ((batch, one, (exact, single)), (one, batch, (single, exact))):
        close(divergence(left, right), divergence(*wanted), "divergence between a normal and a batch", rtol=1e-5)
    point = probe.randn(3, offset=2, dtype=torch.float64)
    close(batch.log_prob(point), exact.log_prob(point), "density in a batch of normals", rtol=1e-5)
    close(one.expand([2]).log_prob(point), single.log_prob(point).expand(2), "density of a repeated normal", rtol=1e-5)
    total, half = batch + batch, (batch * 3) / 2
    close(total.mean, 2 * mean, "mean of a sum of normals")
    close(total.covariance_matrix, 2 * covariance, "covariance of a sum of normals", atol=1e-6)
    close(half.mean, 1.5 * mean, "mean of a multiple of a normal")
    close(half.covariance_matrix, 2.25 * covariance, "covariance of a multiple of a normal", atol=1e-6)
    close((batch + 2.0).mean, mean + 2, "mean of a normal that is moved")
    if hasattr(make, "__getitem__"):  # since GPyTorch 1.7
        share = batch[1, :2]
        close(share.mean, mean[1, :2], "mean of a share of a normal")
        close(share.covariance_matrix, covariance[1, :2, :2], "covariance of a share of a normal", atol=1e-6)
    low, high = batch.confidence_region()
    spread = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    close(low, mean - 2 * spread, "lower end of the confidence region", rtol=1e-5)
    close(high, mean + 2 * spread, "upper end of the confidence region", rtol=1e-5)


def batches(probe: Probe) -> None:
    """Two GPs in one model are what each is alone: their means, and their covariances, given further data as well."""
    import gpytorch
    import torch

    x, z, more = (probe.randn(2, rows, 2, offset=rows, dtype=torch.float64) for rows in (12, 5, 3))
    y, new = (probe.randn(2, rows, offset=rows, dtype=torch.float64) for rows in (13, 4))
    y, new, shape = y[:, :12], new[:, :3], torch.Size([2])
    likelihood = gpytorch.likelihoods.GaussianLikelihood(batch_shape=shape)

    class Pair(gpytorch.models.ExactGP):
        def __init__(self) -> None:
            super().__init__(x, y, likelihood)
            self.mean_module = gpytorch.means.ConstantMean(batch_shape=shape)
            kernel = gpytorch.kernels.RBFKernel(batch_shape=shape)
            self.covar_module = gpytorch.kernels.ScaleKernel(kernel, batch_shape=shape)

        def forward(self, x: Any) -> Any:
            return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))

    def alone(number: int, x: Any, y: Any, z: Any) -> Tuple[Any, Any]:
        def kernel(left: Any, right: Any) -> Any:
            return scale[number] * (-0.5 * (_apart(left, right) / length[number]).square().sum(-1)).exp()

        gain = torch.linalg.solve(kernel(x, x) + noise[number] * torch.eye(len(x)).to(x), kernel(x, z)).T
        return level[number] + gain @ (y - level[number]), kernel(z, z) - gain @ kernel(x, z)

    length, scale, noise, level = torch.tensor([[0.4, 0.9], [1.3, 0.6], [0.1, 0.3], [0.5, -0.2]]).to(x)
    model = Pair().to(x).eval()
    model.covar_module.base_kernel.lengthscale, model.covar_module.outputscale = length[:, None, None], scale
    likelihood.noise = noise[:, None]
    model.mean_module.initialize(**{name: level.reshape(p.shape) for name, p in model.mean_module.named_parameters()})
    further = torch.cat([x, more], 1), torch.cat([y, new], 1)
    for given, (rows, outcomes) in (("", (x, y)), (" given further data", further)):
        seen = (model.get_fantasy_model(more, new) if given else model)(z)
        sound(seen.mean, x, f"means of two GPs{given}")
        for number in range(2):
            mean, covariance = alone(number, rows[number], outcomes[number], z[number])
            close(seen.mean[number], mean, f"mean of GP {number} of two{given}", rtol=1e-4, atol=1e-5)
            got = seen.covariance_matrix[number]
            close(got, covariance, f"covariance of GP {number} of two{given}", rtol=1e-4, atol=1e-5)


def algorithms(model: Any, z: Any, mean: Any, covariance: Any) -> None:
    """The posterior is the same by each of GPyTorch's ways to compute it, and a setting ends with its block."""
    import gpytorch

    known = gpytorch.settings
    for name, way in (
        ("LOVE", known.fast_pred_var()),
        ("Cholesky's factors", known.fast_computations(False, False, False)),
        ("kernels made at once", known.lazily_evaluate_kernels(False)),
        ("little memory", known.memory_efficient()),
        ("caches with a graph", known.detach_test_caches(False)),
    ):
        model.train()  # forgets what it has kept
        with way:
            seen = model.eval()(z)
            close(seen.mean, mean, f"posterior mean by {name}", rtol=1e-4, atol=1e-5)
            close(seen.covariance_matrix, covariance, f"posterior covariance by {name}", rtol=1e-3, atol=1e-4)
    for setting in (known.fast_pred_var, known.lazily_evaluate_kernels, known.fast_computations.log_prob):
        before, states = bool(setting.on()), []
        for state in (not before, before):
            with setting(state):
                states.append((bool(setting.on()), bool(setting.off())))
        states.append((bool(setting.on()), bool(setting.off())))
        wanted = [(not before, before), (before, not before), (before, not before)]
        require(states == wanted, "wrong-value", f"setting {setting.__name__} is on, off: {states}, not {wanted}")
