#include "lmxlab/kernels/peaks.h"

#include <gtest/gtest.h>

#include "lmxlab/kernels/isa.h"
#include "lmxlab/kernels/thread_pool.h"

namespace lmxlab::kernels {
namespace {

// A loop that the compiler had removed would show a rate beyond any processor's: at 6 GHz, two
// products of the widest vectors a cycle (64 operations in float32, 256 in int8), or of AMX tiles
// 1024 and 2048.
TEST(Peaks, AreRatesThatAProcessorCanHave) {
  const double cycles = 6e9 * threads();
  const double least = 1e6;
  for (const Isa each : isas()) {
    set_isa(each);
    const Peaks p = measure_peaks();
    EXPECT_GT(p.f32, least) << name(each);
    EXPECT_LT(p.f32, 64 * cycles) << name(each);
    const bool bf16 = each == Isa::avx512_bf16 || each == Isa::amx;
    EXPECT_EQ(p.bf16 > least, bf16) << name(each);
    EXPECT_LT(p.bf16, (each == Isa::amx ? 1024 : 128) * cycles) << name(each);
    const bool int8 = each != Isa::scalar && each != Isa::sse4;
    EXPECT_EQ(p.int8 > least, int8) << name(each);
    EXPECT_LT(p.int8, (each == Isa::amx ? 2048 : 256) * cycles) << name(each);
  }
  set_isa(isas().back());
}

TEST(Peaks, MemoryIsReadAtARateThatItCanHave) {
  const double rate = measure_read_bandwidth();
  EXPECT_GT(rate, 1e7);
  EXPECT_LT(rate, 1e13);
}

}  // namespace
}  // namespace lmxlab::kernels
