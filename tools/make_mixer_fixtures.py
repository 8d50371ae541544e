"""Makes tests/fixtures/mixers/*.safetensors with the mixers of `transformers` (5.24.0 was used) on PyTorch: run from the
repository root with the python of scripts/peers.sh.

Each file holds a mixer's weights under its own names (a convolution's as [channels, kernel]), inputs `x` and outputs `y`
[B, L, D] of one pass, all float32; its metadata say the mixer in our config, and which of three layers it is. Nothing here calls our code.
"""

import importlib
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

OUT = Path("tests/fixtures/mixers")
DIM, ROWS, LENGTH = 8, 1, 67  # one chunk of 64 and a part of another


def model(family, config_class, module_class, of_module=None, **settings):
    config = importlib.import_module(f"transformers.models.{family}.configuration_{family}")
    modeling = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    made = getattr(config, config_class)(hidden_size=DIM, **settings)
    made._attn_implementation = "eager"
    more = {"layer_idx": 0} | (of_module or {})
    return getattr(modeling, module_class)(made, **{key: value for key, value in more.items() if value is not None})


def mamba2(family, prefix, module="Mixer", ours=(), **settings):
    mixer = {"kind": "mamba2", "heads": 4, "head_dim": 4, "groups": 2, "state": 5, "conv": 4, "dt_min": 0.0}
    return model(family, prefix + "Config", prefix + module, **settings), mixer | dict(ours)


def delta(family, prefix, ours, **settings):
    sizes = {"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 6, "linear_value_head_dim": 5,
             "num_hidden_layers": 4, "num_attention_heads": 2, "num_key_value_heads": 2}
    mixer = {"kind": "gated_delta", "heads": 4, "key_heads": 2, "key_dim": 6, "value_dim": 5, "conv": 4, "norm_eps": 1e-6}
    return model(family, prefix + "Config", prefix.removesuffix("Text") + "GatedDeltaNet", **sizes, **settings), mixer | ours


HEADS = {"num_attention_heads": 2, "num_key_value_heads": 2}
KIMI = {"linear_num_heads": 2, "linear_head_dim": 5, "linear_conv_kernel_dim": 4}
BAMBA = {"mamba_n_heads": 4, "mamba_d_head": 4, "mamba_n_groups": 2, "mamba_d_state": 5}
CASES = {
    "mamba2": lambda: mamba2("mamba2", "Mamba2", num_heads=4, head_dim=4, n_groups=2, state_size=5, use_conv_bias=False,
                             ours={"conv_bias": False}),
    "bamba": lambda: mamba2("bamba", "Bamba", **BAMBA, mamba_proj_bias=True, num_attention_heads=2, num_key_value_heads=2,
                            time_step_limit=(0.0, 0.7), ours={"in_bias": True, "out_bias": True, "dt_max": 0.7}),
    "falcon_h1": lambda: mamba2("falcon_h1", "FalconH1", **BAMBA, mamba_d_ssm=16, projectors_bias=True, num_attention_heads=2,
                                num_key_value_heads=2, ours={"norm": False, "out_bias": True}),
    "falcon_h1_norm": lambda: mamba2("falcon_h1", "FalconH1", **BAMBA, mamba_d_ssm=16, mamba_rms_norm=True,
                                     num_attention_heads=2, num_key_value_heads=2, ours={"norm_before_gate": True}),
    "granitemoehybrid": lambda: mamba2("granitemoehybrid", "GraniteMoeHybrid", "MambaLayer", **BAMBA, num_attention_heads=2,
                                       num_key_value_heads=2, ours={"norm_eps": 1e-6}),
    "nemotron_h": lambda: mamba2("nemotron_h", "NemotronH", "Mamba2Mixer", mamba_num_heads=4, mamba_head_dim=4, n_groups=2,
                                 ssm_state_size=5, time_step_min=0.3, num_attention_heads=2, num_key_value_heads=2,
                                 ours={"dt_min": 0.3}),
    "zamba2": lambda: mamba2("zamba2", "Zamba2", "MambaMixer", n_mamba_heads=4, mamba_ngroups=1, mamba_d_state=5,
                             num_attention_heads=2, num_key_value_heads=2, ours={"groups": 1, "dt_min": 0.001}),
    "qwen3_next": lambda: delta("qwen3_next", "Qwen3Next", {"projections": "joint"}),
    "qwen3_5": lambda: delta("qwen3_5", "Qwen3_5Text", {"projections": "parts"}),
    "olmo_hybrid": lambda: delta("olmo_hybrid", "OlmoHybrid", {"projections": "separate", "allow_neg_eigval": True,
                                                               "norm_eps": 1e-5}),
    "lfm2": lambda: (model("lfm2", "Lfm2Config", "Lfm2ShortConv", **HEADS), {"kind": "short_conv", "conv": 3}),
    "lfm2_bias": lambda: (model("lfm2", "Lfm2Config", "Lfm2ShortConv", conv_bias=True, conv_L_cache=4, **HEADS),
                          {"kind": "short_conv", "conv": 4, "bias": True}),
    "kimi_linear": lambda: (model("kimi_linear", "KimiLinearConfig", "KimiLinearDeltaAttention", **KIMI, rms_norm_eps=1e-5),
                            {"kind": "kimi_delta", "heads": 2, "head_dim": 5, "conv": 4, "norm_eps": 1e-5}),
    "bailing_hybrid": lambda: (model("bailing_hybrid", "BailingHybridConfig", "BailingHybridDeltaAttention", **KIMI,
                                     rms_norm_eps=1e-6, kda_safe_gate=True, kda_lower_bound=-2.5),
                               {"kind": "kimi_delta", "heads": 2, "head_dim": 5, "conv": 4, "low_rank": False,
                                "lower_bound": -2.5, "norm_eps": 1e-6}),
    "mamba": lambda: (model("mamba", "MambaConfig", "MambaMixer", state_size=5, time_step_rank=3, use_bias=True),
                      {"kind": "mamba", "inner": 16, "state": 5, "dt_rank": 3, "conv": 4, "bias": True}),
    "falcon_mamba": lambda: (model("falcon_mamba", "FalconMambaConfig", "FalconMambaMixer", {"initialize_mixer_weights": False},
                                   state_size=5, time_step_rank=3, use_conv_bias=False),
                             {"kind": "mamba", "inner": 16, "state": 5, "dt_rank": 3, "conv": 4, "conv_bias": False,
                              "norms": "plain", "norm_eps": 1e-6}),
    "jamba": lambda: (model("jamba", "JambaConfig", "JambaMambaMixer", mamba_d_state=5, mamba_dt_rank=3, rms_norm_eps=1e-5,
                            **HEADS),
                      {"kind": "mamba", "inner": 16, "state": 5, "dt_rank": 3, "conv": 4, "norms": "learned",
                       "norm_eps": 1e-5}),
    "minimax": lambda: (model("minimax", "MiniMaxConfig", "MiniMaxLightningAttention", {"layer_idx": 1}, head_dim=4, num_hidden_layers=3,
                              layer_types=["linear_attention"] * 3, block_size=32, **HEADS),
                        {"kind": "lightning", "heads": 2, "head_dim": 4, "norm_eps": 1e-6}),
    "recurrent_gemma": lambda: (model("recurrent_gemma", "RecurrentGemmaConfig", "RecurrentGemmaRecurrentBlock", lru_width=12, **HEADS),
                                {"kind": "rg_lru", "width": 12, "heads": 2, "conv": 4}),
    "rwkv_time": lambda: (model("rwkv", "RwkvConfig", "RwkvSelfAttention", {"layer_idx": None}, attention_hidden_size=12),
                          {"kind": "rwkv_time", "inner": 12}),
    "rwkv_channel": lambda: (model("rwkv", "RwkvConfig", "RwkvFeedForward", {"layer_idx": None}, intermediate_size=20),
                             {"kind": "rwkv_channel", "hidden": 20}),
    "xlstm": lambda: (model("xlstm", "xLSTMConfig", "xLSTMLayer", {"layer_idx": None}, num_heads=2, v_dim_factor=1.5, chunk_size=16),
                      {"kind": "mlstm", "heads": 2, "key_dim": 2, "value_dim": 6}),
}
# What a module is called with besides its input.
MORE = {
    "minimax": {"position_embeddings": None, "attention_mask": None},
    "recurrent_gemma": {"position_ids": torch.arange(LENGTH)[None], "attention_mask": None, "use_cache": False},
}


def fill(module, generator):
    """Numbers of order one everywhere, so that no part of the formula hides behind another."""
    for name, p in module.named_parameters():
        normal = torch.randn(p.shape, generator=generator)
        if name.endswith("A_log"):
            value = 0.5 * normal - 1
        elif name.endswith(("dt_bias", "bias", "D")):
            value = 0.5 * normal
        elif "norm" in name:
            value = 1 + 0.3 * normal
        elif "conv" in name:
            value = 0.6 * normal
        else:
            value = normal / p.shape[-1] ** 0.5
        p.data.copy_(value)


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    for seed, (name, make) in enumerate(CASES.items()):
        module, mixer = make()
        module = module.float().eval()
        generator = torch.Generator().manual_seed(seed)
        fill(module, generator)
        if name.startswith("falcon_h1"):
            module.mup_vector = torch.ones(1, 1, module.in_proj.out_features)
        x = torch.randn((ROWS, LENGTH, DIM), generator=generator)
        with torch.no_grad():
            y = module(x, **MORE.get(name, {}))
        y = y[0] if isinstance(y, tuple) else y
        tensors = {}
        for key, p in module.named_parameters():
            value = p.data
            if "conv" in key and value.ndim == 3:
                value = value.squeeze(1)
            if key.endswith("A_log") and value.ndim == 4:
                value = value.flatten()
            if "time_mix" in key:
                value = value.flatten()
            tensors[key] = value.contiguous()
        tensors |= {"x": x, "y": y.contiguous()}
        save_file(tensors, OUT / f"{name}.safetensors", {"mixer": json.dumps(mixer), "layer": str(getattr(module, "layer_idx", 0))})
        print(f"{name}: {sum(t.numel() for t in tensors.values()) * 4} bytes, largest output {y.abs().max():.3f}")


if __name__ == "__main__":
    main()
