// What several properties need: tokens to try, parts of arrays, copies of models.
#pragma once

#include "lmxlab/checks/check.h"

#include <mlx/ops.h>

#include <string>

namespace lmxlab::checks {

inline mx::array f32(const mx::array& a) {
  return mx::astype(a, mx::float32);
}
/// Tokens [rows, length] from a fixed sequence, so that a failure can be repeated.
mx::array some_tokens(const config::Model& c, int rows, int length, uint64_t seed);
/// The same tokens, but for one column.
mx::array with_other_token(const config::Model& c, const mx::array& tokens, int at);
/// [B, L] -> [B, to - from]; [B, L, V] -> [B, to - from, V]
mx::array columns(const mx::array& tokens, int from, int to);
mx::array positions(const mx::array& logits, int from, int to);
/// One row, which stays a batch.
mx::array row(const mx::array& a, int i);
double largest(const mx::array& a);
double epsilon(DType t);
/// "3.2e-05"
std::string number(double v);

/// A forward pass of rows, some with padding, whose rotary frequencies are those of `text` tokens.
mx::array whole(const LanguageModel& model, const mx::array& tokens, int text,
                const std::optional<mx::array>& pads = {});
/// An empty cache for rows of `text` tokens.
Cache cache_for(const LanguageModel& model, int text, const std::optional<mx::array>& pads = {});
/// The pass of these tokens behind what the cache has seen, evaluated.
mx::array go_on(const LanguageModel& model, const mx::array& tokens, Cache& cache);

/// In words, what is wrong with a cache through which tokens [B, L] from `first` on get other
/// logits, and the likely cause. @cost  as many passes as `first`
std::string why_the_cache_differs(LanguageModel& model, const mx::array& tokens, int first);

/// Of routers and indexers: all are chosen, so that no small step turns a choice.
config::Model without_choice(config::Model c);
/// A model of the same config and weights (shared until one of them changes); dense ones alone.
LanguageModel copy_of(LanguageModel& model);
bool has_packed_weights(LanguageModel& model);

}  // namespace lmxlab::checks
