// Made by tools/make_mup_golden.py with the package `mup` 1.0.0. Not to be edited.
#pragma once

namespace lmxlab::golden {

struct MupRow {
  int base, width;
  const char* path;
  double init, lr, decay, output;  // over those of the base
};
inline const MupRow mup_rows[] = {
    {64, 64, "model.embed_tokens.weight", 1.0, 1.0, 1.0, 1.0},
    {64, 64, "model.layers.0.self_attn.q_proj.weight", 1.0, 1.0, 1.0, 1.0},
    {64, 64, "model.layers.0.self_attn.o_proj.weight", 1.0, 1.0, 1.0, 1.0},
    {64, 64, "model.layers.0.mlp.up_proj.weight", 1.0, 1.0, 1.0, 1.0},
    {64, 64, "model.layers.0.mlp.down_proj.weight", 1.0, 1.0, 1.0, 1.0},
    {64, 64, "model.layers.0.input_layernorm.weight", 1.0, 1.0, 1.0, 1.0},
    {64, 64, "model.norm.weight", 1.0, 1.0, 1.0, 1.0},
    {64, 64, "lm_head.weight", 1.0, 1.0, 1.0, 1.0},
    {64, 128, "model.embed_tokens.weight", 1.0, 1.0, 1.0, 1.0},
    {64, 128, "model.layers.0.self_attn.q_proj.weight", 0.7071067811865476, 0.5, 2.0, 1.0},
    {64, 128, "model.layers.0.self_attn.o_proj.weight", 0.7071067811865476, 0.5, 2.0, 1.0},
    {64, 128, "model.layers.0.mlp.up_proj.weight", 0.7071067811865476, 0.5, 2.0, 1.0},
    {64, 128, "model.layers.0.mlp.down_proj.weight", 0.7071067811865476, 0.5, 2.0, 1.0},
    {64, 128, "model.layers.0.input_layernorm.weight", 1.0, 1.0, 1.0, 1.0},
    {64, 128, "model.norm.weight", 1.0, 1.0, 1.0, 1.0},
    {64, 128, "lm_head.weight", 1.0, 1.0, 1.0, 0.5},
    {32, 256, "model.embed_tokens.weight", 1.0, 1.0, 1.0, 1.0},
    {32, 256, "model.layers.0.self_attn.q_proj.weight", 0.3535533905932738, 0.125, 8.0, 1.0},
    {32, 256, "model.layers.0.self_attn.o_proj.weight", 0.3535533905932738, 0.125, 8.0, 1.0},
    {32, 256, "model.layers.0.mlp.up_proj.weight", 0.3535533905932738, 0.125, 8.0, 1.0},
    {32, 256, "model.layers.0.mlp.down_proj.weight", 0.3535533905932738, 0.125, 8.0, 1.0},
    {32, 256, "model.layers.0.input_layernorm.weight", 1.0, 1.0, 1.0, 1.0},
    {32, 256, "model.norm.weight", 1.0, 1.0, 1.0, 1.0},
    {32, 256, "lm_head.weight", 1.0, 1.0, 1.0, 0.125},
};

}  // namespace lmxlab::golden
