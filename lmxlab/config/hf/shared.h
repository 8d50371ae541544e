// What classes of transformers share. Private to config.
#pragma once

#include "lmxlab/config/hf/classes.h"

#include <cmath>

namespace lmxlab::config {

/// Sizes of most classes. `own_head_dim`: heads need not divide the stream among them.
void sizes(Keys& k, Decoder& d, bool own_head_dim = true);
/// The same with an activation, RMSNorm and rotary positions.
void llama_like(Keys& k, Decoder& d, const RopeForm& rope = {});
/// A block of Llama: the others differ from it by a line or two.
Block llama_block(const Decoder& d);
/// The block for every layer, with windows and rotations where the decoder has them.
Model assemble(const Decoder& d, const char* family, const Block& block);

inline Attention& attention_of(Block& b) {
  return std::get<Attention>(b.mixer);
}
inline Mlp& mlp_of(Block& b) {
  return std::get<Mlp>(b.ffn);
}

/// Qwen 2 and 3: a window in the layers from max_window_layers on, if it is switched on.
void qwen_window(Keys& k, Decoder& d);
/// A list of layer types, or one full layer in each so many; full ones may not rotate.
void pattern_keys(Keys& k, Decoder& d, bool full_rotates);
/// Which layers rotate: a list, or all but one in each so many.
void no_rope_layers(Keys& k, Decoder& d);
/// Granite's four multipliers.
void granite_scales(Keys& k, Decoder& d);

/// What a class calls the sizes of its experts.
struct ExpertNames {
  Names experts, top_k, hidden;
};
extern const ExpertNames kLocalExperts;   // Mixtral's
extern const ExpertNames kRoutedExperts;  // DeepSeek's
extern const Moe kDeepseekV3;  // the router of its third version, which others start from
/// Of a class without dense layers: one width serves the experts.
void one_width(Decoder& d);
void expert_sizes(Keys& k, Decoder& d, const Moe& defaults, const ExpertNames& names);
/// assemble() with experts that have the decoder's activation.
Model with_experts(Decoder d, const char* family, const Block& block);
/// Which layers are dense: those in a list, and all but each step-th.
void qwen_layers(Keys& k, Decoder& d);
/// A switch: weights are divided by their sum.
void normalized(Keys& k, Decoder& d, const char* name);
/// So many dense layers come first.
void first_dense(Keys& k, Decoder& d, const char* name, int otherwise);
/// The shared expert's width, as a number of experts.
void shared_experts(Keys& k, Decoder& d, const char* name, int otherwise);
/// Scale, groups and sums of DeepSeek's router.
void deepseek_router(Keys& k, Decoder& d);
/// DeepSeek's keys, which others have too.
void deepseek_experts(Keys& k, Decoder& d, Moe defaults, const ExpertNames& names, int dense,
                      int shared);
/// Kimi's keys; `dense` layers come first if the file says nothing.
void kimi_experts(Keys& k, Decoder& d, const Moe& defaults, int dense);

/// What yarn's mscale_all_dim makes of the scores of latent attention, and the way back; 0:
/// nothing.
std::optional<float> scale_of(const Mla& mla, const Rope& rope, float mscale_all);
float mscale_of(const Mla& mla);

/// Sizes and rotation of latent attention, without the number of layers and the FFN's width.
void mla_sizes(Keys& k, Decoder& d, const Mla& defaults, bool interleaved_key);
/// With them; the rest of a class is Llama's.
void mla_like(Keys& k, Decoder& d, const Mla& defaults, bool interleaved_key);
Block mla_block(const Decoder& d);

/// Which of `depth` layers a rule of (one-based) layer numbers picks.
template <class F>
std::vector<bool> layers_where(const Decoder& d, F rule) {
  std::vector<bool> out;
  for (int i = 1; i <= d.depth; ++i) out.push_back(rule(i));
  return out;
}

/// The recurrent mixer of a class; its own or, when read, the defaults.
template <class T>
T recurrent_of(const Keys& k, const Decoder& d, const T& defaults) {
  const auto* own = d.recurrent ? std::get_if<T>(&*d.recurrent) : nullptr;
  return k.reading() || !own ? defaults : *own;
}
/// Layers alternate by a rule where no list says it.
template <class F>
void recurrent_where(Keys& k, Decoder& d, F rule) {
  if (k.reading()) d.recurrent_layers = layers_where(d, [&](int i) { return rule(i - 1); });
}

/// Mamba-2 under a class's names.
struct Mamba2Names {
  Names heads, head_dim, groups, state, conv, in_bias, conv_bias;
};
Mamba2 mamba2_keys_of(Keys& k, const Decoder& d, const Mamba2& defaults, const Mamba2Names& names);

}  // namespace lmxlab::config
