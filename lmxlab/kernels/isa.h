// The instruction set that kernels use: what the processor has, or less where one is forced.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace lmxlab::kernels {

/// Each holds what the ones before it hold, on its own architecture.
enum class Isa {
  scalar,       // whatever the compiler makes of plain loops
  sse4,         // x86: 128 bits
  avx2,         // 256 bits, fused multiply-add, half-float conversion
  avx512,       // 512 bits: F, BW, DQ, VL, CD
  avx512_bf16,  // and dot products of bfloat16 and of int8 (VNNI)
  amx,          // and tiles of bfloat16 and of int8
  neon,         // Arm
};

/// What runs now. At first the best there is.
Isa isa();
/// What this processor and system have, the weakest first.
const std::vector<Isa>& isas();
/// Forces one for every kernel from the next call on. Not while kernels run.
/// @throws Error(usage) if the processor lacks it.
void set_isa(Isa isa);

std::string_view name(Isa isa);
/// @throws Error(usage) naming those there are.
Isa isa_named(std::string_view name);

namespace detail {
extern bool rounds_bf16;  // the set has an instruction that rounds to bfloat16; every store asks
}

}  // namespace lmxlab::kernels
