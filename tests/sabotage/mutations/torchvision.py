"""(probe, reason code, what is wrong) -> the sabotage of torchvision that the probe must answer with that code."""

from __future__ import annotations

from typing import Any

from ._change import (
    Sabotage,
    all_nan,
    detached,
    double,
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

REQUIRES = ("torch==2.9.0", "torchvision==0.24.0", "numpy", "setuptools")
"""An environment that fits: each torchvision is built for one torch, whose compiler imports setuptools."""

ALIGN = "torchvision.ops:roi_align"
NMS = "torchvision.ops:nms"
DEFORM = "torchvision.ops:deform_conv2d"
FOCAL = "torchvision.ops:sigmoid_focal_loss"
RESNET = "torchvision.models.resnet.ResNet:forward"
BLOCK = "torchvision.models.resnet.BasicBlock:forward"
NORMALIZE = "torchvision.transforms.v2.Normalize:transform"
RESIZE = "torchvision.transforms.v2.Resize:transform"
FLIP = "torchvision.transforms.v2.RandomHorizontalFlip:forward"
POOL = "torchvision.ops:roi_pool"
JITTER = "torchvision.transforms.v2.ColorJitter"
BLUR = "torchvision.transforms.v2.GaussianBlur:_call_kernel"
GRID = "torchvision.utils:make_grid"
CROP = "torchvision.transforms.v2.RandomCrop:make_params"


def _argument(name_or_index: Any, change: Any) -> Any:
    """The function is called with one argument changed."""

    def make(original: Any) -> Any:
        def changed(*arguments: Any, **options: Any) -> Any:
            if isinstance(name_or_index, str):
                return original(*arguments, **{**options, name_or_index: change(options.get(name_or_index))})
            return original(*(change(a) if i == name_or_index else a for i, a in enumerate(arguments)), **options)

        return changed

    return make


def _nearest(original: Any) -> Any:
    """Pixels are copied where they should be weighted."""

    def transform(self: Any, image: Any, params: Any) -> Any:
        import torch

        return torch.nn.functional.interpolate(image[None], size=self.size, mode="nearest")[0]

    return transform


def _always_left(original: Any) -> Any:
    """A crop of any height, but from the left edge."""

    def make_params(self: Any, inputs: Any) -> Any:
        return {**original(self, inputs), "left": 0}

    return make_params


def _more_often(original: Any) -> Any:
    """A flip with odds of 0.4 where 0.3 was asked for."""

    def forward(self: Any, *inputs: Any) -> Any:
        odds, self.p = self.p, 0.4 if self.p == 0.3 else self.p
        try:
            return original(self, *inputs)
        finally:
            self.p = odds

    return forward


def _numb_shortcut(original: Any) -> Any:
    """The layers on a block's shortcut get no gradient but zeros."""

    def forward(self: Any, x: Any) -> Any:
        out = original(self, x)
        for parameter in self.downsample.parameters() if self.downsample is not None else ():
            parameter.register_hook(lambda gradient: 0 * gradient)
        return out

    return forward


def _no_shortcut(original: Any) -> Any:
    """A residual block without what makes it residual, where it has the choice."""

    def forward(self: Any, x: Any) -> Any:
        if self.downsample is not None:
            return original(self, x)
        return self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())).relu()

    return forward


MUTATIONS: dict[tuple[str, str, str], Sabotage] = {
    ("sample", "wrong-shape", "nms keeps more overlap"): replace(NMS, _argument(2, lambda limit: 1.5 * limit)),
    ("sample", "wrong-value", "nms forgets the scores"): replace(NMS, _argument(1, lambda scores: -scores)),
    ("sample", "wrong-device", "nms on another device"): returns(NMS, elsewhere),
    ("sample", "wrong-value", "overlaps 1 percent off"): returns("torchvision.ops:box_iou", scaled(1.01)),
    ("sample", "wrong-value", "regions half a pixel off"): replace(ALIGN, _argument("aligned", lambda _: False)),
    ("sample", "wrong-dtype", "float64 for float32"): returns(ALIGN, double),
    ("sample", "not-finite", "one NaN"): returns(ALIGN, nan),
    ("sample", "wrong-value", "normalised 1 percent off"): returns(NORMALIZE, scaled(1.01)),
    ("sample", "wrong-value", "resized to the nearest pixel"): replace(RESIZE, _nearest),
    ("sample", "wrong-moments", "crops from the left only"): replace(CROP, _always_left),
    ("sample", "wrong-moments", "flips too often"): replace(FLIP, _more_often),
    ("sample", "seed-ignored", "the seed is forgotten"): first(CROP, reseed),
    ("sample", "repeated-draw", "each crop is the same"): first(CROP, rewind),
    ("sample", "wrong-value", "colours of a file turned round"): returns(
        "torchvision.io:decode_png", lambda out: out.flip(0)
    ),
    ("sample", "wrong-value", "a JPEG file's colours turned round"): returns(
        "torchvision.io:decode_jpeg", lambda out: out.flip(0)
    ),
    ("sample", "wrong-shape", "a JPEG file is never grey"): options(
        "torchvision.io:decode_jpeg", mode=lambda mode: type(mode).UNCHANGED
    ),
    ("sample", "wrong-shape", "batched_nms forgets the groups"): replace(
        "torchvision.ops:batched_nms", _argument(2, lambda groups: groups * 0)
    ),
    ("sample", "wrong-value", "folders in another order"): returns(
        "torchvision.datasets.ImageFolder:find_classes", lambda names: names[::-1]
    ),
    ("sample", "wrong-value", "every file of a folder is taken"): options(
        "torchvision.datasets.ImageFolder:__init__", is_valid_file=lambda _: None
    ),
    ("sample", "wrong-value", "pictures of a folder 1 percent too bright"): returns(
        "torchvision.transforms.v2.ToTensor:transform", scaled(1.01)
    ),
    ("sample", "wrong-value", "hue turned by another angle"): options(
        f"{JITTER}:_call_kernel", hue_factor=lambda angle: 0.9 * angle
    ),
    ("sample", "wrong-value", "contrast 1 percent off"): options(
        f"{JITTER}:_call_kernel", contrast_factor=lambda factor: 1.01 * factor
    ),
    ("sample", "wrong-moments", "brightness drawn from a narrower range"): replace(
        f"{JITTER}:_generate_value",
        lambda original: lambda self, low, high: original(low, low + 0.9 * (high - low)),
    ),
    ("sample", "seed-ignored", "the seed of colours is forgotten"): first(f"{JITTER}:make_params", reseed),
    ("sample", "wrong-value", "blurred 10 percent too far"): options(
        BLUR, sigma=lambda sigma: [1.1 * width for width in sigma]
    ),
    ("sample", "wrong-value", "blurred down in place of across"): replace(BLUR, _argument(3, lambda size: size[::-1])),
    ("sample", "wrong-value", "a grid scaled as one picture"): options(GRID, scale_each=lambda _: False),
    ("sample", "wrong-value", "a black frame around a grid's pictures"): options(GRID, pad_value=lambda _: 0.0),
    ("autograd", "wrong-value", "roi_pool forgets the scale"): options(POOL, spatial_scale=lambda _: 1.0),
    ("autograd", "wrong-gradient", "gradient of roi_pool 10 percent too large"): returns(POOL, steeper),
    ("autograd", "no-gradient", "detached regions"): returns(ALIGN, detached),
    ("autograd", "wrong-gradient", "gradient of regions 10 percent too large"): returns(ALIGN, steeper),
    ("autograd", "no-gradient", "offsets get no gradient"): replace(DEFORM, _argument(1, detached)),
    ("autograd", "wrong-gradient", "gradient of the mask 10 percent too large"): replace(
        DEFORM, _argument("mask", steeper)
    ),
    ("autograd", "wrong-value", "focal loss 1 percent off"): returns(FOCAL, scaled(1.01)),
    ("autograd", "wrong-gradient", "gradient of the focal loss 10 percent too large"): returns(FOCAL, steeper),
    ("autograd", "not-finite", "a NaN among the logits"): returns(RESNET, nan),
    ("autograd", "no-gradient", "detached logits"): returns(RESNET, detached),
    ("autograd", "zero-gradient", "no gradient on the shortcut"): replace(BLOCK, _numb_shortcut),
    ("autograd", "wrong-value", "no shortcut"): replace(BLOCK, _no_shortcut),
    ("autograd", "wrong-gradient", "gradient of blocks 10 percent too large"): returns(BLOCK, steeper),
    ("autograd", "does-not-train", "trains in the wrong direction"): returns(RESNET, uphill_in_float32),
    ("compile", "not-compiled", "roi_align runs eagerly"): replace(ALIGN, left_alone),
    ("compile", "not-compiled", "the block runs eagerly"): replace(BLOCK, left_alone),
    ("compile", "compile-mismatch", "regions 1 percent off when compiled"): returns(
        ALIGN, scaled(1.01), when_compiled=True
    ),
    ("compile", "compile-mismatch", "gradient of blocks off when compiled"): returns(
        BLOCK, steeper, when_compiled=True
    ),
    ("compile", "compile-mismatch", "normalised 1 percent off when compiled"): returns(
        NORMALIZE, scaled(1.01), when_compiled=True
    ),
    ("compile", "wrong-dtype", "float64 when compiled"): returns(BLOCK, double, when_compiled=True),
    ("compile", "not-finite", "NaN when compiled"): returns(BLOCK, all_nan, when_compiled=True),
    ("compile", "no-gradient", "detached when compiled"): returns(ALIGN, detached, when_compiled=True),
}
