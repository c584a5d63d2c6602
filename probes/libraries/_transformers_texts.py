"""What transformers does around a network: words to tokens and batches, pipelines, and a trainer."""

import json
import os
import tempfile
from importlib.util import find_spec
from typing import Any

from ..evidence import LeftOut, close, require
from ..probe import Probe
from ._transformers_models import bert, bert_written_out, exactly, random_texts

NEEDS = ("torch", "transformers")

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "play", "##ing", "cat")
"""As many as the networks have tokens."""


def _tokenizer(folder: str) -> Any:
    """The tokenizer that the library makes of a folder that names BERT's, with words of our own."""
    from transformers import AutoTokenizer

    with open(os.path.join(folder, "vocab.txt"), "w", encoding="utf-8") as file:
        file.write("\n".join(WORDS) + "\n")
    for name, content in (("config", {"model_type": "bert"}), ("tokenizer_config", {"do_lower_case": True})):
        with open(os.path.join(folder, f"{name}.json"), "w", encoding="utf-8") as file:
            json.dump(content, file)
    return AutoTokenizer.from_pretrained(folder, padding_side="left")


def tokens(probe: Probe) -> None:
    """Words become pieces of words and back; a text is cut and filled up on the left; a batch is filled up to fours."""
    import torch
    from transformers import DataCollatorWithPadding

    with tempfile.TemporaryDirectory() as folder:
        tokenizer = _tokenizer(folder)
        seen = tokenizer(["Playing cat", "dog cat cat cat cat"], padding="max_length", truncation=True, max_length=6)
        for name, expected in (
            ("input_ids", [[0, 2, 5, 6, 7, 3], [2, 1, 7, 7, 7, 3]]),
            ("attention_mask", [[0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]]),
        ):
            require(seen[name] == expected, "wrong-value", f"{name} of two texts are {seen[name]}, not {expected}")
        text = tokenizer.decode([0, 2, 5, 6, 7, 3], skip_special_tokens=True)
        require(text == "playing cat", "wrong-value", f"tokens become {text!r}, not 'playing cat'")
        texts = [{**tokenizer(text), "label": number} for number, text in enumerate(("cat", "playing cat playing"))]
        batch = DataCollatorWithPadding(tokenizer, pad_to_multiple_of=4, return_tensors="pt")(texts)
    for name, rows in (
        ("input_ids", [[0] * 5 + [2, 7, 3], [0, 2, 5, 6, 7, 5, 6, 3]]),
        ("attention_mask", [[0] * 5 + [1] * 3, [0] + [1] * 7]),
        ("labels", [0, 1]),
    ):
        close(batch[name], torch.tensor(rows), f"{name} of a batch")


def texts_to_labels(probe: Probe) -> None:
    """The two likeliest labels of each text, with the odds that the network written out gives them, each for itself."""
    import torch
    from transformers import pipeline

    model = bert(probe).eval()
    model.config.id2label = {0: "red", 1: "green", 2: "blue"}
    with tempfile.TemporaryDirectory() as folder:
        sorter = pipeline("text-classification", model=model, tokenizer=_tokenizer(folder), device=probe.device)
        seen = sorter(["cat", "playing cat playing"], top_k=2, function_to_apply="sigmoid", batch_size=1)
    for found, ids in zip(seen, ([2, 7, 3], [2, 5, 6, 7, 5, 6, 3])):
        text = torch.tensor([ids], device=probe.device)
        odds = exactly(bert_written_out, model, input_ids=text, attention_mask=torch.ones_like(text))[0].sigmoid()
        best = odds.topk(2)
        close(torch.tensor([label["score"] for label in found]), best.values, "odds of two labels", 2e-3, 2e-4)
        if float(best.values[0] - best.values[1]) > 1e-2:  # else rounding may decide which of them is first
            label = model.config.id2label[int(best.indices[0])]
            require(
                found[0]["label"] == label, "wrong-value", f"the likeliest label is {found[0]['label']}, not {label}"
            )


def trainer(probe: Probe) -> None:
    """Steps over two batches each, clipped, with decay, a warm-up and a rate that falls, are those written out.

    Transformers 5 sums the gradients of the batches, in place of their mean, where a `forward` takes any keyword
    and drops those of the loss (https://github.com/huggingface/transformers/issues/47688): so the model says that it
    takes none, and a note says what becomes of another.
    """
    import torch
    from transformers import Trainer, TrainingArguments

    if find_spec("accelerate") is None:
        raise LeftOut("Trainer needs accelerate, which is not installed")
    (model, usual), (texts, labels) = (bert(probe), bert(probe)), random_texts(probe, 4)
    model.accepts_loss_kwargs = False
    exact = bert(probe).double()
    examples = [
        {"labels": int(label), **{name: values[row].cpu() for name, values in texts.items()}}
        for row, label in enumerate(labels)
    ]
    rate, decay, clip, steps = 0.2, 0.1, 0.5, 4
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            max_steps=steps,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            learning_rate=rate,
            weight_decay=decay,
            max_grad_norm=clip,
            warmup_steps=1,
            lr_scheduler_type="linear",
            optim="sgd",
            use_cpu=probe.device.type == "cpu",
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        told, sums = (
            Trainer(model=trained, args=arguments, train_dataset=examples).train().training_loss
            for trained in (model, usual)
        )
    named = dict(exact.named_parameters())
    for share in (0.0, 1.0, 2 / 3, 1 / 3):  # of the rate: one step of warm-up, then down to nothing after the fourth
        loss = torch.nn.functional.cross_entropy(bert_written_out(exact, **texts), labels)
        gradients = torch.autograd.grad(loss, list(named.values()))
        norm = float(torch.stack([gradient.norm() for gradient in gradients]).norm())
        with torch.no_grad():
            for (name, weight), gradient in zip(named.items(), gradients):
                decays = 0.0 if name.endswith("bias") or "LayerNorm" in name else decay
                weight -= share * rate * (min(1.0, clip / (norm + 1e-6)) * gradient + decays * weight)
    for name, weight in model.named_parameters():
        close(weight, named[name], f"{name} after the trainer's steps", rtol=1e-3, atol=1e-4)
    if sums > 1.5 * told:
        probe.note("Trainer sums accumulated batches in place of their mean unless accepts_loss_kwargs is set to False")
