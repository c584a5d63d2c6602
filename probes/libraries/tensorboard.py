"""TensorBoard: event files as torch.utils.tensorboard writes them, read back by TensorBoard's own reader."""

import tempfile
import time
from typing import Any, Dict

from ..evidence import close, falls, on_device, require
from ..probe import Probe

DISTRIBUTION = "tensorboard"
MODULE = "tensorboard"
NEEDS = ("torch",)
NOT_APPLICABLE = {"compile": "TensorBoard reads and writes files; it holds no code that torch.compile could compile"}
COVERS = {
    "tensorboard.backend.event_processing.event_accumulator.EventAccumulator": "sample/scalars",
    "torch.utils.tensorboard.SummaryWriter": "sample/scalars",
    "tensorboard.backend.event_processing.event_accumulator.EventAccumulator.Histograms": "sample/histograms",
    "tensorboard.default.get_plugins": "sample/server",
    "tensorboard.program.TensorBoard": "sample/server",
}

DRAWS = 2_000
PATIENCE_S = 30
"""How long the server may take to read a file of events."""


def sample(probe: Probe) -> None:
    """Draws on the device are logged step by step; their histograms and means come back as they were."""
    import torch

    probe.count_all()
    torch.manual_seed(probe.seed)
    family = torch.distributions.Normal(torch.tensor(0.5, device=probe.device), 1.5)
    steps = {step: family.sample((DRAWS,)) for step in (0, 3, 10)}
    on_device(steps[0], probe.device, "draws")
    with tempfile.TemporaryDirectory() as folder:
        with _writer(folder) as writer:
            for step, draws in steps.items():
                writer.add_histogram("draws", draws, step)
                writer.add_scalar("mean", draws.mean(), step)
        found = _read(folder)
    with probe.part("histograms"):
        histograms = _events(found, "histograms", "draws", steps)
        for step, event in histograms.items():
            _same_histogram(event.histogram_value, steps[step].cpu().double(), f"histogram at step {step}")
    with probe.part("scalars"):
        for step, event in _events(found, "scalars", "mean", steps).items():
            close(torch.tensor(event.value), steps[step].mean(), f"mean at step {step}")
    with probe.part("server"):
        _server(steps)


def _server(steps: Dict[int, Any]) -> None:
    """The server loads the plugins that `tensorboard` starts with, and hands out the means that were logged."""
    import json
    import urllib.request

    import torch
    from tensorboard import default, program

    with tempfile.TemporaryDirectory() as folder:
        with _writer(folder) as writer:
            for step, draws in steps.items():
                writer.add_scalar("mean", draws.mean(), step)
        server = program.TensorBoard(default.get_plugins())
        server.configure(argv=["tensorboard", "--logdir", folder, "--port", "0", "--host", "127.0.0.1"])
        place = server.launch().replace("localhost", "127.0.0.1")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        deadline = time.monotonic() + PATIENCE_S
        while True:  # files are read by a thread of the server
            try:
                address = f"{place}data/plugin/scalars/scalars?run=.&tag=mean"
                with opener.open(address, timeout=PATIENCE_S) as reply:
                    found = json.loads(reply.read())
                break
            except urllib.error.HTTPError:
                require(time.monotonic() < deadline, "wrong-shape", "the server shows nothing of what was logged")
                time.sleep(0.2)
    seen = {step: value for _, step, value in found}
    require(list(seen) == list(steps), "wrong-value", f"the server shows steps {list(seen)} for {list(steps)}")
    close(torch.tensor(list(seen.values())), [float(draws.mean()) for draws in steps.values()], "means by the server")


def autograd(probe: Probe) -> None:
    """A variational fit's ELBO, parameter and gradient, logged at each step, can be followed in what is read back."""
    import torch

    probe.count_all()
    data = probe.randn(64) * 0.5 + 2.0
    mean = torch.zeros((), device=probe.device, requires_grad=True)
    optimizer = torch.optim.Adam([mean], lr=0.1)
    torch.manual_seed(probe.seed)
    logged: Dict[str, Dict[int, float]] = {"ELBO": {}, "mean": {}, "gradient": {}}
    with tempfile.TemporaryDirectory() as folder:
        with _writer(folder) as writer:
            for step in range(60):
                optimizer.zero_grad()
                drawn = mean + 0.05 * torch.randn((), device=probe.device)
                loss = 0.5 * ((data - drawn).square().sum() / 0.25 + mean.square())  # to a constant, minus the ELBO
                loss.backward()
                require(mean.grad is not None, "no-gradient", "no gradient reaches the variational mean")
                seen = {"ELBO": -loss, "mean": mean, "gradient": mean.grad}
                for name, value in seen.items():
                    writer.add_scalar(name, value, step)
                    logged[name][step] = float(value.detach())
                optimizer.step()
        found = _read(folder)
    for name, values in logged.items():
        events = _events(found, "scalars", name, values)
        close(torch.tensor([event.value for event in events.values()]), list(values.values()), f"{name} as read back")
    falls([-event.value for event in found.Scalars("ELBO")], "the ELBO as read back, negated", drop=0.5)


def _writer(folder: str) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(folder)


def _read(folder: str) -> Any:
    """All events below a folder: 0 is TensorBoard's word for "do not thin them out"."""
    from tensorboard.backend.event_processing import event_accumulator

    sizes = {event_accumulator.SCALARS: 0, event_accumulator.HISTOGRAMS: 0}
    found = event_accumulator.EventAccumulator(folder, size_guidance=sizes)
    found.Reload()
    return found


def _events(found: Any, kind: str, tag: str, wanted: Any) -> Dict[int, Any]:
    """What was read back under a tag, by step: the steps must be those that were written, in their order."""
    events = getattr(found, kind.capitalize())(tag) if tag in found.Tags()[kind] else []
    steps = [event.step for event in events]
    require(len(steps) == len(wanted), "wrong-shape", f"{tag}: {len(wanted)} {kind} written, {len(steps)} read back")
    require(steps == list(wanted), "wrong-value", f"{tag}: steps {steps} were read back for {list(wanted)}")
    return dict(zip(steps, events))


def _same_histogram(seen: Any, draws: Any, what: str) -> None:
    """Count, range and moments are the draws', and so is the number of draws below each bucket's limit."""
    import torch

    wanted = {
        "num": float(len(draws)),
        "min": float(draws.min()),
        "max": float(draws.max()),
        "sum": float(draws.sum()),
        "sum_squares": float(draws.square().sum()),
    }
    for name, value in wanted.items():
        close(torch.tensor(getattr(seen, name), dtype=torch.float64), value, f"{what}: {name}")
    below = torch.tensor(list(seen.bucket), dtype=torch.float64).cumsum(0)
    limits = torch.tensor(list(seen.bucket_limit), dtype=torch.float64)
    close(below, (draws[None] < limits[:, None]).sum(1).double(), f"{what}: draws below each limit")
