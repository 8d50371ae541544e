#include "lmxlab/kernels/peaks.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "lmxlab/kernels/isa.h"
#include "lmxlab/kernels/machine.h"
#include "lmxlab/kernels/panels.h"
#include "lmxlab/kernels/thread_pool.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif
#ifdef __linux__
#include <sys/mman.h>
#endif

// Sums must be registers, not an array in memory.
#ifdef __clang__
#define LMXLAB_UNROLL _Pragma("unroll")
#else
#define LMXLAB_UNROLL _Pragma("GCC unroll 16")
#endif

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "lmxlab/kernels/peaks.cpp"
#include <hwy/foreach_target.h>
// Highway's header comes after foreach_target.h.
#include <hwy/cache_control.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace lmxlab::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Each loop here keeps twelve sums (tiles: six), which hide the latency of a product on two ports.
// They start apart, or the compiler would make them one; their factor comes as an argument.
int64_t multiply_add(int64_t rounds, float scale, float* result) {
  const hn::ScalableTag<float> d;
  const auto a = hn::Set(d, scale), b = hn::Set(d, 1 - scale);
  hn::Vec<decltype(d)> s[12];
  LMXLAB_UNROLL for (int i = 0; i < 12; i++) s[i] = hn::Iota(d, static_cast<float>(i));
  for (int64_t r = 0; r < rounds; r++) {
    LMXLAB_UNROLL for (auto& v : s) v = hn::MulAdd(v, a, b);
  }
  LMXLAB_UNROLL for (int i = 1; i < 12; i++) s[0] = hn::Add(s[0], s[i]);
  *result = hn::GetLane(s[0]);
  return rounds * 12 * 2 * static_cast<int64_t>(hn::Lanes(d));
}

// Adds up n numbers, a multiple of 64, fetching `ahead` numbers before they are needed; returns one
// lane's sum, which is enough to have read them all.
uint64_t sum(const uint64_t* at, size_t n, size_t ahead) {
  const hn::CappedTag<uint64_t, 8> d;  // a step is a cache line
  hn::Vec<decltype(d)> s[8];
  const size_t lanes = hn::Lanes(d), vectors = 8 / lanes;
  for (auto& v : s) v = hn::Zero(d);
  for (size_t i = 0; i < n; i += 8) {
    __builtin_prefetch(at + i + ahead, 0, 2);  // into L2
    LMXLAB_UNROLL for (size_t j = 0; j < 8; j++) {
      if (j < vectors) s[j] = hn::Add(s[j], hn::LoadU(d, at + i + j * lanes));
    }
  }
  for (size_t j = 1; j < vectors; j++) s[0] = hn::Add(s[0], s[j]);
  return hn::GetLane(s[0]);
}

}  // namespace lmxlab::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lmxlab::kernels {
namespace {

HWY_EXPORT(multiply_add);
HWY_EXPORT(sum);

// A loop of `rounds` from registers; returns the operations done and leaves a number that depends
// on all of them. `scale` is 1.
using Loop = int64_t (*)(int64_t rounds, float scale, float* result);

#if defined(__x86_64__)

__attribute__((target("avx512f,avx512bf16"))) int64_t bf16_avx512(int64_t rounds, float scale,
                                                                  float* result) {
  const __m512 ones = _mm512_set1_ps(scale);
  const __m512bh x = _mm512_cvtne2ps_pbh(ones, ones);
  __m512 s[12];
  LMXLAB_UNROLL for (int i = 0; i < 12; i++) s[i] = _mm512_set1_ps(static_cast<float>(i));
  for (int64_t r = 0; r < rounds; r++) {
    LMXLAB_UNROLL for (auto& v : s) v = _mm512_dpbf16_ps(v, x, x);
  }
  LMXLAB_UNROLL for (int i = 1; i < 12; i++) s[0] = _mm512_add_ps(s[0], s[i]);
  *result = _mm512_cvtss_f32(s[0]);
  return rounds * 12 * 32 * 2;
}

__attribute__((target("avx512f,avx512vnni"))) int64_t int8_vnni(int64_t rounds, float scale,
                                                                float* result) {
  const __m512i x = _mm512_set1_epi8(static_cast<char>(scale));
  __m512i s[12];
  LMXLAB_UNROLL for (int i = 0; i < 12; i++) s[i] = _mm512_set1_epi32(i);
  for (int64_t r = 0; r < rounds; r++) {
    LMXLAB_UNROLL for (auto& v : s) v = _mm512_dpbusd_epi32(v, x, x);
  }
  LMXLAB_UNROLL for (int i = 1; i < 12; i++) s[0] = _mm512_xor_si512(s[0], s[i]);
  *result = static_cast<float>(_mm512_cvtsi512_si32(s[0]));
  return rounds * 12 * 64 * 2;
}

// Without a dot product it takes three instructions: pairs to int16, pairs of those to int32, sum.
__attribute__((target("avx512f,avx512bw"))) int64_t int8_avx512(int64_t rounds, float scale,
                                                                float* result) {
  const __m512i x = _mm512_set1_epi8(static_cast<char>(scale)), ones = _mm512_set1_epi16(1);
  __m512i s[12];
  LMXLAB_UNROLL for (int i = 0; i < 12; i++) s[i] = _mm512_set1_epi32(i);
  for (int64_t r = 0; r < rounds; r++) {
    LMXLAB_UNROLL for (auto& v : s) v =
        _mm512_add_epi32(v, _mm512_madd_epi16(_mm512_maddubs_epi16(x, v), ones));
  }
  LMXLAB_UNROLL for (int i = 1; i < 12; i++) s[0] = _mm512_xor_si512(s[0], s[i]);
  *result = static_cast<float>(_mm512_cvtsi512_si32(s[0]));
  return rounds * 12 * 64 * 2;
}

__attribute__((target("avx2"))) int64_t int8_avx2(int64_t rounds, float scale, float* result) {
  const __m256i x = _mm256_set1_epi8(static_cast<char>(scale)), ones = _mm256_set1_epi16(1);
  __m256i s[12];
  LMXLAB_UNROLL for (int i = 0; i < 12; i++) s[i] = _mm256_set1_epi32(i);
  for (int64_t r = 0; r < rounds; r++) {
    LMXLAB_UNROLL for (auto& v : s) v =
        _mm256_add_epi32(v, _mm256_madd_epi16(_mm256_maddubs_epi16(x, v), ones));
  }
  LMXLAB_UNROLL for (int i = 1; i < 12; i++) s[0] = _mm256_xor_si256(s[0], s[i]);
  *result = static_cast<float>(_mm256_cvtsi256_si32(s[0]));
  return rounds * 12 * 32 * 2;
}

// All zero: the time of a product does not depend on the numbers.
__attribute__((target("amx-tile"))) void tiles_of_zeros() {
  panels::configure_tiles();
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  _tile_zero(6);
  _tile_zero(7);
}

__attribute__((target("amx-tile,amx-bf16"))) int64_t bf16_amx(int64_t rounds, float scale,
                                                              float* result) {
  tiles_of_zeros();
  for (int64_t r = 0; r < rounds; r++) {
    _tile_dpbf16ps(0, 6, 7);
    _tile_dpbf16ps(1, 6, 7);
    _tile_dpbf16ps(2, 6, 7);
    _tile_dpbf16ps(3, 6, 7);
    _tile_dpbf16ps(4, 6, 7);
    _tile_dpbf16ps(5, 6, 7);
  }
  *result = scale;
  return rounds * 6 * 16 * 16 * 32 * 2;
}

__attribute__((target("amx-tile,amx-int8"))) int64_t int8_amx(int64_t rounds, float scale,
                                                              float* result) {
  tiles_of_zeros();
  for (int64_t r = 0; r < rounds; r++) {
    _tile_dpbssd(0, 6, 7);
    _tile_dpbssd(1, 6, 7);
    _tile_dpbssd(2, 6, 7);
    _tile_dpbssd(3, 6, 7);
    _tile_dpbssd(4, 6, 7);
    _tile_dpbssd(5, 6, 7);
  }
  *result = scale;
  return rounds * 6 * 16 * 16 * 64 * 2;
}

#elif defined(__aarch64__)

// What NEON has without extensions: products of 8 to int16, pairs of them into int32.
int64_t int8_neon(int64_t rounds, float scale, float* result) {
  const int8x8_t x = vdup_n_s8(static_cast<int8_t>(scale));
  int32x4_t s[12];
  LMXLAB_UNROLL for (int i = 0; i < 12; i++) s[i] = vdupq_n_s32(i);
  for (int64_t r = 0; r < rounds; r++) {
    LMXLAB_UNROLL for (auto& v : s) v =
        vpadalq_s16(v, vmull_s8(vget_low_s8(vreinterpretq_s8_s32(v)), x));
  }
  LMXLAB_UNROLL for (int i = 1; i < 12; i++) s[0] = vaddq_s32(s[0], s[i]);
  *result = static_cast<float>(vgetq_lane_s32(s[0], 0));
  return rounds * 12 * 8 * 2;
}

#endif

Loop bf16_loop() {
#if defined(__x86_64__)
  if (isa() == Isa::amx) return bf16_amx;
  if (isa() == Isa::avx512_bf16) return bf16_avx512;
#endif
  return nullptr;
}

Loop int8_loop() {
#if defined(__x86_64__)
  if (isa() == Isa::amx) return int8_amx;
  if (isa() == Isa::avx512_bf16) return int8_vnni;
  if (isa() == Isa::avx512) return int8_avx512;
  if (isa() == Isa::avx2) return int8_avx2;
#elif defined(__aarch64__)
  if (isa() == Isa::neon) return int8_neon;
#endif
  return nullptr;
}

using Clock = std::chrono::steady_clock;
double since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// The best of eight runs of 5 ms or more.
double rate(Loop loop) {
  if (!loop) return 0;
  const int parts = threads();
  struct alignas(64) Line {
    float result;
    int64_t done;
  };
  std::vector<Line> lines(static_cast<size_t>(parts));
  volatile float one = 1;
  double best = 0;
  int64_t rounds = 1 << 10;
  for (int run = 0; run < 8;) {
    const auto begin = Clock::now();
    parallel_parts(parts, [&, scale = one](int64_t part) {
      auto& line = lines[static_cast<size_t>(part)];
      line.done = loop(rounds, scale, &line.result);
    });
    const double seconds = since(begin);
    double done = 0;
    for (const auto& line : lines) done += static_cast<double>(line.done);
    if (seconds < 5e-3) {
      rounds *= 2;
      continue;
    }
    best = std::max(best, done / seconds);
    run++;
  }
  one = lines[0].result;
  return best;
}

}  // namespace

Peaks measure_peaks() {
  return {rate(HWY_DYNAMIC_DISPATCH(multiply_add)), rate(bf16_loop()), rate(int8_loop())};
}

double measure_read_bandwidth() {
  constexpr size_t kPage = size_t{2} << 20;  // large pages, where there are: few look-ups of them
  const size_t bytes =
      std::clamp<size_t>(memory_room().bytes / 8, size_t{16} << 20, size_t{512} << 20) / kPage *
      kPage;
  struct Free {
    void operator()(uint64_t* p) const { ::operator delete (p, std::align_val_t{kPage}); }
  };
  const std::unique_ptr<uint64_t, Free> data(
      static_cast<uint64_t*>(::operator new (bytes, std::align_val_t{kPage})));
#ifdef __linux__
  madvise(data.get(), bytes, MADV_HUGEPAGE);
#endif
  const size_t n = bytes / 8;
  const int parts = threads();
  const auto begin_of = [&](int64_t p) { return n / 64 * size_t(p) / size_t(parts) * 64; };
  const auto each = [&](auto f) {
    parallel_parts(
        parts, [&](int64_t p) { f(p, data.get() + begin_of(p), begin_of(p + 1) - begin_of(p)); });
  };
  each([](int64_t, uint64_t* at, size_t count) { std::memset(at, 1, 8 * count); });
  std::vector<uint64_t> sums(8 * static_cast<size_t>(parts));
  double best = 0;
  for (int i = 0; i < 8; i++) {
    const size_t ahead = i % 2 ? 512 : 0;  // which of them is faster differs
    const auto begin = Clock::now();
    each([&](int64_t p, const uint64_t* at, size_t count) {
      sums[8 * static_cast<size_t>(p)] += HWY_DYNAMIC_DISPATCH(sum)(at, count, ahead);
    });
    best = std::max(best, static_cast<double>(bytes) / since(begin));
  }
  volatile uint64_t sink = sums[0];
  (void)sink;
  return best;
}

}  // namespace lmxlab::kernels
#endif
