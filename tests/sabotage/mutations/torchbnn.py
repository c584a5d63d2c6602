"""(probe, reason code, what is wrong) -> the sabotage of torchbnn that the probe must answer with that code."""

from __future__ import annotations

from typing import Any

from ._change import (
    Sabotage,
    all_nan,
    detached,
    does_nothing,
    double,
    elsewhere,
    first,
    left_alone,
    nan,
    replace,
    reseed,
    returns,
    rewind,
    scaled,
    steeper,
)

FORWARD = "torchbnn.BayesLinear:forward"
NORM = "torchbnn.BayesBatchNorm2d:forward"


def _scatter(factor: float, *, when_compiled: bool = False) -> Sabotage:
    """What a layer draws scatters too far around what its means give; frozen layers do not draw."""

    def make(original: Any) -> Any:
        def forward(self: Any, x: Any) -> Any:
            import torch

            out = original(self, x)
            if self.weight_eps is not None or (when_compiled and not torch.compiler.is_compiling()):
                return out
            mean = torch.nn.functional.linear(x, self.weight_mu, self.bias_mu)
            return mean + factor * (out - mean)

        return forward

    return replace(FORWARD, make)


def _numb_bias(original: Any) -> Any:
    """A frozen layer whose bias' deviation gets no gradient but zeros."""

    def forward(self: Any, x: Any) -> Any:
        out = original(self, x)
        if self.bias_eps is None:
            return out
        deviation = self.bias_log_sigma.exp()
        return out + (deviation.detach() - deviation) * self.bias_eps

    return forward


def _but_the_bias(original: Any) -> Any:
    """Only the weights of an unfrozen layer are drawn again."""

    def unfreeze(self: Any) -> None:
        noise = self.bias_eps
        original(self)
        self.bias_eps = noise

    return unfreeze


def _in_one_place(original: Any) -> Any:
    """All means of a new layer are alike."""

    def reset_parameters(self: Any) -> None:
        original(self)
        self.weight_mu.data.fill_(0.3)

    return reset_parameters


def _uphill(original: Any) -> Any:
    """A layer that is not frozen trains in the wrong direction."""

    def forward(self: Any, x: Any) -> Any:
        out = original(self, x)
        return out if self.weight_eps is not None else 2 * out.detach() - out

    return forward


def _forgetful(original: Any) -> Any:
    """Running statistics begin anew with each batch."""

    def forward(self: Any, x: Any) -> Any:
        if self.training:
            self.reset_running_stats()
        return original(self, x)

    return forward


MUTATIONS: dict[tuple[str, str, str], Sabotage] = {
    ("sample", "wrong-device", "output on another device"): returns(FORWARD, elsewhere),
    ("sample", "wrong-moments", "draws scatter 10 percent too far"): _scatter(1.1),
    ("sample", "wrong-moments", "convolution off by 10 percent"): returns("torchbnn.BayesConv2d:forward", scaled(1.1)),
    ("sample", "not-finite", "one NaN"): returns(FORWARD, nan),
    ("sample", "wrong-dtype", "float64 for float32"): returns(FORWARD, double),
    ("sample", "seed-ignored", "the seed is forgotten"): first(FORWARD, reseed),
    ("sample", "repeated-draw", "each draw is the same"): first(FORWARD, rewind),
    ("sample", "seed-ignored", "freezing does nothing"): replace("torchbnn.BayesLinear:freeze", does_nothing),
    ("autograd", "no-gradient", "a convolution's output is detached"): returns(
        "torchbnn.BayesConv2d:forward", detached
    ),
    ("sample", "repeated-draw", "unfreezing leaves the bias frozen"): replace(
        "torchbnn.BayesLinear:unfreeze", _but_the_bias
    ),
    ("sample", "wrong-moments", "a convolution's means begin in one place"): replace(
        "torchbnn.BayesConv2d:reset_parameters", _in_one_place
    ),
    ("sample", "repeated-draw", "unfreezing does nothing"): replace("torchbnn.BayesLinear:unfreeze", does_nothing),
    ("autograd", "no-gradient", "detached output"): returns(FORWARD, detached),
    ("autograd", "no-gradient", "detached KL loss"): returns("torchbnn.BKLLoss:forward", detached),
    ("autograd", "zero-gradient", "one parameter's gradient is zero"): replace(FORWARD, _numb_bias),
    ("autograd", "wrong-gradient", "gradient 10 percent too large"): returns(FORWARD, steeper),
    ("autograd", "wrong-gradient", "KL gradient 10 percent too large"): returns("torchbnn.BKLLoss:forward", steeper),
    ("autograd", "wrong-value", "KL loss 1 percent off"): returns("torchbnn.BKLLoss:forward", scaled(1.01)),
    ("autograd", "not-finite", "one NaN"): returns(FORWARD, nan),
    ("autograd", "does-not-train", "trains in the wrong direction"): replace(FORWARD, _uphill),
    ("sample", "wrong-value", "a frozen convolution 1 percent off"): returns(
        "torchbnn.BayesConv2d:forward", lambda out: out * 1.01 if out.shape[1] == 6 else out
    ),
    ("sample", "wrong-moments", "batch norm scatters too far"): returns(
        "torchbnn.BayesBatchNorm2d:forward", scaled(1.1)
    ),
    ("sample", "wrong-value", "batch norm forgets earlier batches"): replace(NORM, _forgetful),
    ("sample", "seed-ignored", "freezing a model does nothing"): replace("torchbnn.utils:freeze", does_nothing),
    ("autograd", "wrong-value", "the function's divergence 1 percent off"): returns(
        "torchbnn.functional:bayesian_kl_loss", scaled(1.01)
    ),
    ("compile", "not-compiled", "the layer runs eagerly"): replace(FORWARD, left_alone),
    ("compile", "compile-mismatch", "1 percent off when compiled"): returns(FORWARD, scaled(1.01), when_compiled=True),
    ("compile", "wrong-dtype", "float64 when compiled"): returns(FORWARD, double, when_compiled=True),
    ("compile", "not-finite", "NaN when compiled"): returns(FORWARD, all_nan, when_compiled=True),
    ("compile", "no-gradient", "detached when compiled"): returns(FORWARD, detached, when_compiled=True),
    ("compile", "wrong-moments", "compiled draws scatter too far"): _scatter(1.1, when_compiled=True),
}

SUBTLE: dict[tuple[str, str], Sabotage] = {
    ("autograd", "KL loss off by 0.005 percent"): returns("torchbnn.BKLLoss:forward", scaled(1.00005)),
}
"""(probe, what is wrong) -> the sabotage that the probe lets pass, and that only its fingerprint shows."""
