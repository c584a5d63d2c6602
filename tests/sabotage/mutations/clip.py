"""(probe, reason code, what is wrong) -> the sabotage of clip that the probe must answer with that code."""

from __future__ import annotations

from ._change import (
    Sabotage,
    after_init,
    all_nan,
    detached,
    double,
    eager,
    first,
    nan,
    replace,
    reseed,
    returns,
    scaled,
    steeper,
)

REQUIRES = (
    "torch==2.9.0",
    "torchvision==0.24.0",
    "numpy",
    "setuptools",
    "clip @ git+https://github.com/openai/CLIP.git@d05afc436d78f1c48dc0dbf8e5980a9d471f35f6",
)

IMAGES, TEXTS, BOTH = (f"clip.model.CLIP:{name}" for name in ("encode_image", "encode_text", "forward"))
TOWER = "clip.model.VisionTransformer:forward"

MUTATIONS: dict[tuple[str, str, str], Sabotage] = {
    ("sample", "wrong-value", "image features 1 percent off"): returns(IMAGES, scaled(1.01)),
    ("sample", "wrong-value", "text features 1 percent off"): returns(TEXTS, scaled(1.01)),
    ("sample", "wrong-dtype", "float64 for float32"): returns(BOTH, double),
    ("sample", "not-finite", "one NaN"): returns(BOTH, nan),
    ("sample", "wrong-value", "scale of the logits 1 percent off"): returns(BOTH, scaled(1.01)),
    ("sample", "seed-ignored", "the seed is forgotten"): first("clip.model.CLIP:__init__", reseed),
    ("sample", "wrong-moments", "embeddings begin 10 percent too wide"): after_init(
        "clip.model.CLIP", lambda model: model.token_embedding.weight.mul_(1.1)
    ),
    ("sample", "wrong-value", "tokens off by one"): returns("clip:tokenize", lambda out: out + 1),
    ("sample", "wrong-value", "texts see what is to come"): replace(
        "clip.model.CLIP:build_attention_mask", lambda original: lambda self: 0 * original(self).clamp(min=0)
    ),
    ("autograd", "no-gradient", "detached"): returns(BOTH, detached),
    ("autograd", "wrong-gradient", "gradients 10 percent too large"): returns(BOTH, steeper),
    ("autograd", "wrong-gradient", "gradients of the image tower 10 percent too large"): returns(IMAGES, steeper),
    ("autograd", "wrong-gradient", "gradients of the text tower 10 percent too large"): returns(TEXTS, steeper),
    ("compile", "not-compiled", "runs eagerly"): eager,
    ("compile", "compile-mismatch", "1 percent off when compiled"): returns(TOWER, scaled(1.01), when_compiled=True),
    ("compile", "wrong-dtype", "float64 when compiled"): returns(TOWER, double, when_compiled=True),
    ("compile", "not-finite", "NaN when compiled"): returns(TOWER, all_nan, when_compiled=True),
    ("compile", "no-gradient", "detached when compiled"): returns(TOWER, detached, when_compiled=True),
}
