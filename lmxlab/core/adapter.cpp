#include "lmxlab/core/adapter.h"

#include "lmxlab/core/pass.h"
#include "lmxlab/core/weight.h"
#include "lmxlab/kernels/elementwise.h"
#include "lmxlab/kernels/linear.h"

#include <mlx/ops.h>

#include <utility>

namespace lmxlab::core {
namespace {

thread_local Pass* dropping = nullptr;

mx::array f32(const mx::array& x) {
  return kernels::cast(x, mx::float32);
}
// m / |W + s B A| [out] float32; of two matrices' products only those of rank r are made:
// |w + s b A|^2 = |w|^2 + 2 s b . (A w) + s^2 b (A A^T) b^T.
mx::array factor(const Adapter& d, const mx::array& square_norms, const mx::array& met) {
  const auto a = mx::stop_gradient(f32(d.a.value)), b = mx::stop_gradient(f32(d.b.value));
  const auto cross = mx::sum(mx::multiply(b, mx::transpose(f32(met))), -1);
  const auto own = mx::sum(mx::multiply(mx::matmul(b, mx::matmul(a, mx::transpose(a))), b), -1);
  const auto square =
      mx::add(square_norms, mx::add(mx::multiply(cross, mx::array(2 * d.scale)),
                                    mx::multiply(own, mx::array(d.scale * d.scale))));
  const auto norm = mx::sqrt(mx::maximum(square, mx::array(0.0f)));
  return mx::divide(f32(d.magnitude->value), mx::stop_gradient(norm));
}

}  // namespace

mx::array adapted(const Adapter& d, const Weight& weight, const mx::array& x, const mx::array& y) {
  const auto seen = dropping && d.dropout > 0 ? dropping->drop(x, d.dropout) : x;
  const auto low = kernels::scale(kernels::linear(seen, d.a.value), d.scale);
  const auto sum = kernels::add(y, kernels::linear(low, d.b.value));
  if (!d.magnitude) return sum;
  const auto met = mx::stop_gradient(weight.matmul(f32(d.a.value)));  // A W^T
  return kernels::cast(mx::multiply(f32(sum), factor(d, *d.square_norms, met)), y.dtype());
}

mx::array adapted_matrix(const Adapter& d, const mx::array& matrix) {
  const auto low = mx::multiply(mx::matmul(f32(d.b.value), f32(d.a.value)), mx::array(d.scale));
  const auto sum = mx::add(matrix, low);
  if (!d.magnitude) return sum;
  const auto norm = mx::sqrt(mx::sum(mx::square(sum), -1, true));
  return mx::multiply(sum, mx::divide(mx::expand_dims(f32(d.magnitude->value), 1), norm));
}

Dropping::Dropping(Pass& pass) : before_(std::exchange(dropping, pass.key ? &pass : nullptr)) {}
Dropping::~Dropping() {
  dropping = before_;
}

}  // namespace lmxlab::core
