"""Rules for compilers, Python and its packages, torch.compile, and how a process ended."""

from __future__ import annotations

from torch_compat_matrix.runner.verdicts.reasons import RAISER
from torch_compat_matrix.runner.verdicts.rule import CUDA_ERROR, OWNER, Rule

_COMPILERS = r"(?:\S*[/-])?(?:gcc|g\+\+|cc|c\+\+|clang|clang\+\+|nvcc|ninja|cmake)(?:-\d+)?"
_BUILD_ERROR = r"(?:.+\.)?(?:CalledProcessError|CppCompileError|InductorError|BackendCompilerFailed|CompilationError)"
_SHARED = r"(?:torch|torchvision|torchaudio|triton|numpy|scipy|pandas|sklearn)"
_NO_HEADERS = r"Python\.h: No such file or directory"
_NO_LIBRARY = r"cannot find -l(?P<library>\w+)"
_OF_A_LIBRARY = r"packages/(?!torch/)|transformers_modules"
_NOT_TORCH = r"(?!torch==|\(nobody\)).+"
_TWO_DEVICES = r"^Expected all tensors to be on the same device|^indices should be either on \S+ or on the same device"
_GONE_FROM_PYTHON = r"distutils|imp|asyncore|asynchat|smtpd|cgi|crypt|pipes|telnetlib|imghdr|sndhdr|lib2to3"
_NAMES_GONE = (
    r"(?:collections' has no attribute '(?:Mutable|Mapping|Sequence|Iterable|Iterator|Callable|Hashable|Sized|Set)"
    r"|inspect' has no attribute '(?:getargspec|formatargspec)|pkgutil' has no attribute '(?:Imp|find_loader)"
    r"|fractions' has no attribute 'gcd|time' has no attribute 'clock|asyncio' has no attribute '(?:coroutine|async)"
    r"|ast' has no attribute '(?:Num|Str|Bytes|NameConstant|Ellipsis)|typing' has no attribute '(?:io|re)\b"
    r"|configparser' has no attribute 'SafeConfigParser|importlib' has no attribute 'find_loader"
    r"|unittest' has no attribute 'makeSuite|locale' has no attribute 'format\b"
    r"|platform' has no attribute '(?:linux_)?dist)"
)
# Modules of Python that gain names with each release; what they have lost stands above.
_GROWING = r"typing|enum|functools|contextlib|dataclasses|types|itertools|warnings|math|asyncio|importlib|ast"
# Source lines that only a newer Python reads: match, except*, type parameters, quotes within an f-string.
_NEW_SYNTAX = (
    r": (?:match|case) .+:\s*$|: except\s?\*|: type \w+(?:\[.*\])? =|: (?:async )?(?:def|class) \w+\[|: with \($"
    r"|[fF]'[^'{]*\{[^}']*'|[fF]\"[^\"{]*\{[^}\"]*\""
)
_NAMESPACE = rf"(?P<namespace>{_SHARED}(?:\.[\w.]+)?)"
_LINE_BEGINS = r"^[ \t]*(?:\[rank\d+\]: ?)?(?:[\w.()]+: +)*"

PACKAGES = (
    # Compilers: missing tools before failing compilations.
    Rule("no-python-headers", says=_NO_HEADERS),
    Rule("missing-link-library", says=_NO_LIBRARY),
    Rule(
        "no-cuda-toolkit",
        says=r"CUDA_HOME (?:does not exist|(?:environment variable )?is not set)|Cannot find CUDA_HOME"
        r"|\bnvcc(?: was|: command|:)? not found|Could not find nvcc",
    ),
    Rule("no-cuda-toolkit", says=r"No such file or directory: '[^']*nvcc'|cuda(?:_runtime)?\.h: No such file"),
    Rule(
        "cuda-toolkit-mismatch",
        says=r"(?:^The detected CUDA version \(|Installed CUDA version )(?P<toolkit>[\d.]+)\)? (?:mism|does not m)atch"
        r"|compiled with a version of Cuda that does not match the version used to compile",
    ),
    Rule("no-compiler", says=r"Failed to find (?P<compiler>C compiler)|No working C\+\+ compiler found"),
    Rule("no-compiler", says=r"(?P<compiler>Ninja) is required to load C\+\+ extensions"),
    Rule("no-compiler", says=rf"No such file or directory: '(?P<compiler>{_COMPILERS})'"),
    Rule("no-compiler", says=rf"command '(?P<compiler>{_COMPILERS})' failed: No such file or directory"),
    Rule("no-compiler", says=rf"Command '\['which', '(?P<compiler>{_COMPILERS})'\]' returned"),
    Rule("no-triton", says=r"Cannot find a working triton installation"),
    Rule(
        "native-build-failed",
        says=r"Error building extension '|Error compiling objects for extension|C\+\+ compile error",
    ),
    # The command alone, without a word of the compiler, says nothing of who is at fault.
    Rule(
        "native-build-failed",
        raises=r"(?:subprocess\.)?CalledProcessError",
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
    Rule(
        "missing-operator",
        says=r"Couldn't load (?P<operator>custom C\+\+ ops)|find engine for operation \w+::\w+"
        r"|Could not find schema for \w+::|Tried to instantiate class '__torch__\.torch\.classes\.",
    ),
    # The library itself says that its compiled part was built beside another torch.
    Rule(
        "missing-operator",
        says=r"^No operator found for `(?P<operator>\w+)`",
        prints=r"was built for:? PyTorch .{1,80}\(you have ",
        blame="library",
    ),
    Rule(
        "registered-twice",
        says=r"Only a single TORCH_LIBRARY can be used to register the namespace (?P<registered>\w+)"
        r"|This is not allowed since there's already a kernel|Tried to register (?:an operator|multiple)",
    ),
    # The first byte is none of a pickle's: an HTML page, a pointer of Git LFS, another format.
    Rule("corrupt-file", says=r"WeightsUnpickler error: Unsupported operand (?!1[34]\d)\d+"),
    Rule("weights-only", says=r"Weights only load failed"),
    Rule(
        "python-too-new", says=r"(?:Dynamo|torch\.compile) is not supported on Python|yet supported for torch\.compile"
    ),
    Rule("python-too-new", says=rf"No module named '(?:{_GONE_FROM_PYTHON})'|^module '{_NAMES_GONE}\w*'"),
    Rule(
        "python-too-new",
        says=r"cannot import name '\w+' from '(?:collections|inspect|fractions)'"
        r"|^'EntryPoints' object has no attribute 'get'|^code\(\) argument \d+ must be ",
    ),
    Rule("python-too-new", says=r"^mutable default .{1,300} is not allowed: use default_factory", raises=r"ValueError"),
    Rule("python-too-old", says=r"for \|: (?:'\w+' and 'NoneType'|'type' and)|'type' object is not subscriptable"),
    Rule(
        "python-too-old",
        says=rf"cannot import name '\w+' from '(?:{_GROWING})'|^module '(?:{_GROWING})' has no attribute '"
        r"|No module named '(?:tomllib|zoneinfo|graphlib|dataclasses|contextvars|importlib\.(?:metadata|resources))'"
        r"|^'str' object has no attribute 'remove(?:pre|suf)fix'|^future feature annotations is not defined"
        r"|^dataclass\(\) got an unexpected keyword argument '(?:slots|kw_only)'",
    ),
    Rule("python-too-new", raises=r"SyntaxError", says=r"Missing parentheses in call to|leading zeros in decimal"),
    Rule("python-too-new", raises=r"SyntaxError", within=r"\basync\s*=|\.async\b|[(,]\s*async\s*[,)=]"),
    Rule("python-too-old", raises=r"SyntaxError", within=_NEW_SYNTAX),
    # A package without a part of its own: files of two versions, or an extension that was never built.
    Rule("broken-install", says=r"cannot import name '(?P<name>\w+)' from '(?P<namespace>[\w.]+)'", own=True),
    Rule("broken-install", says=r"No module named '(?P<namespace>\w+)\.(?P<name>[\w.]+)'", own=True),
    Rule("broken-install", says=r"module 'torch' has no attribute", within=r"\b_C\._initExtension\("),
    # Its own compiled part, under a name of its own: `causal_conv1d_cuda`.
    Rule("broken-install", says=r"No module named '(?P<namespace>\w+?)_(?P<name>cuda|cpp|C|ext)'", own=True),
    # What every version of it has: an empty folder, or one of another name, stands in its place.
    Rule(
        "broken-install",
        says=r"^module '(?P<namespace>\w+)' has no attribute '(?P<name>__version__)'"
        r"|^module '(?P<namespace_>torch)' has no attribute '(?:Tensor|tensor|nn|cuda|device|load|save|float|no_grad)'"
        r"|cannot import name '\w+' from '\w[\w.]*' \(unknown location\)"
        r"|No module named 'torch\.(?:_C|version)'|^name '_C' is not defined"
        r"|; '\w+' is not a package|^\d+ compatible backends for target|^Failed to load PyTorch C extensions",
    ),
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
    Rule("api-removed", says=r"^cannot import name '?(?P<name>\w+)'?$", lacking=True),  # Python 3.6 and older
    Rule(
        "api-removed",
        says=r"^This function was deprecated since \w+ \S+ and is now removed\. `(?P<namespace>torch)\.(?P<name>\w+)",
        blame="library",
    ),
    Rule(
        "api-removed",
        raises=r"TypeError",
        says=r"(?<!\w)(?P<namespace>\w+)(?:\.__init__)?\(\) (?:got an unexpected keyword argument '(?P<name>\w+)'"
        r"|takes \d+ positional arg|missing \d+ required pos)",
        lacking=True,
    ),
    Rule(
        "api-removed", says=r"^`?(?P<name>\w[\w.]*)`? (?:has been|was) (?:moved to|removed (?:in|from))\b", lacking=True
    ),
    Rule(
        "api-removed",
        raises=r"(?:.+\.)?(?:Module)?AttributeError",  # torch 1.6 and 1.7 had one of their own
        says=r"(?:type object )?'(?P<namespace>\w+)'(?: object)? has no attribute '(?P<name>\w+)'",
        lacking=True,
    ),
    # A file of an older release names it.
    Rule(
        "api-removed",
        says=r"^Can't get attribute '(?P<name>\w+)' on <module '(?P<namespace>[\w.]+)'",
        lacking=True,
        blame="library",
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
        says=r"we now require users to upgrade torch|[<>=]=? ?[\d.]{1,20}(?:,\s?[<>=!]=?[\d.]{1,20})? is required\b"
        r"|[Rr]equires `?[\w-]{1,80} ?[<>=~]=\s?\d|^[\w.-]{1,80}==[\w.]{1,40} is used but incompatible\."
        r"|\b(?:PyTorch and \w+|compiled) were compiled with different CUDA versions"
        r"|^\w+ needs \w+ \d[\d.]* or (?:less|greater|newer|older)|^Detected incompatible Protobuf Gencode/Runtime"
        r"|\bversion \d[\d.]{0,20} or (?:higher|newer|above|later|greater) (?:is|are) required",
    ),
    Rule("version-assert", raises=r"(?:.+\.)?(?:Contextual)?VersionConflict"),
    Rule(
        "missing-module",
        raises=r"ModuleNotFoundError|ImportError",
        says=r"(?:^Missing optional dependency '|not found in your environment: |\bpip install |[Pp]lease install "
        r"|[Yy]ou must have |[Nn]o package metadata was found for |^The ['`]|requires either '|^Neither `|the package )"
        r"(?P<module>\w[\w.-]*)",
    ),
    Rule(
        "missing-module",
        says=r"^(?:(?:[Mm]odule|[Pp]ackage|[Ll]ibrary|[Tt]he) )?[`'\"]?(?P<module>\w[\w.-]*)[`'\"]?"
        r"(?: package| library)? (?:is not|isn't|must be|needs to be|has to be|should be) installed\b",
    ),
    Rule("missing-module", raises=r"(?:.+\.)?DistributionNotFound", says=r"^The '(?P<module>\w[\w.-]*)"),
    Rule("protobuf-too-new", says=r"^Descriptors cannot (?:not )?be created directly", through=rf"{OWNER}_pb2\.py"),
    Rule("protobuf-too-new", says=r"^Descriptors cannot |'MessageFactory' object has no attribute 'GetPrototype'"),
    Rule(
        "corrupt-file",
        says=r"PytorchStreamReader failed (?:reading|finding)|The file might be corrupted|^Ran out of input"
        r"|^invalid load key|^pickle data was truncated|^Error while deserializing header: |^File is not a zip file"
        r"|^invalid hash value \(expected |checksum does not (?:not )?match"
        r"|^Unable to load weights from \w+ checkpoint file"
        r"|^unpickling stack underflow|^could not find MARK|^Not a gzipped file|^CRC check failed",
    ),
    # A frame shows whose code put them there; the words alone do not.
    Rule("devices-mixed", says=_TWO_DEVICES, through=_OF_A_LIBRARY),
    Rule("devices-mixed", says=_TWO_DEVICES, raised_by=_NOT_TORCH),
    # Words of the GPU's own software that no rule above knows: before the compiler that only passes them on.
    Rule("cuda-error", says=rf"{_LINE_BEGINS}(?:{CUDA_ERROR}|NCCL [Ee]rror\b|nvrtc: error|PTXAS error: )"),
    Rule("dynamo-error", says=r"in file `\S{1,300}-packages/torch/\S{1,300}` should not be traced", blame="image"),
    # Code of a library that runs while it is traced.
    Rule(
        "dynamo-error",
        raises=r"(?:torch\._dynamo\.exc\.)?InternalTorchDynamoError",
        raised_by=_NOT_TORCH,
        blame=RAISER,
    ),
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
    Rule("exited", raises=r"SystemExit|KeyboardInterrupt"),  # no terminal's signal reaches a probe
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
