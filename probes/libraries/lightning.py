"""lightning: the Trainer around a training loop."""

import logging
import os
import tempfile
import warnings
from typing import Any, Dict, List

from .. import ranks
from ..compiling import compiled
from ..evidence import close, reached, require, seeded, sound
from ..probe import Probe
from ._small import batches, loss_of, network, optimiser, same_weights, trained

DISTRIBUTION = "lightning"
MODULE = "lightning"
IMPORTS = ("lightning.pytorch",)
NEEDS = ("torch",)
COVERS = {
    "lightning.LightningModule": "autograd/steps",
    "lightning.Trainer": "autograd/steps",
    "lightning.Trainer.fit": "autograd/steps",
    "lightning.Trainer.validate": "sample/logged means",
    "lightning.Trainer.predict": "sample/predictions",
    "lightning.LightningModule.log": "sample/logged means",
    "lightning.LightningModule.configure_optimizers": "autograd/steps",
    "lightning.LightningModule.load_from_checkpoint": "autograd/checkpoints",
    "lightning.LightningModule.automatic_optimization": "autograd/own loop",
    "lightning.LightningModule.manual_backward": "autograd/own loop",
    "lightning.seed_everything": "sample/seeds",
    "lightning.pytorch.callbacks.EarlyStopping": "autograd/early stop",
    "lightning.pytorch.strategies.DDPStrategy": "autograd/two ranks",
    "lightning.pytorch.callbacks.ModelCheckpoint": "",
    "lightning.LightningDataModule": "",
    "lightning.Fabric": "",
}

RATES, CLIP = (0.2, 0.2, 0.02), 0.65  # some steps are clipped, others are not


def sample(probe: Probe) -> None:
    """Seeds count; predictions are the network's, in order; logged means are weighted by the size of the batch."""
    import lightning
    import torch

    with probe.part("seeds"):
        seeded(lambda: torch.randn(8, device=probe.device), "seed_everything", lightning.seed_everything)
    model, data = _module(probe), [*batches(probe, 2), *batches(probe, 1, 7)]
    network_alone = network(probe).double()
    with probe.part("predictions"):
        seen = _trainer(probe).predict(model, _loader(data))
        for (x, _), out in zip(data, seen):
            sound(out, x, "predictions")
            close(out, network_alone(x.double()), "predictions")
        require(len(seen) == len(data), "wrong-value", f"{len(data)} batches gave {len(seen)} predictions")
    with probe.part("logged means"):
        (logged,) = _trainer(probe).validate(model, _loader(data), verbose=False)
        x, wanted = (torch.cat(part).double() for part in zip(*data))
        close(logged["loss"], loss_of(network_alone, (x, wanted)), "the loss of all batches")


def autograd(probe: Probe) -> None:
    """Steps under the Trainer are those written out: accumulated, clipped, scheduled, resumed, and in two ranks."""
    import lightning

    data = batches(probe, 6)
    expected = trained(probe, [data[:2], data[2:4], data[4:]], RATES, CLIP)
    with probe.part("two ranks"):  # before this process has a Trainer
        together = trained(probe, [data[0:2], data[2:4], data[4:6]], [0.2] * 3, 1e9)
        for rank, found in enumerate(ranks.run(probe, _in_a_rank, "gloo")):
            for name, weight in together.named_parameters():
                close(found[name], weight, f"{name} in rank {rank} of two")
    with probe.part("steps"):
        model = _module(probe, scheduled=True)
        _trainer(probe, accumulate_grad_batches=2, gradient_clip_val=CLIP).fit(model, _loader(data))
        same_weights(model.network, expected, "three steps")
    with probe.part("own loop"):
        model = _module(probe, by_hand=True)
        _trainer(probe).fit(model, _loader(data))
        same_weights(model.network, trained(probe, [[batch] for batch in data], [0.2] * 6, 1e9), "steps by hand")
    with probe.part("checkpoints"), tempfile.TemporaryDirectory() as folder:
        model, path = _module(probe), os.path.join(folder, "state.ckpt")
        trainer = _trainer(probe)
        trainer.fit(model, _loader(data))
        trainer.save_checkpoint(path)
        again = type(model).load_from_checkpoint(path, probe=probe, map_location=probe.device)
        same_weights(again.network, model.network, "a checkpoint")
        resumed = _module(probe)
        _trainer(probe, max_epochs=2).fit(resumed, _loader(data), ckpt_path=path)
        once = trained(probe, [[batch] for batch in data * 2], [0.2] * 12, 1e9)
        same_weights(resumed.network, once, "an epoch, a checkpoint and another")
    with probe.part("early stop"):
        stop = lightning.pytorch.callbacks.EarlyStopping("loss", patience=2, min_delta=1e9)
        trainer = _trainer(probe, max_epochs=9, callbacks=[stop])
        trainer.fit(_module(probe), _loader(data[:1]), _loader(data[:1]))
        require(
            trainer.current_epoch == 3, "wrong-value", f"training stopped after {trainer.current_epoch} epochs, not 3"
        )


def compile(probe: Probe) -> None:
    """A module is compiled as it is, over two batch sizes."""
    model = _module(probe)
    inputs = [(probe.randn(size, 6),) for size in (3, 8)]
    compiled(probe, model, inputs, "module", dict(model.named_parameters()))


def _module(probe: Probe, scheduled: bool = False, by_hand: bool = False) -> Any:
    """The small network as Lightning's module."""
    import lightning
    import torch

    class Module(lightning.LightningModule):
        def __init__(self, probe: Probe) -> None:
            super().__init__()
            self.network, self.automatic_optimization = network(probe), not by_hand

        def forward(self, x: Any) -> Any:
            return self.network(x)

        def training_step(self, batch: Any, number: int) -> Any:
            loss = loss_of(self, batch)
            sound(loss, batch[0], "loss")
            require(loss.requires_grad, "no-gradient", "the loss is detached under the Trainer")
            if by_hand:
                sgd = self.optimizers()
                sgd.zero_grad()
                self.manual_backward(loss)
                sgd.step()
            return loss

        def on_before_optimizer_step(self, _: Any) -> None:
            reached(dict(self.network.named_parameters()), "network under the Trainer")

        def validation_step(self, batch: Any, number: int) -> None:
            self.log("loss", loss_of(self, batch), batch_size=len(batch[0]))

        def predict_step(self, batch: Any, number: int) -> Any:
            return self(batch[0])

        def configure_optimizers(self) -> Any:
            sgd = optimiser(self, RATES[0])
            rates = torch.optim.lr_scheduler.StepLR(sgd, step_size=2, gamma=0.1 if scheduled else 1.0)
            return {"optimizer": sgd, "lr_scheduler": {"scheduler": rates, "interval": "step"}}

    return Module(probe).to(probe.device)


def _trainer(probe: Probe, **options: Any) -> Any:
    """A Trainer on the device that writes nothing."""
    import lightning

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary", "use_distributed_sampler")
    settings = {"accelerator": "gpu" if probe.device.type == "cuda" else "cpu", "devices": 1, "max_epochs": 1}
    settings.update(dict.fromkeys(quiet, False), num_sanity_val_steps=0, **options)
    return lightning.Trainer(**settings)


def _loader(data: List[Any]) -> Any:
    import torch

    return torch.utils.data.DataLoader(data, batch_size=None)


def _in_a_rank(probe: Probe, rank: int, count: int) -> Dict[str, Any]:
    """The weights of a rank that trained on its batches."""
    model = _module(probe)
    _trainer(probe, strategy="ddp", devices=count).fit(model, _loader(batches(probe, 6)[rank::count]))
    return dict(model.network.named_parameters())
