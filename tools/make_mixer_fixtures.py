"""Makes tests/fixtures/mixers/*.safetensors with the mixers of `transformers` (5.24.0 was used) on PyTorch, and, where it has
none, with the equations of papers in float64: run from the repository root with the python of scripts/peers.sh. Names
after it say which to make; none: all.

Each file holds a mixer's weights under its own names (a convolution's as [channels, kernel]), inputs `x` and outputs `y`
[B, L, D] of one pass, all float32; its metadata say the mixer in our config, and which of three layers it is. Nothing here calls our code.
"""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
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


def with_rounded_buffers(module):
    """As a file in bfloat16 has them."""
    for b in module.buffers():
        b.data.copy_(b.bfloat16())
    return module


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
    "minimax_rounded": lambda: (with_rounded_buffers(
        model("minimax", "MiniMaxConfig", "MiniMaxLightningAttention", {"layer_idx": 1}, head_dim=4, num_hidden_layers=3,
              layer_types=["linear_attention"] * 3, block_size=8, **HEADS)),
        {"kind": "lightning", "heads": 2, "head_dim": 4, "norm_eps": 1e-6, "decays": "bfloat16", "block": 8}),
}
# What a module is called with besides its input.
MORE = {
    "minimax": {"position_embeddings": None, "attention_mask": None},
    "minimax_rounded": {"position_embeddings": None, "attention_mask": None},
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


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def rwkv7_sizes(heads, head_dim, decay, rate, gate, values=0):
    inner = heads * head_dim
    sizes = {f"x_{of}": (DIM,) for of in "rwkvag"} | {"k_k": (inner,), "k_a": (inner,), "r_k": (heads, head_dim)}
    sizes |= {f"{of}_proj.weight": (inner, DIM) for of in "rkv"} | {"o_proj.weight": (DIM, inner)}
    for of, rank in (("w", decay), ("a", rate), ("g", gate), ("v", values)):
        if rank:
            sizes |= {f"{of}_lora.lora.0.weight": (rank, DIM), f"{of}_lora.lora.2.weight": (inner, rank)}
            if of != "g":
                sizes[f"{of}_lora.lora.2.bias"] = (inner,)
    return sizes | {"g_norm.weight": (inner,), "g_norm.bias": (inner,)}


def rwkv7(p, x, first=None):
    """arXiv:2503.14456. x [L, D]; the state has a row for each number of a value."""
    heads, head_dim = p["r_k"].shape
    state = np.zeros((heads, head_dim, head_dim))
    previous, outputs, values = np.zeros_like(x[0]), [], []

    def low_rank(of, inside, act):
        up = p[f"{of}_lora.lora.2.weight"] @ act(p[f"{of}_lora.lora.0.weight"] @ inside)
        return up + p.get(f"{of}_lora.lora.2.bias", 0)

    for t, now in enumerate(x):
        lerp = {of: now + (previous - now) * p[f"x_{of}"] for of in "rwkvag"}
        previous = now
        r, k, v = (p[f"{of}_proj.weight"] @ lerp[of] for of in "rkv")
        values.append(v)
        if first is not None:
            v = v + (first[t] - v) * sigmoid(low_rank("v", lerp["v"], lambda y: y))
        w = np.exp(-np.exp(-0.5) * sigmoid(low_rank("w", lerp["w"], np.tanh)))
        a = sigmoid(low_rank("a", lerp["a"], lambda y: y))
        g = low_rank("g", lerp["g"], sigmoid)
        removal, k = k * p["k_k"], k * (1 + (a - 1) * p["k_a"])
        mixed = []
        for h in range(heads):
            of = slice(h * head_dim, (h + 1) * head_dim)
            kappa = removal[of] / np.linalg.norm(removal[of])
            transition = np.diag(w[of]) - np.outer(kappa, a[of] * kappa)
            state[h] = state[h] @ transition + np.outer(v[of], k[of])
            y = state[h] @ r[of]
            y = (y - y.mean()) / np.sqrt(y.var() + 64e-5) * p["g_norm.weight"][of] + p["g_norm.bias"][of]
            mixed.append(y + (r[of] * k[of] * p["r_k"][h]).sum() * v[of])
        outputs.append(p["o_proj.weight"] @ (np.concatenate(mixed) * g))
    return np.stack(outputs), np.stack(values)


def rwkv7_channel(p, x):
    previous, outputs = np.zeros_like(x[0]), []
    for now in x:
        mixed = now + (previous - now) * (1 - p["time_mix_key"])
        outputs.append(p["value.weight"] @ np.maximum(p["key.weight"] @ mixed, 0) ** 2)
        previous = now
    return np.stack(outputs)


def mamba3_sizes(heads, head_dim, groups, state, angles, norm):
    inner = heads * head_dim
    sizes = {"in_proj.weight": (2 * inner + 2 * groups * state + 3 * heads + angles, DIM), "dt_bias": (heads,), "D": (heads,)}
    sizes |= {"B_bias": (heads, state), "C_bias": (heads, state), "B_norm.weight": (state,), "C_norm.weight": (state,)}
    return sizes | ({"norm.weight": (inner,)} if norm else {}) | {"out_proj.weight": (DIM, inner)}


def mamba3(p, x, groups):
    """The exponential-trapezoidal recurrence with a state turned in complex pairs, one input and output a head."""
    heads, state = p["B_bias"].shape
    inner = p["out_proj.weight"].shape[1]
    head_dim = inner // heads
    angles = p["in_proj.weight"].shape[0] - 2 * inner - 2 * groups * state - 3 * heads
    cuts = np.cumsum([inner, inner, groups * state, groups * state, heads, heads, heads])
    norm = lambda y, eps=1e-5: y / np.sqrt((y * y).mean() + eps)
    total = np.zeros((heads, angles))
    memory, written = np.zeros((heads, state, head_dim)), np.zeros((heads, state, head_dim))
    outputs = []
    for now in x:
        z, v, B, C, dt, rate, share, angle = np.split(p["in_proj.weight"] @ now, cuts)
        dt = np.log1p(np.exp(dt + p["dt_bias"]))
        alpha = np.exp(-dt * np.maximum(np.log1p(np.exp(rate)), 1e-4))
        share = sigmoid(share)
        mixed = []
        for h in range(heads):
            total[h] += dt[h] * np.pi * np.tanh(angle)
            vectors = []
            for of, made in (("B", B), ("C", C)):
                group = h // (heads // groups)
                vector = norm(made[group * state:(group + 1) * state]) * p[f"{of}_norm.weight"] + p[f"{of}_bias"][h]
                turned = (vector[:2 * angles:2] + 1j * vector[1:2 * angles:2]) * np.exp(1j * total[h])
                vectors.append(np.concatenate([np.stack([turned.real, turned.imag], 1).ravel(), vector[2 * angles:]]))
            value = v[h * head_dim:(h + 1) * head_dim]
            outer = np.outer(vectors[0], value)
            memory[h] = (alpha[h] * memory[h] + (1 - share[h]) * dt[h] * alpha[h] * written[h] + share[h] * dt[h] * outer)
            written[h] = outer
            y = vectors[1] @ memory[h] + p["D"][h] * value
            if "norm.weight" in p:
                y = norm(y) * p["norm.weight"][h * head_dim:(h + 1) * head_dim]
            mixed.append(y)
        outputs.append(p["out_proj.weight"] @ (np.concatenate(mixed) * z * sigmoid(z)))
    return np.stack(outputs)


def drawn(sizes, generator):
    """Numbers of order one that float32 holds, so that both sides begin with the same."""
    out = {}
    for name, shape in sizes.items():
        value = generator.standard_normal(shape)
        if "proj" in name or "lora" in name or name in ("key.weight", "value.weight"):
            value = value / shape[-1] ** 0.5 if len(shape) > 1 else 0.5 * value
        elif "norm.weight" in name:
            value = 1 + 0.3 * value
        else:
            value = 0.5 + 0.5 * value
        out[name] = value.astype(np.float32).astype(np.float64)
    return out


def of_paper(name, generator):
    """A mixer in our config, its numbers and x, y of one pass."""
    x = generator.standard_normal((LENGTH, DIM)).astype(np.float32).astype(np.float64)
    goose = {"kind": "rwkv7", "heads": 2, "head_dim": 5, "decay_rank": 3, "rate_rank": 4, "value_rank": 2, "gate_rank": 6}
    if name == "rwkv7":
        p = drawn(rwkv7_sizes(2, 5, 3, 4, 6), generator)
        return goose, p, x, rwkv7(p, x)[0]
    if name == "rwkv7_values":  # two layers, the second with a share of the first's values
        p, q = (drawn(rwkv7_sizes(2, 5, 3, 4, 6, values), generator) for values in (0, 2))
        between, values = rwkv7(p, x)
        both = {f"0.{key}": value for key, value in p.items()} | {f"1.{key}": value for key, value in q.items()}
        return goose, both, x, rwkv7(q, between, values)[0]
    if name == "rwkv7_channel":
        p = drawn({"time_mix_key": (DIM,), "key.weight": (20, DIM), "value.weight": (DIM, 20)}, generator)
        return {"kind": "rwkv_channel", "hidden": 20, "gate": False}, p, x, rwkv7_channel(p, x)
    sizes = {"heads": 4, "head_dim": 4, "groups": 2, "state": 6, "angles": 2, "norm": False}
    if name == "mamba3_norm":
        sizes = {"heads": 3, "head_dim": 5, "groups": 1, "state": 6, "angles": 3, "norm": True}
    p = drawn(mamba3_sizes(**sizes), generator)
    return {"kind": "mamba3"} | sizes, p, x, mamba3(p, x, sizes["groups"])


PAPERS = {"rwkv7": OUT, "rwkv7_channel": OUT, "mamba3": OUT, "mamba3_norm": OUT, "rwkv7_values": OUT.parent / "values"}


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    wanted = sys.argv[1:] or [*CASES, *PAPERS]
    for seed, (name, folder) in enumerate(PAPERS.items()):
        if name not in wanted:
            continue
        mixer, p, x, y = of_paper(name, np.random.default_rng(seed))
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {key: torch.from_numpy(value.astype(np.float32)) for key, value in p.items()}
        tensors |= {"x": torch.from_numpy(x.astype(np.float32))[None], "y": torch.from_numpy(y.astype(np.float32))[None]}
        save_file(tensors, folder / f"{name}.safetensors", {"mixer": json.dumps(mixer), "layer": "0"})
        print(f"{name}: {sum(t.numel() for t in tensors.values()) * 4} bytes, largest output {np.abs(y).max():.3f}")
    for seed, (name, make) in enumerate(CASES.items()):
        if name not in wanted:
            continue
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
