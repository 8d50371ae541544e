// All properties on a small model of every class whose checkpoints are read: what `lmxlab doctor`
// does, over the shared fixtures.
#include "lmxlab/checks/examine.h"
#include "lmxlab/core/runtime.h"
#include "tests/support/shared_fixtures.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

namespace lmxlab::test {
namespace {

std::vector<std::string> names() {
  std::vector<std::string> out;
  if (const auto root = shared_fixtures("checkpoints"))
    for (const auto& entry : std::filesystem::directory_iterator(*root))
      out.push_back(entry.path().filename().string());
  std::sort(out.begin(), out.end());
  return out;
}

class EveryClass : public testing::TestWithParam<std::string> {};
// There are none where no fixtures are.
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(EveryClass);

TEST_P(EveryClass, HasAllProperties) {
  auto model = LanguageModel::load(*shared_fixtures("checkpoints") / GetParam());
  const Enter enter(model.runtime());
  const kernels::WithActivations exact(kernels::Activations::float32);
  const auto small = checks::small_copy(model.config());
  ASSERT_TRUE(small);
  for (const auto& p : checks::properties()) {
    const auto c = p.run({model, 24, 72, small});
    EXPECT_TRUE(c.ok) << c.name << ": " << c.detail << "\n" << c.hint;
  }
}

INSTANTIATE_TEST_SUITE_P(Shared, EveryClass, testing::ValuesIn(names()),
                         [](const auto& tested) { return tested.param; });

}  // namespace
}  // namespace lmxlab::test
