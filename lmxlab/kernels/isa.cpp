#include "lmxlab/kernels/isa.h"

#include "lmxlab/base/error.h"

#include <hwy/targets.h>

#include <atomic>

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace lmxlab::kernels {
namespace {

#if defined(__x86_64__)
// The system hands out the tiles' registers to a process that asks.
bool tiles() {
#if defined(__linux__)
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  const unsigned needed = 1u << 22 | 1u << 24 | 1u << 25;  // AMX: bf16, tile, int8
  constexpr long kAskForState = 0x1023, kTileData = 18;    // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return (d & needed) == needed && syscall(SYS_arch_prctl, kAskForState, kTileData) == 0;
#else
  return false;
#endif
}
#endif

std::vector<Isa> find() {
  std::vector<Isa> found{Isa::scalar};
  const auto targets = hwy::SupportedTargets();
#if defined(__x86_64__)
  if (targets & HWY_SSE4) found.push_back(Isa::sse4);
  if (targets & HWY_AVX2) found.push_back(Isa::avx2);
  if (targets & HWY_AVX3) {
    found.push_back(Isa::avx512);
    if (__builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni")) {
      found.push_back(Isa::avx512_bf16);
      if (tiles()) found.push_back(Isa::amx);
    }
  }
#elif defined(__aarch64__)
  if (targets & HWY_NEON) found.push_back(Isa::neon);
#endif
  return found;
}

// Highway's sets that a choice leaves out.
int64_t disabled(Isa isa) {
  const int64_t simd = HWY_SSE4 | HWY_SSSE3 | HWY_AVX2 | HWY_AVX3 | HWY_AVX3_DL | HWY_NEON;
  switch (isa) {
    case Isa::scalar: return simd;
    case Isa::sse4: return HWY_AVX2 | HWY_AVX3 | HWY_AVX3_DL;
    case Isa::avx2: return HWY_AVX3 | HWY_AVX3_DL;
    default: return 0;
  }
}

std::atomic<Isa>& current() {
  static std::atomic<Isa> value{isas().back()};
  return value;
}

}  // namespace

const std::vector<Isa>& isas() {
  static const std::vector<Isa> found = find();
  return found;
}

Isa isa() {
  return current().load(std::memory_order_relaxed);
}

void set_isa(Isa isa) {
  for (const Isa known : isas()) {
    if (known == isa) {
      current().store(isa);
      hwy::DisableTargets(disabled(isa));
      return;
    }
  }
  throw Error(Kind::usage, "[isa] this processor has no " + std::string(name(isa)) +
                               ". Its best is " + std::string(name(isas().back())) + ".");
}

std::string_view name(Isa isa) {
  switch (isa) {
    case Isa::scalar: return "scalar";
    case Isa::sse4: return "sse4";
    case Isa::avx2: return "avx2";
    case Isa::avx512: return "avx512";
    case Isa::avx512_bf16: return "avx512_bf16";
    case Isa::amx: return "amx";
    case Isa::neon: return "neon";
  }
  return "unknown";
}

Isa isa_named(std::string_view text) {
  std::string known;
  for (const Isa isa : {Isa::scalar, Isa::sse4, Isa::avx2, Isa::avx512, Isa::avx512_bf16, Isa::amx,
                        Isa::neon}) {
    if (name(isa) == text) return isa;
    known += (known.empty() ? "" : ", ") + std::string(name(isa));
  }
  throw Error(Kind::usage, "[isa] unknown instruction set \"" + std::string(text) +
                               "\": expected one of " + known + ".");
}

}  // namespace lmxlab::kernels
