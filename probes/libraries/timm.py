"""timm: image models with their training recipe; here a tiny vision transformer, so that nothing is downloaded."""

import copy
import math
from typing import Any

from ..compiling import compiled
from ..evidence import NotApplicable, close, moments, of_shape, require, seeded, sound
from ..probe import Probe
from ._small import attention, learns, same_as

DISTRIBUTION = "timm"
MODULE = "timm"
NEEDS = ("torch", "numpy", "PIL")
COVERS = {
    "timm.create_model": "sample/vision transformer",
    "timm.models.VisionTransformer": "autograd/vision transformer",
    "timm.models.VisionTransformer.forward_features": "sample/vision transformer",
    "timm.models.VisionTransformer.reset_classifier": "sample/vision transformer",
    "timm.models.ResNet": "sample/features",
    "timm.layers.DropPath": "sample/drop path",
    "timm.data.Mixup": "sample/mixup",
    "timm.data.create_transform": "sample/pictures",
    "timm.data.resolve_data_config": "sample/pictures",
    "timm.loss.LabelSmoothingCrossEntropy": "autograd/losses",
    "timm.loss.SoftTargetCrossEntropy": "autograd/losses",
    "timm.optim.create_optimizer_v2": "autograd/recipe",
    "timm.scheduler.CosineLRScheduler": "autograd/recipe",
    "timm.utils.ModelEmaV2": "autograd/recipe",
    "timm.list_models": "sample/vision transformer",
    "timm.data.create_dataset": "",
    "timm.data.create_loader": "",
    "timm.data.auto_augment.rand_augment_transform": "",
}

CLASSES, HEADS = 5, 2


def sample(probe: Probe) -> None:
    """Outputs are the network's written out; weights, dropped paths and mixtures are drawn as their papers say."""
    import timm
    import torch

    with probe.part("vision transformer"):
        require("vit_tiny_patch16_224" in timm.list_models("vit_*"), "wrong-value", "the model is not in the list")
        model, images = _vit(probe).eval(), probe.randn(3, 3, 16, 16)
        seen = model(images)
        sound(seen, images, "logits")
        close(seen, _written_out(copy.deepcopy(model).double(), images.double()), "logits", 1e-3)
        of_shape(model.forward_features(images), (3, 5, 48), "features")  # 2 x 2 patches and the class
        model.reset_classifier(0)
        close(model(images), model.forward_features(images)[:, 0], "output without a classifier")
        weights = [weight.flatten() for name, weight in model.named_parameters() if "mlp" in name and "weight" in name]
        moments(torch.cat(weights), 0.0, 0.02, "initial weights")
        seeded(lambda: _vit(probe, reseed=False).head.weight, "initial weights", torch.manual_seed)
    with probe.part("features"):
        model = timm.create_model("resnet10t", features_only=True, out_indices=(1, 3)).to(probe.device).eval()
        first, last = model(probe.randn(1, 3, 64, 64))
        of_shape(first, (1, model.feature_info.channels()[0], 16, 16), "features after the first layer")
        of_shape(last, (1, model.feature_info.channels()[1], 4, 4), "features after the third layer")
    with probe.part("drop path"):
        layer, x = timm.layers.DropPath(0.3).train(), torch.ones(20_000, 3, device=probe.device)
        torch.manual_seed(probe.seed)
        dropped = layer(x)
        require(bool((dropped == dropped[:, :1]).all()), "wrong-value", "a path is dropped in parts")
        moments(dropped[:, 0], 1.0, math.sqrt(0.3 / 0.7), "dropped paths")
        close(layer.eval()(x), x, "paths of a network that does not train")
        seeded(lambda: timm.layers.DropPath(0.3).train()(x), "DropPath", torch.manual_seed)
    with probe.part("mixup"):
        import numpy

        numpy.random.seed(probe.seed)
        mix = timm.data.Mixup(mixup_alpha=1.0, label_smoothing=0.1, num_classes=CLASSES)
        images, labels = probe.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 3], device=probe.device)
        mixed, targets = mix(images.clone(), labels)
        share = float((targets[0, 0] - 0.02) / 0.9)
        close(mixed, share * images + (1 - share) * images.flip(0), "mixed pictures")
        hot = torch.nn.functional.one_hot(labels, CLASSES).float() * 0.9 + 0.02
        close(targets, share * hot + (1 - share) * hot.flip(0), "mixed labels")
        shares = torch.tensor([mix._params_per_batch()[0] for _ in range(20_000)])
        moments(shares, 0.5, 12**-0.5, "shares of a mixture, which are uniform")
    with probe.part("pictures"):
        from PIL import Image

        pixels = torch.randint(0, 256, (16, 16, 3), generator=probe.generator(3), dtype=torch.uint8)
        config = timm.data.resolve_data_config({"input_size": (3, 16, 16), "crop_pct": 1.0}, model=_vit(probe))
        seen = timm.data.create_transform(**config)(Image.fromarray(pixels.numpy()))
        mean, std = (torch.tensor(config[name])[:, None, None] for name in ("mean", "std"))
        close(seen, (pixels.permute(2, 0, 1) / 255 - mean) / std, "a picture for the network")


def autograd(probe: Probe) -> None:
    """Gradients are those of the network written out; losses, steps, rates and averages those of their formulas."""
    import timm.loss
    import torch

    with probe.part("vision transformer"):
        model, images = _vit(probe).double().eval(), probe.randn(3, 3, 16, 16, dtype=torch.float64)
        still = [name for name, _ in model.named_parameters() if name.endswith("qkv.bias")]
        same_as(model, model(images), _written_out(model, images), "vision transformer", still)
    with probe.part("losses"):
        logits, labels = probe.randn(4, CLASSES).requires_grad_(), torch.arange(4, device=probe.device)
        soft, hot = probe.randn(4, CLASSES, offset=1).softmax(1), torch.nn.functional.one_hot(labels, CLASSES).double()
        exact = logits.detach().double().requires_grad_()
        for name, loss, truth in (
            ("label smoothing", timm.loss.LabelSmoothingCrossEntropy(0.2)(logits, labels), 0.8 * hot + 0.2 / CLASSES),
            ("soft targets", timm.loss.SoftTargetCrossEntropy()(logits, soft), soft.double()),
        ):
            expected = -(truth * (exact - exact.exp().sum(1, keepdim=True).log())).sum(1).mean()
            close(loss, expected, f"loss with {name}")
            require(loss.requires_grad, "no-gradient", f"the loss with {name} is detached")
            pair = torch.autograd.grad(loss, logits)[0], torch.autograd.grad(expected, exact)[0]
            close(*pair, f"gradient of the loss with {name}", code="wrong-gradient")
    with probe.part("recipe"):
        _recipe(probe)
    with probe.part("training"):
        model, images = _vit(probe), probe.randn(8, 3, 16, 16)
        labels = torch.arange(8, device=probe.device) % CLASSES
        learns(model, lambda: torch.nn.functional.cross_entropy(model(images), labels), "vision transformer", steps=20)


def compile(probe: Probe) -> None:
    """The network, compiled and eager; over two batch sizes where that does not take a CPU core too long."""
    model = _vit(probe, depth=1).eval()
    inputs = [(probe.randn(size, 3, 16, 16),) for size in ((2, 4) if probe.thorough else (2,))]
    compiled(probe, model, inputs, "vision transformer", dict(model.named_parameters()), rtol=1e-3, atol=1e-4)


def _vit(probe: Probe, depth: int = 2, reseed: bool = True) -> Any:
    import timm
    import torch

    if tuple(map(int, timm.__version__.split(".")[:2])) < (0, 8):
        raise NotApplicable("before timm 0.8 a model of a name takes no other sizes")
    if reseed:
        torch.manual_seed(probe.seed)
    options = {"img_size": 16, "patch_size": 8, "embed_dim": 48, "depth": depth, "num_heads": HEADS}
    return timm.create_model("vit_tiny_patch16_224", num_classes=CLASSES, **options).to(probe.device)


def _written_out(model: Any, images: Any) -> Any:
    """The logits in calls of torch alone, with the network's own weights."""
    import torch

    weight, bias = model.patch_embed.proj.weight, model.patch_embed.proj.bias
    patches = images.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
    x = patches @ weight.flatten(1).T + bias
    x = torch.cat([model.cls_token.expand(len(x), -1, -1), x], 1) + model.pos_embed
    for block in model.blocks:
        normal = block.norm1(x)
        x = x + block.attn.proj(attention(HEADS, *block.attn.qkv(normal).chunk(3, -1)))
        wide = block.mlp.fc1(block.norm2(x))
        x = x + block.mlp.fc2(wide * (1 + torch.erf(wide / math.sqrt(2))) / 2)
    return model.head(model.norm(x)[:, 0])


def _recipe(probe: Probe) -> None:
    """Matrices alone decay; the rate warms up and follows a cosine; the average is one of the weights so far."""
    import timm.optim
    import timm.scheduler

    model = _vit(probe)
    optimizer = timm.optim.create_optimizer_v2(model, "momentum", lr=0.1, weight_decay=0.5, momentum=0.0)
    schedule = timm.scheduler.CosineLRScheduler(optimizer, t_initial=6, lr_min=0.01, warmup_t=2, warmup_lr_init=0.02)
    average = timm.utils.ModelEmaV2(model, decay=0.7)
    exact = {name: weight.detach().double() for name, weight in model.named_parameters()}
    mean, x = dict(exact), probe.randn(2, 3, 16, 16)
    free = {name for name, weight in model.named_parameters() if weight.ndim <= 1} | {"cls_token", "pos_embed"}
    for step in range(4):
        rate = 0.02 + 0.04 * step if step < 2 else 0.01 + 0.045 * (1 + math.cos(math.pi * step / 6))
        close(optimizer.param_groups[0]["lr"], rate, f"rate of step {step}")
        optimizer.zero_grad()
        model(x).square().sum().backward()
        for name, weight in model.named_parameters():
            decay = 0.0 if name in free else 0.5
            exact[name] = exact[name] - rate * (weight.grad.double() + decay * exact[name])
            mean[name] = 0.7 * mean[name] + 0.3 * exact[name]
        optimizer.step()
        average.update(model)
        schedule.step(step + 1)
    for name, weight in model.named_parameters():
        close(weight, exact[name], f"{name} after four steps", 1e-3, 1e-5)
    for name, weight in average.module.named_parameters():
        close(weight, mean[name], f"average of {name}", 1e-3, 1e-5)
