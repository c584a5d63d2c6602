"""(probe, reason code, what is wrong) -> the sabotage of lightning that the probe must answer with that code."""

from __future__ import annotations

from ._change import Sabotage, all_nan, detached, does_nothing, double, eager, replace, returns, scaled

REQUIRES = ("torch==2.13.0", "numpy", "lightning==2.6.6")

STRATEGY = "lightning.pytorch.strategies.Strategy"
LINEAR, NETWORK = "torch.nn.functional:linear", "torch.nn.Sequential:forward"

MUTATIONS: dict[tuple[str, str, str], Sabotage] = {
    ("sample", "seed-ignored", "no seed is set"): replace("lightning:seed_everything", lambda _: lambda *_, **__: None),
    ("sample", "wrong-value", "predictions 1 percent off"): returns(f"{STRATEGY}:predict_step", scaled(1.01)),
    ("sample", "wrong-dtype", "predictions in bfloat16"): returns(
        f"{STRATEGY}:predict_step", lambda out: out.bfloat16()
    ),
    ("sample", "wrong-value", "batches of all sizes count alike"): replace(
        "lightning.LightningModule:log",
        lambda original: lambda self, name, value, **_: original(self, name, value, batch_size=1),
    ),
    ("autograd", "no-gradient", "detached loss"): returns("lightning.LightningModule:__call__", detached),
    ("autograd", "wrong-value", "the loss is not divided"): replace(
        "lightning.pytorch.loops.optimization.automatic.ClosureResult:from_training_step_output",
        lambda original: lambda out, normalize=1: original(out, 1),
    ),
    ("autograd", "wrong-value", "nothing is clipped"): replace(
        "lightning.LightningModule:configure_gradient_clipping", does_nothing
    ),
    ("autograd", "wrong-value", "the rate stays"): replace("lightning.LightningModule:lr_scheduler_step", does_nothing),
    ("autograd", "wrong-value", "no state is restored"): replace(f"{STRATEGY}:load_optimizer_state_dict", does_nothing),
    ("compile", "not-compiled", "runs eagerly"): eager,
    ("compile", "compile-mismatch", "1 percent off when compiled"): returns(LINEAR, scaled(1.01), when_compiled=True),
    ("compile", "wrong-dtype", "float64 when compiled"): returns(NETWORK, double, when_compiled=True),
    ("compile", "not-finite", "NaN when compiled"): returns(LINEAR, all_nan, when_compiled=True),
}
