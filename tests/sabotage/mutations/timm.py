"""(probe, reason code, what is wrong) -> the sabotage of timm that the probe must answer with that code."""

from __future__ import annotations

from ._change import (
    Sabotage,
    after_init,
    all_nan,
    detached,
    does_nothing,
    double,
    eager,
    first,
    nan,
    replace,
    reseed,
    returns,
    rewind,
    scaled,
    steeper,
    uphill_in_float32,
)

REQUIRES = ("torch==2.9.0", "torchvision==0.24.0", "numpy", "setuptools", "timm==1.0.31")

VIT = "timm.models.vision_transformer.VisionTransformer:forward"
ATTENTION = "timm.models.vision_transformer.Attention:forward"
DROP = "timm.layers.DropPath:forward"

MUTATIONS: dict[tuple[str, str, str], Sabotage] = {
    ("sample", "wrong-value", "logits 1 percent off"): returns(VIT, scaled(1.01)),
    ("sample", "wrong-dtype", "float64 for float32"): returns(VIT, double),
    ("sample", "not-finite", "one NaN"): returns(VIT, nan),
    ("sample", "seed-ignored", "the seed is forgotten"): first("timm:create_model", reseed),
    ("sample", "repeated-draw", "each model begins alike"): first("timm:create_model", rewind),
    ("sample", "wrong-moments", "initial weights 10 percent too wide"): after_init(
        "timm.models.vision_transformer.VisionTransformer", lambda model: [p.mul_(1.1) for p in model.parameters()]
    ),
    ("sample", "wrong-moments", "paths are dropped without a scale"): returns(DROP, lambda out: (out != 0).to(out)),
    ("sample", "wrong-value", "a path is dropped in parts"): returns(
        DROP, lambda out: __import__("torch").nn.functional.dropout(out, 0.1)
    ),
    ("sample", "wrong-value", "mixed labels off"): returns("timm.data.mixup:mixup_target", lambda out: out.roll(1, 0)),
    ("autograd", "no-gradient", "detached logits"): returns(VIT, detached),
    ("autograd", "wrong-gradient", "gradients 10 percent too large"): returns(ATTENTION, steeper),
    ("autograd", "wrong-value", "loss 1 percent off"): returns(
        "timm.loss.LabelSmoothingCrossEntropy:forward", scaled(1.01)
    ),
    ("autograd", "no-gradient", "detached loss"): returns("timm.loss.SoftTargetCrossEntropy:forward", detached),
    ("autograd", "wrong-value", "the rate stays"): replace("timm.scheduler.scheduler.Scheduler:step", does_nothing),
    ("autograd", "wrong-value", "no average is kept"): replace("timm.utils.ModelEmaV2:update", does_nothing),
    ("autograd", "does-not-train", "learns uphill"): returns(VIT, uphill_in_float32),
    ("compile", "not-compiled", "runs eagerly"): eager,
    ("compile", "compile-mismatch", "1 percent off when compiled"): returns(VIT, scaled(1.01), when_compiled=True),
    ("compile", "wrong-dtype", "float64 when compiled"): returns(VIT, double, when_compiled=True),
    ("compile", "not-finite", "NaN when compiled"): returns(VIT, all_nan, when_compiled=True),
    ("compile", "no-gradient", "detached when compiled"): returns(VIT, detached, when_compiled=True),
}
