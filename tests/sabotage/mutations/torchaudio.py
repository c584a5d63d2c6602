"""(probe, reason code, what is wrong) -> the sabotage of torchaudio that the probe must answer with that code."""

from __future__ import annotations

from typing import Any

from ._change import (
    Sabotage,
    all_nan,
    detached,
    double,
    elsewhere,
    first,
    left_alone,
    nan,
    options,
    replace,
    reseed,
    returns,
    rewind,
    scaled,
    steeper,
    uphill_in_float32,
)

REQUIRES = ("torch==2.6.0", "torchaudio==2.6.0", "soundfile", "numpy<2.3", "setuptools<82")
"""An environment that fits: each torchaudio is built for one torch, whose compiler imports setuptools.

From 2.9 on it reads and writes files with TorchCodec, which needs FFmpeg.
"""

SPECTROGRAM = "torchaudio.transforms.Spectrogram:forward"
MEL = "torchaudio.transforms.MelScale:forward"
DECIBELS = "torchaudio.transforms.AmplitudeToDB:forward"
RESAMPLE = "torchaudio.transforms.Resample:forward"
FILTER = "torchaudio.functional:lfilter"
MASK = "torchaudio.transforms.TimeMasking:forward"
FREQUENCIES = "torchaudio.transforms.FrequencyMasking:forward"
PHASES = "torchaudio.transforms.GriffinLim:__init__"
ALIGN = "torchaudio.functional:forced_align"
TRANSDUCER = "torchaudio.functional:rnnt_loss"
CONFORMER = "torchaudio.models.Conformer:forward"
FEED_FORWARD = "torchaudio.models.conformer._FeedForwardModule:forward"


def _detached_argument(index: int) -> Any:
    """The function forgets that one of its arguments has a gradient."""
    return lambda original: (
        lambda *arguments, **options: original(
            *(a.detach() if i == index else a for i, a in enumerate(arguments)), **options
        )
    )


def _narrower(original: Any) -> Any:
    """Masks of at most 35 frames where 40 were asked for."""

    def forward(self: Any, picture: Any, mask_value: float = 0.0) -> Any:
        self.mask_param = 35
        return original(self, picture, mask_value)

    return forward


def _at_the_start(original: Any) -> Any:
    """Masks of the right widths, but in the first half only."""

    def forward(self: Any, picture: Any, mask_value: float = 0.0) -> Any:
        import torch

        half = picture.shape[-1] // 2
        return torch.cat([original(self, picture[..., :half], mask_value), picture[..., half:]], -1)

    return forward


def _other_scores(original: Any) -> Any:
    """The labels of an alignment with other scores."""

    def align(*arguments: Any, **given: Any) -> Any:
        labels, scores = original(*arguments, **given)
        return labels, 1.01 * scores

    return align


def _aliased(original: Any) -> Any:
    """The nearest sample where a filter should be."""

    def forward(self: Any, wave: Any) -> Any:
        import torch

        count = -(-self.new_freq * wave.shape[-1] // self.orig_freq)
        return wave[..., torch.arange(count) * self.orig_freq // self.new_freq]

    return forward


def _all_ears(original: Any) -> Any:
    """A Conformer that attends to padding."""

    def forward(self: Any, wave: Any, lengths: Any) -> Any:
        return original(self, wave, lengths * 0 + wave.shape[1])

    return forward


def _numb(original: Any) -> Any:
    """Feed-forward layers get no gradient but zeros."""

    def forward(self: Any, x: Any) -> Any:
        out = original(self, x)
        for parameter in self.parameters():
            parameter.register_hook(lambda gradient: 0 * gradient)
        return out

    return forward


MUTATIONS: dict[tuple[str, str, str], Sabotage] = {
    ("sample", "wrong-value", "spectrogram 1 percent off"): returns(SPECTROGRAM, scaled(1.01)),
    ("sample", "wrong-value", "mel spectrogram 1 percent off"): returns(MEL, scaled(1.01)),
    ("sample", "wrong-value", "decibels 1 percent off"): returns(DECIBELS, scaled(1.01)),
    ("sample", "wrong-value", "resampled without a filter"): replace(RESAMPLE, _aliased),
    ("sample", "wrong-value", "filtered wave 1 percent off"): returns(FILTER, scaled(1.01)),
    ("sample", "wrong-device", "spectrogram on another device"): returns(SPECTROGRAM, elsewhere),
    ("sample", "wrong-dtype", "float64 for float32"): returns(RESAMPLE, double),
    ("sample", "not-finite", "one NaN"): returns(FILTER, nan),
    ("sample", "wrong-moments", "masks too narrow"): replace(MASK, _narrower),
    ("sample", "wrong-moments", "masks in the first half only"): replace(MASK, _at_the_start),
    ("sample", "wrong-value", "what is not masked is off by a millionth"): returns(MASK, scaled(1.000001)),
    ("sample", "seed-ignored", "the seed is forgotten"): first(MASK, reseed),
    ("sample", "repeated-draw", "each mask is the same"): first(MASK, rewind),
    ("sample", "wrong-value", "cepstrum of decibels"): options(
        "torchaudio.transforms.MFCC:__init__", log_mels=lambda _: False
    ),
    ("sample", "wrong-value", "cepstrum 1 percent off"): returns("torchaudio.transforms.MFCC:forward", scaled(1.01)),
    ("sample", "wrong-value", "phases without momentum"): options(PHASES, momentum=lambda _: 0.0),
    ("sample", "wrong-value", "phases after a step too few"): options(PHASES, n_iter=lambda steps: steps - 1),
    ("sample", "wrong-dtype", "guessed wave in float64"): returns("torchaudio.transforms.GriffinLim:forward", double),
    ("sample", "wrong-value", "aligned to another blank"): options(ALIGN, blank=lambda _: 0),
    ("sample", "wrong-value", "alignment a frame late"): returns(ALIGN, lambda labels: labels.roll(1, -1)),
    ("sample", "wrong-value", "scores of an alignment 1 percent off"): replace(ALIGN, _other_scores),
    ("sample", "wrong-moments", "masks of frequencies too narrow"): replace(FREQUENCIES, _narrower),
    ("sample", "seed-ignored", "the seed of frequencies is forgotten"): first(FREQUENCIES, reseed),
    ("sample", "wrong-value", "a read file begins too early"): options("torchaudio:load", frame_offset=lambda _: 99),
    ("sample", "wrong-value", "a written file is 1 percent too loud"): replace(
        "torchaudio:save",
        lambda original: lambda path, wave, *others, **given: original(path, 1.01 * wave, *others, **given),
    ),
    ("autograd", "wrong-gradient", "gradient of Wav2Vec2's layers 10 percent too large"): returns(
        "torchaudio.models.wav2vec2.components.FeedForward:forward", steeper
    ),
    ("autograd", "wrong-value", "Wav2Vec2 attends to padding"): replace(
        "torchaudio.models.Wav2Vec2Model:forward", lambda original: lambda self, waves, lengths: original(self, waves)
    ),
    ("autograd", "no-gradient", "detached spectrogram"): returns(SPECTROGRAM, detached),
    ("autograd", "wrong-gradient", "gradient of mel scale 10 percent too large"): returns(MEL, steeper),
    ("autograd", "wrong-gradient", "gradient of resampling 10 percent too large"): returns(RESAMPLE, steeper),
    ("autograd", "no-gradient", "a filter's feedback gets no gradient"): replace(FILTER, _detached_argument(1)),
    ("autograd", "wrong-value", "transducer's loss 1 percent off"): returns(TRANSDUCER, scaled(1.01)),
    ("autograd", "wrong-gradient", "gradient of the loss 10 percent too large"): returns(TRANSDUCER, steeper),
    ("autograd", "no-gradient", "detached Conformer"): returns(CONFORMER, detached),
    ("autograd", "not-finite", "NaN"): returns(CONFORMER, all_nan),
    ("autograd", "wrong-value", "the Conformer attends to padding"): replace(CONFORMER, _all_ears),
    ("autograd", "zero-gradient", "no gradient of feed-forward layers"): replace(FEED_FORWARD, _numb),
    ("autograd", "wrong-gradient", "gradient of feed-forward 10 percent too large"): returns(FEED_FORWARD, steeper),
    ("autograd", "does-not-train", "trains in the wrong direction"): returns(CONFORMER, uphill_in_float32),
    ("compile", "not-compiled", "resampling runs eagerly"): replace(RESAMPLE, left_alone),
    ("compile", "not-compiled", "the spectrogram runs eagerly"): replace(SPECTROGRAM, left_alone),
    ("compile", "compile-mismatch", "resampled 1 percent off when compiled"): returns(
        RESAMPLE, scaled(1.01), when_compiled=True
    ),
    ("compile", "compile-mismatch", "gradient of resampling off when compiled"): returns(
        RESAMPLE, steeper, when_compiled=True
    ),
    ("compile", "compile-mismatch", "spectrogram 1 percent off when compiled"): returns(
        SPECTROGRAM, scaled(1.01), when_compiled=True
    ),
    ("compile", "wrong-dtype", "float64 when compiled"): returns(RESAMPLE, double, when_compiled=True),
    ("compile", "not-finite", "NaN when compiled"): returns(SPECTROGRAM, all_nan, when_compiled=True),
    ("compile", "no-gradient", "detached when compiled"): returns(RESAMPLE, detached, when_compiled=True),
}
