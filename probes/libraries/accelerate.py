"""accelerate: one training loop for any device and any number of processes."""

import tempfile
from typing import Any, Dict

from .. import ranks
from ..compiling import compiled
from ..evidence import close, of_dtype, on_device, reached, require, seeded, sound
from ..probe import Probe
from ._small import batches, loss_of, network, optimiser, same_weights, trained

DISTRIBUTION = "accelerate"
MODULE = "accelerate"
NEEDS = ("torch",)
COVERS = {
    "accelerate.Accelerator": "autograd/steps",
    "accelerate.Accelerator.prepare": "autograd/steps",
    "accelerate.Accelerator.accumulate": "autograd/steps",
    "accelerate.Accelerator.backward": "autograd/steps",
    "accelerate.Accelerator.clip_grad_norm_": "autograd/steps",
    "accelerate.Accelerator.autocast": "autograd/bfloat16",
    "accelerate.Accelerator.save_state": "autograd/checkpoints",
    "accelerate.Accelerator.load_state": "autograd/checkpoints",
    "accelerate.Accelerator.gather": "sample/two ranks",
    "accelerate.Accelerator.gather_for_metrics": "sample/two ranks",
    "accelerate.Accelerator.reduce": "sample/two ranks",
    "accelerate.Accelerator.pad_across_processes": "sample/two ranks",
    "accelerate.Accelerator.split_between_processes": "sample/two ranks",
    "accelerate.Accelerator.unwrap_model": "autograd/steps",
    "accelerate.utils.set_seed": "sample/seeds",
    "accelerate.skip_first_batches": "sample/data",
    "accelerate.init_empty_weights": "sample/weights elsewhere",
    "accelerate.cpu_offload": "sample/weights elsewhere",
    "accelerate.infer_auto_device_map": "",
    "accelerate.load_checkpoint_and_dispatch": "",
    "accelerate.notebook_launcher": "",
}

ITEMS, SIZE = 11, 4
CLIP = 0.65  # some steps are clipped, others are not


def sample(probe: Probe) -> None:
    """Data arrives once, on the device and in the order of the seed; two ranks share it, and what they made of it."""
    import accelerate
    import torch

    with probe.part("two ranks"):  # before this process is alone by its own word
        _together(probe)
    probe.count_all()
    with probe.part("seeds"):
        seeded(lambda: torch.randn(8, device=probe.device), "set_seed", accelerate.utils.set_seed)
    with probe.part("data"):
        alone = accelerate.Accelerator()
        on_device(torch.empty(0, device=alone.device), probe.device, "the accelerator")
        accelerate.utils.set_seed(probe.seed)
        loader = alone.prepare(torch.utils.data.DataLoader(torch.arange(ITEMS), batch_size=SIZE, shuffle=True))
        seen, again = [torch.cat(list(loader)) for _ in range(2)]
        on_device(seen, probe.device, "batches")
        close(seen.sort().values, torch.arange(ITEMS), "the items of an epoch")
        require(not torch.equal(seen, again), "repeated-draw", "two epochs have the same order")
        plain = alone.prepare(torch.utils.data.DataLoader(torch.arange(ITEMS), batch_size=SIZE))
        close(
            torch.cat(list(accelerate.skip_first_batches(plain, 2))), torch.arange(8, ITEMS), "what two batches leave"
        )
    with probe.part("weights elsewhere"):
        with accelerate.init_empty_weights():
            empty = torch.nn.Linear(1000, 1000)
        require(empty.weight.is_meta, "wrong-device", f"empty weights are on {empty.weight.device}")
        model, x = network(probe), probe.randn(3, 6)
        expected = model(x)
        seen = accelerate.cpu_offload(model, execution_device=probe.device)(x)
        sound(seen, x, "output of an offloaded network")
        close(seen, expected, "output of an offloaded network")
        require(model[0].weight.is_meta, "wrong-device", f"offloaded weights are on {model[0].weight.device}")


def autograd(probe: Probe) -> None:
    """Accumulated, clipped and scheduled steps are those written out, also from a state that was saved."""
    import accelerate
    import torch

    probe.count_all()
    data, rates = batches(probe, 6), (0.2, 0.2, 0.02)
    expected = trained(probe, [data[:2], data[2:4], data[4:]], rates, CLIP)

    def run(part: slice, load: str = "", save: str = "") -> Any:
        accelerator = accelerate.Accelerator(gradient_accumulation_steps=2)
        sgd = optimiser(model := network(probe), rates[0])
        schedule = torch.optim.lr_scheduler.StepLR(sgd, step_size=2, gamma=0.1)
        model, sgd, schedule = accelerator.prepare(model, sgd, schedule)
        accelerator.load_state(load) if load else None
        for batch in data[part]:
            with accelerator.accumulate(model):
                loss = loss_of(model, batch)
                sound(loss, data[0][0], "loss")
                require(loss.requires_grad, "no-gradient", "the output of a prepared network is detached")
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), CLIP)
                    reached(dict(model.named_parameters()), "prepared network")
                sgd.step()
                schedule.step()
                sgd.zero_grad()
        accelerator.save_state(save) if save else None
        return accelerator.unwrap_model(model)

    with probe.part("steps"):
        same_weights(run(slice(6)), expected, "three steps")
    with probe.part("checkpoints"), tempfile.TemporaryDirectory() as folder:
        run(slice(2), save=folder)
        same_weights(run(slice(2, 6), load=folder), expected, "one step, a checkpoint and two more")
    with probe.part("bfloat16"):
        accelerator, model = accelerate.Accelerator(), network(probe)
        with torch.autocast(probe.device.type, torch.bfloat16):
            wanted = loss_of(model, data[0])
        accelerate.state.AcceleratorState._reset_state()
        accelerator = accelerate.Accelerator(mixed_precision="bf16")
        with accelerator.autocast():
            of_dtype(model(data[0][0]), torch.bfloat16, "output under autocast")
        prepared = accelerator.prepare(model)
        of_dtype(prepared(data[0][0]), torch.float32, "output of a network prepared for bfloat16")
        close(loss_of(prepared, data[0]), wanted, "loss in bfloat16", 1e-2)


def compile(probe: Probe) -> None:
    """A network that was prepared with a compiler is as the eager one, over two batch sizes."""
    import accelerate

    probe.count_all()
    model = accelerate.Accelerator().prepare(network(probe))
    inputs = [(probe.randn(size, 6),) for size in (3, 8)]
    compiled(probe, model, inputs, "prepared network", dict(model.named_parameters()))


def _in_a_rank(probe: Probe, rank: int, count: int) -> Dict[str, Any]:
    """What one of two ranks sees, on the CPU."""
    import accelerate
    import torch

    accelerator, own = accelerate.Accelerator(cpu=True), probe.randn(3, offset=rank)
    require(accelerator.num_processes == count, "wrong-value", f"{count} ranks count {accelerator.num_processes}")
    loader = accelerator.prepare(torch.utils.data.DataLoader(torch.arange(ITEMS), batch_size=2))
    with accelerator.split_between_processes(list(range(ITEMS))) as mine:
        found = {"share": torch.tensor(mine)}
    found["items"] = torch.cat([accelerator.gather_for_metrics(batch) for batch in loader])
    found["gathered"] = accelerator.gather(own)
    found["mean"] = accelerator.reduce(own, reduction="mean")
    found["padded"] = accelerator.pad_across_processes(own[: rank + 1], pad_index=-5)
    model = accelerator.prepare(network(probe))
    accelerator.backward(loss_of(model, batches(probe, count)[rank]))
    found.update(
        {f"gradient of {name}": weight.grad for name, weight in accelerator.unwrap_model(model).named_parameters()}
    )
    return found


def _together(probe: Probe) -> None:
    """Two ranks by gloo gather, reduce, pad and split; their gradients are the mean of both batches'."""
    import torch

    seen, own = (
        ranks.run(probe, _in_a_rank, "gloo"),
        torch.stack([probe.randn(3, offset=rank).cpu() for rank in (0, 1)]),
    )
    model = network(probe).double()
    (sum(loss_of(model, (x.double(), y.double())) for x, y in batches(probe, 2)) / 2).backward()
    wanted = {"items": torch.arange(ITEMS), "gathered": own.flatten(), "mean": own.mean(0)}
    wanted.update({f"gradient of {name}": weight.grad for name, weight in model.named_parameters()})
    for rank, found in enumerate(seen):
        for name, expected in wanted.items():
            code = "wrong-gradient" if name.startswith("gradient") else "wrong-value"
            close(found[name], expected, f"{name} in rank {rank} of two", code=code)
        padded = torch.nn.functional.pad(own[rank][: rank + 1], (0, 1 - rank), value=-5.0)
        close(found["padded"], padded, f"what rank {rank} of two padded")
    close(torch.cat([found["share"] for found in seen]), torch.arange(ITEMS), "the shares of two ranks")
