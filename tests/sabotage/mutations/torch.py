"""(probe, reason code, what is wrong) -> the sabotage of torch that the probe must answer with that code."""

from __future__ import annotations

import contextlib
from typing import Any

from ._change import (
    Sabotage,
    after_init,
    detached,
    does_nothing,
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
REPLICAS = "torch.nn.parallel.DistributedDataParallel"


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


def _in_float32(original: Any) -> Any:
    """autocast that leaves everything as it was."""

    def start(self: Any, *arguments: Any, **options: Any) -> None:
        original(self, *arguments, **{**options, "enabled": False})

    return start


def _loses_the_last(original: Any) -> Any:
    """A batch arrives without its last item, which another takes the place of."""

    def fetch(self: Any, index: Any) -> Any:
        return original(self, [*index[:-1], index[0]])

    return fetch


def _plain(original: Any) -> Any:
    """A buffer is an attribute like any other."""

    def register_buffer(self: Any, name: str, tensor: Any, persistent: bool = True) -> None:
        setattr(self, name, tensor)

    return register_buffer


def _unloaded(original: Any) -> Any:
    """A state is accepted, and not taken over."""
    return lambda self, state, *arguments, **options: None


def _halfway(original: Any) -> Any:
    """A copy of the first half only."""

    def copy(self: Any, source: Any, *arguments: Any) -> Any:
        half = len(self) // 2 if self.dim() else 0
        original(self[:half], source[:half], *arguments)
        return self

    return copy


def _flat(original: Any) -> Any:
    """Draws of the right mean and spread with the wrong quantiles."""

    def rsample(self: Any, shape: Any = ()) -> Any:
        import torch

        return self.mean + self.stddev * 12**0.5 * (torch.rand_like(original(self, shape)) - 0.5)

    return rsample


def _following(original: Any) -> Any:
    """Draws of the right distribution, each of which follows from the one before."""

    def rsample(self: Any, shape: Any = ()) -> Any:
        noise = original(self, shape) - self.mean
        return self.mean + (noise + noise.roll(1, 0)) / 2**0.5

    return rsample


def _halved(original: Any) -> Any:
    """A step that goes half as far."""

    def step(self: Any, *arguments: Any, **options: Any) -> Any:
        import torch

        weights = [weight for group in self.param_groups for weight in group["params"]]
        before = [weight.detach().clone() for weight in weights]
        out = original(self, *arguments, **options)
        with torch.no_grad():
            for weight, old in zip(weights, before, strict=True):
                weight.copy_((weight + old) / 2)
        return out

    return step


def _late(original: Any) -> Any:
    """A schedule that is one step behind."""

    def get_lr(self: Any) -> Any:
        self.last_epoch -= self.last_epoch > 0
        rates = original(self)
        self.last_epoch += self.last_epoch > 0
        return rates

    return get_lr


def _impatient(original: Any) -> Any:
    def init(self: Any, *arguments: Any, **options: Any) -> None:
        original(self, *arguments, **{**options, "patience": 0})

    return init


def _as_first(original: Any) -> Any:
    """A sampler that takes itself for the first rank's."""

    def iterate(self: Any) -> Any:
        self.rank = 0
        return original(self)

    return iterate


def _unshared(replicas: Any) -> None:
    """Replicas that believe to be inside no_sync() from the beginning."""
    replicas.require_backward_grad_sync = False


FAMILIES: tuple[str, ...] = (
    "Beta",
    "Exponential",
    "Gumbel",
    "HalfNormal",
    "Kumaraswamy",
    "Laplace",
    "LogNormal",
    "Pareto",
)
FAMILIES += ("StudentT", "Weibull", "MultivariateNormal", "Dirichlet")

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
    **{
        ("sample", "wrong-moments", f"{name} off by 10 percent"): returns(
            f"torch.distributions.{name}:rsample", scaled(1.1)
        )
        for name in FAMILIES
    },
    ("sample", "not-finite", "Uniform beyond its end"): returns("torch.distributions.Uniform:rsample", scaled(1.1)),
    ("sample", "wrong-value", "matrix product 1 percent off"): returns("torch.Tensor:__matmul__", scaled(1.01)),
    ("sample", "wrong-value", "half of a copy arrives"): replace("torch.Tensor:copy_", _halfway),
    ("sample", "wrong-dtype", "autocast does nothing"): replace("torch.autocast:__init__", _in_float32),
    ("sample", "wrong-value", "a worker hands one item over twice"): replace(
        "torch.utils.data._utils.fetch._MapDatasetFetcher:fetch", _loses_the_last
    ),
    ("sample", "wrong-value", "dropout is active after eval()"): replace(
        "torch.nn.Dropout:forward", lambda _: lambda s, x: __import__("torch").nn.functional.dropout(x, 0.5)
    ),
    ("sample", "wrong-value", "vmap gives each member the first one's result"): replace(
        "torch.func:vmap", lambda original: lambda *a, **k: lambda s: (out := original(*a, **k)(s))[:1].expand_as(out)
    ),
    ("sample", "wrong-value", "a buffer is a plain attribute"): replace("torch.nn.Module:register_buffer", _plain),
    ("sample", "wrong-value", "a loaded state is not taken over"): replace(
        "torch.nn.Module:load_state_dict", _unloaded
    ),
    ("sample", "wrong-value", "the process group doubles"): replace(
        "torch.distributed:all_reduce", lambda _: lambda tensor, *a, **k: tensor.mul_(2)
    ),
    ("autograd", "wrong-value", "all-reduce doubles in each of two ranks"): replace(
        "torch.distributed:all_reduce", lambda _: lambda tensor, *a, **k: tensor.mul_(2)
    ),
    ("autograd", "wrong-gradient", "replicas keep their gradients to themselves"): after_init(REPLICAS, _unshared),
    ("autograd", "wrong-gradient", "replicas share what they should keep"): replace(
        f"{REPLICAS}:no_sync", lambda _: lambda self: contextlib.nullcontext()
    ),
    ("autograd", "wrong-gradient", "each replica begins with weights of its own"): replace(
        "torch.nn.parallel.distributed:_sync_module_states", lambda _: lambda **_: None
    ),
    ("autograd", "wrong-value", "both ranks get the same items"): replace(
        "torch.utils.data.DistributedSampler:__iter__", _as_first
    ),
    ("autograd", "no-gradient", "detached draws"): returns(NORMAL, detached),
    ("autograd", "wrong-gradient", "gradient of a draw 10 percent too large"): returns(NORMAL, steeper),
    ("autograd", "no-gradient", "detached linear layer"): returns(LINEAR, detached),
    ("autograd", "wrong-gradient", "gradient of the layer 10 percent too large"): returns(LINEAR, steeper),
    ("autograd", "does-not-train", "the optimizer does not step"): replace("torch.optim.Adam:step", does_nothing),
    ("autograd", "does-not-train", "the layer learns uphill"): returns(LINEAR, uphill),
    ("autograd", "wrong-value", "L-BFGS does not step"): replace("torch.optim.LBFGS:step", does_nothing),
    ("autograd", "no-gradient", "the mean of a normal is detached"): replace(
        "torch.distributions.Normal:mean", lambda original: property(lambda self: original.fget(self).detach())
    ),
    ("autograd", "wrong-gradient", "Gamma's implicit gradient 10 percent too large"): returns(
        "torch.distributions.Gamma:rsample", steeper
    ),
    ("autograd", "wrong-gradient", "layer norm's gradient 10 percent too large"): returns(
        "torch.nn.functional:layer_norm", steeper
    ),
    ("autograd", "no-gradient", "detached attention"): replace(
        "torch.nn.functional:multi_head_attention_forward",
        lambda original: lambda *a, **k: (original(*a, **k)[0].detach(), None),
    ),
    ("sample", "wrong-moments", "uniform draws of a normal's spread"): replace(NORMAL, _flat),
    ("sample", "wrong-moments", "each draw follows the one before"): replace(NORMAL, _following),
    ("sample", "wrong-value", "density 1 percent off"): returns("torch.distributions.Laplace:log_prob", scaled(1.01)),
    ("sample", "wrong-value", "entropy 10 percent off"): returns("torch.distributions.Normal:entropy", scaled(1.1)),
    ("sample", "wrong-value", "quantiles 1 percent off"): returns("torch.distributions.Normal:icdf", scaled(1.01)),
    ("sample", "wrong-moments", "a binomial one too high"): returns(
        "torch.distributions.Binomial:sample", lambda out: out + 1
    ),
    ("sample", "wrong-value", "density of a mixture 1 percent off"): returns(
        "torch.distributions.MixtureSameFamily:log_prob", scaled(1.01)
    ),
    ("sample", "wrong-value", "batch norm 1 percent off"): returns("torch.nn.functional:batch_norm", scaled(1.01)),
    ("sample", "wrong-value", "LSTM 1 percent off"): returns("torch.nn.LSTM:forward", scaled(1.01)),
    ("sample", "wrong-gradient", "padding gets a gradient"): replace(
        "torch.nn.Embedding:forward", lambda _: lambda self, index: self.weight[index]
    ),
    ("autograd", "wrong-value", "divergence 10 percent off"): returns("torch.distributions:kl_divergence", scaled(1.1)),
    **{
        ("autograd", "wrong-value", f"{name} goes half as far"): replace(f"torch.optim.{name}:step", _halved)
        for name in ("SGD", "AdamW", "RMSprop", "Adagrad")
    },
    ("autograd", "wrong-value", "StepLR is late"): replace("torch.optim.lr_scheduler.StepLR:get_lr", _late),
    ("autograd", "wrong-value", "OneCycleLR is late"): replace("torch.optim.lr_scheduler.OneCycleLR:get_lr", _late),
    ("autograd", "wrong-value", "a plateau without patience"): replace(
        "torch.optim.lr_scheduler.ReduceLROnPlateau:__init__", _impatient
    ),
    ("autograd", "wrong-value", "a checkpoint that keeps activations"): replace(
        "torch.utils.checkpoint:checkpoint", lambda _: lambda function, x, use_reentrant: function(x)
    ),
    ("compile", "not-compiled", "runs eagerly"): eager,
    ("compile", "compile-mismatch", "compiled 1 percent off"): _compiled_off(1.01),
    ("compile", "not-finite", "NaN when compiled"): _compiled_off(float("nan")),
    ("compile", "compile-mismatch", "a layer 1 percent off when compiled"): returns(
        LINEAR, scaled(1.01), when_compiled=True
    ),
    ("compile", "compile-mismatch", "gradient 10 percent too large when compiled"): returns(
        LINEAR, steeper, when_compiled=True
    ),
    ("compile", "compile-mismatch", "layer norm off when compiled"): returns(
        "torch.nn.functional:layer_norm", scaled(1.01), when_compiled=True
    ),
    ("compile", "wrong-dtype", "float64 when compiled"): returns(LINEAR, double, when_compiled=True),
}
