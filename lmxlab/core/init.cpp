#include "lmxlab/core/init.h"

#include <mlx/ops.h>
#include <mlx/random.h>

namespace lmxlab::core {

Init::Init(uint64_t seed) : key_(mx::random::key(seed)) {}

mx::array Init::key() {
  auto [next, mine] = mx::random::split(key_);
  key_ = next;
  return mine;
}

mx::array Init::normal(const mx::Shape& shape, float std) {
  return mx::random::normal(shape, mx::float32, 0.0f, std, key());
}

mx::array ones(const mx::Shape& shape) {
  return mx::ones(shape, mx::float32);
}
mx::array zeros(const mx::Shape& shape) {
  return mx::zeros(shape, mx::float32);
}

}  // namespace lmxlab::core
