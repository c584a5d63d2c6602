"""(probe, reason code, what is wrong) -> the sabotage of torch that the probe must answer with that code."""

from __future__ import annotations

from typing import Any

from ._change import (
    Sabotage,
    detached,
    double,
    eager,
    elsewhere,
    first,
    nan,
    replace,
    reseed,
    returns,
    rewind,
    scaled,
    steeper,
    uphill,
    wider,
)

NORMAL = "torch.distributions.Normal:rsample"
CONVOLUTION = "torch.nn.functional:conv2d"
LINEAR = "torch.nn.functional:linear"


def _standing_still(_: Any) -> Any:
    """A step that changes no parameter."""
    return lambda self, *_, **__: None


def _compiled_off(factor: float) -> Sabotage:
    """What is compiled differs from what is eager."""

    def apply() -> None:
        import torch

        original = torch.compile

        def compile(function: Any, **options: Any) -> Any:
            made = original(function, **options)
            return lambda *arguments: made(*arguments) * factor

        torch.compile = compile

    return apply


MUTATIONS: dict[tuple[str, str, str], Sabotage] = {
    ("sample", "wrong-device", "draws on another device"): returns(NORMAL, elsewhere),
    ("sample", "wrong-moments", "draws scatter 10 percent too far"): wider(NORMAL),
    ("sample", "wrong-dtype", "float64 for float32"): returns(NORMAL, double),
    ("sample", "not-finite", "one NaN"): returns(NORMAL, nan),
    ("sample", "seed-ignored", "the seed is forgotten"): first(NORMAL, reseed),
    ("sample", "repeated-draw", "each draw is the same"): first(NORMAL, rewind),
    ("sample", "wrong-moments", "Gamma off by 10 percent"): returns("torch.distributions.Gamma:rsample", scaled(1.1)),
    ("sample", "wrong-value", "convolution 1 percent off"): returns(CONVOLUTION, scaled(1.01)),
    ("sample", "wrong-value", "attention 1 percent off"): returns(
        "torch.nn.functional:scaled_dot_product_attention", scaled(1.01)
    ),
    ("sample", "wrong-moments", "dropout does not drop"): replace("torch.nn.Dropout:forward", lambda _: lambda s, x: x),
    ("sample", "wrong-value", "the process group doubles"): replace(
        "torch.distributed:all_reduce", lambda _: lambda tensor, *a, **k: tensor.mul_(2)
    ),
    ("autograd", "no-gradient", "detached draws"): returns(NORMAL, detached),
    ("autograd", "wrong-gradient", "gradient of a draw 10 percent too large"): returns(NORMAL, steeper),
    ("autograd", "no-gradient", "detached linear layer"): returns(LINEAR, detached),
    ("autograd", "wrong-gradient", "gradient of the layer 10 percent too large"): returns(LINEAR, steeper),
    ("autograd", "does-not-train", "the optimizer does not step"): replace("torch.optim.Adam:step", _standing_still),
    ("autograd", "does-not-train", "the layer learns uphill"): returns(LINEAR, uphill),
    ("compile", "not-compiled", "runs eagerly"): eager,
    ("compile", "compile-mismatch", "compiled 1 percent off"): _compiled_off(1.01),
    ("compile", "not-finite", "NaN when compiled"): _compiled_off(float("nan")),
}
