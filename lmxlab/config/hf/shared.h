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

/// What yarn's mscale_all_dim makes of the scores of latent attention, and the way back; 0:
/// nothing.
std::optional<float> scale_of(const Mla& mla, const Rope& rope, float mscale_all);
float mscale_of(const Mla& mla);

/// Which of `depth` layers a rule of (one-based) layer numbers picks.
template <class F>
std::vector<bool> layers_where(const Decoder& d, F rule) {
  std::vector<bool> out;
  for (int i = 1; i <= d.depth; ++i) out.push_back(rule(i));
  return out;
}

}  // namespace lmxlab::config
