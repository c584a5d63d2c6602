"""Ways to break a function of a library that several mutations share; each returns the sabotage, to be called once."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

Sabotage = Callable[[], None]
"""Breaks the library in this process for good: it runs in a child of its own, after the library's import."""


def replace(path: str, make: Callable[[Any], Any]) -> Sabotage:
    """Put `make(original)` in the place of `package.module[.Class]:attribute`."""

    def apply() -> None:
        place, _, name = path.partition(":")
        parts = place.split(".")
        for cut in range(len(parts), 0, -1):
            try:
                owner: Any = importlib.import_module(".".join(parts[:cut]))
            except ModuleNotFoundError:
                continue
            break
        for part in parts[cut:]:
            owner = getattr(owner, part)
        original = getattr(owner, name)
        changed = make(original)
        if callable(original) and not isinstance(original, property):
            changed.__wrapped__ = original  # its signature is still the library's
        setattr(owner, name, changed)

    return apply


def returns(path: str, change: Callable[[Any], Any], *, when_compiled: bool = False) -> Sabotage:
    """The function returns something else: always, or only in compiled code."""

    def make(original: Any) -> Any:
        def changed(*arguments: Any, **options: Any) -> Any:
            import torch

            out = original(*arguments, **options)
            if when_compiled and not torch.compiler.is_compiling():
                return out
            return (change(out[0]), *out[1:]) if isinstance(out, tuple) else change(out)

        return changed

    return replace(path, make)


def options(path: str, **changes: Callable[[Any], Any]) -> Sabotage:
    """The function is called with some of its named arguments changed."""

    def make(original: Any) -> Any:
        def changed(*arguments: Any, **given: Any) -> Any:
            for name, change in changes.items():
                if given.get(name) is not None:
                    given[name] = change(given[name])
            return original(*arguments, **given)

        return changed

    return replace(path, make)


def first(path: str, action: Callable[[], Any]) -> Sabotage:
    """Something happens before each call of the function, such as setting a seed."""

    def make(original: Any) -> Any:
        def changed(*arguments: Any, **options: Any) -> Any:
            action()
            return original(*arguments, **options)

        return changed

    return replace(path, make)


def after_init(owner: str, change: Callable[[Any], Any]) -> Sabotage:
    """Each new object of the class `package.module.Class` is changed, without a trace in the graph."""

    def make(original: Any) -> Any:
        def init(self: Any, *arguments: Any, **options: Any) -> None:
            import torch

            original(self, *arguments, **options)
            with torch.no_grad():
                change(self)

        return init

    return replace(f"{owner}:__init__", make)


def wider(path: str) -> Sabotage:
    """The draws of a distribution's method scatter 10 percent too far around its mean."""

    def make(original: Any) -> Any:
        def changed(self: Any, *arguments: Any, **options: Any) -> Any:
            return self.mean + 1.1 * (original(self, *arguments, **options) - self.mean)

        return changed

    return replace(path, make)


def numb(path: str) -> Sabotage:
    """The gradient of a property's value is zero."""
    return replace(
        path,
        lambda original: property(
            lambda self: original.fget(self).detach() + 0 * original.fget(self), original.fset, original.fdel
        ),
    )


def eager() -> None:
    """`torch.compile` returns a function that runs eagerly, and does not say so."""
    import torch

    torch.compile = lambda function, **_: torch._dynamo.disable(function)


def left_alone(original: Any) -> Any:
    """The compiler leaves the function alone, and does not say so."""
    import torch

    return torch._dynamo.disable(original)


def does_nothing(_: Any) -> Any:
    """A method that does nothing, such as a step that changes no parameter."""
    return lambda self, *_, **__: None


def reseed() -> None:
    """The seed that was set is forgotten."""
    import torch

    torch.seed()


def rewind() -> None:
    """Every draw begins at the same seed."""
    import torch

    torch.manual_seed(0)


def elsewhere(out: Any) -> Any:
    """A tensor on a device that nobody asked for."""
    return out.to("meta")


def nan(out: Any) -> Any:
    """One element is not a number."""
    out = out.clone()
    out.view(-1)[-1] = float("nan")
    return out


def all_nan(out: Any) -> Any:
    """Not a number; without the write in place, which would be a graph break of its own."""
    return out * float("nan")


def double(out: Any) -> Any:
    """float64 whatever the input was."""
    return out.double()


def single(out: Any) -> Any:
    """float32 whatever the input was."""
    return out.float()


def detached(out: Any) -> Any:
    """The right value without a graph."""
    return out.detach()


def scaled(factor: float) -> Callable[[Any], Any]:
    """Off by a factor, and so is the gradient."""
    return lambda out: out * factor


def steeper(out: Any) -> Any:
    """The right value with a gradient 10 percent too large."""
    return 1.1 * out - 0.1 * out.detach()


def uphill(out: Any) -> Any:
    """The right value with the gradient's sign turned."""
    return 2 * out.detach() - out


def uphill_in_float32(out: Any) -> Any:
    """The gradient's sign is turned where training computes in float32, and not in a float64 reference."""
    import torch

    return uphill(out) if out.dtype == torch.float32 else out
