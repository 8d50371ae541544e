#!/usr/bin/env python3
"""Makes what lmxlab/io/ggml_blocks.cpp needs of the formats that are read as numbers: the lattices of the IQ types
(lmxlab/io/ggml_grids.inc) and random blocks with their values (tests/fixtures/quant/numbers.safetensors).

    python tools/make_ggml_grids.py        (needs gguf and numpy)

A lattice is the format's own table of points. Here an entry is an index into the few values that coordinates have, two
bits each (four where there are more than four values), lowest first.
"""

from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf import quants

from make_quant_golden import save

ROOT = Path(__file__).resolve().parents[1]
GRIDS = {"iq2_xxs": quants.IQ2_XXS, "iq2_xs": quants.IQ2_XS, "iq2_s": quants.IQ2_S, "iq3_xxs": quants.IQ3_XXS, "iq3_s": quants.IQ3_S,
         "iq1": quants.IQ1_S}
HALVES = {"IQ2_XXS": [0], "IQ2_XS": [0], "IQ2_S": [0], "IQ3_XXS": [0], "IQ3_S": [0], "IQ1_S": [0], "IQ1_M": None, "IQ4_NL": [0],
          "IQ4_XS": [0], "TQ1_0": [52], "TQ2_0": [64], "NVFP4": []}  # where a block's float16 scales lie


def lattice(kind):
    kind.init_grid()
    values = list(kind.grid_map)
    points = kind.grid.reshape(-1).astype(int)
    index = np.array([values.index(v) for v in points], np.uint8)
    bits = 2 if len(values) <= 4 else 4
    each = 8 // bits
    packed = sum(index[i::each].astype(np.uint32) << (bits * i) for i in range(each)).astype(np.uint8)
    return values, bits, kind.grid_shape, packed


def write_grids(path):
    lines = ["// Made by tools/make_ggml_grids.py."]
    for name, kind in GRIDS.items():
        values, bits, shape, packed = lattice(kind)
        lines.append(f"// {shape[0]} points of {shape[1]} coordinates, {bits} bits each.")
        lines.append(f"constexpr int8_t k_{name}_values[] = {{{', '.join(map(str, values))}}};")
        lines.append(f"constexpr uint8_t k_{name}_points[] = {{")
        for at in range(0, len(packed), 24):
            lines.append("    " + ", ".join(map(str, packed[at:at + 24])) + ",")
        lines.append("};")
    path.write_text("\n".join(lines) + "\n")


def random_blocks():
    rng = np.random.default_rng(11)
    arrays = {}
    for name, halves in HALVES.items():
        kind = GGMLQuantizationType[name]
        weights, size = GGML_QUANT_SIZES[kind]
        blocks = rng.integers(0, 256, (3, 2 * size), dtype=np.uint8)
        for row in range(3):
            for block in range(2):
                at = block * size
                scale = np.array([rng.uniform(-1, 1)], np.float16).view(np.uint8)
                for half in halves or []:
                    blocks[row, at + half:at + half + 2] = scale
                if halves is None:  # IQ1_M: the scale's four bits stand on top of four words
                    word = int(scale.view(np.uint16)[0])
                    for i in range(4):
                        place = at + size - 8 + 2 * i + 1
                        blocks[row, place] = (blocks[row, place] & 15) | ((word >> (4 * i) & 15) << 4)
        arrays[name + ".bytes"] = blocks
        arrays[name + ".values"] = quants.dequantize(blocks, kind).astype(np.float32)
    return arrays


if __name__ == "__main__":
    write_grids(ROOT / "lmxlab/io/ggml_grids.inc")
    save(ROOT / "tests/fixtures/quant/numbers.safetensors", random_blocks())
