"""Makes tests/fixtures/lmxlab/*: checkpoints of the Python package `lmxlab` 0.4.0 (of PyPI, with `mlx[cpu]`), run from the
repository root with a Python 3.12 that has both.

A folder holds what lmxlab saves of a small model, and reference.safetensors with `input_ids` [2, 24] and its `logits`. Weights
are drawn anew with a spread of one over the root of their inputs, so that every part of a model counts. Texts are shorter than
a chunk of its state spaces, whose second chunk it computes wrongly, and a branch of kind "none" is left out here instead of
adding a norm of the stream, as lmxlab does. Nothing here calls our code.
"""

import math
from pathlib import Path

import mlx.core as mx
import mlx.utils
from lmxlab.core.block import ConfigurableBlock
from lmxlab.models.base import LanguageModel
from lmxlab.models.deepseek import deepseek_config, deepseek_v3_config
from lmxlab.models.falcon import falcon_h1_config
from lmxlab.models.gemma import gemma_config
from lmxlab.models.jamba import jamba_config
from lmxlab.models.llama import llama_config
from lmxlab.models.mixtral import mixtral_config
from lmxlab.models.nemotron import nemotron3_config
from lmxlab.training.checkpoints import save_checkpoint

OUT = Path("tests/fixtures/lmxlab")
SIZES = dict(vocab_size=48, d_model=24, n_heads=4, d_ff=40, max_seq_len=64)
LAYERS = dict(n_layers=2)
KEYS = dict(n_kv_heads=2)
MAMBA = dict(mamba_n_heads=4, mamba_head_dim=12, ssm_state_size=6, mamba_expand=2, mamba_n_groups=1, mamba_chunk_size=32)
MODELS = {
    "llama": llama_config(**SIZES, **LAYERS, **KEYS),
    "gemma": gemma_config(**SIZES, **LAYERS, n_kv_heads=1),
    "mixtral": mixtral_config(**SIZES, **LAYERS, **KEYS, n_experts=4, top_k_experts=2),
    "deepseek": deepseek_config(**SIZES, **LAYERS, kv_lora_rank=10, q_lora_rank=14, rope_dim=2),
    "deepseek_v3": deepseek_v3_config(**SIZES, n_layers=2, kv_lora_rank=10, q_lora_rank=14, rope_dim=4, n_experts=4,
                                      top_k_experts=2, n_shared_experts=2, n_dense_layers=1),
    "falcon_h1": falcon_h1_config("M*", **SIZES, **KEYS, **MAMBA),
    "jamba": jamba_config(**SIZES, n_layers=2, **KEYS, **MAMBA, n_experts=4, top_k_experts=2, moe_every=1, attn_every=2),
    "nemotron": nemotron3_config("ME*-", **SIZES, **KEYS, **MAMBA, n_experts=4, top_k_experts=2, moe_latent_size=12,
                                 moe_d_ff=20, shared_expert_d_ff=28, moe_routed_scaling_factor=2.5, moe_n_groups=1, moe_topk_groups=1),
}


def without_empty_branches(self, x, mask, cache):
    state = None
    if self.config.attention != "none":
        h, state = self.attention(self.attn_norm(x), mask=mask, cache=cache, rope=self._rope)
        x = x + h
    if self.config.ffn != "none":
        x = x + self.ffn(self.ffn_norm(x))
    return x, state


def drawn(name, weight, key):
    if name.endswith("A_log") or name.endswith("dt_bias"):
        return mx.random.uniform(-1, 1, weight.shape, key=key)
    if weight.ndim < 2:
        return 1 + 0.3 * mx.random.normal(weight.shape, key=key) if "norm" in name or name.endswith(".D") else 0.2 * mx.random.normal(
            weight.shape, key=key)
    return mx.random.normal(weight.shape, key=key) / math.sqrt(weight.shape[-1])


def main():
    ConfigurableBlock._pre_norm_forward = without_empty_branches
    for number, (name, config) in enumerate(MODELS.items()):
        model = LanguageModel(config)
        weights = []
        for i, (path, weight) in enumerate(mlx.utils.tree_flatten(model.parameters())):
            # Of a latent mixture the bias counts in the weights there, which is not what it is for.
            kept = path.endswith("score_correction_bias")
            weights.append((path, weight if kept else drawn(path, weight, mx.random.key(1000 * number + i))))
        model.load_weights(weights)
        ids = mx.random.randint(0, 48, (2, 24), key=mx.random.key(number))
        logits = model(ids)[0]
        mx.eval(logits)
        save_checkpoint(OUT / name, model, step=7)
        mx.save_safetensors(str(OUT / name / "reference.safetensors"), {"input_ids": ids.astype(mx.int32), "logits": logits})
        print(name, logits.shape, float(mx.abs(logits).max()))


main()
