"""What the articles build with torch alone: distributions, MC dropout, variational layers, ensembles, calibration."""

from typing import Any

from ..compiling import compiled
from ..evidence import (
    NotApplicable,
    close,
    differentiable,
    moments,
    on_device,
    reached,
    require,
    sound,
)
from ..probe import Probe
from ._small import learns

NEEDS = ("functorch",)

DRAWS = 20_000
"""Enough to see a scale that is off by 2 percent (evidence.moments)."""


def mc_dropout(probe: Probe) -> None:
    """Dropout in training mode gives a spread of the right size; after eval(), the article's way, there is none."""
    import torch

    torch.manual_seed(probe.seed)
    layer = torch.nn.Dropout(0.5)
    data = torch.ones(DRAWS, 4, device=probe.device)
    moments(layer(data), 1.0, 1.0, "dropout at 0.5 of ones")
    network = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), layer, torch.nn.Linear(32, 1)).to(
        probe.device
    )
    inputs = probe.randn(16, 8)
    with torch.no_grad():
        network.eval()
        quiet = torch.stack([network(inputs) for _ in range(100)]).std(0).max()
        layer.train()
        spread = torch.stack([network(inputs) for _ in range(100)]).std(0)
    require(float(quiet) == 0.0, "wrong-value", "dropout is active after eval()")
    require(float(spread.min()) > 0, "repeated-draw", "100 passes with dropout active gave no spread")
    probe.note("100 passes after model.eval() have no spread at all: nn.Dropout must be put back into training mode")


class Variational:
    """Builds the article's layer: mean and log-variance of every weight, drawn by reparameterisation."""

    @staticmethod
    def make(torch: Any, inputs: Any, outputs: Any) -> Any:
        class Layer(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.mean = torch.nn.Parameter(torch.randn(outputs, inputs) * 0.1)
                self.log_variance = torch.nn.Parameter(torch.full((outputs, inputs), -6.0))
                self.bias = torch.nn.Parameter(torch.zeros(outputs))

            def forward(self, data: Any, noise: Any) -> Any:
                weight = self.mean + (0.5 * self.log_variance).exp() * noise
                return torch.nn.functional.linear(data, weight, self.bias)

            def divergence(self) -> Any:
                return 0.5 * (self.log_variance.exp() + self.mean**2 - 1 - self.log_variance).sum()

        return Layer()


def variational_training(probe: Probe) -> None:
    """The layer learns a linear map under its variational bound, and every parameter is reached."""
    import torch

    torch.manual_seed(probe.seed)
    layer = Variational.make(torch, 8, 1).to(probe.device)
    data, truth = probe.randn(128, 8), probe.randn(8, 1, offset=1)
    wanted = data @ truth

    def loss() -> Any:
        return (layer(data, torch.randn_like(layer.mean)) - wanted).square().mean() + 1e-4 * layer.divergence()

    loss().backward()
    reached(dict(layer.named_parameters()), "variational layer")
    learns(layer, loss, "variational layer", steps=150, rate=0.05, drop=0.5)
    noise = torch.randn(1, 8, dtype=torch.float64, generator=probe.generator(3)).to(probe.device)

    def bound(mean: Any, log_variance: Any) -> Any:
        weight = mean + (0.5 * log_variance).exp() * noise
        return (torch.nn.functional.linear(data.double(), weight) - wanted.double()).square().mean()

    differentiable(bound, [layer.mean, layer.log_variance], "variational layer")


def variational_compiled(probe: Probe) -> None:
    """Forward and backward, the noise handed in so that both see the same."""
    import torch

    torch.manual_seed(probe.seed)
    layer = Variational.make(torch, 8, 4).to(probe.device)
    inputs = [(probe.randn(rows, 8), probe.randn(4, 8, offset=9)) for rows in (3, 16)]
    parameters = dict(layer.named_parameters())
    compiled(probe, layer, inputs, "variational layer", parameters, backend=probe.heavy_backend)


def _ensemble(probe: Probe) -> Any:
    """Five networks, and a function that gives the results of all at once."""
    import torch

    torch.manual_seed(probe.seed)
    members = [torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1)) for _ in range(5)]
    members = [member.to(probe.device) for member in members]
    if not hasattr(torch, "func"):
        return members, _ensemble_before_func(members)
    stacked, buffers = torch.func.stack_module_state(members)

    def all_of(data: Any) -> Any:
        return torch.func.vmap(
            lambda state: torch.func.functional_call(members[0], state, (data,)), randomness="error"
        )({**stacked, **buffers})

    return members, all_of


def _ensemble_before_func(members: Any) -> Any:
    """The same by functorch, which torch 1.13 brings, and whose functions torch 2.0 has as torch.func."""
    try:
        from functorch import combine_state_for_ensemble, vmap
    except ImportError:
        raise NotApplicable("this torch has neither torch.func nor functorch") from None
    network, stacked, buffers = combine_state_for_ensemble(members)
    return lambda data: vmap(lambda state, more: network(state, more, data), randomness="error")(stacked, buffers)


def ensemble_spread(probe: Probe) -> None:
    """Five members under vmap give what they give one by one, and differ."""
    import torch

    members, all_of = _ensemble(probe)
    data = probe.randn(32, 4)
    with torch.no_grad():
        together = all_of(data)
        close(together, torch.stack([member(data) for member in members]), "five members under vmap")
    sound(together, data, "five members under vmap")
    require(float(together.var(0).min()) > 0, "repeated-draw", "five members with their own weights do not differ")


def ensemble_compiled(probe: Probe) -> None:
    """The stacked ensemble, compiled."""
    _, all_of = _ensemble(probe)
    inputs = [(probe.randn(rows, 4),) for rows in (8, 24)]
    compiled(probe, all_of, inputs, "deep ensemble", backend=probe.heavy_backend)


def calibration(probe: Probe) -> None:
    """Temperature scaling, histogram binning and isotonic regression: each halves the error of held-out data."""
    import torch

    truth = probe.randn(8000, 5)
    labels = torch.multinomial(truth.softmax(-1), 1, generator=torch.Generator(probe.device).manual_seed(probe.seed))[
        :, 0
    ]
    logits = truth * 3.0  # three times too sure: the right temperature is 3
    fit, held = slice(0, 4000), slice(4000, None)
    temperature = torch.ones(1, device=probe.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([temperature], lr=0.1, max_iter=60)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(logits[fit] / temperature, labels[fit])
        loss.backward()
        return loss

    optimizer.step(closure)
    on_device(temperature, probe.device, "temperature")
    close(temperature, [3.0], "temperature by L-BFGS", rtol=0.15)
    sure, right = logits.softmax(-1).max(-1).values, (logits.argmax(-1) == labels).float()
    before = _calibration_error(torch, sure[held], right[held])
    scaled = (logits / temperature.detach()).softmax(-1).max(-1).values
    for name, after in (
        ("temperature scaling", scaled[held]),
        ("histogram binning", _binned(torch, sure[fit], right[fit], sure[held])),
        ("isotonic regression", _isotonic(torch, sure[fit], right[fit], sure[held])),
    ):
        error = _calibration_error(torch, after, right[held])
        require(error < 0.5 * before, "does-not-train", f"{name}: calibration error {before:.3f} -> {error:.3f}")
        probe.metric(f"calibration error after {name}", error, "ratio")


def _calibration_error(torch: Any, sure: Any, right: Any, bins: int = 10) -> Any:
    index = (sure * bins).long().clamp(max=bins - 1)
    zeros = torch.zeros(bins, device=sure.device)
    gap = zeros.index_add(0, index, sure) - zeros.index_add(0, index, right)
    return float(gap.abs().sum() / len(sure))


def _binned(torch: Any, sure: Any, right: Any, asked: Any, bins: int = 10) -> Any:
    index = (sure * bins).long().clamp(max=bins - 1)
    zeros = torch.zeros(bins, device=sure.device)
    count = zeros.index_add(0, index, torch.ones_like(sure))
    mean = zeros.index_add(0, index, right) / count.clamp_min(1)
    return mean[(asked * bins).long().clamp(max=bins - 1)]


def _isotonic(torch: Any, sure: Any, right: Any, asked: Any) -> Any:
    """Pool adjacent violators, on the CPU; asked points take the step to their left."""
    order = sure.argsort()
    blocks = []
    for value in right[order].tolist():
        blocks.append([value, 1])
        while len(blocks) > 1 and blocks[-2][0] >= blocks[-1][0]:
            (second, n), (first, m) = blocks.pop(), blocks.pop()
            blocks.append([(first * m + second * n) / (m + n), m + n])
    steps = torch.tensor([value for value, count in blocks for _ in range(count)], device=sure.device)
    place = torch.searchsorted(sure[order].contiguous(), asked.contiguous()).clamp(max=len(steps) - 1)
    return steps[place]
