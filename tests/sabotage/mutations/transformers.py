"""(probe, reason code, what is wrong) -> the sabotage of transformers that the probe must answer with that code."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from ._change import (
    Sabotage,
    after_init,
    all_nan,
    detached,
    double,
    eager,
    elsewhere,
    first,
    left_alone,
    nan,
    options,
    replace,
    reseed,
    returns,
    rewind,
    scaled,
    steeper,
    uphill_in_float32,
)

REQUIRES = ("torch==2.13.0", "numpy", "transformers==5.23.0", "accelerate==1.15.0")

BERT = "transformers.models.bert.modeling_bert"
GPT2 = "transformers.models.gpt2.modeling_gpt2"
RESNET = "transformers.models.resnet.modeling_resnet"
CLASSIFIER = f"{BERT}.BertForSequenceClassification:forward"
WRITER = f"{GPT2}.GPT2LMHeadModel:forward"
VIEWER = f"{RESNET}.ResNetForImageClassification:forward"
GENERATE = "transformers.generation.utils.GenerationMixin:generate"
ATTENTION = "torch.nn.functional:scaled_dot_product_attention"


def _output(path: str, what: str, change: Callable[[Any], Any], *, when_compiled: bool = False) -> Sabotage:
    """One field of what a model returns, logits or loss, is changed."""

    def changed(out: Any) -> Any:
        if out.get(what) is not None:
            out[what] = change(out[what])
        return out

    return returns(path, changed, when_compiled=when_compiled)


def _wide_attention(original: Any) -> Any:
    """Scores are divided by a root that is 10 percent too small."""

    def attention(query: Any, *others: Any, **options: Any) -> Any:
        return original(1.1 * query, *others, **options)

    return attention


def _forgets_first(original: Any) -> Any:
    """The keys of the first token are lost from what is kept between tokens."""

    def update(self: Any, *arguments: Any, **options: Any) -> Any:
        keys, values = original(self, *arguments, **options)
        if keys.shape[-2] > arguments[0].shape[-2]:
            keys = keys.clone()
            keys[..., 0, :] = 0
        return keys, values

    return update


def _another_saved(original: Any) -> Any:
    """One bias is not what is written to the file."""

    def save(self: Any, *arguments: Any, **options: Any) -> Any:
        import torch

        other = copy.deepcopy(self)
        with torch.no_grad():
            other.transformer.ln_f.bias.add_(0.01)
        return original(other, *arguments, **options)

    return save


def _numb_words(original: Any) -> Any:
    """The embeddings of words get no gradient but zeros."""

    def forward(self: Any, *arguments: Any, **options: Any) -> Any:
        out = original(self, *arguments, **options)
        if self.word_embeddings.weight.requires_grad:
            self.word_embeddings.weight.register_hook(lambda gradient: 0 * gradient)
        return out

    return forward


def _without_first_layer(model: Any) -> Any:
    """The network with one layer less."""
    model.h = model.h[1:]
    return model


def _too_early(labels: Any) -> Any:
    """Each token is to foretell itself."""
    return labels.roll(1, -1)


MUTATIONS: dict[tuple[str, str, str], Sabotage] = {
    ("sample", "wrong-device", "logits on another device"): _output(CLASSIFIER, "logits", elsewhere),
    ("sample", "wrong-dtype", "float64 for float32"): _output(VIEWER, "logits", double),
    ("sample", "not-finite", "one NaN"): _output(WRITER, "logits", nan),
    ("sample", "wrong-value", "the mask of short texts is ignored"): options(
        CLASSIFIER, attention_mask=lambda mask: mask * 0 + 1
    ),
    ("sample", "wrong-value", "scale of attention off by 10 percent"): replace(ATTENTION, _wide_attention),
    ("sample", "wrong-value", "the first token's keys are not kept"): replace(
        "transformers.cache_utils.DynamicLayer:update", _forgets_first
    ),
    ("sample", "wrong-value", "padding before a text is seen"): options(
        GENERATE, attention_mask=lambda mask: mask * 0 + 1
    ),
    ("sample", "seed-ignored", "the seed is forgotten"): first(GENERATE, reseed),
    ("sample", "repeated-draw", "each text is the same"): first(GENERATE, rewind),
    ("sample", "wrong-moments", "temperature 10 percent too high"): options(
        GENERATE, temperature=lambda value: 1.1 * value
    ),
    ("sample", "wrong-moments", "never the rarest token"): options(GENERATE, top_k=lambda _: 7),
    ("sample", "wrong-moments", "embeddings scatter 10 percent too far"): after_init(
        f"{BERT}.BertForSequenceClassification", lambda self: self.bert.embeddings.word_embeddings.weight.mul_(1.1)
    ),
    ("sample", "wrong-value", "another bias in the file"): replace(
        "transformers.modeling_utils.PreTrainedModel:save_pretrained", _another_saved
    ),
    ("sample", "wrong-value", "settings beside a folder do not count"): options(
        "transformers.AutoConfig:from_pretrained", resid_pdrop=lambda _: 0.1
    ),
    ("sample", "wrong-dtype", "a folder's network in float32 alone"): options(
        "transformers.AutoModel:from_pretrained", torch_dtype=lambda _: None
    ),
    ("sample", "wrong-value", "a folder's network without its first layer"): returns(
        "transformers.AutoModel:from_pretrained", _without_first_layer
    ),
    ("sample", "wrong-value", "texts are filled up on the right"): options(
        "transformers.AutoTokenizer:from_pretrained", padding_side=lambda _: "right"
    ),
    ("sample", "wrong-value", "texts are cut too early"): options(
        "transformers.PreTrainedTokenizerBase:__call__", max_length=lambda most: most - 1
    ),
    ("sample", "wrong-shape", "a batch is filled up to twelves"): options(
        "transformers.DataCollatorWithPadding:__init__", pad_to_multiple_of=lambda many: 3 * many
    ),
    ("sample", "wrong-value", "a pipeline's odds are a softmax"): options(
        "transformers.TextClassificationPipeline:__call__", function_to_apply=lambda _: "softmax"
    ),
    ("sample", "wrong-shape", "a pipeline gives one label"): options(
        "transformers.TextClassificationPipeline:__call__", top_k=lambda _: 1
    ),
    ("autograd", "not-finite", "a NaN among the logits"): _output(VIEWER, "logits", nan),
    ("autograd", "no-gradient", "detached loss"): _output(CLASSIFIER, "loss", detached),
    ("autograd", "wrong-value", "loss 10 percent too large"): _output(CLASSIFIER, "loss", scaled(1.1)),
    ("autograd", "wrong-value", "tokens foretell themselves"): options(WRITER, labels=_too_early),
    ("autograd", "wrong-gradient", "gradient of the loss 10 percent too large"): _output(VIEWER, "loss", steeper),
    ("autograd", "wrong-gradient", "gradient 10 percent too large from a checkpoint"): returns(
        "transformers.modeling_utils:checkpoint", steeper
    ),
    ("autograd", "zero-gradient", "no gradient for the words"): replace(f"{BERT}.BertEmbeddings:forward", _numb_words),
    ("autograd", "does-not-train", "trains in the wrong direction"): _output(CLASSIFIER, "loss", uphill_in_float32),
    ("autograd", "wrong-value", "the rate rises for too long"): replace(
        "transformers.optimization:get_linear_schedule_with_warmup",
        lambda original: lambda optimizer, warm, steps: original(optimizer, 2 * warm, steps),
    ),
    ("autograd", "wrong-value", "the trainer does not clip"): options(
        "transformers.TrainingArguments:__init__", max_grad_norm=lambda _: 1e9
    ),
    ("autograd", "wrong-value", "the trainer takes a step for each batch"): options(
        "transformers.TrainingArguments:__init__", gradient_accumulation_steps=lambda _: 1
    ),
    ("autograd", "wrong-value", "the trainer does not warm up"): options(
        "transformers.TrainingArguments:__init__", warmup_steps=lambda _: 0
    ),
    ("autograd", "wrong-value", "the trainer lets biases decay too"): replace(
        "transformers.Trainer:get_decay_parameter_names",
        lambda original: lambda self, model: [name for name, _ in model.named_parameters()],
    ),
    ("compile", "not-compiled", "all runs eagerly"): eager,
    ("compile", "not-compiled", "BERT's layer runs eagerly"): replace(f"{BERT}.BertLayer:forward", left_alone),
    ("compile", "not-compiled", "GPT-2's attention runs eagerly"): replace(f"{GPT2}.GPT2Attention:forward", left_alone),
    ("compile", "not-compiled", "residual blocks run eagerly"): replace(
        f"{RESNET}.ResNetBasicLayer:forward", left_alone
    ),
    ("compile", "compile-mismatch", "BERT 1 percent off when compiled"): _output(
        CLASSIFIER, "logits", scaled(1.01), when_compiled=True
    ),
    ("compile", "compile-mismatch", "GPT-2 1 percent off when compiled"): _output(
        WRITER, "logits", scaled(1.01), when_compiled=True
    ),
    ("compile", "compile-mismatch", "gradient 10 percent too large when compiled"): _output(
        VIEWER, "logits", steeper, when_compiled=True
    ),
    ("compile", "wrong-dtype", "float64 when compiled"): _output(CLASSIFIER, "logits", double, when_compiled=True),
    ("compile", "not-finite", "NaN when compiled"): _output(CLASSIFIER, "logits", all_nan, when_compiled=True),
    ("compile", "no-gradient", "detached when compiled"): _output(CLASSIFIER, "logits", detached, when_compiled=True),
}
