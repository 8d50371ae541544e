#include "lmxlab/core/recurrent.h"

#include "lmxlab/core/mask.h"
#include "lmxlab/kernels/causal_conv.h"
#include "lmxlab/kernels/elementwise.h"
#include "lmxlab/kernels/norm.h"

#include <mlx/ops.h>
#include <mlx/random.h>

#include <algorithm>
#include <cmath>

namespace lmxlab::core {
namespace {

mx::array f32(const mx::array& x) {
  return kernels::cast(x, mx::float32);
}
mx::array uniform(const mx::Shape& shape, float low, float high, Init& init) {
  return mx::random::uniform(mx::array(low), mx::array(high), shape, mx::float32, init.key());
}

}  // namespace

CausalConv::CausalConv(int channels, int kernel, bool with_bias, Init& init)
    : weight{[&] {
        const float bound = 1 / std::sqrt(static_cast<float>(kernel));
        return uniform({channels, kernel}, -bound, bound, init);
      }()} {
  if (with_bias) bias = Param{zeros({channels})};
}

mx::array CausalConv::operator()(const mx::array& input, const Pass& pass, bool silu,
                                 std::optional<mx::array>& window) const {
  const int B = input.shape(0), L = input.shape(1), C = input.shape(2);
  const int K = weight.value.shape(1);
  const auto tokens = token_columns(pass, L);
  const auto only_tokens = [&](const mx::array& x) {
    return tokens ? mx::where(*tokens, x, mx::array(0.0f, x.dtype())) : x;
  };
  const auto x = only_tokens(input);
  const auto before =
      window ? kernels::cast(*window, x.dtype()) : mx::zeros({B, K - 1, C}, x.dtype());
  // The last K - 1 positions, also of a pass that has fewer. A copy, or the whole pass would be
  // kept for them.
  const auto last = mx::slice(x, {0, std::max(0, L - K + 1), 0}, {B, L, C});
  window = L < K - 1 ? mx::concatenate({mx::slice(before, {0, L, 0}, {B, K - 1, C}), last}, 1)
                     : mx::contiguous(last);
  return only_tokens(kernels::causal_conv(x, before, weight.value,
                                          bias ? std::optional(bias->value) : std::nullopt, silu));
}

GatedNorm::GatedNorm(int dim, float epsilon) : weight{ones({dim})}, eps(epsilon) {}

mx::array GatedNorm::operator()(const mx::array& y, const mx::array& z) const {
  const auto gated = [&](const mx::array& x) {
    return kernels::gated(sigmoid ? kernels::Activation::sigmoid : kernels::Activation::silu,
                          f32(z), x);
  };
  const auto normed = [&](const mx::array& x) {
    if (groups == 1) return kernels::rms_norm(x, f32(weight.value), eps);
    const int width = x.shape(-1) / groups;
    auto shape = x.shape();
    shape.back() = groups, shape.push_back(width);
    const auto parts = kernels::rms_norm(mx::reshape(x, shape), ones({width}), eps);
    return mx::multiply(mx::reshape(parts, x.shape()), f32(weight.value));
  };
  return kernels::cast(gate_first ? normed(gated(f32(y))) : gated(normed(f32(y))), z.dtype());
}

mx::array unit_length(const mx::array& x, float factor) {
  // The mean of squares instead of their sum: what is divided by n is made up for by the weight.
  const auto n = static_cast<float>(x.shape(-1));
  const auto weight = mx::full({x.shape(-1)}, factor / std::sqrt(n), mx::float32);
  return kernels::rms_norm(f32(x), weight, 1e-6f / n);
}

mx::array softplus(const mx::array& x) {
  return kernels::activate(kernels::Activation::softplus, f32(x));
}

mx::array logistic(const mx::array& x) {
  return kernels::activate(kernels::Activation::sigmoid, f32(x));
}

mx::array log_decay(const mx::array& x, const Param& a_log, const Param& bias) {
  const auto rate = mx::negative(mx::exp(f32(a_log.value)));
  return mx::multiply(softplus(kernels::add(f32(x), f32(bias.value))), rate);
}

Param new_log_rates(int n, float low, float high, Init& init) {
  return {mx::log(uniform({n}, low, high, init))};
}

Param new_step_biases(int n, Init& init) {
  const auto dt = mx::exp(uniform({n}, std::log(0.001f), std::log(0.1f), init));
  return {mx::add(dt, mx::log(mx::negative(mx::expm1(mx::negative(dt)))))};
}

mx::array heads_of(const mx::array& x, int from, int heads, int width) {
  const auto some = last_columns(x, from, from + heads * width);
  return mx::swapaxes(mx::reshape(some, {x.shape(0), x.shape(1), heads, width}), 1, 2);
}

mx::array last_columns(const mx::array& x, int from, int to) {
  mx::Shape start(x.ndim(), 0), stop = x.shape();
  start.back() = from, stop.back() = to;
  return mx::slice(x, start, stop);
}

}  // namespace lmxlab::core
