"""DeepSpeed: training with optimizer states (ZeRO 1) and gradients (ZeRO 2) partitioned, here over one process."""

import os
import shutil
import socket
from typing import Any

from ..compiling import compiled
from ..evidence import LeftOut, NotApplicable, close, falls, require, sound
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
    "deepspeed.DeepSpeedEngine.save_checkpoint": "",
    "deepspeed.init_inference": "",
    "deepspeed.zero.Init": "",
    "deepspeed.pipe.PipelineModule": "",
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
    for stage, name in ((1, "ZeRO 1"), (2, "ZeRO 2")):
        with probe.part(name):
            _same_as_adam(probe, stage)
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

    if torch.distributed.is_initialized():
        return
    if not probe.full:  # where the op cannot be built, DeepSpeed does without it too
        deepspeed.ops.__compatible_ops__[SHARED_MEMORY] = False
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    deepspeed.init_distributed(probe.collectives(), auto_mpi_discovery=False)


def _engine(probe: Probe, stage: int) -> Any:
    """DeepSpeed's engine around a new network, with torch's Adam: its own would have to be built first."""
    import deepspeed

    _world_of_one(probe)
    network = _network(probe)
    config = {
        "train_micro_batch_size_per_gpu": 8,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0,  # DeepSpeed 0.19 clips at 1 unless told otherwise
        "optimizer": {"type": "Adam", "params": {"lr": RATE, "torch_adam": True, "adam_w_mode": False}},
        "zero_optimization": {"stage": stage},
        "zero_allow_untested_optimizer": True,
    }
    engine, *_ = deepspeed.initialize(model=network, model_parameters=network.parameters(), config=config)
    return engine, network


def _same_as_adam(probe: Probe, stage: int) -> None:
    import deepspeed
    import torch

    engine, network = _engine(probe, stage)
    plain = _network(probe)
    optimizer = torch.optim.Adam(plain.parameters(), lr=RATE)
    data = probe.randn(8, 16)
    wanted = data[:, :1].sin()
    losses = []
    for step in range(40):
        loss = (engine(data) - wanted).square().mean()
        sound(loss, data, "loss")
        require(loss.requires_grad, "no-gradient", "the engine's output is detached from its module")
        engine.backward(loss)
        reference = (plain(data) - wanted).square().mean()
        close(loss, reference, f"loss at step {step} against plain Adam's", rtol=1e-3, atol=1e-5)
        optimizer.zero_grad()
        reference.backward()
        if step == 0:
            for (name, parameter), expected in zip(network.named_parameters(), plain.parameters()):
                gradient = deepspeed.utils.safe_get_full_grad(parameter)  # ZeRO keeps it in its partitions
                require(gradient is not None, "no-gradient", f"ZeRO {stage}: no gradient reaches {name}")
                sound(gradient, data, f"ZeRO {stage}: gradient of {name}")
                close(gradient, expected.grad, f"ZeRO {stage}: gradient of {name}", code="wrong-gradient")
        engine.step()
        optimizer.step()
        losses.append(float(loss.detach()))
    for (name, parameter), expected in zip(network.named_parameters(), plain.parameters()):
        close(parameter, expected, f"{name} after 40 steps against plain Adam's", rtol=1e-2, atol=1e-3)
    falls(losses, f"ZeRO {stage}", drop=0.5)
    engine.destroy()


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
