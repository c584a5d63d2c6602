"""clip: OpenAI's CLIP, installed from its Git repository, with random weights, so that nothing is downloaded."""

import copy
import os
import tempfile
from typing import Any

from ..compiling import compiled
from ..evidence import close, moments, reached, require, seeded, sound
from ..probe import Probe
from ._clip_towers import MEAN, STD, both_towers
from ._small import learns

DISTRIBUTION = "clip"
MODULE = "clip"
NEEDS = ("torch", "PIL")
COVERS = {
    "clip.model.CLIP": "sample/both towers",
    "clip.model.CLIP.encode_image": "sample/both towers",
    "clip.model.CLIP.encode_text": "sample/both towers",
    "clip.model.build_model": "sample/files",
    "clip.load": "sample/files",
    "clip.tokenize": "sample/texts",
    "clip.available_models": "sample/texts",
    "clip.model.ModifiedResNet": "",
}

WIDTH, IMAGE, PATCH, LENGTH, TOKENS = 64, 32, 16, 8, 49408


def sample(probe: Probe) -> None:
    """Features and odds are those of the network written out; texts become tokens; a saved model comes back."""
    import clip
    import torch

    model, images, texts = _model(probe)
    with probe.part("both towers"), torch.no_grad():
        seen = model(images, texts)
        left, right = both_towers(copy.deepcopy(model).double(), images.double(), texts, 1, True)
        close(model.encode_image(images), left, "image features", 1e-3, 1e-4)
        close(model.encode_text(texts), right, "text features", 1e-3, 1e-4)
        odds = 1 / 0.07 * torch.nn.functional.cosine_similarity(left[:, None], right, dim=2)
        for logits, expected in zip(seen, (odds, odds.T)):
            sound(logits, images, "scaled likeness of images and texts")
            close(logits, expected, "scaled likeness of images and texts", 1e-3, 1e-4)
    with probe.part("initial weights"):
        moments(model.token_embedding.weight[:500].flatten(), 0.0, 0.02, "initial token embeddings")
        seeded(lambda: _model(probe, reseed=False)[0].visual.proj, "initial weights", torch.manual_seed)
    with probe.part("texts"):
        require("ViT-B/32" in clip.available_models(), "wrong-value", "ViT-B/32 is not in the list of models")
        seen = clip.tokenize(["a photo of a cat", "a diagram"], context_length=9)
        expected = [[49406, 320, 1125, 539, 320, 2368, 49407, 0, 0], [49406, 320, 22697, 49407, 0, 0, 0, 0, 0]]
        close(seen, torch.tensor(expected), "tokens of two texts")
    with probe.part("files"), tempfile.TemporaryDirectory() as folder:
        from PIL import Image

        path = os.path.join(folder, "weights.pt")  # as the published ones: a traced model
        torch.jit.trace(model, (images, texts)).save(path)
        loaded, prepare = clip.load(path, device=probe.device)
        half = next(loaded.parameters()).dtype
        wanted = torch.float16 if probe.device.type == "cuda" else torch.float32
        require(half == wanted, "wrong-dtype", f"loaded weights are {half}, not {wanted}")
        with torch.no_grad():
            close(loaded.float().encode_image(images), left, "features of a loaded model", 1e-2, 1e-2)
        pixels = torch.randint(0, 256, (IMAGE, IMAGE, 3), generator=probe.generator(3), dtype=torch.uint8)
        mean, std = (torch.tensor(one)[:, None, None] for one in (MEAN, STD))
        close(prepare(Image.fromarray(pixels.numpy())), (pixels.permute(2, 0, 1) / 255 - mean) / std, "a picture")


def autograd(probe: Probe) -> None:
    """Gradients are those of the network written out, in both towers and the scale; the contrastive loss falls."""
    import torch

    with probe.part("gradients"):
        model, images, texts = _model(probe)
        named, exact = dict(model.named_parameters()), copy.deepcopy(model).double()
        out = model(images, texts)[0]
        require(out.requires_grad, "no-gradient", "the likeness of images and texts is detached")
        share = probe.randn(4, 4, offset=5)
        (out * share).sum().backward()
        reached(named, "CLIP", [name for name in named if name.endswith("in_proj_bias")])
        left, right = both_towers(exact, images.double(), texts, 1, True)
        odds = exact.logit_scale.exp() * torch.nn.functional.cosine_similarity(left[:, None], right, dim=2)
        (odds * share).sum().backward()
        for name, weight in exact.named_parameters():
            close(named[name].grad, weight.grad, f"gradient of {name}", 1e-3, 1e-4, "wrong-gradient")
    with probe.part("training"):
        model, images, texts = _model(probe)
        truth = torch.arange(4, device=probe.device)

        def loss() -> Any:
            return sum(torch.nn.functional.cross_entropy(logits, truth) for logits in model(images, texts)) / 2

        learns(model, loss, "contrastive training", steps=20, rate=1e-3)


def compile(probe: Probe) -> None:
    """The image tower, compiled and eager; over two batch sizes where that does not take a CPU core too long."""
    model, images, _ = _model(probe)
    inputs = [(images[:size],) for size in ((2, 4) if probe.thorough else (2,))]
    compiled(probe, model.visual, inputs, "image tower", dict(model.visual.named_parameters()), rtol=2e-3, atol=2e-4)


def _model(probe: Probe, reseed: bool = True) -> Any:
    """A model of one layer each, with random images and texts."""
    import clip.model
    import torch

    if reseed:
        torch.manual_seed(probe.seed)
    model = clip.model.CLIP(WIDTH, IMAGE, 1, WIDTH, PATCH, LENGTH, TOKENS, WIDTH, 1, 1).to(probe.device)
    texts = torch.randint(1, TOKENS - 1, (4, LENGTH), generator=probe.generator(2)).to(probe.device)
    texts[:, -2] = TOKENS - 1  # the end of a text is its largest token
    return model, probe.randn(4, 3, IMAGE, IMAGE, offset=1), texts
