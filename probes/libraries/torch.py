"""torch itself: its distributions, the well-known CUDA samples, and the models that the articles build."""

from ..probe import Probe
from . import _torch_distributions as distributions
from . import _torch_image as image
from . import _torch_models as models
from . import _torch_ranks as two_ranks
from . import _torch_training as training
from . import _torch_transformer as transformer

DISTRIBUTION = "torch"
MODULE = "torch"
NEEDS = ()
COVERS = {
    "torch.distributions.Normal": "sample/distributions",
    "torch.distributions.Gamma": "sample/distributions",
    "torch.distributions.Beta": "sample/distributions",
    "torch.distributions.Dirichlet": "sample/vectors and counts",
    "torch.distributions.MultivariateNormal": "sample/vectors and counts",
    "torch.distributions.StudentT": "sample/distributions",
    "torch.distributions.Uniform": "sample/distributions",
    "torch.distributions.LogNormal": "sample/distributions",
    "torch.distributions.Bernoulli": "sample/vectors and counts",
    "torch.distributions.Categorical": "sample/vectors and counts",
    "torch.distributions.Poisson": "sample/vectors and counts",
    "torch.distributions.Binomial": "sample/vectors and counts",
    "torch.distributions.MixtureSameFamily": "sample/vectors and counts",
    "torch.distributions.TransformedDistribution": "sample/vectors and counts",
    "torch.distributions.kl_divergence": "autograd/divergences",
    "torch.nn.Dropout": "sample/MC dropout",
    "torch.nn.functional.conv2d": "sample/convolution",
    "torch.nn.functional.scaled_dot_product_attention": "sample/attention",
    "torch.nn.BatchNorm2d": "sample/batch norm",
    "torch.nn.LSTM": "sample/recurrent",
    "torch.nn.Embedding": "sample/recurrent",
    "torch.nn.TransformerEncoderLayer": "autograd/Transformer",
    "torch.optim.LBFGS": "autograd/calibration",
    "torch.optim.SGD": "autograd/optimisers",
    "torch.optim.Adam": "autograd/optimisers",
    "torch.optim.AdamW": "autograd/optimisers",
    "torch.optim.lr_scheduler.StepLR": "autograd/learning rates",
    "torch.optim.lr_scheduler.CosineAnnealingLR": "autograd/learning rates",
    "torch.optim.lr_scheduler.OneCycleLR": "autograd/learning rates",
    "torch.optim.lr_scheduler.ReduceLROnPlateau": "autograd/learning rates",
    "torch.utils.data.DataLoader": "sample/DataLoader with workers",
    "torch.autocast": "sample/mixed precision",
    "torch.distributed.all_reduce": "sample/all-reduce",
    "torch.distributed.all_gather": "autograd/two ranks by gloo",
    "torch.nn.parallel.DistributedDataParallel": "autograd/two ranks by gloo",
    "torch.utils.data.DistributedSampler": "autograd/two ranks by gloo",
    "torch.func.vmap": "sample/deep ensemble",
    "torch.compile": "compile/variational layer",
    "torch.utils.checkpoint.checkpoint": "autograd/checkpoints",
    "torch.save": "autograd/checkpoints",
}


def sample(probe: Probe) -> None:
    """Draws of every family with `rsample`, the CUDA samples, and the articles' ways of being uncertain."""
    with probe.part("distributions"):
        distributions.draws(probe)
    with probe.part("vectors and counts"):
        distributions.vectors(probe)
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
        ("batch norm", training.batch_norm),
        ("recurrent", training.recurrent),
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
        distributions.reparameterised(probe)
    with probe.part("divergences"):
        distributions.divergences(probe)
    with probe.part("variational layer"):
        models.variational_training(probe)
    with probe.part("calibration"):
        models.calibration(probe)
    with probe.part("Transformer"):
        transformer.gradients(probe)
    with probe.part("optimisers"):
        training.optimisers(probe)
    with probe.part("learning rates"):
        training.schedules(probe)
    with probe.part("checkpoints"):
        training.checkpoints(probe)
    with probe.part("two ranks by gloo"):
        two_ranks.by_gloo(probe)
    with probe.part("two ranks by NCCL"):
        two_ranks.by_nccl(probe)


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
