"""The tiny networks of transformers' probes, what they are fed, and the same networks written out in calls of torch."""

import copy
import math
from typing import Any, Callable

from ..probe import Probe
from ._small import attention

NEEDS = ("torch", "transformers")

TOKENS, HEADS = 8, 2
SPREAD = 0.3
"""Standard deviation of initial weights: with the default of 0.02 all tokens would be nearly alike."""


def bert(probe: Probe, layers: int = 2, vocab_size: int = TOKENS, reseed: bool = True) -> Any:
    """A classifier of texts, three classes."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        intermediate_size=32,
        num_labels=3,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        vocab_size=vocab_size,
        max_position_embeddings=16,
        initializer_range=SPREAD,
    )
    if reseed:
        torch.manual_seed(probe.seed)
    return BertForSequenceClassification(config).to(probe.device).train()


def gpt2(probe: Probe, layers: int = 2) -> Any:
    """A writer of texts in eight tokens; none of them ends a text."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=TOKENS,
        n_positions=16,
        n_embd=16,
        n_layer=layers,
        n_head=HEADS,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        initializer_range=SPREAD,
        bos_token_id=None,
        eos_token_id=None,
    )
    torch.manual_seed(probe.seed)
    return GPT2LMHeadModel(config).to(probe.device).eval()


def resnet(probe: Probe, stages: int = 2) -> Any:
    """A classifier of images, three classes, one residual block a stage."""
    import torch
    from transformers import ResNetConfig, ResNetForImageClassification

    widths = [8, 16][:stages]
    config = ResNetConfig(embedding_size=8, hidden_sizes=widths, depths=[1] * stages, layer_type="basic", num_labels=3)
    torch.manual_seed(probe.seed)
    return ResNetForImageClassification(config).to(probe.device).train()


def random_texts(probe: Probe, batch: int, length: int = 9) -> Any:
    """Random texts with their mask, the second two tokens shorter than the others, and their classes."""
    import torch

    tokens = torch.randint(1, TOKENS, (batch, length), generator=probe.generator(length)).to(probe.device)
    mask = torch.ones_like(tokens)
    mask[1, -2:] = 0
    return {"input_ids": tokens, "attention_mask": mask}, torch.arange(batch, device=probe.device) % 3


def random_images(probe: Probe, batch: int, dtype: Any = None) -> Any:
    """Random images and their classes."""
    import torch

    images = probe.randn(batch, 3, 16, 16, offset=1, dtype=dtype)
    return {"pixel_values": images}, torch.arange(batch, device=probe.device) % 3


def bert_written_out(model: Any, input_ids: Any, attention_mask: Any) -> Any:
    """BERT's logits from its own layers, in calls of torch alone."""
    import torch

    first = model.bert.embeddings
    x = first.word_embeddings.weight[input_ids] + first.position_embeddings.weight[: input_ids.shape[1]]
    x = first.LayerNorm(x + first.token_type_embeddings.weight[0])
    for layer in model.bert.encoder.layer:
        own, out = layer.attention.self, layer.attention.output
        unseen = torch.zeros_like(attention_mask, dtype=x.dtype).masked_fill(attention_mask == 0, -math.inf)
        seen = attention(HEADS, own.query(x), own.key(x), own.value(x), unseen[:, None, None])
        x = out.LayerNorm(x + out.dense(seen))
        x = layer.output.LayerNorm(x + layer.output.dense(torch.nn.functional.gelu(layer.intermediate.dense(x))))
    return model.classifier(model.bert.pooler.dense(x[:, 0]).tanh())


def gpt2_written_out(model: Any, input_ids: Any) -> Any:
    """GPT-2's logits from its own weights, in calls of torch alone."""
    import torch

    length = input_ids.shape[1]
    later = torch.full((length, length), -math.inf, device=input_ids.device).triu(1)
    words = model.transformer.wte.weight
    x = words[input_ids] + model.transformer.wpe.weight[:length]
    for block in model.transformer.h:
        own, inner = block.attn, block.mlp
        query, key, value = (block.ln_1(x) @ own.c_attn.weight + own.c_attn.bias).chunk(3, -1)
        x = x + attention(HEADS, query, key, value, later) @ own.c_proj.weight + own.c_proj.bias
        wide = torch.nn.functional.gelu(block.ln_2(x) @ inner.c_fc.weight + inner.c_fc.bias, approximate="tanh")
        x = x + wide @ inner.c_proj.weight + inner.c_proj.bias
    return model.transformer.ln_f(x) @ words.T


def resnet_written_out(model: Any, pixel_values: Any) -> Any:
    """The residual network's logits from its own layers, in calls of torch alone."""
    import torch

    def layer(part: Any, x: Any) -> Any:
        return part.normalization(part.convolution(x))

    x = layer(model.resnet.embedder.embedder, pixel_values).relu()
    x = torch.nn.functional.max_pool2d(x, 3, stride=2, padding=1)
    for stage in model.resnet.encoder.stages:
        for block in stage.layers:
            inner = layer(block.layer[1], layer(block.layer[0], x).relu())
            x = (inner + (layer(block.shortcut, x) if hasattr(block.shortcut, "convolution") else x)).relu()
    return model.classifier[-1](x.mean((2, 3)))


def exactly(written_out: Callable[..., Any], model: Any, **inputs: Any) -> Any:
    """What the network written out gives in float64."""
    import torch

    inputs = {name: x.double() if x.is_floating_point() else x for name, x in inputs.items()}
    with torch.no_grad():
        return written_out(copy.deepcopy(model).double(), **inputs)
