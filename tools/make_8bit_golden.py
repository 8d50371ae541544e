#!/usr/bin/env python3
"""Makes tests/fixtures/optimizers/eight_bit.safetensors: AdamW with 8 bits a moment, from torchao's code.

Run with the Python of the peers' environment, to which torchao 0.18.0 was added (pip install --no-deps torchao).

torchao.optim.AdamW8bit runs three times in float32 on one parameter of 20 blocks: as it is; with the codes of
lmxlab/kernels/update_8bit.h in the place of its own, in numpy; and, for the distance of both, torch.optim.AdamW in float64.

  param [64, 80], left [steps, 64], right [steps, 80]: the gradient of step t is left[t] right[t]^T, in float32; lr [steps]
  exact, ours [64, 80]: the parameter after the last step; m, v: ours's codes, m_scale, v_scale
  metadata: worst and rms of torchao's and ours's distance from exact; the [optimizer] table
"""
import json
import pathlib

import numpy as np
import torch

torch.compile = lambda f, **_: f  # before torchao's optimizer asks for it

import torchao  # noqa: E402
from safetensors.numpy import save_file  # noqa: E402
from torchao.optim import AdamW8bit  # noqa: E402
from torchao.optim import quant_utils, subclass_8bit  # noqa: E402

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests/fixtures/optimizers/eight_bit.safetensors"
STEPS = 80
TABLE = {"name": "adamw", "state_bits": 8, "betas": [0.9, 0.99], "weight_decay": 0.1}


def data():
    rng = np.random.default_rng(8)
    param = (rng.standard_normal((64, 80)) * 0.5).astype(np.float32)
    # Rows and columns of different sizes, which change as they do in training.
    fall = np.exp(-np.linspace(0, 1.5, STEPS))[:, None]
    left = rng.standard_normal((STEPS, 64)) * np.exp(rng.standard_normal(64) * 0.7) * fall
    right = rng.standard_normal((STEPS, 80)) * np.exp(rng.standard_normal(80) * 0.7) * 0.1
    lr = 0.01 * np.minimum(1, (np.arange(STEPS) + 1) / 8)
    return param, left.astype(np.float32), right.astype(np.float32), lr.astype(np.float32)


def chance(places, step):
    """In [0, 1): the hash of a place and a step."""
    x = places.astype(np.uint32) + np.uint32(step * 0x85EBCA77 & 0xFFFFFFFF)
    x = x * np.uint32(0x9E3779B1)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x85EBCA77)
    return ((x ^ (x >> np.uint32(13))) >> np.uint32(8)) * 2.0**-24


def our_codes(x, step):
    """Of numbers over their block's largest, [-1, 1]: signed ones are nearest, others by chance."""
    def signed():
        return np.rint(np.sign(x) * np.abs(x) ** 0.25 * 127) + 128

    def by_chance():
        low = np.minimum(np.floor(x**0.25 * 255), 254)
        share = (x * 255.0**4 - low**4) / ((low + 1) ** 4 - low**4)
        code = low + (chance(np.arange(x.size).reshape(x.shape), step) < share)
        return np.where(x > 0, np.maximum(code, 1), code)

    return signed, by_chance


def run(optimizer, param, left, right, lr, before_step=lambda t: None):
    for t in range(STEPS):
        before_step(t + 1)
        grad = np.outer(left[t], right[t])
        param.grad = torch.tensor(grad).to(param.dtype)
        for group in optimizer.param_groups:
            group["lr"] = torch.tensor(lr[t]) if isinstance(group["lr"], torch.Tensor) else float(lr[t])
        optimizer.step()
    return param.detach().double().numpy()


def torchaos(arrays, before_step=lambda t: None):
    p = torch.nn.Parameter(torch.tensor(arrays[0]))
    optimizer = AdamW8bit([p], betas=tuple(TABLE["betas"]), weight_decay=TABLE["weight_decay"])
    return run(optimizer, p, *arrays[1:], before_step), optimizer.state[p]


def ours(arrays):
    steps = [0]

    def quantize(x, qmap):
        signed, by_chance = our_codes(x.double().numpy(), steps[0])
        return torch.tensor((signed if qmap[0] < 0 else by_chance)()).to(torch.uint8)

    kept = subclass_8bit.quantize_8bit_with_qmap, subclass_8bit.get_qmap_signed, subclass_8bit.get_qmap_unsigned
    c, u = np.maximum(np.arange(256) - 128, -127) / 127, np.arange(256) / 255
    subclass_8bit.quantize_8bit_with_qmap = quantize
    subclass_8bit.get_qmap_signed = lambda: (np.sign(c) * c**4).tolist()
    subclass_8bit.get_qmap_unsigned = lambda: (u**4).tolist()
    result = torchaos(arrays, lambda t: steps.__setitem__(0, t))
    subclass_8bit.quantize_8bit_with_qmap, subclass_8bit.get_qmap_signed, subclass_8bit.get_qmap_unsigned = kept
    return result


if __name__ == "__main__":
    arrays = data()
    p = torch.nn.Parameter(torch.tensor(arrays[0], dtype=torch.float64))
    exact = run(torch.optim.AdamW([p], betas=tuple(TABLE["betas"]), weight_decay=TABLE["weight_decay"]), p, *arrays[1:])
    theirs, _ = torchaos(arrays)
    mine, state = ours(arrays)
    m, v = state["exp_avg"], state["exp_avg_sq"]
    far = {n: {"worst": float(np.abs(x - exact).max()), "rms": float(np.sqrt(np.mean((x - exact) ** 2)))}
           for n, x in (("torchao", theirs), ("ours", mine))}
    print(json.dumps(far), "of a way of rms", np.sqrt(np.mean((exact - arrays[0]) ** 2)))
    assert quant_utils.create_dynamic_map is subclass_8bit.create_dynamic_map
    save_file({"param": arrays[0], "left": arrays[1], "right": arrays[2], "lr": arrays[3],
               "exact": exact.astype(np.float32), "ours": mine.astype(np.float32),
               "m": (m.codes.numpy().astype(np.int16) - 128).astype(np.int8), "m_scale": m.scale.numpy(),
               "v": v.codes.numpy(), "v_scale": v.scale.numpy()}, OUT,
              metadata={"far": json.dumps(far), "table": json.dumps(TABLE), "torchao": torchao.__version__})
