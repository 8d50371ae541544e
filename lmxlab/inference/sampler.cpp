#include "lmxlab/inference/sampler.h"

#include "lmxlab/base/error.h"
#include "lmxlab/kernels/cross_entropy.h"
#include "lmxlab/kernels/rehearsal.h"
#include "lmxlab/kernels/sample.h"

#include <mlx/ops.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

namespace lmxlab {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

mx::array f32(float value) {
  return mx::array(value);
}

// One round of SplitMix64: neighbours among its arguments give unrelated values.
uint64_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

// uint32 [B, 2]; row r depends on (seeds[r], steps[r]) alone.
mx::array keys(const std::vector<uint64_t>& seeds, const std::vector<uint64_t>& steps) {
  std::vector<uint32_t> words;
  for (size_t r = 0; r < seeds.size(); ++r) {
    const uint64_t key = mix(mix(seeds[r]) + steps[r]);
    words.push_back(static_cast<uint32_t>(key >> 32));
    words.push_back(static_cast<uint32_t>(key));
  }
  return mx::array(words.begin(), {static_cast<int>(seeds.size()), 2}, mx::uint32);
}

kernels::Sampling sampling(const SamplingOptions& o) {
  return {.temperature = o.temperature, .top_k = o.top_k, .top_p = o.top_p, .min_p = o.min_p};
}

// Ids of each row, the largest logit first and of equal ones the smaller id; the first n of them.
mx::array ranked(const mx::array& x, int n) {
  if (n == x.shape(1)) return mx::argsort(mx::negative(x), 1);  // stable
  auto ids = mx::slice(mx::argpartition(mx::negative(x), n - 1, 1), {0, 0}, {x.shape(0), n});
  ids = mx::sort(ids, 1);
  const auto order = mx::argsort(mx::negative(mx::take_along_axis(x, ids, 1)), 1);
  return mx::take_along_axis(ids, order, 1);
}

mx::array winner(const mx::array& x) {  // [B, V] -> int32 [B]
  return mx::astype(mx::argmax(x, 1), mx::int32);
}

mx::array one_hot(const mx::array& tokens,
                  int vocab) {  // int32 [B] -> int32 [B, V]; nothing for -1
  return mx::astype(mx::equal(mx::expand_dims(tokens, 1), mx::arange(vocab, mx::int32)), mx::int32);
}

}  // namespace

bool penalizes(const SamplingOptions& o) {
  return o.repetition_penalty != 1 || o.presence_penalty != 0 || o.frequency_penalty != 0;
}

void validate(const SamplingOptions& o, int vocab) {
  Problems problems;
  const auto range = [&](const char* name, float value, float low, float high, const char* text) {
    if (!(value >= low && value <= high) || !std::isfinite(value))
      problems.add(std::string(name) + ": expected " + text + ", got " + std::to_string(value));
  };
  range("temperature", o.temperature, 0, kInf, "0 (greedy) or more");
  range("top_p", o.top_p, 0, 1, "0 to 1");
  range("min_p", o.min_p, 0, 1, "0 to 1");
  range("presence_penalty", o.presence_penalty, -kInf, kInf, "a number");
  range("frequency_penalty", o.frequency_penalty, -kInf, kInf, "a number");
  range("repetition_penalty", o.repetition_penalty, std::numeric_limits<float>::min(), kInf,
        "a number above 0");
  if (o.top_k < 0) problems.add("top_k: expected 0 (all) or more, got " + std::to_string(o.top_k));
  if (o.penalty_window < 0)
    problems.add("penalty_window: expected 0 (all) or more, got " +
                 std::to_string(o.penalty_window));
  int forbidden = 0;
  for (const auto& [id, bias] : o.logit_bias) {
    if (id < 0 || id >= vocab)
      problems.add("logit_bias: expected ids from 0 to " + std::to_string(vocab - 1) + ", got " +
                   std::to_string(id));
    if (std::isnan(bias) || bias == kInf)
      problems.add("logit_bias of " + std::to_string(id) + ": expected a number or -inf, got " +
                   std::to_string(bias));
    forbidden += bias == -kInf;
  }
  if (forbidden >= vocab) problems.add("logit_bias: every token is forbidden");
  problems.raise(Kind::usage, "[sampler] options");
}

Sampler::Sampler(const SamplingOptions& options, int vocab,
                 std::span<const std::vector<int>> prompts, std::vector<uint64_t> seeds,
                 int logprobs, bool tempered)
    : options_(options),
      vocab_(vocab),
      logprobs_(logprobs),
      tempered_(tempered),
      seeds_(std::move(seeds)),
      steps_(seeds_.size(), 0) {
  validate(options, vocab);
  if (tempered && options.temperature == 0)
    throw Error(Kind::usage,
                "[sampler] temperature: tempered log-probabilities need one above 0, got 0");
  if (seeds_.size() != prompts.size())
    throw Error(Kind::usage, "[sampler] expected a seed for each of " +
                                 std::to_string(prompts.size()) + " prompts, got " +
                                 std::to_string(seeds_.size()));
  if (logprobs < -1 || logprobs > vocab)
    throw Error(Kind::usage, "[sampler] logprobs: expected -1 (none) to " + std::to_string(vocab) +
                                 ", got " + std::to_string(logprobs));
  if (!options.logit_bias.empty()) {
    std::vector<float> bias(static_cast<size_t>(vocab), 0.0f);
    for (const auto& [id, value] : options.logit_bias) bias[static_cast<size_t>(id)] = value;
    bias_ = kernels::host_array(bias.data(), {vocab});
  }
  if (!penalizes(options)) return;
  const size_t width = static_cast<size_t>(options.penalty_window);
  std::vector<int32_t> counts(prompts.size() * static_cast<size_t>(vocab), 0);
  std::vector<int32_t> window(prompts.size() * width, -1);
  for (size_t r = 0; r < prompts.size(); ++r) {
    const auto& prompt = prompts[r];
    const size_t n = width ? std::min(width, prompt.size()) : prompt.size();
    for (size_t i = prompt.size() - n; i < prompt.size(); ++i) {
      if (prompt[i] < 0 || prompt[i] >= vocab)
        throw Error(Kind::usage, "[sampler] prompt: expected ids from 0 to " +
                                     std::to_string(vocab - 1) + ", got " +
                                     std::to_string(prompt[i]));
      ++counts[r * static_cast<size_t>(vocab) + static_cast<size_t>(prompt[i])];
      if (width) window[(r + 1) * width - (prompt.size() - i)] = prompt[i];
    }
  }
  const int rows = static_cast<int>(prompts.size());
  counts_ = kernels::host_array(counts.data(), {rows, vocab});
  if (width) window_ = kernels::host_array(window.data(), {rows, options.penalty_window});
}

mx::array Sampler::penalized(const mx::array& logits) const {
  if (!bias_ && !counts_) return logits;
  const auto& o = options_;
  auto x = mx::astype(logits, mx::float32);
  if (bias_) x = mx::add(x, *bias_);
  if (!counts_) return x;
  const auto seen = mx::greater(*counts_, mx::array(0));
  if (o.repetition_penalty != 1) {
    const auto p = f32(o.repetition_penalty);
    const auto changed = mx::where(mx::greater(x, f32(0)), mx::divide(x, p), mx::multiply(x, p));
    x = mx::where(seen, changed, x);
  }
  if (o.frequency_penalty != 0)
    x = mx::subtract(x, mx::multiply(f32(o.frequency_penalty), mx::astype(*counts_, mx::float32)));
  if (o.presence_penalty != 0)
    x = mx::subtract(x, mx::multiply(f32(o.presence_penalty), mx::astype(seen, mx::float32)));
  return x;
}

void Sampler::remember(const mx::array& tokens) {
  if (!counts_) return;
  counts_ = mx::add(*counts_, one_hot(tokens, vocab_));
  if (!window_) return;
  const int rows = window_->shape(0), width = window_->shape(1);
  const auto oldest = mx::squeeze(mx::slice(*window_, {0, 0}, {rows, 1}), 1);
  counts_ = mx::subtract(*counts_, one_hot(oldest, vocab_));
  window_ =
      mx::concatenate({mx::slice(*window_, {0, 1}, {rows, width}), mx::expand_dims(tokens, 1)}, 1);
}

mx::array Sampler::log_distribution(const mx::array& logits) const {
  const auto x = penalized(logits);
  const auto ids = mx::arange(vocab_, mx::int32);
  if (options_.temperature == 0)
    return mx::where(mx::equal(mx::expand_dims(winner(x), 1), ids), f32(0), f32(-kInf));
  const auto left = kernels::truncated(x, sampling(options_));
  return mx::subtract(left, mx::logsumexp(left, 1, true));
}

Draw Sampler::draw(const mx::array& logits) {
  if (logits.ndim() != 2 || logits.shape(0) != static_cast<int>(seeds_.size()) ||
      logits.shape(1) != vocab_)
    throw Error(Kind::usage, "[sampler] expected logits [" + std::to_string(seeds_.size()) + ", " +
                                 std::to_string(vocab_) + "], got another shape");
  Draw d{kernels::sample(penalized(logits), keys(seeds_, steps_), sampling(options_))};
  for (auto& step : steps_) ++step;
  remember(d.tokens);
  if (logprobs_ < 0) return d;
  auto raw = mx::astype(logits, mx::float32);
  if (tempered_) raw = mx::multiply(raw, f32(1 / options_.temperature));
  // By the kernel that training has, so that equal logits give equal bits.
  const auto entropy = kernels::cross_entropy(raw, d.tokens);
  d.logprobs = mx::negative(entropy.nll);
  if (logprobs_ > 0) {
    const auto log_p = mx::subtract(raw, mx::expand_dims(entropy.lse, 1));
    const auto ids = ranked(raw, logprobs_);
    d.top_ids = mx::contiguous(mx::astype(ids, mx::int32));
    d.top_logprobs = mx::contiguous(mx::take_along_axis(log_p, ids, 1));
  }
  return d;
}

void Sampler::at(std::vector<uint64_t> steps) {
  if (steps.size() != seeds_.size())
    throw Error(Kind::usage, "[sampler] expected a step for each of " +
                                 std::to_string(seeds_.size()) + " rows, got " +
                                 std::to_string(steps.size()));
  steps_ = std::move(steps);
}

void Sampler::reorder(std::span<const int> rows) {
  const mx::array index(rows.begin(), {static_cast<int>(rows.size())}, mx::int32);
  const auto take = [&](std::vector<uint64_t>& all) {
    std::vector<uint64_t> some;
    for (const int r : rows) some.push_back(all.at(static_cast<size_t>(r)));
    all = std::move(some);
  };
  take(seeds_), take(steps_);
  if (counts_) counts_ = mx::take(*counts_, index, 0);
  if (window_) window_ = mx::take(*window_, index, 0);
}

}  // namespace lmxlab
