// New weights: one key, split for every tensor, so that the same seed gives the same model on every
// machine.
#pragma once

#include <mlx/array.h>

#include <cstdint>

namespace lmxlab::core {
namespace mx = mlx::core;

class Init {
 public:
  explicit Init(uint64_t seed);
  /// Normal with mean 0; lazy, float32.
  mx::array normal(const mx::Shape& shape, float std);
  /// The next key of the sequence.
  mx::array key();

 private:
  mx::array key_;
};

mx::array ones(const mx::Shape& shape);
mx::array zeros(const mx::Shape& shape);

}  // namespace lmxlab::core
