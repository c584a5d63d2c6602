"""Captum: attributions of a network's output to its inputs, layers and neurons."""

import inspect
from importlib.util import find_spec
from typing import Any, Callable, Dict

from ..compiling import compiled
from ..evidence import NotApplicable, close, finite, moments, of_shape, on_device, require, seeded
from ..probe import Probe
from . import _captum_calls as calls
from . import _captum_methods as methods

DISTRIBUTION = "captum"
MODULE = "captum"
NEEDS = ("torch", "numpy")
COVERS = {
    "captum.attr.IntegratedGradients": "autograd/integrated gradients",
    "captum.attr.InputXGradient": "autograd/input x gradient",
    "captum.attr.LayerConductance": "autograd/layer conductance",
    "captum.attr.NeuronConductance": "autograd/neuron conductance",
    "captum.concept.TCAV": "autograd/TCAV",
    "captum.attr.Occlusion": "sample/occlusion",
    "captum.attr.NoiseTunnel": "sample/noise tunnel",
    "captum.attr.GradientShap": "sample/gradient SHAP",
    "captum.attr.Saliency": "autograd/saliency",
    "captum.attr.DeepLift": "sample/pooling beside ReLU",
    "captum.attr.DeepLiftShap": "autograd/rectified",
    "captum.attr.GuidedBackprop": "autograd/rectified",
    "captum.attr.Deconvolution": "autograd/rectified",
    "captum.attr.FeatureAblation": "sample/features left out",
    "captum.attr.FeaturePermutation": "sample/features left out",
    "captum.attr.ShapleyValueSampling": "sample/features left out",
    "captum.attr.ShapleyValues": "sample/features left out",
    "captum.attr.Lime": "sample/surrogates",
    "captum.attr.KernelShap": "sample/surrogates",
    "captum.attr.LayerActivation": "autograd/layers",
    "captum.attr.LayerGradCam": "autograd/layers",
    "captum.attr.LayerIntegratedGradients": "autograd/layers",
    "captum.attr.InternalInfluence": "autograd/layers",
    "captum.attr.LayerGradientXActivation": "autograd/layers",
    "captum.attr.NeuronGradient": "autograd/layers",
    "captum.metrics.infidelity": "sample/quality",
    "captum.metrics.sensitivity_max": "sample/quality",
    "captum.influence.TracInCP": "autograd/influence",
}

DRAWS = 20_000
STEPS = 64
"""Steps of the integral: with Gauss-Legendre nodes and a smooth network its error is far below the tolerance."""


def _network(probe: Probe, dtype: Any = None, size: int = 4) -> Any:
    """A small convolutional network with a residual block for square images, smooth so that integrals converge."""
    import torch
    from torch import nn

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 4, 3, padding=1))

        def forward(self, x: Any) -> Any:
            return x + self.inner(x)

    torch.manual_seed(probe.seed)
    layers = [nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), Residual(), nn.Tanh(), nn.Flatten(), nn.Linear(4 * size**2, 3)]
    return nn.Sequential(*layers).to(probe.device, dtype or torch.float32)


def _usable(attribution: Any, like: Any, what: str) -> Any:
    """Where and what it must be but for its dtype, which has a part of its own; returned in the reference's dtype."""
    attribution = attribution.detach()
    on_device(attribution, like.device, what)
    of_shape(attribution, like.shape, what)
    finite(attribution, what)
    return attribution.to(like.dtype)


def sample(probe: Probe) -> None:
    """Attributions come back where and as the input is; what is sampled has its moments; occlusion is what it says."""
    import numpy
    import torch
    from captum import attr

    def reseed(seed: int) -> None:
        torch.manual_seed(seed)
        numpy.random.seed(seed)  # Captum draws from both

    x = probe.randn(5, 2, 4, 4)
    network = _network(probe)
    with probe.part("dtype"):
        attributions = _attributions(network, x)
        for name, attribution in attributions.items():
            on_device(attribution, x.device, name)
        wrong = [f"{name} is {seen.dtype}" for name, seen in attributions.items() if seen.dtype != x.dtype]
        require(not wrong, "wrong-dtype", f"for an input of {x.dtype}: " + ", ".join(wrong))
    with probe.part("occlusion"), torch.no_grad():
        calls.occlusion(probe, network)
    for name, dtype in (("features left out", torch.float32), ("features left out in float64", torch.float64)):
        with probe.part(name):
            methods.left_out(probe, dtype)
    with probe.part("surrogates"):
        methods.surrogates(probe)
    with probe.part("quality"), torch.no_grad():
        methods.quality(probe)
    weight = probe.randn(1, 3, offset=2)
    linear = torch.nn.Linear(3, 1).to(probe.device)
    with torch.no_grad():
        linear.weight.copy_(weight)
    point = probe.randn(3, offset=3)
    copies = point.expand(DRAWS, 3).contiguous()  # each row is a draw of its own
    reseed(probe.seed)
    with probe.part("noise tunnel"):
        tunnel = attr.NoiseTunnel(attr.InputXGradient(linear))
        count = "nt_samples" if "nt_samples" in inspect.signature(tunnel.attribute).parameters else "n_samples"

        def noisy(x: Any) -> Any:
            return tunnel.attribute(x, nt_type="smoothgrad", stdevs=0.5, **{count: 1})

        drawn = _usable(noisy(copies), copies, "NoiseTunnel")
        moments(drawn, point * weight[0], 0.5 * weight[0].abs(), "NoiseTunnel")
        seeded(lambda: noisy(point[None]), "NoiseTunnel", reseed)
        if count == "nt_samples":
            several = {"nt_type": "smoothgrad", "stdevs": 0.5, "nt_samples": 4, "nt_samples_batch_size": 3}
            drawn = _usable(tunnel.attribute(copies, **several), copies, "NoiseTunnel in batches")
            moments(drawn, point * weight[0], 0.25 * weight[0].abs(), "NoiseTunnel in batches")
    with probe.part("gradient SHAP"):
        baselines = probe.randn(2, 3, offset=4)

        def shap(x: Any) -> Any:
            return attr.GradientShap(linear).attribute(x, baselines, n_samples=1, stdevs=0.5)

        drawn = _usable(shap(copies), copies, "GradientShap")
        spread = (0.25 + baselines.var(0, unbiased=False)).sqrt()
        moments(drawn, weight[0] * (point - baselines.mean(0)), weight[0].abs() * spread, "GradientShap")
        seeded(lambda: shap(copies[:64]), "GradientShap", reseed)
        way, one = point - baselines[0], baselines[:1]  # of a square, the place on the way decides
        method = attr.GradientShap(lambda x: (x**2 * weight[0]).sum(1))
        drawn = _usable(method.attribute(copies, one, n_samples=1, stdevs=0.0), copies, "GradientShap of a square")
        mean = weight[0] * (point**2 - baselines[0] ** 2)
        moments(drawn, mean, weight[0].abs() * way**2 / 3**0.5, "GradientShap of a square")
    with probe.part("pooling beside ReLU"):
        methods.pooled(probe)


def _attributions(network: Any, x: Any) -> Dict[str, Any]:
    """One attribution of each method, all for the same target."""
    from captum import attr

    return {
        "IntegratedGradients": attr.IntegratedGradients(network).attribute(x, target=1, n_steps=8),
        "InputXGradient": attr.InputXGradient(network).attribute(x, target=1),
        "Occlusion": attr.Occlusion(network).attribute(x, (2, 2, 2), target=1),
        "LayerConductance": attr.LayerConductance(network, network[2]).attribute(x, target=1, n_steps=8),
        "NeuronConductance": attr.NeuronConductance(network, network[5]).attribute(x, 1, target=1, n_steps=8),
    }


def autograd(probe: Probe) -> None:
    """Attributions by gradients are complete and equal to references made with torch alone; TCAV finds a concept."""
    import torch
    from captum import attr

    network, x = _network(probe, torch.float64), probe.randn(5, 2, 4, 4, dtype=torch.float64)
    with torch.no_grad():
        rise = (network(x) - network(torch.zeros_like(x)))[:, 1]
    path = _integrated(network, x)
    start = probe.randn(5, 2, 4, 4, offset=1, dtype=torch.float64)
    with probe.part("input x gradient"):
        seen = _usable(attr.InputXGradient(network).attribute(x.clone(), target=1), x, "InputXGradient")
        close(seen, x * _gradient(network, x), "InputXGradient", code="wrong-gradient")
    with probe.part("integrated gradients"):
        method = attr.IntegratedGradients(network)
        seen, delta = method.attribute(x.clone(), target=1, n_steps=STEPS, return_convergence_delta=True)
        seen = _usable(seen, x, "IntegratedGradients")
        close(seen.flatten(1).sum(1), rise, "completeness of IntegratedGradients", rtol=1e-4, atol=1e-4)
        close(seen, path, "IntegratedGradients", rtol=1e-4, atol=1e-4, code="wrong-gradient")
        close(delta, torch.zeros_like(rise), "convergence delta of IntegratedGradients", atol=1e-4)
        for rule, error in (("riemann_trapezoid", 0.01), ("gausslegendre", 1e-4)):
            seen = method.attribute(x.clone(), start, target=1, n_steps=STEPS, method=rule, internal_batch_size=7)
            what = f"IntegratedGradients from a baseline by {rule}"
            close(seen, _integrated(network, x, start), what, rtol=error, atol=error, code="wrong-gradient")
    with probe.part("layer conductance"):
        with torch.no_grad():
            like = network[:3](x)
        method = attr.LayerConductance(network, network[2])
        with torch.no_grad():
            whole = (network(x) - network(start))[:, 1]
        from_zero = method.attribute(x.clone(), target=1, n_steps=500)
        from_start = method.attribute(x.clone(), baselines=start, target=1, n_steps=500, internal_batch_size=700)
        for seen, total, what in ((from_zero, rise, ""), (from_start, whole, " from a baseline, in batches")):
            seen = _usable(seen, like, f"LayerConductance{what}")
            # It takes differences between the steps of its path: its error falls with their number, not faster.
            close(seen.flatten(1).sum(1), total, f"completeness of LayerConductance{what}", rtol=0.01, atol=0.01)
    with probe.part("neuron conductance"):  # an output's conductance to itself is its integrated gradient
        method = attr.NeuronConductance(network, network[5])
        seen = method.attribute(x.clone(), 1, target=1, n_steps=STEPS, method="gausslegendre")
        seen = _usable(seen, x, "NeuronConductance")
        close(seen, path, "NeuronConductance", rtol=1e-4, atol=1e-4, code="wrong-gradient")
    with probe.part("saliency"):
        signed = attr.Saliency(network).attribute(x.clone(), target=1, abs=False)
        close(_usable(signed, x, "Saliency"), _gradient(network, x), "Saliency with its sign", code="wrong-gradient")
        seen = _usable(attr.Saliency(network).attribute(x.clone(), target=1), x, "Saliency")
        close(seen, _gradient(network, x).abs(), "Saliency", code="wrong-gradient")
    with probe.part("rectified"):
        methods.rectified(probe)
    with probe.part("layers"):
        methods.by_layer(probe)
    with probe.part("further arguments"):
        calls.further_arguments(probe)
    with probe.part("influence"):
        methods.influence(probe)
    with probe.part("TCAV"):
        _concepts(probe)
    with probe.part("cost"):
        _cost(probe)


def _gradient(network: Any, x: Any) -> Any:
    import torch

    x = x.detach().requires_grad_()
    return torch.autograd.grad(network(x)[:, 1].sum(), x)[0]


def _integrated(network: Any, x: Any, start: Any = 0.0) -> Any:
    """The integral of the gradient from the start to x, by the midpoint rule."""
    way = x - start
    return sum(way * _gradient(network, start + way * ((step + 0.5) / 200)) for step in range(200)) / 200


def _concepts(probe: Probe) -> None:
    """A network that rises with the sum of its inputs is sensitive to the concept `bright` and not to `dark`."""
    import tempfile

    import torch

    try:
        from captum.concept import TCAV, Concept
    except ImportError:
        raise NotApplicable("this Captum has no TCAV (0.4 and newer have)") from None
    if find_spec("sklearn") is None:
        raise NotApplicable("TCAV's classifier needs scikit-learn, which is not installed")

    def concept(number: int, name: str, shift: float) -> Any:
        examples = probe.randn(40, 4, offset=number) + shift
        return Concept(number, name, torch.utils.data.DataLoader(examples, batch_size=40))

    network = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Linear(6, 1)).to(probe.device)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_()
    torch.manual_seed(probe.seed)
    with tempfile.TemporaryDirectory() as folder:
        tcav = TCAV(network, layers=["0"], save_path=folder)
        pair = [concept(0, "bright", 2.0), concept(1, "dark", -2.0)]
        scores = tcav.interpret(probe.randn(10, 4, offset=2), [pair], target=0)["0-1"]["0"]
    finite(tcav.cavs["0-1"]["0"].stats["accs"], "accuracy of TCAV's classifier")
    for kind in ("sign_count", "magnitude"):
        finite(scores[kind], f"TCAV {kind}")
    close(scores["sign_count"].cpu(), torch.tensor([1.0, 0.0]), "TCAV sign count of bright and dark")


def _cost(probe: Probe) -> None:
    """Claims: attribution needs several times the memory of inference.

    On a GPU the images are so large that a layer's result, 64 MiB, outweighs what cuDNN takes for a convolution.
    """
    import torch
    from captum import attr

    on_gpu = probe.device.type == "cuda"
    images, size, steps = (256, 128, 8) if on_gpu else (64, 4, 50)
    if on_gpu:
        probe.free_memory(8 << 30)
    network, x = _network(probe, size=size), probe.randn(images, 2, size, size)
    method = attr.IntegratedGradients(network)

    def infer() -> None:
        with torch.no_grad():
            network(x)

    def attribute() -> None:
        method.attribute(x, target=1, n_steps=steps)

    probe.metric("attribution/inference time", probe.seconds(attribute) / probe.seconds(infer), "ratio")
    attribute_peak, infer_peak = probe.peak_memory(attribute), probe.peak_memory(infer)
    if attribute_peak and infer_peak:
        probe.metric("peak memory: attribution/inference", attribute_peak / infer_peak, "ratio")


def compile(probe: Probe) -> None:
    """Attributions under torch.compile, and of a compiled network, equal the eager ones."""
    import torch
    from captum import attr

    torch.manual_seed(probe.seed)
    network = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)).to(probe.device)
    inputs = [(probe.randn(rows, 6, offset=rows),) for rows in (4, 7)]

    def integrated(model: Any) -> Callable[[Any], Any]:
        return lambda x: attr.IntegratedGradients(model).attribute(x, target=1, n_steps=8)

    def conductance(x: Any) -> Any:
        return attr.LayerConductance(network, network[0]).attribute(x, target=1, n_steps=8)

    with probe.part("integrated gradients"):
        backend = probe.heavy_backend
        compiled(probe, integrated(network), inputs, "IntegratedGradients", backward=False, backend=backend)
    with probe.part("layer conductance"):
        compiled(probe, conductance, inputs[:1], "LayerConductance", backward=False)
    with probe.part("compiled network"):
        quick = compiled(probe, network, inputs, "network", dict(network.named_parameters()))
        for (x,) in inputs:
            seen, expected = integrated(quick)(x), integrated(network)(x)
            require(seen.dtype == expected.dtype, "compile-mismatch", "compiling changes the attribution's dtype")
            close(seen, expected, "attribution of a compiled network", code="compile-mismatch")
