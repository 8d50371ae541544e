// The shapes of the Python library lmxlab, which are no released models, under names that end in
// -lmxlab. They have its sizes and parts; what it did not mean is not kept:
// - a branch that is none adds nothing and has no norm; there it added the normed stream;
// - windows, selection by biases and groups, scans by chunks and delta nets are as published;
// - delta nets norm each head, a head's width of parameters more a layer;
// - latent attention has the heads of the released models where its own cannot hold a rotation.
#include "lmxlab/config/presets/families.h"
#include "lmxlab/config/validate.h"

#include <functional>
#include <string_view>

namespace lmxlab::config {
namespace {

struct Shape {
  int vocab, dim, heads, kv_heads, depth, hidden, context;
  float theta = 1e4f;
  bool tie = false;
  int head_dim() const { return dim / heads; }
};
const Norm kNorm = RmsNorm{.eps = 1e-5f};

Attention attention(const Shape& s) {
  return {.heads = s.heads,
          .kv_heads = s.kv_heads,
          .head_dim = s.head_dim(),
          .position = Rope{.theta = s.theta}};
}
Attention normed(const Shape& s) {
  Attention a = attention(s);
  a.qk_norm = kNorm;
  return a;
}
Attention without_position(const Shape& s) {
  Attention a = attention(s);
  a.position = NoPosition{};
  return a;
}
Mlp mlp(const Shape& s) {
  return {.hidden = s.hidden};
}
Moe mixtral_moe(const Shape& s, int experts, int top_k) {
  return {.experts = experts, .top_k = top_k, .hidden = s.hidden};
}
/// The chosen by logits and a bias, weights from the logits alone; `shared` FFNs are one as wide.
Moe shared_moe(const Shape& s, int experts, int top_k, int shared = 1) {
  Moe m = mixtral_moe(s, experts, top_k);
  m.selection_bias = true, m.shared = shared * s.hidden;
  return m;
}
Block block(Mixer mixer, Ffn ffn) {
  return {.mixer = std::move(mixer), .ffn = std::move(ffn), .norm = kNorm};
}
Model model(const char* family, const Shape& s, const std::vector<Block>& pattern) {
  Model m{.family = family, .dim = s.dim, .vocab = s.vocab, .context = s.context};
  m.layers = cycle(pattern, s.depth), m.final_norm = kNorm, m.tie_head = s.tie;
  validate(m);
  return m;
}
Model dense(const char* family, const Shape& s) {
  return model(family, s, {block(attention(s), mlp(s))});
}

Model gpt_sinusoidal(const Gpt& form) {
  Model m = gpt(form);
  m.position = Sinusoidal{};
  for (Block& b : m.layers) std::get<Mlp>(b.ffn).act = Act::gelu;
  return m;
}

/// Each n-th layer is `other`.
std::vector<Block> each(int n, const Block& usual, const Block& other) {
  std::vector<Block> out(static_cast<size_t>(n), usual);
  out.back() = other;
  return out;
}

Model gemma3(const Shape& s, int window, int global) {
  Attention local = attention(s);
  local.window = window;
  return model("gemma3", s, each(global, block(local, mlp(s)), block(attention(s), mlp(s))));
}

struct Latent {
  int kv_rank, q_rank, nope, rope, value;
};
Mla mla(const Shape& s, const Latent& l) {
  return {.heads = s.heads,
          .q_rank = l.q_rank,
          .kv_rank = l.kv_rank,
          .nope_dim = l.nope,
          .rope_dim = l.rope,
          .v_dim = l.value,
          .position = Rope{.theta = s.theta},
          .latent_norm = kNorm};
}
Model deepseek_v3(const Shape& s, const Latent& l, int experts, int top_k) {
  Model m = model("deepseek_v3", s, {block(mla(s, l), shared_moe(s, experts, top_k))});
  m.layers[0].ffn = mlp(s);
  return m;
}

Model llama4(const Shape& s, int chunk, int experts, int top_k) {
  Attention local = attention(s);
  local.window = chunk, local.chunked = true;
  const Moe moe = shared_moe(s, experts, top_k);
  return model("llama4", s, each(4, block(local, moe), block(without_position(s), moe)));
}

Model shared(const char* family, const Shape& s, int experts, int top_k, int shared = 1) {
  return model(family, s, {block(attention(s), shared_moe(s, experts, top_k, shared))});
}

Model smollm3(const Shape& s) {
  return model("smollm3", s,
               each(4, block(attention(s), mlp(s)), block(without_position(s), mlp(s))));
}

// ---- patterns of letters ----

/// A letter makes a block: M Mamba-2, * attention, E experts, - a dense FFN.
Model hybrid(const char* family, Shape s, std::string_view pattern,
             const std::function<Block(char)>& make) {
  std::vector<Block> layers;
  for (const char letter : pattern) layers.push_back(make(letter));
  s.depth = static_cast<int>(layers.size());
  return model(family, s, layers);
}
std::string repeated(std::string_view text, int times) {
  std::string out;
  for (int i = 0; i < times; ++i) out += text;
  return out;
}

struct Nemotron {
  int mamba_heads = 128, mamba_dim = 64, state = 128, groups = 8;
  int experts = 512, top_k = 22, latent = 1024, expert_hidden = 1024, shared = 16384;
  float scale = 5;
  int expert_groups = 8, groups_kept = 4;
};
Model nemotron3(const Shape& s, const Nemotron& n, std::string_view pattern) {
  Moe moe{.experts = n.experts,
          .top_k = n.top_k,
          .hidden = n.expert_hidden,
          .act = Act::relu2,
          .gated = false,
          .latent = n.latent,
          .scoring = Scoring::sigmoid,
          .selection_bias = true,
          .groups = n.expert_groups,
          .groups_kept = n.groups_kept,
          .normalize = 1,
          .norm_eps = 1e-20f,
          .scale = n.scale,
          .shared = n.shared};
  const Mamba2 mamba{
      .heads = n.mamba_heads, .head_dim = n.mamba_dim, .groups = n.groups, .state = n.state};
  return hybrid("nemotron_h", s, pattern, [&](char letter) {
    if (letter == 'M') return block(mamba, Nothing{});
    if (letter == '*') return block(attention(s), Nothing{});
    if (letter == 'E') return block(Nothing{}, moe);
    return block(Nothing{}, Mlp{.hidden = s.hidden, .act = Act::relu2, .gated = false});
  });
}
/// Falcon-H1 and Bamba: layers in turn, each with an FFN.
Model falcon(const char* family, const Shape& s, const Mamba2& mamba, std::string_view pattern) {
  return hybrid(family, s, pattern, [&](char letter) {
    return letter == 'M' ? block(mamba, mlp(s)) : block(attention(s), mlp(s));
  });
}
/// Attention in each fourth layer; of those, each second has experts, from the first on.
Model jamba(const Shape& s, const Mamba2& mamba, int experts, int top_k) {
  const Block m = block(mamba, mlp(s));
  return model("jamba", s,
               {m, m, m, block(attention(s), mixtral_moe(s, experts, top_k)), m, m, m,
                block(attention(s), mlp(s))});
}

GatedDelta delta(const Shape& s) {
  return {
      .heads = s.heads, .key_heads = s.heads, .key_dim = s.head_dim(), .value_dim = s.head_dim()};
}
Model qwen35(const Shape& s) {
  return model("qwen3_5", s, each(4, block(delta(s), mlp(s)), block(attention(s), mlp(s))));
}
Model kimi(const Shape& s, int experts, int top_k) {
  const Moe moe = shared_moe(s, experts, top_k);
  return model("kimi_linear", s, each(4, block(attention(s), moe), block(delta(s), moe)));
}
Model glm45(const Shape& s, const Latent& l) {
  Mla m = mla(s, l);
  m.position = NoPosition{};
  return model("glm4_moe", s, {block(m, mlp(s))});
}
Model with_window(const char* family, const Shape& s, int window) {
  Attention a = attention(s);
  a.window = window;
  return model(family, s, {block(a, mlp(s))});
}
Model with_biases(const Shape& s) {
  Attention a = attention(s);
  a.qkv_bias = a.out_bias = true;
  return model("qwen2", s, {block(a, Mlp{.hidden = s.hidden, .bias = true})});
}
Model with_gate(const Shape& s) {
  Attention a = attention(s);
  a.gate = true;
  return model("qwen3_next", s, {block(a, mlp(s))});
}
Model with_norms(const char* family, const Shape& s) {
  return model(family, s, {block(normed(s), mlp(s))});
}

// vocabulary, width, heads, key heads, layers, FFN, context, rotation, tied
constexpr Shape kTiny2{256, 64, 4, 2, 2, 128, 128};
constexpr Shape kTiny4{256, 64, 4, 2, 4, 128, 128};
constexpr Shape theta(Shape s, float value) {
  s.theta = value;
  return s;
}
constexpr Latent kTinyLatent{16, 32, 8, 8, 16};
constexpr Latent kDeepseek{512, 1536, 128, 64, 128};
constexpr Mamba2 kTinyMamba2() {
  Mamba2 m;
  m.heads = 4, m.head_dim = 32, m.state = 16;
  return m;
}
constexpr Mamba2 kSmallMamba2() {
  Mamba2 m;
  m.heads = 8, m.head_dim = 32, m.state = 16;
  return m;
}
constexpr Shape kSmallHybrid{50257, 128, 4, 2, 12, 384, 512, 1e4f, true};
constexpr Nemotron kTinyNemotron{4, 32, 16, 1, 4, 2, 32, 64, 128, 1, 1, 1};
constexpr Shape kFalcon{65024, 4096, 32, 8, 17, 14336, 8192, 5e5f};
const char* const kFalconPattern = "MMMM*MMM*MMM*MMM*";

}  // namespace

std::vector<Preset> lmxlab_presets() {
  return {
      {"gpt-tiny-lmxlab", "gpt",
       [] {
         return gpt_sinusoidal(
             {.depth = 2, .dim = 64, .heads = 2, .hidden = 128, .vocab = 256, .context = 128});
       }},
      {"gpt-10m-lmxlab", "gpt",
       [] { return gpt_sinusoidal({.depth = 16, .dim = 128, .heads = 4, .context = 512}); }},
      {"gpt-30m-lmxlab", "gpt",
       [] { return gpt_sinusoidal({.depth = 22, .dim = 256, .heads = 8, .context = 512}); }},
      {"gpt-small-lmxlab", "gpt", [] { return gpt_sinusoidal({}); }},
      {"gpt-medium-lmxlab", "gpt",
       [] { return gpt_sinusoidal({.depth = 24, .dim = 1024, .heads = 16}); }},
      {"llama-7b-lmxlab", "llama",
       [] {
         return dense("llama", {32000, 4096, 32, 8, 32, 11008, 4096});
       }},
      {"llama-13b-lmxlab", "llama",
       [] {
         return dense("llama", {32000, 5120, 40, 10, 40, 13824, 4096});
       }},
      {"mistral-small-tiny-lmxlab", "mistral",
       [] { return with_window("mistral", theta(kTiny2, 1e6f), 32); }},
      {"mistral-small-lmxlab", "mistral",
       [] {
         return with_window("mistral", {131072, 5120, 32, 8, 48, 14336, 4096, 1e6f}, 4096);
       }},
      {"qwen-tiny-lmxlab", "qwen2", [] { return with_biases(theta(kTiny2, 1e6f)); }},
      {"qwen-lmxlab", "qwen2",
       [] {
         return with_biases({151936, 4096, 32, 32, 32, 11008, 4096, 1e6f});
       }},
      {"smollm3-tiny-lmxlab", "smollm3", [] { return smollm3(theta(kTiny4, 5e5f)); }},
      {"smollm3-lmxlab", "smollm3",
       [] {
         return smollm3({128256, 2560, 20, 5, 36, 6912, 4096, 5e5f, true});
       }},
      {"olmo2-tiny-lmxlab", "olmo2", [] { return with_norms("olmo2", theta(kTiny2, 5e5f)); }},
      {"olmo2-lmxlab", "olmo2",
       [] {
         return with_norms("olmo2", {100352, 4096, 32, 8, 32, 11008, 4096, 5e5f});
       }},
      {"gemma-tiny-lmxlab", "gemma",
       [] {
         return dense("gemma", {256, 64, 4, 1, 2, 128, 128, 1e4f, true});
       }},
      {"gemma-lmxlab", "gemma",
       [] {
         return dense("gemma", {256000, 2048, 8, 1, 18, 16384, 8192, 1e4f, true});
       }},
      {"gemma3-tiny-lmxlab", "gemma3",
       [] {
         return gemma3({256, 64, 4, 2, 4, 128, 128, 1e4f, true}, 16, 4);
       }},
      {"gemma3-lmxlab", "gemma3",
       [] {
         return gemma3({256000, 2048, 8, 4, 26, 16384, 8192, 1e4f, true}, 4096, 6);
       }},
      {"deepseek-tiny-lmxlab", "deepseek_v2",
       [] { return model("deepseek_v2", kTiny2, {block(mla(kTiny2, kTinyLatent), mlp(kTiny2))}); }},
      {"deepseek-lmxlab", "deepseek_v2",
       [] {
         const Shape s{102400, 5120, 128, 128, 60, 12288, 4096};
         return model("deepseek_v2", s, {block(mla(s, kDeepseek), mlp(s))});
       }},
      {"deepseek-v3-tiny-lmxlab", "deepseek_v3",
       [] { return deepseek_v3(kTiny4, kTinyLatent, 4, 2); }},
      {"deepseek-v3-lmxlab", "deepseek_v3",
       [] {
         return deepseek_v3({129280, 7168, 128, 128, 61, 18432, 4096}, kDeepseek, 256, 8);
       }},
      {"mixtral-tiny-lmxlab", "mixtral",
       [] {
         const Shape s = theta(kTiny2, 1e6f);
         return model("mixtral", s, {block(attention(s), mixtral_moe(s, 4, 2))});
       }},
      {"mixtral-lmxlab", "mixtral",
       [] {
         const Shape s{32000, 4096, 32, 8, 32, 14336, 32768, 1e6f};
         return model("mixtral", s, {block(attention(s), mixtral_moe(s, 8, 2))});
       }},
      {"qwen3-moe-tiny-lmxlab", "qwen3_moe",
       [] { return shared("qwen3_moe", theta(kTiny2, 1e6f), 4, 2); }},
      {"qwen3-moe-lmxlab", "qwen3_moe",
       [] {
         return shared("qwen3_moe", {151936, 2048, 16, 4, 28, 1024, 4096, 1e6f, true}, 64, 8, 4);
       }},
      {"glm45-tiny-lmxlab", "glm4_moe", [] { return glm45(kTiny2, kTinyLatent); }},
      {"glm45-lmxlab", "glm4_moe",
       [] {
         return glm45({151552, 3584, 28, 28, 40, 18944, 4096}, {512, 1536, 64, 64, 128});
       }},
      {"gpt-oss-tiny-lmxlab", "gpt_oss", [] { return with_norms("gpt_oss", theta(kTiny2, 5e5f)); }},
      {"gpt-oss-lmxlab", "gpt_oss",
       [] {
         return with_norms("gpt_oss", {200064, 2048, 16, 4, 24, 5632, 4096, 5e5f, true});
       }},
      {"llama4-scout-tiny-lmxlab", "llama4", [] { return llama4(theta(kTiny4, 5e5f), 16, 4, 2); }},
      {"llama4-maverick-tiny-lmxlab", "llama4",
       [] { return llama4(theta(kTiny4, 5e5f), 16, 8, 1); }},
      {"llama4-scout-lmxlab", "llama4",
       [] {
         return llama4({202048, 5120, 40, 8, 48, 8192, 65536, 5e5f}, 8192, 16, 1);
       }},
      {"llama4-maverick-lmxlab", "llama4",
       [] {
         return llama4({202048, 5120, 40, 8, 48, 8192, 65536, 5e5f}, 8192, 128, 1);
       }},
      {"bamba-tiny-lmxlab", "bamba",
       [] { return falcon("bamba", theta(kTiny4, 5e5f), kTinyMamba2(), "MMM*"); }},
      {"bamba-10m-lmxlab", "bamba",
       [] {
         return falcon("bamba", theta(kSmallHybrid, 5e5f), kSmallMamba2(), repeated("MMM*", 3));
       }},
      {"bamba-lmxlab", "bamba",
       [] {
         Shape s = kFalcon;
         s.vocab = 128000, s.context = 4096;
         return falcon("bamba", s, {.heads = 128, .head_dim = 64, .groups = 8}, kFalconPattern);
       }},
      {"jamba-tiny-lmxlab", "jamba",
       [] {
         return jamba({256, 64, 4, 2, 8, 128, 128}, kTinyMamba2(), 4, 2);
       }},
      {"jamba-10m-lmxlab", "jamba", [] { return jamba(kSmallHybrid, kSmallMamba2(), 4, 2); }},
      {"jamba-lmxlab", "jamba",
       [] {
         return jamba({65536, 4096, 32, 8, 32, 14336, 4096},
                      {.heads = 64, .head_dim = 64, .state = 16}, 16, 2);
       }},
      {"qwen-next-tiny-lmxlab", "qwen3_next", [] { return with_gate(theta(kTiny2, 1e6f)); }},
      {"qwen-next-lmxlab", "qwen3_next",
       [] {
         return with_gate({152064, 3584, 28, 4, 28, 18944, 4096, 1e6f});
       }},
      {"qwen35-tiny-lmxlab", "qwen3_5", [] { return qwen35(theta(kTiny4, 1e6f)); }},
      {"qwen35-lmxlab", "qwen3_5",
       [] {
         return qwen35({151936, 2048, 16, 4, 28, 5504, 32768, 1e6f});
       }},
      {"kimi-tiny-lmxlab", "kimi_linear", [] { return kimi(theta(kTiny4, 1e6f), 4, 2); }},
      {"kimi-lmxlab", "kimi_linear",
       [] {
         return kimi({131072, 3584, 28, 4, 28, 4864, 4096, 1e6f}, 128, 8);
       }},
      {"nemotron3-tiny-lmxlab", "nemotron_h",
       [] { return nemotron3(kTiny4, kTinyNemotron, "MEM*"); }},
      {"nemotron3-lmxlab", "nemotron_h",
       [] {
         return nemotron3({256000, 4096, 32, 2, 0, 16384, 4096}, {}, "MEME*ME*");
       }},
      {"nemotron3-8b-lmxlab", "nemotron_h",
       [] {
         return nemotron3({131072, 4096, 32, 8, 0, 21504, 8192}, {},
                          "M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-");
       }},
      {"nemotron3-nano-lmxlab", "nemotron_h",
       [] {
         Nemotron n{.mamba_heads = 64, .mamba_dim = 84, .experts = 128, .top_k = 6, .latent = 768};
         n.expert_hidden = 768, n.shared = 10752;
         return nemotron3({256000, 2688, 24, 2, 0, 10752, 4096}, n,
                          repeated("MEMEMEM*", 6) + "MEME");
       }},
      {"nemotron3-super-lmxlab", "nemotron_h",
       [] {
         return nemotron3({256000, 4096, 32, 2, 0, 16384, 4096}, {}, repeated("MEMEMEM*", 11));
       }},
      {"falcon-h1-tiny-lmxlab", "falcon_h1",
       [] { return falcon("falcon_h1", theta(kTiny4, 5e5f), kTinyMamba2(), "MMM*"); }},
      {"falcon-h1-10m-lmxlab", "falcon_h1",
       [] {
         return falcon("falcon_h1", theta(kSmallHybrid, 5e5f), kSmallMamba2(), repeated("MMM*", 3));
       }},
      {"falcon-h1-lmxlab", "falcon_h1",
       [] {
         return falcon("falcon_h1", kFalcon, {.heads = 64, .head_dim = 64, .groups = 8},
                       kFalconPattern);
       }},
      {"grok-tiny-lmxlab", "grok", [] { return shared("grok", theta(kTiny2, 5e5f), 4, 2); }},
      {"grok-lmxlab", "grok",
       [] {
         return shared("grok", {131072, 6144, 48, 8, 64, 8192, 4096, 5e5f}, 8, 2);
       }},
  };
}

}  // namespace lmxlab::config
