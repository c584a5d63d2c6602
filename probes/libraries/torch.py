"""torch itself: its distributions, the well-known CUDA samples, and the models that the articles build."""

from ..probe import Probe
from . import _torch_image as image
from . import _torch_models as models
from . import _torch_transformer as transformer

DISTRIBUTION = "torch"
MODULE = "torch"
NEEDS = ()


def sample(probe: Probe) -> None:
    """Draws of every family with `rsample`, the CUDA samples, and the articles' ways of being uncertain."""
    with probe.part("distributions"):
        models.distributions(probe)
    for name, step in (
        ("device query", image.device_query),
        ("vector add compiled at run time", image.vector_add),
        ("matrix product", image.matrix_product),
        ("matrix product in bfloat16", image.short_product),
        ("TF32", image.tf32),
        ("memory bandwidth", image.bandwidth),
        ("streams and events", image.streams),
        ("mixed precision", image.mixed_precision),
        ("convolution", image.convolution),
        ("attention", image.attention),
        ("DataLoader with workers", image.data_loader),
        ("all-reduce", image.all_reduce),
    ):
        with probe.part(name):
            step(probe)
    with probe.part("MC dropout"):
        models.mc_dropout(probe)
    with probe.part("deep ensemble"):
        models.ensemble_spread(probe)
    with probe.part("positional encoding"):
        transformer.buffers(probe)


def autograd(probe: Probe) -> None:
    """Reparameterised gradients, the variational layer's training, calibration, and the Transformer's gradients."""
    with probe.part("reparameterised draws"):
        models.reparameterised(probe)
    with probe.part("variational layer"):
        models.variational_training(probe)
    with probe.part("calibration"):
        models.calibration(probe)
    with probe.part("Transformer"):
        transformer.gradients(probe)


def compile(probe: Probe) -> None:
    """The variational layer, the ensemble under vmap and the Transformer, compiled and eager."""
    with probe.part("variational layer"):
        models.variational_compiled(probe)
    with probe.part("deep ensemble"):
        models.ensemble_compiled(probe)
    with probe.part("Transformer"):
        transformer.as_compiled(probe)
    with probe.part("kernels"):
        image.kernels_made(probe)
