"""What a rule is: signs in an observation that must all be there, and the reason that they give."""

from __future__ import annotations

from dataclasses import dataclass, field

OWNER = r"(?:(?:site|dist)-packages|overlays/\w+)/(?:google/)?(?P<owner>\w+)/[\w./+-]{0,300}"
# How programs quote an error of CUDA: torch as `CUDA error: ...`, once as `cuda runtime error (2) : ...`, and as
# `... cudaGetDeviceCount(). ... Error 802: ...`; NCCL as `Cuda failure 802 '...'`.
CUDA_ERROR = r"CUDA(?: driver| runtime)? error(?: \(\d+\))?: |cuda runtime error \(\d+\) ?: |Triton Error \[CUDA\]: "


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
    uncounted: bool = False
    """A process died, and nobody can tell whether the kernel killed one for memory."""
    raised_by: str = ""
    """`name==version` of the distribution whose code raised; empty where that is not known."""
    lacks: str = ""
    """A distribution that is not installed."""
    lacking: bool = False
    """An installed distribution, not the library's own, lacks the name or the submodule that was asked for."""
    own: bool = False
    """The distribution that raised is the one whose `namespace` lacks the `name`."""
    blame: str = ""
    """Instead of the reason's."""
