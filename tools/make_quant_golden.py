#!/usr/bin/env python3
"""Makes tests/fixtures/quant/blocks.safetensors: random blocks of every GGUF format that kernels read, with their values.

    python tools/make_quant_golden.py        (needs gguf and numpy)

    TYPE.bytes   uint8 [rows, bytes of a row]
    TYPE.values  float32 [rows, weights]: what the gguf package makes of them
All bits are random but those of the scales, which are float16 numbers of ordinary size and either sign.
"""

import json
import struct
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

OUT = Path(__file__).resolve().parents[1] / "tests/fixtures/quant/blocks.safetensors"
HALVES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
          "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "MXFP4": []}  # where a block's scales lie


def save(path, arrays):
    names, at = {}, 0
    for name, a in arrays.items():
        names[name] = {"dtype": {"uint8": "U8", "float32": "F32"}[str(a.dtype)], "shape": a.shape,
                       "data_offsets": [at, at + a.nbytes]}
        at += a.nbytes
    header = json.dumps(names, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"".join(a.tobytes() for a in arrays.values()))


if __name__ == "__main__":
    rng = np.random.default_rng(7)
    arrays = {}
    for name, halves in HALVES.items():
        kind = GGMLQuantizationType[name]
        weights, size = GGML_QUANT_SIZES[kind]
        blocks = rng.integers(0, 256, (6 if weights == 256 else 15, size), dtype=np.uint8)
        for at in halves:
            blocks[:, at:at + 2] = rng.normal(0, 0.1, (len(blocks), 1)).astype(np.float16).view(np.uint8)
        if name == "MXFP4":
            blocks[:, 0] = rng.integers(100, 130, len(blocks))
            blocks[:3, 0] = 0, 1, 2  # subnormal scales
        arrays[name + ".bytes"] = blocks.reshape(3, -1)
        arrays[name + ".values"] = dequantize(arrays[name + ".bytes"], kind)
    save(OUT, arrays)
