"""torch in two ranks: collectives, replicas that share their gradients, and a data set dealt out to them."""

from typing import Any, Dict

from .. import ranks
from ..evidence import NotApplicable, close, of_dtype, require
from ..probe import Probe

NEEDS = ("torch",)

RATE, BATCH = 0.1, 8


def by_gloo(probe: Probe) -> None:
    """Two processes on the CPU."""
    _both(probe, "gloo")


def by_nccl(probe: Probe) -> None:
    """Two processes with a GPU each."""
    if probe.device.type != "cuda":
        raise NotApplicable("needs two GPUs")
    _both(probe, "nccl")


def network(probe: Probe, seed: int) -> Any:
    """A small network with two kinds of layers that train."""
    import torch

    torch.manual_seed(seed)
    layers = (torch.nn.Linear(6, 16), torch.nn.LayerNorm(16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    return torch.nn.Sequential(*layers).to(probe.device)


def data(probe: Probe, step: int) -> Any:
    """The whole batch of a step, which the ranks share."""
    x = probe.randn(BATCH, 6, offset=step)
    return x, x[:, :1].sin()


def in_a_rank(probe: Probe, rank: int, count: int) -> Dict[str, Any]:
    """What one of the ranks sees."""
    import torch
    import torch.distributed as dist
    from torch.utils.data import DistributedSampler

    own = probe.randn(5, offset=rank)
    total, most, first, last = own.clone(), own.clone(), own.clone(), own.clone()
    dist.all_reduce(total)
    dist.all_reduce(most, op=dist.ReduceOp.MAX)
    dist.broadcast(first, src=count - 1)
    dist.reduce(last, dst=0)
    everyone = [torch.empty_like(own) for _ in range(count)]
    dist.all_gather(everyone, own)
    found = {"sum": total, "maximum": most, "broadcast": first, "reduced": last, "gathered": torch.stack(everyone)}
    sampler = DistributedSampler(range(11), shuffle=True, seed=probe.seed)
    sampler.set_epoch(3)
    found["items"] = torch.tensor(list(sampler))
    replica = network(probe, probe.seed + rank)  # each begins elsewhere: the first one's weights are taken
    wrapped = torch.nn.parallel.DistributedDataParallel(replica, device_ids=[rank] if own.is_cuda else None)
    optimiser = torch.optim.SGD(replica.parameters(), lr=RATE)

    def backward(step: int) -> None:
        x, wanted = (part[rank::count] for part in data(probe, step))
        (wrapped(x) - wanted).square().mean().backward()

    for step in range(3):
        optimiser.zero_grad()
        if step == 1:  # two batches for one step, of which the first is not shared by itself
            with wrapped.no_sync():
                backward(5)
            found.update({f"kept {name}": p.grad.clone() for name, p in replica.named_parameters()})
        backward(step)
        found.update({f"gradient {step} {name}": p.grad.clone() for name, p in replica.named_parameters()})
        optimiser.step()
    found.update({f"weights {name}": p for name, p in replica.named_parameters()})
    return found


def _both(probe: Probe, backend: str) -> None:
    """Ranks agree on collectives; their gradients are the mean over the ranks, that is, the whole batch's."""
    import torch

    seen = ranks.run(probe, in_a_rank, backend)
    own = torch.stack([probe.randn(5, offset=rank).cpu() for rank in range(2)])
    wanted = {"sum": own.sum(0), "maximum": own.max(0).values, "broadcast": own[1], "gathered": own}
    for rank, found in enumerate(seen):
        for name, expected in wanted.items():
            of_dtype(found[name], torch.float32, f"{name} by {backend}")
            close(found[name], expected, f"{name} by {backend} in rank {rank}")
    close(seen[0]["reduced"], own.sum(0), f"sum by {backend} in the rank that asked for it")
    items = torch.cat([found["items"] for found in seen])
    require(len(items) == 12, "wrong-value", f"11 items for two ranks came as {len(items)}")
    require(set(items.tolist()) == set(range(11)), "wrong-value", f"the ranks did not get every item: {items.tolist()}")
    alone = network(probe, probe.seed).double()

    def gradients(*batches: Any) -> Dict[str, Any]:
        alone.zero_grad()
        for x, wish in batches:
            (alone(x.double()) - wish.double()).square().mean().backward()
        return {name: parameter.grad.clone() for name, parameter in alone.named_parameters()}

    for step in range(3):
        if step == 1:
            for rank, found in enumerate(seen):
                for name, expected in gradients([part[rank::2] for part in data(probe, 5)]).items():
                    close(found[f"kept {name}"], expected, f"rank {rank}'s own {name}", code="wrong-gradient")
        shared = gradients(*([data(probe, 5)] if step == 1 else []), data(probe, step))
        for name, parameter in alone.named_parameters():
            for rank, found in enumerate(seen):
                what = f"gradient of {name} in step {step}, rank {rank}"
                close(found[f"gradient {step} {name}"], shared[name], f"{backend}: {what}", code="wrong-gradient")
            with torch.no_grad():
                parameter -= RATE * shared[name]
    for name, parameter in alone.named_parameters():
        for rank, found in enumerate(seen):
            close(found[f"weights {name}"], parameter, f"{backend}: {name} after three steps, rank {rank}")
