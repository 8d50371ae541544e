// The only place where masks are made. They are boolean, true means "may look", and are joined by
// AND only: a row that may look nowhere (padding) then stays finite, which an additive -inf does
// not.
#pragma once

#include "lmxlab/core/pass.h"
#include "lmxlab/kernels/attention.h"

#include <optional>

namespace lmxlab::core {

/// What attention is told: nothing is hidden; the causal triangle (aligned to the last key),
/// perhaps with a window and with padding at the left of rows; or an array.
struct Mask {
  enum class Kind { none, causal, array } kind = Kind::none;
  int window = 0;                         // causal: 0 where it hides nothing
  std::optional<mx::array> padding = {};  // causal: int32 [B] or [B, L], columns at the left
  std::optional<mx::array> allowed = {};  // array: bool [L, S] or [B, 1, L, S]
};

/// What a query sees behind it: all, itself and the window - 1 positions before it, or, in chunks,
/// what its own chunk of `window` positions has up to it.
struct Reach {
  Reach() = default;
  Reach(int w) : window(w) {}
  Reach(std::optional<int> w, bool in_chunks = false) : window(w), chunked(in_chunks) {}
  std::optional<int> window = {};
  bool chunked = false;
};

/// The mask of L queries at positions offset ... offset + L - 1 over `keys`.
/// Lazy; equal masks of several layers are built again and merged by compile.
Mask attention_mask(const Pass& pass, int length, const Keys& keys, const Reach& reach);

/// The mask over keys from position 0 to the last query's: causal, as kernels take it.
kernels::AttentionMask causal_mask(const Pass& pass, std::optional<int> window,
                                   std::optional<float> softcap);

/// The same as an array, also where `attention_mask` answers none or causal. bool [L, S] or [B, 1,
/// L, S].
mx::array mask_array(const Pass& pass, int length, const Keys& keys, const Reach& reach);

/// The same of some columns alone, each query's own: of columns [B, L, k] bool [B, L, k].
mx::array mask_at(const Pass& pass, const Keys& keys, std::optional<int> window,
                  const mx::array& columns);

/// Which of a pass's L columns hold tokens: bool [B, L, 1]; none where no row is padded.
std::optional<mx::array> token_columns(const Pass& pass, int length);

/// Positions of queries, int32 [L], or [B, L] where rows are padded (padding counts from below 0).
mx::array query_positions(const Pass& pass, int length);
/// Positions of the columns of `keys`, int32 [S], before padding is taken off. `next`: the position
/// after the last.
mx::array key_positions(const Keys& keys, int next);

}  // namespace lmxlab::core
