"""torchvision: operations on boxes and regions, image transforms and files, residual networks."""

from typing import Any, List

from ..compiling import compiled
from ..evidence import (
    NotApplicable,
    close,
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
from ..probe import Probe

DISTRIBUTION = "torchvision"
MODULE = "torchvision"
NEEDS = ("torch",)
COVERS = {
    "torchvision.ops.nms": "sample/boxes",
    "torchvision.ops.box_iou": "sample/boxes",
    "torchvision.ops.roi_align": "sample/roi_align",
    "torchvision.ops.deform_conv2d": "autograd/deform_conv2d",
    "torchvision.ops.sigmoid_focal_loss": "autograd/focal loss",
    "torchvision.models.ResNet": "autograd/ResNet",
    "torchvision.transforms.v2.CenterCrop": "sample/transforms",
    "torchvision.transforms.v2.Normalize": "sample/transforms",
    "torchvision.transforms.v2.Resize": "sample/transforms",
    "torchvision.transforms.v2.Compose": "sample/transforms",
    "torchvision.transforms.v2.RandomCrop": "sample/random transforms",
    "torchvision.transforms.v2.RandomHorizontalFlip": "sample/random transforms",
    "torchvision.io.decode_png": "sample/image files",
    "torchvision.io.decode_jpeg": "",
    "torchvision.ops.roi_pool": "",
    "torchvision.ops.batched_nms": "",
    "torchvision.transforms.v2.ColorJitter": "",
    "torchvision.transforms.v2.GaussianBlur": "",
    "torchvision.transforms.v2.ToTensor": "",
    "torchvision.datasets.ImageFolder": "",
    "torchvision.utils.make_grid": "",
}

DRAWS = 2_000
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]


def sample(probe: Probe) -> None:
    """Operations and transforms are what their definitions say; random ones have the right odds and follow the seed."""
    with probe.part("boxes"):
        _boxes(probe)
    with probe.part("roi_align"):
        _roi_align(probe)
    with probe.part("transforms"):
        _fixed_transforms(probe)
    with probe.part("random transforms"):
        _random_transforms(probe)
    with probe.part("image files"):
        _image_files(probe)


def autograd(probe: Probe) -> None:
    """Gradients are those of finite differences or of the same thing written out; a residual network trains."""
    import torch
    from torchvision import ops

    with probe.part("roi_align"):
        boxes = _regions(probe, torch.float64)
        features = probe.randn(2, 3, 8, 8, offset=1, dtype=torch.float64)
        pooled = lambda x: ops.roi_align(x, boxes, 3, sampling_ratio=2).square().sum()  # noqa: E731
        differentiable(pooled, [features], "roi_align")
    with probe.part("deform_conv2d"):
        _deformed(probe)
    with probe.part("focal loss"):
        _focal_loss(probe)
    with probe.part("ResNet"):
        _residual_network(probe)
    with probe.part("training"):
        _train(probe)


def compile(probe: Probe) -> None:
    """roi_align and transforms over two shapes, and a residual block, give the eager result."""
    import torch
    from torchvision import ops
    from torchvision.models.resnet import BasicBlock

    with probe.part("roi_align"):
        pair = [(probe.randn(2, 3, size, size, offset=size), _regions(probe)) for size in (8, 11)]
        compiled(probe, lambda x, boxes: ops.roi_align(x, boxes, 3, sampling_ratio=2), pair, "roi_align")
    with probe.part("transforms"):
        transforms = _transforms()
        resize, normalize = transforms.Resize([12, 8], antialias=False), transforms.Normalize(MEAN, STD)
        images = [(probe.randn(3, size, size + 1, offset=size),) for size in (5, 7)]
        compiled(probe, lambda image: normalize(resize(image)), images, "transforms", backward=False)
    with probe.part("residual block"):  # one, as in detection: the compiler takes a second or more for each kernel
        torch.manual_seed(probe.seed)
        block = BasicBlock(4, 4, norm_layer=ops.FrozenBatchNorm2d).to(probe.device)
        images = [(probe.randn(2, 4, 6, 6),)]
        compiled(probe, block, images, "residual block", dict(block.named_parameters()), rtol=2e-3, atol=2e-4)


def _transforms() -> Any:
    """The transforms of this version's time: those of tensors and boxes alike came with 0.15."""
    try:
        from torchvision.transforms import v2
    except ImportError:
        from torchvision import transforms

        return transforms
    return v2


def _regions(probe: Probe, dtype: Any = None) -> Any:
    """Boxes as (image, left, top, right, bottom), between 1 and 7, so that no sample leaves an 8 x 8 image."""
    import torch

    corner = torch.rand(6, 2, generator=probe.generator(5)) * 2 + 1
    size = torch.rand(6, 2, generator=probe.generator(6)) * 3 + 1
    image = torch.arange(6)[:, None] % 2
    return torch.cat([image, corner, corner + size], 1).to(probe.device, dtype or torch.float32)


def _boxes(probe: Probe) -> None:
    """Overlaps are areas of intersections over unions; greedy suppression in the scores' order keeps the same boxes."""
    import torch
    from torchvision import ops

    corner = torch.randint(10, (120, 2), generator=probe.generator(1)).float()
    boxes = torch.cat([corner, corner + torch.randint(1, 5, (120, 2), generator=probe.generator(2))], 1)
    scores = torch.randperm(120, generator=probe.generator(3)).float()
    overlaps = [[_overlap(one, other) for other in boxes.tolist()] for one in boxes.tolist()]
    limit = 0.29  # no box is larger than 4 x 4, so that no two overlap by exactly that
    kept: List[int] = []
    for candidate in scores.argsort(descending=True).tolist():
        if all(overlaps[candidate][other] <= limit for other in kept):
            kept.append(candidate)
    boxes, scores = boxes.to(probe.device), scores.to(probe.device)
    seen = ops.box_iou(boxes, boxes)
    sound(seen, boxes, "box_iou")
    close(seen, torch.tensor(overlaps), "box_iou")
    seen = ops.nms(boxes, scores, limit)
    on_device(seen, probe.device, "nms")
    of_shape(seen, (len(kept),), "list of boxes that nms keeps")
    close(seen, torch.tensor(kept), "boxes that nms keeps")


def _overlap(one: List[float], other: List[float]) -> float:
    """Intersection over union of two boxes."""

    def area(left: float, top: float, right: float, bottom: float) -> float:
        return max(right - left, 0) * max(bottom - top, 0)

    corners = [max(pair) for pair in zip(one[:2], other[:2])] + [min(pair) for pair in zip(one[2:], other[2:])]
    shared = area(*corners)
    return shared / (area(*one) + area(*other) - shared)


def _roi_align(probe: Probe) -> None:
    """The mean of a plane's bilinear samples over a bin is the plane at the bin's centre."""
    import torch
    from torchvision import ops

    a, b, c = probe.randn(3).tolist()
    grid = torch.arange(8.0, device=probe.device)
    plane = (a * grid[None, :] + b * grid[:, None] + c).expand(2, 1, 8, 8).contiguous()
    boxes = _regions(probe)
    seen = ops.roi_align(plane, boxes, 3, sampling_ratio=2, aligned=True)
    of_shape(seen, (6, 1, 3, 3), "roi_align")
    sound(seen, plane, "roi_align")
    centre = (torch.arange(3, device=probe.device) + 0.5) / 3
    x = boxes[:, 1, None] + (boxes[:, 3] - boxes[:, 1])[:, None] * centre - 0.5
    y = boxes[:, 2, None] + (boxes[:, 4] - boxes[:, 2])[:, None] * centre - 0.5
    close(seen[:, 0], a * x[:, None, :] + b * y[:, :, None] + c, "roi_align of a plane")


def _fixed_transforms(probe: Probe) -> None:
    """Flip, crop and normalise are index and arithmetic; a plane of twice the size is the same plane."""
    import torch

    transforms = _transforms()
    image = probe.randn(3, 12, 10).sigmoid()
    chain = [transforms.RandomHorizontalFlip(p=1.0), transforms.CenterCrop(6), transforms.Normalize(MEAN, STD)]
    seen = transforms.Compose(chain)(image)
    sound(seen, image, "transformed image")
    mean, std = torch.tensor([MEAN, STD], device=probe.device)[:, :, None, None]
    close(seen, (image.flip(-1)[:, 3:9, 2:8] - mean) / std, "flip, crop and normalise")
    a, b, c = probe.randn(3, offset=1).tolist()

    def plane(rows: Any, columns: Any) -> Any:
        return a * rows[None, :, None] + b * columns[None, None, :] + c

    rows, columns = torch.arange(6.0, device=probe.device), torch.arange(5.0, device=probe.device)
    seen = transforms.Resize([12, 10], antialias=False)(plane(rows, columns))
    sound(seen, image, "resized image")
    between = [((torch.arange(2.0 * n, device=probe.device) + 0.5) / 2 - 0.5).clamp(0, n - 1) for n in (6, 5)]
    close(seen, plane(*between), "resized plane")


def _random_transforms(probe: Probe) -> None:
    """A crop lies anywhere with the same odds, a flip happens as often as it should, and both follow the seed."""
    import torch

    transforms = _transforms()
    image = torch.arange(42.0, device=probe.device).reshape(1, 6, 7)
    crop, flip = transforms.RandomCrop(4), transforms.RandomHorizontalFlip(p=0.3)
    seeded(lambda: torch.stack([crop(image) for _ in range(20)]), "RandomCrop", torch.manual_seed)
    seeded(lambda: torch.stack([flip(image) for _ in range(40)]), "RandomHorizontalFlip", torch.manual_seed)
    torch.manual_seed(probe.seed)
    crops = torch.stack([crop(image) for _ in range(DRAWS)])
    of_shape(crops, (DRAWS, 1, 4, 4), "random crops")
    sound(crops, image, "random crops")
    corner = crops[:, 0, 0, 0]
    close(crops[:, 0], corner[:, None, None] + image[0, :4, :4], "pixels of a random crop")
    spread = torch.tensor([(3**2 - 1) / 12, (4**2 - 1) / 12]).sqrt()
    moments(torch.stack([corner // 7, corner % 7], 1), torch.tensor([1.0, 1.5]), spread, "corners of random crops")
    flips = torch.stack([flip(image) for _ in range(DRAWS)])
    sound(flips, image, "random flips")
    turned = flips[:, 0, 0, 0] == 6
    close(flips, torch.where(turned[:, None, None, None], image.flip(-1), image), "pixels of a random flip")
    moments(turned.float(), 0.3, (0.3 * 0.7) ** 0.5, "random flips")


def _image_files(probe: Probe) -> None:
    """A PNG file written with the standard library holds the same pixels when torchvision reads it."""
    import struct
    import zlib

    import torch
    from torchvision import io

    if not hasattr(io, "decode_png"):
        raise NotApplicable("torchvision.io reads no PNG files before 0.8")
    pixels = torch.randint(256, (5, 7, 3), generator=probe.generator(8))
    rows = b"".join(b"\0" + bytes(row.flatten().tolist()) for row in pixels)  # each after its filter: none
    blocks = ((b"IHDR", struct.pack(">IIBBBBB", 7, 5, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    file = b"\x89PNG\r\n\x1a\n"
    for kind, data in blocks:
        file += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    seen = io.decode_png(torch.tensor(list(file), dtype=torch.uint8))
    require(seen.dtype == torch.uint8, "wrong-dtype", f"a decoded PNG file is {seen.dtype}, not torch.uint8")
    close(seen, pixels.permute(2, 0, 1), "decoded PNG file")


def _deformed(probe: Probe) -> None:
    """Without offsets it is the convolution of torch; gradients reach image, offsets, weights and mask, and are right.

    Offsets stay off whole pixels, where bilinear sampling has kinks.
    """
    import torch
    from torchvision import ops

    image, weight, mask = (probe.randn(2, 2, n, n, offset=n, dtype=torch.float64) for n in (6, 3, 4))
    mask = mask[:, :1].repeat(1, 9, 1, 1).sigmoid()
    offset = 0.2 + 0.6 * probe.randn(2, 18, 4, 4, offset=7, dtype=torch.float64).sigmoid()
    still = ops.deform_conv2d(image, torch.zeros_like(offset), weight, mask=torch.ones_like(mask))
    close(still, torch.nn.functional.conv2d(image, weight), "deform_conv2d without offsets")
    differentiable(
        lambda x, o, w, m: ops.deform_conv2d(x, o, w, mask=m).square().sum(),
        [image, offset, weight, mask],
        "deform_conv2d",
    )


def _focal_loss(probe: Probe) -> None:
    """Cross-entropy weighted by how wrong the guess is, and by class; the gradient is that of the formula."""
    import torch
    from torchvision import ops

    logits = probe.randn(50, offset=9).requires_grad_()
    truth = (probe.randn(50, offset=10) > 0).float()
    loss = ops.sigmoid_focal_loss(logits, truth, alpha=0.3, gamma=2.0, reduction="sum")
    sound(loss, logits, "focal loss")
    exact = logits.detach().double().requires_grad_()
    right = torch.where(truth > 0, exact, -exact).sigmoid()
    expected = (torch.where(truth > 0, 0.3, 0.7) * (1 - right) ** 2 * -right.log()).sum()
    close(loss, expected, "focal loss")
    require(loss.requires_grad, "no-gradient", "the focal loss is detached")
    loss.backward()
    expected.backward()
    close(logits.grad, exact.grad, "gradient of the focal loss", code="wrong-gradient")


def _resnet(probe: Probe, dtype: Any = None) -> Any:
    """One residual block a stage and four classes; nothing is downloaded."""
    import torch
    from torchvision.models.resnet import BasicBlock, ResNet

    torch.manual_seed(probe.seed)
    return ResNet(BasicBlock, [1, 1, 1, 1], num_classes=4).to(probe.device, dtype or torch.float32)


def _written_out(network: Any, x: Any) -> Any:
    """A residual network on its own layers, in calls of torch alone."""
    from torch.nn.functional import max_pool2d

    x = max_pool2d(network.bn1(network.conv1(x)).relu(), 3, stride=2, padding=1)
    for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
        for block in stage:
            inner = block.bn2(block.conv2(block.bn1(block.conv1(x)).relu()))
            x = (inner + (x if block.downsample is None else block.downsample(x))).relu()
    return network.fc(x.mean((2, 3)))


def _residual_network(probe: Probe) -> None:
    """Logits, and the gradients of every parameter, are those of the network written out."""
    import torch

    network = _resnet(probe, torch.float64)
    images = probe.randn(4, 3, 32, 32, offset=2, dtype=torch.float64)
    logits = network(images)
    sound(logits, images, "logits of ResNet")
    require(logits.requires_grad, "no-gradient", "the logits are detached from the network")
    logits.square().sum().backward()
    named = dict(network.named_parameters())
    reached(named, "ResNet")
    seen = {name: parameter.grad for name, parameter in named.items()}
    network.zero_grad(set_to_none=True)
    expected = _written_out(network, images)
    expected.square().sum().backward()
    close(logits, expected, "logits of ResNet")
    for name, parameter in named.items():
        close(seen[name], parameter.grad, f"ResNet: gradient of {name}", code="wrong-gradient")


def _train(probe: Probe) -> None:
    """The network learns eight images by heart."""
    import torch

    network = _resnet(probe)
    images, truth = probe.randn(8, 3, 32, 32, offset=3), torch.arange(8, device=probe.device) % 4
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(images), truth)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    falls(losses, "ResNet", drop=0.3)
