// Llama: arXiv:2302.13971; grouped key/value heads as in arXiv:2307.09288.
#include "lmxlab/config/presets/families.h"
#include "lmxlab/config/validate.h"

#include <algorithm>
#include <cstdint>
#include <limits>

namespace lmxlab::config {

int llama_hidden(int dim) {
  const int64_t two_thirds = int64_t{8} * dim / 3;
  return static_cast<int>(
      std::min<int64_t>((two_thirds + 255) / 256 * 256, std::numeric_limits<int>::max()));
}

Model llama(const Llama& f) {
  Problems problems;
  if (f.heads < 1 || (f.head_dim == 0 && f.dim % f.heads != 0))
    problems.add("dim: " + std::to_string(f.dim) + " is no multiple of " + std::to_string(f.heads) +
                 " heads");
  if (f.depth > kMaxDepth)
    problems.add("depth: expected at most " + std::to_string(kMaxDepth) + " layers, got " +
                 std::to_string(f.depth));
  problems.raise(Kind::usage, "[llama] the sizes contradict each other");

  const Attention attention{.heads = f.heads,
                            .kv_heads = f.kv_heads ? f.kv_heads : f.heads,
                            .head_dim = f.head_dim ? f.head_dim : f.dim / f.heads,
                            .position = Rope{.theta = f.theta}};
  const Mlp mlp{.hidden = f.hidden ? f.hidden : llama_hidden(f.dim)};
  const RmsNorm norm{.eps = f.eps};
  Model m{.family = "llama",
          .dim = f.dim,
          .vocab = f.vocab,
          .context = f.context,
          .layers = cycle({Block{.mixer = attention, .ffn = mlp, .norm = norm}}, f.depth),
          .final_norm = norm,
          .tie_head = f.tie_head};
  validate(m);
  return m;
}

std::vector<Preset> llama_presets() {
  return {
      {"llama-tiny", "llama",
       [] {
         return llama({.depth = 2,
                       .dim = 64,
                       .heads = 4,
                       .kv_heads = 2,
                       .hidden = 128,
                       .vocab = 256,
                       .context = 128});
       }},
      {"llama-10m", "llama",
       [] {
         return llama({.depth = 14,
                       .dim = 128,
                       .heads = 4,
                       .kv_heads = 2,
                       .hidden = 512,
                       .vocab = 50257,
                       .context = 512,
                       .tie_head = true});
       }},
      {"llama-30m", "llama",
       [] {
         return llama({.depth = 18,
                       .dim = 256,
                       .heads = 8,
                       .kv_heads = 4,
                       .hidden = 1024,
                       .vocab = 50257,
                       .context = 512,
                       .tie_head = true});
       }},
      {"smollm2-135m", "llama",  // its published config.json
       [] {
         return llama({.depth = 30,
                       .dim = 576,
                       .heads = 9,
                       .kv_heads = 3,
                       .hidden = 1536,
                       .vocab = 49152,
                       .context = 8192,
                       .theta = 100'000,
                       .eps = 1e-5f,
                       .tie_head = true});
       }},
      {"llama-7b", "llama", [] { return llama(); }},
      {"llama-13b", "llama", [] { return llama({.depth = 40, .dim = 5120, .heads = 40}); }},
  };
}

}  // namespace lmxlab::config
