#!/usr/bin/env python3
"""Makes tests/training/mup_golden.h: initial scales, rates and decays of Microsoft's package `mup` (1.0.0).

Run with any Python into which it was put (pip install --no-deps mup). The package wants PyTorch, but what is asked here, shapes
and groups of parameters, uses none of it: its three modules are loaded by themselves, beside an empty stand-in for PyTorch. Then `make format`.
"""
import importlib.util
import pathlib
import sys
import types

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests/training/mup_golden.h"
# Name in our tree, shape at width D with F = 4 D and vocabulary 65.
SHAPES = {
    "model.embed_tokens.weight": lambda d: (65, d),
    "model.layers.0.self_attn.q_proj.weight": lambda d: (d, d),
    "model.layers.0.self_attn.o_proj.weight": lambda d: (d, d),
    "model.layers.0.mlp.up_proj.weight": lambda d: (4 * d, d),
    "model.layers.0.mlp.down_proj.weight": lambda d: (d, 4 * d),
    "model.layers.0.input_layernorm.weight": lambda d: (d,),
    "model.norm.weight": lambda d: (d,),
    "lm_head.weight": lambda d: (65, d),  # a MuReadout
}


def load(name, place):
    spec = importlib.util.spec_from_file_location(name, place / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main():
    place = pathlib.Path(importlib.util.find_spec("mup").submodule_search_locations[0])
    nothing = type("Nothing", (), {})
    sys.modules["torch"] = torch = types.ModuleType("torch")
    torch.optim = types.ModuleType("torch.optim")
    torch.optim.SGD = torch.optim.Adam = torch.optim.AdamW = nothing
    sys.modules["torch.optim"] = torch.optim
    names = ["_calculate_correct_fan", "_calculate_fan_in_and_fan_out", "_no_grad_fill_", "_no_grad_normal_",
             "_no_grad_uniform_", "calculate_gain"]
    torch.nn = types.ModuleType("torch.nn")
    torch.nn.init = types.ModuleType("torch.nn.init")
    for name in names:
        setattr(torch.nn.init, name, nothing)
    sys.modules["torch.nn"], sys.modules["torch.nn.init"] = torch.nn, torch.nn.init
    infshape, optim, init = (load(n, place) for n in ("infshape", "optim", "init"))

    rows = []
    for base, width in ((64, 64), (64, 128), (32, 256)):
        for name, shape in SHAPES.items():
            parameter = types.SimpleNamespace(shape=shape(width), infshape=infshape.zip_infshape(shape(base), shape(width)))
            groups = optim.MuAdam([parameter], impl=lambda g, **_: g, lr=1.0, weight_decay=1.0)
            (group,) = [g for g in groups if g["params"]]
            scales = []
            init.constant_std_init_(parameter, lambda _, scale=1: scales.append(scale))
            # layer.py: a readout's input is divided by it.
            output = 1 / parameter.infshape.width_mult() if name == "lm_head.weight" else 1
            rows.append(f'    {{{base}, {width}, "{name}", {float(scales[0])!r}, {group["lr"]!r}, '
                        f'{group["weight_decay"]!r}, {float(output)!r}}},')
    OUT.write_text("\n".join([
        "// Made by tools/make_mup_golden.py with the package `mup` 1.0.0. Not to be edited.", "#pragma once", "",
        "namespace lmxlab::golden {", "", "struct MupRow {", "  int base, width;", "  const char* path;",
        "  double init, lr, decay, output;  // over those of the base", "};", "inline const MupRow mup_rows[] = {", *rows, "};",
        "", "}  // namespace lmxlab::golden", ""]))


if __name__ == "__main__":
    main()
