"""The ordered rules that find a reason in an exception, a signal or an output."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """Signs that must all be there; patterns are searched, and the first rule that holds gives the reason."""

    reason: str = field(kw_only=False)
    says: str = ""
    """In the exception's message or that of a direct cause; in the last words of a process that died."""
    raises: str = ""
    """A whole qualified type of the exception, its bases or its causes."""
    within: str = ""
    """In the innermost frame: its path, or the source line that raised."""
    through: str = ""
    """In any frame: a path, or the name of a function."""
    prints: str = ""
    """In the end of the output; never enough by itself for an exception, which has a message of its own."""
    signal: str = ""
    exit: str = ""
    oom: bool = False
    """The kernel killed a process for memory meanwhile."""
    unprovoked: bool = False
    """A second process died too, and the kernel certainly killed none for memory."""
    lacks: str = ""
    """A distribution that is not installed."""
    lacking: bool = False
    """An installed distribution, not the library's own, lacks the name or the submodule that was asked for."""
    own: bool = False
    """The distribution that raised is the one whose `namespace` lacks the `name`."""
    blame: str = ""
    """Instead of the reason's."""


_PROBE = r"[/\\](?:compat_)?probes[/\\](?:(?:libraries|own)[/\\]\w+|evidence|probe|compiling)\.py"
_COMPILERS = r"(?:\S*[/-])?(?:gcc|g\+\+|cc|c\+\+|clang|clang\+\+|nvcc|ninja|cmake)(?:-\d+)?"
_BUILD_ERROR = r"(?:.+\.)?(?:CalledProcessError|CppCompileError|InductorError|BackendCompilerFailed|CompilationError)"
_SHARED = r"(?:torch|torchvision|torchaudio|triton|numpy|scipy|pandas|sklearn)"
_NO_THREAD = r"pthread_create failed.{0,300}Operation not permitted"
_NO_HEADERS = r"Python\.h: No such file or directory"
_NO_LIBRARY = r"cannot find -l(?P<library>\w+)"
_UNKNOWN_TO_NVCC = r"Unsupported gpu architecture '(?P<architecture>\w+)'|Unknown CUDA arch \("
_OWNER = r"(?:(?:site|dist)-packages|overlays/\w+)/(?:google/)?(?P<owner>\w+)/[\w./+-]{0,300}"
_OF_A_LIBRARY = r"packages/(?!torch/)|transformers_modules"
_UNTRUSTED = r"CERTIFICATE_VERIFY_FAILED|certificate verify failed|invalid peer certificate"
# Symbols of torch, whose names are mangled: at::, c10::, torch::, caffe2::, and those of its C parts.
_OF_TORCH = r"_Z\w*?(?:2at|3c10|5torch|6caffe2)|TH[CP]?[A-Z_]|aoti_|AOTI|shm_|torch"
_GONE_FROM_PYTHON = r"distutils|imp|asyncore|asynchat|smtpd|cgi|crypt|pipes|telnetlib|imghdr|sndhdr|lib2to3"
_CUDA_LIBRARY = r"(?<![\w.-])lib(?:cu(?:blas|sparse|solver|fft|dnn|rand)|nvJitLink|nvrtc|nccl)[\w-]*\.so[\w.]*"
# Source lines that only a newer Python reads: match, except*, type parameters, quotes within an f-string.
_NEW_SYNTAX = (
    r": (?:match|case) .+:\s*$|: except\s?\*|: type \w+(?:\[.*\])? =|: (?:async )?(?:def|class) \w+\[|: with \($"
    r"|[fF]'[^'{]*\{[^}']*'|[fF]\"[^\"{]*\{[^}\"]*\""
)
_FILE = r"(?<![^\s'\"(\[])(?P<file>{}[^\s'\"(\[]+)"  # a whole word: to begin within it would cost its length anew
_CACHE = r"(?=/tmp/|[^\s'\"(\[]*(?:torchinductor|\.triton|torch_extensions))"
_NAMESPACE = rf"(?P<namespace>{_SHARED}(?:\.[\w.]+)?)"
# How programs quote an error of CUDA: torch as `CUDA error: ...`, once as `cuda runtime error (2) : ...`, and as
# `... cudaGetDeviceCount(). ... Error 802: ...`; NCCL as `Cuda failure 802 '...'`.
_CUDA_ERROR = r"CUDA(?: driver| runtime)? error(?: \(\d+\))?: |cuda runtime error \(\d+\) ?: |Triton Error \[CUDA\]: "
_CUDA_SAYS = rf"(?:{_CUDA_ERROR}|\bError \d+: |Cuda failure (?:\d+ )?')"
_LINE_BEGINS = r"^[ \t]*(?:\[rank\d+\]: ?)?(?:[\w.()]+: +)*"

RULES = (
    # The probe itself: before anything that would blame a library for it.
    Rule("no-probes", says=r"No module named '(?:\w+\.)*(?:compat_)?probes\.(?:libraries|own)\.(?P<module>\w+)'"),
    Rule("probe-error", raises=r"NameError|SyntaxError", within=_PROBE),
    Rule("probe-error", says=r"unknown reason code", within=_PROBE),
    Rule("probe-misfit", says=r"cannot import name|No module named '\w+\.", within=_PROBE),
    Rule("probe-misfit", says=r"(?:module|type object) '[\w.]+' has no attribute", within=_PROBE),
    Rule("probe-misfit", says=r"unexpected keyword argument|missing \d+ required", raises=r"TypeError", within=_PROBE),
    # An interpreter that does not start.
    Rule("no-python", says=r"^Fatal Python error: (?:init_?\w+|Py_Initialize|preinit\w*): "),
    # Libraries that cannot be loaded; torch's own before those of extensions.
    Rule("cuda-library-conflict", says=rf"(?P<library>{_CUDA_LIBRARY}): undefined symbol"),
    Rule("cuda-library-conflict", says=r"(?<!\w)(?P<library>libtorch\w*\.so): undefined symbol: (?:nccl|cu|nv)\w+"),
    Rule("cuda-library-conflict", says=r"(?P<library>cuDNN) version (?:incompatibility|mismatch)"),
    Rule("math-library-conflict", says=r"undefined symbol: (?P<symbol>iJIT_\w+|mkl_\w+|omp_get_\w+|__kmpc_\w+)"),
    Rule("undefined-symbol", says=rf"{_OWNER}: undefined symbol: (?P<symbol>(?:{_OF_TORCH})\w*)"),
    Rule("undefined-symbol", says=rf"undefined symbol: (?P<symbol>(?:{_OF_TORCH})\w*)"),
    Rule("undefined-symbol-elsewhere", says=rf"{_OWNER}: undefined symbol: (?P<symbol>\w+)"),
    Rule("undefined-symbol-elsewhere", says=r"undefined symbol: (?P<symbol>\w+)"),
    Rule("static-tls", says=r"cannot (?:allocate memory in static TLS block|load any more object with static TLS)"),
    Rule("executable-stack", says=r"/lib(?:torch|c10)\w*\.so: cannot enable executable stack", blame="image"),
    Rule("executable-stack", says=rf"{_OWNER}: cannot enable executable stack as shared object requires"),
    Rule("executable-stack", says=r"cannot enable executable stack as shared object requires"),
    Rule("openmp-clash", says=r"OMP: Error #15: Initializing|MKL_THREADING_LAYER=\w+ is incompatible with lib\w+"),
    Rule("missing-module", says=r"(?P<module>[Nn]um[Pp]y) is not available", lacks="numpy"),
    Rule(
        "numpy-abi",
        says=r"_ARRAY_API not found|numpy\._?core\.(?:multiarray|umath) failed to import|compiled using NumPy 1\.",
    ),
    Rule("numpy-abi", says=r"numpy\.\w+ size changed|module compiled against A[BP]I version"),
    # Words of torch, which found a NumPy that it was not built for.
    Rule("numpy-abi", says=r"^(?P<unavailable>Numpy is not available)", blame="image"),
    Rule("glibc-too-old", says=r"version [`'](?P<version>(?:GLIBC|GLIBCXX|CXXABI)_[\d.]+)' not found"),
    Rule(
        "noexec-cache", says=rf"{_FILE.format('')}: failed to map segment from shared object: Operation not permitted"
    ),
    Rule("noexec-cache", says=rf"{_FILE.format(_CACHE)}: failed to map segment from shared object"),
    Rule("noexec-cache", says=r"Permission denied: '(?P<file>[^']+\.so)'"),
    Rule("wrong-architecture", says=r"[Ee]xec format error|wrong ELF class|cannot execute binary file"),
    Rule("no-gpu", says=r"lib(?:cuda|nvidia-ml)\.so\.1: cannot open shared object file"),
    # Files of torch 1.8 to 1.13 alone.
    Rule("undefined-symbol", says=r"libtorch_cuda_c(?:u|pp)\.so: cannot open shared object file"),
    Rule("cpu-only-torch", says=r"lib(?:c10|torch)_cuda\w*\.so: cannot open shared object file"),
    # A part that the package itself should bring.
    Rule("missing-shared-library", says=rf"{_OWNER}(?<=/)(?P<library>lib[\w.+-]+): cannot open shared object file"),
    Rule("missing-shared-library", says=r"(?<![\w.+-])(?P<library>lib[\w.+-]+): cannot open shared object file"),
    Rule("missing-shared-library", says=r"(?<!\w)(?P<library>lib\w+\.so)\.\*\[0-9\] not found in the system path"),
    Rule("missing-shared-library", says=r"Unable to load any of \{(?P<library>lib[\w.]+)"),
    Rule("missing-shared-library", says=r"failed to open (?P<library>libnvrtc-builtins\.so(?:\.\d+)*)"),
    Rule("missing-shared-library", says=r"^(?P<library>sndfile) library not found"),
    Rule("missing-shared-library", says=r"Intel MKL FATAL ERROR: Cannot load (?P<library>lib\w+\.so)"),
    Rule(
        "built-without-cuda",
        says=r"\b[Nn]ot compiled with GPU support|implementation for device cuda(?::\d+)? not found"
        r"|xFormers wasn't build with CUDA support",
    ),
    Rule("no-build-for-torch", says=r"Cannot find .{1,80} library at \S{1,300}_pytorch_(?P<built_for>\d[\w.+]*)\.so"),
    # GPU and driver.
    Rule("no-gpu", says=r"Found no NVIDIA driver|No CUDA GPUs are available|no CUDA-capable device is detected"),
    Rule("no-gpu", says=r"on a CUDA device but torch\.cuda\.is_available\(\) is False|0 active drivers"),
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
    Rule("no-kernel-image", says=r"\bnamed symbol not found"),
    Rule("invalid-kernel-image", says=r"device kernel image is invalid"),
    Rule("gpu-too-old", says=r"too old to be supported by the triton GPU compiler"),
    Rule("gpu-too-old", says=r"\bFlash ?Attention\S{0,40} only supports (?P<generation>\w+) GPUs or newer"),
    Rule("gpu-too-new", says=r"Value 'sm_\w+' is not defined for option 'gpu-name'"),
    Rule("gpu-too-new", says=r"nvrtc: error: invalid value for --gpu-architecture"),
    Rule("gpu-too-new", says=_UNKNOWN_TO_NVCC),
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
    Rule("fork-after-cuda", says=r"Cannot re-initialize CUDA in forked subprocess"),
    Rule("fork-after-cuda", says=r"(?:CUDA error(?: \(3\))?: |cuda runtime error \(3\) ?: )initialization error"),
    Rule(
        "cuda-library-error",
        says=r"(?i:\b(?P<library>cu(?:blas|dnn|fft|solver|sparse)))(?:_STATUS_\w+|(?: runtime)? error\b)",
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
    Rule("out-of-memory", says=r"[Ww]orker|SIGKILL|terminated abruptly|[Kk]illed", oom=True),
    Rule("out-of-memory", raises=r"MemoryError"),
    Rule("out-of-memory", says=r"DefaultCPUAllocator: (?:can't allocate|not enough) memory|std::bad_alloc"),
    Rule("out-of-memory", says=r"Errno 12\] Cannot allocate memory|shared object: Cannot allocate memory"),
    Rule("shared-memory-too-small", says=r"killed by signal: Bus error|(?:out of|insufficient) shared memory"),
    Rule("shared-memory-too-small", says=r"unable to (?:write|resize|mmap|allocate shared memory).{0,300}torch_"),
    Rule(
        "shared-memory-too-small", says=r"No space left on device", within=r"multiprocessing/synchronize|ctx\.\w*Lock\("
    ),
    Rule("too-many-files", says=r"Too many open files|received 0 items of ancdata"),
    Rule("seccomp-too-old", says=_NO_THREAD),
    Rule("seccomp-too-old", says=r"can't start new thread", prints=_NO_THREAD),
    Rule("too-many-processes", says=r"can't start new thread|pthread_create failed|Thread creation failed"),
    Rule("too-many-processes", says=r"Resource temporarily unavailable", within=r"fork|spawn"),
    Rule("disk-full", says=r"No space left on device|Disk quota exceeded"),
    Rule("no-user-entry", says=r"getpwuid\(\): uid not found|No username set in the environment"),
    Rule("permission-denied-read-only", says=r"(?:Read-only file system|Permission denied): '(?P<file>[^']+)'"),
    Rule(
        "permission-denied-read-only",
        says=r"cannot cache function .{0,300}no locator available for file '(?P<file>[^']+)'",
    ),
    Rule("certificate-refused", says=_UNTRUSTED),
    Rule("certificate-refused", says=r"^Error downloading ", prints=_UNTRUSTED),
    Rule(
        "download-refused",
        says=r"\b(?:HTTP Error |(?=\d+ Client Error\b))(?P<status>401|403|429)\b"
        r"|You are trying to access a gated repo|Access to model \S{1,200} is restricted",
    ),
    Rule("no-network", raises=r"(?:.+\.)?(?:LocalEntryNotFoundError|OfflineModeIsEnabled)"),
    Rule("no-network", says=r"failure in name resolution|Name or service not known|Network is unreachable"),
    Rule("no-network", says=r"couldn't connect to '?https?://|Max retries exceeded with url|Failed to resolve"),
    Rule(
        "no-network",
        says=r"<urlopen error \[Errno -?\d+\]|HTTPS?ConnectionPool\(.{1,200} Read timed out|: offline mode is enabled"
        r"|outgoing traffic has been disabled|cannot find the requested files in the \w+ (?:path|cache)",
    ),
    Rule("port-in-use", says=r"[Aa]ddress already in use|EADDRINUSE"),
    # Compilers: missing tools before failing compilations.
    Rule("no-python-headers", says=_NO_HEADERS),
    Rule("missing-link-library", says=_NO_LIBRARY),
    Rule("no-cuda-toolkit", says=r"CUDA_HOME (?:does not exist|environment variable is not set)"),
    Rule("no-cuda-toolkit", says=r"No such file or directory: '[^']*nvcc'|cuda(?:_runtime)?\.h: No such file"),
    Rule(
        "cuda-toolkit-mismatch",
        says=r"(?:^The detected CUDA version \(|Installed CUDA version )(?P<toolkit>[\d.]+)\)? (?:mism|does not m)atch",
    ),
    Rule("no-compiler", says=r"Failed to find (?P<compiler>C compiler)|No working C\+\+ compiler found"),
    Rule("no-compiler", says=r"(?P<compiler>Ninja) is required to load C\+\+ extensions"),
    Rule("no-compiler", says=rf"No such file or directory: '(?P<compiler>{_COMPILERS})'"),
    Rule("no-compiler", says=rf"Command '\['which', '(?P<compiler>{_COMPILERS})'\]' returned"),
    Rule("no-triton", says=r"Cannot find a working triton installation"),
    Rule("native-build-failed", says=r"Error building extension '|C\+\+ compile error"),
    # The command alone, without a word of the compiler, says nothing of who is at fault.
    Rule(
        "native-build-failed",
        raises=r"subprocess\.CalledProcessError",
        says=rf"Command '\[?'?{_COMPILERS}\b",
        blame="unknown",
    ),
    # Python and packages.
    Rule("externally-managed", raises=_BUILD_ERROR, prints=r"externally-managed-environment"),
    Rule("missing-operator", says=r"operator (?P<operator>\w+::\w+)(?: does not exist|\s*$)"),
    Rule("missing-operator", says=r"Could not run '(?P<operator>(?!aten)\w+::\w+)' with arguments from the"),
    Rule(
        "missing-operator",
        says=r"(?:^Unknown builtin op: |'_OpNamespace' ')(?P<operator>\w+)|'torchvision' has no attribute 'extension'",
    ),
    Rule("missing-operator", says=r"Couldn't load (?P<operator>custom C\+\+ ops)"),
    Rule(
        "registered-twice",
        says=r"Only a single TORCH_LIBRARY can be used to register the namespace (?P<registered>\w+)"
        r"|This is not allowed since there's already a kernel|Tried to register (?:an operator|multiple)",
    ),
    Rule("weights-only", says=r"Weights only load failed"),
    Rule(
        "python-too-new", says=r"(?:Dynamo|torch\.compile) is not supported on Python|yet supported for torch\.compile"
    ),
    Rule("python-too-new", says=rf"No module named '(?:{_GONE_FROM_PYTHON})'|'pkgutil' has no attribute 'Imp"),
    Rule(
        "python-too-new",
        says=r"cannot import name '\w+' from '(?:collections|inspect|fractions)'|'inspect' has no attribute 'getarg",
    ),
    Rule("python-too-new", says=r"^mutable default .{1,300} is not allowed: use default_factory", raises=r"ValueError"),
    Rule("python-too-old", says=r"for \|: (?:'\w+' and 'NoneType'|'type' and)|'type' object is not subscriptable"),
    Rule("python-too-old", says=r"cannot import name '\w+' from 'typing'"),
    Rule("python-too-new", raises=r"SyntaxError", says=r"Missing parentheses in call to|leading zeros in decimal"),
    Rule("python-too-new", raises=r"SyntaxError", within=r"\basync\s*=|\.async\b|[(,]\s*async\s*[,)=]"),
    Rule("python-too-old", raises=r"SyntaxError", within=_NEW_SYNTAX),
    # A package without a part of its own: files of two versions, or an extension that was never built.
    Rule("broken-install", says=r"cannot import name '(?P<name>\w+)' from '(?P<namespace>[\w.]+)'", own=True),
    Rule("broken-install", says=r"No module named '(?P<namespace>\w+)\.(?P<name>[\w.]+)'", own=True),
    Rule("broken-install", says=r"module 'torch' has no attribute", within=r"\b_C\._initExtension\("),
    # An installer's frames: the release is built from source.
    Rule(
        "sdist-build-failed",
        says=r"No module named '",
        through=r"get_requires_for_build|prepare_metadata_for_build|/pip-(?:install|req-build|build-env)-",
    ),
    Rule("no-torch", says=r"No module named 'torch'"),
    Rule("api-removed", says=rf"(?<!initialized )module '{_NAMESPACE}' has no attribute '(?P<name>\w+)'"),
    Rule("api-removed", says=rf"cannot import name '(?P<name>\w+)' from '{_NAMESPACE}'"),
    Rule("api-removed", says=rf"No module named '(?P<namespace>{_SHARED})\.(?P<name>[\w.]+)'"),
    Rule(
        "api-removed",
        says=r"(?<!initialized )module '(?P<namespace>[\w.]+)' has no attribute '(?P<name>\w+)'",
        lacking=True,
    ),
    Rule("api-removed", says=r"cannot import name '(?P<name>\w+)' from '(?P<namespace>[\w.]+)'", lacking=True),
    Rule("api-removed", says=r"No module named '(?P<namespace>\w+)\.(?P<name>[\w.]+)'", lacking=True),
    Rule(
        "api-removed",
        raises=r"TypeError",
        says=r"(?<!\w)(?P<namespace>\w+)(?:\.__init__)?\(\) got an unexpected keyword argument '(?P<name>\w+)'",
        lacking=True,
    ),
    Rule(
        "api-removed",
        raises=r"AttributeError",
        says=r"'(?P<namespace>\w+)' object has no attribute '(?P<name>\w+)'",
        lacking=True,
    ),
    Rule("api-removed", says=r"`(?P<namespace>np)\.(?P<name>\w+)` was removed in the NumPy 2\.0 release"),
    Rule(
        "version-assert",
        says=r"requires the PyTorch library but it was not found",
        prints=r"Disabling PyTorch because PyTorch (?P<required>[<>=]+ ?[\d.]+) is required but found",
    ),
    Rule("missing-module", raises=r"ModuleNotFoundError|ImportError", says=r"No module named '(?P<module>[\w.]+)'"),
    Rule("missing-module", says=r"requires the (?P<module>\w+) library but it was not found"),
    Rule("version-assert", raises=r"AssertionError", within=r"\b__version__|version_info|Version\("),
    Rule(
        "version-assert", says=r"requires (?:py)?torch ?[<>=!~]=?|is required for a normal functioning of this module"
    ),
    Rule(
        "version-assert",
        says=r"we now require users to upgrade torch|[<>=]=? ?[\d.]{1,20} is required\b.{0,200} found\b"
        r"|requires `[\w-]+ ?[<>=~]=?\s?[\d.]+",
    ),
    Rule("version-assert", raises=r"(?:.+\.)?(?:Contextual)?VersionConflict"),
    Rule(
        "missing-module",
        raises=r"ModuleNotFoundError|ImportError",
        says=r"(?:^Missing optional dependency '|not found in your environment: |\bpip install |[Pp]lease install )"
        r"(?P<module>\w[\w.-]*)",
    ),
    Rule(
        "protobuf-too-new",
        says=r"^Descriptors cannot (?:not )?be created directly",
        through=rf"{_OWNER}_pb2\.py",
    ),
    Rule("protobuf-too-new", says=r"^Descriptors cannot |'MessageFactory' object has no attribute 'GetPrototype'"),
    Rule(
        "corrupt-file",
        says=r"PytorchStreamReader failed (?:reading|finding)|The file might be corrupted|^Ran out of input"
        r"|^invalid load key|^pickle data was truncated|^Error while deserializing header: |^File is not a zip file",
    ),
    # A frame shows whose code put them there; the words alone do not.
    Rule(
        "devices-mixed",
        says=r"^Expected all tensors to be on the same device|^indices should be either on \S+ or on the same device",
        through=_OF_A_LIBRARY,
    ),
    # Words of the GPU's own software that no rule above knows: before the compiler that only passes them on.
    Rule("cuda-error", says=rf"{_LINE_BEGINS}(?:{_CUDA_ERROR}|NCCL [Ee]rror\b|nvrtc: error|PTXAS error: )"),
    Rule("dynamo-error", says=r"in file `\S{1,300}-packages/torch/\S{1,300}` should not be traced", blame="image"),
    # What fails is of torch's own making.
    Rule(
        "dynamo-error",
        raises=r"(?:torch\._dynamo\.exc\.)?(?:InternalTorchDynamoError|BackendCompilerFailed)|torch\._inductor\.exc\.\w+",
        blame="image",
    ),
    Rule("dynamo-error", raises=r"torch\._(?:dynamo|inductor)\.exc\.\w+"),
    Rule("recursion", raises=r"RecursionError"),
    Rule("raises-compiled", through=r"[/\\]_dynamo[/\\]eval_frame\.py|, in torch_dynamo_resume_in_"),
    # How a process ended.
    Rule("host-error", says=r"^process \d+ cannot be ended"),
    Rule("exited", raises=r"SystemExit"),
    Rule("interrupted", raises=r"KeyboardInterrupt"),
    Rule("segfault", signal=r"SIGSEGV"),
    Rule("abort", signal=r"SIGABRT"),
    Rule("bus-error", signal=r"SIGBUS"),
    # The loader runs it: the build puts its instructions where every processor meets them.
    Rule("illegal-instruction", signal=r"SIGILL", says=r"\bin _GLOBAL__sub_I_", blame="image"),
    Rule("illegal-instruction", signal=r"SIGILL"),
    Rule("floating-point-exception", signal=r"SIGFPE"),
    Rule("kills-itself", signal=r"SIGKILL|SIGTERM|SIGINT|SIGHUP", unprovoked=True),
    Rule("killed", signal=r"SIGKILL|SIGTERM|SIGINT|SIGHUP"),
    Rule("unclassified-death", signal=r"SIG\w+"),
    Rule("no-answer", exit=r"\d+"),
)
"""From the particular to the general; a rule's order is its precedence."""
