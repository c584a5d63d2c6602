"""transformers: BERT, GPT-2 and ResNet, tiny and random from their configs, so that nothing is downloaded."""

import copy
import math
import os
import tempfile
from typing import Any, Callable, Dict, List

from ..evidence import (
    Probe,
    close,
    compiled,
    differentiable,
    falls,
    moments,
    of_shape,
    on_device,
    reached,
    require,
    seeded,
    sound,
)

DISTRIBUTION = "transformers"
MODULE = "transformers"
NEEDS = ("torch",)

for switch in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"):
    os.environ.setdefault(switch, "1")  # read at the library's import: no probe may depend on a network

TOKENS, HEADS = 8, 2
DRAWS = 20_000
TEMPERATURE = 1.3
SPREAD = 0.3
"""Standard deviation of initial weights: with the default of 0.02 all tokens would be nearly alike."""

TAKEN_APART = ("linear", "layer_norm", "scaled_dot_product_attention", "conv2d", "batch_norm", "softmax")
"""Operators that the compiler takes apart: a profile shows them only where Python itself called them."""


def sample(probe: Probe) -> None:
    """Logits are the written-out network's; drawn text has the softmax's odds and follows the seed; files keep both."""
    with probe.part("logits"):
        _logits(probe)
    with probe.part("greedy text"):
        _greedy(probe)
    with probe.part("seeds"):
        _seeds(probe)
    with probe.part("drawn text"):
        _drawn(probe)
    with probe.part("initial weights"):
        _initial(probe)
    with probe.part("files"):
        _files(probe)


def autograd(probe: Probe) -> None:
    """Losses and the gradients of every parameter are those of the networks written out; training trains."""
    import torch

    with probe.part("BERT"):
        texts, classes = _texts(probe, 4)
        _gradients("BERT", _bert(probe), _bert_written_out, texts, classes, checkpoints=True)
        _directions(probe)
    with probe.part("GPT-2"):
        text = _texts(probe, 4)[0]["input_ids"]
        _gradients("GPT-2", _gpt2(probe).train(), _gpt2_written_out, {"input_ids": text}, text, checkpoints=True)
    with probe.part("ResNet"):
        images, labels = _images(probe, 4, torch.float64)
        _gradients("ResNet", _resnet(probe), _resnet_written_out, images, labels)
    with probe.part("BERT training"):
        _train("BERT", _bert(probe), *_texts(probe, 6))
    with probe.part("ResNet training"):
        _train("ResNet", _resnet(probe), *_images(probe, 6))


def compile(probe: Probe) -> None:
    """BERT and a residual network over inputs of two sizes, GPT-2 by inductor; no layer runs eagerly."""
    with probe.part("BERT"):
        texts = [_texts(probe, batch, length)[0] for batch, length in ((2, 6), (3, 9))]
        _compiled(probe, "BERT", _bert(probe, layers=1), texts)
    with probe.part("GPT-2"):
        text = _texts(probe, 2, 8)[0]["input_ids"]  # one length: C++ for each takes 4 to 10 s of a core
        _compiled(probe, "GPT-2", _gpt2(probe, layers=1), [{"input_ids": text}], training=False)
    with probe.part("ResNet"):
        images = [{"pixel_values": probe.randn(2, 3, size, size, offset=size)} for size in (12, 16)]
        _compiled(probe, "ResNet", _resnet(probe, stages=1), images)


def _bert(probe: Probe, layers: int = 2, vocab_size: int = TOKENS, reseed: bool = True) -> Any:
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


def _gpt2(probe: Probe, layers: int = 2) -> Any:
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


def _resnet(probe: Probe, stages: int = 2) -> Any:
    """A classifier of images, three classes, one residual block a stage."""
    import torch
    from transformers import ResNetConfig, ResNetForImageClassification

    widths = [8, 16][:stages]
    config = ResNetConfig(embedding_size=8, hidden_sizes=widths, depths=[1] * stages, layer_type="basic", num_labels=3)
    torch.manual_seed(probe.seed)
    return ResNetForImageClassification(config).to(probe.device).train()


def _texts(probe: Probe, batch: int, length: int = 9) -> Any:
    """Random texts with their mask, the second two tokens shorter than the others, and their classes."""
    import torch

    tokens = torch.randint(1, TOKENS, (batch, length), generator=probe.generator(length)).to(probe.device)
    mask = torch.ones_like(tokens)
    mask[1, -2:] = 0
    return {"input_ids": tokens, "attention_mask": mask}, torch.arange(batch, device=probe.device) % 3


def _images(probe: Probe, batch: int, dtype: Any = None) -> Any:
    """Random images and their classes."""
    import torch

    images = probe.randn(batch, 3, 16, 16, offset=1, dtype=dtype)
    return {"pixel_values": images}, torch.arange(batch, device=probe.device) % 3


def _attention(query: Any, key: Any, value: Any, seen: Any) -> Any:
    """Each head's values, weighted by the softmax over what may be seen."""
    query, key, value = (x.reshape(*x.shape[:2], HEADS, -1).transpose(1, 2) for x in (query, key, value))
    odds = (query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])).masked_fill(~seen, -math.inf).softmax(-1)
    return (odds @ value).transpose(1, 2).flatten(2)


def _bert_written_out(model: Any, input_ids: Any, attention_mask: Any) -> Any:
    """BERT's logits from its own layers, in calls of torch alone."""
    import torch

    first = model.bert.embeddings
    x = first.word_embeddings.weight[input_ids] + first.position_embeddings.weight[: input_ids.shape[1]]
    x = first.LayerNorm(x + first.token_type_embeddings.weight[0])
    for layer in model.bert.encoder.layer:
        own, out = layer.attention.self, layer.attention.output
        seen = _attention(own.query(x), own.key(x), own.value(x), attention_mask[:, None, None, :] > 0)
        x = out.LayerNorm(x + out.dense(seen))
        x = layer.output.LayerNorm(x + layer.output.dense(torch.nn.functional.gelu(layer.intermediate.dense(x))))
    return model.classifier(model.bert.pooler.dense(x[:, 0]).tanh())


def _gpt2_written_out(model: Any, input_ids: Any) -> Any:
    """GPT-2's logits from its own weights, in calls of torch alone."""
    import torch

    length = input_ids.shape[1]
    past = torch.ones(length, length, dtype=torch.bool, device=input_ids.device).tril()
    words = model.transformer.wte.weight
    x = words[input_ids] + model.transformer.wpe.weight[:length]
    for block in model.transformer.h:
        own, inner = block.attn, block.mlp
        query, key, value = (block.ln_1(x) @ own.c_attn.weight + own.c_attn.bias).chunk(3, -1)
        x = x + _attention(query, key, value, past) @ own.c_proj.weight + own.c_proj.bias
        wide = torch.nn.functional.gelu(block.ln_2(x) @ inner.c_fc.weight + inner.c_fc.bias, approximate="tanh")
        x = x + wide @ inner.c_proj.weight + inner.c_proj.bias
    return model.transformer.ln_f(x) @ words.T


def _resnet_written_out(model: Any, pixel_values: Any) -> Any:
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


def _exactly(written_out: Callable[..., Any], model: Any, **inputs: Any) -> Any:
    """What the network written out gives in float64."""
    import torch

    inputs = {name: x.double() if x.is_floating_point() else x for name, x in inputs.items()}
    with torch.no_grad():
        return written_out(copy.deepcopy(model).double(), **inputs)


def _logits(probe: Probe) -> None:
    """In float32 they are the float64 network's, also where texts are of unequal length."""
    import torch

    texts, images = _texts(probe, 4)[0], _images(probe, 4)[0]
    for name, model, written_out, inputs in (
        ("BERT", _bert(probe), _bert_written_out, texts),
        ("GPT-2", _gpt2(probe), _gpt2_written_out, {"input_ids": texts["input_ids"]}),
        ("ResNet", _resnet(probe), _resnet_written_out, images),
    ):
        expected = _exactly(written_out, model, **inputs)
        with torch.no_grad():
            seen = model(**inputs).logits
        sound(seen, images["pixel_values"], f"logits of {name}")
        close(seen, expected, f"logits of {name}", rtol=2e-3, atol=2e-3)  # cuDNN's convolutions are of TF32


def _generate(model: Any, text: Any, mask: Any = None, **options: Any) -> Any:
    """Texts that go on from those given."""
    import torch

    mask = torch.ones_like(text) if mask is None else mask
    return model.generate(text, attention_mask=mask, pad_token_id=0, **options)


def _greedy(probe: Probe) -> None:
    """Each token's logits are those of the whole text so far, whatever was cached and however it was padded."""
    model, text = _gpt2(probe), _texts(probe, 2, 4)[0]["input_ids"]
    padded = text.clone()
    padded[1, :2] = 0
    mask = (padded > 0).long()
    seen = _generate(
        model, padded, mask, max_new_tokens=5, do_sample=False, output_scores=True, return_dict_in_generate=True
    )
    of_shape(seen.sequences, (2, 9), "greedy text")
    sound(seen.sequences, text, "greedy text")
    close(seen.sequences[:, :4], padded, "what greedy text begins with")
    for row, start in enumerate((0, 2)):
        for step in range(5):
            expected = _exactly(_gpt2_written_out, model, input_ids=seen.sequences[row : row + 1, start : 4 + step])
            logits = seen.scores[step][row]
            sound(logits, model.lm_head.weight, "scores of greedy text")
            close(logits, expected[0, -1], f"scores of token {step} of greedy text", rtol=2e-3, atol=2e-4)
            # not the token itself: two may be equally likely but for rounding
            close(expected[0, -1, seen.sequences[row, 4 + step]], logits.max(), "greedy choice", rtol=2e-3, atol=2e-4)


def _seeds(probe: Probe) -> None:
    """Text and initial weights follow the library's own seed."""
    from transformers import set_seed

    model, text = _gpt2(probe), _texts(probe, 20, 3)[0]["input_ids"]
    draw = lambda: _generate(model, text, max_new_tokens=6, do_sample=True, top_k=0)  # noqa: E731
    seeded(draw, "generate", set_seed)
    seeded(lambda: _bert(probe, reseed=False).classifier.weight, "initial weights", set_seed)


def _drawn(probe: Probe) -> None:
    """Two tokens in a row have the odds of the softmax, also together, at a temperature.

    Of so many draws a token has a hundred or more, where 6.5 standard errors are below 1e-7.
    """
    import torch

    model, text = _gpt2(probe), _texts(probe, 2, 3)[0]["input_ids"][:1]
    torch.manual_seed(probe.seed)
    options = {"do_sample": True, "top_k": 0, "temperature": TEMPERATURE, "max_new_tokens": 2}
    seen = _generate(model, text.expand(DRAWS, -1), **options)
    of_shape(seen, (DRAWS, 5), "drawn text")
    sound(seen, text, "drawn text")
    first = (_exactly(_gpt2_written_out, model, input_ids=text)[0, -1] / TEMPERATURE).softmax(-1)
    follow = torch.cat([text.expand(TOKENS, -1), torch.arange(TOKENS, device=probe.device)[:, None]], 1)
    second = (_exactly(_gpt2_written_out, model, input_ids=follow)[:, -1] / TEMPERATURE).softmax(-1)
    odds = first[:, None] * second
    one_hot = torch.nn.functional.one_hot(seen[:, 3:], TOKENS).flatten(1)
    expected = torch.cat([first, odds.sum(0)])
    moments(one_hot, expected, (expected * (1 - expected)).sqrt(), "frequencies of drawn tokens")
    surprise = -odds.log()
    entropy = (odds * surprise).sum()
    spread = (odds * (surprise - entropy).square()).sum().sqrt()
    moments(surprise[seen[:, 3], seen[:, 4]], entropy, spread, "surprise of drawn texts")


def _initial(probe: Probe) -> None:
    """Embeddings and convolutions begin with the spread that their papers and configs say."""
    import torch

    words = _bert(probe, vocab_size=2_000).bert.embeddings.word_embeddings.weight[1:]  # the first is padding
    moments(words.flatten(), 0.0, SPREAD, "initial embeddings")
    layers = [part for part in _resnet(probe).modules() if isinstance(part, torch.nn.Conv2d)]
    fans = [part.out_channels * part.kernel_size[0] ** 2 for part in layers]
    drawn = [(part.weight * math.sqrt(fan / 2)).flatten() for part, fan in zip(layers, fans)]
    moments(torch.cat(drawn), 0.0, 1.0, "initial convolutions over sqrt(2 / fan-out)")


def _files(probe: Probe) -> None:
    """A model that was saved and loaded is the same, and writes the same logits."""
    import torch

    model, text = _gpt2(probe), _texts(probe, 2)[0]["input_ids"]
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        loaded = type(model).from_pretrained(folder).to(probe.device).eval()
    wanted, seen = model.state_dict(), loaded.state_dict()
    require(wanted.keys() == seen.keys(), "wrong-value", "a loaded model has other weights than the saved one")
    for name, weight in wanted.items():
        sound(seen[name], weight, f"loaded {name}")
        close(seen[name], weight, f"loaded {name}", rtol=0.0, atol=0.0)
    with torch.no_grad():
        close(loaded(input_ids=text).logits, model(input_ids=text).logits, "logits of a loaded model")


def _gradients(
    name: str, model: Any, written_out: Callable[..., Any], inputs: Any, labels: Any, checkpoints: bool = False
) -> None:
    """Loss and gradients are the written-out network's in float64, with and without gradient checkpoints.

    Tolerances are float32's: the library computes the loss of texts in it, whatever the model's dtype.
    """
    import torch

    model = model.double()
    named = dict(model.named_parameters())
    logits = written_out(model, **inputs)
    if name == "GPT-2":  # each token is the label of those before it
        expected = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    else:
        expected = torch.nn.functional.cross_entropy(logits, labels)
    gradients = dict(zip(named, torch.autograd.grad(expected, list(named.values()))))
    for saving in (False, True)[: 1 + checkpoints]:
        what = f"{name} with gradient checkpoints" if saving else name
        if saving:
            model.gradient_checkpointing_enable()
        model.zero_grad(set_to_none=True)
        seen = model(**inputs, labels=labels)
        sound(seen.logits, next(iter(named.values())), f"logits of {what}")
        on_device(seen.loss, logits.device, f"loss of {what}")
        close(seen.logits, logits, f"logits of {what}")
        close(seen.loss, expected, f"loss of {what}", rtol=1e-4, atol=1e-6)
        require(seen.loss.requires_grad, "no-gradient", f"the loss of {what} is detached from the network")
        seen.loss.backward()
        # a key's bias shifts all scores of a query alike, which the softmax does not see
        reached(named, what, may_be_zero=[one for one in named if one.endswith("key.bias")])
        for one, gradient in gradients.items():
            close(named[one].grad, gradient, f"{what}: gradient of {one}", 1e-4, 1e-6, "wrong-gradient")


def _directions(probe: Probe) -> None:
    """BERT's derivative by the embedded text is that of finite differences."""
    model, (texts, labels) = _bert(probe).double(), _texts(probe, 2)
    words = model.get_input_embeddings()(texts["input_ids"])
    mask = texts["attention_mask"]
    loss = lambda x: model(inputs_embeds=x, attention_mask=mask, labels=labels).loss  # noqa: E731
    differentiable(loss, [words], "BERT of embedded text")


def _train(name: str, model: Any, inputs: Any, labels: Any) -> None:
    """The network learns a few labels by heart, at a rate that rises for four steps and falls to nothing."""
    import torch
    from transformers import get_linear_schedule_with_warmup

    steps, warm, rate = 24, 4, 1e-2
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    schedule = get_linear_schedule_with_warmup(optimizer, warm, steps)
    losses, rates = [], []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(**inputs, labels=labels).loss
        loss.backward()
        rates.append(optimizer.param_groups[0]["lr"] / rate)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    wanted = [step / warm if step < warm else (steps - step) / (steps - warm) for step in range(steps)]
    close(torch.tensor(rates), torch.tensor(wanted), "learning rates")
    falls(losses, name, drop=0.3)


def _compiled(probe: Probe, name: str, model: Any, inputs: List[Dict[str, Any]], training: bool = True) -> None:
    """Compiled as eager, over every input, and no operator of a layer is left to Python.

    Gradients by what the backends have in common: C++ for each kernel of a backward pass would take half a minute.
    """
    import torch

    names = list(inputs[0])
    arguments = [tuple(one[key] for key in names) for one in inputs]
    function = lambda *values: model(**dict(zip(names, values))).logits  # noqa: E731
    named = dict(model.named_parameters()) if training else None
    backend = "aot_eager" if training else "inductor"
    with torch.set_grad_enabled(training):
        quick = compiled(probe, function, arguments, name, named, training, backend, rtol=2e-3, atol=2e-4)
        last = [x.clone().requires_grad_(training and x.is_floating_point()) for x in arguments[-1]]
        with torch.autograd.profiler.profile() as profile:
            quick(*last)
    eager = sorted({event.name for event in profile.function_events} & {f"aten::{one}" for one in TAKEN_APART})
    require(not eager, "not-compiled", f"{name}: compiled code left {', '.join(eager)} to Python")
