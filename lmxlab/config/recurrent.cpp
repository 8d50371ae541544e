#include "lmxlab/config/mixer.h"

#include <limits>

namespace lmxlab::config {
namespace {

using Parameters = std::vector<std::pair<int64_t, int64_t>>;

/// a * b + more, as one dimension of an array.
int64_t dimension(int64_t a, int64_t b, int64_t more = 0) {
  int64_t out = 0;
  if (__builtin_mul_overflow(a, b, &out) || __builtin_add_overflow(out, more, &out) ||
      out > std::numeric_limits<int32_t>::max())
    throw Error(Kind::usage,
                "[count] a recurrent mixer is wider than an array's dimension can "
                "be. Make its sizes smaller.");
  return out;
}

void linear(Parameters& to, int64_t in, int64_t out, bool bias) {
  to.emplace_back(in, out);
  if (bias) to.emplace_back(1, out);
}

}  // namespace

RecurrentSize size_of(const Mamba2& m, int dim) {
  const int64_t inner = dimension(m.heads, m.head_dim);
  const int64_t channels = dimension(2, dimension(m.groups, m.state), inner);
  RecurrentSize s{
      .window = {m.conv - 1, channels}, .state = {m.heads, m.state, m.head_dim}, .products = 2};
  auto& p = s.parameters;
  linear(p, dim, dimension(1, channels, inner + m.heads), m.in_bias);
  linear(p, m.conv, channels, m.conv_bias);
  p.emplace_back(3, m.heads);  // A_log, dt_bias, D
  if (m.norm) p.emplace_back(1, inner);
  linear(p, inner, dim, m.out_bias);
  return s;
}

RecurrentSize size_of(const GatedDelta& m, int dim) {
  const int64_t keys = dimension(m.key_heads, m.key_dim);
  const int64_t values = dimension(m.heads, m.value_dim);
  const int64_t channels = dimension(2, keys, values);
  RecurrentSize s{
      .window = {m.conv - 1, channels}, .state = {m.heads, m.key_dim, m.value_dim}, .products = 3};
  auto& p = s.parameters;
  linear(p, dim, dimension(1, channels, values), false);  // q, k, v, z
  linear(p, dim, dimension(2, m.heads), false);           // b, a
  linear(p, m.conv, channels, false);
  p.emplace_back(2, m.heads);  // A_log, dt_bias
  p.emplace_back(1, m.value_dim);
  linear(p, values, dim, false);
  return s;
}

RecurrentSize size_of(const ShortConv& m, int dim) {
  RecurrentSize s{.window = {m.conv - 1, dim}};
  linear(s.parameters, dim, dimension(3, dim), m.bias);
  linear(s.parameters, m.conv, dim, m.bias);
  linear(s.parameters, dim, dim, m.bias);
  return s;
}

RecurrentSize size_of(const KimiDelta& m, int dim) {
  const int64_t inner = dimension(m.heads, m.head_dim), channels = dimension(3, inner);
  RecurrentSize s{
      .window = {m.conv - 1, channels}, .state = {m.heads, m.head_dim, m.head_dim}, .products = 3};
  auto& p = s.parameters;
  linear(p, dim, channels, false);
  linear(p, dim, m.heads, false);  // beta
  for (int i = 0; i < 2; ++i) {    // decays, gate
    if (m.low_rank) linear(p, dim, m.head_dim, false);
    linear(p, m.low_rank ? m.head_dim : dim, inner, false);
  }
  linear(p, m.conv, channels, false);
  p.emplace_back(1, m.heads), p.emplace_back(1, inner);  // A_log, dt_bias
  p.emplace_back(1, m.head_dim);
  linear(p, inner, dim, false);
  return s;
}

RecurrentSize size_of(const Mamba& m, int dim) {
  RecurrentSize s{.window = {m.conv - 1, m.inner}, .state = {1, m.inner, m.state}, .products = 2};
  auto& p = s.parameters;
  linear(p, dim, dimension(2, m.inner), m.bias);
  linear(p, m.conv, m.inner, m.conv_bias);
  const int64_t made = dimension(2, m.state, m.dt_rank);
  linear(p, m.inner, made, false);
  linear(p, m.dt_rank, m.inner, true);
  p.emplace_back(m.inner, m.state), p.emplace_back(1, m.inner);  // A_log, D
  if (m.norms == MambaNorms::learned) p.emplace_back(1, made);
  linear(p, m.inner, dim, m.bias);
  return s;
}

RecurrentSize size_of(const Lightning& m, int dim) {
  const int64_t inner = dimension(m.heads, m.head_dim);
  RecurrentSize s{.state = {m.heads, m.head_dim, m.head_dim}, .products = 2};
  // Keys and values of a block that is not full.
  if (m.decays != Decays::exact) s.window = {m.block - 1, dimension(2, inner)};
  linear(s.parameters, dim, dimension(4, inner), false);  // q, k, v, gate
  s.parameters.emplace_back(1, inner);
  linear(s.parameters, inner, dim, false);
  return s;
}

RecurrentSize size_of(const RgLru& m, int dim) {
  RecurrentSize s{.window = {m.conv - 1, m.width}, .state = {1, 1, m.width}, .products = 2};
  auto& p = s.parameters;
  for (int i = 0; i < 2; ++i) linear(p, dim, m.width, true);  // x, y
  linear(p, m.conv, m.width, true);
  const int64_t of_a_head = m.heads > 0 ? m.width / m.heads : 0;
  for (int i = 0; i < 2; ++i) linear(p, of_a_head, m.width, true);  // the gates
  p.emplace_back(1, m.width);
  linear(p, m.width, dim, true);
  return s;
}

RecurrentSize size_of(const RwkvTime& m, int dim) {
  RecurrentSize s{.window = {1, dim}, .state = {1, 2, m.inner}, .beside = m.inner, .products = 2};
  auto& p = s.parameters;
  linear(p, dim, dimension(3, m.inner), false);        // k, v, r
  p.emplace_back(3, dim), p.emplace_back(2, m.inner);  // mixes; time_decay, time_first
  linear(p, m.inner, dim, false);
  return s;
}

RecurrentSize size_of(const RwkvChannel& m, int dim) {
  RecurrentSize s{.window = {1, dim}};
  linear(s.parameters, dim, m.hidden, false);
  if (m.gate) linear(s.parameters, dim, dim, false);
  s.parameters.emplace_back(m.gate ? 2 : 1, dim);
  linear(s.parameters, m.hidden, dim, false);
  return s;
}

RecurrentSize size_of(const Rwkv7& m, int dim) {
  const int64_t inner = dimension(m.heads, m.head_dim);
  RecurrentSize s{.window = {1, dim}, .state = {m.heads, m.head_dim, m.head_dim}, .products = 4};
  auto& p = s.parameters;
  linear(p, dim, dimension(3, inner), false);  // r, k, v
  const auto low_rank = [&](int rank, bool bias) {
    linear(p, dim, rank, false), linear(p, rank, inner, bias);
  };
  low_rank(m.decay_rank, true), low_rank(m.rate_rank, true), low_rank(m.gate_rank, false);
  if (m.values_from) low_rank(m.value_rank, true);
  p.emplace_back(6, dim), p.emplace_back(5, inner);  // mixes; k_k, k_a, r_k, the norm's
  linear(p, inner, dim, false);
  return s;
}

RecurrentSize size_of(const Mamba3& m, int dim) {
  const int64_t inner = dimension(m.heads, m.head_dim), keys = dimension(m.groups, m.state);
  RecurrentSize s{.state = {m.heads, m.state, m.head_dim},
                  .beside = m.heads * (int64_t{m.state} + m.head_dim + m.angles),
                  .products = 3};
  auto& p = s.parameters;
  const int64_t made = dimension(2, inner, dimension(2, keys, int64_t{3} * m.heads + m.angles));
  linear(p, dim, made, false);
  p.emplace_back(2, m.heads);                         // dt_bias, D
  p.emplace_back(2 * int64_t{m.heads} + 2, m.state);  // of B and C: biases, norms
  if (m.norm) p.emplace_back(1, inner);
  linear(p, inner, dim, false);
  return s;
}

RecurrentSize size_of(const Mlstm& m, int dim) {
  const int64_t keys = dimension(m.heads, m.key_dim), values = dimension(m.heads, m.value_dim);
  RecurrentSize s{.state = {m.heads, m.key_dim, dimension(1, m.value_dim, 1)},
                  .beside = m.heads,
                  .products = 2};
  auto& p = s.parameters;
  linear(p, dim, dimension(2, keys), false);
  linear(p, dim, dimension(2, values), false);  // v, gate
  linear(p, dim, dimension(2, m.heads), true);  // i, f
  p.emplace_back(1, values);
  linear(p, values, dim, false);
  return s;
}

std::optional<RecurrentSize> recurrent_size(const Mixer& mixer, int dim) {
  return std::visit(
      [&](const auto& m) -> std::optional<RecurrentSize> {
        if constexpr (requires { size_of(m, dim); }) return size_of(m, dim);
        return std::nullopt;
      },
      mixer);
}

}  // namespace lmxlab::config
