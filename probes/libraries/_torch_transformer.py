"""The article's Transformer behind its positional encoding: buffers, gradients, and the compiled one."""

import inspect
import math
from typing import Any

from ..compiling import compiled
from ..evidence import close, differentiable, on_device, reached, require, sound
from ..probe import Probe


def _positional(torch: Any, width: Any, length: int = 128, plain: bool = False) -> Any:
    """The article's module: sines and cosines in a buffer, or (its mistake) in a plain attribute."""

    class PositionalEncoding(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            position = torch.arange(length).unsqueeze(1)
            rate = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
            table = torch.zeros(length, 1, width)
            table[:, 0, 0::2] = torch.sin(position * rate)
            table[:, 0, 1::2] = torch.cos(position * rate)
            if plain:
                self.pe = table
            else:
                self.register_buffer("pe", table)

        def forward(self, data: Any) -> Any:
            return data + self.pe[: data.size(0)]

    return PositionalEncoding()


def buffers(probe: Probe) -> None:
    """A buffer moves with the module and survives a state_dict round trip; a plain attribute does neither."""
    import torch

    module = _positional(torch, 16).to(probe.device)
    on_device(module.pe, probe.device, "the buffer")
    require("pe" in module.state_dict(), "wrong-value", "a registered buffer is not in state_dict")
    other = _positional(torch, 16).to(probe.device)
    other.pe.zero_()
    other.load_state_dict(module.state_dict())
    data = probe.randn(10, 2, 16)
    close(other(data), module(data), "positional encoding after a state_dict round trip")
    require(
        "pe" not in _positional(torch, 16, plain=True).state_dict(), "wrong-value", "a plain attribute is in state_dict"
    )
    half = _positional(torch, 16, plain=True).to(torch.float64)
    require(half.pe.dtype == torch.float32, "wrong-value", "a plain attribute follows the module's .to()")


def _transformer(probe: Probe) -> Any:
    """The article's model: 6 layers of width 512 on (10, 32, 512); on a CPU, unless the run is full, 1 of width 32.

    The full one takes over half a minute to compile on one core, for the same operations.
    """
    import torch

    width, heads, layers, batch = (512, 8, 6, 32) if probe.thorough else (32, 4, 1, 4)
    torch.manual_seed(probe.seed)
    layer = torch.nn.TransformerEncoderLayer(width, heads, dim_feedforward=4 * width, dropout=0.0)
    encoder = torch.nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
    model = torch.nn.Sequential(_positional(torch, width), encoder).to(probe.device)
    inputs = [probe.randn(length, batch, width, offset=length) for length in (10, 7, 24)]
    return model, inputs


def gradients(probe: Probe) -> None:
    """Positional encoding before a Transformer: the right shape, every parameter reached, as in float64."""
    import copy

    model, inputs = _transformer(probe)
    wide = copy.deepcopy(model).double()
    out = model(inputs[0])
    sound(out, inputs[0], "Transformer")
    # the last layer norm fixes the mean square of what comes out, so that each element needs a weight of its own
    weight = probe.randn(*out.shape, offset=99)
    (out * weight).mean().backward()
    (wide(inputs[0].double()) * weight).mean().backward()
    # attention's key bias cannot change a softmax: its gradient is rounding, whatever the library does
    reached(dict(model.named_parameters()), "Transformer")
    for (name, seen), wanted in zip(model.named_parameters(), wide.parameters()):
        scale = float(wanted.grad.abs().max())
        close(
            seen.grad,
            wanted.grad,
            f"Transformer: gradient of {name}",
            rtol=5e-3,
            atol=max(5e-3 * scale, 1e-6),
            code="wrong-gradient",
        )
    differentiable(lambda data: (wide(data) * weight).sum(), [inputs[0]], "Transformer")


def as_compiled(probe: Probe) -> None:
    """Compiled as eager; what the article says of `fullgraph` is put to the test.

    The encoding takes several sequence lengths everywhere, the whole model where that is not too slow.
    """
    import torch

    model, inputs = _transformer(probe)
    # sound float32 moves a gradient of the large model by 3e-4 (likely a ReLU whose input rounds across zero)
    rtol, atol = (2e-3, 1e-3 if probe.thorough else 2e-4)
    lengths = [(data,) for data in inputs]
    compiled(probe, model[0], lengths, "positional encoding")
    whole = lengths if probe.thorough else lengths[:1]
    compiled(probe, model, whole, "Transformer", dict(model.named_parameters()), rtol=rtol, atol=atol)
    default = inspect.signature(torch.compile).parameters["fullgraph"].default
    torch._dynamo.reset()
    try:
        torch.compile(model[0], fullgraph=True, backend="eager")(inputs[0])
        breaks = "does not break"
    except Exception as error:
        breaks = f"breaks ({type(error).__name__})"
    probe.note(
        f"torch.compile's fullgraph is {default} by default; the slice pe[:x.size(0)] {breaks} full-graph compilation"
    )
