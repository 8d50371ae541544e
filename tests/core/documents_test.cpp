// Several texts in a row: each gives what it gives alone, whatever stands beside it.
#include "lmxlab/config/documents.h"

#include "lmxlab/config/presets.h"
#include "lmxlab/core/runtime.h"
#include "lmxlab/core/transformer.h"
#include "tests/core/support.h"

#include <gtest/gtest.h>

namespace lmxlab {
namespace {

using test::floats;

struct Row {
  std::vector<int32_t> ids, starts;
};
Row row_of(const std::vector<std::vector<int32_t>>& texts) {
  Row row;
  for (const auto& t : texts) {
    row.starts.insert(row.starts.end(), t.size(), static_cast<int32_t>(row.ids.size()));
    row.ids.insert(row.ids.end(), t.begin(), t.end());
  }
  return row;
}
std::vector<float> logits(const LanguageModel& model, const Row& row, bool apart) {
  const Enter enter(model.runtime());
  const int n = static_cast<int>(row.ids.size());
  auto pass = model.make_pass();
  if (apart) pass.starts = mx::array(row.starts.data(), {1, n}, mx::int32);
  const auto out = model.transformer()(mx::array(row.ids.data(), {1, n}, mx::int32), pass);
  return floats(out);
}

class Documents : public testing::TestWithParam<std::string> {};

TEST_P(Documents, TogetherAsAlone) {
  const LanguageModel model(config::preset(GetParam()), 3);
  const auto& c = model.config();
  ASSERT_EQ(config::carries_over(c), std::nullopt);
  HostRandom random(5);
  std::vector<std::vector<int32_t>> texts;
  for (const size_t n : {7u, 1u, 19u, 12u}) {
    texts.emplace_back(n);
    for (auto& id : texts.back()) id = static_cast<int32_t>(random.below(uint64_t(c.vocab)));
  }
  const auto together = logits(model, row_of(texts), true);
  double largest = 0, worst = 0, leak = 0;
  size_t at = 0;
  const auto mixed = logits(model, row_of(texts), false);
  for (const auto& t : texts) {
    for (const float x : logits(model, row_of({t}), false)) {
      largest = std::max(largest, std::abs(double(x)));
      worst = std::max(worst, std::abs(double(x) - double(together[at])));
      leak = std::max(leak, std::abs(double(x) - double(mixed[at])));
      ++at;
    }
  }
  ASSERT_EQ(at, together.size());
  // Rotations count from the row's beginning: their angles are rounded otherwise, 50 * eps / 2.
  const double bound = 64 * test::kEps * std::max(1.0, largest) * double(c.layers.size());
  EXPECT_LE(worst, bound);
  EXPECT_GT(leak, 10 * bound);  // without a mask they do see each other
}

std::vector<std::string> apart() {
  std::vector<std::string> out;
  for (const auto& p : config::presets())
    if (p.name.ends_with("-tiny") && !config::carries_over(config::preset(p.name)))
      out.push_back(p.name);
  return out;
}
INSTANTIATE_TEST_SUITE_P(Presets, Documents, testing::ValuesIn(apart()), [](const auto& test) {
  auto name = test.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

TEST(Documents, NamesWhatCarriesOver) {
  for (const char* name : {"mamba-tiny", "recurrent-gemma-tiny", "llama4-tiny"}) {
    const auto what = config::carries_over(config::preset(name));
    ASSERT_TRUE(what) << name;
    EXPECT_NE(what->find("layers."), what->npos) << *what;
  }
  EXPECT_GT(apart().size(), 30u);
}

}  // namespace
}  // namespace lmxlab
