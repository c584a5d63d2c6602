"""The CUDA samples that everyone knows, asked of the image through torch; on a CPU what makes sense there."""

import os
import tempfile
from typing import Any

from ..evidence import NotApplicable, Probe, close, on_device, require, sound


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
    """A kernel compiled at run time adds two vectors: NVRTC through torch where it offers that, else Triton."""
    import torch

    gpu_only(probe)
    left, right = probe.randn(10_000, offset=1), probe.randn(10_000, offset=2)
    out = torch.empty_like(left)
    if hasattr(torch.cuda, "_compile_kernel"):
        source = """
        extern "C" __global__ void add(const float* a, const float* b, float* c, int n) {
            int i = blockIdx.x * blockDim.x + threadIdx.x;
            if (i < n) c[i] = a[i] + b[i];
        }"""
        kernel = torch.cuda._compile_kernel(source, "add")
        kernel((40, 1, 1), (256, 1, 1), (left, right, out, left.numel()))
        probe.note("compiled by NVRTC")
    elif hasattr(torch, "compile"):
        out = torch.compile(lambda a, b: a + b)(left, right)
        probe.note("compiled by Triton, through torch.compile")
    else:
        raise NotApplicable(f"torch {torch.__version__} has no way to compile a kernel at run time")
    probe.synchronize()
    sound(out, left, "vector sum")
    close(out, left.double() + right.double(), "vector sum")


def matrix_product(probe: Probe) -> None:
    """A product in float32 against float64, without TF32's shorter mantissa."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    left, right = probe.randn(256, 384, offset=3), probe.randn(384, 128, offset=4)
    out = left @ right
    sound(out, left, "matrix product")
    close(out.cpu(), left.cpu().double() @ right.cpu().double(), "matrix product")
    close(
        (left.to(torch.bfloat16) @ right.to(torch.bfloat16)).float().cpu(),
        left.cpu().double() @ right.cpu().double(),
        "matrix product in bfloat16",
        rtol=5e-2,
        atol=5e-2,
    )


def bandwidth(probe: Probe) -> None:
    """A copy on the device, timed: bytes read and written a second."""
    import torch

    size = 1 << (28 if probe.device.type == "cuda" else 24)
    data = torch.arange(size // 4, dtype=torch.int32, device=probe.device)
    copy = torch.empty_like(data)
    seconds = probe.seconds(lambda: copy.copy_(data))
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
    """autocast computes in the short dtype, near the float32 result; on a GPU fp16 with a gradient scaler too."""
    import torch

    dtypes = [torch.bfloat16, torch.float16] if probe.device.type == "cuda" else [torch.bfloat16]
    layer = torch.nn.Linear(64, 32).to(probe.device)
    data = probe.randn(16, 64, offset=5)
    wanted = layer(data).detach()
    for dtype in dtypes:
        with torch.autocast(probe.device.type, dtype=dtype):
            out = layer(data)
        on_device(out, probe.device, f"autocast to {dtype}")
        require(out.dtype == dtype, "wrong-dtype", f"autocast to {dtype} computed in {out.dtype}")
        close(out.float(), wanted, f"autocast to {dtype}", rtol=5e-2, atol=5e-2)


def convolution(probe: Probe) -> None:
    """A convolution (cuDNN's on a GPU) and its gradients against its definition in float64: patches times weights."""
    import torch

    torch.backends.cudnn.allow_tf32 = False
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
    """Scaled dot-product attention with each backend that the device offers, against the formula in float64."""
    import torch

    if not hasattr(torch.nn.functional, "scaled_dot_product_attention"):
        raise NotApplicable(f"torch {torch.__version__} has no scaled_dot_product_attention")
    half = torch.float16 if probe.device.type == "cuda" else torch.float32
    query, key, value = (probe.randn(2, 4, 16, 32, offset=8 + n).to(half) for n in range(3))
    scores = query.double() @ key.double().transpose(-1, -2) / 32**0.5
    wanted = scores.softmax(-1) @ value.double()
    backends = _sdpa_backends(torch)
    ran = []
    for name, context in backends:
        try:
            with context():
                out = torch.nn.functional.scaled_dot_product_attention(query, key, value)
        except RuntimeError as error:
            if "No available kernel" not in str(error) and "no viable backend" not in str(error).lower():
                raise
            continue
        sound(out, query, f"attention by {name}")
        close(out, wanted, f"attention by {name}")
        ran.append(name)
    require(ran, "wrong-value", "no backend of attention ran")
    probe.note("attention backends: " + ", ".join(ran))


def _sdpa_backends(torch: Any) -> Any:
    try:
        from torch.nn.attention import SDPBackend, sdpa_kernel
    except ImportError:
        import contextlib

        return [("default", contextlib.nullcontext)]
    names = ("MATH", "FLASH_ATTENTION", "EFFICIENT_ATTENTION", "CUDNN_ATTENTION")
    found = [(name, getattr(SDPBackend, name)) for name in names if hasattr(SDPBackend, name)]
    return [(name.lower(), lambda one=one: sdpa_kernel(one)) for name, one in found]


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
    backend = "nccl" if probe.device.type == "cuda" else "gloo"
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
