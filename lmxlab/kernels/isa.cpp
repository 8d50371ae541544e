#include "lmxlab/kernels/isa.h"

#include "lmxlab/base/error.h"

#include <hwy/targets.h>

#include <atomic>
#include <iterator>
#include <string>

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace lmxlab::kernels {
namespace {

constexpr std::string_view kNames[] = {"scalar",      "sse4", "avx2", "avx512",
                                       "avx512_bf16", "amx",  "neon"};

#if defined(__x86_64__)
// The system hands out the tiles' registers to a process that asks.
bool tiles() {
#if defined(__linux__)
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  const unsigned needed = 1u << 22 | 1u << 24 | 1u << 25;  // AMX: bf16, tile, int8
  constexpr long kAskForState = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return (d & needed) == needed && syscall(SYS_arch_prctl, kAskForState, kTileData) == 0;
#else
  return false;
#endif
}
#endif

std::vector<Isa> find() {
#if defined(__x86_64__)
  std::vector<Isa> found{Isa::scalar};
  const auto targets = hwy::SupportedTargets();
  if (targets & HWY_SSE4) found.push_back(Isa::sse4);
  if (targets & HWY_AVX2) found.push_back(Isa::avx2);
  if (targets & HWY_AVX3) {
    found.push_back(Isa::avx512);
    if (__builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni")) {
      found.push_back(Isa::avx512_bf16);
      if (tiles()) found.push_back(Isa::amx);
    }
  }
  return found;
#elif defined(__aarch64__)
  return {Isa::neon};  // part of the architecture, and all that kernels are compiled for
#else
  return {Isa::scalar};
#endif
}

// Makes HWY_DYNAMIC_DISPATCH take the best of Highway's sets up to this one.
void dispatch_up_to([[maybe_unused]] Isa isa) {
#if defined(__x86_64__)
  int64_t never = 0;  // sets above
  if (isa < Isa::avx512) never |= HWY_AVX3 | HWY_AVX3_DL;
  if (isa < Isa::avx2) never |= HWY_AVX2;
  if (isa < Isa::sse4) never |= HWY_SSE4 | HWY_SSSE3;
  hwy::DisableTargets(never);
  // Now, not in the first call: SupportedTargets() shows all sets to other threads for a moment.
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
#endif
}

std::atomic<Isa>& current() {
  static std::atomic<Isa> value{isas().back()};
  return value;
}

bool has_bf16(Isa isa) {
  return isa == Isa::avx512_bf16 || isa == Isa::amx;
}

}  // namespace

const std::vector<Isa>& isas() {
  static const std::vector<Isa> found = find();
  return found;
}

Isa isa() {
  return current().load(std::memory_order_relaxed);
}

bool detail::rounds_bf16 = has_bf16(isas().back());

void set_isa(Isa isa) {
  for (const Isa known : isas()) {
    if (known == isa) {
      current().store(isa);
      detail::rounds_bf16 = has_bf16(isa);
      dispatch_up_to(isa);
      return;
    }
  }
  throw Error(Kind::usage, "[isa] this processor has no " + std::string(name(isa)) +
                               ". Its best is " + std::string(name(isas().back())) + ".");
}

std::string_view name(Isa isa) {
  return kNames[static_cast<size_t>(isa)];
}

Isa isa_named(std::string_view text) {
  std::string known;
  for (size_t i = 0; i < std::size(kNames); i++) {
    if (kNames[i] == text) return static_cast<Isa>(i);
    known += (i ? ", " : "") + std::string(kNames[i]);
  }
  throw Error(Kind::usage, "[isa] unknown instruction set \"" + std::string(text) +
                               "\": expected one of " + known + ".");
}

}  // namespace lmxlab::kernels
