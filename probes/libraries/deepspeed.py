"""DeepSpeed: training with optimizer states (ZeRO 1) and gradients (ZeRO 2) partitioned, here over one process."""

import os
import socket
from typing import Any

from ..evidence import Probe, close, compiled, falls, on_device, reached, require

DISTRIBUTION = "deepspeed"
MODULE = "deepspeed"
NEEDS = ("torch",)
NOT_APPLICABLE = {"sample": "DeepSpeed trains; it draws nothing"}

RATE = 0.01


def autograd(probe: Probe) -> None:
    """A step under ZeRO 1 and 2 is plain Adam's step, gradients reach every parameter, and training trains."""
    for stage in (1, 2):
        with probe.part(f"ZeRO {stage}"):
            _same_as_adam(probe, stage)
    with probe.part("ops"):
        _op_report(probe)


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


def _engine(probe: Probe, stage: int) -> Any:
    """One process as a world of its own; torch's Adam, since DeepSpeed's own would have to be built first."""
    import deepspeed
    import torch

    if not torch.distributed.is_initialized():
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        world = {
            "RANK": "0",
            "LOCAL_RANK": "0",
            "WORLD_SIZE": "1",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        os.environ.update(world)
        deepspeed.init_distributed("nccl" if probe.device.type == "cuda" else "gloo", auto_mpi_discovery=False)
    network = _network(probe)
    config = {
        "train_micro_batch_size_per_gpu": 8,
        "gradient_accumulation_steps": 1,
        "optimizer": {"type": "Adam", "params": {"lr": RATE, "torch_adam": True, "adam_w_mode": False}},
        "zero_optimization": {"stage": stage},
        "zero_allow_untested_optimizer": True,
    }
    engine, *_ = deepspeed.initialize(model=network, model_parameters=network.parameters(), config=config)
    return engine, network


def _same_as_adam(probe: Probe, stage: int) -> None:
    import torch

    engine, network = _engine(probe, stage)
    plain = _network(probe)
    optimizer = torch.optim.Adam(plain.parameters(), lr=RATE)
    data = probe.randn(8, 16)
    wanted = data[:, :1].sin()
    losses = []
    for _ in range(40):
        loss = (engine(data) - wanted).square().mean()
        on_device(loss, probe.device, "loss")
        engine.backward(loss)
        engine.step()
        losses.append(float(loss))
        optimizer.zero_grad()
        reference = (plain(data) - wanted).square().mean()
        reference.backward()
        optimizer.step()
        close(loss, reference, f"loss at step {len(losses)} against plain Adam's", rtol=1e-3, atol=1e-5)
    reached(dict(plain.named_parameters()), "plain Adam")
    for (name, seen), expected in zip(network.named_parameters(), plain.parameters()):
        close(seen, expected, f"{name} after 40 steps against plain Adam's", rtol=1e-2, atol=1e-3)
    falls(losses, f"ZeRO {stage}", drop=0.5)
    engine.destroy()


def _op_report(probe: Probe) -> None:
    """Which of its compiled ops could be built here, as its own report says; with `--full` one is built and used."""
    import torch
    from deepspeed.ops.op_builder import CPUAdamBuilder

    found = CPUAdamBuilder().is_compatible(verbose=False)
    probe.note(f"cpu_adam {'can' if found else 'cannot'} be built here")
    if found and probe.full:
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        weight = torch.nn.Parameter(torch.ones(8))
        optimizer = DeepSpeedCPUAdam([weight], lr=RATE)
        weight.square().sum().backward()
        optimizer.step()
        require(
            bool((weight < 1).all()), "does-not-train", "DeepSpeedCPUAdam, built just in time, did not step downhill"
        )
