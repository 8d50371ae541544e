#include "lmxlab/kernels/machine.h"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>

namespace lmxlab::kernels {
namespace {

TEST(Machine, HasProcessorsAndMemory) {
  EXPECT_GE(usable_cpus(), 1);
  EXPECT_GT(memory_size(), size_t{64} << 20);
  EXPECT_LE(memory_room().bytes == SIZE_MAX ? 0 : memory_room().bytes, memory_size());
}

#ifdef __linux__
TEST(Machine, ThePeakInRamFollowsWhatIsTouched) {
  constexpr size_t kBytes = size_t{256} << 20;
  reset_peak_resident();
  const size_t before = peak_resident();
  EXPECT_GT(before, size_t{1} << 20);
  {
    const std::unique_ptr<char[]> block(new char[kBytes]);
    std::memset(block.get(), 1, kBytes);
    EXPECT_GE(peak_resident(), before + kBytes / 2);
    EXPECT_EQ(block[kBytes - 1], 1);
  }
  const size_t peak = peak_resident();
  EXPECT_GE(peak, before + kBytes / 2) << "the block is gone, the peak stays";
  reset_peak_resident();
  EXPECT_LE(peak_resident(), peak);
}
#endif

}  // namespace
}  // namespace lmxlab::kernels
