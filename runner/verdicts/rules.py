"""The registry of reasons (reasons.ini) and the ordered rules that find a reason in an exception, signal or output."""

from __future__ import annotations

import configparser
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from torch_compat_matrix.runner.model import Verdict

RAISER = "raiser"
"""Stands in the registry for whoever raised: the library, a dependency, or a package of the image."""
BLAME = ("library", "dependency", "image", "host", "matrix", "us", "unknown", RAISER)
"""Who is to blame; a dependency is a package that the cell added, and nobody has evidence against the unknown."""

TEXTS = ("cause", "confirm", "remedy")
_CHOICE, _NAME = re.compile(r"\[([^\]]*)\]"), re.compile(r"(?<!\{)\{(\w+)\}")


def names_in(template: str) -> list[str]:
    """The `{names}` in a text; other braces (`{{.Architecture}}` is Docker's) are none."""
    return _NAME.findall(template)


def fill(template: str, known: Mapping[str, str]) -> str:
    """The template with its choices made: of `[@local a|b {name}|c]` the first part that fits, else nothing.

    A part fits where all its names are known, and where it is for the backend at hand if it names any (`@local,here `).
    """

    def chosen(match: re.Match[str]) -> str:
        for part in match[1].split("|"):
            backends, text = part[1:].split(" ", 1) if part.startswith("@") else ("", part)
            if (not backends or known.get("backend") in backends.split(",")) and all(map(known.get, names_in(text))):
                return _NAME.sub(lambda name: known[name[1]], text)
        return ""

    return _CHOICE.sub(chosen, template)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reason:
    """A reason code with its texts: the cause, how to confirm it, the remedy."""

    code: str
    verdict: Verdict
    blame: str
    templates: Mapping[str, str]
    """The texts with their choices; a `{name}` stands in a choice, so that no text can show one that is unknown."""

    @property
    def cause(self) -> str:
        """The cause where nothing is known of the environment."""
        return self.text("cause")

    @property
    def remedy(self) -> str:
        """The remedy where nothing is known of the environment."""
        return self.text("remedy")

    def text(self, which: str, known: Mapping[str, str] = MappingProxyType({})) -> str:
        """The cause, confirmation or remedy for this environment."""
        return fill(self.templates[which], known)


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
    blame: str = ""
    """Instead of the reason's."""


def read_reasons(path: Path) -> dict[str, Reason]:
    """The reasons of an INI file, in its order; KeyError, ValueError or configparser.Error for a mistake in it."""
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",), comment_prefixes=("#",))
    parser.read_string(path.read_text(encoding="utf-8"), source=str(path))
    reasons = {}
    for code in parser.sections():
        section = parser[code]
        if section["blame"] not in BLAME:
            raise ValueError(f"{path}: [{code}] blames {section['blame']!r}, not one of {', '.join(BLAME)}")
        templates = {name: section[name] for name in TEXTS}
        for text in templates.values():
            loose = names_in(_CHOICE.sub("", text))
            if loose:
                raise ValueError(f"{path}: [{code}] names {{{loose[0]}}} outside `[...]`, and may not know it")
        reasons[code] = Reason(
            code=code, verdict=Verdict(section["verdict"]), blame=section["blame"], templates=templates
        )
    return reasons


REASONS: Mapping[str, Reason] = read_reasons(Path(__file__).with_name("data") / "reasons.ini")


def reason_for(code: str) -> Reason:
    """The reason of that code; for a code that is not in the registry, host trouble of that name."""
    unknown = REASONS["host-error"]
    return REASONS.get(code) or Reason(
        code=code, verdict=unknown.verdict, blame="host", templates={**unknown.templates, "cause": code}
    )


_PROBE = r"[/\\](?:compat_)?probes[/\\](?:(?:libraries|own)[/\\]\w+|evidence|probe|compiling)\.py"
_COMPILERS = r"(?:\S*[/-])?(?:gcc|g\+\+|cc|c\+\+|clang|clang\+\+|nvcc|ninja|cmake)(?:-\d+)?"
_BUILD_ERROR = r"(?:.+\.)?(?:CalledProcessError|CppCompileError|InductorError|BackendCompilerFailed|CompilationError)"
_SHARED = r"(?:torch|torchvision|torchaudio|triton|numpy|scipy|pandas|sklearn)"
_NO_THREAD = r"pthread_create failed.{0,300}Operation not permitted"
_NO_HEADERS = r"Python\.h: No such file or directory"
_NO_LIBRARY = r"cannot find -l(?P<library>\w+)"
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
    # Libraries that cannot be loaded; torch's own before those of extensions.
    Rule("cuda-library-conflict", says=rf"(?P<library>{_CUDA_LIBRARY}): undefined symbol"),
    Rule("cuda-library-conflict", says=r"(?<!\w)(?P<library>libtorch\w*\.so): undefined symbol: (?:nccl|cu|nv)\w+"),
    Rule("cuda-library-conflict", says=r"(?P<library>cuDNN) version (?:incompatibility|mismatch)"),
    Rule("undefined-symbol", says=r"undefined symbol: (?P<symbol>\w+)"),
    Rule("missing-module", says=r"(?P<module>[Nn]um[Pp]y) is not available", lacks="numpy"),
    Rule("numpy-abi", says=r"_ARRAY_API not found|numpy\.core\.(?:multiarray|umath) failed to import"),
    Rule("numpy-abi", says=r"numpy\.\w+ size changed|module compiled against A[BP]I version"),
    # Words of torch, which found a NumPy that it was not built for.
    Rule("numpy-abi", says=r"^(?P<unavailable>Numpy is not available)", blame="image"),
    Rule("glibc-too-old", says=r"version [`'](?P<version>(?:GLIBC|GLIBCXX|CXXABI)_[\d.]+)' not found"),
    Rule(
        "noexec-cache", says=rf"{_FILE.format('')}: failed to map segment from shared object: Operation not permitted"
    ),
    Rule("noexec-cache", says=rf"{_FILE.format(_CACHE)}: failed to map segment from shared object"),
    Rule("noexec-cache", says=r"Permission denied: '(?P<file>[^']+\.so)'"),
    Rule("wrong-architecture", says=r"Exec format error|wrong ELF class|cannot execute binary file"),
    Rule("no-gpu", says=r"lib(?:cuda|nvidia-ml)\.so\.1: cannot open shared object file"),
    Rule("cpu-only-torch", says=r"lib(?:c10|torch)_cuda\w*\.so: cannot open shared object file"),
    Rule("missing-shared-library", says=r"(?<![\w.+-])(?P<library>lib[\w.+-]+): cannot open shared object file"),
    Rule("missing-shared-library", says=r"(?<!\w)(?P<library>lib\w+\.so)\.\*\[0-9\] not found in the system path"),
    Rule("missing-shared-library", says=r"Unable to load any of \{(?P<library>lib[\w.]+)"),
    Rule("missing-shared-library", says=r"failed to open (?P<library>libnvrtc-builtins\.so(?:\.\d+)*)"),
    # GPU and driver.
    Rule("no-gpu", says=r"Found no NVIDIA driver|No CUDA GPUs are available|no CUDA-capable device is detected"),
    Rule("no-gpu", says=r"on a CUDA device but torch\.cuda\.is_available\(\) is False|0 active drivers"),
    Rule("cpu-only-torch", says=r"Torch not compiled with CUDA enabled"),
    Rule("driver-too-old", says=r"driver on your system is too old|driver version is insufficient for CUDA"),
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
    Rule("gpu-too-new", says=r"Value 'sm_\w+' is not defined for option 'gpu-name'"),
    Rule("gpu-too-new", says=r"nvrtc: error: invalid value for --gpu-architecture"),
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
    Rule("cuda-library-error", says=r"(?P<library>cuDNN|CUDNN|CUBLAS|CUSOLVER|CUSPARSE|CUFFT)(?:_STATUS_\w+| error)"),
    Rule("cuda-library-error", says=r"(?P<library>cuDNN) (?:Frontend error|algorithm to run)|\[cudnn_frontend\] Error"),
    Rule("cuda-library-error", says=r"was unable to find an engine to execute this computation"),
    Rule("cuda-library-error", says=r"no valid convolution algorithms available in (?P<library>CuDNN)"),
    Rule("shared-memory-too-small", says=r"while creating shared memory segment (?:/dev/shm/)?nccl"),
    Rule("nccl-unreachable", says=r"ncclSystemError|NCCL error.{0,300}unhandled system error|ncclRemoteError"),
    Rule("nccl-unreachable", says=r"no socket interface found|is neither AF_INET\(2\) nor AF_INET6"),
    # Whatever else keeps CUDA from starting at all.
    Rule(
        "cuda-not-started",
        says=r"CUDA initialization: |error from cudaGetDeviceCount|CUDA driver initialization failed",
    ),
    Rule("cuda-not-started", says=r"CUDA unknown error - this may be due to|CUDA call failed lazily at initialization"),
    Rule("cuda-not-started", says=r"^.+", within=r"\btorch\._C\._cuda_init\(\)"),
    # Limits and the host.
    Rule("out-of-memory", signal=r"SIGKILL", oom=True),
    Rule("out-of-memory", exit=r"\d+", oom=True),
    Rule("out-of-memory", says=r"[Ww]orker|SIGKILL|terminated abruptly|[Kk]illed", oom=True),
    Rule("out-of-memory", raises=r"MemoryError"),
    Rule("out-of-memory", says=r"DefaultCPUAllocator: (?:can't allocate|not enough) memory|std::bad_alloc"),
    Rule("out-of-memory", says=r"Errno 12\] Cannot allocate memory|shared object: Cannot allocate memory"),
    Rule("shared-memory-too-small", says=r"killed by signal: Bus error|(?:out of|insufficient) shared memory"),
    Rule("shared-memory-too-small", says=r"unable to (?:write|open|resize|mmap|allocate shared memory).{0,300}torch_"),
    Rule("shared-memory-too-small", says=r"No space left on device", within=r"multiprocessing/synchronize"),
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
    Rule("no-network", says=r"failure in name resolution|Name or service not known|Network is unreachable"),
    Rule("no-network", says=r"couldn't connect to '?https?://|Max retries exceeded with url|Failed to resolve"),
    Rule("port-in-use", says=r"Address already in use|EADDRINUSE"),
    # Compilers: missing tools before failing compilations.
    Rule("no-python-headers", says=_NO_HEADERS),
    Rule("no-python-headers", raises=_BUILD_ERROR, prints=_NO_HEADERS),
    Rule("missing-link-library", says=_NO_LIBRARY),
    Rule("missing-link-library", raises=_BUILD_ERROR, prints=_NO_LIBRARY),
    Rule("no-cuda-toolkit", says=r"CUDA_HOME (?:does not exist|environment variable is not set)"),
    Rule("no-cuda-toolkit", says=r"No such file or directory: '[^']*nvcc'|cuda(?:_runtime)?\.h: No such file"),
    Rule("no-compiler", says=r"Failed to find (?P<compiler>C compiler)|No working C\+\+ compiler found"),
    Rule("no-compiler", says=r"(?P<compiler>Ninja) is required to load C\+\+ extensions"),
    Rule("no-compiler", says=rf"No such file or directory: '(?P<compiler>{_COMPILERS})'"),
    Rule("no-triton", says=r"Cannot find a working triton installation"),
    Rule("native-build-failed", says=r"Error building extension '|C\+\+ compile error"),
    Rule("native-build-failed", raises=r"subprocess\.CalledProcessError", says=rf"Command '\[?'?{_COMPILERS}\b"),
    # Python and packages.
    Rule("externally-managed", raises=_BUILD_ERROR, prints=r"externally-managed-environment"),
    Rule("missing-operator", says=r"operator (?P<operator>\w+::\w+)(?: does not exist|\s*$)"),
    Rule("missing-operator", says=r"Could not run '(?P<operator>torchvision::\w+)' with arguments from the"),
    Rule("missing-operator", says=r"Couldn't load (?P<operator>custom C\+\+ ops)"),
    Rule("weights-only", says=r"Weights only load failed"),
    Rule(
        "python-too-new", says=r"(?:Dynamo|torch\.compile) is not supported on Python|yet supported for torch\.compile"
    ),
    Rule("python-too-new", says=rf"No module named '(?:{_GONE_FROM_PYTHON})'|'pkgutil' has no attribute 'Imp"),
    Rule("python-too-new", says=r"cannot import name '\w+' from 'collections'"),
    Rule("python-too-old", says=r"for \|: '\w+' and 'NoneType'|'type' object is not subscriptable"),
    Rule("python-too-old", says=r"cannot import name '\w+' from 'typing'"),
    Rule("python-too-new", raises=r"SyntaxError", says=r"Missing parentheses in call to|leading zeros in decimal"),
    Rule("python-too-new", raises=r"SyntaxError", within=r"\basync\s*=|\.async\b|[(,]\s*async\s*[,)=]"),
    Rule("python-too-old", raises=r"SyntaxError", within=_NEW_SYNTAX),
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
    Rule("version-assert", raises=r"(?:.+\.)?(?:Contextual)?VersionConflict"),
    # Words of the GPU's own software that no rule above knows: before the compiler that only passes them on.
    Rule("cuda-error", says=rf"{_LINE_BEGINS}(?:{_CUDA_ERROR}|NCCL [Ee]rror\b|nvrtc: error|PTXAS error: )"),
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
    Rule("illegal-instruction", signal=r"SIGILL"),
    Rule("floating-point-exception", signal=r"SIGFPE"),
    Rule("kills-itself", signal=r"SIGKILL|SIGTERM|SIGINT|SIGHUP", unprovoked=True),
    Rule("killed", signal=r"SIGKILL|SIGTERM|SIGINT|SIGHUP"),
    Rule("unclassified-death", signal=r"SIG\w+"),
    Rule("no-answer", exit=r"\d+"),
)
"""From the particular to the general; a rule's order is its precedence."""
