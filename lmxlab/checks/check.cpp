#include "lmxlab/checks/check.h"

#include "lmxlab/base/random.h"
#include "lmxlab/checks/support.h"
#include "lmxlab/config/rope.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/core/transformer.h"

#include <mlx/ops.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <sstream>

namespace lmxlab::checks {

mx::array some_tokens(const config::Model& c, int rows, int length, uint64_t seed) {
  HostRandom random(seed);
  std::vector<int32_t> ids;
  for (int i = 0; i < rows * length; ++i)
    ids.push_back(static_cast<int32_t>(random.below(static_cast<uint64_t>(c.vocab))));
  return mx::array(ids.data(), {rows, length}, mx::int32);
}

mx::array with_other_token(const config::Model& c, const mx::array& tokens, int at) {
  const int length = tokens.shape(1);
  const auto other =
      mx::remainder(mx::add(columns(tokens, at, at + 1), mx::array(1)), mx::array(c.vocab));
  return mx::concatenate({columns(tokens, 0, at), other, columns(tokens, at + 1, length)}, 1);
}

mx::array columns(const mx::array& tokens, int from, int to) {
  return mx::slice(tokens, {0, from}, {tokens.shape(0), to});
}
mx::array positions(const mx::array& logits, int from, int to) {
  return mx::slice(logits, {0, from, 0}, {logits.shape(0), to, logits.shape(2)});
}
mx::array row(const mx::array& a, int i) {
  return mx::expand_dims(mx::take(a, i, 0), 0);
}

double largest(const mx::array& a) {
  return static_cast<double>(mx::max(mx::abs(f32(a))).item<float>());
}

double epsilon(DType t) {
  return t == DType::f32 ? 1.2e-7 : t == DType::f16 ? 9.8e-4 : 7.8e-3;
}

std::string number(double v) {
  std::ostringstream text;
  text.precision(2);
  text << v;
  return text.str();
}

Cache cache_for(const LanguageModel& model, int text, const std::optional<mx::array>& pads) {
  Cache cache = model.make_cache(pads);
  cache.text_length = text;
  return cache;
}

mx::array go_on(const LanguageModel& model, const mx::array& tokens, Cache& cache) {
  auto [logits, next] = model(tokens, std::move(cache));
  cache = std::move(next);
  eval(logits, cache);
  return logits;
}

mx::array whole(const LanguageModel& model, const mx::array& tokens, int text,
                const std::optional<mx::array>& pads) {
  if (!config::depends_on_length(model.config()) || text == tokens.shape(1))
    return model.forward(tokens, pads);
  Cache cache = cache_for(model, text, pads);
  return go_on(model, tokens, cache);
}

config::Model without_choice(config::Model c) {
  for (auto& b : c.layers) {
    auto* mla = std::get_if<config::Mla>(&b.mixer);
    if (mla && mla->indexer) mla->indexer->top_k = c.context;
    if (auto* nsa = std::get_if<config::Nsa>(&b.mixer)) nsa->selected = c.context;
    auto* both = std::get_if<config::MlpAndMoe>(&b.ffn);
    auto* moe = b.shortcut ? &*b.shortcut : both ? &both->moe : std::get_if<config::Moe>(&b.ffn);
    if (!moe) continue;
    moe->top_k = moe->choices(), moe->groups = moe->groups_kept = 1;
    if (moe->scoring == config::Scoring::sparsemixer) moe->scoring = config::Scoring::softmax;
  }
  return c;
}

LanguageModel copy_of(LanguageModel& model) {
  LanguageModel copy(model.config(), 0);
  const auto from = core::collect(model.transformer()), to = core::collect(copy.transformer());
  for (size_t i = 0; i < to.size(); ++i) to[i].param->value = from.at(i).param->value;
  copy.set_activations(model.activations());
  return copy;
}

bool has_packed_weights(LanguageModel& model) {
  const auto all = core::weights_of(model.transformer());
  return std::any_of(all.begin(), all.end(), [](const auto& w) { return w.weight->quantized(); });
}

Check compare(const std::string& name, const mx::array& a, const mx::array& b, double bound) {
  if (a.shape() != b.shape()) return {name, false, "the shapes differ"};
  const auto difference = mx::flatten(mx::abs(mx::subtract(f32(a), f32(b))));
  // NaN compares false with everything: count it as the worst there can be.
  const auto seen = mx::where(mx::isnan(difference), mx::array(INFINITY), difference);
  const auto at = static_cast<int>(mx::argmax(seen).item<uint32_t>());
  const double worst = static_cast<double>(mx::take(seen, at, 0).item<float>());
  std::ostringstream text;
  text.precision(6);
  text << "worst difference " << worst << " of " << bound << " allowed, at element " << at
       << " of shape [";
  for (size_t i = 0; i < a.ndim(); ++i) text << (i ? ", " : "") << a.shape(static_cast<int>(i));
  text << "]: " << mx::take(mx::flatten(f32(a)), at, 0).item<float>() << " and "
       << mx::take(mx::flatten(f32(b)), at, 0).item<float>();
  return {name, worst <= bound, text.str(), "", worst, bound};
}

double rounding_bound(const LanguageModel& model, const mx::array& logits) {
  const auto& c = model.config();
  return 32 * epsilon(model.activations()) *
         std::sqrt(static_cast<double>(c.dim) * static_cast<double>(c.layers.size())) *
         std::max(largest(logits), 1e-3);
}

Differences differences(const mx::array& a, const mx::array& b, double bound) {
  const auto off = mx::max(mx::abs(mx::subtract(f32(a), f32(b))), -1);  // [B, L]
  // NaN is no less than the bound.
  const auto same = mx::less_equal(off, mx::array(static_cast<float>(bound)));
  const auto ok = to_vector<bool>(same);
  Differences out{.all = static_cast<int>(ok.size())};
  const int L = off.shape(1);
  std::set<int> rows;
  for (int i = 0; i < out.all; ++i) {
    if (ok[static_cast<size_t>(i)]) continue;
    const int at = i % L;
    ++out.positions, rows.insert(i / L);
    if (out.first < 0 || at < out.first) out.first = at, out.first_row = i / L;
    out.last = std::max(out.last, at);
  }
  out.rows = static_cast<int>(rows.size());
  return out;
}

}  // namespace lmxlab::checks
