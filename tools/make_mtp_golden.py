#!/usr/bin/env python3
"""Makes tests/training/fixtures/mtp.safetensors: multi-token prediction in torch, written from the paper alone.

Run with the Python of the peers' environment. A Llama of one layer with two heads (DeepSeek-V3, arXiv:2412.19437, 2.2,
equations 21 to 25; the projection reads the embedding first, as in DeepSeek's checkpoints) in float64, one text at a time:
no masks for what a head may learn, no packing.

  weight.NAME: the parameters, by the paths of our tree
  plain.tokens [2, 13]: two texts, all of whose tokens are learned
  packed.tokens, packed.documents, packed.learned [2, 12]: several texts a row, -1 where there is none; whether the token
    behind is learned
  CASE.loss: with weight LAMBDA, the sum over tokens; CASE.main, CASE.head_K: its parts; CASE.hits_K, CASE.count_K: tokens
    that are a head's most likely one, and all that it learns; CASE.gradient.NAME
"""
import pathlib

import numpy as np
import torch
from safetensors.numpy import save_file

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests/training/fixtures/mtp.safetensors"
DIM, HEADS, KV, HEAD, HIDDEN, VOCAB, EPS, THETA, LAMBDA, DEPTHS = 16, 2, 1, 8, 24, 13, 1e-5, 10000.0, 0.3, 2


def parameters(rng):
    out = {"model.embed_tokens.weight": (VOCAB, DIM), "model.norm.weight": (DIM,)}
    blocks = ["model.layers.0."] + [f"model.mtp_heads.{k}." for k in range(DEPTHS)]
    for block in blocks:
        out |= {
            block + "self_attn.q_proj.weight": (HEADS * HEAD, DIM),
            block + "self_attn.k_proj.weight": (KV * HEAD, DIM),
            block + "self_attn.v_proj.weight": (KV * HEAD, DIM),
            block + "self_attn.o_proj.weight": (DIM, HEADS * HEAD),
            block + "mlp.gate_proj.weight": (HIDDEN, DIM),
            block + "mlp.up_proj.weight": (HIDDEN, DIM),
            block + "mlp.down_proj.weight": (DIM, HIDDEN),
            block + "input_layernorm.weight": (DIM,),
            block + "post_attention_layernorm.weight": (DIM,),
        }
    for block in blocks[1:]:
        out |= {block + "eh_proj.weight": (DIM, 2 * DIM)}
        out |= {block + name + ".weight": (DIM,) for name in ("enorm", "hnorm", "shared_head.norm")}
    values = {}
    for name, shape in sorted(out.items()):
        near = 1.0 if len(shape) == 1 else 0.0
        scale = 0.2 if len(shape) == 1 else 0.5
        values[name] = (near + scale * rng.standard_normal(shape)).astype(np.float32)
    return values


def rms(x, w):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + EPS) * w


def turned(x):  # [H, L, Dh], by position
    half = HEAD // 2
    angle = torch.arange(x.shape[1], dtype=x.dtype)[:, None] * THETA ** (-torch.arange(half, dtype=x.dtype) / half)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)


def block(x, p, at):
    w = lambda name: p[at + name + ".weight"]
    n = rms(x, w("input_layernorm"))
    q, k, v = (
        (n @ w(f"self_attn.{s}_proj").T).reshape(len(x), -1, HEAD).transpose(0, 1) for s in ("q", "k", "v")
    )
    q, k = turned(q), turned(k)
    k, v = k.repeat_interleave(HEADS // KV, 0), v.repeat_interleave(HEADS // KV, 0)
    scores = q @ k.transpose(1, 2) / HEAD**0.5
    scores = scores.masked_fill(torch.ones(len(x), len(x), dtype=torch.bool).triu(1), -torch.inf)
    x = x + (scores.softmax(-1) @ v).transpose(0, 1).reshape(len(x), -1) @ w("self_attn.o_proj").T
    n = rms(x, w("post_attention_layernorm"))
    return x + (torch.nn.functional.silu(n @ w("mlp.gate_proj").T) * (n @ w("mlp.up_proj").T)) @ w("mlp.down_proj").T


def text_losses(p, tokens, learned):
    """Of one text t_0 ... t_{m-1}: the summed losses of the model and of each head, hits and counts of the heads."""
    embed = p["model.embed_tokens.weight"]
    m = len(tokens)
    h = rms(block(embed[tokens], p, "model.layers.0."), p["model.norm.weight"])
    losses, hits, counts = [], [], []
    for k in range(DEPTHS + 1):
        if k > 0:
            at = f"model.mtp_heads.{k - 1}."
            n = max(0, m - k)
            if n == 0:
                losses.append(torch.zeros((), dtype=torch.float64)), hits.append(0), counts.append(0)
                continue
            both = torch.cat([rms(embed[tokens[k:]], p[at + "enorm.weight"]), rms(h[:n], p[at + "hnorm.weight"])], -1)
            h = rms(block(both @ p[at + "eh_proj.weight"].T, p, at), p[at + "shared_head.norm.weight"])
        logp = (h @ embed.T).log_softmax(-1)
        loss, hit, count = torch.zeros((), dtype=torch.float64), 0, 0
        for i in range(m - k - 1):  # h_i^k says t_{i+k+1}
            if not learned[i + k + 1]:
                continue
            loss = loss - logp[i, tokens[i + k + 1]]
            hit += int(logp[i].argmax() == tokens[i + k + 1])
            count += 1
        losses.append(loss), hits.append(hit), counts.append(count)
    return losses, hits, counts


def case(name, values, texts, out):
    p = {k: torch.tensor(v, dtype=torch.float64, requires_grad=True) for k, v in values.items()}
    all_losses, all_hits, all_counts = zip(*(text_losses(p, torch.tensor(t), l) for t, l in texts))
    sums = [sum(l) for l in zip(*all_losses)]
    loss = sums[0] + LAMBDA / DEPTHS * sum(sums[1:])
    loss.backward()
    put = lambda key, v: out.__setitem__(f"{name}.{key}", np.array(v, dtype=np.float32))
    put("loss", loss.item()), put("main", sums[0].item())
    for k in range(1, DEPTHS + 1):
        put(f"head_{k}", sums[k].item())
        put(f"hits_{k}", sum(h[k] for h in all_hits)), put(f"count_{k}", sum(c[k] for c in all_counts))
    for key, v in p.items():
        put("gradient." + key, v.grad.numpy())
    print(name, loss.item(), [s.item() for s in sums], [sum(c) for c in zip(*all_counts)])


def main():
    rng = np.random.default_rng(21)
    values = parameters(rng)
    out = {"weight." + k: v for k, v in values.items()}
    plain = rng.integers(0, VOCAB, (2, 13)).astype(np.int32)
    out["plain.tokens"] = plain
    case("plain", values, [(row, np.ones(13, bool)) for row in plain], out)

    tokens = rng.integers(0, VOCAB, (2, 12)).astype(np.int32)
    documents = np.array([[0] * 7 + [1] * 5, [0] * 2 + [1] * 7 + [-1] * 3], np.int32)
    learned = rng.random((2, 12)) < 0.8
    loss = np.zeros((2, 12), bool)
    texts = []
    for r in range(2):
        for d in range(documents[r].max() + 1):
            at = np.flatnonzero(documents[r] == d)
            texts.append((tokens[r, at], learned[r, at]))
            loss[r, at[:-1]] = learned[r, at[1:]]
    out |= {"packed.tokens": tokens, "packed.documents": documents, "packed.learned": loss}
    case("packed", values, texts, out)
    save_file(out, OUT)


if __name__ == "__main__":
    main()
