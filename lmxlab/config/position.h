// Positions, inside mixers and of whole models.
#pragma once

#include "lmxlab/base/fields.h"

#include <optional>
#include <variant>
#include <vector>

namespace lmxlab::config {

struct NoPosition {
  static constexpr const char* kind = "none";
  template <class V>
  void visit(V&) {}
};
struct Unscaled {
  static constexpr const char* kind = "none";
  template <class V>
  void visit(V&) {}
};
/// The base grows with the text's length, once that is beyond `original` (NTK-aware scaling).
struct DynamicNtk {
  static constexpr const char* kind = "dynamic";
  float factor = 1;
  int original = 2048;
  template <class V>
  void visit(V& v) {
    v("factor", factor, "how fast the base grows");
    v("original", original, "the length it was trained for, in tokens");
  }
};
/// Low frequencies are divided by the factor, high ones stay, those between are mixed: Llama 3.1,
/// arXiv:2407.21783.
struct Llama3Scaling {
  static constexpr const char* kind = "llama3";
  float factor = 8, low_freq_factor = 1, high_freq_factor = 4;
  int original = 8192;
  template <class V>
  void visit(V& v) {
    v("factor", factor, "divides low frequencies");
    v("low_freq_factor", low_freq_factor, "turns in `original` tokens below which one is low");
    v("high_freq_factor", high_freq_factor, "and above which it is high");
    v("original", original, "the length it was trained for, in tokens");
  }
};
/// arXiv:2309.00071.
struct Yarn {
  static constexpr const char* kind = "yarn";
  float factor = 1, beta_fast = 32, beta_slow = 1;
  int original = 2048;
  float attention_factor = 1;
  bool truncate = true;
  template <class V>
  void visit(V& v) {
    v("factor", factor, "divides low frequencies");
    v("beta_fast", beta_fast, "turns in `original` tokens above which a frequency stays");
    v("beta_slow", beta_slow, "and below which it is divided");
    v("original", original, "the length it was trained for, in tokens");
    v("attention_factor", attention_factor, "rotated queries and keys are multiplied by it");
    v("truncate", truncate, "the bounds between them are whole pairs");
  }
};
/// A divisor for each pair, one list up to `original` tokens and another beyond: arXiv:2402.13753.
struct LongRope {
  static constexpr const char* kind = "longrope";
  std::vector<float> short_factor = {}, long_factor = {};
  int original = 4096;
  float attention_factor = 1;
  std::optional<float> short_attention_factor = {};  // of short texts, where it is another
  template <class V>
  void visit(V& v) {
    v("short_factor", short_factor, "divisors of texts of up to `original` tokens");
    v("long_factor", long_factor, "divisors of longer ones");
    v("original", original, "the length it was trained for, in tokens");
    v("attention_factor", attention_factor, "rotated queries and keys are multiplied by it");
    v("short_attention_factor", short_attention_factor, "of texts of up to `original` tokens");
  }
};
/// Frequencies of whole heads, of which the first `share` turn and the others stand (Gemma 4).
struct Proportional {
  static constexpr const char* kind = "proportional";
  float share = 1, factor = 1;
  template <class V>
  void visit(V& v) {
    v("share", share, "of the pairs that turn");
    v("factor", factor, "divides their frequencies");
  }
};
/// What is done to the frequencies for texts longer than those of the training; config/rope.h
/// computes it. Linear scaling is Rope::scale.
using RopeScaling = std::variant<Unscaled, DynamicNtk, Llama3Scaling, Yarn, LongRope, Proportional>;

/// Rotary positions of queries and keys, arXiv:2104.09864. Halves are rotated together, or
/// neighbours if interleaved.
struct Rope {
  static constexpr const char* kind = "rope";
  float theta = 10'000;
  int dims = 0;  // rotated dimensions of a head; 0: all
  bool interleaved = false;
  float scale = 1;  // positions are multiplied by it (linear scaling: 1 / factor)
  RopeScaling scaling = Unscaled{};
  template <class V>
  void visit(V& v) {
    v("theta", theta, "base of the frequencies");
    v("dims", dims, "rotated dimensions of a head, 0 for all");
    v("interleaved", interleaved, "pairs (2i, 2i+1) instead of (i, i + dims/2)");
    v("scale", scale, "positions are multiplied by it; -1 turns the other way");
    v("scaling", scaling, "none, dynamic, llama3, yarn, longrope or proportional");
  }
};
/// Scores minus slope * distance, arXiv:2108.12409.
struct Alibi {
  static constexpr const char* kind = "alibi";
  float max = 8;         // the last head's slope is 2^-max
  bool strided = false;  // heads between two powers of two take the upper one's slopes, every
                         // second first (MPT)
  bool rounded = false;  // slope * position in bfloat16, then scaled like the scores (Falcon)
  template <class V>
  void visit(V& v) {
    v("max", max, "the last head's slope is 2^-max");
    v("strided", strided, "slopes of the next power of two, every second first (MPT)");
    v("rounded", rounded, "computed in bfloat16 and scaled like the scores (Falcon)");
  }
};
/// Positions inside a mixer.
using Position = std::variant<NoPosition, Rope, Alibi>;

/// A learned vector a position, added to the embedding (GPT-2).
struct Learned {
  static constexpr const char* kind = "learned";
  int length = 1024;
  int offset = 0;  // rows of the table before the first position's (OPT has two)
  template <class V>
  void visit(V& v) {
    v("length", length, "the longest sequence, in tokens");
    v("offset", offset, "rows of the table before the first position's");
  }
};
/// Sines and cosines added to the embedding, arXiv:1706.03762, section 3.5: sin and cos of
/// position * 10000^(-2i/D), in the two halves of the vector.
struct Sinusoidal {
  static constexpr const char* kind = "sinusoidal";
  template <class V>
  void visit(V&) {}
};
/// Positions of the whole model.
using ModelPosition = std::variant<NoPosition, Learned, Sinusoidal>;

}  // namespace lmxlab::config
