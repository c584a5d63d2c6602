"""OpenCLIP: contrastive image-text models; here a tiny one from a config, so that nothing is downloaded."""

import copy
import inspect
import json
import os
import tempfile
from typing import Any, Dict

from ..compiling import compiled
from ..evidence import close, moments, of_shape, require, seeded, sound
from ..probe import Probe
from ._clip_towers import both_towers, look, normal, past, read, residual
from ._small import learns, same_as

DISTRIBUTION = "open-clip-torch"
MODULE = "open_clip"
NEEDS = ("torch", "PIL")
COVERS = {
    "open_clip.CLIP": "sample/both towers",
    "open_clip.ClipLoss": "autograd/losses",
    "open_clip.create_model_and_transforms": "sample/named model",
    "open_clip.tokenize": "sample/texts",
    "open_clip.get_tokenizer": "sample/texts",
    "open_clip.CoCa": "autograd/captions",
    "open_clip.loss.SigLipLoss": "autograd/losses",
}

CONFIG: Dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 256, "width": 64, "heads": 2, "layers": 1},
}
BATCH, HEADS = 8, 2


def sample(probe: Probe) -> None:
    """Features are those of the network written out; models and tokenizers have names; weights follow the seed."""
    import torch

    model, images, texts = _model(probe)
    with probe.part("both towers"), torch.no_grad():
        left, right = model.encode_image(images, normalize=True), model.encode_text(texts, normalize=True)
        exact = both_towers(copy.deepcopy(model).double(), images.double(), texts, HEADS, quick=False)
        for name, features, wanted in zip(("image features", "text features"), (left, right), exact):
            sound(features, images, name)
            of_shape(features, (BATCH, CONFIG["embed_dim"]), name)
            close(features, wanted / wanted.norm(dim=-1, keepdim=True), name, 1e-3, 1e-4)
        close(_features(model, images, texts)[0], left, "image features of the whole model")
        close(model.logit_scale.exp(), 1 / 0.07, "initial scale of the logits", rtol=1e-3)
    with probe.part("initial weights"):
        weight = model.text.token_embedding.weight if hasattr(model, "text") else model.token_embedding.weight
        moments(weight.flatten(), 0.0, 0.02, "initial token embeddings")
        seeded(lambda: _model(probe, reseed=False)[0].visual.conv1.weight, "initial weights", torch.manual_seed)
    with tempfile.TemporaryDirectory() as folder:
        _add_model(folder)
        with probe.part("texts"):
            _texts()
        with probe.part("named model"):
            _named_model(probe)


def autograd(probe: Probe) -> None:
    """Outputs, losses and gradients are those written out, the scale's among them; contrastive training trains."""
    import torch
    from open_clip import ClipLoss

    with probe.part("gradients"):
        model, images, texts = _model(probe, torch.float64)
        left, right, scale = _features(model, images, texts)
        features = both_towers(model, images, texts, HEADS, quick=False)
        one, other = (x / x.norm(dim=-1, keepdim=True) for x in features)
        same_as(model, scale * left @ right.T, model.logit_scale.exp() * one @ other.T, "OpenCLIP")
    with probe.part("losses"):
        for dtype in (torch.float32, torch.float64):
            _losses(probe, dtype)
    with probe.part("training"):
        model, images, texts = _model(probe)
        loss = ClipLoss()
        learns(model, lambda: loss(*_features(model, images, texts)), "contrastive training", steps=25, rate=1e-3)
    with probe.part("captions"):
        _captions(probe)


def compile(probe: Probe) -> None:
    """The image tower, compiled and eager; over two batch sizes where it does not take a CPU core 14 s each."""
    model, images, _ = _model(probe)
    named = dict(model.visual.named_parameters())
    sizes = (3, BATCH) if probe.thorough else (BATCH,)
    compiled(probe, model.visual, [(images[:size],) for size in sizes], "image tower", named, rtol=2e-3, atol=2e-4)


def _model(probe: Probe, dtype: Any = None, reseed: bool = True) -> Any:
    """A model of one layer each, and random images with random texts."""
    import torch
    from open_clip.model import CLIP

    if reseed:
        torch.manual_seed(probe.seed)
    model = CLIP(**CONFIG).to(probe.device, dtype or torch.float32)
    texts = torch.randint(1, 255, (BATCH, 12), generator=probe.generator(2)).to(probe.device)
    texts[:, -1] = 255  # the end of the text is its largest token
    return model, probe.randn(BATCH, 3, 32, 32, offset=1, dtype=dtype), texts


def _features(model: Any, images: Any, texts: Any) -> Any:
    found = model(images, texts)
    if isinstance(found, dict):
        return found["image_features"], found["text_features"], found["logit_scale"]
    return found[:3]


def _add_model(folder: str) -> None:
    """Give the tiny model a name, with OpenAI's tokens."""
    import open_clip

    config = {**CONFIG, "text_cfg": {**CONFIG["text_cfg"], "context_length": 9, "vocab_size": 49408}}
    with open(os.path.join(folder, "tiny-probe.json"), "w", encoding="utf-8") as file:
        json.dump(config, file)
    open_clip.add_model_config(folder)


def _texts() -> None:
    """Texts become OpenAI's tokens, filled up with zeros, or cut at the length that is asked for."""
    import open_clip
    import torch

    words = ["a photo of a cat", "a diagram"]
    expected = torch.tensor([[49406, 320, 1125, 539, 320, 2368, 49407, 0, 0], [49406, 320, 22697, 49407] + [0] * 5])
    own = {} if "context_length" in inspect.signature(open_clip.get_tokenizer).parameters else {"context_length": 9}
    for name, seen in (
        ("tokenize", open_clip.tokenize(words, context_length=9)),
        ("the model's tokenizer", open_clip.get_tokenizer("tiny-probe")(words, **own)),  # which 2.20 gives no model
    ):
        of_shape(seen, expected.shape, f"tokens of {name}")
        close(seen, expected, f"tokens of {name}")
    cut = open_clip.tokenize(words, context_length=5)
    close(cut, torch.tensor([[49406, 320, 1125, 539, 49407], [49406, 320, 22697, 49407, 0]]), "tokens of cut texts")


def _named_model(probe: Probe) -> None:
    """A model of a name, with OpenAI's activation, and pictures for it with a mean and a spread of our own."""
    import open_clip
    import torch
    from PIL import Image

    torch.manual_seed(probe.seed)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    settings = {"force_quick_gelu": True, "image_mean": mean, "image_std": std, "device": probe.device}
    model, train, prepare = open_clip.create_model_and_transforms("tiny-probe", **settings)
    pixels = torch.randint(0, 256, (32, 32, 3), generator=probe.generator(3), dtype=torch.uint8)
    seen = prepare(Image.fromarray(pixels.numpy()))
    centre, spread = (torch.tensor(one)[:, None, None] for one in (mean, std))
    close(seen, (pixels.permute(2, 0, 1) / 255 - centre) / spread, "a picture")
    of_shape(train(Image.fromarray(pixels.numpy())), (3, 32, 32), "a picture for training")
    images, texts = seen[None].to(probe.device), open_clip.tokenize(["a cat"], 9).to(probe.device)
    exact = both_towers(copy.deepcopy(model).double(), images.double(), texts, HEADS, quick=True)
    with torch.no_grad():
        features = model.eval().encode_image(images), model.encode_text(texts)
    for name, one, wanted in zip(("image features", "text features"), features, exact):
        sound(one, images, f"{name} of a named model")
        close(one, wanted, f"{name} of a named model", 1e-3, 1e-4)


def _losses(probe: Probe, dtype: Any) -> None:
    """Contrastive: which text belongs to an image, and which image to a text?  Sigmoid: does each pair belong together?

    Values and gradients are those of the formulas.
    """
    import torch
    from open_clip import loss as known

    features = [probe.randn(4, 6, offset=n, dtype=dtype) for n in (3, 4)]
    inputs = [x.clone().requires_grad_() for x in (*features, *probe.randn(2, offset=5, dtype=dtype))]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    logits, truth = exact[2] * exact[0] @ exact[1].T, torch.arange(4, device=probe.device)
    entropies = [torch.nn.functional.cross_entropy(guess, truth) for guess in (logits, logits.T)]
    belong = 2 * torch.eye(4, device=probe.device) - 1
    losses = [("contrastive loss", known.ClipLoss()(*inputs[:3]), sum(entropies) / 2, 3)]
    if hasattr(known, "SigLipLoss"):  # 2.20 has none
        sigmoid = known.SigLipLoss()(*inputs, output_dict=True)["contrastive_loss"]
        losses.append(("sigmoid loss", sigmoid, (1 + (-belong * (logits + exact[3])).exp()).log().sum() / 4, 4))
    for what, loss, expected, count in losses:
        sound(loss, inputs[0], what)
        close(loss, expected, what)
        require(loss.requires_grad, "no-gradient", f"the {what} is detached from the features")
        pairs = (torch.autograd.grad(x, y[:count], retain_graph=True) for x, y in ((loss, inputs), (expected, exact)))
        for number, (mine, theirs) in enumerate(zip(*pairs)):
            close(mine, theirs, f"gradient of the {what} by input {number}", code="wrong-gradient")


def _captions(probe: Probe) -> None:
    """Features and the odds of each next token are those of the towers and the decoder written out.

    The decoder's projection begins as whatever memory held, so that all weights are drawn here.
    """
    import torch
    from open_clip import CoCa

    width = {"width": 64, "heads": HEADS, "layers": 1, "context_length": 12, "vocab_size": 256}
    texts_of = {**CONFIG["text_cfg"], "embed_cls": True, "output_tokens": True}
    model = CoCa(32, width, texts_of, {**CONFIG["vision_cfg"], "output_tokens": True})
    with torch.no_grad():
        for number, weight in enumerate(model.parameters()):
            weight.copy_(0.3 * torch.randn(weight.shape, generator=probe.generator(20 + number)))
    model = model.to(probe.device, torch.float64)
    _, images, texts = _model(probe, torch.float64)
    found = model(images, texts)
    length = found["labels"].shape[1]  # 2.24 and others before 3.0 give each token, the last one too, as its own label
    require(length in (11, 12), "wrong-shape", f"CoCa gives {length} labels for 12 tokens")
    # before 2.24 the tower's own token took the place of the last
    older = "embed_cls" in inspect.signature(model._encode_text).parameters
    words = read(model.text, texts[:, :-1] if older else texts, HEADS, quick=False)
    plain = look(model.visual, images, HEADS, quick=False)
    seen = normal(model.visual.ln_post, plain)
    patches = (seen if hasattr(model.visual, "pool_type") else plain)[:, 1:]  # before 2.23: the plain ones
    left, right = seen[:, 0] @ model.visual.proj, normal(model.text.ln_final, words[:, -1]) @ model.text.text_projection
    decoder, x = model.text_decoder, words[:, :length]
    for layer, crossing in zip(decoder.resblocks, decoder.cross_attn):
        x = residual(crossing, residual(layer, x, HEADS, False, past(x)), HEADS, False, seen=patches)
    wanted = [normal(decoder.ln_final, x) @ decoder.text_projection]
    wanted += [x / x.norm(dim=-1, keepdim=True) for x in (left, right)]
    parts = [found[name] for name in ("logits", "image_features", "text_features")]
    scale = found["logit_scale"], model.logit_scale.exp()
    seen, expected = (torch.cat([x.flatten(1) for x in group], 1) * one for group, one in zip((parts, wanted), scale))
    same_as(model, seen, expected, "CoCa")
    close(found["labels"], texts[:, 12 - length :], "labels of CoCa")
