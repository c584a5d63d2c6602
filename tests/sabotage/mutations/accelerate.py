"""(probe, reason code, what is wrong) -> the sabotage of accelerate that the probe must answer with that code."""

from __future__ import annotations

import contextlib

from ._change import Sabotage, all_nan, detached, does_nothing, double, eager, replace, returns, scaled

REQUIRES = ("torch==2.13.0", "numpy", "accelerate==1.15.0")

ACCELERATOR = "accelerate.Accelerator"
LINEAR, NETWORK = "torch.nn.functional:linear", "torch.nn.Sequential:forward"

MUTATIONS: dict[tuple[str, str, str], Sabotage] = {
    ("sample", "seed-ignored", "no seed is set"): replace("accelerate.utils:set_seed", does_nothing),
    ("sample", "wrong-value", "what is gathered is 1 percent off"): returns(f"{ACCELERATOR}:gather", scaled(1.01)),
    ("sample", "wrong-shape", "duplicates are kept"): replace(
        f"{ACCELERATOR}:gather_for_metrics", lambda _: lambda self, batch: self.gather(batch)
    ),
    ("sample", "wrong-value", "a mean is a sum"): returns(f"{ACCELERATOR}:reduce", scaled(2)),
    ("sample", "wrong-shape", "nothing is padded"): replace(
        f"{ACCELERATOR}:pad_across_processes", lambda _: lambda self, x, **_: x
    ),
    ("sample", "wrong-gradient", "gradients of two ranks 10 percent too large"): replace(
        f"{ACCELERATOR}:backward", lambda original: lambda self, loss: original(self, 1.1 * loss)
    ),
    ("sample", "wrong-shape", "no batch is skipped"): replace(
        "accelerate:skip_first_batches", lambda _: lambda loader, count: loader
    ),
    ("sample", "wrong-device", "nothing is offloaded"): replace(
        "accelerate:cpu_offload", lambda _: lambda model, **_: model
    ),
    ("autograd", "no-gradient", "backward does nothing"): replace(f"{ACCELERATOR}:backward", does_nothing),
    ("autograd", "wrong-value", "nothing is clipped"): replace(f"{ACCELERATOR}:clip_grad_norm_", does_nothing),
    ("autograd", "wrong-value", "the loss is not divided"): replace(
        f"{ACCELERATOR}:backward", lambda _: lambda self, loss: loss.backward()
    ),
    ("autograd", "wrong-value", "each batch is a step"): replace(
        f"{ACCELERATOR}:accumulate", lambda _: lambda self, *_: contextlib.nullcontext()
    ),
    ("autograd", "wrong-value", "no state is loaded"): replace(f"{ACCELERATOR}:load_state", does_nothing),
    ("autograd", "wrong-value", "the rates stay"): replace(
        "accelerate.scheduler.AcceleratedScheduler:step", does_nothing
    ),
    ("autograd", "wrong-dtype", "autocast does nothing"): replace(
        f"{ACCELERATOR}:autocast", lambda _: lambda self, *_: contextlib.nullcontext()
    ),
    ("compile", "not-compiled", "runs eagerly"): eager,
    ("compile", "compile-mismatch", "1 percent off when compiled"): returns(LINEAR, scaled(1.01), when_compiled=True),
    ("compile", "wrong-dtype", "float64 when compiled"): returns(NETWORK, double, when_compiled=True),
    ("compile", "not-finite", "NaN when compiled"): returns(LINEAR, all_nan, when_compiled=True),
    ("compile", "no-gradient", "detached when compiled"): returns(NETWORK, detached, when_compiled=True),
}
