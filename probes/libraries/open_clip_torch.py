"""OpenCLIP: contrastive image-text models; here a tiny one from a config, so that nothing is downloaded."""

from typing import Any, Dict

from ..compiling import compiled
from ..evidence import close, differentiable, falls, moments, of_shape, reached, require, seeded, sound
from ..probe import Probe

DISTRIBUTION = "open-clip-torch"
MODULE = "open_clip"
NEEDS = ("torch",)
COVERS = {
    "open_clip.CLIP": "sample",
    "open_clip.ClipLoss": "autograd",
    "open_clip.create_model_and_transforms": "",
    "open_clip.tokenize": "",
    "open_clip.get_tokenizer": "",
    "open_clip.CoCa": "",
    "open_clip.SigLipLoss": "",
}

CONFIG: Dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 256, "width": 64, "heads": 2, "layers": 1},
}
BATCH = 8


def sample(probe: Probe) -> None:
    """Features are of unit length and on the device; initial weights have their spread and follow the seed."""
    import torch

    model, images, texts = _model(probe)
    with torch.no_grad():
        left, right = model.encode_image(images, normalize=True), model.encode_text(texts, normalize=True)
    for name, features in (("image features", left), ("text features", right)):
        sound(features, images, name)
        of_shape(features, (BATCH, CONFIG["embed_dim"]), name)
        close(features.norm(dim=-1), torch.ones(BATCH), f"length of {name}")
    with torch.no_grad():
        seen = model(images, texts)
        close(seen[0] if isinstance(seen, tuple) else seen["image_features"], left, "image features of the whole model")
        close(model.logit_scale.exp(), 1 / 0.07, "initial scale of the logits", rtol=1e-3)
    weight = model.text.token_embedding.weight if hasattr(model, "text") else model.token_embedding.weight
    moments(weight.flatten(), 0.0, 0.02, "initial token embeddings")
    seeded(lambda: _model(probe, reseed=False)[0].visual.conv1.weight, "initial weights", torch.manual_seed)


def autograd(probe: Probe) -> None:
    """The contrastive loss is the formula's, reaches every parameter, the scale among them, and falls in training."""
    import torch
    from open_clip.loss import ClipLoss

    model, images, texts = _model(probe)
    loss_of = ClipLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for step in range(40 if probe.full else 25):
        optimizer.zero_grad()
        left, right, scale = _features(model, images, texts)
        loss = loss_of(left, right, scale)
        if step == 0:
            logits = scale.double() * left.double() @ right.double().T
            truth = torch.arange(BATCH, device=probe.device)
            entropy = torch.nn.functional.cross_entropy
            sound(loss, left, "contrastive loss")
            close(loss, (entropy(logits, truth) + entropy(logits.T, truth)) / 2, "contrastive loss")
            require(loss.requires_grad, "no-gradient", "the contrastive loss is detached from the features")
        loss.backward()
        if step == 0:
            reached(dict(model.named_parameters()), "OpenCLIP")
        optimizer.step()
        losses.append(float(loss))
    require(losses[0] > 0.1, "wrong-value", f"the loss begins at {losses[0]:.3g}: nothing is left to learn")
    falls(losses, "contrastive training", drop=0.3)
    wide = _model(probe)[0].double()
    differentiable(lambda pixels: loss_of(*_features(wide, pixels, texts)), [images], "contrastive loss")


def compile(probe: Probe) -> None:
    """The image tower, compiled and eager; over two batch sizes where it does not take a CPU core 14 s each."""
    model, images, _ = _model(probe)
    named = dict(model.visual.named_parameters())
    sizes = (3, BATCH) if probe.thorough else (BATCH,)
    compiled(probe, model.visual, [(images[:size],) for size in sizes], "image tower", named, rtol=2e-3, atol=2e-4)


def _model(probe: Probe, reseed: bool = True) -> Any:
    """A model of one layer each, and random images with random texts."""
    import torch
    from open_clip.model import CLIP

    if reseed:
        torch.manual_seed(probe.seed)
    model = CLIP(**CONFIG).to(probe.device)
    texts = torch.randint(1, 255, (BATCH, 12), generator=probe.generator(2)).to(probe.device)
    texts[:, -1] = 255  # the end of the text is its largest token
    return model, probe.randn(BATCH, 3, 32, 32, offset=1), texts


def _features(model: Any, images: Any, texts: Any) -> Any:
    found = model(images, texts)
    if isinstance(found, dict):
        return found["image_features"], found["text_features"], found["logit_scale"]
    return found[:3]
