#!/usr/bin/env python3
"""Makes tests/fixtures/moe/: what the mixture-of-experts modules of transformers make of some tokens, a file a family.

Run with the Python of the peers' environment (scripts/peers.sh). Modules run in float64, except where they ask for float32
(most routers do), in evaluation, with random weights.

FAMILY.safetensors  x [tokens, dim], y [tokens, dim]; the weights by lmxlab's names; metadata "moe": the config table
"""
import importlib
import json
import pathlib
from types import SimpleNamespace

import torch
from safetensors.torch import save_file

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests/fixtures/moe"
TOKENS, DIM, HIDDEN, EXPERTS, TOP_K, SHARED = 40, 8, 6, 8, 3, 10

# Every name that some family gives to the same number.
BASE = dict(
    hidden_size=DIM, d_model=DIM, intermediate_size=HIDDEN, moe_intermediate_size=HIDDEN, expert_ffn_hidden_size=HIDDEN,
    ffn_hidden_size=HIDDEN, intermediate_size_mlp=SHARED, num_experts=EXPERTS, num_local_experts=EXPERTS,
    n_routed_experts=EXPERTS, moe_num_experts=EXPERTS, num_experts_per_tok=TOP_K, moe_topk=TOP_K, moe_top_k=TOP_K,
    top_k_experts=TOP_K, hidden_act="silu", hidden_activation="gelu_pytorch_tanh", mlp_hidden_act="relu2",
    norm_topk_prob=True, n_group=1, topk_group=1, routed_scaling_factor=1.0, router_jitter_noise=0.01,
    input_jitter_noise=0.0, mlp_bias=False, use_bias=False, use_expert_bias=True, rms_norm_eps=1e-6,
    _experts_implementation="eager")


def config(**more):
    return SimpleNamespace(**{**BASE, **more})


def module(family, name, *args):
    found = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    m = getattr(found, name)(*args).double().eval()
    generator = torch.Generator().manual_seed(len(family) * 31 + len(name))
    with torch.no_grad():
        for key, p in sorted(m.state_dict(keep_vars=True).items()):
            spread = 0.2 if key.endswith("bias") else 0.5
            # Weights are float32 numbers, so that lmxlab has the same.
            values = (torch.randn(p.shape, generator=generator) * spread).double()
            p.copy_(values + 1 if "scale" in key.split(".")[-1] else values)
    return m


def halves(gate_up):
    half = gate_up.shape[1] // 2
    return gate_up[:, :half], gate_up[:, half:]


def stacked(experts, gate, prefix="experts."):
    """Of modules whose experts lie as [E, 2 hidden, dim] and [E, dim, hidden]."""
    out = {"gate.weight": gate, prefix + "down_proj.weight": experts.down_proj}
    if hasattr(experts, "gate_up_proj"):
        out[prefix + "gate_proj.weight"], out[prefix + "up_proj.weight"] = halves(experts.gate_up_proj)
    else:
        out[prefix + "up_proj.weight"] = experts.up_proj
    return out


def shared(mlp, names=("gate_proj", "up_proj", "down_proj")):
    ours = ("gate_proj", "up_proj", "down_proj")
    return {f"shared_experts.{o}.{leaf}": getattr(getattr(mlp, n), leaf)
            for o, n in zip(ours, names) if n and hasattr(mlp, n)
            for leaf in ("weight", "bias") if getattr(getattr(mlp, n), leaf) is not None}


def bias(values):
    return {"gate.e_score_correction_bias": values.reshape(-1)}


CASES = {}


def case(f):
    CASES[f.__name__] = f
    return f


def block(family, name, gate="gate", **cfg):
    m = module(family, name, config(**cfg))
    return m, stacked(m.experts, getattr(m, gate).weight)


@case
def mixtral():
    m, w = block("mixtral", "MixtralSparseMoeBlock")
    return m, w, {}


@case
def qwen2_moe():
    m, w = block("qwen2_moe", "Qwen2MoeSparseMoeBlock", shared_expert_intermediate_size=SHARED, norm_topk_prob=False)
    w |= shared(m.shared_expert) | {"shared_expert_gate.weight": m.shared_expert_gate.weight}
    return m, w, {"scoring": "softmax", "shared": SHARED, "shared_gate": True}


@case
def qwen3_moe():
    m, w = block("qwen3_moe", "Qwen3MoeSparseMoeBlock")
    return m, w, {"scoring": "softmax", "normalize": 1}


@case
def olmoe():
    m, w = block("olmoe", "OlmoeSparseMoeBlock", norm_topk_prob=False)
    return m, w, {"scoring": "softmax"}


@case
def phimoe():
    m, w = block("phimoe", "PhimoeSparseMoeBlock", gate="router", num_experts_per_tok=2, router_jitter_noise=0.3)
    return m, w, {"top_k": 2, "scoring": "sparsemixer", "jitter": 0.3}


@case
def dbrx():
    inner = config(hidden_size=DIM, ffn_act_fn={"name": "silu"}, moe_jitter_eps=None, moe_normalize_expert_weights=2.0)
    m = module("dbrx", "DbrxFFN", config(ffn_config=inner))
    w1, v1, w2 = (getattr(m.experts.mlp, n).view(EXPERTS, HIDDEN, DIM) for n in ("w1", "v1", "w2"))
    return m, {"gate.weight": m.router.layer.weight, "experts.gate_proj.weight": w1, "experts.up_proj.weight": v1,
               "experts.down_proj.weight": w2.transpose(1, 2)}, {"scoring": "softmax", "normalize": 2}


@case
def granitemoe():
    m, w = block("granitemoe", "GraniteMoeMoE", gate="router")
    return m, w, {}


@case
def granitemoeshared():
    m, w = block("granitemoeshared", "GraniteMoeSharedMoE", gate="router")
    mlp = module("granitemoeshared", "GraniteMoeSharedMLP", config(shared_intermediate_size=SHARED))
    both = mlp.input_linear.weight
    w |= {"shared_experts.gate_proj.weight": both[:SHARED], "shared_experts.up_proj.weight": both[SHARED:],
          "shared_experts.down_proj.weight": mlp.output_linear.weight}
    return (lambda x: m(x) + mlp(x)), w, {"shared": SHARED}


@case
def gpt_oss():
    m = module("gpt_oss", "GptOssMLP", config(swiglu_alpha=1.702, swiglu_limit=1.0))
    e = m.experts
    both, both_bias = e.gate_up_proj.transpose(1, 2), e.gate_up_proj_bias
    w = {"gate.weight": m.router.weight, "gate.bias": m.router.bias,
         "experts.gate_proj.weight": both[:, ::2], "experts.gate_proj.bias": both_bias[:, ::2],
         "experts.up_proj.weight": both[:, 1::2], "experts.up_proj.bias": both_bias[:, 1::2],
         "experts.down_proj.weight": e.down_proj.transpose(1, 2), "experts.down_proj.bias": e.down_proj_bias}
    return m, w, {"bias": True, "clamp": 1.0, "alpha": 1.702, "up_offset": 1, "router_bias": True}


@case
def deepseek_v2():
    m, w = block("deepseek_v2", "DeepseekV2Moe", topk_method="group_limited_greedy", n_group=4, topk_group=2,
                 routed_scaling_factor=1.5, n_shared_experts=2)
    return m, w | shared(m.shared_experts), {"scoring": "softmax", "groups": 4, "groups_kept": 2, "group_score": "max",
                                             "scale": 1.5, "shared": 2 * HIDDEN}


def like_v3(family, name, shared_key="n_shared_experts", **cfg):
    cfg = {"n_group": 4, "topk_group": 2, "routed_scaling_factor": 2.5, shared_key: 1, **cfg}
    m, w = block(family, name, **cfg)
    ours = {"scoring": "sigmoid", "selection_bias": True, "normalize": 1, "norm_eps": 1e-20, "scale": 2.5,
            "groups": cfg["n_group"], "groups_kept": cfg["topk_group"]}
    w |= bias(m.gate.e_score_correction_bias)
    if hasattr(m, "shared_experts"):
        w |= shared(m.shared_experts)
        ours["shared"] = m.shared_experts.down_proj.weight.shape[1]
    return m, w, ours


@case
def deepseek_v3():
    return like_v3("deepseek_v3", "DeepseekV3MoE")


@case
def kimi_linear():
    return like_v3("kimi_linear", "KimiLinearMoE")


@case
def glm4_moe():
    return like_v3("glm4_moe", "Glm4MoeMoE", n_group=1, topk_group=1)


@case
def dots1():
    return like_v3("dots1", "Dots1MoE", n_group=2, topk_group=1)


@case
def bailing_hybrid():
    return like_v3("bailing_hybrid", "BailingHybridMoE")


@case
def exaone_moe():
    return like_v3("exaone_moe", "ExaoneMoeSparseMoEBlock", "num_shared_experts")


@case
def solar_open():
    return like_v3("solar_open", "SolarOpenMoE", n_group=1, topk_group=1)


@case
def mimo_v2_flash():
    return like_v3("mimo_v2_flash", "MiMoV2FlashMoE")


@case
def nemotron_h():
    latent = 5
    m, w, ours = like_v3("nemotron_h", "NemotronHMoE", moe_latent_size=latent, mlp_bias=True,
                         moe_shared_expert_intermediate_size=SHARED)
    for name in ("fc1_latent_proj", "fc2_latent_proj"):
        w |= {f"{name}.{leaf}": getattr(getattr(m, name), leaf) for leaf in ("weight", "bias")}
    return m, w, ours | {"act": "relu2", "gated": False, "latent": latent, "shared_bias": True}


@case
def ernie4_5_moe():
    m, w = block("ernie4_5_moe", "Ernie4_5_MoeSparseMoeBlock", moe_num_shared_experts=2, moe_norm_min=0.5, use_bias=True)
    return m, w | shared(m.shared_experts) | bias(m.gate.moe_statics.e_score_correction_bias), {
        "scoring": "softmax", "selection_bias": True, "normalize": 1, "norm_min": 0.5, "shared": 2 * HIDDEN,
        "shared_bias": True}


@case
def minimax():
    m, w = block("minimax", "MiniMaxSparseMoeBlock")
    return m, w, {"scoring": "softmax", "normalize": 1}


@case
def minimax_m2():
    m, w = block("minimax_m2", "MiniMaxM2SparseMoeBlock")
    return m, w | bias(m.e_score_correction_bias), {"scoring": "sigmoid", "selection_bias": True, "normalize": 1}


@case
def hunyuan_v1_moe():
    m = module("hunyuan_v1_moe", "HunYuanMoEV1Moe", config())
    return m, stacked(m.experts, m.gate.wg.weight) | shared(m.shared_mlp), {
        "scoring": "softmax", "normalize": 1, "shared": HIDDEN}


@case
def llama4():
    m = module("llama4", "Llama4TextMoe", config(num_experts_per_tok=1))
    gate, up = halves(m.experts.gate_up_proj.transpose(1, 2))
    w = {"gate.weight": m.router.weight, "experts.gate_proj.weight": gate, "experts.up_proj.weight": up,
         "experts.down_proj.weight": m.experts.down_proj.transpose(1, 2)}
    return m, w | shared(m.shared_expert), {"top_k": 1, "scoring": "sigmoid", "input_scaled": True, "shared": HIDDEN}


@case
def afmoe():
    m = module("afmoe", "AfmoeSparseMoeBlock", config(num_shared_experts=1, route_scale=1.7))
    return m, stacked(m.experts, m.router.gate.weight) | shared(m.shared_experts) | bias(m.expert_bias), {
        "scoring": "sigmoid", "selection_bias": True, "normalize": 1, "norm_eps": 1e-20, "scale": 1.7, "shared": HIDDEN}


@case
def lfm2_moe():
    m, w = block("lfm2_moe", "Lfm2MoeSparseMoeBlock", routed_scaling_factor=1.3)
    return m, w | bias(m.expert_bias), {"scoring": "sigmoid", "selection_bias": True, "normalize": 1, "norm_eps": 1e-6,
                                        "scale": 1.3}


@case
def jamba():
    m, w = block("jamba", "JambaSparseMoeBlock", gate="router")
    return m, w, {"scoring": "softmax"}


@case
def gemma4():
    """The router and the experts, of the same x: what norms and the dense FFN make of it is the block's."""
    router, experts = module("gemma4", "Gemma4TextRouter", config()), module("gemma4", "Gemma4TextExperts", config())
    w = stacked(experts, router.proj.weight)
    w |= {"gate.scale": router.scale, "gate.per_expert_scale": router.per_expert_scale}

    def run(x):
        flat = x.reshape(-1, DIM)
        _, weights, index = router(flat)
        return experts(flat, index, weights).reshape(x.shape)
    return run, w, {"act": "gelu_tanh", "scoring": "softmax", "normalize": 1, "router_norm": 1e-6, "expert_scale": True}


@case
def longcat_flash():
    zero = 4
    m = module("longcat_flash", "LongcatFlashMoE", config(zero_expert_num=zero, routed_scaling_factor=6.0))
    gate, up = halves(m.experts.gate_up_proj[:EXPERTS])
    w = {"gate.weight": m.router.classifier.weight, "experts.gate_proj.weight": gate, "experts.up_proj.weight": up,
         "experts.down_proj.weight": m.experts.down_proj}
    return m, w | bias(m.router.e_score_correction_bias), {"scoring": "softmax", "selection_bias": True, "scale": 6.0,
                                                           "zero_experts": zero}


@case
def laguna():
    m, w = block("laguna", "LagunaSparseMoeBlock", shared_expert_intermediate_size=SHARED, moe_router_logit_softcapping=2.0,
                 moe_routed_scaling_factor=2.5)
    return m, w | shared(m.shared_experts) | bias(m.gate.e_score_correction_bias), {
        "scoring": "sigmoid", "selection_bias": True, "normalize": 1, "router_softcap": 2.0, "scale": 2.5,
        "shared": SHARED}


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    x = torch.randn((1, TOKENS, DIM), generator=torch.Generator().manual_seed(7)).double()
    for name, make in CASES.items():
        run, weights, ours = make()
        with torch.no_grad():
            y = run(x.clone())
        y = y[0] if isinstance(y, tuple) else y
        tensors = {k: v.detach().float().contiguous() for k, v in weights.items()}
        tensors |= {"x": x[0].float().contiguous(), "y": y.reshape(TOKENS, DIM).float().contiguous()}
        table = {"kind": "moe", "experts": EXPERTS, "top_k": TOP_K, "hidden": HIDDEN, **ours}
        save_file(tensors, OUT / f"{name}.safetensors", {"moe": json.dumps(table)})
        print(f"{name:18} |y| up to {y.abs().max():.3f}")


if __name__ == "__main__":
    main()
