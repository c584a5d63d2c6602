"""How Captum's methods may be called: further arguments of the function, internal batches, several inputs, a graph."""

import itertools
from functools import partial
from typing import Any, Callable, Dict, Sequence, Tuple

from ..evidence import close, require
from ..probe import Probe

NEEDS = ("torch", "captum")


def further_arguments(probe: Probe) -> None:
    """Arguments of each example, and of all, reach each method, in batches too: as if each example came alone."""
    import torch
    from captum import attr
    from torch import nn

    torch.manual_seed(probe.seed)
    first, bend, last = nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)

    class Model(nn.Module):
        def __init__(self, *given: Any) -> None:
            super().__init__()
            self.layers, self.given = nn.Sequential(first, bend, last), given

        def forward(self, x: Any, *given: Any) -> Any:
            share, factor = given or self.given
            return self.layers(x * share) * factor

    x, share = (probe.randn(3, 4, offset=n, dtype=torch.float64) for n in (1, 2))
    model, factor = Model().to(x), 2.0
    path: Dict[str, Any] = {"baselines": probe.randn(1, 4, offset=3, dtype=torch.float64), "target": 1}
    steps: Dict[str, Any] = {**path, "n_steps": 8}
    batches: Dict[str, Any] = {**steps, "internal_batch_size": 7}
    methods: Dict[str, Callable[[Any], Any]] = {
        "IntegratedGradients": lambda m: partial(attr.IntegratedGradients(m).attribute, **steps),
        "IntegratedGradients in batches": lambda m: partial(attr.IntegratedGradients(m).attribute, **batches),
        "InputXGradient": lambda m: partial(attr.InputXGradient(m).attribute, target=1),
        "Saliency": lambda m: partial(attr.Saliency(m).attribute, target=1),
        "DeepLift": lambda m: partial(attr.DeepLift(m).attribute, **path),
        "LayerConductance": lambda m: partial(attr.LayerConductance(m, bend).attribute, **steps),
        "LayerConductance in batches": lambda m: partial(attr.LayerConductance(m, bend).attribute, **batches),
        "NeuronConductance": lambda m: partial(attr.NeuronConductance(m, bend).attribute, neuron_selector=2, **steps),
        "NeuronConductance in batches": lambda m: partial(
            attr.NeuronConductance(m, bend).attribute, neuron_selector=2, **batches
        ),
        "NeuronGradient": lambda m: partial(attr.NeuronGradient(m, first).attribute, neuron_selector=2),
        "LayerActivation": lambda m: attr.LayerActivation(m, first).attribute,
        "LayerGradientXActivation": lambda m: partial(attr.LayerGradientXActivation(m, first).attribute, target=1),
        "LayerIntegratedGradients": lambda m: partial(attr.LayerIntegratedGradients(m, first).attribute, **batches),
        "InternalInfluence": lambda m: partial(attr.InternalInfluence(m, first).attribute, **batches),
        "FeatureAblation": lambda m: partial(attr.FeatureAblation(m).attribute, perturbations_per_eval=3, **path),
        "Occlusion": lambda m: partial(attr.Occlusion(m).attribute, sliding_window_shapes=(2,), **path),
        "ShapleyValues": lambda m: partial(attr.ShapleyValues(m).attribute, perturbations_per_eval=3, **path),
    }
    for name, method in methods.items():
        point = x.clone().requires_grad_()
        seen = method(model)(point, additional_forward_args=(share, factor))
        rows = [method(Model(share[n : n + 1], factor))(x[n : n + 1]) for n in range(len(x))]
        close(seen, torch.cat(rows), f"{name} with further arguments", rtol=1e-4, atol=1e-5)
        if name in ("IntegratedGradients", "InputXGradient", "DeepLift", "NeuronConductance"):
            # the gradients are constants of the graph, which leaves the factor that they are multiplied by
            require(seen.requires_grad, "no-gradient", f"{name} is detached from its input")
            far = x - (0 if name == "InputXGradient" else path["baselines"])
            slope = torch.autograd.grad(seen.sum(), point)[0]
            close(slope * far, seen, f"{name} by its graph", rtol=1e-4, atol=1e-5, code="wrong-gradient")
    for name in ("IntegratedGradients", "GradientShap", "DeepLift"):
        choice = getattr(attr, name)(model, multiply_by_inputs=False)
        require(not choice.multiplies_by_inputs, "wrong-value", f"{name} multiplies by inputs against its option")
        require(getattr(attr, name)(model).multiplies_by_inputs, "wrong-value", f"{name} does not multiply by inputs")
    require(attr.InputXGradient(model).multiplies_by_inputs, "wrong-value", "InputXGradient says that it is none")


def occlusion(probe: Probe, network: Any) -> None:
    """The change of the output by each window, over the windows that hold a feature; of several inputs too."""
    from captum import attr

    x, other = probe.randn(5, 2, 4, 4), probe.randn(5, 5, offset=1)

    def value(x: Any, other: Any) -> Any:
        return network(x)[:, 1] * other.square().sum(1)

    seen = attr.Occlusion(network).attribute(x, (2, 2, 2), strides=(2, 2, 2), target=1)
    close(seen.to(x), _occluded(lambda x: network(x)[:, 1], (x,), 0, (2, 2, 2), (2, 2, 2), 0), "Occlusion")
    windows, strides, baselines = ((2, 2, 3), (2,)), ((1, 1, 1), (2,)), (0.5, -0.5)  # overlap, or leave a half
    several = attr.Occlusion(value).attribute((x, other), windows, strides, baselines, perturbations_per_eval=3)
    for number, seen in enumerate(several):
        expected = _occluded(value, (x, other), number, windows[number], strides[number], baselines[number])
        close(seen.to(x), expected, f"Occlusion of input {number} of several")


def _occluded(
    value: Any, inputs: Tuple[Any, ...], number: int, window: Sequence[int], strides: Sequence[int], baseline: float
) -> Any:
    import torch

    total, count = torch.zeros_like(inputs[number]), torch.zeros_like(inputs[number])
    sizes = zip(inputs[number].shape[1:], window, strides)
    for starts in itertools.product(*(range(0, size - width + step, step) for size, width, step in sizes)):
        box = (slice(None), *(slice(start, start + width) for start, width in zip(starts, window)))
        without = [x.clone() for x in inputs]
        without[number][box] = baseline
        change = value(*inputs) - value(*without)
        total[box] += change.reshape(-1, *[1] * len(window))
        count[box] += 1
    return total / count
