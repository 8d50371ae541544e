// Positions: rotary, ALiBi, sinusoidal. Tables are not parameters; they are made when needed.
#pragma once

#include "lmxlab/config/model.h"
#include "lmxlab/core/pass.h"
#include "lmxlab/kernels/rope.h"

namespace lmxlab::core {

/// The rotation of a layer, as kernels take it. Tables that depend on no length are made once.
class Rotation {
 public:
  Rotation(const config::Rope& rope, int head_dim);
  /// For a pass of so many tokens.
  kernels::Rope at(const Pass& pass, int tokens) const;

 private:
  kernels::Rope made(int length) const;

  config::Rope rope_;
  int dims_;
  std::optional<kernels::Rope> fixed_;
};
/// Rotates queries or keys to their positions. arXiv:2104.09864, equation 34.
/// @param x  [B, H, L, Dh]
mx::array rotate(const Rotation& rotation, const mx::array& x, const Pass& pass);

/// Slopes of H heads, float32 [H]. For a power of two 2^(-max h / H), h = 1..H; otherwise those of
/// the power of two below, then every second one of the next. arXiv:2108.12409 and its authors'
/// code.
std::vector<float> alibi_slopes(int heads, const config::Alibi& alibi = {});

/// -slope_h * (query position - key position), float32 [H, L, S]; of rounded ones what is the same
/// to softmax, [H, 1, S] or [B, H, 1, S]. `scale` is that of the scores.
mx::array alibi_bias(int heads, const config::Alibi& alibi, float scale, const Pass& pass,
                     int length, const Keys& keys);

/// sin and cos of position * 10000^(-2i/D), halves side by side, float32 [L, D] or [B, L, D]; D
/// even. arXiv:1706.03762, section 3.5 (there the two are interleaved, which is a permutation of
/// D).
mx::array sinusoids(const mx::array& positions, int dim);

}  // namespace lmxlab::core
