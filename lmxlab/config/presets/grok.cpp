// Grok-1: github.com/xai-org/grok-1.
#include "lmxlab/config/presets/families.h"
#include "lmxlab/config/validate.h"

namespace lmxlab::config {
namespace {

struct Grok {
  int vocab, dim, depth, heads, kv_heads, head_dim, hidden, experts, context;
};

/// Norms on both sides of each branch; the weights of experts are the softmax's over all of them.
Model grok(const Grok& g) {
  const Norm norm = RmsNorm{.eps = 1e-5f};
  const Attention attention{.heads = g.heads,
                            .kv_heads = g.kv_heads,
                            .head_dim = g.head_dim,
                            .position = Rope{},
                            .softcap = 30.f};
  const Moe moe{.experts = g.experts,
                .top_k = 2,
                .hidden = g.hidden,
                .act = Act::gelu_tanh,
                .scoring = Scoring::softmax};
  Model m{.family = "grok", .dim = g.dim, .vocab = g.vocab, .context = g.context};
  m.layers = cycle(
      {Block{.mixer = attention, .ffn = moe, .norm = norm, .wiring = Wiring::sandwich}}, g.depth);
  m.final_norm = norm;
  m.embed_scale = 78.38367176906169f, m.logit_scale = 0.5773502691896257f;
  validate(m);
  return m;
}

}  // namespace

std::vector<Preset> grok_presets() {
  return {
      {"grok-tiny", "grok",
       [] {
         return grok({256, 64, 2, 4, 2, 16, 64, 4, 128});
       }},
      {"grok-1-314b", "grok",
       [] {
         return grok({131072, 6144, 64, 48, 8, 128, 32768, 8, 8192});
       }},
  };
}

}  // namespace lmxlab::config
