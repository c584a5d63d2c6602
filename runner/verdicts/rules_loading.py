"""Rules for the probe itself, an interpreter that does not start, and libraries that cannot be loaded."""

from __future__ import annotations

from torch_compat_matrix.runner.verdicts.rule import OWNER, Rule

_PROBE = r"[/\\](?:compat_)?probes[/\\](?:(?:libraries|own)[/\\]\w+|evidence|probe|compiling)\.py"
# Symbols of torch, whose names are mangled: at::, c10::, torch::, caffe2::, and those of its C parts.
_OF_TORCH = r"_Z\w*?(?:2at|3c10|5torch|6caffe2)|TH[CP]?[A-Z_]|aoti_|AOTI|shm_|torch"
_CUDA_LIBRARY = r"(?<![\w.-])lib(?:cu(?:blas|sparse|solver|fft|dnn|rand)|nvJitLink|nvrtc|nccl)[\w-]*\.so[\w.]*"
_FILE = r"(?<![^\s'\"(\[])(?P<file>{}[^\s'\"(\[]+)"  # a whole word: to begin within it would cost its length anew
_CACHE = r"(?=/tmp/|[^\s'\"(\[]*(?:torchinductor|\.triton|torch_extensions))"

LOADING = (
    # The probe itself: before anything that would blame a library for it.
    Rule("no-probes", says=r"No module named '(?:\w+\.)*(?:compat_)?probes\.(?:libraries|own)\.(?P<module>\w+)'"),
    Rule("probe-error", raises=r"NameError|SyntaxError", within=_PROBE),
    Rule("probe-error", says=r"unknown reason code", within=_PROBE),
    Rule("probe-misfit", says=r"cannot import name|No module named '\w+\.", within=_PROBE),
    Rule("probe-misfit", says=r"(?:module|type object) '[\w.]+' has no attribute", within=_PROBE),
    Rule("probe-misfit", says=r"unexpected keyword argument|missing \d+ required", raises=r"TypeError", within=_PROBE),
    # An interpreter that does not start.
    Rule("no-python", says=r"^Fatal Python error: (?:init_?\w+|Py_Initialize|preinit\w*): "),
    Rule("no-python", exit=r"12[67]", says=r"\bpython[\d.]{0,6}['\u2019]?: (?:command )?not found|: bad interpreter: "),
    # Libraries that cannot be loaded; torch's own before those of extensions.
    Rule("cuda-library-conflict", says=rf"(?P<library>{_CUDA_LIBRARY}): undefined symbol"),
    Rule("cuda-library-conflict", says=r"(?<!\w)(?P<library>libtorch\w*\.so): undefined symbol: (?:nccl|cu|nv)\w+"),
    Rule("cuda-library-conflict", says=r"(?P<library>cuDNN) version (?:incompatibility|mismatch)"),
    Rule("math-library-conflict", says=r"undefined symbol: (?P<symbol>iJIT_\w+|mkl_\w+|omp_get_\w+|__kmpc_\w+)"),
    # A library's own ctypes asks its build without CUDA for a function of the other one.
    Rule("built-without-cuda", raises=r"AttributeError", says=r"/lib\w{1,80}_cpu\.so: undefined symbol: \w+"),
    Rule("undefined-symbol", says=rf"{OWNER}: undefined symbol: (?P<symbol>(?:{_OF_TORCH})\w*)"),
    Rule("undefined-symbol", says=rf"(?:undefined symbol|Symbol not found): _?(?P<symbol>(?:{_OF_TORCH})\w*)"),
    Rule("undefined-symbol-elsewhere", says=rf"{OWNER}: undefined symbol: (?P<symbol>\w+)"),
    Rule("undefined-symbol-elsewhere", says=r"undefined symbol: (?P<symbol>\w+)"),
    Rule("static-tls", says=r"cannot (?:allocate memory in static TLS block|load any more object with static TLS)"),
    Rule("executable-stack", says=r"(?:^|[\s/])lib(?:torch|c10)\w*\.so: cannot enable executable stack", blame="image"),
    Rule("executable-stack", says=rf"{OWNER}: cannot enable executable stack as shared object requires"),
    Rule("executable-stack", says=r"cannot enable executable stack as shared object requires"),
    Rule("openmp-clash", says=r"OMP: Error #15: Initializing|MKL_THREADING_LAYER=\w+ is incompatible with lib\w+"),
    Rule("missing-module", says=r"(?P<module>[Nn]um[Pp]y) is not available", lacks="numpy"),
    Rule(
        "numpy-abi",
        says=r"_ARRAY_API not found|numpy\._?core\.(?:multiarray|umath) failed to import|compiled using NumPy 1\.",
    ),
    Rule("numpy-abi", says=r"numpy\.\w+ size changed|module compiled against A[BP]I version"),
    # Words of torch, which found a NumPy that it was not built for.
    Rule(
        "numpy-abi",
        says=r"^(?P<unavailable>Numpy is not available|Could not infer dtype of numpy\.\w+"
        r"|expected np\.ndarray \(got numpy\.ndarray\))",
        blame="image",
    ),
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
    # torch for another kind of device, or none that was imported first: who asks for it is to blame.
    Rule(
        "missing-shared-library",
        says=r"(?P<library>lib(?:torch|c10)\w*\.so): cannot open shared object file",
        blame="library",
    ),
    # A part that the package itself should bring.
    Rule("missing-shared-library", says=rf"{OWNER}(?<=/)(?P<library>lib[\w.+-]+): cannot open shared object file"),
    Rule("missing-shared-library", says=r"(?<![\w.+-])(?P<library>lib[\w.+-]+): cannot open shared object file"),
    Rule("missing-shared-library", says=r"(?<!\w)(?P<library>lib\w+\.so)\.\*\[0-9\] not found in the system path"),
    Rule("missing-shared-library", says=r"Unable to load any of \{(?P<library>lib[\w.]+)"),
    Rule("missing-shared-library", says=r"failed to open (?P<library>libnvrtc-builtins\.so(?:\.\d+)*)"),
    Rule("missing-shared-library", says=r"^(?P<library>sndfile) library not found"),
    Rule("missing-shared-library", says=r"Intel MKL FATAL ERROR: Cannot load (?P<library>lib\w+\.so)"),
    Rule(
        "built-without-cuda",
        says=r"\b(?:[Nn]ot compiled|[Cc]ompiled without|[Nn]ot built) (?:with )?(?:GPU|CUDA)(?: support\b|\.?$)"
        r"|implementation for device cuda(?::\d+)? not found|xFormers wasn't build with CUDA support"
        r"|Device API (?:gpu|cuda) is not enabled|[Pp]lease install the cuda version of",
    ),
    Rule("no-build-for-torch", says=r"Cannot find .{1,80} library at \S{1,300}_pytorch_(?P<built_for>\d[\w.+]*)\.so"),
)
