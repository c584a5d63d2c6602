"""What torchvision does with pictures: files and folders of them, their colours, blur and grids."""

import colorsys
import math
import os
import struct
import tempfile
import zlib
from typing import Any

from ..evidence import LeftOut, NotApplicable, close, moments, require, seeded, sound
from ..probe import Probe

NEEDS = ("torch", "PIL", "torchvision")

GREY = (0.299, 0.587, 0.114)
"""What red, green and blue count in a grey picture."""
DRAWS = 2_000


def transforms_of_its_time() -> Any:
    """The transforms of this version's time: those of tensors and boxes alike came with 0.15."""
    try:
        from torchvision.transforms import v2
    except ImportError:
        from torchvision import transforms

        return transforms
    return v2


def _png(pixels: Any) -> bytes:
    """A PNG file, written with the standard library, of height x width x 3 bytes."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + bytes(row.flatten().tolist()) for row in pixels)  # each after its filter: none
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    file = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        file += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return file


def image_files(probe: Probe) -> None:
    """A PNG file written with the standard library holds the same pixels; a JPEG file of even squares their colours."""
    import io

    import torch
    from PIL import Image
    from torchvision import io as files

    if not hasattr(files, "decode_png"):
        raise NotApplicable("torchvision.io reads no PNG files before 0.8")
    pixels = torch.randint(256, (5, 7, 3), generator=probe.generator(8), dtype=torch.uint8)
    seen = files.decode_png(torch.tensor(list(_png(pixels)), dtype=torch.uint8))
    require(seen.dtype == torch.uint8, "wrong-dtype", f"a decoded PNG file is {seen.dtype}, not torch.uint8")
    close(seen, pixels.permute(2, 0, 1), "decoded PNG file")
    squares = torch.randint(256, (2, 3, 3), generator=probe.generator(9), dtype=torch.uint8)
    even = squares.repeat_interleave(8, 0).repeat_interleave(8, 1)  # of squares of 8 x 8, nothing is lost
    file = io.BytesIO()
    Image.fromarray(even.numpy()).save(file, "JPEG", quality=100, subsampling=0)
    coded = torch.tensor(list(file.getvalue()), dtype=torch.uint8)
    grey = (even * torch.tensor(GREY)).sum(2)[None]
    try:
        seen = (files.decode_jpeg(coded), files.decode_jpeg(coded, mode=files.ImageReadMode.GRAY))
    except RuntimeError as error:
        if "not compiled with" not in str(error):
            raise
        raise LeftOut(str(error).splitlines()[0]) from error
    for picture, expected in zip(seen, (even.permute(2, 0, 1), grey)):
        close(picture, expected, "decoded JPEG file", rtol=0.0, atol=4 / max(1.0, float(expected.max())))


def folders(probe: Probe) -> None:
    """Folders are classes in their names' order, whose pictures become numbers between 0 and 1."""
    import torch
    from torchvision import datasets

    pixels = torch.randint(256, (3, 4, 6, 3), generator=probe.generator(10), dtype=torch.uint8)
    with tempfile.TemporaryDirectory() as folder:
        for name, picture in zip(("goose/1.png", "cat/b.png", "cat/a.png", "goose/left out.png"), (*pixels, pixels[0])):
            os.makedirs(os.path.join(folder, os.path.dirname(name)), exist_ok=True)
            with open(os.path.join(folder, name), "wb") as file:
                file.write(_png(picture))
        seen = datasets.ImageFolder(
            folder,
            transform=transforms_of_its_time().ToTensor(),
            target_transform=lambda number: 10 + number,
            is_valid_file=lambda path: "left out" not in path,
        )
        require(seen.classes == ["cat", "goose"], "wrong-value", f"the folders' classes are {seen.classes}")
        found = [seen[number] for number in range(len(seen))]
    require([label for _, label in found] == [10, 10, 11], "wrong-value", f"labels: {[label for _, label in found]}")
    sound(found[0][0], torch.zeros(1), "a picture of a folder")
    expected = pixels.flip(0).permute(0, 3, 1, 2).double() / 255
    close(torch.stack([picture for picture, _ in found]), expected, "pictures of folders")


def colours(probe: Probe) -> None:
    """Each change of colour is its formula's, in both dtypes; its strength is drawn evenly and follows the seed."""
    import torch

    transforms = transforms_of_its_time()
    for dtype in (torch.float32, torch.float64):
        picture = torch.rand(3, 4, 5, generator=probe.generator(11), dtype=torch.float64)
        grey = (picture * torch.tensor([0.2989, 0.587, 0.114], dtype=torch.float64)[:, None, None]).sum(0, keepdim=True)
        turned = picture.clone()
        for row in range(4):
            for column in range(5):
                hue, *rest = colorsys.rgb_to_hsv(*picture[:, row, column].tolist())
                turned[:, row, column] = torch.tensor(colorsys.hsv_to_rgb((hue + 0.2) % 1, *rest))
        for name, strength, expected in (
            ("brightness", 1.4, 1.4 * picture),
            ("contrast", 1.5, 1.5 * picture - 0.5 * grey.mean()),
            ("saturation", 0.4, 0.4 * picture + 0.6 * grey),
            ("hue", 0.2, turned),
        ):
            given = picture.to(probe.device, dtype)
            seen = transforms.ColorJitter(**{name: (strength, strength)})(given)
            sound(seen, given, f"picture of another {name}")
            close(seen, expected.clamp(0, 1), f"picture of another {name}", rtol=1e-4, atol=1e-5)
    grey, jitter = torch.full((3, 1, 1), 0.5, device=probe.device), transforms.ColorJitter(brightness=0.4)
    seeded(lambda: jitter(grey), "ColorJitter", torch.manual_seed)
    torch.manual_seed(probe.seed)
    drawn = torch.stack([jitter(grey)[0, 0, 0] for _ in range(DRAWS)])
    moments(2 * drawn, 1.0, 0.8 / math.sqrt(12), "drawn brightness")


def blur(probe: Probe) -> None:
    """Each pixel is the mean of those around it, mirrored at the edge, with a normal density's weights."""
    import torch

    transforms = transforms_of_its_time()
    for dtype in (torch.float32, torch.float64):
        picture = probe.randn(2, 7, 9, offset=12, dtype=dtype)
        seen = transforms.GaussianBlur((5, 3), (0.8, 0.8))(picture)
        sound(seen, picture, "blurred picture")
        across, down = (torch.exp(-(torch.arange(-n, n + 1.0) ** 2) / (2 * 0.8**2)).double() for n in (2, 1))
        wide = torch.nn.functional.pad(picture.cpu().double()[None], (2, 2, 1, 1), mode="reflect")[0]
        rows = (wide.unfold(2, 5, 1) * across / across.sum()).sum(-1)
        close(seen, (rows.unfold(1, 3, 1) * down / down.sum()).sum(-1), "blurred picture", rtol=1e-4, atol=1e-5)
    random = transforms.GaussianBlur(3, (0.2, 2.0))
    seeded(lambda: random(picture), "GaussianBlur", torch.manual_seed)


def grid(probe: Probe) -> None:
    """Pictures stand in rows with a frame around each, every one scaled to its own darkest and brightest pixel."""
    import torch
    from torchvision import utils

    for dtype in (torch.float32, torch.float64):
        pictures = probe.randn(5, 3, 4, 6, offset=13, dtype=dtype)
        seen = utils.make_grid(pictures, nrow=3, padding=1, normalize=True, scale_each=True, pad_value=0.5)
        expected = torch.full((3, 2 * 5 + 1, 3 * 7 + 1), 0.5, dtype=torch.float64)
        for number, picture in enumerate(pictures.cpu().double()):
            top, left = 1 + 5 * (number // 3), 1 + 7 * (number % 3)
            scaled = (picture - picture.min()) / (picture.max() - picture.min())
            expected[:, top : top + 4, left : left + 6] = scaled
        sound(seen, pictures, "grid of pictures")
        close(seen, expected, "grid of pictures", rtol=1e-4, atol=1e-5)
