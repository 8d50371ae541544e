// GPT-2: Radford et al. 2019, "Language models are unsupervised multitask learners".
#include "lmxlab/config/presets/families.h"
#include "lmxlab/config/validate.h"

#include <algorithm>
#include <cstdint>
#include <limits>

namespace lmxlab::config {

int gpt_hidden(int dim) {
  return static_cast<int>(std::min<int64_t>(int64_t{4} * dim, std::numeric_limits<int>::max()));
}

Model gpt(const Gpt& f) {
  Problems problems;
  if (f.heads < 1 || f.dim % f.heads != 0)
    problems.add("dim: " + std::to_string(f.dim) + " is no multiple of " + std::to_string(f.heads) +
                 " heads");
  if (f.depth > kMaxDepth)
    problems.add("depth: expected at most " + std::to_string(kMaxDepth) + " layers, got " +
                 std::to_string(f.depth));
  problems.raise(Kind::usage, "[gpt] the sizes contradict each other");

  const Attention attention{.heads = f.heads,
                            .kv_heads = f.heads,
                            .head_dim = f.dim / f.heads,
                            .position = NoPosition{},
                            .qkv_bias = f.bias,
                            .out_bias = f.bias};
  const Mlp mlp{.hidden = f.hidden ? f.hidden : gpt_hidden(f.dim),
                .act = f.act,
                .gated = false,
                .bias = f.bias};
  const LayerNorm norm{.eps = f.eps};
  Model m{.family = "gpt",
          .dim = f.dim,
          .vocab = f.vocab,
          .context = f.context,
          .position = Learned{f.context},
          .layers = cycle({Block{.mixer = attention, .ffn = mlp, .norm = norm}}, f.depth),
          .final_norm = norm,
          .tie_head = f.tie_head,
          .dropout = f.dropout};
  validate(m);
  return m;
}

namespace {

Gpt shakespeare() {
  return {.depth = 6,
          .dim = 384,
          .heads = 6,
          .vocab = 65,
          .context = 256,
          .act = Act::gelu,
          .bias = false,
          .tie_head = false};
}
Gpt shakespeare_small() {
  Gpt f = shakespeare();
  f.depth = 4, f.dim = 128, f.heads = 4, f.context = 64;
  return f;
}

}  // namespace

std::vector<Preset> gpt_presets() {
  return {
      {"gpt-tiny", "gpt",
       [] {
         return gpt(
             {.depth = 2, .dim = 64, .heads = 2, .hidden = 128, .vocab = 256, .context = 128});
       }},
      {"gpt-shakespeare-small", "gpt", [] { return gpt(shakespeare_small()); }},
      {"gpt-10m", "gpt", [] { return gpt({.depth = 16, .dim = 128, .heads = 4, .context = 512}); }},
      {"gpt-shakespeare", "gpt", [] { return gpt(shakespeare()); }},
      {"gpt-30m", "gpt", [] { return gpt({.depth = 22, .dim = 256, .heads = 8, .context = 512}); }},
      {"gpt-small", "gpt", [] { return gpt(); }},
      {"distilgpt2", "gpt", [] { return gpt({.depth = 6}); }},
      {"gpt-medium", "gpt", [] { return gpt({.depth = 24, .dim = 1024, .heads = 16}); }},
      {"gpt-large", "gpt", [] { return gpt({.depth = 36, .dim = 1280, .heads = 20}); }},
      {"gpt-xl", "gpt", [] { return gpt({.depth = 48, .dim = 1600, .heads = 25}); }},
  };
}

}  // namespace lmxlab::config
