"""transformers: BERT, GPT-2 and ResNet, tiny and random from their configs, so that nothing is downloaded."""

import math
import os
import tempfile
from typing import Any, Callable, Dict, List

from ..compiling import compiled
from ..evidence import close, falls, moments, of_shape, on_device, reached, require, seeded, sound
from ..probe import Probe
from ._transformers_models import (
    SPREAD,
    TOKENS,
    bert,
    bert_written_out,
    exactly,
    gpt2,
    gpt2_written_out,
    random_images,
    random_texts,
    resnet,
    resnet_written_out,
)
from ._transformers_texts import texts_to_labels, tokens, trainer

DISTRIBUTION = "transformers"
MODULE = "transformers"
NEEDS = ("torch",)
COVERS = {
    "transformers.BertForSequenceClassification": "autograd/BERT",
    "transformers.GPT2LMHeadModel": "autograd/GPT-2",
    "transformers.ResNetForImageClassification": "autograd/ResNet",
    "transformers.GenerationMixin.generate": "sample/greedy text",
    "transformers.set_seed": "sample/seeds",
    "transformers.PreTrainedModel.save_pretrained": "sample/files",
    "transformers.PreTrainedModel.from_pretrained": "sample/files",
    "transformers.get_linear_schedule_with_warmup": "autograd/BERT training",
    "transformers.AutoModel": "sample/files",
    "transformers.AutoConfig": "sample/files",
    "transformers.AutoTokenizer": "sample/tokens",
    "transformers.pipeline": "sample/pipeline",
    "transformers.Trainer": "autograd/trainer",
    "transformers.TrainingArguments": "autograd/trainer",
    "transformers.DataCollatorWithPadding": "sample/tokens",
}

for switch in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"):
    os.environ.setdefault(switch, "1")  # read at the library's import: no probe may depend on a network

DRAWS = 20_000
TEMPERATURE = 1.3

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
    with probe.part("tokens"):
        tokens(probe)
    with probe.part("pipeline"):
        texts_to_labels(probe)


def autograd(probe: Probe) -> None:
    """Losses and the gradients of every parameter are those of the networks written out; training trains."""
    import torch

    with probe.part("BERT"):
        texts, classes = random_texts(probe, 4)
        _gradients("BERT", bert(probe), bert_written_out, texts, classes, checkpoints=True)
    with probe.part("GPT-2"):
        text = random_texts(probe, 4)[0]["input_ids"]
        _gradients("GPT-2", gpt2(probe).train(), gpt2_written_out, {"input_ids": text}, text, checkpoints=True)
    with probe.part("ResNet"):
        images, labels = random_images(probe, 4, torch.float64)
        _gradients("ResNet", resnet(probe), resnet_written_out, images, labels)
    with probe.part("BERT training"):
        _train("BERT", bert(probe), *random_texts(probe, 6))
    with probe.part("ResNet training"):
        _train("ResNet", resnet(probe), *random_images(probe, 6))
    with probe.part("trainer"):
        trainer(probe)


def compile(probe: Probe) -> None:
    """BERT and a residual network over inputs of two sizes, GPT-2 by inductor; no layer runs eagerly."""
    with probe.part("BERT"):
        texts = [random_texts(probe, batch, length)[0] for batch, length in ((2, 6), (3, 9))]
        _compiled_model(probe, "BERT", bert(probe, layers=1), texts)
    with probe.part("GPT-2"):
        text = random_texts(probe, 2, 8)[0]["input_ids"]  # one length: C++ for each takes 4 to 10 s of a core
        _compiled_model(probe, "GPT-2", gpt2(probe, layers=1), [{"input_ids": text}], training=False)
    with probe.part("ResNet"):
        images = [{"pixel_values": probe.randn(2, 3, size, size, offset=size)} for size in (12, 16)]
        _compiled_model(probe, "ResNet", resnet(probe, stages=1), images)


def _logits(probe: Probe) -> None:
    """In float32 they are the float64 network's, also where texts are of unequal length."""
    import torch

    texts, images = random_texts(probe, 4)[0], random_images(probe, 4)[0]
    for name, model, written_out, inputs in (
        ("BERT", bert(probe), bert_written_out, texts),
        ("GPT-2", gpt2(probe), gpt2_written_out, {"input_ids": texts["input_ids"]}),
        ("ResNet", resnet(probe), resnet_written_out, images),
    ):
        expected = exactly(written_out, model, **inputs)
        with torch.no_grad():
            seen = model(**inputs).logits
        sound(seen, images["pixel_values"], f"logits of {name}")
        close(seen, expected, f"logits of {name}", rtol=2e-3, atol=2e-3)


def _generate(model: Any, text: Any, mask: Any = None, **options: Any) -> Any:
    """Texts that go on from those given."""
    import torch

    mask = torch.ones_like(text) if mask is None else mask
    return model.generate(text, attention_mask=mask, pad_token_id=0, **options)


def _greedy(probe: Probe) -> None:
    """Each token's logits are those of the whole text so far, whatever was cached and however it was padded."""
    model, text = gpt2(probe), random_texts(probe, 2, 4)[0]["input_ids"]
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
            expected = exactly(gpt2_written_out, model, input_ids=seen.sequences[row : row + 1, start : 4 + step])
            logits = seen.scores[step][row]
            sound(logits, model.lm_head.weight, "scores of greedy text")
            close(logits, expected[0, -1], f"scores of token {step} of greedy text", rtol=2e-3, atol=2e-4)
            # not the token itself: two may be equally likely but for rounding
            close(expected[0, -1, seen.sequences[row, 4 + step]], logits.max(), "greedy choice", rtol=2e-3, atol=2e-4)


def _seeds(probe: Probe) -> None:
    """Text and initial weights follow the library's own seed."""
    from transformers import set_seed

    model, text = gpt2(probe), random_texts(probe, 20, 3)[0]["input_ids"]
    draw = lambda: _generate(model, text, max_new_tokens=6, do_sample=True, top_k=0)  # noqa: E731
    seeded(draw, "generate", set_seed)
    seeded(lambda: bert(probe, reseed=False).classifier.weight, "initial weights", set_seed)


def _drawn(probe: Probe) -> None:
    """Two tokens in a row have the odds of the softmax, also together, at a temperature.

    Of so many draws a token has a hundred or more, where 6.5 standard errors are below 1e-7.
    """
    import torch

    model, text = gpt2(probe), random_texts(probe, 2, 3)[0]["input_ids"][:1]
    torch.manual_seed(probe.seed)
    options = {"do_sample": True, "top_k": 0, "temperature": TEMPERATURE, "max_new_tokens": 2}
    seen = _generate(model, text.expand(DRAWS, -1), **options)
    of_shape(seen, (DRAWS, 5), "drawn text")
    sound(seen, text, "drawn text")
    first = (exactly(gpt2_written_out, model, input_ids=text)[0, -1] / TEMPERATURE).softmax(-1)
    follow = torch.cat([text.expand(TOKENS, -1), torch.arange(TOKENS, device=probe.device)[:, None]], 1)
    second = (exactly(gpt2_written_out, model, input_ids=follow)[:, -1] / TEMPERATURE).softmax(-1)
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

    words = bert(probe, vocab_size=2_000).bert.embeddings.word_embeddings.weight[1:]  # the first is padding
    moments(words.flatten(), 0.0, SPREAD, "initial embeddings")
    layers = [part for part in resnet(probe).modules() if isinstance(part, torch.nn.Conv2d)]
    fans = [part.out_channels * part.kernel_size[0] ** 2 for part in layers]
    drawn = [(part.weight * math.sqrt(fan / 2)).flatten() for part, fan in zip(layers, fans)]
    moments(torch.cat(drawn), 0.0, 1.0, "initial convolutions over sqrt(2 / fan-out)")


def _files(probe: Probe) -> None:
    """A saved model comes back the same; a folder says what it holds, in the dtype and with the settings asked for."""
    import torch
    from transformers import AutoConfig, AutoModel

    model, text = gpt2(probe), random_texts(probe, 2)[0]["input_ids"]
    dtypes = (torch.float32, torch.float64)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        loaded = type(model).from_pretrained(folder).to(probe.device).eval()
        config = AutoConfig.from_pretrained(folder, resid_pdrop=0.3)
        networks = [AutoModel.from_pretrained(folder, torch_dtype=dtype).to(probe.device).eval() for dtype in dtypes]
    wanted, seen = model.state_dict(), loaded.state_dict()
    require(wanted.keys() == seen.keys(), "wrong-value", "a loaded model has other weights than the saved one")
    for name, weight in wanted.items():
        sound(seen[name], weight, f"loaded {name}")
        close(seen[name], weight, f"loaded {name}", rtol=0.0, atol=0.0)
    found = (type(config), config.resid_pdrop, config.n_embd)
    require(found == (type(model.config), 0.3, 16), "wrong-value", f"the folder's config is {found}")
    expected = exactly(gpt2_written_out, model, input_ids=text)
    with torch.no_grad():
        close(loaded(input_ids=text).logits, model(input_ids=text).logits, "logits of a loaded model")
        for dtype, network in zip(dtypes, networks):
            logits = network(input_ids=text).last_hidden_state @ network.wte.weight.T
            sound(logits, torch.zeros(1, dtype=dtype, device=probe.device), "logits of a folder's network")
            close(logits, expected, "logits of a folder's network", rtol=2e-3, atol=2e-4)


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


def _compiled_model(probe: Probe, name: str, model: Any, inputs: List[Dict[str, Any]], training: bool = True) -> None:
    """Compiled as eager, over every input, and no operator of a layer is left to Python.

    Gradients on a CPU by what the backends have in common: see Probe.heavy_backend.
    """
    import torch

    names = list(inputs[0])
    arguments = [tuple(one[key] for key in names) for one in inputs]
    function = lambda *values: model(**dict(zip(names, values))).logits  # noqa: E731
    named = dict(model.named_parameters()) if training else None
    backend = probe.heavy_backend if training else "inductor"
    with torch.set_grad_enabled(training):
        quick = compiled(probe, function, arguments, name, named, training, backend, rtol=2e-3, atol=2e-4)
        last = [x.clone().requires_grad_(training and x.is_floating_point()) for x in arguments[-1]]
        with probe.uncounted(), torch.autograd.profiler.profile() as profile:
            quick(*last)
    eager = sorted({event.name for event in profile.function_events} & {f"aten::{one}" for one in TAKEN_APART})
    require(not eager, "not-compiled", f"{name}: compiled code left {', '.join(eager)} to Python")
