"""The CUDA samples that everyone knows, asked of the image through torch; on a CPU what makes sense there."""

import contextlib
import os
import re
import tempfile
from typing import Any, Callable, List, Tuple

from .. import precision
from ..evidence import LeftOut, NotApplicable, close, on_device, require, sound
from ..probe import Probe, without_missing_tool

NO_PLAN = re.compile(r"no available kernel|no viable backend|no execution plans support|unable to find an engine", re.I)
"""What a backend of attention says that does not offer the device, the dtype or the shape."""


def gpu_only(probe: Probe) -> None:
    """Leave the part out on a CPU."""
    if probe.device.type != "cuda":
        raise NotApplicable("needs a GPU")


def device_query(probe: Probe) -> None:
    """The device has a name, memory and a capability that this build has code for."""
    import torch

    gpu_only(probe)
    found = torch.cuda.get_device_properties(probe.device)
    require(
        found.total_memory > 0 and found.multi_processor_count > 0, "wrong-value", "the GPU tells no memory or no SMs"
    )
    probe.metric("device memory", found.total_memory, "bytes")
    probe.note(f"{found.name}, sm_{found.major}{found.minor}, built for {' '.join(torch.cuda.get_arch_list())}")


def vector_add(probe: Probe) -> None:
    """A kernel compiled at run time adds two vectors: by NVRTC, which needs no compiler here, else by Triton."""
    import torch

    gpu_only(probe)
    left, right = probe.randn(10_000, offset=1), probe.randn(10_000, offset=2)

    def by_nvrtc() -> Any:
        if not hasattr(torch.cuda, "jiterator"):
            raise NotApplicable("came with torch 1.12")
        code = "template <typename T> T add(T left, T right) { return left + right; }"
        return torch.cuda.jiterator._create_jit_fn(code)(left, right)

    def by_triton() -> Any:
        if not hasattr(torch, "compile"):
            raise NotApplicable("came with torch 2.0")
        with probe.uncounted():
            return torch.compile(lambda a, b: a + b)(left, right)

    ways = (("NVRTC, through torch.cuda.jiterator", by_nvrtc), ("Triton, through torch.compile", by_triton))
    compiler, out = without_missing_tool(ways)
    probe.note(f"kernel compiled at run time by {compiler}")
    probe.synchronize()
    sound(out, left, "vector sum")
    close(out, left.double() + right.double(), "vector sum")


def matrix_product(probe: Probe) -> None:
    """A product in float32 against float64."""
    left, right = probe.randn(256, 384, offset=3), probe.randn(384, 128, offset=4)
    out = left @ right
    sound(out, left, "matrix product")
    close(out.cpu(), left.cpu().double() @ right.cpu().double(), "matrix product")


def short_product(probe: Probe) -> None:
    """The product in bfloat16, where the device has it."""
    import torch

    how = probe.bfloat16()
    if not how:
        raise LeftOut("this device has no bfloat16, by torch.cuda.is_bf16_supported()")
    left, right = probe.randn(256, 384, offset=3), probe.randn(384, 128, offset=4)
    out = left.to(torch.bfloat16) @ right.to(torch.bfloat16)
    wanted = left.cpu().double() @ right.cpu().double()
    close(out.float().cpu(), wanted, "matrix product in bfloat16", rtol=5e-2, atol=5e-2)
    if how != "natively":
        probe.note(f"bfloat16 {how}")


def tf32(probe: Probe) -> None:
    """With TF32 a product and a convolution are right to its 10 bits of mantissa; what image and library set is noted.

    Off by 2e-3 of the largest element at most: six times the worst of 300 seeds, a fifth of 1 percent's error.
    """
    import torch

    gpu_only(probe)
    before = ", ".join(f"{name} {how}" for name, how in probe.precision.items())
    probe.note(f"float32 as set before the probe: {before}")
    if torch.cuda.get_device_properties(probe.device).major < 8:
        raise NotApplicable("this device has no TF32: it came with sm_80")
    left, right = probe.randn(256, 384, offset=3), probe.randn(384, 128, offset=4)
    data, weight = probe.randn(2, 16, 12, 12, offset=6), probe.randn(8, 16, 3, 3, offset=7)
    convolve = torch.nn.functional.conv2d
    precision.choose(tf32=True)
    try:
        pairs = (
            ("product", left @ right, left.cpu().double() @ right.cpu().double()),
            ("convolution", convolve(data, weight), convolve(data.cpu().double(), weight.cpu().double())),
        )
    finally:
        precision.choose(tf32=False)
    for name, out, wanted in pairs:
        close(out, wanted, f"{name} in TF32", rtol=0.0, atol=2e-3)


def bandwidth(probe: Probe) -> None:
    """A copy on the device, timed by its own clock: bytes read and written a second."""
    import torch

    size = 1 << (30 if probe.device.type == "cuda" else 24)  # on a GPU far more than its caches hold
    data = torch.arange(size // 4, dtype=torch.int32, device=probe.device)
    copy = torch.empty_like(data)
    seconds = probe.device_seconds(lambda: copy.copy_(data))
    require(torch.equal(copy, data), "wrong-value", "a copy on the device differs from its source")
    probe.metric("memory bandwidth", 2 * size / seconds, "bytes/s")


def streams(probe: Probe) -> None:
    """Work on two streams, ordered by an event, whose times rise."""
    import torch

    gpu_only(probe)
    first, second, event = torch.cuda.Stream(), torch.cuda.Stream(), torch.cuda.Event(enable_timing=True)
    end = torch.cuda.Event(enable_timing=True)
    data = probe.randn(512, 512)
    torch.cuda.synchronize()
    with torch.cuda.stream(first):
        doubled = data * 2
        event.record()
    with torch.cuda.stream(second):
        second.wait_event(event)
        result = doubled + data
        end.record()
    torch.cuda.synchronize()
    close(result, data.double() * 3, "work over two streams")
    require(event.elapsed_time(end) >= 0, "wrong-value", "an event's time lies before the one it waited for")


def mixed_precision(probe: Probe) -> None:
    """autocast computes in the short dtype, near the float32 result; on a GPU also in fp16, with a gradient scaler."""
    import torch

    dtypes = [torch.bfloat16] if probe.bfloat16() else []
    dtypes += [torch.float16] if probe.device.type == "cuda" else []
    layer = torch.nn.Linear(64, 32).to(probe.device)
    data = probe.randn(16, 64, offset=5)
    wanted = layer(data).detach()
    for dtype in dtypes:
        with torch.autocast(probe.device.type, dtype=dtype):
            out = layer(data)
        on_device(out, probe.device, f"autocast to {dtype}")
        require(out.dtype == dtype, "wrong-dtype", f"autocast to {dtype} computed in {out.dtype}")
        close(out.float(), wanted, f"autocast to {dtype}", rtol=5e-2, atol=5e-2)
    if probe.device.type == "cuda":
        scaled_step(torch, layer, data)


def scaled_step(torch: Any, layer: Any, data: Any) -> None:
    """A step in fp16 under a gradient scaler has float32's gradients, once unscaled, and is taken."""
    layer(data).square().mean().backward()
    wanted = layer.weight.grad.clone()
    layer.zero_grad()
    before = layer.weight.detach().clone()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    device = data.device.type
    scaler = torch.amp.GradScaler(device) if hasattr(torch.amp, "GradScaler") else torch.cuda.amp.GradScaler()
    with torch.autocast(device, dtype=torch.float16):
        loss = layer(data).float().square().mean()
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    close(layer.weight.grad, wanted, "unscaled gradient", rtol=5e-2, atol=5e-3, code="wrong-gradient")
    scaler.step(optimizer)
    scaler.update()
    require(not torch.equal(layer.weight, before), "does-not-train", "a step under the gradient scaler was left out")


def convolution(probe: Probe) -> None:
    """A convolution (cuDNN's on a GPU) and its gradients against its definition in float64: patches times weights."""
    import torch

    data, weight = probe.randn(2, 4, 12, 12, offset=6), probe.randn(8, 4, 3, 3, offset=7)
    inputs = [t.detach().requires_grad_() for t in (data, weight)]
    out = torch.nn.functional.conv2d(*inputs, padding=1)
    out.square().sum().backward()
    wide = [t.cpu().double().requires_grad_() for t in (data, weight)]
    padded = torch.nn.functional.pad(wide[0], (1, 1, 1, 1))
    wanted = torch.einsum("bcijkl,ockl->boij", padded.unfold(2, 3, 1).unfold(3, 3, 1), wide[1])
    wanted.square().sum().backward()
    names = ("result", "gradient of the input", "gradient of the weight")
    pairs = [(out.detach(), wanted.detach()), *((seen.grad, right.grad) for seen, right in zip(inputs, wide))]
    for name, (seen, right) in zip(names, pairs):
        sound(seen, data, f"convolution: {name}")
        close(seen, right, f"convolution: {name}")


def attention(probe: Probe) -> None:
    """Scaled dot-product attention as it comes, and with each backend that the device offers, against its formula."""
    import torch

    if not hasattr(torch.nn.functional, "scaled_dot_product_attention"):
        raise NotApplicable(f"torch {torch.__version__} has no scaled_dot_product_attention")
    half = torch.float16 if probe.device.type == "cuda" else torch.float32
    query, key, value = (probe.randn(2, 4, 16, 32, offset=8 + n).to(half) for n in range(3))
    scores = query.double() @ key.double().transpose(-1, -2) / 32**0.5
    wanted = scores.softmax(-1) @ value.double()
    ran, left_out = [], []
    for name, context in [("default", contextlib.nullcontext), *_sdpa_backends()]:
        try:
            with context():
                out = torch.nn.functional.scaled_dot_product_attention(query, key, value)
            probe.synchronize()
        except RuntimeError as error:
            if name == "default" or not NO_PLAN.search(str(error)):
                raise
            left_out.append(f"{name} ({str(error).partition('. ')[0][:200]})")
            continue
        sound(out, query, f"attention by {name}")
        close(out, wanted, f"attention by {name}")
        ran.append(name)
    probe.note("attention backends: " + ", ".join(ran))
    if left_out:
        probe.note("attention backends left out: " + ", ".join(left_out))


def _sdpa_backends() -> List[Tuple[str, Callable[[], Any]]]:
    try:
        from torch.nn.attention import SDPBackend, sdpa_kernel
    except ImportError:  # before torch 2.3
        return []
    names = ("MATH", "FLASH_ATTENTION", "EFFICIENT_ATTENTION", "CUDNN_ATTENTION")
    found = [(name, getattr(SDPBackend, name)) for name in names if hasattr(SDPBackend, name)]
    return [(name.lower(), lambda one=one: sdpa_kernel(one)) for name, one in found]  # type: ignore[misc]


class Numbers:
    """A data set that can be told apart: item n is n in every place."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: Any) -> Any:
        import torch

        return torch.full((256,), float(index))


def data_loader(probe: Probe) -> None:
    """Two workers hand batches over through shared memory; every item arrives once, and goes to the device."""
    import torch
    from torch.utils.data import DataLoader

    loader = DataLoader(
        Numbers(),
        batch_size=8,
        num_workers=2,
        multiprocessing_context="fork",
        pin_memory=probe.device.type == "cuda",
        timeout=30,
    )
    seen = torch.cat([batch.to(probe.device)[:, 0] for batch in loader])
    on_device(seen, probe.device, "batches")
    close(seen.sort().values, torch.arange(64.0), "what two workers delivered")


def all_reduce(probe: Probe) -> None:
    """A group of one process: NCCL on a GPU, gloo on a CPU."""
    import torch
    import torch.distributed as dist

    if not dist.is_available():
        raise NotApplicable("this build of torch has no distributed package")
    backend = probe.collectives()
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group(
            backend, init_method=f"file://{os.path.join(folder, 'rendezvous')}", rank=0, world_size=1
        )
        try:
            data = probe.randn(32)
            total = data.clone()
            dist.all_reduce(total)
            probe.synchronize()
            require(
                torch.equal(total, data), "wrong-value", f"all-reduce over one process by {backend} changed the data"
            )
        finally:
            dist.destroy_process_group()


def kernels_made(probe: Probe) -> None:
    """Inductor wrote kernels for what was compiled before: on a GPU they are Triton's, forward and backward."""
    gpu_only(probe)
    made = sum(metric["value"] for name, metric in probe.metrics.items() if name.endswith(": kernels"))
    require(made > 0, "not-compiled", "inductor wrote no kernel for anything that was compiled")
    probe.note(f"{made:.0f} kernels made by inductor")
