#include "lmxlab/inference/speculative.h"

#include "lmxlab/core/runtime.h"
#include "lmxlab/core/transformer.h"
#include "lmxlab/kernels/memory.h"
#include "lmxlab/kernels/rehearsal.h"
#include "lmxlab/kernels/start_step.h"
#include "lmxlab/models/adapters.h"

#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <cmath>
#include <cstring>

namespace lmxlab {

std::vector<int> PromptLookup::draft(const DraftRequest& r) {
  const auto& text = r.text;
  for (size_t n = std::min(static_cast<size_t>(longest_), text.size() - 1); n > 0; --n) {
    const auto run = text.last(n);
    // The latest place whose run ends before the last token does.
    for (size_t end = text.size() - 1; end >= n; --end) {
      if (!std::equal(run.begin(), run.end(), text.begin() + static_cast<ptrdiff_t>(end - n)))
        continue;
      const auto behind = text.subspan(end);
      const auto some = behind.first(std::min(behind.size(), static_cast<size_t>(r.most)));
      return {some.begin(), some.end()};
    }
  }
  return {};
}

DraftModel::DraftModel(const LanguageModel& draft, const LanguageModel& target,
                       const std::optional<CacheOptions>& options)
    : model_(draft), options_(options.value_or(CacheOptions{.kv_bits = draft.kv_bits()})) {
  expect_tokens(draft.config(), "speculative");
  const int ours = draft.config().vocab, theirs = target.config().vocab;
  if (ours != theirs)
    throw Error(Kind::mismatch, "[speculative] the draft model has a vocabulary of " +
                                    std::to_string(ours) + " tokens, the model one of " +
                                    std::to_string(theirs) +
                                    ": expected the same. Take a smaller model of its family.");
}

DraftModel::DraftModel(LanguageModel& adapted, const std::optional<CacheOptions>& options)
    : DraftModel(adapted, adapted, options) {
  const auto adapters = adapters_of(adapted);
  if (std::none_of(adapters.begin(), adapters.end(), [](const auto& a) { return a.on; }))
    throw Error(Kind::usage,
                "[speculative] the model has no adapter that is on: without one it drafts what it "
                "says. Take a smaller model, or prompt lookup.");
  adapted_ = &adapted;
}

void DraftModel::read(std::span<const int> tokens, std::optional<mx::array>* logits) {
  constexpr size_t kPiece = 512;
  for (size_t from = 0; from < tokens.size(); from += kPiece) {
    const auto piece = tokens.subspan(from, std::min(kPiece, tokens.size() - from));
    const int n = static_cast<int>(piece.size());
    const kernels::WithActivations rounded(model_.prompt_activations(n));
    auto pass = model_.make_pass(&cache_);
    const auto hidden =
        model_.transformer().hidden(kernels::host_array(piece.data(), {1, n}), pass);
    if (from + kPiece < tokens.size()) {
      mx::eval(cache_.arrays());
      continue;
    }
    const auto last = mx::slice(hidden, {0, n - 1, 0}, {1, n, hidden.shape(2)});
    *logits = mx::squeeze(model_.transformer().head(last), 1);
    if (n <= Pace::kMost) continue;
    // Of many rows each array is given up after its last use, as a step that is queued does not.
    auto all = cache_.arrays();
    all.push_back(**logits);
    mx::eval(all);
  }
  read_.insert(read_.end(), tokens.begin(), tokens.end());
}

std::vector<int> DraftModel::draft(const DraftRequest& r) {
  const auto* learned = std::get_if<config::Learned>(&model_.config().position);
  const int length = static_cast<int>(r.text.size());
  const int most = learned ? std::min(r.most, learned->length - length + 1) : r.most;
  if (most <= 0) return {};
  const Enter enter(model_.runtime());
  std::optional<AdaptersOff> off;
  if (adapted_) off.emplace(*adapted_);
  try {
    const auto common = std::mismatch(read_.begin(), read_.end(), r.text.begin(), r.text.end());
    // Of the text's last token the logits are needed.
    const int known = std::min(static_cast<int>(common.first - read_.begin()), length - 1);
    if (cache_.empty() || !cache_.rewind(known)) cache_ = model_.make_cache({}, options_);
    read_.resize(static_cast<size_t>(cache_.length()));
    std::optional<mx::array> logits;
    read(r.text.subspan(read_.size()), &logits);
    cache_.mark();
    auto sampler = sampler_behind(r.sampling, model_.config().vocab, r.text, {}, r.step, -1);
    std::vector<mx::array> drawn{sampler.draw(*logits).tokens};
    while (static_cast<int>(drawn.size()) < most) {
      auto [next, grown] = model_(mx::reshape(drawn.back(), {1, 1}), std::move(cache_));
      cache_ = std::move(grown);
      drawn.push_back(sampler.draw(mx::squeeze(next, 1)).tokens);
    }
    const auto tokens = mx::concatenate(drawn, 0);
    auto all = cache_.arrays();
    all.push_back(tokens);
    kernels::start_step(all);
    kernels::wait_for(tokens);
    std::vector<int> out(tokens.size());
    std::memcpy(out.data(), tokens.data<int32_t>(), tokens.nbytes());
    read_.insert(read_.end(), out.begin(), out.end() - 1);  // the last was not fed
    return out;
  } catch (...) {
    kernels::finish_steps();
    cache_ = Cache(), read_.clear();
    throw;
  }
}

Sampler sampler_behind(const SamplingOptions& sampling, int vocab, std::span<const int> text,
                       std::span<const int> drafted, uint64_t step, int logprobs) {
  const size_t rows = drafted.size() + 1;
  std::vector<std::vector<int>> texts(rows);
  std::vector<uint64_t> steps;
  for (size_t i = 0; i < rows; ++i) {
    steps.push_back(step + i);
    if (!penalizes(sampling)) continue;
    texts[i].assign(text.begin(), text.end());
    texts[i].insert(texts[i].end(), drafted.begin(), drafted.begin() + static_cast<ptrdiff_t>(i));
  }
  Sampler out(sampling, vocab, texts, std::vector<uint64_t>(rows, sampling.seed), logprobs);
  out.at(std::move(steps));
  return out;
}

int Pace::drafts() const {
  if (fixed_ > 0) return fixed_;
  return plain_left_ > 0 ? 0 : next_;
}

namespace {
// A mean that forgets; the first value is taken whole.
void mix_in(double& mean, double value) {
  mean = mean > 0 ? 0.8 * mean + 0.2 * value : value;
}
}  // namespace

void Pace::plain(double seconds) {
  if (fixed_ > 0) return;
  if (plain_left_ <= kPlain || plain_s_ > 0) mix_in(plain_s_, seconds);
  plain_left_ = std::max(0, plain_left_ - 1);
}

// One more or fewer than now: what is not known yet costs what its neighbour does, so it is tried.
int Pace::best() const {
  const auto speed = [&](int n) {
    const double known = round_s_[static_cast<size_t>(n)];
    const double tokens = (1 - std::pow(stays_, n + 1)) / (1 - stays_);
    return tokens / (known > 0 ? known : round_s_[static_cast<size_t>(next_)]);
  };
  int best = next_;
  for (const int n : {next_ - 1, next_ + 1})
    if (n >= 1 && n <= kMost && speed(n) > speed(best)) best = n;
  return best;
}

void Pace::round(int drafted, int accepted, double seconds) {
  if (fixed_ > 0) return;
  if (drafted > 0) {
    for (int i = 0; i < std::min(accepted + 1, drafted); ++i)
      stays_ = std::clamp(0.9 * stays_ + (i < accepted ? 0.1 : 0), 0.01, 0.99);
    if (rounds_ >= 0) mix_in(round_s_[static_cast<size_t>(drafted)], seconds);
    if (drafted == next_ && rounds_ >= 0) next_ = best();
  }
  if (rounds_ >= 0) tokens_ += accepted + 1, seconds_ += seconds;
  if (++rounds_ < kRounds) return;
  // Noise shall not turn it on and off: what has paid may fall behind a little.
  const double margin = paid_ ? 1.05 : 0.95;
  paid_ = plain_s_ == 0 || seconds_ / tokens_ < margin * plain_s_;
  rounds_ = tokens_ = 0, seconds_ = 0;
  if (paid_) {
    pause_ = kPause;
    return;
  }
  round_s_ = {}, next_ = 3, rounds_ = -1;
  plain_left_ = pause_;
  pause_ = std::min(2 * pause_, kLongest);
}

}  // namespace lmxlab
