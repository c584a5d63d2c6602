"""(probe, reason code, what is wrong) -> the sabotage of torchmetrics that the probe must answer with that code."""

from __future__ import annotations

from typing import Any

from ._change import (
    Sabotage,
    all_nan,
    detached,
    does_nothing,
    double,
    eager,
    elsewhere,
    first,
    replace,
    reseed,
    returns,
    rewind,
    scaled,
    steeper,
)

REQUIRES = ("torch==2.13.0", "numpy", "torchmetrics==1.9.0")

CLASSES = "torchmetrics.classification"
COSINE = "torchmetrics.functional:cosine_similarity"
SSIM = "torchmetrics.functional.image:structural_similarity_index_measure"


def _once(original: Any) -> Any:
    """Only the first batch counts."""

    def update(self: Any, *batch: Any) -> None:
        if not float(self.total):
            original(self, *batch)

    return update


MUTATIONS: dict[tuple[str, str, str], Sabotage] = {
    ("sample", "wrong-value", "accuracy 1 percent off"): returns(f"{CLASSES}.MulticlassAccuracy:compute", scaled(1.01)),
    ("sample", "wrong-value", "AUROC 1 percent off"): returns(f"{CLASSES}.MulticlassAUROC:compute", scaled(1.01)),
    ("sample", "wrong-value", "counts turned round"): returns(
        f"{CLASSES}.MulticlassConfusionMatrix:compute", lambda out: out.T
    ),
    ("sample", "wrong-device", "on another device"): returns(f"{CLASSES}.MulticlassAUROC:compute", elsewhere),
    ("sample", "not-finite", "NaN"): returns("torchmetrics.R2Score:compute", all_nan),
    ("sample", "wrong-value", "correlation 1 percent off"): returns(
        "torchmetrics.PearsonCorrCoef:compute", scaled(1.01)
    ),
    ("sample", "wrong-value", "a batch is lost"): replace("torchmetrics.MeanAbsoluteError:update", _once),
    ("sample", "wrong-value", "nothing is reset"): replace("torchmetrics.Metric:reset", does_nothing),
    ("sample", "wrong-value", "ranks do not share"): replace("torchmetrics.Metric:_sync_dist", does_nothing),
    ("sample", "seed-ignored", "the seed is forgotten"): first("torchmetrics.wrappers.BootStrapper:update", reseed),
    ("sample", "repeated-draw", "each bootstrap is the same"): first(
        "torchmetrics.wrappers.BootStrapper:update", rewind
    ),
    ("autograd", "no-gradient", "detached"): returns(COSINE, detached),
    ("autograd", "wrong-gradient", "gradient 10 percent too large"): returns(COSINE, steeper),
    ("autograd", "wrong-value", "likeness of pictures 1 percent off"): returns(SSIM, scaled(1.01)),
    ("autograd", "wrong-gradient", "its gradient 10 percent too large"): returns(SSIM, steeper),
    ("compile", "not-compiled", "runs eagerly"): eager,
    ("compile", "compile-mismatch", "1 percent off when compiled"): returns(COSINE, scaled(1.01), when_compiled=True),
    ("compile", "wrong-dtype", "float64 when compiled"): returns(COSINE, double, when_compiled=True),
    ("compile", "not-finite", "NaN when compiled"): returns(COSINE, all_nan, when_compiled=True),
    ("compile", "compile-mismatch", "half of the sum detached when compiled"): returns(
        COSINE, detached, when_compiled=True
    ),
}
