#!/usr/bin/env python3
"""Makes tests/fixtures/models/NAME/: tiny random models of transformers with what PyTorch computes from them.

    python tools/make_model_fixtures.py        (needs torch, transformers and safetensors)

Each folder is a model in Hugging Face layout and `reference.safetensors`:
    input_ids     int32 [2, T]
    logits        float32 [2, T, V]
    loss          float32 [], mean over the 2 (T - 1) next tokens
    grad.NAME     gradient of that loss for the parameter NAME of transformers, where the folder has gradients
    train_ids     int32 [10, 2, T + 1], train_losses float32 [10]: the losses before each step of torch.optim.AdamW
                  (lr 1e-3, betas 0.9 and 0.999, eps 1e-8, no weight decay, no clipping), one batch a step,
                  three batches in turn
    greedy_ids    int32 [16]: greedy continuation of row 0, each step computed again over the whole sequence
Everything is computed in float64 (transformers itself keeps norms and rotary tables in float32) and rounded once.
"""

import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

OUT = Path(__file__).resolve().parents[1] / "tests/fixtures/models"
T, V, GREEDY, STEPS = 12, 67, 16, 10
logging.disable_progress_bar()


def gpt2(**changes):
    sizes = dict(vocab_size=V, n_positions=T + GREEDY + 4, n_embd=32, n_layer=2, n_head=4, resid_pdrop=0, embd_pdrop=0,
                 attn_pdrop=0, bos_token_id=0, eos_token_id=0)
    return GPT2LMHeadModel(GPT2Config(**sizes | changes, attn_implementation="eager"))


def llama(**changes):
    sizes = dict(vocab_size=V, hidden_size=32, intermediate_size=56, num_hidden_layers=2, num_attention_heads=4,
                 num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-6, bos_token_id=0, eos_token_id=0,
                 rope_parameters={"rope_type": "default", "rope_theta": 500000.0}, tie_word_embeddings=False)
    return LlamaForCausalLM(LlamaConfig(**sizes | changes, attn_implementation="eager"))


# name: how it is built, and whether its gradients are kept
MODELS = {
    "gpt2_gelu_new": (lambda: gpt2(activation_function="gelu_new"), True),
    "gpt2_gelu_untied": (lambda: gpt2(activation_function="gelu", tie_word_embeddings=False), False),
    "llama_gqa": (lambda: llama(), True),
    "llama_bias_tied": (lambda: llama(attention_bias=True, tie_word_embeddings=True), False),
}


def loss_of(model, ids):
    logits = model(ids[:, :-1]).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


def greedy(model, ids):
    """The continuation, and the smallest gap between the best two logits."""
    out, margin = [], float("inf")
    with torch.no_grad():
        for _ in range(GREEDY):
            best = model(ids).logits[0, -1].topk(2)
            margin = min(margin, (best.values[0] - best.values[1]).item())
            out.append(best.indices[0].item())
            ids = torch.cat([ids, best.indices[:1][None]], 1)
    return out, margin


def make(name, build, with_gradients, seed):
    torch.manual_seed(seed)
    model = build()
    for parameter_name, p in model.named_parameters():  # of order one, so that every part matters
        norm = "ln_" in parameter_name or "norm" in parameter_name
        mean = 1.0 if norm and parameter_name.endswith("weight") else 0.0
        torch.nn.init.normal_(p, mean, 0.2)
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    model = model.double().eval()
    ids = torch.randint(0, V, (2, T))
    tokens, margin = greedy(model, ids[:1])
    if margin < 0.02 or len(set(tokens)) < 4:
        return False
    ref = {"input_ids": ids.int(), "greedy_ids": torch.tensor(tokens).int(), "logits": model(ids).logits.float()}
    loss = loss_of(model, ids)
    loss.backward()
    ref["loss"] = loss.float()
    if with_gradients:
        ref |= {"grad." + n: p.grad.float() for n, p in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0)
    batches = torch.randint(0, V, (3, 2, T + 1))  # repeated, so that learning shows in the losses
    ref["train_ids"] = torch.stack([batches[i % 3] for i in range(STEPS)]).int()
    losses = []
    for batch in ref["train_ids"].long():
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    ref["train_losses"] = torch.tensor(losses)
    save_file({n: t.detach().contiguous() for n, t in ref.items()}, folder / "reference.safetensors")
    for file in folder.iterdir():
        file.chmod(0o644)
    print(f"{name}: seed {seed}, loss {ref['loss'].item():.4f}, losses {losses[0]:.4f} ... {losses[-1]:.4f}, "
          f"greedy margin {margin:.3f}, logits up to {ref['logits'].abs().max().item():.2f}")
    return True


for number, (name, (build, with_gradients)) in enumerate(MODELS.items()):
    if not any(make(name, build, with_gradients, 100 * number + trial) for trial in range(100)):
        raise SystemExit(f"{name}: no seed gave a greedy continuation with a clear margin")
