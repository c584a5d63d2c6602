"""torchvision: operations on boxes and regions, image transforms and files, residual networks."""

import math
from typing import Any, List, Sequence

from ..compiling import compiled
from ..evidence import close, differentiable, moments, of_shape, on_device, require, seeded, sound
from ..probe import Probe
from ._small import learns, same_as
from ._torchvision_pictures import DRAWS, blur, colours, folders, grid, image_files, transforms_of_its_time

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
    "torchvision.io.decode_jpeg": "sample/image files",
    "torchvision.ops.roi_pool": "autograd/roi_pool",
    "torchvision.ops.batched_nms": "sample/boxes",
    "torchvision.transforms.v2.ColorJitter": "sample/colours",
    "torchvision.transforms.v2.GaussianBlur": "sample/blur",
    "torchvision.transforms.v2.ToTensor": "sample/folders",
    "torchvision.datasets.ImageFolder": "sample/folders",
    "torchvision.utils.make_grid": "sample/grid",
}

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
        image_files(probe)
    with probe.part("folders"):
        folders(probe)
    with probe.part("colours"):
        colours(probe)
    with probe.part("blur"):
        blur(probe)
    with probe.part("grid"):
        grid(probe)


def autograd(probe: Probe) -> None:
    """Gradients are those of finite differences or of the same thing written out; a residual network trains."""
    import torch
    from torchvision import ops

    with probe.part("roi_align"):
        boxes = _regions(probe, torch.float64)
        features = probe.randn(2, 3, 8, 8, offset=1, dtype=torch.float64)
        pooled = lambda x: ops.roi_align(x, boxes, 3, sampling_ratio=2).square().sum()  # noqa: E731
        differentiable(pooled, [features], "roi_align")
    with probe.part("roi_pool"):
        _roi_pool(probe)
    with probe.part("deform_conv2d"):
        _deformed(probe)
    with probe.part("focal loss"):
        _focal_loss(probe)
    with probe.part("ResNet"):
        network, images = _resnet(probe, torch.float64), probe.randn(4, 3, 32, 32, offset=2, dtype=torch.float64)
        same_as(network, network(images), _written_out(network, images), "ResNet")
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
        transforms = transforms_of_its_time()
        resize, normalize = transforms.Resize([12, 8], antialias=False), transforms.Normalize(MEAN, STD)
        images = [(probe.randn(3, size, size + 1, offset=size),) for size in (5, 7)]
        compiled(probe, lambda image: normalize(resize(image)), images, "transforms", backward=False)
    with probe.part("residual block"):  # one, as in detection: the compiler takes a second or more for each kernel
        torch.manual_seed(probe.seed)
        block = BasicBlock(4, 4, norm_layer=ops.FrozenBatchNorm2d).to(probe.device)
        images = [(probe.randn(2, 4, 6, 6),)]
        compiled(probe, block, images, "residual block", dict(block.named_parameters()), rtol=2e-3, atol=2e-4)


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
    groups = torch.randint(3, (120,), generator=probe.generator(4))

    def kept(groups: Sequence[int]) -> Any:
        best: List[int] = []
        for box in scores.argsort(descending=True).tolist():
            if all(groups[box] != groups[other] or overlaps[box][other] <= limit for other in best):
                best.append(box)
        return torch.tensor(best)

    alone, apart = kept([0] * 120), kept(groups.tolist())
    boxes, scores = boxes.to(probe.device), scores.to(probe.device)
    seen = ops.box_iou(boxes, boxes)
    sound(seen, boxes, "box_iou")
    close(seen, torch.tensor(overlaps), "box_iou")
    for name, expected, seen in (
        ("nms", alone, ops.nms(boxes, scores, limit)),
        ("batched_nms", apart, ops.batched_nms(boxes, scores, groups.to(probe.device), limit)),
    ):
        on_device(seen, probe.device, name)
        of_shape(seen, expected.shape, f"list of boxes that {name} keeps")
        close(seen, expected, f"boxes that {name} keeps")


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

    transforms = transforms_of_its_time()
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

    transforms = transforms_of_its_time()
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


def _roi_pool(probe: Probe) -> None:
    """The largest pixel of each bin, whose edges are rounded outwards; to it alone goes the gradient.

    Bins are a half and a quarter of a region: their edges are exact in every dtype.
    """
    import torch
    from torchvision import ops

    boxes = _regions(probe)
    boxes[:, 1:] *= 2
    for dtype in (torch.float32, torch.float64):
        features = probe.randn(2, 3, 8, 8, offset=4, dtype=dtype).requires_grad_()
        seen = ops.roi_pool(features, boxes.to(dtype), (2, 4), spatial_scale=0.5)
        sound(seen, features, "roi_pool")
        exact, expected = features.detach().double().requires_grad_(), []
        for image, *box in boxes.tolist():
            left, top, right, bottom = (math.floor(edge / 2 + 0.5) for edge in box)
            pair = ((top, max(bottom - top + 1, 1), 2), (left, max(right - left + 1, 1), 4))
            rows, columns = (
                [slice(start + size * n // bins, start - (-size * (n + 1) // bins)) for n in range(bins)]
                for start, size, bins in pair
            )
            expected += [exact[int(image), :, row, column].amax((1, 2)) for row in rows for column in columns]
        expected = torch.stack(expected).reshape(6, 2, 4, 3).permute(0, 3, 1, 2)
        close(seen, expected, "roi_pool")
        require(seen.requires_grad, "no-gradient", "what roi_pool gives is detached")
        weight = probe.randn(6, 3, 2, 4, offset=5, dtype=dtype)
        (seen * weight).sum().backward()
        (expected * weight).sum().backward()
        close(features.grad, exact.grad, "gradient of roi_pool", code="wrong-gradient")


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


def _train(probe: Probe) -> None:
    """The network learns eight images by heart."""
    import torch

    network = _resnet(probe)
    images, truth = probe.randn(8, 3, 32, 32, offset=3), torch.arange(8, device=probe.device) % 4
    learns(network, lambda: torch.nn.functional.cross_entropy(network(images), truth), "ResNet", steps=12, rate=3e-3)
