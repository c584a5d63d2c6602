"""DeepSpeed: training with optimizer states (ZeRO 1) and gradients (ZeRO 2) partitioned, here over one process."""

import os
import shutil
import socket
import tempfile
from typing import Any, Dict, Sequence

from .. import ranks
from ..compiling import compiled
from ..evidence import LeftOut, NotApplicable, close, require, sound
from ..probe import Probe

DISTRIBUTION = "deepspeed"
MODULE = "deepspeed"
NEEDS = ("torch",)
NOT_APPLICABLE = {"sample": "DeepSpeed trains; it draws nothing"}
COVERS = {
    "deepspeed.initialize": "autograd/ZeRO 1",
    "deepspeed.init_distributed": "autograd/ZeRO 1",
    "deepspeed.DeepSpeedEngine": "autograd/ZeRO 1",
    "deepspeed.ops.adam.DeepSpeedCPUAdam": "autograd/cpu_adam built just in time",
    "deepspeed.utils.safe_get_full_grad": "autograd/ZeRO 2",
    "deepspeed.checkpointing.checkpoint": "autograd/activation checkpointing",
    "deepspeed.DeepSpeedEngine.save_checkpoint": "autograd/checkpoints",
    "deepspeed.DeepSpeedEngine.load_checkpoint": "autograd/checkpoints",
    "deepspeed.init_inference": "autograd/inference",
    "deepspeed.zero.Init": "",
    "deepspeed.pipe.PipelineModule": "autograd/pipeline",
}

RATE = 0.01
SHARED_MEMORY = "deepspeed_shm_comm"
"""The op that its CPU backend builds in C++ at the first start (15 to 54 s), to reduce among processes of one host."""


def autograd(probe: Probe) -> None:
    """Gradients and steps under ZeRO 1 and 2 are plain Adam's; with `--full` an op is built just in time, and used."""
    import deepspeed

    for can, verb in ((True, "can"), (False, "cannot")):
        names = sorted(name for name, found in deepspeed.ops.__compatible_ops__.items() if bool(found) is can)
        probe.note(f"DeepSpeed's own report: {verb} be built here: {', '.join(names) or 'none'}")
    with probe.part("two ranks"):  # before this process has a group of its own
        _same_as_adam(probe, ranks.run(probe, _in_a_rank, probe.collectives()), (1, 2))
    for stage, name in ((1, "ZeRO 1"), (2, "ZeRO 2")):
        with probe.part(name):
            _same_as_adam(probe, [_in_a_rank(probe, 0, 1, (stage,))], (stage,))
    with probe.part("pipeline"):
        _pipeline(probe)
    with probe.part("checkpoints"):
        _checkpoints(probe)
    with probe.part("inference"):
        _inference(probe)
    with probe.part("activation checkpointing"):
        _checkpointed(probe)
    with probe.part("cpu_adam built just in time"):
        _built_just_in_time(probe)


def compile(probe: Probe) -> None:
    """The engine's module, compiled and eager, over two batch sizes."""
    engine, network = _engine(probe, 0)
    compiled(probe, network, [(probe.randn(4, 16),), (probe.randn(9, 16),)], "module", dict(network.named_parameters()))
    engine.destroy()


def _network(probe: Probe) -> Any:
    import torch

    torch.manual_seed(probe.seed)
    layers = (torch.nn.Linear(16, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))
    return torch.nn.Sequential(*layers).to(probe.device)


def _world_of_one(probe: Probe) -> None:
    """A process group of this process alone, by NCCL on a GPU and gloo elsewhere."""
    import deepspeed
    import torch

    if not probe.full:  # where the op cannot be built, DeepSpeed does without it too
        deepspeed.ops.__compatible_ops__[SHARED_MEMORY] = False
    if torch.distributed.is_initialized():
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    deepspeed.init_distributed(probe.collectives(), auto_mpi_discovery=False)


def _engine(probe: Probe, stage: int, batch: int = 8, network: Any = None, batches: int = 1) -> Any:
    """DeepSpeed's engine around a network, with torch's Adam: its own would have to be built first."""
    import deepspeed

    _world_of_one(probe)
    config = {
        "train_micro_batch_size_per_gpu": batch,
        "gradient_accumulation_steps": batches,
        "gradient_clipping": 0.0,  # DeepSpeed 0.19 clips at 1 unless told otherwise
        "optimizer": {"type": "Adam", "params": {"lr": RATE, "torch_adam": True, "adam_w_mode": False}},
        "zero_optimization": {"stage": stage},
        "zero_allow_untested_optimizer": True,
    }
    network = _network(probe) if network is None else network
    engine, *_ = deepspeed.initialize(model=network, model_parameters=list(network.parameters()), config=config)
    return engine, network


def _loss(network: Any, data: Any) -> Any:
    """The loss of a network or an engine that learns the sine of the first column."""
    loss = (network(data) - data[:, :1].sin()).square().mean()
    sound(loss, data, "loss")
    require(loss.requires_grad, "no-gradient", "the engine's output is detached from its module")
    return loss


def _in_a_rank(probe: Probe, rank: int, count: int, stages: Sequence[int] = (1, 2)) -> Dict[str, Any]:
    """The losses, first gradients, and weights after three steps of a rank that has its share of each batch."""
    import deepspeed

    found: Dict[str, Any] = {}
    for stage in stages:
        engine, network = _engine(probe, stage, 8 // count)
        for step in range(3):
            loss = _loss(engine, probe.randn(8, 16, offset=step)[rank::count])
            found[f"ZeRO {stage}: loss {step}"] = loss.detach()
            engine.backward(loss)
            for name, weight in network.named_parameters() if step == 0 else ():
                gradient = deepspeed.utils.safe_get_full_grad(weight)  # ZeRO keeps it in its partitions
                require(gradient is not None, "no-gradient", f"ZeRO {stage}: no gradient reaches {name}")
                sound(gradient, loss, f"ZeRO {stage}: gradient of {name}")
                found[f"ZeRO {stage}: gradient of {name}"] = gradient
            engine.step()
        found.update({f"ZeRO {stage}: {name}": weight for name, weight in network.named_parameters()})
        engine.destroy()
    return found


def _adam(probe: Probe, steps: int = 3) -> Dict[str, Any]:
    """What `_in_a_rank` finds, of a network in one piece and torch's own Adam."""
    import torch

    alone = _network(probe)
    optimizer, wanted = torch.optim.Adam(alone.parameters(), lr=RATE), {}
    for step in range(steps):
        optimizer.zero_grad()
        loss = _loss(alone, probe.randn(8, 16, offset=step))
        loss.backward()
        wanted[f"loss {step}"] = loss.detach()
        if step == 0:
            wanted.update({f"gradient of {name}": weight.grad.clone() for name, weight in alone.named_parameters()})
        optimizer.step()
    return {**wanted, **{name: weight.detach() for name, weight in alone.named_parameters()}}


def _same_as_adam(probe: Probe, seen: Sequence[Dict[str, Any]], stages: Sequence[int]) -> None:
    """Ranks with a share of each batch take the steps of one process with the whole."""
    import torch

    for name, expected in _adam(probe).items():
        code = "wrong-gradient" if name.startswith("gradient") else "wrong-value"
        for what in (f"ZeRO {stage}: {name}" for stage in stages):
            found = torch.stack([results[what] for results in seen])
            found = found.mean(0) if name.startswith("loss") else found  # each rank has the loss of its own share
            close(found, expected.cpu().expand(found.shape), f"{what} in {len(seen)} ranks", 1e-3, 1e-4, code)


def _pipeline(probe: Probe) -> None:
    """Two halves of a batch a step, through layers that a pipeline builds, are plain Adam's step on the whole."""
    import deepspeed
    import torch

    _world_of_one(probe)
    torch.manual_seed(probe.seed)
    kinds = ((torch.nn.Linear, 16, 32), (torch.nn.Tanh,), (torch.nn.Linear, 32, 1))
    layers = [deepspeed.pipe.LayerSpec(*kind) for kind in kinds]
    error = torch.nn.functional.mse_loss
    network = deepspeed.pipe.PipelineModule(layers, num_stages=1, loss_fn=error, partition_method="uniform")
    engine, _ = _engine(probe, 0, 4, network, batches=2)
    halves = [half for step in range(3) for half in probe.randn(8, 16, offset=step).chunk(2)]
    batches, wanted = iter([(half, half[:, :1].sin()) for half in halves]), _adam(probe)
    for step in range(3):
        close(engine.train_batch(batches).squeeze(), wanted[f"loss {step}"], f"loss {step} of a pipeline", 1e-3, 1e-4)
    for weight, expected in zip(network.parameters(), list(wanted.values())[-4:]):
        close(weight, expected, "a weight after three steps of a pipeline", 1e-3, 1e-4)


def _checkpoints(probe: Probe) -> None:
    """An engine that loads what another saved after two steps goes on as if it had taken them itself.

    Old DeepSpeed pickles classes of its own, which torch 2.6 and newer do not load unless they are told to.
    """
    switch, refused = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", ""
    with tempfile.TemporaryDirectory() as folder:
        for steps in (range(2), range(2, 3)):
            engine, network = _engine(probe, 1)
            if steps.start:
                try:
                    _, state = engine.load_checkpoint(folder, tag="two")
                except Exception as error:
                    if "weights_only" not in str(error):
                        raise
                    refused = f"torch's weights_only refuses load_checkpoint, which works with {switch}=1: {error}"
                    os.environ[switch] = "1"
                    _, state = engine.load_checkpoint(folder, tag="two")
                    del os.environ[switch]
                require(state.get("epoch") == 7, "wrong-value", f"a loaded checkpoint's own state is {state}")
            for step in steps:
                engine.backward(_loss(engine, probe.randn(8, 16, offset=step)))
                engine.step()
            engine.save_checkpoint(folder, tag="two", client_state={"epoch": 7})
            engine.destroy()
    wanted = _adam(probe)
    for name, weight in network.named_parameters():
        close(weight, wanted[name], f"{name} after a step on a loaded checkpoint", 1e-3, 1e-4)
    if refused:
        raise LeftOut(refused[:300])


def _inference(probe: Probe) -> None:
    """The engine that only infers gives the network's output, in the dtype that it is told."""
    import deepspeed
    import torch

    _world_of_one(probe)
    for dtype in (torch.float32, torch.bfloat16):
        data = probe.randn(4, 16, dtype=dtype)
        expected = _network(probe).double()(data.double())
        engine = deepspeed.init_inference(_network(probe), dtype=dtype, replace_with_kernel_inject=False)
        with torch.no_grad():
            seen = engine(data)
        sound(seen, data, "output of the inference engine")
        close(seen, expected, "output of the inference engine")


def _checkpointed(probe: Probe) -> None:
    """Activations are computed again, and gradients are the same, also through dropout with its draws."""
    import deepspeed
    import torch

    if getattr(deepspeed.accelerator.get_accelerator(), "Stream", None) is None:
        raise NotApplicable("DeepSpeed's activation checkpointing needs a device with streams")
    _world_of_one(probe)
    deepspeed.checkpointing.configure(None, partition_activations=False, checkpoint_in_cpu=False, profile=False)
    torch.manual_seed(probe.seed)
    layers = (torch.nn.Linear(16, 32), torch.nn.Dropout(0.5), torch.nn.Tanh(), torch.nn.Linear(32, 1))
    network, ran = torch.nn.Sequential(*layers).to(probe.device), []
    network[0].register_forward_hook(lambda *_: ran.append(1))
    seen = []
    for call in (network, lambda x: deepspeed.checkpointing.checkpoint(network, x)):
        data = probe.randn(8, 16).requires_grad_()
        torch.manual_seed(probe.seed)
        network.zero_grad()
        call(data).square().sum().backward()
        seen.append([data.grad, *(parameter.grad for parameter in network.parameters())])
    require(len(ran) == 3, "wrong-value", f"with a checkpoint the layers ran {len(ran) - 1} times in place of twice")
    for number, (expected, gradient) in enumerate(zip(*seen)):
        require(gradient is not None, "no-gradient", f"no gradient reaches input {number} through a checkpoint")
        close(gradient, expected, f"gradient {number} through a checkpoint", code="wrong-gradient")


def _cuda_home() -> str:
    """Where torch and DeepSpeed look for nvcc."""
    from torch.utils.cpp_extension import CUDA_HOME

    return CUDA_HOME or ""


def _built_just_in_time(probe: Probe) -> None:
    """DeepSpeed's own Adam for the CPU takes torch's steps."""
    import torch

    if not probe.full:
        raise NotApplicable("a C++ build of up to a minute: asked for by --full alone")
    if not shutil.which(os.environ.get("CXX", "c++")):
        raise LeftOut("no C++ compiler here")
    if torch.cuda.is_available() and not shutil.which("nvcc", path=os.path.join(_cuda_home(), "bin")):
        raise LeftOut("where torch sees a GPU, DeepSpeed builds its ops for the CPU with nvcc too, which is not here")
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    start = probe.randn(8).cpu()
    own, plain = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    pairs = (own, DeepSpeedCPUAdam([own], lr=RATE, adamw_mode=False)), (plain, torch.optim.Adam([plain], lr=RATE))
    for _ in range(10):
        for weight, optimizer in pairs:
            optimizer.zero_grad()
            weight.square().sum().backward()
            optimizer.step()
    close(own, plain, "weights after 10 steps of DeepSpeedCPUAdam", rtol=1e-4, atol=1e-5)
    require(not torch.equal(own.detach(), start), "does-not-train", "DeepSpeedCPUAdam moved nothing")
