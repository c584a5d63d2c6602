"""Captum's further methods against their definitions written out: by gradients, by layer, by leaving features out."""

import itertools
import math
import os
import tempfile
from importlib.util import find_spec
from typing import Any, Callable, Dict, Tuple

from ..evidence import SIGMAS, NotApplicable, close, finite, on_device, require, sound
from ..probe import Probe

NEEDS = ("torch", "captum")


def rectified(probe: Probe) -> None:
    """DeepLift's rescale rule, guided backpropagation and deconvolution on two layers with a ReLU between them."""
    import torch
    from captum import attr

    first, last, x = _layers(probe)
    network = torch.nn.Sequential(first, torch.nn.ReLU(), last)
    baselines = probe.randn(3, 4, offset=5, dtype=torch.float64)
    inner, weight = first(x), last.weight[1]

    def rescaled(x: Any, baseline: Any) -> Any:
        change, slope = first(x) - first(baseline), first(x).relu() - first(baseline).relu()
        return ((slope / change * weight) @ first.weight) * (x - baseline)

    one = baselines[:1].expand_as(x)
    seen, delta = attr.DeepLift(network).attribute(x, one, target=1, return_convergence_delta=True)
    wanted = {
        "DeepLift": (seen, rescaled(x, one)),
        "convergence delta of DeepLift": (delta, torch.zeros(len(x)).to(x)),
        "DeepLiftShap": (
            attr.DeepLiftShap(network).attribute(x, baselines, target=1),
            sum(rescaled(x, baseline.expand_as(x)) for baseline in baselines) / len(baselines),
        ),
        "GuidedBackprop": (
            attr.GuidedBackprop(network).attribute(x, target=1),
            ((inner > 0) * weight.relu()) @ first.weight,
        ),
        "Deconvolution": (attr.Deconvolution(network).attribute(x, target=1), (weight.relu() @ first.weight)[None]),
    }
    for name, (seen, expected) in wanted.items():
        sound(seen, x, name)
        close(seen, expected.expand_as(seen), name)


def pooled(probe: Probe) -> None:
    """DeepLift's attributions add up to the change of the output, also where pooling and a ReLU meet."""
    import torch
    from captum import attr
    from torch import nn

    torch.manual_seed(probe.seed)
    x, baseline = (probe.randn(3, 1, 8, 8, offset=n, dtype=torch.float64) for n in (6, 7))
    for name, layers in (
        ("pooling alone", (nn.MaxPool2d(2),)),
        ("a ReLU before pooling", (nn.ReLU(), nn.MaxPool2d(2))),
        ("a ReLU after pooling", (nn.MaxPool2d(2), nn.ReLU())),
    ):
        network = nn.Sequential(nn.Conv2d(1, 3, 3), *layers, nn.Flatten(), nn.Linear(27, 2)).to(x)
        seen = attr.DeepLift(network).attribute(x, baseline, target=1)
        rise = (network(x) - network(baseline))[:, 1]
        close(seen.flatten(1).sum(1), rise, f"completeness of DeepLift with {name}")


def by_layer(probe: Probe) -> None:
    """What a layer gives, its gradient, and the integrals over the layer's or the input's path."""
    import torch
    from captum import attr

    first, last, x = _layers(probe)
    network = torch.nn.Sequential(first, torch.nn.Tanh(), last)
    baseline = probe.randn(1, 4, offset=5, dtype=torch.float64).expand_as(x)
    inner, start = first(x).detach(), first(baseline).detach()

    def slope(inner: Any) -> Any:
        return last.weight[1] * (1 - inner.tanh().square())

    path = sum(slope(start + (n + 0.5) / 400 * (inner - start)) for n in range(400)) / 400  # the layer is linear
    options: Dict[str, Any] = {"target": 1, "n_steps": 64}
    wanted = {
        "LayerActivation": (attr.LayerActivation(network, network[1]).attribute(x), inner.tanh()),
        "LayerGradientXActivation": (
            attr.LayerGradientXActivation(network, first).attribute(x, target=1),
            inner * slope(inner),
        ),
        "LayerIntegratedGradients": (
            attr.LayerIntegratedGradients(network, first).attribute(x, baseline, internal_batch_size=7, **options),
            (inner - start) * path,
        ),
        "InternalInfluence": (attr.InternalInfluence(network, first).attribute(x, baseline, **options), path),
        "NeuronGradient": (
            attr.NeuronGradient(network, network[1]).attribute(x, (2,)),
            (1 - inner[:, 2:3].tanh().square()) * first.weight[2],
        ),
    }
    for name, (seen, expected) in wanted.items():
        sound(seen, x, name)
        close(seen, expected, name, rtol=1e-4, atol=1e-4, code="wrong-gradient")
    convolution = torch.nn.Conv2d(2, 3, 3).to(x)
    images = probe.randn(2, 2, 5, 5, offset=8, dtype=torch.float64)
    head = torch.nn.Linear(27, 2).to(x)
    camera = torch.nn.Sequential(convolution, torch.nn.Flatten(), head)
    seen = attr.LayerGradCam(camera, convolution).attribute(images, target=1, relu_attributions=True)
    shares = head.weight[1].reshape(3, 9).mean(1)
    close(seen, (shares[:, None, None] * convolution(images)).sum(1, keepdim=True).relu(), "LayerGradCam")


def _layers(probe: Probe) -> Tuple[Any, Any, Any]:
    """Two linear layers, and inputs for them, in float64."""
    import torch

    torch.manual_seed(probe.seed)
    first, last = (torch.nn.Linear(*shape).to(probe.device, torch.float64) for shape in ((4, 12), (12, 3)))
    return first, last, probe.randn(9, 4, offset=4, dtype=torch.float64)


def left_out(probe: Probe, dtype: Any) -> None:
    """Ablation, permutation and Shapley values of groups of features, from the values of all coalitions."""
    import torch
    from captum import attr

    first, last, x = (part.to(dtype) for part in _layers(probe))
    baseline = probe.randn(1, 4, offset=5, dtype=dtype)
    groups = torch.tensor([[0, 0, 1, 2]], device=probe.device)

    def value(x: Any) -> Any:
        return last(first(x).tanh())[:, 1]

    def with_groups(present: Tuple[int, ...], absent: Any) -> Any:
        chosen = torch.stack([groups[0] == group for group in present]).any(0) if present else groups[0] < 0
        return value(torch.where(chosen, x, absent))

    with torch.no_grad():
        ablated = [value(x) - with_groups(tuple({0, 1, 2} - {group}), baseline) for group in range(3)]
        moved = [value(x) - with_groups(tuple({0, 1, 2} - {group}), x.roll(1, 0)) for group in range(3)]
        orders = list(itertools.permutations(range(3)))
        gains = torch.stack(
            [
                torch.stack(
                    [
                        with_groups(order[: order.index(group) + 1], baseline)
                        - with_groups(order[: order.index(group)], baseline)
                        for group in range(3)
                    ]
                )
                for order in orders
            ]
        )
        options: Dict[str, Any] = {"feature_mask": groups, "perturbations_per_eval": 2}
        permuted = attr.FeaturePermutation(value, perm_func=lambda x, mask: torch.where(mask, x.roll(1, 0), x))
        shapley = gains.mean(0)
        wanted = {
            "FeatureAblation": (attr.FeatureAblation(value).attribute(x, baseline, **options), torch.stack(ablated)),
            "FeaturePermutation": (permuted.attribute(x, **options), torch.stack(moved)),
            "ShapleyValues": (attr.ShapleyValues(value).attribute(x, baseline, **options), shapley),
        }
        for name, (seen, expected) in wanted.items():  # Captum's Shapley values of float64 come in float32
            on_device(seen, x.device, name)
            close(seen, expected[groups[0]].T, name)
        count = 200
        torch.manual_seed(probe.seed)
        drawn = attr.ShapleyValueSampling(value).attribute(x, baseline, n_samples=count, **options)
        finite(drawn, "ShapleyValueSampling")
        error = (drawn - shapley[groups[0]].T).abs() / (gains.std(0)[groups[0]].T / math.sqrt(count) + 1e-6)
        worst = float(error.max())
        require(worst < SIGMAS, "wrong-value", f"ShapleyValueSampling is {worst:.1f} standard errors off")
        whole = drawn[:, [0, 2, 3]].sum(1)
        close(whole, value(x) - value(baseline), "completeness of ShapleyValueSampling", rtol=1e-4, atol=1e-4)


def surrogates(probe: Probe) -> None:
    """A linear function's own coefficients come back from Lime, and its contributions from KernelShap."""
    import torch
    from captum import attr

    if find_spec("sklearn") is None:
        raise NotApplicable("the linear models of Lime need scikit-learn, which is not installed")
    from captum._utils.models.linear_model import SkLearnLinearRegression

    weight, x, baseline = (probe.randn(1, 4, offset=n) for n in (1, 2, 3))
    torch.manual_seed(probe.seed)
    expected = weight * (x - baseline)
    methods: Dict[str, Callable[[Any], Any]] = {
        "Lime": lambda f: attr.Lime(f, SkLearnLinearRegression()),
        "KernelShap": attr.KernelShap,
    }
    for name, make in methods.items():
        method = make(lambda x: (x * weight).sum(1))
        seen = method.attribute(x, baseline, n_samples=200, perturbations_per_eval=16)
        sound(seen, x, name)
        close(seen, expected, name, rtol=1e-3, atol=1e-3)
    product = attr.KernelShap(lambda x: x.prod(1)).attribute(x, baseline, n_samples=1500, perturbations_per_eval=100)
    corners = list(itertools.permutations(range(4)))
    shapley = torch.zeros_like(x)
    for order in corners:
        point = baseline.clone()
        for feature in order:
            before = point.prod()
            point[0, feature] = x[0, feature]
            shapley[0, feature] += (point.prod() - before) / len(corners)
    scale = float(shapley.abs().max())
    close(product.sum(), (x.prod() - baseline.prod()).reshape(()), "completeness of KernelShap", atol=0.02 * scale)
    close(product, shapley, "KernelShap of a product", rtol=0.0, atol=0.4 * scale)


def quality(probe: Probe) -> None:
    """Infidelity of a linear function and sensitivity of a linear explanation, for given perturbations."""
    import torch
    from captum.metrics import infidelity, sensitivity_max

    weight, off, step = (probe.randn(1, 4, offset=n) for n in (1, 2, 3))
    x = probe.randn(5, 4)
    step = step.abs() * 0.1

    def perturb(inputs: Any) -> Tuple[Any, Any]:
        return step.expand_as(inputs), inputs - step

    for error in (torch.zeros_like(off), off):
        attributions = (weight + error).expand_as(x)
        seen = infidelity(lambda x: (x * weight).sum(1), perturb, x, attributions, n_perturb_samples=3)
        close(seen, (step * error).sum().square().expand(5), "infidelity")

    def explain(inputs: Any) -> Any:
        return tuple(tensor * weight for tensor in inputs) if isinstance(inputs, tuple) else inputs * weight

    shifted: Callable[[Any, float], Any] = lambda inputs, radius: inputs + radius * step  # noqa: E731
    seen = sensitivity_max(explain, x, perturb_func=shifted, perturb_radius=0.5, n_perturb_samples=2)
    close(seen, (0.5 * step * weight).norm() / (x * weight).norm(dim=1), "sensitivity")


def influence(probe: Probe) -> None:
    """An example's influence is the sum over checkpoints of the products of gradients, each times its learning rate."""
    import torch
    from captum.influence import TracInCP

    data, targets = probe.randn(6, 3), probe.randn(6, 1, offset=1)
    network = torch.nn.Linear(3, 1, bias=False).to(probe.device)
    rates, weights = (0.1, 0.05), [probe.randn(1, 3, offset=n) for n in (2, 3)]
    asked, wanted = probe.randn(2, 3, offset=4), probe.randn(2, 1, offset=5)

    def load(model: Any, path: str) -> float:
        number = int(os.path.basename(path))
        with torch.no_grad():
            model.weight.copy_(weights[number])
        return rates[number]

    def gradient(x: Any, y: Any, weight: Any) -> Any:
        return 2 * (x @ weight.T - y) * x

    with tempfile.TemporaryDirectory() as folder:
        paths = [os.path.join(folder, str(number)) for number in range(2)]
        for path in paths:
            open(path, "w").close()
        tracin = TracInCP(
            network,
            torch.utils.data.TensorDataset(data, targets),
            paths,
            checkpoints_load_func=load,
            loss_fn=torch.nn.MSELoss(reduction="sum"),
            batch_size=4,
            sample_wise_grads_per_batch=True,
        )
        seen = tracin.influence((asked, wanted))
    expected = sum(r * gradient(asked, wanted, w) @ gradient(data, targets, w).T for r, w in zip(rates, weights))
    close(seen, expected, "influence")
