"""The networks of torchaudio's probes, and the same networks written out in calls of torch."""

from typing import Any

from ..evidence import NotApplicable, close
from ..probe import Probe
from ._small import attention, learns, same_as

NEEDS = ("torch", "torchaudio")


def _conformer(probe: Probe, dtype: Any = None) -> Any:
    """A Conformer of one layer."""
    import torch
    from torchaudio import models

    if not hasattr(models, "Conformer"):
        raise NotApplicable("Conformer came with torchaudio 0.12")
    torch.manual_seed(probe.seed)
    network = models.Conformer(16, num_heads=2, ffn_dim=32, num_layers=1, depthwise_conv_kernel_size=7)
    return network.to(probe.device, dtype or torch.float32)


def _conformer_written_out(layer: Any, x: Any, padding: Any) -> Any:
    """Half a step of feeding forward, attention, convolution, and the other half step."""
    x = x + layer.ffn1.sequential(x) / 2
    normal = layer.self_attn_layer_norm(x).transpose(0, 1)
    heard = layer.self_attn(normal, normal, normal, key_padding_mask=padding, need_weights=False)[0]
    x = x + heard.transpose(0, 1)
    convolution = layer.conv_module
    x = x + convolution.sequential(convolution.layer_norm(x).transpose(1, 2)).transpose(1, 2)
    return layer.final_layer_norm(x + layer.ffn2.sequential(x) / 2)


def conformer(probe: Probe) -> None:
    """Output and gradients are those of the layer written out, which does not attend to padding."""
    import torch

    network = _conformer(probe, torch.float64).eval()  # in training, normalisation would hide the biases before it
    data, lengths = probe.randn(3, 20, 16, dtype=torch.float64), torch.tensor([20, 12, 17], device=probe.device)
    padding = torch.arange(20, device=probe.device) >= lengths[:, None]
    expected = _conformer_written_out(network.conformer_layers[0], data, padding)
    same_as(network, network(data, lengths)[0], expected, "Conformer")


def conformer_training(probe: Probe) -> None:
    """The network learns to tell its input's sign."""
    import torch

    network = _conformer(probe)
    data, lengths = probe.randn(4, 30, 16), torch.full((4,), 30, device=probe.device)
    learns(network, lambda: (network(data, lengths)[0] - data.sign()).square().mean(), "Conformer", (), 30, 3e-3)


def wav2vec2(probe: Probe) -> None:
    """Logits and gradients are those of the network written out, where one wave is shorter than the other."""
    import torch
    from torchaudio import models

    if not hasattr(models, "wav2vec2_model"):
        raise NotApplicable("Wav2Vec2Model came with torchaudio 0.10")
    torch.manual_seed(probe.seed)
    layers, kernel, heads = [(8, 10, 5), (16, 3, 2)], 8, 2
    sizes = (16, 0.0, kernel, 2, 2, heads, 0.0, 32, 0.0, 0.0)
    network = models.wav2vec2_model("group_norm", layers, True, *sizes, True, 0.0, 5).to(probe.device, torch.float64)
    waves, lengths = probe.randn(2, 200, offset=6, dtype=torch.float64), torch.tensor([200, 130], device=probe.device)
    seen, left = network.eval()(waves, lengths)
    x = waves[:, None]
    for layer, (_, width, stride) in zip(network.feature_extractor.conv_layers, layers):
        x = layer.conv(x)
        x = torch.nn.functional.gelu(x if layer.layer_norm is None else layer.layer_norm(x))
        lengths = (lengths - width) // stride + 1
    projection, transformer = network.encoder.feature_projection, network.encoder.transformer
    padding = torch.arange(x.shape[2], device=probe.device) >= lengths[:, None]
    x = projection.projection(projection.layer_norm(x.transpose(1, 2))).masked_fill(padding[..., None], 0.0)
    x = x + torch.nn.functional.gelu(transformer.pos_conv_embed.conv(x.transpose(1, 2))[..., :-1]).transpose(1, 2)
    for layer in transformer.layers:
        own, normal = layer.attention, layer.layer_norm(x)
        query, key, value = (part(normal) for part in (own.q_proj, own.k_proj, own.v_proj))
        x = x + own.out_proj(attention(heads, query, key, value, -10_000.0 * padding[:, None, None]))
        feed = layer.feed_forward
        x = x + feed.output_dense(torch.nn.functional.gelu(feed.intermediate_dense(layer.final_layer_norm(x))))
    still = [name for name, _ in network.named_parameters() if name.endswith("k_proj.bias")]
    same_as(network, seen, network.aux(transformer.layer_norm(x)), "Wav2Vec2", still)
    close(left, lengths, "frames of each wave")
