"""Rules for GPU and driver, the limits of a process, the disk and the network."""

from __future__ import annotations

from torch_compat_matrix.runner.verdicts.rule import CUDA_ERROR, Rule

_NO_THREAD = r"pthread_create failed.{0,300}Operation not permitted"
_UNKNOWN_TO_NVCC = r"Unsupported gpu architecture '(?P<architecture>\w+)'|Unknown CUDA arch \("
_UNTRUSTED = r"CERTIFICATE_VERIFY_FAILED|certificate verify failed|invalid peer certificate"
_CUDA_SAYS = rf"(?:{CUDA_ERROR}|\bError \d+: |Cuda failure (?:\d+ )?')"

MACHINE = (
    # GPU and driver.
    Rule("no-gpu", says=r"Found no NVIDIA driver|No CUDA GPUs are available|no CUDA-capable device is detected"),
    Rule("no-gpu", says=r"on a CUDA device but torch\.cuda\.is_available\(\) is False|0 active drivers"),
    Rule(
        "no-gpu",
        says=r"^(?:[\w.]{0,20} ){0,4}(?:CUDA is not available|NVIDIA GPU not found|Failed to infer device type"
        r"|[Nn]o (?:CUDA )?GPUs? (?:was |were )?(?:found|detected|available)|GPU (?:is )?not (?:found|available))",
    ),
    Rule("cpu-only-torch", says=r"Torch not compiled with CUDA enabled"),
    Rule("driver-too-old", says=r"driver on your system is too old|insufficient for CUDA|failure with error:? 35\b"),
    Rule("driver-too-old", says=r"compiled with an unsupported toolchain"),
    Rule("driver-mismatch", says=r"unsupported display driver / cuda driver combination"),
    Rule("driver-mismatch", says=r"Driver/library version mismatch"),
    Rule("driver-mismatch", says=r"forward compatibility was attempted on non supported HW"),
    Rule("gpu-fabric-not-ready", says=rf"{_CUDA_SAYS}system not yet initialized"),
    Rule("gpu-busy", says=r"CUDA-capable device(?:s are|\(s\) is/are) busy or unavailable"),
    Rule("gpu-busy", says=r"\bMPS (?:client|server)\b"),
    Rule("gpu-unhealthy", says=r"uncorrectable ECC error"),
    Rule("gpu-unhealthy", says=r"GPU is lost|fallen off the bus|Unable to determine the device handle"),
    Rule("gpu-unhealthy", says=r"Failed to initialize NVML: Unknown Error"),
    Rule("no-kernel-image", says=r"no kernel image is available|CUDA error: invalid device function"),
    Rule(
        "no-kernel-image",
        says=r"\bnamed symbol not found|\bsm_\d{2,3}a? is not compatible with the current PyTorch inst",
    ),
    Rule("invalid-kernel-image", says=r"device kernel image is invalid"),
    Rule("gpu-too-old", says=r"too old to be supported by the triton GPU compiler"),
    Rule("gpu-too-old", says=r"\bFlash ?Attention.{0,40} only supports (?P<generation>\w+) GPUs or newer"),
    Rule(
        "gpu-too-old",
        says=r"compute capability (?:of )?(?:at least |>= ?)?\d+\.\d(?! of the).{0,40}(?:required|\. Your )"
        r"|^type fp8\w+ not supported in this architecture|Feature '[\w. :]+' requires \.target sm_\d+ or higher"
        r"|Minimum capability: \d+\. Current capability: \d+|setup doesn't support bf16|does not support bfloat16"
        r"|compute capability (?:below \d+\.\d are not supported|>= ?\d+\.\d$)"
        r"|requires (?P<newest>Volta|Turing|Ampere|Ada|Hopper) or newer",
    ),
    Rule("gpu-too-new", says=r"Value 'sm_\w+' is not defined for option 'gpu-name'"),
    Rule("gpu-too-new", says=r"nvrtc: error: invalid value for --gpu-architecture"),
    Rule("gpu-too-new", says=_UNKNOWN_TO_NVCC),
    # More than any GPU has (232,448 bytes): the size of the problem, not of the GPU.
    Rule(
        "gpu-too-small",
        says=r"out of resource: shared memory, Required: (?:23[3-9]|2[4-9]\d|[3-9]\d\d|\d{4,})\d{3}\b",
        blame="library",
    ),
    Rule("gpu-too-small", says=r"out of resource: [\w ]+, Required: \d+|too many resources requested for launch"),
    Rule("gpu-lacks-operation", says=rf"{_CUDA_SAYS}operation not supported(?! on)"),
    Rule("cuda-out-of-memory", raises=r"torch\.(?:cuda\.)?OutOfMemoryError"),
    Rule("cuda-out-of-memory", says=r"CUDA out of memory|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED"),
    Rule("cuda-out-of-memory", says=rf"{_CUDA_SAYS}out of memory"),
    # torch's allocator asks NVML who holds the memory only once there is none left.
    Rule("cuda-out-of-memory", says=r"NVML_SUCCESS == .{1,200} INTERNAL ASSERT FAILED at .{1,300}CUDACachingAllocator"),
    Rule("illegal-memory-access", says=r"illegal memory access was encountered|CUDA error: misaligned address"),
    Rule("device-side-assert", says=r"device-side assert triggered"),
    Rule("cuda-launch-failure", says=r"CUDA error: (?:unspecified launch failure|an illegal instruction)"),
    # Python's own processes, which the library started: never ours.
    Rule(
        "fork-after-cuda",
        says=r"Cannot re-initialize CUDA in forked subprocess",
        through=r"/multiprocessing/process\.py|/_utils/worker\.py|/concurrent/futures/process\.py",
        blame="library",
    ),
    Rule("fork-after-cuda", says=r"Cannot re-initialize CUDA in forked subprocess"),
    Rule("fork-after-cuda", says=r"(?:CUDA error(?: \(3\))?: |cuda runtime error \(3\) ?: )initialization error"),
    Rule(
        "cuda-library-error",
        says=r"(?i:\b(?P<library>cu(?:blas|dnn|fft|solver|sparse)))(?:_STATUS_\w+|(?: runtime)? error\b)"
        r"|\bCUFFT_[A-Z]+_\w+",
    ),
    Rule("cuda-library-error", says=r"(?P<library>cuDNN) (?:Frontend error|algorithm to run)|\[cudnn_frontend\] Error"),
    Rule("cuda-library-error", says=r"was unable to find an engine to execute this computation"),
    Rule("cuda-library-error", says=r"no valid convolution algorithms available in (?P<library>CuDNN)"),
    Rule("shared-memory-too-small", says=r"while creating shared memory segment (?:/dev/shm/)?nccl"),
    Rule("nccl-unreachable", says=r"ncclSystemError|NCCL error.{0,300}unhandled system error|ncclRemoteError"),
    Rule("nccl-unreachable", says=r"^System call \((?:socket, malloc, munmap, etc|e\.g\. socket, malloc)\)"),
    Rule("nccl-unreachable", says=r"no socket interface found|is neither AF_INET\(2\) nor AF_INET6"),
    # Whatever else keeps CUDA from starting at all.
    Rule(
        "cuda-not-started",
        says=r"CUDA initialization: |error from cudaGetDeviceCount|CUDA driver initialization failed",
    ),
    Rule(
        "cuda-not-started",
        says=r"CUDA unknown error - this may be due to|error \((?:30|999)\) ?: unknown error at "
        r"|CUDA call failed lazily at initialization",
    ),
    Rule("cuda-not-started", says=r"^.+", within=r"\btorch\._C\._cuda_init\(\)"),
    # Limits and the host.
    Rule("out-of-memory", signal=r"SIGKILL", oom=True),
    Rule("out-of-memory", exit=r"\d+", oom=True),
    # A shell's and an engine's words; what else ends a process so names itself, or is counted.
    Rule("out-of-memory", signal=r"SIGKILL", says=r"(?:^|\s)Killed(?:\s|$)|\bcode:? 137\b", uncounted=True),
    Rule("out-of-memory", says=r"[Ww]orker|SIGKILL|terminated abruptly|[Kk]illed", oom=True),
    Rule("out-of-memory", raises=r"MemoryError"),
    Rule("out-of-memory", says=r"DefaultCPUAllocator: (?:can't allocate|not enough) memory|std::bad_alloc"),
    Rule("out-of-memory", says=r"Errno 12\] Cannot allocate memory|shared object: Cannot allocate memory"),
    Rule("shared-memory-too-small", says=r"killed by signal: Bus error|(?:out of|insufficient) shared memory"),
    Rule("shared-memory-too-small", says=r"unable to (?:write|resize|mmap|allocate shared memory).{0,300}torch_"),
    Rule(
        "shared-memory-too-small", says=r"No space left on device", within=r"multiprocessing/synchronize|ctx\.\w*Lock\("
    ),
    Rule("too-many-files", says=r"Too many open files|received 0 items of ancdata|inotify \w+ limit reached"),
    Rule("seccomp-too-old", says=_NO_THREAD),
    Rule("seccomp-too-old", says=r"can't start new thread", prints=_NO_THREAD),
    Rule("too-many-processes", says=r"can't start new thread|pthread_create failed|Thread creation failed"),
    Rule("too-many-processes", says=r"Resource temporarily unavailable", within=r"fork|spawn"),
    Rule("too-many-processes", says=r"^ *what\(\):  Resource temporarily unavailable"),
    Rule("disk-full", says=r"No space left on device|Disk quota exceeded"),
    Rule("no-user-entry", says=r"getpwuid\(\): uid not found|No username set in the environment"),
    Rule("permission-denied-read-only", says=r"(?:Read-only file system|Permission denied): '(?P<file>[^']+)'"),
    # Code of a notebook has no file that numba could find a folder for.
    Rule(
        "permission-denied-read-only",
        says=r"cannot cache function .{0,300}no locator available for file '(?P<file>(?!<|[^']*ipykernel)[^']+)'",
    ),
    Rule("certificate-refused", says=_UNTRUSTED),
    Rule("certificate-refused", says=r"^Error downloading ", prints=_UNTRUSTED),
    Rule(
        "download-refused",
        says=r"\b(?:HTTP Error |(?=\d+ Client Error\b))(?P<status>401|403|429)\b"
        r"|You are trying to access a gated repo|Access to model \S{1,200} is restricted"
        r"|Cannot retrieve the public link of the file|Too many users have viewed or downloaded this file",
    ),
    Rule(
        "no-network",
        raises=r"(?:.+\.)?(?:LocalEntryNotFoundError|OfflineModeIsEnabled|gaierror|RemoteDisconnected)"
        r"|(?:requests|urllib3|httpx|httpcore|aiohttp)\.(?:\w+\.)?(?:\w*Connect\w*|\w*Timeout\w*|ProxyError)",
    ),
    Rule("no-network", says=r"failure in name resolution|Name or service not known|Network is unreachable"),
    Rule("no-network", says=r"couldn't connect to '?https?://|Max retries exceeded with url|Failed to resolve"),
    Rule(
        "no-network",
        says=r"<urlopen error (?:\[Errno -?\d+\]|timed out)|HTTPS?ConnectionPool\(.{1,200} Read timed out"
        r"|: offline mode is enabled|outgoing traffic has been disabled"
        r"|Couldn't reach (?:https?://|.{1,200} on the Hub)|cannot find the requested files in the \w+ (?:path|cache)"
        r"|^Can't load \w[\w ]* for '.{1,200}\. If you were trying to load it from 'https?://",
    ),
    Rule("port-in-use", says=r"[Aa]ddress already in use|EADDRINUSE"),
)
