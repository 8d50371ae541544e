#include "lmxlab/governor/limits.h"

#include <gtest/gtest.h>

#include "lmxlab/kernels/memory.h"

namespace lmxlab {
namespace {

constexpr int64_t kGB = int64_t{1} << 30;

TEST(MemoryLimits, AMacIsKeptFromPagingAndASmallOneFromFreezing) {
  const plan::Budget large{48 * kGB, "Metal's recommended working set"}, small{11 * kGB, ""};
  const auto a = memory_limits(Backend::metal, large, 20 * kGB, 64 * kGB);
  EXPECT_EQ(a.memory, 48 * kGB);
  EXPECT_EQ(a.cache, 6 * kGB);
  EXPECT_EQ(a.wired, 20 * kGB);
  // More than half of the memory, or a small Mac: nothing is wired.
  EXPECT_EQ(memory_limits(Backend::metal, large, 40 * kGB, 64 * kGB).wired, 0);
  EXPECT_EQ(memory_limits(Backend::metal, small, 2 * kGB, 16 * kGB).wired, 0);
  // A model above the budget is refused, and was not wired before.
  EXPECT_EQ(memory_limits(Backend::metal, small, 12 * kGB, 32 * kGB).wired, 0);
}

TEST(MemoryLimits, ElsewhereTheAllocatorsOwnHold) {
  const auto none = memory_limits(Backend::cpu, {8 * kGB, ""}, kGB, 16 * kGB);
  EXPECT_FALSE(none.memory || none.cache || none.wired);
  const auto card = memory_limits(Backend::cuda, {8 * kGB, ""}, kGB, 16 * kGB);
  EXPECT_EQ(card.memory, 8 * kGB);
  EXPECT_FALSE(card.cache || card.wired);
#ifdef __linux__
  const auto before = kernels::set_memory_limit(123 * kGB);
  set_memory_limits({kGB, ""}, 1000);
  EXPECT_EQ(kernels::set_memory_limit(before), size_t(123 * kGB));
#endif
}

}  // namespace
}  // namespace lmxlab
