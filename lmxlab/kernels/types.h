// Element types that kernels read and write; they compute in float32.
#pragma once

#include <cstdint>
#include <type_traits>
#include <utility>

#include <mlx/dtype.h>

#include "lmxlab/base/error.h"

namespace lmxlab::kernels {

enum class Type : uint8_t { f32, bf16, f16 };

// Elements as they lie in memory. Arithmetic on them goes through vectors of float32.
struct Bf16 {
  uint16_t bits;
};
struct F16 {
  uint16_t bits;
};

constexpr bool has_type(mlx::core::Dtype dtype) {
  return dtype == mlx::core::float32 || dtype == mlx::core::bfloat16 || dtype == mlx::core::float16;
}
inline Type type_of(mlx::core::Dtype dtype) {
  if (dtype == mlx::core::float32) return Type::f32;
  if (dtype == mlx::core::bfloat16) return Type::bf16;
  if (dtype == mlx::core::float16) return Type::f16;
  throw Error(Kind::internal, "[kernels] no kernel for this dtype");
}
constexpr int64_t size_of(Type type) {
  return type == Type::f32 ? 4 : 2;
}

/// The smallest multiple of `to` from n >= 0 on.
constexpr int64_t round_up(int64_t n, int64_t to) {
  return (n + to - 1) / to * to;
}

/// Calls f with a value of the C++ type: with_type(t, [&](auto x) { using T = decltype(x); ... }).
template <class F>
decltype(auto) with_type(Type type, F&& f) {
  switch (type) {
    case Type::bf16: return std::forward<F>(f)(Bf16{});
    case Type::f16: return std::forward<F>(f)(F16{});
    default: return std::forward<F>(f)(float{});
  }
}

}  // namespace lmxlab::kernels
