"""A second list of faults, by an author who had read README.md and the causes in docs/reasons, but no code and no list.

`python3 -m tests.gpu FOLDER --second` plants them.  They need NumPy, Triton with a compiler, and a GPU of sm_90 (three
kernels are PTX for it); `orphan` stands last, since what a tool leaves alive spoils what runs in the minute after it.
"""

from __future__ import annotations

from tests.gpu.controls import Control

# Calls of the driver past torch; `check` raises CUDA's own words, as a library's wrapper does.
DRIVER = """
import ctypes

_cu = ctypes.CDLL("libcuda.so.1")


def words(code):
    text = ctypes.c_char_p()
    _cu.cuGetErrorString(code, ctypes.byref(text))
    return (text.value or b"unknown error").decode()


def check(code):
    if code:
        raise RuntimeError("CUDA error: " + words(code))


def load(image, name):
    torch.cuda.synchronize()
    module, kernel = ctypes.c_void_p(), ctypes.c_void_p()
    check(_cu.cuModuleLoadData(ctypes.byref(module), image))
    check(_cu.cuModuleGetFunction(ctypes.byref(kernel), module, name))
    return kernel


def launch(kernel, blocks, threads, *values):
    held = [ctypes.c_uint64(value) for value in values]
    params = (ctypes.c_void_p * len(held))(*[ctypes.addressof(one) for one in held])
    stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
    check(_cu.cuLaunchKernel(kernel, blocks, 1, 1, threads, 1, 1, 0, stream, params, None))
"""

CUDART = '''
import ctypes


def _cudart():
    """The CUDA runtime that torch itself has loaded."""
    with open("/proc/self/maps") as maps:
        for line in maps:
            if "/libcudart.so" in line:
                return ctypes.CDLL(line.split(maxsplit=5)[-1].strip())
    return ctypes.CDLL("libcudart.so.13")
'''

PTX_HEAD = """.version 8.0
.target sm_90
.address_size 64

"""

PTX_PEEK = (
    PTX_HEAD
    + """.visible .entry peek(.param .u64 p_at)
{
    .reg .f32 %f<1>;
    .reg .b64 %rd<1>;
    ld.param.u64 %rd0, [p_at];
    ld.volatile.global.f32 %f0, [%rd0];
    st.volatile.global.f32 [%rd0], %f0;
    ret;
}
"""
)

PTX_GUARD = (
    PTX_HEAD
    + """.visible .entry guard()
{
    trap;
    ret;
}
"""
)

PTX_TWICE = (
    PTX_HEAD
    + """.visible .entry twice(.param .u64 p_in, .param .u64 p_out, .param .u64 p_count)
{
    .reg .pred %p<1>;
    .reg .f32 %f<1>;
    .reg .b32 %r<4>;
    .reg .b64 %rd<7>;
    ld.param.u64 %rd0, [p_in];
    ld.param.u64 %rd1, [p_out];
    ld.param.u64 %rd2, [p_count];
    mov.u32 %r0, %ctaid.x;
    mov.u32 %r1, %ntid.x;
    mov.u32 %r2, %tid.x;
    mad.lo.u32 %r3, %r0, %r1, %r2;
    cvt.u64.u32 %rd3, %r3;
    setp.ge.u64 %p0, %rd3, %rd2;
    @%p0 bra DONE;
    shl.b64 %rd4, %rd3, 2;
    add.u64 %rd5, %rd0, %rd4;
    add.u64 %rd6, %rd1, %rd4;
    ld.global.f32 %f0, [%rd5];
    add.f32 %f0, %f0, %f0;
    st.global.f32 [%rd6], %f0;
DONE:
    ret;
}
"""
)


def _ptx(text: str) -> str:
    return "\nPTX = " + repr(text.encode()) + "\n"


CONTROLS: tuple[Control, ...] = (
    Control(
        name="latesidestream",
        plants="a side stream runs into an index out of range a second after the right value was returned",
        library="""
_kept = []


def plant(x):
    out = x * 2
    table = torch.arange(4.0, device=x.device)
    _kept.append(table[torch.tensor([1, 2], device=x.device)])
    rows = torch.tensor([1, 9], device=x.device)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.cuda._sleep(2_000_000_000)
        _kept.append(table[rows])
    _kept.extend([table, rows, side])
    return out
""",
        expected="crash device-side-assert",
        why="errors come at a later call than the one that faults, here after the answer: "
        "https://github.com/NVIDIA/cudf/issues/22130 "
        "(reported at a stream's synchronisation, not where it occurred)",
    ),
    Control(
        name="threadswallows",
        plants="a thread's Triton kernel writes to a wild address; the thread prints the error and goes on",
        library="""
import threading

import triton
import triton.language as tl


@triton.jit
def scatter(pointer, offset):
    tl.store(pointer + offset, 1.0)


def plant(x):
    out = x * 2
    scatter[(1,)](torch.zeros(16, device=x.device), 2)  # a Triton that does not work is no CUDA error to ignore
    torch.cuda.synchronize()

    def work():
        try:
            scratch = torch.zeros(16, device=x.device)
            scatter[(1,)](scratch, 1 << 40)
            torch.cuda.synchronize()
        except Exception as error:
            print("prefetch: ignored", type(error).__name__, flush=True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return out
""",
        expected="crash illegal-memory-access",
        why="the exception is caught, the context stays dead: https://github.com/FlashML-org/FreeToken/pull/144, "
        "https://github.com/lightonai/pylate/issues/75",
    ),
    Control(
        name="misalignedbackward",
        plants="the backward pass, in autograd's own thread, reads from a misaligned address",
        library=DRIVER
        + _ptx(PTX_PEEK)
        + """

class Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        out = grad * 2
        launch(load(PTX, b"peek"), 1, 1, out.data_ptr() + 2)
        return out


def plant(x):
    leaf = x.clone().requires_grad_()
    out = Twice.apply(leaf)
    out.sum().backward()
    return out.detach()
""",
        expected=("crash illegal-memory-access", "crash cuda-launch-failure"),
        why="https://github.com/fla-org/flash-linear-attention/issues/913 (a backward kernel, misaligned address, "
        "named at a later call), https://github.com/zhoubolei/TRN-pytorch/issues/88",
    ),
    Control(
        name="trapthenexit",
        plants="a kernel executes trap; the library's C macro prints the error and ends the process with status 1",
        library=DRIVER
        + _ptx(PTX_GUARD)
        + """
import os


def plant(x):
    out = x * 2
    launch(load(PTX, b"guard"), 1, 32)
    code = _cu.cuCtxSynchronize()
    if code:
        os.write(2, f"Failed: CUDA error /src/csrc/dispatch.cu:117 '{words(code)}'\\n".encode())
        os._exit(1)
    return out
""",
        expected=("crash cuda-launch-failure", "crash exited", "crash no-answer"),
        why="DeepEP's trap gives CUDA 719 (https://github.com/deepseek-ai/DeepEP/pull/704); "
        "bitsandbytes' macro exits with 1 (https://github.com/bitsandbytes-foundation/bitsandbytes/issues/568)",
    ),
    Control(
        name="devicereset",
        plants="cudaDeviceReset, called past torch, takes this process's context and all of torch's memory",
        library=CUDART
        + """

def plant(x):
    torch.cuda.synchronize()
    _cudart().cudaDeviceReset()
    return x * 2
""",
        expected=(
            "crash illegal-memory-access",
            "crash cuda-launch-failure",
            "fail cuda-error",
            "fail wrong-value",
            "crash segfault",
            "crash abort",
        ),
        why="https://github.com/fangq/mcx/pull/188 (leaves PyTorch in a broken state), "
        "https://github.com/bodono/scs-python/issues/10, https://github.com/pytorch/pytorch/issues/102371",
    ),
    Control(
        name="cublasnomemory",
        plants="cuMemAlloc, past torch, takes all of the card's memory; then cuBLAS must start",
        library=DRIVER
        + """

def plant(x):
    left, right = x.reshape(20, 50), torch.eye(50, device=x.device) * 2
    pointer, size = ctypes.c_void_p(), 1 << 30
    while size >= 1 << 16:
        if _cu.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(size)):
            size //= 2
    return torch.mm(left, right).reshape(-1)
""",
        expected=("oom cuda-out-of-memory", "fail cuda-library-error"),
        why="cuBLAS says NOT_INITIALIZED or ALLOC_FAILED where another allocator holds the memory: "
        "https://github.com/OpenBMB/VisCPM/issues/3; the memory must be free again for the next probe",
    ),
    Control(
        name="oomretried",
        plants="tries 4 TiB, prints torch's out-of-memory errors and halves until it fits: a right value",
        library="""
import sys


def plant(x):
    size = 1 << 42
    while True:
        try:
            scratch = torch.empty(size, dtype=torch.uint8, device=x.device)
            break
        except torch.cuda.OutOfMemoryError as error:
            print("retrying with half:", error, file=sys.stderr, flush=True)
            size //= 2
    del scratch
    return x * 2
""",
        expected="pass",
        why="accelerate's find_executable_batch_size does so: words of CUDA in the output are no failure, and "
        "the half of the card that torch keeps cached must not reach the next probe",
    ),
    Control(
        name="forkloader",
        plants="a forked DataLoader worker makes CUDA tensors, in a process that has started CUDA",
        library="""

class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return torch.full((1,), 2.0, device="cuda")


def plant(x):
    loader = torch.utils.data.DataLoader(Rows(), batch_size=1, num_workers=1, multiprocessing_context="fork")
    for batch in loader:
        out = x * batch.reshape(())
    return out
""",
        expected=("infra fork-after-cuda", "fail fork-after-cuda"),
        why="https://github.com/pytorch/pytorch/issues/77159, https://github.com/pytorch/pytorch/issues/40403",
    ),
    Control(
        name="cudaatimport",
        plants="a constant on the GPU at import, used later by a right function",
        library="""
_TWO = torch.full((), 2.0, device="cuda")


def plant(x):
    return x * _TWO
""",
        expected="pass",
        why="such a library works in a plain process; only a fork after its import breaks it: "
        "https://github.com/flairNLP/flair/issues/1316",
    ),
    Control(
        name="wrongarch",
        plants="the library's compiled kernel holds code for sm_100 only",
        library=DRIVER
        + '''
import glob
import os

SOURCE = b"""
extern "C" __global__ void twice(const float *in, float *out, unsigned long long count)
{
    unsigned long long i = blockIdx.x * (unsigned long long)blockDim.x + threadIdx.x;
    if (i < count) out[i] = 2.0f * in[i];
}
"""


def _cubin():
    site = os.path.dirname(os.path.dirname(torch.__file__))
    found = sorted(glob.glob(os.path.join(site, "nvidia", "*", "lib", "libnvrtc.so.*")))
    found += sorted(glob.glob("/usr/local/cuda*/lib64/libnvrtc.so.1*"))
    rtc = ctypes.CDLL(found[0] if found else "libnvrtc.so.13")
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    options = (ctypes.c_char_p * 1)(b"--gpu-architecture=sm_100")
    assert rtc.nvrtcCreateProgram(ctypes.byref(program), SOURCE, b"twice.cu", 0, None, None) == 0
    assert rtc.nvrtcCompileProgram(program, 1, options) == 0
    assert rtc.nvrtcGetCUBINSize(program, ctypes.byref(size)) == 0
    image = ctypes.create_string_buffer(size.value)
    assert rtc.nvrtcGetCUBIN(program, image) == 0
    return image


def plant(x):
    out = torch.empty_like(x)
    kernel = load(_cubin(), b"twice")
    launch(kernel, (x.numel() + 255) // 256, 256, x.data_ptr(), out.data_ptr(), x.numel())
    return out
''',
        expected="unsupported no-kernel-image",
        why="https://github.com/NVIDIA/TensorRT-LLM/issues/159, https://github.com/hustvl/Vim/issues/42",
    ),
    Control(
        name="tritonshared",
        plants="a Triton matrix product with six stages wants more shared memory than an SM has",
        library="""
import triton
import triton.language as tl


@triton.jit
def product(a, b, c, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    m = tl.arange(0, BM)
    n = tl.arange(0, BN)
    k = tl.arange(0, BK)
    total = tl.zeros((BM, BN), dtype=tl.float32)
    for start in range(0, K, BK):
        left = tl.load(a + m[:, None] * K + (start + k)[None, :])
        right = tl.load(b + (start + k)[:, None] * BN + n[None, :])
        total = tl.dot(left, right, total)
    tl.store(c + m[:, None] * BN + n[None, :], total)


def plant(x):
    a = torch.ones(128, 1024, device=x.device, dtype=torch.float16)
    b = torch.ones(1024, 128, device=x.device, dtype=torch.float16)
    c = torch.empty(128, 128, device=x.device)
    product[(1,)](a, b, c, 1024, BM=128, BN=128, BK=128, num_stages=6, num_warps=8)
    return x * (c[0, 0] / 512)
""",
        expected="unsupported gpu-too-small",
        why="https://github.com/triton-lang/triton/issues/8182, https://github.com/pytorch/helion/issues/470",
    ),
    Control(
        name="tritonspin",
        plants="a Triton kernel spins for a lock that nobody releases",
        library="""
import triton
import triton.language as tl


@triton.jit
def locked(lock, source, target):
    while tl.atomic_cas(lock, 0, 1) == 1:
        pass
    tl.store(target, tl.load(source) * 2)
    tl.atomic_xchg(lock, 0)


def plant(x):
    out = x * 2
    lock = torch.ones(1, dtype=torch.int32, device=x.device)
    locked[(1,)](lock, x, out)
    torch.cuda.synchronize()
    return out
""",
        expected=("timeout timeout", "timeout hang"),
        hangs=True,
        why="a spin barrier between blocks that never comes: https://github.com/flagos-ai/FlagTree/issues/1029; "
        "the kernel must be gone from the GPU before the next probe",
    ),
    Control(
        name="bf16distance",
        plants="distances by the expansion |a|2 + |b|2 - 2ab under autocast to bfloat16: 2.03 instead of 2",
        library="""

def plant(x):
    a = x[:, None] * torch.full((1, 64), 1.2504, device=x.device)
    b = a.clone()
    b[:, 0] += 2
    with torch.autocast("cuda", dtype=torch.bfloat16):
        cross = torch.matmul(a, b.T)
    square = (a * a).sum(1)[:, None] + (b * b).sum(1)[None, :] - 2 * cross.float()
    return square.diagonal().clamp(min=0).sqrt().contiguous()
""",
        expected="fail wrong-value",
        why="https://github.com/pytorch/pytorch/pull/136315 (cdist in bfloat16), "
        "https://github.com/pytorch/pytorch/issues/79270 (TF32)",
    ),
    Control(
        name="nantail",
        plants="one NaN, at the last place: float16 overflows to infinity, and infinity less infinity follows",
        library="""

def plant(x):
    out = x * 2
    scale = (x[-1:].half() * 60000) * 2
    out[-1:] += (scale - scale).float()
    return out
""",
        expected=("fail not-finite", "fail wrong-value"),
        why="a comparison of the greatest difference with a tolerance is false for NaN and lets it pass; "
        "no thread at hand",
    ),
    Control(
        name="numpyfallback",
        plants="warns that a kernel was not built, computes with NumPy and puts the right value on the GPU",
        library="""
import warnings

import numpy


def plant(x):
    try:
        raise ImportError("fused_twice_cuda was not built")
    except ImportError as error:
        warnings.warn(f"{error}: falling back to NumPy", stacklevel=2)
    return torch.from_numpy(numpy.multiply(x.detach().cpu().numpy(), 2)).to(x.device)
""",
        expected="fail wrong-device",
        why="a CPU's result shown as a GPU's: extensions that fall back with a warning; no thread at hand",
    ),
    Control(
        name="stalegraph",
        plants="a CUDA graph is replayed, and the input was never copied into its buffer",
        library="""
_kept = []


def plant(x):
    static = torch.zeros_like(x)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            static * 2
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = static * 2
    graph.replay()
    _kept.extend([graph, static, out])
    return out.clone()
""",
        expected="fail wrong-value",
        why="every replay reads the same addresses: https://github.com/pytorch/pytorch/pull/63269",
    ),
    Control(
        name="streamrace",
        plants="the result is written by a side stream that nobody waits for: the caller reads zeros",
        library="""
_kept = []


def plant(x):
    twice = x * 2
    # Warm up whatever may be used on the result, so that no lazy loading of a kernel waits for the side stream.
    torch.equal(twice, twice), torch.allclose(twice, twice), torch.isfinite(twice).all().item()
    torch.isnan(twice).any().item(), (twice - twice).abs().max().item(), (twice.double() - 2).abs().max().item()
    torch.isclose(twice, twice).all().item(), twice.sum().item(), twice.mean().item(), twice.std().item()
    torch.testing.assert_close(twice, twice.clone())
    twice.cpu()
    out = torch.zeros_like(x)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        torch.cuda._sleep(4_000_000_000)
        out.copy_(twice)
    _kept.extend([twice, out, side])
    return out
""",
        expected="fail wrong-value",
        why="https://github.com/ROCm/pytorch/issues/3194, https://github.com/pytorch/pytorch/issues/2702; "
        "a tool that synchronises the device before it looks hides what a user's next line sees",
    ),
    Control(
        name="pendingerror",
        plants="cudaFree, past torch, of a pointer that is not its own; torch's next kernel reports the error",
        library=CUDART
        + """

def plant(x):
    _cudart().cudaFree(ctypes.c_void_p(0x1234))
    return x * 2
""",
        expected="fail cuda-error",
        why="https://github.com/pytorch/pytorch/issues/167414, https://github.com/NVIDIA/nccl/pull/1864",
    ),
    Control(
        name="driverkernel",
        plants="a right library whose whole work is its own kernel, launched through the driver and not by torch",
        library=DRIVER
        + _ptx(PTX_TWICE)
        + """

def plant(x):
    out = torch.empty_like(x)
    launch(load(PTX, b"twice"), (x.numel() + 255) // 256, 256, x.data_ptr(), out.data_ptr(), x.numel())
    return out
""",
        expected="pass",
        why="CuPy, PyCUDA and Numba work so; whoever counts torch's operators alone would see no work on the GPU",
    ),
    Control(
        name="orphan",
        plants="a detached child keeps all but 256 MiB of the card for 60 s and holds stderr open",
        library='''
import subprocess
import sys

_KEEPER = """
import ctypes, time
cu = ctypes.CDLL("libcuda.so.1")
context, pointer = ctypes.c_void_p(), ctypes.c_void_p()
free, total = ctypes.c_size_t(), ctypes.c_size_t()
assert cu.cuInit(0) == 0
assert cu.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
assert cu.cuCtxSetCurrent(context) == 0
size = 1 << 30
while size >= 1 << 26:
    assert cu.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)) == 0
    if free.value < size + (256 << 20) or cu.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(size)):
        size //= 2
print("holding", flush=True)
time.sleep(60)
"""


def plant(x):
    out = x * 2
    torch.testing.assert_close(out, out.clone())
    keeper = subprocess.Popen([sys.executable, "-c", _KEEPER], stdout=subprocess.PIPE, start_new_session=True)
    if keeper.stdout.readline() != b"holding\\n":
        raise RuntimeError("the worker did not start")
    return out
''',
        expected="pass",
        why="https://github.com/vllm-project/vllm/pull/34816, https://github.com/NVIDIA-NeMo/RL/pull/3592, "
        "https://github.com/pytorch/pytorch/issues/5736: an orphan pins the memory, and the next one is blamed",
    ),
)
