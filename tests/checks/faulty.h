// Attention with one fault planted in it, as a mixer of the tests' own: the library has no hook for
// it.
#pragma once

#include "lmxlab/config/presets.h"
#include "lmxlab/core/attention.h"
#include "lmxlab/core/custom.h"
#include "lmxlab/core/transformer.h"
#include "lmxlab/kernels/rope.h"

#include <mlx/ops.h>
#include <mlx/random.h>

#include <algorithm>
#include <memory>
#include <string>

namespace lmxlab::test {

enum class Fault {
  none,
  sees_one_ahead,
  no_mask,
  overwrites_the_last,
  forgets_the_oldest,
  loses_the_offset,
  forgets_everything,
  sees_padding,
  stops_a_gradient,
};

/// A cache that does what another does, but for one thing at a second append.
class FaultyKeys : public core::KeyCache {
 public:
  FaultyKeys(std::unique_ptr<core::KeyCache> inner, Fault fault)
      : inner_(std::move(inner)), fault_(fault) {}
  std::unique_ptr<core::LayerCache> clone() const override {
    auto copy = inner_->clone();
    return std::make_unique<FaultyKeys>(
        std::unique_ptr<core::KeyCache>(static_cast<core::KeyCache*>(copy.release())), fault_);
  }
  core::Keys append(const mx::array& k, const mx::array& v) override {
    if (inner_->length() == 0) return inner_->append(k, v);
    const auto one = [&] { return mx::zeros({k.shape(0), k.shape(1), 1, k.shape(3)}, k.dtype()); };
    if (fault_ == Fault::overwrites_the_last) {
      inner_->trim(1);
      inner_->append(k, v);
      return inner_->append(one(), one());
    }
    const int before = inner_->length();
    auto all = inner_->append(k, v);
    const auto from = [&](int n) {
      const auto cut = [&](const mx::array& a) { return mx::slice(a, {0, 0, n, 0}, a.shape()); };
      return core::Keys{cut(all.k), cut(all.v), all.start + n};
    };
    if (fault_ == Fault::forgets_everything) return from(before);
    return from(1);
  }
  core::Keys held() const override { return inner_->held(); }
  int length() const override { return inner_->length(); }
  int trimmable() const override { return inner_->trimmable(); }
  void trim(int n) override { inner_->trim(n); }
  void reorder(const mx::array& rows) override { inner_->reorder(rows); }
  void shift(int n) override { inner_->shift(n); }
  void append_rows(const core::LayerCache& other) override {
    inner_->append_rows(*dynamic_cast<const FaultyKeys&>(other).inner_);
  }
  std::vector<mx::array> arrays() const override { return inner_->arrays(); }
  size_t array_count() const override { return inner_->array_count(); }
  void restore(std::vector<mx::array> arrays, int length) override {
    inner_->restore(std::move(arrays), length);
  }
  size_t bytes() const override { return inner_->bytes(); }

 private:
  std::unique_ptr<core::KeyCache> inner_;
  Fault fault_;
};

class FaultyAttention : public core::Mixer {
 public:
  static constexpr int kHeads = 4, kWidth = 8;
  static config::Attention config() { return {.heads = kHeads, .kv_heads = 2, .head_dim = kWidth}; }
  FaultyAttention(Fault fault, const core::Build& build) : inner_(config(), build), fault_(fault) {}

  mx::array operator()(const mx::array& x, core::Pass& pass) const override {
    auto parts = inner_.project(x, pass);
    core::Pass own = pass;
    switch (fault_) {
      case Fault::sees_one_ahead: return inner_.finish(one_ahead(parts, pass), pass);
      case Fault::no_mask: return inner_.finish(unmasked(parts, pass), pass);
      case Fault::loses_the_offset:
        for (size_t i : {0, 1}) parts[i] = turned_back(parts[i], pass.offset);
        break;
      case Fault::sees_padding: own.pads = std::nullopt; break;
      case Fault::stops_a_gradient: parts[2] = mx::stop_gradient(parts[2]); break;
      default: break;
    }
    return inner_.finish(inner_.mix(parts, own), own);
  }
  void visit(core::Visitor& v) override { inner_.visit(v); }
  std::unique_ptr<core::LayerCache> make_cache(const core::CacheOptions& options) const override {
    const bool in_cache = fault_ == Fault::overwrites_the_last ||
                          fault_ == Fault::forgets_the_oldest ||
                          fault_ == Fault::forgets_everything;
    if (!in_cache) return inner_.make_cache(options);
    return std::make_unique<FaultyKeys>(core::plain_cache(options), fault_);
  }

 private:
  // The query of position t stands where that of t + 1 would, and sees what that may see.
  mx::array one_ahead(const core::Arrays& parts, core::Pass& pass) const {
    const int L = parts[0].shape(1);
    if (pass.cache || L < 2) return inner_.mix(parts, pass);
    const auto some = [](const mx::array& a, int from, int to) {
      return mx::slice(a, {0, from, 0}, {a.shape(0), to, a.shape(2)});
    };
    auto moved = parts;
    moved[0] = mx::concatenate({some(parts[0], 0, 1), some(parts[0], 0, L - 1)}, 1);
    const auto late = inner_.mix(moved, pass), last = inner_.mix(parts, pass);
    return mx::concatenate({some(late, 1, L), some(last, L - 1, L)}, 1);
  }
  // Every position sees the mean of all values of the pass.
  mx::array unmasked(const core::Arrays& parts, core::Pass& pass) const {
    const auto mean = mx::mean(parts[2], 1, true);
    return mx::add(inner_.mix(parts, pass), mx::concatenate({mean, mean}, -1));
  }
  // Queries or keys turned so that rotation at `offset` leaves them as at 0.
  static mx::array turned_back(const mx::array& x, int offset) {
    const auto heads = mx::reshape(x, {-1, 1, 1, kWidth});
    return mx::reshape(kernels::rope(heads, {.dims = kWidth}, -offset), x.shape());
  }

  core::Attention inner_;
  Fault fault_;
};

/// A model of two layers, whose second has the fault; its weights are large enough to show it.
inline LanguageModel model_with(Fault fault) {
  static const bool once = [] {
    core::register_mixer("faulty", [](const Json& values, const core::Build& build) {
      return std::make_unique<FaultyAttention>(static_cast<Fault>(values.at("fault").as_integer()),
                                               build);
    });
    return true;
  }();
  static_cast<void>(once);
  auto config = config::preset(
      "llama-tiny", {.depth = 2, .dim = 32, .heads = 4, .kv_heads = 2, .hidden = 64, .vocab = 61});
  config::Custom faulty{"faulty"};
  faulty.values = Json::object({{"fault", Json(static_cast<int64_t>(fault))}});
  config.layers[1].mixer = faulty;
  return LanguageModel(config, 3);
}

/// Noise on every weight and bias, so that all of them matter.
inline void stir(LanguageModel& model, float size) {
  uint64_t i = 0;
  for (const auto& e : core::collect(model.transformer()))
    e.param->value = mx::add(e.param->value, mx::random::normal(e.param->value.shape(), mx::float32,
                                                                0, size, mx::random::key(++i)));
}

}  // namespace lmxlab::test
