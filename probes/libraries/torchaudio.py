"""torchaudio: spectrograms, resampling, recursive filters, the transducer's loss, Conformers."""

import math
from importlib.util import find_spec
from typing import Any

from ..compiling import compiled
from ..evidence import NotApplicable, close, differentiable, moments, of_dtype, of_shape, require, seeded, sound
from ..probe import Probe
from ._torchaudio_models import conformer, conformer_training, wav2vec2

DISTRIBUTION = "torchaudio"
MODULE = "torchaudio"
NEEDS = ("torch",)
COVERS = {
    "torchaudio.transforms.Spectrogram": "sample/spectrogram",
    "torchaudio.transforms.MelSpectrogram": "sample/spectrogram",
    "torchaudio.transforms.AmplitudeToDB": "sample/spectrogram",
    "torchaudio.transforms.Resample": "sample/resampling",
    "torchaudio.functional.lfilter": "sample/recursive filter",
    "torchaudio.transforms.TimeMasking": "sample/masking",
    "torchaudio.load": "sample/wave files",
    "torchaudio.functional.rnnt_loss": "autograd/transducer's loss",
    "torchaudio.models.Conformer": "autograd/Conformer",
    "torchaudio.save": "sample/wave files",
    "torchaudio.transforms.MFCC": "sample/spectrogram",
    "torchaudio.transforms.GriffinLim": "sample/phases",
    "torchaudio.transforms.FrequencyMasking": "sample/masking",
    "torchaudio.functional.forced_align": "sample/alignment",
    "torchaudio.models.Wav2Vec2Model": "autograd/Wav2Vec2",
}

RATE = 8000
WINDOW = 256
HOP = 64
MELS = 20
DRAWS = 4_000


def sample(probe: Probe) -> None:
    """Transforms are what their formulas say; random masks have the right widths and places, and follow the seed."""
    with probe.part("spectrogram"):
        _spectrogram(probe)
    with probe.part("resampling"):
        _resampling(probe)
    with probe.part("recursive filter"):
        _recursive_filter(probe)
    with probe.part("phases"):
        _phases(probe)
    with probe.part("alignment"):
        _alignment(probe)
    with probe.part("masking"):
        _masking(probe)
    with probe.part("wave files"):
        _wave_files(probe)


def autograd(probe: Probe) -> None:
    """Gradients are those of finite differences or of the same thing written out; a Conformer trains."""
    import torch
    import torchaudio

    wave = probe.randn(2, 1024, dtype=torch.float64)
    for name, transform in _transforms(torch.float64).items():
        with probe.part(name):
            placed = transform.to(probe.device, torch.float64)
            differentiable(lambda x, f=placed: f(x).square().sum(), [wave], name)
    with probe.part("recursive filter"):
        feedback = torch.tensor([1.0, -0.5, 0.25], device=probe.device, dtype=torch.float64)
        forward = probe.randn(3, offset=1, dtype=torch.float64)
        differentiable(
            lambda x, a, b: torchaudio.functional.lfilter(x, a, b, clamp=False).square().sum(),
            [wave[:, :64], feedback, forward],
            "lfilter",
        )
    with probe.part("transducer's loss"):
        _transducer(probe)
    with probe.part("Conformer"):
        conformer(probe)
    with probe.part("training"):
        conformer_training(probe)
    with probe.part("Wav2Vec2"):
        wav2vec2(probe)


def compile(probe: Probe) -> None:
    """A spectrogram of two lengths and resampling, with its gradient, give the eager result."""
    import torch

    waves = [(probe.randn(2, length, offset=length),) for length in (1024, 1536)]
    chosen = _transforms(torch.float32)
    for name in ("resampling", "spectrogram"):
        with probe.part(name):
            backward = name == "resampling"  # the compiler takes a second or more for each kernel
            lengths = waves[:1] if backward and not probe.thorough else waves
            compiled(probe, chosen[name].to(probe.device), lengths, name, backward=backward)


def _transforms(dtype: Any) -> Any:
    """The transforms under test by name; Resample computes its kernel in the dtype that it is told."""
    from torchaudio import transforms

    return {
        "spectrogram": transforms.Spectrogram(WINDOW, hop_length=HOP),
        "mel spectrogram": transforms.MelSpectrogram(RATE, WINDOW, hop_length=HOP, n_mels=MELS),
        "resampling": transforms.Resample(RATE, 3000, dtype=dtype),
    }


def _spectrogram(probe: Probe) -> None:
    """Hann windows around every hop, their Fourier transform squared; then triangles on the mel scale, in decibels."""
    import torch
    import torchaudio

    wave = probe.randn(2, 2000)
    chosen = _transforms(torch.float32)
    power = chosen["spectrogram"].to(probe.device)(wave)
    mel = chosen["mel spectrogram"].to(probe.device)(wave)
    decibels = torchaudio.transforms.AmplitudeToDB("power").to(probe.device)(mel)
    settings = {"n_fft": WINDOW, "hop_length": HOP, "n_mels": MELS}
    cepstrum = torchaudio.transforms.MFCC(RATE, n_mfcc=10, log_mels=True, melkwargs=settings).to(probe.device)(wave)

    padded = torch.nn.functional.pad(wave.double()[:, None], (WINDOW // 2, WINDOW // 2), mode="reflect")[:, 0]
    turn = torch.arange(WINDOW, device=probe.device, dtype=torch.float64) * (2 * math.pi / WINDOW)
    frames = padded.unfold(-1, WINDOW, HOP) * (1 - turn.cos()) / 2
    expected = torch.fft.rfft(frames).abs().square().transpose(-1, -2)

    top = 2595 * math.log10(1 + RATE / 2 / 700)
    corners = 700 * (10 ** (torch.linspace(0, top, MELS + 2, dtype=torch.float64, device=probe.device) / 2595) - 1)
    bins = torch.linspace(0, RATE // 2, WINDOW // 2 + 1, dtype=torch.float64, device=probe.device)[:, None]
    rise, fall = (bins - corners[:-2]) / corners.diff()[:-1], (corners[2:] - bins) / corners.diff()[1:]
    filtered = (expected.transpose(-1, -2) @ rise.minimum(fall).clamp_min(0)).transpose(-1, -2)

    mels, rows = (torch.arange(n, device=probe.device, dtype=torch.float64) for n in (MELS, 10))
    cosines = (math.pi / MELS * (mels + 0.5) * rows[:, None]).cos() * math.sqrt(2 / MELS)
    cosines[0] /= math.sqrt(2)

    for name, seen, reference in (
        ("cepstrum", cepstrum, cosines @ (filtered + 1e-6).log()),
        ("spectrogram", power, expected),
        ("mel spectrogram", mel, filtered),
        ("decibels", decibels, 10 * filtered.log10()),
    ):
        sound(seen, wave, name)
        close(seen, reference, name)


def _resampling(probe: Probe) -> None:
    """A tone below both Nyquist frequencies is the same tone at the new rate; one between the two is filtered out."""
    import torch
    from torchaudio import transforms

    low, high, phase = torch.rand(3, generator=probe.generator()).tolist()

    def tone(hertz: float, rate: int, count: int) -> Any:
        return (2 * math.pi * hertz / rate * torch.arange(count, device=probe.device) + phase).sin()

    low, high = 200 + 1000 * low, 3400 + 500 * high
    wave = tone(low, RATE, 2000) + tone(high, RATE, 2000)
    seen = transforms.Resample(RATE, 6000, lowpass_filter_width=32).to(probe.device)(wave)
    of_shape(seen, (1500,), "resampled tone")
    sound(seen, wave, "resampled tone")
    middle = slice(100, -100)  # the filter sees the silence around the ends
    close(seen[middle], tone(low, 6000, 1500)[middle], "resampled tone", rtol=0.0, atol=0.003)


def _recursive_filter(probe: Probe) -> None:
    """Each output is the weighted sum of the last inputs less that of the last outputs."""
    import torch
    from torchaudio import functional

    wave = probe.randn(2, 100)
    feedback, forward = torch.tensor([1.0, -0.5, 0.25]), probe.randn(3, offset=1).cpu()
    seen = functional.lfilter(wave, feedback.to(probe.device), forward.to(probe.device), clamp=False)
    sound(seen, wave, "filtered wave")
    inputs = torch.nn.functional.pad(wave.cpu().double(), (2, 0))
    outputs = torch.zeros_like(inputs)
    for now in range(2, inputs.shape[1]):
        outputs[:, now] = sum(forward[lag].double() * inputs[:, now - lag] for lag in range(3))
        outputs[:, now] -= sum(feedback[lag].double() * outputs[:, now - lag] for lag in (1, 2))
    close(seen, outputs[:, 2:], "filtered wave")


def _masking(probe: Probe) -> None:
    """One run of frames, or of frequencies, becomes zero, of any width below forty and anywhere with the same odds."""
    from torchaudio import transforms

    picture = probe.randn(1, 2, 200).abs() + 1
    for axis, masking in ((2, transforms.TimeMasking(time_mask_param=40)), (1, transforms.FrequencyMasking(40))):
        _masked(probe, masking, picture.transpose(2, axis), axis)


def _masked(probe: Probe, mask: Any, picture: Any, axis: int) -> None:
    """The masks of one kind along the axis of a picture."""
    import torch

    most, count, name = 40, picture.shape[axis], type(mask).__name__
    seeded(lambda: torch.stack([mask(picture) for _ in range(20)]), name, torch.manual_seed)
    torch.manual_seed(probe.seed)
    seen = torch.stack([mask(picture) for _ in range(DRAWS)])
    sound(seen, picture, f"what {name} leaves")
    gone = (seen == 0).all(4 - axis)[:, 0]
    kept = ~gone[:, None, None, :] if axis == 2 else ~gone[:, None, :, None]
    close(seen, picture * kept, f"what {name} leaves", rtol=0.0, atol=0.0)
    require(int(gone.int().diff().abs().sum(1).max()) <= 2, "wrong-value", f"{name}: a mask is not one run")
    widths = gone.sum(1).float()
    moments(widths, (most - 1) / 2, ((most**2 - 1) / 12) ** 0.5, f"{name}: widths of masks")
    # with a width u from 1 to `most`, what begins it is the whole part of a uniform draw from 0 to `count` - u
    low, high = count - most, count - 1
    mean, square = (low + high) / 4, (low**2 + low * high + high**2) / 9
    starts = gone[widths > 0].float().argmax(1)
    moments(starts, mean - 0.5, (square - mean**2) ** 0.5, f"{name}: places of masks")


def _phases(probe: Probe) -> None:
    """Phases are those of the last guess's spectrum, less a share of the one before; none of it is random here."""
    import torch
    from torchaudio import transforms

    momentum, steps = 0.6, 3
    for dtype in (torch.float32, torch.float64):
        wave, window = probe.randn(1, 1024, offset=9, dtype=dtype), torch.hann_window(WINDOW, dtype=torch.float64)
        power = transforms.Spectrogram(WINDOW, hop_length=HOP, power=1.0).to(probe.device, dtype)(wave)
        settings = {"n_iter": steps, "hop_length": HOP, "power": 1.0, "momentum": momentum, "rand_init": False}
        seen = transforms.GriffinLim(WINDOW, length=1024, **settings).to(probe.device, dtype)(power)
        sound(seen, wave, "wave of guessed phases")
        exact, window = power.double(), window.to(probe.device)
        phases, before = torch.ones_like(exact, dtype=torch.complex128), torch.zeros(())
        for step in range(steps + 1):
            guess = torch.istft(exact * phases, WINDOW, HOP, window=window, length=1024)
            if step < steps:
                again = torch.stft(guess, WINDOW, HOP, window=window, return_complex=True)
                phases = again - momentum / (1 + momentum) * before
                phases, before = phases / (phases.abs() + 1e-16), again
        close(seen, guess, "wave of guessed phases", rtol=1e-2, atol=1e-2)


def _alignment(probe: Probe) -> None:
    """The frames' labels are the likeliest way to say the words, of all ways; each has its own logarithm as score."""
    import torch
    from torchaudio import functional

    if not hasattr(functional, "forced_align"):
        raise NotApplicable("forced_align came with torchaudio 2.1")
    words, blank = [1, 1, 3], 2  # the same label twice is told apart by a blank
    states = [blank, *(label for word in words for label in (word, blank))]
    for dtype in (torch.float32, torch.float64):
        odds = probe.randn(1, 9, 4, offset=14, dtype=dtype).log_softmax(-1)
        targets = torch.tensor([words], device=probe.device, dtype=torch.int32)
        labels, scores = functional.forced_align(odds, targets, blank=blank)
        frames = odds[0].cpu().double().tolist()
        best = {0: (frames[0][blank], [blank]), 1: (frames[0][words[0]], [words[0]])}  # state -> likelihood and its way
        for frame in frames[1:]:
            earlier, best = best, {}
            for state, label in enumerate(states):
                skips = state > 2 and label not in (blank, states[state - 2])
                ways = [earlier[state - back] for back in range(2 + skips) if state - back in earlier]
                if ways:
                    likelihood, way = max(ways)
                    best[state] = (likelihood + frame[label], [*way, label])
        expected = torch.tensor([max(best[len(states) - 1], best[len(states) - 2])[1]])
        close(labels, expected, "labels of the likeliest way")
        sound(scores, odds, "scores of the likeliest way")
        close(scores, odds.cpu().gather(2, expected[..., None])[..., 0], "scores of the likeliest way")


def _wave_files(probe: Probe) -> None:
    """A wave of 16-bit samples is the same in a file that torchaudio reads, and in another that it writes."""
    import os
    import struct
    import tempfile
    import wave

    import torch
    import torchaudio

    if hasattr(torchaudio, "list_audio_backends"):
        if not torchaudio.list_audio_backends():
            raise NotApplicable("nothing installed that torchaudio reads files with")
    elif find_spec("torchcodec") is None:
        raise NotApplicable("since 2.9 torchaudio reads files with TorchCodec, which is not installed")
    numbers = torch.randint(-(2**15), 2**15, (500,), generator=probe.generator(8))
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "probe.wav")
        with wave.open(path, "wb") as file:
            file.setparams((1, 2, RATE, 0, "NONE", ""))
            file.writeframes(struct.pack("<500h", *numbers.tolist()))
        seen, rate = torchaudio.load(path, frame_offset=100, num_frames=300)
        torchaudio.save(path, numbers.reshape(2, 250).float() / 2**15, 2 * RATE, bits_per_sample=16)
        with wave.open(path, "rb") as file:
            kind, count = file.getparams()[:3], file.getnframes()
            written = torch.tensor(struct.unpack(f"<{2 * count}h", file.readframes(count)))
    require(rate == RATE, "wrong-value", f"the file's rate is {rate}, not {RATE}")
    of_dtype(seen, torch.float32, "wave of a file")
    close(seen, numbers[None, 100:400].float() / 2**15, "wave of a file")
    require(kind == (2, 2, 2 * RATE), "wrong-value", f"channels, bytes a sample and rate of a written file: {kind}")
    close(written.reshape(-1, 2).T, numbers.reshape(2, 250), "wave of a written file", rtol=0.0, atol=2**-15)


def _transducer(probe: Probe) -> None:
    """Minus the logarithm of the sum over all ways through the lattice, and its gradient."""
    import torch
    from torchaudio import functional

    if not hasattr(functional, "rnnt_loss"):
        raise NotApplicable("this version has no rnnt_loss")
    frames, classes, blank = 6, 5, 4
    targets = torch.randint(blank, (2, 3), generator=probe.generator(3))
    logits = probe.randn(2, frames, 4, classes, offset=4).requires_grad_()
    lengths = [torch.full((2,), n, dtype=torch.int32, device=probe.device) for n in (frames, 3)]
    loss = functional.rnnt_loss(logits, targets.to(probe.device, torch.int32), *lengths, blank=blank, reduction="sum")
    sound(loss, logits, "transducer's loss")
    exact = logits.detach().cpu().double().requires_grad_()
    expected = sum(_lattice(scores.log_softmax(-1), labels, blank) for scores, labels in zip(exact, targets.tolist()))
    close(loss, expected, "transducer's loss")
    require(loss.requires_grad, "no-gradient", "the transducer's loss is detached")
    loss.backward()
    expected.backward()
    close(logits.grad, exact.grad, "gradient of the transducer's loss", code="wrong-gradient")


def _lattice(scores: Any, labels: Any, blank: int) -> Any:
    """Sum over the ways through frames x labels: each step is a blank to the next frame, or the next label."""
    frames, nodes = scores.shape[:2]
    total: Any = {}
    for t in range(frames):
        for u in range(nodes):
            ways = [total[t - 1, u] + scores[t - 1, u, blank]] if t else []
            ways += [total[t, u - 1] + scores[t, u - 1, labels[u - 1]]] if u else []
            total[t, u] = ways[0].logaddexp(ways[-1]) if len(ways) > 1 else ways[0] if ways else scores.new_zeros(())
    return -(total[frames - 1, nodes - 1] + scores[frames - 1, nodes - 1, blank])
