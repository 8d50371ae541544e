#include "lmxlab/core/mask.h"

#include <mlx/ops.h>

namespace lmxlab::core {

mx::array query_positions(const Pass& pass, int length) {
  const auto p = mx::arange(pass.offset, pass.offset + length, mx::int32);
  if (pass.starts) return mx::subtract(mx::expand_dims(p, 0), *pass.starts);
  if (!pass.pads) return p;
  return mx::subtract(mx::expand_dims(p, 0), mx::expand_dims(*pass.pads, 1));
}

std::optional<mx::array> token_columns(const Pass& pass, int length) {
  if (!pass.pads) return std::nullopt;
  return mx::expand_dims(mx::greater_equal(query_positions(pass, length), mx::array(0)), -1);
}

mx::array key_positions(const Keys& keys, int next) {
  const int columns = keys.k.shape(2);
  if (!keys.ring) return mx::arange(keys.start, keys.start + columns, mx::int32);
  // Column j of a full ring of S columns: the largest p < next with p mod S = j.
  const auto back = mx::remainder(mx::subtract(mx::array(next - 1), mx::arange(columns, mx::int32)),
                                  mx::array(columns));
  return mx::subtract(mx::array(next - 1), back);
}

mx::array mask_array(const Pass& pass, int length, const Keys& keys, const Reach& reach) {
  const int next = pass.offset + length;
  const auto q = mx::expand_dims(mx::arange(pass.offset, next, mx::int32), 1);  // [L, 1]
  const auto k = mx::expand_dims(key_positions(keys, next), 0);                 // [1, S]
  auto allowed = mx::less_equal(k, q);
  if (reach.window && !reach.chunked)
    allowed = mx::logical_and(allowed, mx::greater(k, mx::subtract(q, mx::array(*reach.window))));
  if (reach.window && reach.chunked) {  // counted from each row's first position
    const auto chunk = [&](const mx::array& at) {
      auto own = at;
      if (pass.pads) own = mx::subtract(own, mx::reshape(*pass.pads, {-1, 1, 1, 1}));
      return mx::floor_divide(own, mx::array(*reach.window));
    };
    allowed = mx::logical_and(allowed, mx::equal(chunk(q), chunk(k)));
  }
  if (pass.pads) {
    const auto first = mx::reshape(*pass.pads, {-1, 1, 1, 1});
    allowed = mx::logical_and(allowed, mx::greater_equal(mx::expand_dims(k, {0, 1}), first));
  }
  if (pass.starts) {
    const auto first = mx::reshape(*pass.starts, {-1, 1, length, 1});
    allowed = mx::logical_and(allowed, mx::greater_equal(mx::expand_dims(k, {0, 1}), first));
  }
  return allowed;
}

mx::array mask_at(const Pass& pass, const Keys& keys, std::optional<int> window,
                  const mx::array& columns) {
  const int length = columns.shape(1), next = pass.offset + length;
  const auto q = mx::reshape(mx::arange(pass.offset, next, mx::int32), {1, length, 1});
  const auto k = mx::take(key_positions(keys, next), columns);
  auto allowed = mx::less_equal(k, q);
  if (window)
    allowed = mx::logical_and(allowed, mx::greater(k, mx::subtract(q, mx::array(*window))));
  if (!pass.pads) return allowed;
  return mx::logical_and(allowed, mx::greater_equal(k, mx::reshape(*pass.pads, {-1, 1, 1})));
}

kernels::AttentionMask causal_mask(const Pass& pass, std::optional<int> window,
                                   std::optional<float> softcap) {
  return {.causal = true,
          .window = window.value_or(0),
          .softcap = softcap.value_or(0),
          .padding = pass.pads};
}

Mask attention_mask(const Pass& pass, int length, const Keys& keys, const Reach& reach) {
  const auto& window = reach.window;
  const int columns = keys.k.shape(2);
  // A window hides something only if a query is further than that from the first key.
  const bool windowed = window && !(keys.ring && length == 1) &&
                        pass.offset + length - (keys.ring ? 0 : keys.start) > *window;
  if (reach.chunked && window && pass.offset + length > *window)
    return {.kind = Mask::Kind::array, .allowed = mask_array(pass, length, keys, reach)};
  if (!pass.pads && !pass.starts && !windowed && length == 1) return {};
  const bool at_the_end =
      !keys.ring && columns >= length && keys.start + columns == pass.offset + length;
  if (!at_the_end)
    return {.kind = Mask::Kind::array, .allowed = mask_array(pass, length, keys, reach)};
  Mask mask{.kind = Mask::Kind::causal, .window = windowed ? *window : 0};
  if (pass.starts) mask.padding = pass.starts;
  if (pass.pads)
    mask.padding = mx::maximum(mx::subtract(*pass.pads, mx::array(keys.start)), mx::array(0));
  return mask;
}

}  // namespace lmxlab::core
