"""(probe, reason code, what is wrong) -> the sabotage of Captum that the probe must answer with that code."""

from __future__ import annotations

from typing import Any

from ._change import (
    Sabotage,
    after_init,
    all_nan,
    detached,
    double,
    eager,
    elsewhere,
    first,
    nan,
    options,
    replace,
    reseed,
    returns,
    rewind,
    scaled,
)

REQUIRES = ("torch==2.13.0", "numpy", "captum==0.9.0", "scikit-learn")
"""scikit-learn has the classifier of TCAV."""

PATH = "captum.attr.IntegratedGradients:attribute"
PRODUCT = "captum.attr.InputXGradient:attribute"
OCCLUSION = "captum.attr.Occlusion:attribute"
LAYER = "captum.attr.LayerConductance:attribute"
NEURON = "captum.attr.NeuronConductance:attribute"
NOISE = "captum.attr.NoiseTunnel:attribute"
SHAP = "captum.attr.GradientShap:attribute"


def _options(**changes: Any) -> Any:
    """The method is called with other options than it was given."""

    def make(original: Any) -> Any:
        def attribute(self: Any, *arguments: Any, **options: Any) -> Any:
            return original(self, *arguments, **{**options, **changes})

        return attribute

    return make


def _first_neuron(original: Any) -> Any:
    def attribute(self: Any, x: Any, neuron: Any, **options: Any) -> Any:
        return original(self, x, 0, **options)

    return attribute


def _numb_channel(out: Any) -> Any:
    """The first channel is worth nothing."""
    out = out.clone()
    out[:, 0] = 0
    return out


def _forget_numpy() -> None:
    import numpy

    numpy.random.seed()


def _opposite(original: Any) -> Any:
    """Concepts count where they should not."""

    def interpret(self: Any, *arguments: Any, **options: Any) -> Any:
        scores = original(self, *arguments, **options)
        for layers in scores.values():
            for score in layers.values():
                score["sign_count"] = 1 - score["sign_count"]
        return scores

    return interpret


def _saliency(model: Any) -> Any:
    from captum.attr import Saliency

    return Saliency(model)


HOOKS = "captum.attr._core.deep_lift:_register_backward_hook"


def _as_released(mended: Any) -> Any:
    """DeepLift of Captum 0.6 to 0.9."""
    return mended.__wrapped__


def _own_output(original: Any) -> Any:
    """Where a layer's output is the next one's input, their hooks lie on one tensor: the layer missed the other's."""

    def register(module: Any, *arguments: Any) -> Any:
        return [*original(module, *arguments), module.register_forward_hook(lambda _, __, out: out.clone())]

    return register


MEND = replace(HOOKS, _own_output)

MUTATIONS: dict[tuple[str, str, str], Sabotage] = {
    ("autograd", "no-gradient", "an attribution without a graph"): returns(PRODUCT, detached),
    ("autograd", "wrong-value", "further arguments of another example"): options(
        "captum.attr.DeepLift:attribute", additional_forward_args=lambda given: (given[0].flip(0), *given[1:])
    ),
    ("sample", "wrong-value", "windows that overlap are counted once"): after_init(
        "captum.attr.Occlusion", lambda method: setattr(method, "use_weights", False)
    ),
    ("autograd", "wrong-value", "layer conductance leaves the baselines out"): replace(LAYER, _options(baselines=None)),
    ("sample", "wrong-moments", "gradient SHAP takes the end of its way"): replace(
        "captum.attr._core.gradient_shap:_scale_input", lambda original: lambda input, *others: input
    ),
    ("sample", "wrong-device", "attribution on another device"): returns(OCCLUSION, elsewhere),
    ("sample", "wrong-dtype", "float64 for float32"): returns(LAYER, double),
    ("sample", "wrong-value", "occlusion 1 percent off"): returns(OCCLUSION, scaled(1.01)),
    ("sample", "wrong-moments", "noise 10 percent too strong"): replace(NOISE, _options(stdevs=0.55)),
    ("sample", "wrong-moments", "SHAP values 10 percent off"): returns(SHAP, scaled(1.1)),
    ("sample", "seed-ignored", "torch's seed is forgotten"): first(NOISE, reseed),
    ("sample", "seed-ignored", "NumPy's seed is forgotten"): first(SHAP, _forget_numpy),
    ("sample", "repeated-draw", "the noise is the same each time"): first(NOISE, rewind),
    ("sample", "not-finite", "one NaN"): returns(NOISE, nan),
    ("autograd", "wrong-value", "path integral 1 percent off"): returns(PATH, scaled(1.01)),
    ("autograd", "wrong-value", "path integral of a single step"): replace(PATH, _options(n_steps=1)),
    ("autograd", "wrong-gradient", "gradient zero"): returns(PRODUCT, scaled(0.0)),
    ("autograd", "wrong-gradient", "gradient of one channel zero"): returns(PRODUCT, _numb_channel),
    ("autograd", "not-finite", "one NaN"): returns(PRODUCT, nan),
    ("autograd", "wrong-device", "attribution on another device"): returns(PRODUCT, elsewhere),
    ("autograd", "wrong-value", "layer conductance 10 percent off"): returns(LAYER, scaled(1.1)),
    ("autograd", "wrong-gradient", "conductance of another neuron"): replace(NEURON, _first_neuron),
    ("autograd", "wrong-value", "concepts turned round"): replace("captum.concept.TCAV:interpret", _opposite),
    ("sample", "wrong-value", "ablation 1 percent off"): returns("captum.attr.FeatureAblation:attribute", scaled(1.01)),
    ("sample", "wrong-value", "permutation moves nothing"): returns(
        "captum.attr.FeaturePermutation:attribute", scaled(0.0)
    ),
    ("sample", "wrong-value", "Shapley values of another baseline"): replace(
        "captum.attr.ShapleyValues:attribute",
        lambda original: lambda self, x, baselines=None, **options: original(self, x, 0 * baselines, **options),
    ),
    ("sample", "wrong-value", "drawn Shapley values ignore the groups"): replace(
        "captum.attr.ShapleyValueSampling:attribute", _options(feature_mask=None)
    ),
    ("sample", "wrong-value", "Lime 10 percent off"): returns("captum.attr.Lime:attribute", scaled(1.1)),
    ("sample", "wrong-value", "KernelShap 10 percent off"): returns("captum.attr.KernelShap:attribute", scaled(1.1)),
    ("sample", "wrong-value", "infidelity 1 percent off"): returns("captum.metrics:infidelity", scaled(1.01)),
    ("sample", "wrong-value", "sensitivity 1 percent off"): returns("captum.metrics:sensitivity_max", scaled(1.01)),
    ("autograd", "wrong-gradient", "the baseline is ignored"): replace(
        PATH,
        lambda original: lambda self, x, baselines=None, **options: original(self, x, None, **options),
    ),
    ("autograd", "wrong-gradient", "internal batches are summed twice"): replace(
        PATH,
        lambda original: (
            lambda self, *arguments, **options: (
                original(self, *arguments, **options) * (2 if "internal_batch_size" in options else 1)
            )
        ),
    ),
    ("autograd", "wrong-gradient", "saliency without its sign"): replace(
        "captum.attr.Saliency:attribute", _options(abs=True)
    ),
    ("sample", "wrong-value", "DeepLift of neighbours as released"): replace(HOOKS, _as_released),
    ("autograd", "wrong-value", "DeepLiftShap of the first baseline"): replace(
        "captum.attr.DeepLiftShap:attribute",
        lambda original: (
            lambda self, x, baselines, **options: original(
                self, x, baselines[:1].expand_as(baselines).contiguous(), **options
            )
        ),
    ),
    ("autograd", "wrong-value", "guided backpropagation like a plain one"): replace(
        "captum.attr.GuidedBackprop:attribute",
        lambda _: lambda self, x, target: _saliency(self.model).attribute(x, target, abs=False),
    ),
    ("autograd", "wrong-gradient", "internal influence 1 percent off"): returns(
        "captum.attr.InternalInfluence:attribute", scaled(1.01)
    ),
    ("autograd", "wrong-gradient", "layer integral without its baseline"): replace(
        "captum.attr.LayerIntegratedGradients:attribute",
        lambda original: lambda self, x, baselines, **options: original(self, x, **options),
    ),
    ("autograd", "wrong-value", "GradCam without its ReLU"): replace(
        "captum.attr.LayerGradCam:attribute", _options(relu_attributions=False)
    ),
    ("autograd", "wrong-value", "influence without learning rates"): replace(
        "captum.influence.TracInCP:influence",
        lambda original: lambda self, *arguments, **options: 10 * original(self, *arguments, **options),
    ),
    ("compile", "not-compiled", "runs eagerly"): eager,
    ("compile", "compile-mismatch", "1 percent off when compiled"): returns(PATH, scaled(1.01), when_compiled=True),
    ("compile", "not-finite", "NaN when compiled"): returns(PATH, all_nan, when_compiled=True),
    ("compile", "wrong-dtype", "float64 when compiled"): returns(PATH, double, when_compiled=True),
    ("compile", "compile-mismatch", "layer off when compiled"): returns(LAYER, scaled(1.01), when_compiled=True),
}
