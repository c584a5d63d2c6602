"""torchbnn: Bayesian linear, convolution and batch-norm layers."""

import math
from typing import Any, Sequence

from ..compiling import compiled
from ..evidence import close, differentiable, moments, of_shape, reached, require, seeded, sound
from ..probe import Probe
from ._small import learns
from ._statistics import independent

DISTRIBUTION = "torchbnn"
MODULE = "torchbnn"
NEEDS = ("torch",)
COVERS = {
    "torchbnn.BayesLinear": "sample/linear draws",
    "torchbnn.BayesConv2d": "sample/convolution draws",
    "torchbnn.BayesLinear.freeze": "sample/freeze",
    "torchbnn.BayesLinear.unfreeze": "sample/freeze",
    "torchbnn.BKLLoss": "autograd/KL loss",
    "torchbnn.BayesBatchNorm2d": "sample/batch norm",
    "torchbnn.functional.bayesian_kl_loss": "autograd/KL loss",
    "torchbnn.utils.freeze": "sample/freeze",
    "torchbnn.utils.unfreeze": "sample/freeze",
}

DRAWS = 20_000
"""Copies of one unit in a layer: a single forward pass then holds that many independent draws."""


def _spread(layer: Any, mean: Any, log_sigma: Any) -> None:
    """Give every unit of the layer the same weights' and bias' mean and spread, so that units are draws of one kind."""
    import torch

    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            number = log_sigma if "sigma" in name else mean
            parameter.copy_(number if name.startswith("weight") else number.flatten()[0].expand(parameter.shape))


def _begins(layer: Any, inputs: int, what: str) -> None:
    """A layer's means begin as plain layers' weights do, its deviations as the prior's, 0.1."""
    import torch

    for kind in _KINDS:
        means, log_sigma = (
            getattr(layer, f"{kind}_{part}").detach().reshape(DRAWS, -1) for part in ("mu", "log_sigma")
        )
        zero = torch.zeros_like(means[0])
        moments(means, zero, zero + (3 * inputs) ** -0.5, f"first means of {what}'s {kind}")
        close(log_sigma, torch.full_like(log_sigma, math.log(0.1)), f"first log deviations of {what}'s {kind}")


def sample(probe: Probe) -> None:
    """Weights and biases are drawn afresh in each forward pass, from the layer's own means and deviations."""
    import torch
    import torchbnn

    eye, zero = torch.eye(3, device=probe.device), torch.zeros(1, 3, device=probe.device)
    with probe.part("linear draws"):
        mean, log_sigma = probe.randn(3), probe.randn(3, offset=1) * 0.3
        torch.manual_seed(probe.seed)
        layer = torchbnn.BayesLinear(prior_mu=0, prior_sigma=0.1, in_features=3, out_features=DRAWS).to(probe.device)
        _begins(layer, 3, "BayesLinear")
        _spread(layer, mean, log_sigma)
        torch.manual_seed(probe.seed)
        drawn = layer(torch.cat([eye, zero]))
        of_shape(drawn, (4, DRAWS), "output of BayesLinear")
        sound(drawn, eye, "output of BayesLinear")
        sigma = log_sigma.exp()
        moments(drawn[3], mean[0], sigma[0], "bias of BayesLinear")
        moments((drawn[:3] - drawn[3]).T, mean, sigma, "weights of BayesLinear")
        seeded(lambda: layer(eye), "BayesLinear", torch.manual_seed)
    with probe.part("convolution draws"):
        mean, log_sigma = probe.randn(1, offset=2), probe.randn(1, offset=3) * 0.3
        convolution = torchbnn.BayesConv2d(0, 0.1, in_channels=1, out_channels=DRAWS, kernel_size=1).to(probe.device)
        _begins(convolution, 1, "BayesConv2d")
        _spread(convolution, mean, log_sigma)
        image = torch.zeros(1, 1, 1, 2, device=probe.device)
        image[..., 1] = 1.0
        drawn = convolution(image)[0, :, 0]
        sound(drawn, image, "output of BayesConv2d")
        moments(drawn[:, 0], mean[0], log_sigma.exp()[0], "bias of BayesConv2d")
        moments(drawn[:, 1] - drawn[:, 0], mean[0], log_sigma.exp()[0], "weights of BayesConv2d")
        seeded(lambda: convolution(image), "BayesConv2d", torch.manual_seed)
    with probe.part("convolution"):
        for dtype in (torch.float32, torch.float64):
            convolution = torchbnn.BayesConv2d(0, 0.3, 4, 6, 3, stride=2, padding=1, groups=2).to(probe.device, dtype)
            convolution.freeze()
            image, options = probe.randn(2, 4, 7, 7, dtype=dtype), {"stride": 2, "padding": 1, "groups": 2}
            expected = torch.nn.functional.conv2d(image, *(_drawn(convolution, k) for k in _KINDS), **options)
            close(convolution(image), expected, "frozen BayesConv2d")
    with probe.part("batch norm"):
        _batch_norm(probe)
    with probe.part("freeze"):
        layer.freeze()
        require(torch.equal(layer(eye), layer(eye)), "seed-ignored", "a frozen layer gave two different outputs")
        expected = torch.nn.functional.linear(eye, *(_drawn(layer, kind) for kind in _KINDS))
        close(layer(eye), expected, "frozen BayesLinear")
        layer.unfreeze()
        once, again = layer(torch.cat([eye, zero])), layer(torch.cat([eye, zero]))
        same = torch.allclose(once[:3] - once[3], again[:3] - again[3], atol=1e-4)
        require(not same, "repeated-draw", "an unfrozen layer repeats its weights")
        require(not torch.equal(once[3], again[3]), "repeated-draw", "an unfrozen layer repeats its bias")
        model = torch.nn.Sequential(torch.nn.Sequential(layer), torch.nn.Tanh())
        torchbnn.utils.freeze(model)
        require(torch.equal(model(eye), model(eye)), "seed-ignored", "a frozen model gave two different outputs")
        torchbnn.utils.unfreeze(model)
        require(not torch.equal(model(eye), model(eye)), "repeated-draw", "an unfrozen model repeats its output")


_KINDS = ("weight", "bias")


def _drawn(layer: Any, kind: str) -> Any:
    """A frozen layer's weight or bias."""
    mean, log_sigma, noise = (getattr(layer, f"{kind}_{part}") for part in ("mu", "log_sigma", "eps"))
    return mean + log_sigma.exp() * noise


def _batch_norm(probe: Probe) -> None:
    """Weights of many channels are independent draws; running statistics are those of the batches so far."""
    import torch
    import torchbnn

    wide = torchbnn.BayesBatchNorm2d(0, 0.1, DRAWS, affine=True).to(probe.device)
    mean, log_sigma = probe.randn(1), probe.randn(1, offset=1) * 0.3
    _spread(wide, mean, log_sigma)
    pattern = torch.tensor([-1.0, 1.0], device=probe.device).expand(1, DRAWS, 1, 2)
    drawn = wide(pattern)[0, :, 0]
    middle, half = drawn.mean(1), (drawn[:, 1] - drawn[:, 0]) / 2 * (1 + wide.eps) ** 0.5
    moments(middle, mean[0], log_sigma.exp()[0], "bias of BayesBatchNorm2d")
    moments(half, mean[0], log_sigma.exp()[0], "weights of BayesBatchNorm2d")
    independent(torch.stack([middle, half], 1), "weights and bias of BayesBatchNorm2d")
    for momentum in (0.3, None):
        layer = torchbnn.BayesBatchNorm2d(0, 0.1, 3, momentum=momentum).to(probe.device)
        plain = torch.nn.BatchNorm2d(3, momentum=momentum).to(probe.device)
        layer.freeze()
        with torch.no_grad():
            for kind in _KINDS:
                getattr(plain, kind).copy_(_drawn(layer, kind))
        for number in range(3):
            batch = probe.randn(4, 3, 5, 5, offset=number) * (number + 1) + number
            close(layer(batch), plain(batch), f"BayesBatchNorm2d of batch {number}")
        close(layer.eval()(batch), plain.eval()(batch), "BayesBatchNorm2d after training")


def _network(probe: Probe, dtype: Any) -> Any:
    """Two frozen Bayesian layers with spreads large enough to matter."""
    import torch
    import torchbnn

    torch.manual_seed(probe.seed)
    layers = [torchbnn.BayesLinear(0.1, 0.2, 4, 8), torch.nn.Tanh(), torchbnn.BayesLinear(0.1, 0.2, 8, 1)]
    network = torch.nn.Sequential(*layers).to(probe.device, dtype)
    for layer in layers[::2]:
        layer.freeze()
    return network


def _call(module: Any, named: Any, inputs: Any) -> Any:
    """The module on other tensors in the place of its parameters."""
    try:
        from torch.func import functional_call
    except ImportError:  # torch 1.13
        from torch.nn.utils.stateless import functional_call
    return functional_call(module, named, inputs)


def _frozen(probe: Probe) -> None:
    """A frozen layer, with a bias and without, has the gradients of what it draws, written out."""
    import torch
    import torchbnn
    from torch.nn import functional

    image = probe.randn(2, 2, 5, 5, dtype=torch.float64)
    for bias in (True, False):
        for layer, plain, options in (
            (torchbnn.BayesConv2d(0, 0.3, 2, 3, 3, padding=1, bias=bias), functional.conv2d, {"padding": 1}),
            (torchbnn.BayesLinear(0, 0.3, 5, 4, bias=bias), functional.linear, {}),
        ):
            layer.to(probe.device, torch.float64).freeze()
            seen, what = layer(image), f"a frozen {type(layer).__name__} {'with' if bias else 'without'} a bias"
            expected = plain(image, *(_drawn(layer, kind) for kind in _KINDS[: 1 + bias]), **options)
            close(seen, expected, what)
            require(seen.requires_grad, "no-gradient", f"the output of {what} is detached")
            names, parameters = zip(*layer.named_parameters())
            pair = [torch.autograd.grad(output.square().sum(), parameters) for output in (seen, expected)]
            for name, mine, theirs in zip(names, *pair):
                close(mine, theirs, f"gradient of {name} of {what}", code="wrong-gradient")


def autograd(probe: Probe) -> None:
    """Gradients reach means and deviations and are right; the KL loss is the closed form; the network trains."""
    import torch
    import torchbnn

    with probe.part("gradients"):
        network = _network(probe, torch.float64)
        x = probe.randn(6, 4, dtype=torch.float64)
        loss = network(x).square().sum()
        require(loss.requires_grad, "no-gradient", "the output of a frozen network is detached")
        loss.backward()
        reached(dict(network.named_parameters()), "frozen network")
        names = [name for name, _ in network.named_parameters()]
        differentiable(
            lambda *values: _call(network, dict(zip(names, values)), (x,)).square().sum(),
            [parameter for _, parameter in network.named_parameters()],
            "frozen network",
        )
    with probe.part("each layer"):
        _frozen(probe)
    with probe.part("KL loss"):
        network = _network(probe, torch.float32)
        further = (torchbnn.BayesConv2d(0.2, 0.5, 2, 3, 2), torchbnn.BayesBatchNorm2d(0.3, 0.4, 3))
        network = torch.nn.Sequential(*network, *further).to(probe.device)
        with torch.no_grad():
            for number, parameter in enumerate(network.parameters()):
                parameter.add_(probe.randn(*parameter.shape, offset=number) * 0.3)
        for reduction in ("sum", "mean"):
            network.zero_grad()
            loss = torchbnn.BKLLoss(reduction=reduction, last_layer_only=False)(network)
            sound(loss, x.float(), f"KL loss ({reduction})")
            require(loss.requires_grad, "no-gradient", f"KL loss ({reduction}) is detached")
            loss.sum().backward()
            seen = {name: parameter.grad for name, parameter in network.named_parameters()}
            reached(dict(network.named_parameters()), f"KL loss ({reduction})")
            network.zero_grad()
            expected = _kl(network, reduction)
            expected.backward()
            close(loss.reshape(()), expected, f"KL loss ({reduction})")
            close(torchbnn.functional.bayesian_kl_loss(network, reduction).reshape(()), expected, "bayesian_kl_loss")
            for name, parameter in network.named_parameters():
                close(seen[name], parameter.grad, f"KL loss ({reduction}): gradient of {name}", code="wrong-gradient")
        seen = torchbnn.BKLLoss(reduction="sum", last_layer_only=True)(network)
        close(seen.reshape(()), _kl(network[-1:], "sum", ("bias",)), "KL loss of the last layer's bias")
    with probe.part("training"):
        _train(probe)


def _kl(network: Any, reduction: str, kinds: Sequence[str] = ("weight", "bias")) -> Any:
    """Sum (or mean over weights) of the KL divergences between each weight's normal and the prior's."""
    from torch.distributions import Normal, kl_divergence

    total: Any = 0.0
    count = 0
    for layer in network:
        for kind in kinds if hasattr(layer, "prior_mu") else ():
            mean, log_sigma = getattr(layer, kind + "_mu"), getattr(layer, kind + "_log_sigma")
            prior = Normal(mean.new_tensor(layer.prior_mu), mean.new_tensor(layer.prior_sigma))
            total = total + kl_divergence(Normal(mean, log_sigma.exp()), prior).sum()
            count += mean.numel()
    return total / count if reduction == "mean" else total


def _train(probe: Probe) -> None:
    """Fit a line from noisy draws: the loss falls, and every parameter moves."""
    import torch
    import torchbnn

    torch.manual_seed(probe.seed)
    network = torch.nn.Sequential(torchbnn.BayesLinear(0, 0.1, 4, 1)).to(probe.device)
    x = probe.randn(64, 4)
    y = x @ torch.tensor([[1.0], [-2.0], [1.5], [0.5]], device=probe.device)
    penalty = torchbnn.BKLLoss(reduction="mean", last_layer_only=False)

    def loss() -> Any:
        return torch.nn.functional.mse_loss(network(x), y) + 0.01 * penalty(network).sum()

    learns(network, loss, "Bayesian linear regression", steps=150, rate=0.05, drop=0.5)


def compile(probe: Probe) -> None:
    """Frozen layers and the KL loss compile to the eager result; compiled draws keep their moments."""
    import torch
    import torchbnn

    network = _network(probe, torch.float32)
    layer = network[0]
    with probe.part("frozen layer"):  # alone: with other operations around it, a layer that falls back would not show
        shapes = [(probe.randn(size, 4, offset=size),) for size in (3, 5, 16)]
        compiled(probe, layer, shapes, "BayesLinear", dict(layer.named_parameters()))
    with probe.part("frozen network"):
        compiled(probe, network, shapes[:2], "network", dict(network.named_parameters()))
    with probe.part("draws"):  # eager and compiled code draw from different streams: only the moments can be compared
        unit = torchbnn.BayesLinear(0, 0.1, 1, DRAWS).to(probe.device)
        mean, log_sigma = probe.randn(1), probe.randn(1, offset=1) * 0.3
        _spread(unit, mean, log_sigma)
        zero = torch.zeros(1, 1, device=probe.device)
        unit.freeze()
        quick = compiled(probe, unit, [(zero,)], "wide BayesLinear")
        unit.unfreeze()
        torch.manual_seed(probe.seed)
        with torch.no_grad():
            drawn = quick(zero)
            sound(drawn, zero, "compiled draws")
            moments(drawn[0], mean[0], log_sigma.exp()[0], "compiled draws of a bias")
            require(not torch.equal(drawn, quick(zero)), "repeated-draw", "two compiled forward passes are the same")
