"""Pyro's ways to infer, against the analytic posterior: chains, weights, bounds, guides, and their steps."""

from typing import Any

from ..evidence import (
    SIGMAS,
    LeftOut,
    close,
    differentiable,
    finite,
    moments,
    of_shape,
    reached,
    require,
    seeded,
    sound,
)
from ..probe import Probe
from ._pyro_models import NOISE, conjugate, data, posterior

NEEDS = ("torch", "pyro")

DRAWS = 20_000


def predictive(probe: Probe) -> None:
    """Draws given weights from the exact posterior have the moments of the analytic predictive distribution."""
    import pyro
    import torch
    from pyro.infer import Predictive

    x, y = data(probe, 12, 3)
    mean, precision = posterior(x, y)
    exact = pyro.distributions.MultivariateNormal(mean, precision_matrix=precision)
    weights = exact.sample(torch.Size([DRAWS, 1]))  # 1: room for the plate
    predict = Predictive(conjugate, {"w": weights}, return_sites=["y"], parallel=True)
    drawn = (predict if callable(predict) else predict.get_samples)(x, None)["y"]  # before Pyro 1.0 it is no function
    of_shape(drawn, (DRAWS, len(x)), "predictive draws")
    sound(drawn, x, "predictive draws")
    spread = (NOISE**2 + (x * torch.linalg.solve(precision, x.T).T).sum(-1)).sqrt()
    moments(drawn, x @ mean, spread, "predictive draws")
    prior = Predictive(conjugate, num_samples=DRAWS, return_sites=["w", "y"], parallel=True)(x, None)
    of_shape(prior["w"], (DRAWS, 1, 3), "weights of prior predictive draws")
    moments(prior["w"][:, 0], torch.zeros(3), torch.ones(3), "weights of prior predictive draws")
    moments(prior["y"], torch.zeros(len(x)), (NOISE**2 + x.square().sum(1)).sqrt(), "prior predictive draws")


def chains(probe: Probe, kind: str, count: int = 300, **options: Any) -> None:
    """A short chain finds the analytic posterior, to within what its own effective sample size allows."""
    import pyro
    import torch
    from pyro import infer

    x, y = data(probe, 20, 2)
    mean, precision = posterior(x, y)
    std = torch.linalg.inv(precision).diagonal().sqrt()

    def chain(draws: int, warmup: int) -> Any:
        kernel = getattr(infer, kind)(conjugate, **options)
        mcmc = infer.MCMC(kernel, num_samples=draws, warmup_steps=warmup, disable_progbar=True)
        mcmc.run(x, y)
        return mcmc

    mcmc = chain(count, 100)
    drawn = mcmc.get_samples()["w"]
    sound(drawn, x, f"{kind} draws")
    require(bool((drawn.std(0) > 0).all()), "wrong-moments", "the chain stands still")
    quality = mcmc.diagnostics()["w"]
    r_hat, effective = quality["r_hat"].cpu(), quality["n_eff"].cpu()
    finite(r_hat, f"R-hat of {kind}")  # before Pyro 1.4 an error in either is a warning, and NaN the result
    finite(effective, f"effective sample size of {kind}")
    probe.metric(f"{kind}: R-hat", float(r_hat.max()), "ratio")
    probe.metric(f"{kind}: effective sample size", float(effective.min()), "count")
    require(float(r_hat.max()) < 1.15, "wrong-moments", f"chain has not mixed: R-hat {float(r_hat.max()):.3f}")
    require(
        float(effective.min()) > 30, "wrong-moments", f"effective sample size {float(effective.min()):.0f} of {count}"
    )
    independent = effective.clamp(30, count).to(x)
    error = float(((drawn.mean(0) - mean).abs() / (std / independent.sqrt())).max())
    require(error < SIGMAS, "wrong-moments", f"mean of the chain is {error:.1f} standard errors off")
    ratio = drawn.std(0) / std
    within = bool(((ratio > 0.6) & (ratio < 1.6)).all())
    require(within, "wrong-moments", f"the chain's deviations are {ratio.tolist()} times the analytic ones")
    seeded(lambda: chain(4, 4).get_samples()["w"], kind, pyro.set_rng_seed)


def enumeration(probe: Probe) -> None:
    """A mixture with its indicator summed out exactly: the density of the mixture, with its derivative."""
    import pyro
    import torch
    from pyro import distributions as dist
    from pyro.infer import TraceEnum_ELBO, config_enumerate

    y = probe.randn(7, dtype=torch.float64)

    def loss(logits: Any, centers: Any) -> Any:
        @config_enumerate
        def model() -> None:
            with pyro.plate("data", len(y)):
                which = pyro.sample("which", dist.Categorical(logits=logits))
                pyro.sample("y", dist.Normal(centers[which], torch.ones_like(y)), obs=y)

        with torch.enable_grad():  # it refuses to work without, even where only the value is wanted
            return TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(model, lambda: None)

    logits, centers = (probe.randn(2, offset=offset, dtype=torch.float64).requires_grad_() for offset in (1, 2))
    parts = torch.distributions.Normal(centers, 1.0).log_prob(y[:, None]) + logits.log_softmax(0)
    close(loss(logits, centers), -parts.logsumexp(1).sum(), "enumerated ELBO")
    differentiable(loss, [logits, centers], "enumerated ELBO")


def factors(probe: Probe) -> None:
    """Indicators summed out beside a draw of the guide, or in it, on a half of the data: the written-out sums.

    Of several draws of a site, in all combinations or paired: the evidence, to within their error.
    """
    import pyro
    import torch
    from pyro import distributions as dist
    from pyro.infer import TraceEnum_ELBO, TraceTMC_ELBO, config_enumerate

    y, weights = probe.randn(7, dtype=torch.float64), probe.randn(2, offset=1, dtype=torch.float64).log_softmax(0)
    guess = probe.randn(2, offset=2, dtype=torch.float64).log_softmax(0)
    centers = torch.tensor([-1.0, 1.5]).to(y).requires_grad_()
    one = torch.ones((), dtype=torch.float64, device=probe.device)
    normal = torch.distributions.Normal

    def model() -> None:
        move = pyro.sample("move", dist.Normal(0 * one, one))
        with pyro.plate("data", 14, subsample=torch.arange(7, device=probe.device)):
            which = pyro.sample("which", dist.Categorical(logits=weights))
            pyro.sample("y", dist.Normal(centers[which] + move, one), obs=y)

    def field() -> None:
        pyro.sample("move", dist.Normal(0.3 * one, 0.5 * one))

    def indicators() -> None:
        field()
        with pyro.plate("data", 14, subsample=torch.arange(7, device=probe.device)):
            pyro.sample("which", dist.Categorical(logits=guess))

    pyro.set_rng_seed(7)
    move = normal(0.3 * one, 0.5 * one).rsample()
    parts = normal(centers + move, 1.0).log_prob(y[:, None]) + weights
    prior = normal(0 * one, one).log_prob(move) - normal(0.3 * one, 0.5 * one).log_prob(move)
    for name, guide, expected in (
        ("in the model", field, parts.logsumexp(1).sum()),
        ("in the guide", config_enumerate(indicators), (guess.exp() * (parts - guess)).sum()),
        ("one by one", config_enumerate(indicators, "sequential"), (guess.exp() * (parts - guess)).sum()),
    ):
        pyro.set_rng_seed(7)
        summed = config_enumerate(model) if guide is field else model
        with torch.enable_grad():
            seen = TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(summed, guide)
        close(seen, -prior - 2 * expected, f"bound with indicators summed {name}")
        left, right = [torch.autograd.grad(it, [centers], retain_graph=True)[0] for it in (seen, -2 * expected)]
        close(left, right, f"gradient of the bound with indicators summed {name}", code="wrong-gradient")

    def chain() -> None:
        first = pyro.sample("first", dist.Normal(0 * one, one))
        second = pyro.sample("second", dist.Normal(first, one))
        pyro.sample("seen", dist.Normal(second, one), obs=0.7 * one)

    evidence = normal(0.0, 3**0.5).log_prob(0.7 * one).exp()
    for way in ("diagonal", "full"):
        several, runs = config_enumerate(chain, num_samples=40, tmc=way), []
        for _ in range(30):
            with torch.enable_grad():
                runs.append(-TraceTMC_ELBO(max_plate_nesting=0).differentiable_loss(several, lambda: None))
        seen = torch.stack(runs).detach().exp()
        error = float((seen.mean() - evidence).abs() / (seen.std() / len(runs) ** 0.5))
        require(error < SIGMAS, "wrong-value", f"evidence by several draws, {way}: {error:.1f} standard errors off")


def scores(probe: Probe) -> None:
    """Gradients by the score function, with a baseline as well, average to that of the bound summed over all states."""
    import pyro
    import torch
    from pyro import distributions as dist
    from pyro.infer import Trace_ELBO, TraceGraph_ELBO

    start = 0.5 * probe.randn(3, dtype=torch.float64)
    y, bernoulli = torch.tensor(1.3).to(start), torch.distributions.Bernoulli
    averaged = {"baseline": {"use_decaying_avg_baseline": True}}

    def model() -> None:
        first = pyro.sample("first", dist.Bernoulli(torch.tensor(0.3).to(y)))
        second = pyro.sample("second", dist.Bernoulli(0.2 + 0.5 * first))
        pyro.sample("y", dist.Normal(first + 2 * second, torch.ones_like(second)), obs=y)

    def guide() -> None:
        logits = pyro.param("logits", start.clone())
        first = pyro.sample("first", dist.Bernoulli(logits=logits[0]), infer=averaged)
        pyro.sample("second", dist.Bernoulli(logits=logits[1] + logits[2] * first))

    bound, logits = torch.zeros_like(y), start.clone().requires_grad_()
    for one, two in ((0, 0), (0, 1), (1, 0), (1, 1)):
        first, second = y.new_tensor(one), y.new_tensor(two)
        guess = bernoulli(logits=logits[0]).log_prob(first)
        guess = guess + bernoulli(logits=logits[1] + logits[2] * first).log_prob(second)
        whole = bernoulli(y.new_tensor(0.3)).log_prob(first) + bernoulli(0.2 + 0.5 * first).log_prob(second)
        whole = whole + torch.distributions.Normal(first + 2 * second, 1.0).log_prob(y)
        bound = bound + guess.exp() * (whole - guess)
    (expected,) = torch.autograd.grad(-bound, [logits])
    for kind in (Trace_ELBO, TraceGraph_ELBO):
        pyro.clear_param_store()
        elbo, runs = kind(num_particles=400, vectorize_particles=True, max_plate_nesting=0), []
        for _ in range(40):
            value, parameter = elbo.loss_and_grads(model, guide), pyro.param("logits")
            runs.append(torch.cat([parameter.grad, y.new_tensor([value])]))
            parameter.grad = None
        seen = torch.stack(runs)
        wanted = torch.cat([expected, -bound.detach().reshape(1)])
        error = float(((seen.mean(0) - wanted).abs() / (seen.std(0) / len(runs) ** 0.5)).max())
        name = f"gradient of {kind.__name__} by the score function"
        require(error < SIGMAS, "wrong-gradient", f"{name} is {error:.1f} standard errors off")
        sound(seen, logits, name)


def _exact(x: Any, y: Any) -> Any:
    """The posterior as a guide, and the logarithm of the evidence."""
    import pyro
    import torch

    mean, precision = posterior(x, y)
    covariance = x @ x.T + NOISE**2 * torch.eye(len(x)).to(x)
    evidence = torch.distributions.MultivariateNormal(torch.zeros_like(y), covariance).log_prob(y)

    def guide(x: Any, y: Any) -> None:
        pyro.sample("w", pyro.distributions.MultivariateNormal(mean, precision_matrix=precision))

    return guide, evidence


def importance(probe: Probe) -> None:
    """With the posterior as proposal every weight is the evidence."""
    import torch
    from pyro.infer import Importance

    x, y = data(probe, 4, 2, dtype=torch.float64)
    guide, evidence = _exact(x, y)
    count = len(Importance(conjugate, guide).run(x, y).log_weights)
    require(count == 10, "wrong-value", f"importance sampling draws {count} times by default, not 10 times")
    run = Importance(conjugate, guide, num_samples=20).run(x, y)
    close(run.get_log_normalizer(), evidence, "evidence by importance", rtol=1e-6)
    close(
        torch.stack([torch.as_tensor(w) for w in run.log_weights]), evidence.expand(20), "importance weights", rtol=1e-6
    )


def discrete(probe: Probe) -> None:
    """The indicator of a mixture is drawn with its posterior odds, or is the likelier one at temperature zero."""
    import pyro
    import torch
    from pyro import distributions as dist
    from pyro.infer import config_enumerate, infer_discrete

    def model(y: Any) -> Any:
        with pyro.plate("data", len(y)):
            which = pyro.sample("which", dist.Categorical(torch.tensor([0.3, 0.7], device=y.device)))
            pyro.sample("y", dist.Normal(2.0 * which, torch.ones_like(y)), obs=y)
        return which

    y = torch.full((DRAWS,), 0.8, device=probe.device)
    odds = 0.7 * torch.tensor(-0.72).exp() / (0.7 * torch.tensor(-0.72).exp() + 0.3 * torch.tensor(-0.32).exp())
    drawn = infer_discrete(config_enumerate(model), first_available_dim=-2)(y)
    moments(drawn.float(), odds, (odds * (1 - odds)).sqrt(), "draws of infer_discrete")
    y = probe.randn(50) + 1
    likelier = 0.7 * (-0.5 * (y - 2).square()).exp() > 0.3 * (-0.5 * y.square()).exp()
    likeliest = infer_discrete(first_available_dim=-2, temperature=0)  # as a decorator
    seen = likeliest(config_enumerate(model))(y)
    close(seen, likelier.long(), "infer_discrete at temperature zero")


def handlers(probe: Probe) -> None:
    """Densities are scaled, also where a plate takes a share of the data; draws are replayed and hidden."""
    import pyro
    import torch
    from pyro import distributions as dist
    from pyro import poutine

    x, y = data(probe, 10, 3, dtype=torch.float64)
    trace = poutine.trace(conjugate).get_trace(x, y)
    w = trace.nodes["w"]["value"]
    normal = torch.distributions.Normal
    density = normal(torch.zeros_like(w), 1.0).log_prob(w).sum() + normal(x @ w, NOISE).log_prob(y).sum()
    close(trace.log_prob_sum(), density, "density of a trace")
    again = poutine.trace(poutine.replay(conjugate, trace)).get_trace(x, y)
    close(again.nodes["w"]["value"], w, "replayed draw", rtol=0.0, atol=0.0)
    scaled = poutine.trace(poutine.scale(poutine.replay(conjugate, trace), scale=0.3)).get_trace(x, y)
    close(scaled.log_prob_sum(), 0.3 * density, "scaled density")
    hidden = poutine.trace(poutine.block(conjugate, hide=["w"])).get_trace(x, y)
    require("w" not in hidden.nodes and "y" in hidden.nodes, "wrong-value", "block hides other sites than it was told")

    def part() -> Any:
        with pyro.plate("data", 10, subsample_size=4, device=str(probe.device)) as index:
            pyro.sample("y", dist.Normal(torch.zeros(4).to(y), 1.0), obs=y[index])
        return index

    rooms = [room for room in (dist, pyro.infer, poutine) if hasattr(room, "is_validation_enabled")]
    for state in (True, False):
        before = [room.is_validation_enabled() for room in rooms]
        with pyro.validation_enabled(state):
            within = [room.is_validation_enabled() for room in rooms]
        after = [room.is_validation_enabled() for room in rooms]
        require(set(within) == {state}, "wrong-value", f"validation of arguments is {within}, not {state}")
        require(after == before, "wrong-value", "the validation of arguments is not restored")
    trace = poutine.trace(part).get_trace()
    index = trace.nodes["_RETURN"]["value"]
    require(len(set(index.tolist())) == 4, "wrong-value", f"a share of 4 rows is {index.tolist()}")
    expected = 2.5 * normal(torch.zeros(4).to(y), 1.0).log_prob(y[index]).sum()
    close(trace.log_prob_sum(), expected, "density of a share of the data")


def bounds(x: Any, y: Any) -> None:
    """Of the exact posterior each bound is the evidence; the mean-field one takes its divergence in closed form."""
    import pyro
    import torch
    from pyro import infer

    guide, evidence = _exact(x, y)
    for name, of_exact in (
        ("TraceGraph_ELBO", infer.TraceGraph_ELBO(num_particles=2)),
        ("RenyiELBO", infer.RenyiELBO(alpha=0.5, num_particles=3)),
    ):
        pyro.set_rng_seed(3)
        close(torch.as_tensor(of_exact.loss(conjugate, guide, x, y)), -evidence, name, rtol=1e-6)
    loc, scale = torch.linspace(-0.5, 0.7, x.shape[1]).to(x), torch.linspace(0.3, 0.8, x.shape[1]).to(x)

    def bound(loc: Any, scale: Any) -> Any:
        def field(x: Any, y: Any) -> None:
            pyro.sample("w", pyro.distributions.Normal(loc, scale).to_event(1))

        pyro.set_rng_seed(5)
        return infer.TraceMeanField_ELBO().differentiable_loss(conjugate, field, x, y)

    pyro.set_rng_seed(5)
    w = torch.distributions.Normal(loc, scale).rsample()
    divergence = 0.5 * (scale.square() + loc.square() - 1 - 2 * scale.log()).sum()
    fit = torch.distributions.Normal(x @ w, NOISE).log_prob(y).sum()
    close(bound(loc, scale), divergence - fit, "TraceMeanField_ELBO")
    differentiable(bound, [loc, scale], "TraceMeanField_ELBO")


def guides(probe: Probe) -> None:
    """Guides made by Pyro: density, draws and medians agree; Laplace's covariance is the posterior's; MAP its mean."""
    import pyro
    import torch
    from pyro import poutine
    from pyro.infer import SVI, Trace_ELBO, autoguide

    x, y = data(probe, 12, 3)
    mean, precision = posterior(x, y)
    covariance = torch.linalg.inv(precision)
    start = autoguide.initialization.init_to_value(values={"w": mean})
    normal = torch.distributions.Normal
    for name in ("AutoNormal", "AutoMultivariateNormal"):
        pyro.clear_param_store()
        guide = getattr(autoguide, name)(conjugate, init_loc_fn=start, init_scale=0.2)
        trace = poutine.trace(guide).get_trace(x, y)
        w = trace.nodes["w"]["value"]
        sound(w, x, f"draw of {name}")
        close(guide.median(x, y)["w"], mean, f"median of {name}")
        close(guide.quantiles([0.975], x, y)["w"].reshape(-1), mean + 0.2 * 1.959964, f"quantile of {name}", rtol=1e-3)
        close(trace.log_prob_sum(), normal(mean, 0.2).log_prob(w).sum(), f"density of {name}", rtol=1e-3, atol=1e-3)
        Trace_ELBO().differentiable_loss(conjugate, guide, x, y).backward()
        reached(dict(guide.named_parameters()), name)
    guide = autoguide.AutoLaplaceApproximation(conjugate, init_loc_fn=start)
    guide(x, y)
    seen = guide.laplace_approximation(x, y).get_posterior()
    close(seen.mean, mean, "mean by Laplace's approximation", rtol=1e-3, atol=1e-3)
    close(seen.covariance_matrix, covariance, "covariance by Laplace's approximation", rtol=1e-2, atol=1e-3)
    pyro.clear_param_store()
    guide = autoguide.AutoDelta(conjugate)
    svi = SVI(conjugate, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    for _ in range(200):
        svi.step(x, y)
    off = float(((guide.median(x, y)["w"] - mean).abs() / covariance.diagonal().sqrt()).max())
    require(off < 0.1, "wrong-value", f"AutoDelta ends {off:.2f} posterior deviations off the posterior's mode")


def steps(probe: Probe) -> None:
    """ClippedAdam's steps written out, with its decay; the rates of a schedule."""
    import pyro
    import torch

    start, target = probe.randn(4, dtype=torch.float64), 3 * probe.randn(4, offset=1, dtype=torch.float64)
    weight, exact = start.clone().requires_grad_(), start.clone()
    options = {"lr": 0.05, "betas": (0.8, 0.95), "clip_norm": 0.5, "lrd": 0.9}
    optimiser = pyro.optim.ClippedAdam(options)
    first = second = torch.zeros_like(start)
    for step in range(1, 6):
        weight.grad = weight.detach() - target
        optimiser([weight])
        gradient = (exact - target).clamp(-0.5, 0.5)
        first, second = 0.8 * first + 0.2 * gradient, 0.95 * second + 0.05 * gradient.square()
        rate = 0.05 * 0.9**step * (1 - 0.95**step) ** 0.5 / (1 - 0.8**step)
        exact = exact - rate * first / (second.sqrt() + 1e-8)
        close(weight, exact, f"step {step} of ClippedAdam")
    if not hasattr(pyro.optim, "ExponentialLR"):
        raise LeftOut(f"this Pyro finds no scheduler in torch {torch.__version__}, so pyro.optim has no ExponentialLR")
    weight = start.clone().requires_grad_()
    schedule = pyro.optim.ExponentialLR({"optimizer": torch.optim.SGD, "optim_args": {"lr": 0.1}, "gamma": 0.5})
    exact = start.clone()
    for step in range(4):
        weight.grad = torch.ones_like(start)
        schedule([weight])
        schedule.step()
        exact = exact - 0.1 * 0.5**step
        close(weight, exact, f"step {step} under ExponentialLR")
