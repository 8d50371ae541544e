#!/usr/bin/env python3
"""Makes tests/fixtures/optimizers/: trajectories of torch's optimizers and schedules of transformers.

Run with the Python of the peers' environment (torch, transformers, lion-pytorch, safetensors, numpy). All references
run in float64, so that the difference to lmxlab is lmxlab's own rounding.

optimizers.safetensors  param.NAME, grad.NAME [steps, ...], lr [steps]; CASE [3, N]: all parameters in the order of the
                        metadata's "params", flattened, after steps 1, 2 and the last; metadata "cases": the
                        [optimizer] table of each
schedules.json          a list of {schedule: the table, total, values}, the values for a peak of 1 at every step
"""
import json
import math
import pathlib

import lion_pytorch
import numpy as np
import torch
import transformers
from safetensors.numpy import save_file

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests/fixtures/optimizers"
STEPS = 20
PARAMS = {
    "embed_tokens.weight": (5, 3),
    "layers.0.up.weight": (6, 4),
    "layers.0.down.weight": (3, 8),
    "layers.0.conv.weight": (2, 3, 4),
    "layers.0.norm.weight": (7,),
}

torch.set_default_dtype(torch.float64)


def data():
    rng = np.random.default_rng(20)
    params = {n: (rng.standard_normal(s) * 0.5).astype(np.float32) for n, s in PARAMS.items()}
    scale = np.exp(rng.standard_normal(STEPS) * 0.5) * 0.1
    scale[9] *= 20  # one spike, as training has them
    grads = {}
    for n, s in PARAMS.items():
        g = rng.standard_normal((STEPS, *s)) * scale.reshape(-1, *[1] * len(s))
        if len(s) == 1:
            g[:, 2] = 0  # an entry that never gets a gradient
        grads[n] = g.astype(np.float32)
    t = np.arange(STEPS)
    lr = np.where(t < 4, (t + 1) / 4, 0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * (t - 4) / (STEPS - 4))))
    return params, grads, (lr * 0.02).astype(np.float32)


def groups(tensors, decay, which):
    """Parameter groups with decay and without, by the meaning of the option `decay`."""
    def decays(name, t):
        if which == "all":
            return True
        return t.ndim >= 2 and not (which == "hidden" and "embed" in name)
    yes = [t for n, t in tensors.items() if decays(n, t)]
    no = [t for n, t in tensors.items() if not decays(n, t)]
    return [g for g in ({"params": yes, "weight_decay": decay}, {"params": no, "weight_decay": 0.0}) if g["params"]]


class PlainAdamW:
    """AdamW without bias correction, which torch does not offer."""

    def __init__(self, param_groups, betas, eps):
        self.param_groups, self.betas, self.eps, self.state = param_groups, betas, eps, {}

    @torch.no_grad()
    def step(self):
        b1, b2 = self.betas
        for group in self.param_groups:
            for p in group["params"]:
                m, v = self.state.get(p, (torch.zeros_like(p), torch.zeros_like(p)))
                m, v = b1 * m + (1 - b1) * p.grad, b2 * v + (1 - b2) * p.grad**2
                self.state[p] = (m, v)
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_(group["lr"] * m / (v.sqrt() + self.eps))


def references(table, tensors):
    """The reference's optimizers, as (optimizer, factor on lr)."""
    name = table["name"]
    decay = table.get("weight_decay", {"adamw": 0.01, "muon": 0.1}.get(name, 0.0))
    which = table.get("decay", "matrices")
    adam = {"betas": tuple(table.get("betas", (0.9, 0.999))), "eps": table.get("eps", 1e-8)}
    if name == "adamw":
        kind = torch.optim.AdamW if table.get("bias_correction", True) else PlainAdamW
        return [(kind(groups(tensors, decay, which), **adam), 1.0)]
    if name == "sgd":
        return [(torch.optim.SGD(groups(tensors, decay, which), lr=1.0, momentum=table.get("momentum", 0.0),
                                 nesterov=table.get("nesterov", False)), 1.0)]
    if name == "lion":
        return [(lion_pytorch.Lion(groups(tensors, decay, which), lr=1.0,
                                   betas=tuple(table.get("betas", (0.9, 0.99)))), 1.0)]
    if name == "adafactor":
        return [(torch.optim.Adafactor(groups(tensors, decay, which), lr=1.0,
                                       beta2_decay=table.get("adafactor_beta2_decay", -0.8),
                                       eps=tuple(table.get("adafactor_eps", (2.0**-23, 1e-3))),
                                       d=table.get("adafactor_d", 1.0)), 1.0)]
    matrices = {n: t for n, t in tensors.items() if t.ndim == 2 and "embed" not in n}
    others = {n: t for n, t in tensors.items() if n not in matrices}
    muon = torch.optim.Muon(groups(matrices, decay, which), lr=1.0, momentum=table.get("momentum", 0.95),
                            nesterov=table.get("nesterov", True), ns_steps=table.get("muon_ns_steps", 5),
                            adjust_lr_fn=table.get("muon_adjust_lr"))
    kind = torch.optim.AdamW if table.get("bias_correction", True) else PlainAdamW
    return [(muon, 1.0), (kind(groups(others, decay, which), **adam), table.get("muon_adamw_lr_ratio", 1.0))]


CASES = {
    "adamw": {"name": "adamw"},
    "adamw_decay": {"name": "adamw", "weight_decay": 0.3, "betas": [0.9, 0.95], "decay": "hidden"},
    "adamw_all": {"name": "adamw", "weight_decay": 0.1, "betas": [0.8, 0.99], "eps": 1e-3, "decay": "all"},
    "adamw_zero_betas": {"name": "adamw", "betas": [0.0, 0.0], "eps": 1e-4, "weight_decay": 0.0},
    "adamw_plain": {"name": "adamw", "bias_correction": False, "betas": [0.9, 0.95], "weight_decay": 0.1},
    "sgd": {"name": "sgd"},
    "sgd_momentum": {"name": "sgd", "momentum": 0.9, "weight_decay": 0.1},
    "sgd_nesterov": {"name": "sgd", "momentum": 0.8, "nesterov": True, "weight_decay": 0.2, "decay": "all"},
    "lion": {"name": "lion"},
    "lion_decay": {"name": "lion", "betas": [0.95, 0.98], "weight_decay": 0.5},
    "adafactor": {"name": "adafactor"},
    "adafactor_decay": {"name": "adafactor", "weight_decay": 0.1, "adafactor_d": 2.0, "adafactor_beta2_decay": -0.5},
    "adafactor_floors": {"name": "adafactor", "adafactor_eps": [0.05, 0.6], "weight_decay": 0.2, "decay": "all"},
    "muon": {"name": "muon"},
    "muon_rms": {"name": "muon", "muon_adjust_lr": "match_rms_adamw", "muon_adamw_lr_ratio": 0.25,
                 "betas": [0.9, 0.95], "weight_decay": 0.3},
    "muon_plain": {"name": "muon", "nesterov": False, "momentum": 0.9, "muon_ns_steps": 3, "weight_decay": 0.0},
    "muon_hidden": {"name": "muon", "decay": "hidden", "bias_correction": False, "eps": 1e-6, "momentum": 0.0},
}


def trajectory(table, params, grads, lr):
    tensors = {n: torch.nn.Parameter(torch.tensor(p, dtype=torch.float64)) for n, p in params.items()}
    refs = references(table, tensors)
    means = {n: np.zeros(p.shape) for n, p in params.items()}
    kept = []
    for t in range(STEPS):
        for n, p in tensors.items():
            p.grad = torch.tensor(grads[n][t], dtype=torch.float64)
        for optimizer, factor in refs:
            for group in optimizer.param_groups:
                group["lr"] = float(lr[t]) * factor
            optimizer.step()
        if table["name"] == "lion":  # a sign must not hang on rounding
            b1, b2 = table.get("betas", (0.9, 0.99))
            for n, g in grads.items():
                u = np.abs(b1 * means[n] + (1 - b1) * g[t])
                assert u[g[t] != 0].min() > 1e-6, f"{n}, step {t}: choose another seed"
                means[n] = b2 * means[n] + (1 - b2) * g[t]
        if t + 1 in (1, 2, STEPS):
            kept.append(np.concatenate([p.detach().numpy().ravel() for p in tensors.values()]))
    return np.stack(kept).astype(np.float32)


def optimizers():
    params, grads, lr = data()
    arrays = {"lr": lr}
    arrays |= {f"param.{n}": p for n, p in params.items()} | {f"grad.{n}": g for n, g in grads.items()}
    # torch's Muon iterates in bfloat16; the reference here is its code in float64.
    half, torch.bfloat16 = torch.bfloat16, torch.float64
    for name, table in CASES.items():
        arrays[name] = trajectory(table, params, grads, lr)
    torch.bfloat16 = half
    meta = {"cases": json.dumps(CASES), "params": json.dumps(list(PARAMS)), "torch": torch.__version__}
    save_file(arrays, OUT / "optimizers.safetensors", metadata=meta)


def run_lengths():
    return [(0, 1), (0, 2), (0, 10), (1, 10), (3, 10), (9, 10), (5, 25), (10, 40)]


def schedule_values(table, total):
    """Every step of a run for a peak of 1: transformers' value, in the warmup that of one step later."""
    warmup, low = table.get("warmup", 0), table.get("min_lr_ratio", 0.0)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    name = table["name"]
    if name == "constant":
        s = transformers.get_constant_schedule_with_warmup(optimizer, warmup)
    elif name == "cosine":
        s = transformers.get_cosine_with_min_lr_schedule_with_warmup(optimizer, warmup, total, min_lr_rate=low)
    elif name == "linear":
        s = transformers.get_linear_schedule_with_warmup(optimizer, warmup, total)
    else:
        decay = table.get("decay_steps", 0.2)
        decay = min(math.floor(decay * total + 0.5) if decay < 1 else int(decay), total - warmup)
        shape = {"sqrt": "1-sqrt"}.get(table.get("decay_shape", "linear"), table.get("decay_shape", "linear"))
        s = transformers.get_wsd_schedule(optimizer, warmup, decay, num_stable_steps=total - warmup - decay,
                                          min_lr_ratio=low, decay_type=shape)
    f = s.lr_lambdas[0]
    values = []
    for step in range(total):
        if step < warmup:  # transformers' wsd starts its warmup at the floor; lmxlab's always at 0
            values.append(f(step + 1) if low == 0 else (step + 1) / warmup)
        else:
            v = f(step)
            if name == "linear":  # transformers has no floor here: the same line between 1 and the floor
                v = low + (1 - low) * v
            values.append(v)
    return values


def schedules():
    cases = []
    for warmup, total in run_lengths():
        base = {"warmup": warmup}
        tables = [{"name": "constant"}]
        for low in (0.0, 0.1):
            tables += [{"name": n, "min_lr_ratio": low} for n in ("linear", "cosine", "wsd")]
            tables += [{"name": "wsd", "min_lr_ratio": low, "decay_steps": d, "decay_shape": s}
                       for d, s in ((4, "linear"), (0.5, "cosine"), (3, "sqrt"))]
        for table in tables:
            table = table | base
            cases.append({"schedule": table, "total": total,
                          "values": [round(v, 9) for v in schedule_values(table, total)]})
    text = ",\n".join(json.dumps(c) for c in cases)
    (OUT / "schedules.json").write_text(f"[\n{text}\n]\n")


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    optimizers()
    schedules()
