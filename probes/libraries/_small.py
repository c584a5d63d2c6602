"""A small network, its data, and its training written out, for libraries that work on any torch.nn.Module."""

from typing import Any, Callable, Dict, List, Sequence, Tuple

from ..evidence import close, falls, reached, require, sound
from ..probe import Probe

NEEDS = ("torch",)

MOMENTUM = 0.9


def network(probe: Probe, dtype: Any = None) -> Any:
    """Two layers, the same under each seed."""
    import torch

    torch.manual_seed(probe.seed)
    layers = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 4))
    return layers.to(probe.device, dtype or torch.float32)


def batches(probe: Probe, count: int, size: int = 4) -> List[Tuple[Any, Any]]:
    """Inputs and what the network should make of them."""
    drawn = [probe.randn(size, 6, offset=number) for number in range(count)]
    return [(x, x[:, :4].sin()) for x in drawn]


def loss_of(model: Callable[[Any], Any], batch: Tuple[Any, Any]) -> Any:
    """The mean squared error of a model's output."""
    return (model(batch[0]) - batch[1]).square().mean()


def optimiser(model: Any, rate: float) -> Any:
    """torch's SGD with momentum."""
    import torch

    return torch.optim.SGD(model.parameters(), lr=rate, momentum=MOMENTUM)


def trained(probe: Probe, steps: Sequence[Sequence[Tuple[Any, Any]]], rates: Sequence[float], clip: float) -> Any:
    """The network in float64 after SGD with momentum, whose gradients are the mean of a step's batches, clipped."""
    import torch

    model = network(probe, torch.float64)
    weights, speed = list(model.parameters()), [0.0 for _ in model.parameters()]
    for step, rate in zip(steps, rates):
        total = sum(loss_of(model, (x.double(), wanted.double())) for x, wanted in step) / len(step)
        gradients = torch.autograd.grad(total, weights)
        norm = float(torch.stack([gradient.norm() for gradient in gradients]).norm())
        shrunk = min(1.0, clip / (norm + 1e-6))
        with torch.no_grad():
            for number, (weight, gradient) in enumerate(zip(weights, gradients)):
                speed[number] = MOMENTUM * speed[number] + shrunk * gradient
                weight -= rate * speed[number]
    return model


def same_weights(model: Any, expected: Any, what: str) -> None:
    """Require that a network has the weights of another."""
    for (name, weight), wanted in zip(model.named_parameters(), expected.parameters()):
        close(weight, wanted, f"{name} after {what}")


def same_as(model: Any, seen: Any, expected: Any, what: str, still: Sequence[str] = ()) -> None:
    """Require that a model's output is the written-out one, and that a random sum of both has the same gradients.

    Weights named in `still` may have a gradient of zero.
    """
    import torch

    named = dict(model.named_parameters())
    sound(seen, expected, what)
    require(seen.requires_grad, "no-gradient", f"{what}: the output is detached from the network")
    share = torch.randn(expected.shape, generator=torch.Generator().manual_seed(7)).to(expected)
    (seen * share).sum().backward()
    reached(named, what, still)
    close(seen, expected, what)
    for (name, weight), wanted in zip(named.items(), torch.autograd.grad((expected * share).sum(), named.values())):
        close(weight.grad, wanted, f"{what}: gradient of {name}", code="wrong-gradient")


def learns(
    model: Any,
    loss: Callable[[], Any],
    what: str,
    still: Sequence[str] = (),
    steps: int = 60,
    rate: float = 0.02,
    drop: float = 0.3,
) -> None:
    """Require that Adam lowers the loss by a share, and moves every weight but those that must stay."""
    import torch

    before: Dict[str, Any] = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    adam, losses = torch.optim.Adam(model.parameters(), lr=rate), []
    for _ in range(steps):
        adam.zero_grad()
        value = loss()
        require(value.requires_grad, "no-gradient", f"{what}: the loss is detached")
        value.backward()
        adam.step()
        losses.append(float(value.detach()))
    falls(losses, what, drop)
    for name, weight in model.named_parameters():
        moved = not torch.equal(weight, before[name])
        require(moved != (name in still), "does-not-train", f"{what}: {name} {'moved' if moved else 'did not move'}")


def attention(heads: int, query: Any, key: Any, value: Any, mask: Any = 0.0) -> Any:
    """Each head's values, weighted by the softmax of scores to which the mask is added; batch x length x width."""
    query, key, value = (x.reshape(*x.shape[:2], heads, -1).transpose(1, 2) for x in (query, key, value))
    odds = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5 + mask).softmax(-1)
    return (odds @ value).transpose(1, 2).flatten(2)
