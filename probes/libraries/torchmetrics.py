"""torchmetrics: metrics that gather batches, on the device and over several processes."""

from typing import Any, Callable, Dict, Tuple

from .. import ranks
from ..compiling import compiled
from ..evidence import close, moments, on_device, require, seeded
from ..probe import Probe

DISTRIBUTION = "torchmetrics"
MODULE = "torchmetrics"
NEEDS = ("torch",)
COVERS = {
    "torchmetrics.Accuracy": "sample/classification",
    "torchmetrics.Precision": "sample/classification",
    "torchmetrics.Recall": "sample/classification",
    "torchmetrics.F1Score": "sample/classification",
    "torchmetrics.ConfusionMatrix": "sample/classification",
    "torchmetrics.AUROC": "sample/classification",
    "torchmetrics.MeanSquaredError": "sample/regression",
    "torchmetrics.MeanAbsoluteError": "sample/regression",
    "torchmetrics.R2Score": "sample/regression",
    "torchmetrics.PearsonCorrCoef": "sample/regression",
    "torchmetrics.SpearmanCorrCoef": "sample/regression",
    "torchmetrics.MetricCollection": "sample/classification",
    "torchmetrics.MeanMetric": "sample/two ranks",
    "torchmetrics.wrappers.BootStrapper": "sample/bootstrap",
    "torchmetrics.KLDivergence": "autograd/derivatives",
    "torchmetrics.CosineSimilarity": "autograd/derivatives",
    "torchmetrics.image.PeakSignalNoiseRatio": "autograd/derivatives",
    "torchmetrics.image.StructuralSimilarityIndexMeasure": "autograd/likeness of pictures",
    "torchmetrics.text.Perplexity": "autograd/derivatives",
    "torchmetrics.MetricTracker": "",
    "torchmetrics.detection.mean_ap.MeanAveragePrecision": "",
}

CLASSES, COUNT = 4, 90


def sample(probe: Probe) -> None:
    """Over batches, and over two ranks, metrics are their formulas on all data; a bootstrap has its spread."""
    import torch
    import torchmetrics

    with probe.part("classification"):
        odds, truth = _classified(probe)
        expected = _of_classes(odds.double(), truth)
        metrics = _metrics().to(probe.device)
        for _ in range(2):  # a second time after a reset
            metrics.reset()
            for part in range(0, COUNT, 40):
                metrics(odds[part : part + 40], truth[part : part + 40])
            for name, value in metrics.compute().items():
                on_device(value, probe.device, name)
                close(value, expected[name], name)
    with probe.part("regression"):
        x = probe.randn(COUNT)
        pair = x, x + 0.5 * probe.randn(COUNT, offset=1)
        for name, formula in _regressions().items():
            metric = getattr(torchmetrics, name)().to(probe.device)
            for part in range(0, COUNT, 40):
                metric.update(*(one[part : part + 40] for one in pair))
            close(metric.compute(), formula(*(one.double() for one in pair)), name)
    with probe.part("bootstrap"):
        x = probe.randn(COUNT)

        def means() -> Any:
            options = {"mean": False, "std": False, "raw": True, "sampling_strategy": "multinomial"}
            wrapper = torchmetrics.wrappers.BootStrapper(torchmetrics.MeanMetric(), num_bootstraps=400, **options)
            wrapper.to(probe.device).update(x)
            return wrapper.compute()["raw"]

        moments(means(), x.mean(), x.std(unbiased=False) / COUNT**0.5, "bootstrapped means")
        seeded(means, "BootStrapper", torch.manual_seed)
    with probe.part("two ranks"):
        odds, truth = _classified(probe)
        expected = {**_of_classes(odds.double(), truth), "MeanMetric": odds.mean()}
        for rank, found in enumerate(ranks.run(probe, _in_a_rank, "gloo")):
            for name, value in expected.items():
                close(found[name], value, f"{name} in rank {rank} of two")


def autograd(probe: Probe) -> None:
    """What torchmetrics calls differentiable has the derivatives of its formula."""
    import torch
    from torchmetrics import functional

    left, right = (probe.randn(5, 6, offset=number) for number in (1, 2))
    odds, words = right.softmax(1), torch.randint(0, 6, (5,), generator=probe.generator(4)).to(probe.device)
    pairs: Dict[str, Tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
        "MSE": (lambda x: functional.mean_squared_error(x, right), lambda x: (x - right.double()).square().mean()),
        "cosine similarity": (
            lambda x: functional.cosine_similarity(x, right, reduction="mean"),
            lambda x: ((x * right).sum(1) / (x.norm(dim=1) * right.norm(dim=1))).mean(),
        ),
        "KL divergence": (
            lambda x: functional.kl_divergence(odds, x.softmax(1)),
            lambda x: (odds * (odds.log() - x.log_softmax(1))).sum(1).mean(),
        ),
        "signal to noise": (
            lambda x: functional.image.peak_signal_noise_ratio(x, right, data_range=4.0),
            lambda x: 10 * torch.log10(16 / (x - right).square().mean()),
        ),
        "perplexity": (
            lambda x: functional.text.perplexity(x[None], words[None]),
            lambda x: (-x.log_softmax(1).gather(1, words[:, None]).mean()).exp(),
        ),
    }
    with probe.part("derivatives"):
        for name, (function, formula) in pairs.items():
            _same(function, formula, left, name)
    with probe.part("likeness of pictures"):
        one, other = (probe.randn(1, 2, 14, 13, offset=n).sigmoid() for n in (3, 4))
        ssim = functional.image.structural_similarity_index_measure
        seen = ssim(one, other, data_range=1.0)
        off = {cut: float((_ssim(one.double(), other.double(), cut) - seen).abs()) for cut in (0, 5)}
        cut = 5 if off[5] < off[0] else 0  # older releases leave the mirrored edges out
        _same(lambda x: ssim(x, other, data_range=1.0), lambda x: _ssim(x, other.double(), cut), one, "SSIM")


def compile(probe: Probe) -> None:
    """A metric's function, compiled and eager, over two sizes."""
    from torchmetrics import functional

    def error(x: Any, y: Any) -> Any:
        return functional.cosine_similarity(x, y, reduction="mean") + functional.mean_squared_error(x, y)

    inputs = [(probe.randn(size, 6), probe.randn(size, 6, offset=1)) for size in (5, 9)]
    compiled(probe, error, inputs, "similarity and error")


def _classified(probe: Probe) -> Any:
    """The odds that a classifier gives, and the true classes, which it often hits."""
    import torch

    truth = torch.randint(0, CLASSES, (COUNT,), generator=probe.generator(7)).to(probe.device)
    scores = probe.randn(COUNT, CLASSES, offset=8) + 1.5 * torch.nn.functional.one_hot(truth, CLASSES)
    return scores.softmax(1), truth


def _metrics() -> Any:
    import torchmetrics

    names = ("Accuracy", "Precision", "Recall", "F1Score", "AUROC", "ConfusionMatrix")
    options = [{} if name == "ConfusionMatrix" else {"average": "macro"} for name in names]
    pairs = zip(names, options)
    return torchmetrics.MetricCollection(
        {name: getattr(torchmetrics, name)(task="multiclass", num_classes=CLASSES, **each) for name, each in pairs}
    )


def _of_classes(odds: Any, truth: Any) -> Dict[str, Any]:
    """Each metric by its definition: means over the classes, and the counts of (true, predicted)."""
    import torch

    hot, guess = (torch.nn.functional.one_hot(one, CLASSES).double() for one in (truth, odds.argmax(1)))
    table = hot.T @ guess
    precision, recall = table.diag() / table.sum(0), table.diag() / table.sum(1)
    right = [odds[truth == c, c][:, None] > odds[truth != c, c] for c in range(CLASSES)]
    return {
        "ConfusionMatrix": table,
        "Precision": precision.mean(),
        "Recall": recall.mean(),
        "Accuracy": recall.mean(),
        "F1Score": (2 * precision * recall / (precision + recall)).mean(),
        "AUROC": torch.stack([pairs.double().mean() for pairs in right]).mean(),
    }


def _regressions() -> Dict[str, Callable[[Any, Any], Any]]:
    def correlation(x: Any, y: Any) -> Any:
        x, y = x - x.mean(), y - y.mean()
        return (x * y).sum() / (x.square().sum() * y.square().sum()).sqrt()

    return {
        "MeanSquaredError": lambda x, y: (x - y).square().mean(),
        "MeanAbsoluteError": lambda x, y: (x - y).abs().mean(),
        "R2Score": lambda x, y: 1 - (x - y).square().sum() / (y - y.mean()).square().sum(),
        "PearsonCorrCoef": correlation,
        "SpearmanCorrCoef": lambda x, y: correlation(*(one.argsort().argsort().double() for one in (x, y))),
    }


def _in_a_rank(probe: Probe, rank: int, count: int) -> Dict[str, Any]:
    """All metrics in one of two ranks, which has its share of the data."""
    import torchmetrics

    odds, truth = (part[rank::count] for part in _classified(probe))
    metrics, mean = _metrics(), torchmetrics.MeanMetric()
    metrics.update(odds, truth)
    mean.update(odds)
    return {**metrics.compute(), "MeanMetric": mean.compute()}


def _same(function: Callable[[Any], Any], formula: Callable[[Any], Any], x: Any, what: str) -> None:
    """Require the formula's value and gradient, to float32's tolerance: some functions compute in it in any case."""
    import torch

    seen, exact = x.clone().requires_grad_(), x.double().requires_grad_()
    value, expected = function(seen), formula(exact)
    require(value.requires_grad, "no-gradient", f"{what} is detached")
    close(value, expected, what)
    pair = torch.autograd.grad(value, seen)[0], torch.autograd.grad(expected, exact)[0]
    close(*pair, f"gradient of {what}", code="wrong-gradient")


def _ssim(x: Any, y: Any, cut: int) -> Any:
    """The mean over windows of 11 x 11, weighted by a normal of deviation 1.5, whose centres are `cut` off the edges.

    The pictures are mirrored at their edges.
    """
    import torch

    line = torch.exp(-(torch.arange(-5, 6, dtype=x.dtype, device=x.device) ** 2) / (2 * 1.5**2))
    window = (line[:, None] * line)[None, None] / line.sum() ** 2
    x, y = (torch.nn.functional.pad(image, (5, 5, 5, 5), mode="reflect") for image in (x, y))

    def mean(image: Any) -> Any:
        return torch.nn.functional.conv2d(image.flatten(0, 1)[:, None], window)

    a, b = mean(x), mean(y)
    spread = mean(x * x) - a * a + mean(y * y) - b * b
    top = (2 * a * b + 0.01**2) * (2 * (mean(x * y) - a * b) + 0.03**2)
    likeness = top / ((a * a + b * b + 0.01**2) * (spread + 0.03**2))
    return likeness[..., cut : likeness.shape[-2] - cut, cut : likeness.shape[-1] - cut].mean()
