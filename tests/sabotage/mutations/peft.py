"""(probe, reason code, what is wrong) -> the sabotage of peft that the probe must answer with that code."""

from __future__ import annotations

from ._change import (
    Sabotage,
    all_nan,
    detached,
    does_nothing,
    double,
    eager,
    first,
    nan,
    replace,
    reseed,
    returns,
    rewind,
    scaled,
    steeper,
    uphill_in_float32,
)

REQUIRES = ("torch==2.13.0", "numpy", "peft==0.21.2")

LORA = "peft.tuners.lora.layer.Linear"
RESET = "peft.tuners.lora.layer.LoraLayer:reset_lora_parameters"

MUTATIONS: dict[tuple[str, str, str], Sabotage] = {
    ("sample", "wrong-value", "LoRA 1 percent off"): returns(f"{LORA}:forward", scaled(1.01)),
    ("sample", "wrong-dtype", "float64 for float32"): returns("peft.PeftModel:forward", double),
    ("sample", "not-finite", "one NaN"): returns(f"{LORA}:forward", nan),
    ("sample", "seed-ignored", "the seed is forgotten"): first(RESET, reseed),
    ("sample", "repeated-draw", "each adapter begins alike"): first(RESET, rewind),
    ("sample", "wrong-moments", "adapters begin at nothing but zeros"): replace(
        RESET, lambda _: lambda self, name, *_, **__: self.lora_A[name].weight.data.zero_()
    ),
    ("sample", "wrong-value", "IA3 1 percent off"): returns("peft.tuners.ia3.layer.Linear:forward", scaled(1.01)),
    ("sample", "wrong-value", "LoHa's change 10 percent too large"): returns(
        "peft.tuners.loha.layer.LoHaLayer:get_delta_weight", scaled(1.1)
    ),
    ("sample", "wrong-value", "a merge changes nothing"): replace(f"{LORA}:merge", does_nothing),
    ("sample", "wrong-value", "another adapter is not taken"): replace("peft.PeftModel:set_adapter", does_nothing),
    ("sample", "wrong-value", "what is handed over is dropped"): replace(
        "peft:set_peft_model_state_dict", lambda _: lambda *_, **__: None
    ),
    ("autograd", "no-gradient", "detached output"): returns(f"{LORA}:forward", detached),
    ("autograd", "wrong-gradient", "gradients 10 percent too large"): returns(f"{LORA}:forward", steeper),
    ("autograd", "wrong-value", "the layers train as well"): replace(
        "peft.tuners.lora.model.LoraModel:_mark_only_adapters_as_trainable", does_nothing
    ),
    ("autograd", "does-not-train", "the adapters learn uphill"): returns(f"{LORA}:forward", uphill_in_float32),
    ("compile", "not-compiled", "runs eagerly"): eager,
    ("compile", "compile-mismatch", "1 percent off when compiled"): returns(
        f"{LORA}:forward", scaled(1.01), when_compiled=True
    ),
    ("compile", "no-gradient", "detached when compiled"): returns(f"{LORA}:forward", detached, when_compiled=True),
    ("compile", "wrong-dtype", "float64 when compiled"): returns("peft.PeftModel:forward", double, when_compiled=True),
    ("compile", "not-finite", "NaN when compiled"): returns(f"{LORA}:forward", all_nan, when_compiled=True),
}
