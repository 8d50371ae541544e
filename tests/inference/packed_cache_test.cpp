// Keys and values kept packed: attention over them equals attention over the numbers they stand
// for, in every model, and those are near the ones that were packed.
#include "lmxlab/core/cache.h"

#include "lmxlab/base/error.h"
#include "lmxlab/config/count.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/core/transformer.h"
#include "lmxlab/inference/generate.h"
#include "tests/inference/models.h"

#include <gtest/gtest.h>
#include <mlx/mlx.h>

namespace lmxlab {
namespace {

// A packed cache that shows its numbers only.
class Numbers : public core::KeyCache {
 public:
  explicit Numbers(std::unique_ptr<LayerCache> of) : of_(dynamic_cast<KeyCache*>(of.release())) {}
  std::unique_ptr<LayerCache> clone() const override {
    return std::make_unique<Numbers>(of_->clone());
  }
  core::Keys append(const mx::array& k, const mx::array& v) override {
    auto keys = of_->append(k, v);
    EXPECT_TRUE(keys.packed);
    keys.packed.reset();
    return keys;
  }
  core::Keys held() const override {
    auto keys = of_->held();
    keys.packed.reset();
    return keys;
  }
  void reserve(int n) override { of_->reserve(n); }
  int length() const override { return of_->length(); }
  int trimmable() const override { return of_->trimmable(); }
  void trim(int n) override { of_->trim(n); }
  void reorder(const mx::array& rows) override { of_->reorder(rows); }
  void shift(int n) override { of_->shift(n); }
  void append_rows(const LayerCache& other) override {
    of_->append_rows(*dynamic_cast<const Numbers&>(other).of_);
  }
  std::vector<mx::array> arrays() const override { return of_->arrays(); }
  size_t array_count() const override { return of_->array_count(); }
  void restore(std::vector<mx::array> arrays, int n) override { of_->restore(arrays, n); }
  size_t bytes() const override { return of_->bytes(); }

 private:
  std::unique_ptr<KeyCache> of_;
};

// Heads of 32 numbers, the least that is packed.
std::vector<testing_models::Named> models() {
  auto all = testing_models::all();
  for (auto& m : all) {
    for (auto& block : m.config.layers) {
      if (auto* a = std::get_if<config::Attention>(&block.mixer)) a->head_dim = 32;
    }
  }
  return all;
}

std::vector<mx::array> logits_of(const LanguageModel& model, Cache cache) {
  const std::vector<int> ids{1, 50, 7, 22, 9, 3, 60, 11, 5, 2, 33, 8, 14, 27, 40, 6};
  std::vector<mx::array> all;
  int at = 0;
  for (const int n : {6, 1, 1, 4, 1, 3}) {  // a prompt, tokens, pieces across the window's limit
    auto [logits, next] = model(mx::array(ids.data() + at, {1, n}, mx::int32), std::move(cache));
    mx::eval(logits);
    all.push_back(logits);
    cache = std::move(next), at += n;
  }
  return all;
}

double most(const mx::array& a) {
  return static_cast<double>(mx::max(mx::abs(a)).item<float>());
}
double worst(const std::vector<mx::array>& a, const std::vector<mx::array>& b) {
  double w = 0;
  for (size_t i = 0; i < a.size(); ++i)
    w = std::max(w, most(mx::subtract(a[i], b[i])) / most(b[i]));
  return w;
}

TEST(PackedCache, AttentionReadsItAsItsNumbers) {
  for (const auto& [name, config] : models()) {
    const LanguageModel model(config, 4);
    const auto plain = logits_of(model, model.make_cache());
    double off[2];
    for (const int bits : {8, 4}) {
      const core::CacheOptions options{.kv_bits = bits};
      std::vector<std::unique_ptr<core::LayerCache>> layers;
      {
        const Enter enter(model.runtime());
        for (auto& l : model.transformer().make_caches(options))
          layers.push_back(l ? std::make_unique<Numbers>(std::move(l)) : nullptr);
      }
      const auto numbers = logits_of(model, Cache(std::move(layers), model.runtime()));
      const auto packed = logits_of(model, model.make_cache({}, options));
      // The same numbers in other sums of float32. These models turn a rounding error into a
      // hundred: their logits reach far.
      EXPECT_LE(worst(packed, numbers), 2e-4) << name << ", " << bits << " bits";
      off[bits == 4] = worst(packed, plain);
    }
    // A step of 4 bits is 17 times one of 8.
    EXPECT_GT(off[0], 0) << name;
    EXPECT_LE(off[0], 0.1) << name;
    EXPECT_LE(off[0], off[1]) << name;
  }
}

TEST(PackedCache, GenerationKeepsIt) {
  const auto all = models();
  const LanguageModel model(all[1].config, 4);
  const std::vector<std::vector<int>> prompts{{1, 5, 9, 3}, {4, 7}};
  size_t bytes[4];
  int i = 0;
  for (const int bits : {0, 8, 4, 16}) {
    GenerateOptions options;
    options.max_tokens = 20, options.kv_bits = bits, options.sampling.temperature = 0;
    TokenStream stream(model, prompts, options);
    while (stream.next()) {
    }
    for (const auto& row : stream.results()) EXPECT_EQ(row.tokens.size(), 20u);
    bytes[i++] = stream.cache()->bytes();
    EXPECT_EQ(int64_t(stream.cache()->bytes()),
              2 * config::kv_bytes(model.config(), core::kGrowth, 4, bits));
    const auto arrays = stream.cache()->layer(0)->arrays();
    EXPECT_EQ(arrays.size(), bits == 8 || bits == 4 ? 6u : 2u);
    // The prompt in pieces of any size.
    options.prefill_chunk = 3;
    EXPECT_EQ(generate_batch(model, prompts, options)[0].tokens, stream.results()[0].tokens);
  }
  // Of 32 float32 numbers: as bytes or nibbles, with a scale and a bias.
  EXPECT_EQ(bytes[0] / 128, bytes[1] / 40);
  EXPECT_EQ(bytes[0] / 128, bytes[2] / 24);
  EXPECT_EQ(bytes[0], 2 * bytes[3]);
  EXPECT_THROW(generate(model, std::vector<int>{1}, {.kv_bits = 5}), Error);
}

}  // namespace
}  // namespace lmxlab
