"""torch's optimisers, learning-rate schedules, layers with a state, and checkpoints, each step written out."""

import io
import math
from functools import partial
from typing import Any, Callable, Dict, List, Tuple

from ..evidence import close, require, sound
from ..probe import Probe

STEPS = 6


def _sgd(p: Any, g: Any, s: Any, t: int) -> Any:
    """Nesterov's momentum with weight decay."""
    g = g + 0.1 * p
    s["v"] = g if t == 1 else 0.9 * s["v"] + g
    return p - 0.05 * (g + 0.9 * s["v"])


def _damped(p: Any, g: Any, s: Any, t: int) -> Any:
    s["v"] = g if t == 1 else 0.8 * s["v"] + 0.7 * g
    return p - 0.05 * s["v"]


def _adam_moments(g: Any, s: Any, t: int) -> Tuple[Any, Any]:
    s["m"], s["v"] = 0.8 * s.get("m", 0.0) + 0.2 * g, 0.95 * s.get("v", 0.0) + 0.05 * g * g
    return s["m"] / (1 - 0.8**t), s["v"]


def _adam(p: Any, g: Any, s: Any, t: int) -> Any:
    """With weight decay in the gradient, and the largest second moment so far."""
    mean, square = _adam_moments(g + 0.1 * p, s, t)
    s["most"] = square if t == 1 else square.maximum(s["most"])
    return p - 0.05 * mean / ((s["most"] / (1 - 0.95**t)).sqrt() + 1e-3)


def _adamw(p: Any, g: Any, s: Any, t: int) -> Any:
    mean, square = _adam_moments(g, s, t)
    return p * (1 - 0.05 * 0.1) - 0.05 * mean / ((square / (1 - 0.95**t)).sqrt() + 1e-3)


def _rmsprop(p: Any, g: Any, s: Any, t: int) -> Any:
    s["v"] = 0.9 * s.get("v", 0.0) + 0.1 * g * g
    return p - 0.05 * g / (s["v"].sqrt() + 1e-3)


def _adagrad(p: Any, g: Any, s: Any, t: int) -> Any:
    s["v"] = s.get("v", 0.0) + g * g
    return p - 0.05 / (1 + 0.1 * (t - 1)) * g / (s["v"].sqrt() + 1e-3)


ADAM: Dict[str, Any] = {"betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1}
OPTIMISERS: Tuple[Tuple[str, Dict[str, Any], Callable[[Any, Any, Any, int], Any]], ...] = (
    ("SGD", {"momentum": 0.9, "weight_decay": 0.1, "nesterov": True}, _sgd),
    ("SGD", {"momentum": 0.8, "dampening": 0.3}, _damped),
    ("Adam", {**ADAM, "amsgrad": True}, _adam),
    ("AdamW", ADAM, _adamw),
    ("RMSprop", {"alpha": 0.9, "eps": 1e-3}, _rmsprop),
    ("Adagrad", {"lr_decay": 0.1, "eps": 1e-3}, _adagrad),
)
"""(class, options, one step from the parameter, its gradient, a state and the step's number); the rate is 0.05."""


def optimisers(probe: Probe) -> None:
    """Each takes the steps that its formula says, in float32 and float64, also from a state that was saved."""
    import torch

    for dtype in (torch.float32, torch.float64):
        target = probe.randn(5, dtype=dtype).tanh()  # from where a weight is not so far that its steps grow for ever
        for name, options, step in OPTIMISERS:
            weight = torch.nn.Parameter(probe.randn(5, offset=1, dtype=dtype).tanh())
            make: Callable[[], Any] = partial(getattr(torch.optim, name), [weight], lr=0.05, **options)
            state: Dict[str, Any] = {}
            optimiser, exact = make(), weight.detach().clone()
            for number in range(1, STEPS + 1):
                if number == STEPS // 2:
                    saved = optimiser.state_dict()
                    optimiser = make()
                    optimiser.load_state_dict(saved)
                optimiser.zero_grad()
                ((weight - target) ** 4 / 4).sum().backward()
                optimiser.step()
                exact = step(exact, (exact - target) ** 3, state, number)
                sound(weight, target, f"weights under {name}")
                close(weight, exact, f"step {number} of {name} with {options}")


def schedules(probe: Probe) -> None:
    """Learning rates are those of the formulas, step by step; a plateau is one only after its patience."""
    import torch

    known, count = torch.optim.lr_scheduler, 12

    def cosine(high: float, low: float, share: float) -> float:
        return low + (high - low) * (1 + math.cos(math.pi * share)) / 2

    def one_cycle(step: int) -> float:
        return cosine(0.1, 1.0, step / 2) if step <= 2 else cosine(1.0, 1e-3, (step - 2) / 9)

    table: Tuple[Tuple[str, Dict[str, Any], Callable[[int], float]], ...] = (
        ("StepLR", {"step_size": 4, "gamma": 0.5}, lambda step: 0.5 ** (step // 4)),
        ("MultiStepLR", {"milestones": [3, 8], "gamma": 0.5}, lambda step: 0.5 ** ((step >= 3) + (step >= 8))),
        ("ExponentialLR", {"gamma": 0.9}, lambda step: 0.9**step),
        ("LambdaLR", {"lr_lambda": lambda step: 1 / (1 + step)}, lambda step: 1 / (1 + step)),
        ("CosineAnnealingLR", {"T_max": 11, "eta_min": 0.1}, lambda step: cosine(1.0, 0.1, step / 11)),
        (
            "OneCycleLR",
            {"max_lr": 1.0, "total_steps": 12, "pct_start": 0.25, "div_factor": 10, "final_div_factor": 100},
            one_cycle,
        ),
    )
    for name, options, rate in table:
        optimiser = torch.optim.SGD([torch.nn.Parameter(probe.randn(2))], lr=1.0)
        schedule, seen = getattr(known, name)(optimiser, **options), []
        for _ in range(count):
            seen.append(optimiser.param_groups[0]["lr"])
            optimiser.step()
            schedule.step() if len(seen) < count else None
        close(torch.tensor(seen).double(), [rate(step) for step in range(count)], f"rates of {name}", rtol=1e-6)
    optimiser = torch.optim.SGD([torch.nn.Parameter(probe.randn(2))], lr=1.0)
    schedule, seen = known.ReduceLROnPlateau(optimiser, factor=0.5, patience=1, threshold=0.1), []
    for loss in (1.0, 0.8, 0.79, 0.78, 0.77, 0.3, 0.3, 0.3):
        schedule.step(loss)
        seen.append(optimiser.param_groups[0]["lr"])
    close(torch.tensor(seen), [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.25], "rates of ReduceLROnPlateau")


def batch_norm(probe: Probe) -> None:
    """Batches are normalised by their own statistics, later ones by the running ones, of either kind of mean."""
    import torch

    batches = [probe.randn(4, 3, 5, 5, offset=n) * (n + 1) + n for n in range(3)]
    for momentum in (0.3, None):
        layer = torch.nn.BatchNorm2d(3, momentum=momentum).to(probe.device)
        with torch.no_grad():
            layer.weight.copy_(probe.randn(3))
            layer.bias.copy_(probe.randn(3, offset=1))
        mean, spread = torch.zeros(3).to(probe.device), torch.ones(3).to(probe.device)

        def written_out(x: Any, mean: Any, spread: Any, layer: Any = layer) -> Any:
            mean, spread, scale, shift = (one[:, None, None] for one in (mean, spread, layer.weight, layer.bias))
            return (x - mean) / (spread + layer.eps).sqrt() * scale + shift

        for number, batch in enumerate(batches):
            seen, flat = layer(batch), batch.transpose(0, 1).flatten(1)
            close(seen, written_out(batch, flat.mean(1), flat.var(1, unbiased=False)), f"BatchNorm2d of batch {number}")
            share = momentum or 1 / (number + 1)
            mean, spread = (1 - share) * mean + share * flat.mean(1), (1 - share) * spread + share * flat.var(1)
            close(layer.running_mean, mean, "running mean")
            close(layer.running_var, spread, "running variance")
        close(layer.eval()(batches[0]), written_out(batches[0], mean, spread), "BatchNorm2d after training")


def recurrent(probe: Probe) -> None:
    """Two layers of an LSTM are its gates written out; an embedding looks up rows, whose padding gets no gradient."""
    import torch

    for dtype in (torch.float32, torch.float64):
        torch.manual_seed(probe.seed)
        network = torch.nn.LSTM(3, 4, num_layers=2, batch_first=True).to(probe.device, dtype)
        x = probe.randn(2, 5, 3, dtype=dtype)
        seen, (hidden, cells) = network(x)
        sound(seen, x, "output of the LSTM")
        flow = x
        for layer in range(2):
            inner, out, bias, more = (getattr(network, f"{name}_l{layer}") for name in _GATES)
            h = c = torch.zeros(2, 4).to(x)
            states: List[Any] = []
            for t in range(5):
                i, f, g, o = (flow[:, t] @ inner.T + bias + h @ out.T + more).chunk(4, 1)
                c = f.sigmoid() * c + i.sigmoid() * g.tanh()
                h = o.sigmoid() * c.tanh()
                states.append(h)
            flow = torch.stack(states, 1)
            close(hidden[layer], h, f"last state of layer {layer}")
            close(cells[layer], c, f"last cell of layer {layer}")
        close(seen, flow, "output of the LSTM")
    table = torch.nn.Embedding(6, 3, padding_idx=2).to(probe.device)
    index = torch.tensor([[1, 2], [2, 5]], device=probe.device)
    rows = table(index)
    close(rows, table.weight[index], "rows of an embedding")
    rows.sum().backward()
    close(table.weight.grad.sum(1), [0.0, 3.0, 0.0, 0.0, 0.0, 3.0], "gradient of an embedding", code="wrong-gradient")


_GATES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def checkpoints(probe: Probe) -> None:
    """Recomputed activations give the same gradients, with the same dropout; saved weights come back bit by bit."""
    import torch
    from torch.utils.checkpoint import checkpoint

    torch.manual_seed(probe.seed)
    layers = (torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    network, x = torch.nn.Sequential(*layers).to(probe.device), probe.randn(6, 4)

    def gradients(call: Callable[[Any], Any]) -> Any:
        torch.manual_seed(probe.seed)
        inputs = x.clone().requires_grad_()
        return torch.autograd.grad(call(inputs).square().sum(), [inputs, *network.parameters()])

    ran = []
    network[0].register_forward_hook(lambda *_: ran.append(1))
    plain = gradients(network)
    for reentrant in (True, False):
        before = len(ran)
        if reentrant:  # takes backward() alone

            def call(inputs: Any) -> Any:
                return checkpoint(network, inputs, use_reentrant=True)

            torch.manual_seed(probe.seed)
            inputs = x.clone().requires_grad_()
            network.zero_grad()
            call(inputs).square().sum().backward()
            seen = [inputs.grad, *(parameter.grad for parameter in network.parameters())]
        else:
            seen = gradients(lambda inputs: checkpoint(network, inputs, use_reentrant=False))
        require(len(ran) == before + 2, "wrong-value", "a checkpoint does not compute its activations again")
        for number, (left, right) in enumerate(zip(seen, plain)):
            close(left, right, f"gradient {number} through a checkpoint", code="wrong-gradient")
    file = io.BytesIO()
    torch.save({"weights": network.state_dict(), "step": 3}, file)
    file.seek(0)
    loaded = torch.load(file)
    require(loaded["step"] == 3, "wrong-value", f"a saved 3 came back as {loaded['step']}")
    for name, weight in network.state_dict().items():
        close(loaded["weights"][name], weight, f"saved {name}", rtol=0.0, atol=0.0)
