// Shapes that do not fit, told alike by all objectives. Private to objectives.
#pragma once

#include <mlx/array.h>
#include <mlx/ops.h>

#include <string>

#include "lmxlab/base/error.h"

namespace lmxlab::objectives {

namespace mx = mlx::core;

inline std::string written(const mx::Shape& shape) {
  std::string out;
  for (const int n : shape) out += (out.empty() ? "" : ", ") + std::to_string(n);
  return "[" + out + "]";
}

[[noreturn]] inline void refuse(const char* where, const std::string& what) {
  throw Error(Kind::usage, std::string("[") + where + "] " + what);
}

inline void expect(const char* where, const char* name, const mx::array& a,
                   const mx::Shape& shape) {
  if (a.shape() != shape) {
    refuse(where,
           std::string(name) + ": expected " + written(shape) + ", got " + written(a.shape()));
  }
}

inline void expect_axes(const char* where, const char* name, const mx::array& a, size_t axes,
                        const char* shape) {
  if (a.ndim() != axes) {
    refuse(where, std::string(name) + ": expected " + shape + ", got " + written(a.shape()));
  }
}

inline mx::array float32(const mx::array& a) {
  return mx::astype(a, mx::float32);
}
inline mx::array scalar(float x) {
  return mx::array(x);
}
/// `a` where the mask is true, elsewhere 0 with a gradient of 0, whatever `a` is there.
inline mx::array only(const mx::array& mask, const mx::array& a) {
  return mx::where(mask, float32(a), scalar(0));
}
inline mx::array how_many(const mx::array& mask) {
  return mx::sum(float32(mask));
}

}  // namespace lmxlab::objectives
