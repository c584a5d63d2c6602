"""(probe, reason code, what is wrong) -> the sabotage of OpenCLIP that the probe must answer with that code."""

from __future__ import annotations

from typing import Any

from ._change import (
    Sabotage,
    after_init,
    all_nan,
    detached,
    does_nothing,
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
    steeper,
)

REQUIRES = ("torch==2.9.0", "torchvision==0.24.0", "open-clip-torch==3.3.0", "numpy", "setuptools")
"""An environment that fits: each torchvision is built for one torch, whose compiler imports setuptools."""

MODEL = "open_clip.model.CLIP"
IMAGE, TEXT = f"{MODEL}:encode_image", f"{MODEL}:encode_text"
LOSS = "open_clip.loss.ClipLoss:forward"
TOWER = "open_clip.transformer.VisionTransformer:forward"


def _frozen_scale(original: Any) -> Any:
    """The scale of the logits is handed out without its graph."""

    def forward(self: Any, *arguments: Any, **options: Any) -> Any:
        found = original(self, *arguments, **options)
        if isinstance(found, dict):
            return {**found, "logit_scale": found["logit_scale"].detach()}
        return (*found[:2], found[2].detach(), *found[3:])

    return forward


MUTATIONS: dict[tuple[str, str, str], Sabotage] = {
    ("sample", "wrong-device", "features on another device"): returns(IMAGE, elsewhere),
    ("sample", "wrong-dtype", "float64 for float32"): returns(TEXT, double),
    ("sample", "not-finite", "one NaN"): returns(IMAGE, nan),
    ("sample", "wrong-value", "features 10 percent too long"): returns(TEXT, scaled(1.1)),
    ("sample", "wrong-value", "logits' scale off by 10 percent"): after_init(
        MODEL, lambda self: self.logit_scale.add_(0.1)
    ),
    ("sample", "wrong-moments", "embeddings scatter 10 percent too far"): after_init(
        MODEL, lambda self: self.token_embedding.weight.mul_(1.1)
    ),
    ("sample", "seed-ignored", "the seed is forgotten"): first(f"{MODEL}:__init__", reseed),
    ("sample", "repeated-draw", "each draw is the same"): first(f"{MODEL}:__init__", rewind),
    ("sample", "wrong-value", "tokens off by one"): returns("open_clip:tokenize", lambda out: out + 1),
    ("sample", "wrong-shape", "a tokenizer of another length"): returns(
        "open_clip:get_tokenizer", lambda made: lambda texts: made(texts, context_length=12)
    ),
    ("sample", "wrong-value", "a named model without its activation"): options(
        "open_clip:create_model_and_transforms", force_quick_gelu=lambda _: False
    ),
    ("sample", "wrong-value", "pictures with the usual mean"): options(
        "open_clip:create_model_and_transforms", image_mean=lambda _: None
    ),
    ("autograd", "wrong-value", "sigmoid loss 1 percent off"): returns("open_clip.loss.SigLipLoss:_loss", scaled(1.01)),
    ("autograd", "wrong-gradient", "gradient of the sigmoid loss 10 percent too large"): returns(
        "open_clip.loss.SigLipLoss:_loss", steeper
    ),
    ("autograd", "wrong-value", "captions see what is to come"): replace(
        "open_clip.transformer.MultimodalTransformer:build_attention_mask",
        lambda original: lambda self: 0 * original(self).clamp(min=0),
    ),
    ("autograd", "wrong-gradient", "gradient of captions 10 percent too large"): returns(
        "open_clip.transformer.MultimodalTransformer:forward", steeper
    ),
    ("autograd", "wrong-value", "loss 10 percent too large"): returns(LOSS, scaled(1.1)),
    ("autograd", "not-finite", "the loss is NaN"): returns(LOSS, all_nan),
    ("autograd", "no-gradient", "detached loss"): returns(LOSS, detached),
    ("autograd", "wrong-gradient", "the loss's gradient 10 percent too large"): returns(LOSS, steeper),
    ("autograd", "wrong-gradient", "the image tower's gradient 10 percent too large"): returns(TOWER, steeper),
    ("autograd", "no-gradient", "detached image tower"): returns(TOWER, detached),
    ("autograd", "no-gradient", "the logits' scale is detached"): replace(f"{MODEL}:forward", _frozen_scale),
    ("autograd", "does-not-train", "the optimizer does not step"): replace("torch.optim.Adam:step", does_nothing),
    ("compile", "not-compiled", "runs eagerly"): eager,
    ("compile", "compile-mismatch", "1 percent off when compiled"): returns(TOWER, scaled(1.01), when_compiled=True),
    ("compile", "not-finite", "NaN when compiled"): returns(TOWER, all_nan, when_compiled=True),
    ("compile", "wrong-dtype", "float64 when compiled"): returns(TOWER, double, when_compiled=True),
    ("compile", "no-gradient", "detached when compiled"): returns(TOWER, detached, when_compiled=True),
}
