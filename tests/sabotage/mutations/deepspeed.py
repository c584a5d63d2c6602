"""(probe, reason code, what is wrong) -> the sabotage of DeepSpeed that the probe must answer with that code."""

from __future__ import annotations

from typing import Any

from ._change import Sabotage, all_nan, detached, does_nothing, double, eager, nan, replace, returns, scaled

REQUIRES = ("torch==2.13.0", "numpy", "setuptools", "deepspeed==0.14.5")
"""An environment that fits: a DeepSpeed that installs as a wheel's equal, without a build against CUDA."""

ENGINE = "deepspeed.runtime.engine.DeepSpeedEngine"
PIPELINE = "deepspeed.runtime.pipe.engine.PipelineEngine"
INFERENCE = "deepspeed.inference.engine.InferenceEngine"
ZERO = "deepspeed.runtime.zero.stage_1_and_2.DeepSpeedZeroOptimizer"
LINEAR = "torch.nn.functional:linear"


def _steeper(original: Any) -> Any:
    """The loss is scaled by 1.1 before its backward pass."""
    return lambda self, loss, *arguments, **options: original(self, loss * 1.1, *arguments, **options)


def _numb_bias(original: Any) -> Any:
    """The first layer's bias counts in the result, not in the gradient."""

    def forward(self: Any, data: Any) -> Any:
        import torch

        bias = self.module[0].bias
        return torch.func.functional_call(self.module, {"0.bias": bias.detach() + 0 * bias}, (data,))

    return forward


def _faster(optimizer: Any) -> Any:
    """Steps 10 percent too long."""
    for group in optimizer.param_groups:
        group["lr"] *= 1.1
    return optimizer


def _only_once(original: Any) -> Any:
    """The first step is taken, no other."""

    def step(self: Any, *arguments: Any, **options: Any) -> Any:
        if not getattr(self, "stepped", False):
            self.stepped = True
            return original(self, *arguments, **options)
        return None

    return step


MUTATIONS: dict[tuple[str, str, str], Sabotage] = {
    ("autograd", "no-gradient", "detached output"): returns(f"{ENGINE}:forward", detached),
    ("autograd", "wrong-value", "output 10 percent too large"): returns(f"{ENGINE}:forward", scaled(1.1)),
    ("autograd", "not-finite", "one NaN"): returns(f"{ENGINE}:forward", nan),
    ("autograd", "wrong-dtype", "float64 for float32"): returns(f"{ENGINE}:forward", double),
    ("autograd", "wrong-gradient", "gradients 10 percent too large"): replace(f"{ENGINE}:backward", _steeper),
    ("autograd", "wrong-gradient", "one parameter's gradient is zero"): replace(f"{ENGINE}:forward", _numb_bias),
    ("autograd", "wrong-value", "the engine does not step"): replace(f"{ENGINE}:step", does_nothing),
    ("autograd", "wrong-value", "ZeRO takes one step only"): replace(f"{ZERO}:step", _only_once),
    ("autograd", "wrong-value", "steps 10 percent too long"): returns(f"{ENGINE}:_configure_basic_optimizer", _faster),
    ("autograd", "wrong-gradient", "ranks keep their gradients to themselves"): replace(
        "deepspeed.comm:all_reduce", does_nothing
    ),
    ("autograd", "wrong-value", "the pipeline does not step"): replace(f"{PIPELINE}:_take_model_step", does_nothing),
    ("autograd", "wrong-value", "the pipeline's loss 1 percent off"): returns(f"{PIPELINE}:train_batch", scaled(1.01)),
    ("autograd", "wrong-value", "a checkpoint without the optimizer's state"): replace(
        f"{ENGINE}:load_checkpoint",
        lambda original: (
            lambda self, *arguments, **given: original(self, *arguments, load_optimizer_states=False, **given)
        ),
    ),
    ("autograd", "wrong-value", "inference 10 percent off"): returns(f"{INFERENCE}:forward", scaled(1.1)),
    ("autograd", "wrong-dtype", "inference in float64"): returns(f"{INFERENCE}:forward", double),
    ("compile", "not-compiled", "runs eagerly"): eager,
    ("compile", "compile-mismatch", "a layer 1 percent off when compiled"): returns(
        LINEAR, scaled(1.01), when_compiled=True
    ),
    ("compile", "not-finite", "NaN when compiled"): returns(LINEAR, all_nan, when_compiled=True),
    ("compile", "wrong-dtype", "float64 when compiled"): returns(
        "torch.nn.Sequential:forward", double, when_compiled=True
    ),
    ("compile", "no-gradient", "detached when compiled"): returns(
        "torch.nn.Sequential:forward", detached, when_compiled=True
    ),
}
