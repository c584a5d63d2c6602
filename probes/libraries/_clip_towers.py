"""CLIP's two towers written out in calls of torch, with a model's own weights: for OpenAI's, and for OpenCLIP."""

import math
from typing import Any, Tuple

from ._small import attention

NEEDS = ("torch",)

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of the pictures that CLIP was trained with, from its paper's code."""


def normal(layer: Any, x: Any) -> Any:
    """A layer's normalisation over the last axis."""
    x = x - x.mean(-1, keepdim=True)
    return x / (x.square().mean(-1, keepdim=True) + layer.eps).sqrt() * layer.weight + layer.bias


def residual(layer: Any, x: Any, heads: int, quick: bool, mask: Any = 0.0, seen: Any = None) -> Any:
    """A residual layer, which attends to `seen` where that is given, else to its own input."""
    import torch

    query = normal(layer.ln_1, x)
    other = query if seen is None else normal(layer.ln_1_kv, seen)
    weights = zip((query, other, other), layer.attn.in_proj_weight.chunk(3), layer.attn.in_proj_bias.chunk(3))
    query, key, value = (y @ weight.T + bias for y, weight, bias in weights)
    x = x + layer.attn.out_proj(attention(heads, query, key, value, mask))
    wide = layer.mlp.c_fc(normal(layer.ln_2, x))
    bent = wide * (1.702 * wide).sigmoid() if quick else wide * (1 + torch.erf(wide / math.sqrt(2))) / 2
    return x + layer.mlp.c_proj(bent)


def past(x: Any) -> Any:
    """The mask by which a token sees those before it alone; `x` is batch x length x width."""
    import torch

    return torch.full((x.shape[1], x.shape[1]), -math.inf, device=x.device, dtype=x.dtype).triu(1)


def look(eyes: Any, images: Any, heads: int, quick: bool) -> Any:
    """What the image tower makes of its own token and of each patch, before its last normalisation."""
    import torch

    size = eyes.conv1.kernel_size[0]
    patches = images.unfold(2, size, size).unfold(3, size, size).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
    x = patches @ eyes.conv1.weight.flatten(1).T
    x = torch.cat([eyes.class_embedding.expand(len(x), 1, -1), x], 1) + eyes.positional_embedding
    x = normal(eyes.ln_pre, x)
    for layer in eyes.transformer.resblocks:
        x = residual(layer, x, heads, quick)
    return x


def read(tower: Any, texts: Any, heads: int, quick: bool) -> Any:
    """What the text tower makes of each token, and of its own at the end where it has one."""
    import torch

    x, own = tower.token_embedding.weight[texts], getattr(tower, "cls_emb", None)
    if own is not None:
        x = torch.cat([x, own.expand(len(x), 1, -1)], 1)
    x = x + tower.positional_embedding[: x.shape[1]]
    for layer in tower.transformer.resblocks:
        x = residual(layer, x, heads, quick, past(x))
    return x


def both_towers(model: Any, images: Any, texts: Any, heads: int, quick: bool) -> Tuple[Any, Any]:
    """Features of images and of texts, whose end is their largest token."""
    import torch

    x = normal(model.ln_final, read(model, texts, heads, quick))
    left = normal(model.visual.ln_post, look(model.visual, images, heads, quick)[:, 0]) @ model.visual.proj
    return left, x[torch.arange(len(x)), texts.argmax(-1)] @ model.text_projection
