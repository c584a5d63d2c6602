"""peft: adapters (LoRA, DoRA, IA3, LoHa) around a network of two plain layers, so that nothing is downloaded."""

import copy
import dataclasses
import tempfile
from typing import Any, Dict

from ..compiling import compiled
from ..evidence import close, moments, reached, require, seeded, sound
from ..probe import Probe
from ._small import batches, learns, loss_of, network

DISTRIBUTION = "peft"
MODULE = "peft"
NEEDS = ("torch",)
COVERS = {
    "peft.LoraConfig": "sample/LoRA",
    "peft.get_peft_model": "sample/LoRA",
    "peft.IA3Config": "sample/IA3",
    "peft.LoHaConfig": "sample/LoHa",
    "peft.PeftModel": "sample/adapters",
    "peft.PeftModel.add_adapter": "sample/adapters",
    "peft.PeftModel.set_adapter": "sample/adapters",
    "peft.PeftModel.disable_adapter": "sample/adapters",
    "peft.LoraModel.merge_and_unload": "sample/adapters",
    "peft.LoraModel.add_weighted_adapter": "sample/adapters",
    "peft.PeftModel.save_pretrained": "sample/files",
    "peft.PeftModel.from_pretrained": "sample/files",
    "peft.get_peft_model_state_dict": "sample/files",
    "peft.set_peft_model_state_dict": "sample/files",
    "peft.inject_adapter_in_model": "autograd/LoRA",
    "peft.AdaLoraConfig": "",
    "peft.PrefixTuningConfig": "",
    "peft.PromptTuningConfig": "",
}

RANK, ALPHA, TARGETS = 2, 6, ["0", "2"]
KINDS: Dict[str, Dict[str, Any]] = {
    "LoRA": {},
    "rank-stabilised LoRA": {"use_rslora": True},
    "DoRA": {"use_dora": True},
}
"""LoRA's variants, with the options of its config."""


def sample(probe: Probe) -> None:
    """Adapters begin as nothing, with draws of their spread; later they do what their papers' formulas say."""
    import peft
    import torch

    x = probe.randn(5, 6)
    with probe.part("initial weights"):
        for kind, spread in ((True, (3 * 400) ** -0.5), ("gaussian", 1 / 50)):
            model = _adapted(probe, torch.nn.Sequential(torch.nn.Linear(400, 3)), r=50, init_lora_weights=kind)
            layer = model.base_model.model[0]
            moments(layer.lora_A["default"].weight.flatten(), 0.0, spread, f"first weights of LoRA ({kind})")
            require(not layer.lora_B["default"].weight.any(), "wrong-value", "LoRA's last weights do not begin at zero")
        base = network(probe)
        fresh = lambda: _adapted(probe, copy.deepcopy(base)).base_model.model[0].lora_A["default"].weight  # noqa: E731
        seeded(fresh, "LoRA", torch.manual_seed)
    with probe.part("LoRA"):
        for kind, options in _kinds().items():
            for dtype in (torch.float32, torch.float64):
                model, wide = _stirred(probe, _adapted(probe, network(probe, dtype), **options)), x.to(dtype)
                seen = model(wide)
                sound(seen, wide, f"output under {kind}")
                close(seen, _written_out(model, wide, **options), f"output under {kind}")
    for kind, config in (
        ("IA3", peft.IA3Config(target_modules=TARGETS, feedforward_modules=["2"])),
        ("LoHa", peft.LoHaConfig(r=RANK, alpha=ALPHA, target_modules=TARGETS)),
    ):
        with probe.part(kind):
            model = _stirred(probe, peft.get_peft_model(network(probe), config))
            close(model(x), _written_out(model, x), f"output under {kind}")
            close(copy.deepcopy(model).merge_and_unload()(x), _written_out(model, x), f"output of {kind} merged")
    with probe.part("adapters"):
        _adapters(probe, x)
    with probe.part("files"):
        base, other = network(probe), _adapted(probe, network(probe))
        model = _stirred(probe, _adapted(probe, copy.deepcopy(base)))
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            loaded = peft.PeftModel.from_pretrained(copy.deepcopy(base), folder)
        close(loaded(x), _written_out(model, x), "output of a saved and loaded adapter")
        peft.set_peft_model_state_dict(other, peft.get_peft_model_state_dict(model))
        close(other(x), _written_out(model, x), "output of an adapter whose weights were handed over")


def autograd(probe: Probe) -> None:
    """Adapters alone have gradients, those of the formula, and alone are moved by training."""
    import peft
    import torch

    x = probe.randn(16, 6, dtype=torch.float64)
    for kind, options in _kinds().items():
        with probe.part(kind):
            config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS, **options)
            model = _stirred(probe, peft.inject_adapter_in_model(config, network(probe, torch.float64)))
            named = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
            require(all("lora" in name for name in named), "wrong-value", f"what trains is {', '.join(named)}")
            out = model(x)
            require(out.requires_grad, "no-gradient", f"the output under {kind} is detached from the adapters")
            out.square().sum().backward()
            reached(named, kind)
            expected = _written_out(model, x, **options).square().sum()
            for (name, weight), gradient in zip(named.items(), torch.autograd.grad(expected, list(named.values()))):
                close(weight.grad, gradient, f"{kind}: gradient of {name}", code="wrong-gradient")
    with probe.part("training"):
        model, (batch,) = _adapted(probe, network(probe)), batches(probe, 1, 32)
        still = [name for name, _ in model.named_parameters() if "lora" not in name]
        learns(model, lambda: loss_of(model, batch), "LoRA", still)


def compile(probe: Probe) -> None:
    """Compiled as eager, over two batch sizes."""
    model = _stirred(probe, _adapted(probe, network(probe)))
    named = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    compiled(probe, model, [(probe.randn(3, 6),), (probe.randn(8, 6),)], "LoRA", named)


def _kinds() -> Dict[str, Dict[str, Any]]:
    """Those that this version knows: DoRA came with peft 0.9."""
    import peft

    known = {field.name for field in dataclasses.fields(peft.LoraConfig)}
    return {kind: options for kind, options in KINDS.items() if known.issuperset(options)}


def _adapted(probe: Probe, base: Any, r: int = RANK, **options: Any) -> Any:
    import peft

    config = peft.LoraConfig(r=r, lora_alpha=ALPHA, target_modules=TARGETS, **options)
    return peft.get_peft_model(base.to(probe.device), config)


def _stirred(probe: Probe, model: Any) -> Any:
    """The model with other weights in its adapters than those that do nothing."""
    import torch

    with torch.no_grad():
        for number, weight in enumerate(each for each in model.parameters() if each.requires_grad):
            weight.add_(0.3 * probe.randn(*weight.shape, offset=number, dtype=weight.dtype))
    return model


def _written_out(model: Any, x: Any, adapter: str = "default", **options: bool) -> Any:
    """The network's output in calls of torch alone."""
    layers = list(getattr(model, "base_model", model).children())
    first, _, last = layers[0] if len(layers) == 1 else layers
    return _layer(last, _layer(first, x, adapter, **options).tanh(), adapter, **options)


def _layer(layer: Any, x: Any, adapter: str, use_rslora: bool = False, use_dora: bool = False) -> Any:
    """A layer under its adapter: DoRA's norm is a constant, as its paper says."""
    weight, bias = layer.base_layer.weight, layer.base_layer.bias
    if hasattr(layer, "ia3_l"):
        factor = layer.ia3_l[adapter].flatten()
        return (x * factor) @ weight.T + bias if layer.is_feedforward else (x @ weight.T + bias) * factor
    if hasattr(layer, "hada_w1_a"):
        one, other = (getattr(layer, f"hada_w{n}_a")[adapter] @ getattr(layer, f"hada_w{n}_b")[adapter] for n in (1, 2))
        return x @ (weight + ALPHA / RANK * one * other).T + bias
    scale = ALPHA / (RANK**0.5 if use_rslora else RANK)
    weight = weight + scale * layer.lora_B[adapter].weight @ layer.lora_A[adapter].weight
    if use_dora:
        norms = layer.lora_magnitude_vector[adapter]
        weight = weight * (getattr(norms, "weight", norms) / weight.norm(dim=1).detach())[:, None]  # itself before 0.12
    return x @ weight.T + bias


def _adapters(probe: Probe, x: Any) -> None:
    """Of two adapters the active one counts; off, merged or mixed they give what their weights say."""
    import peft

    plain = network(probe)
    model = _adapted(probe, copy.deepcopy(plain))
    model.add_adapter("other", peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS))
    for name in ("other", "default"):
        model.set_adapter(name)
        close(_stirred(probe, model)(x), _written_out(model, x, name), f"output under the adapter {name}")
    with model.disable_adapter():
        close(model(x), plain(x), "output without an adapter")
    model.add_weighted_adapter(["default", "other"], [0.7, 0.4], "both", combination_type="cat")
    model.set_adapter("both")
    mixed = copy.deepcopy(plain)
    for number in (0, 2):
        layer = model.base_model.model[number]
        for name, share in (("default", 0.7), ("other", 0.4)):
            change = layer.lora_B[name].weight @ layer.lora_A[name].weight
            mixed[number].weight.data += share * ALPHA / RANK * change.data
    close(model(x), mixed(x), "output under a mix of two adapters")
    merged = model.merge_and_unload()
    require(not any("lora" in name for name, _ in merged.named_modules()), "wrong-value", "an adapter stays")
    close(merged(x), mixed(x), "output of the merged network")
